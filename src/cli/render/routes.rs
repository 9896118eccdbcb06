//! Route tables.

use crate::api::routes::RouteReport;

use super::registry::ready;
use super::{Cell, Column, Grid, Page, Render, Tone, number};

impl Render for Vec<RouteReport> {
    fn text(&self, page: &Page) -> String {
        let outside = self.iter().any(|route| !route.gateway.is_empty());
        let mut grid = Grid::new([
            Column::long(if outside { "HOST" } else { "SERVICE" }),
            Column::long("MATCH"),
            Column::long("BACKEND"),
            Column::number("WEIGHT"),
            Column::number("SHARE"),
            Column::number("MEASURED"),
            Column::text("READY"),
            Column::number("TIMEOUT").when(page.wide),
            Column::number("RETRIES").when(page.wide),
            Column::long("ORIGIN").when(page.wide),
        ]);
        // The port is worth its place only where a service has several.
        let several = |service: &str| {
            let mut ports = self.iter().filter(|route| route.service == service);
            let first = ports.next().map(|route| route.port);
            page.wide || ports.any(|route| Some(route.port) != first)
        };
        let mut last_service = String::new();
        for route in self {
            let service = if several(&route.service) {
                format!("{}:{}", route.service, route.port)
            } else {
                route.service.clone()
            };
            let shown = if service == last_service {
                String::new()
            } else {
                service.clone()
            };
            last_service = service;
            let head = [Cell::from(shown), Cell::from(conditions(route))];
            let tail = [
                Cell::maybe(route.timeout_ms, |ms| format!("{ms}ms")),
                Cell::from(route.retries.to_string()),
                Cell::new(
                    if route.origin.is_empty() {
                        "default"
                    } else {
                        &route.origin
                    },
                    Tone::Faint,
                ),
            ];
            if route.backends.is_empty() {
                let middle = [
                    Cell::from(route.action.as_str()),
                    Cell::or_dash(""),
                    Cell::or_dash(""),
                    Cell::or_dash(""),
                    Cell::or_dash(""),
                ];
                grid.row(
                    head.into_iter()
                        .chain(middle)
                        .chain(tail)
                        .collect::<Vec<_>>(),
                );
                continue;
            }
            let mut head = head;
            for backend in &route.backends {
                let middle = [
                    Cell::new(
                        name(&backend.service, &backend.subset, &route.service),
                        if backend.invalid.is_some() {
                            Tone::Bad
                        } else {
                            Tone::Plain
                        },
                    ),
                    backend.weight.to_string().into(),
                    number::share(backend.share_percent).into(),
                    Cell::maybe(backend.measured_percent, number::share),
                    ready(backend.ready, backend.endpoints),
                ];
                let head = std::mem::take(&mut head);
                grid.row(
                    head.into_iter()
                        .chain(middle)
                        .chain(tail.clone())
                        .collect::<Vec<_>>(),
                );
            }
            let faults = route.faults.iter().map(|fault| {
                let what = Cell::new(fault.what.as_str(), Tone::Warn);
                (what, fault.percent)
            });
            let mirrors = route.mirrors.iter().map(|mirror| {
                let to = name(&mirror.service, &mirror.subset, &route.service);
                let tone = if mirror.invalid.is_some() {
                    Tone::Bad
                } else {
                    Tone::Faint
                };
                (Cell::new(format!("mirror {to}"), tone), mirror.percent)
            });
            for (what, percent) in faults.chain(mirrors) {
                let middle = [
                    what,
                    Cell::or_dash(""),
                    number::share(percent).into(),
                    Cell::or_dash(""),
                    Cell::or_dash(""),
                ];
                let head = <[Cell; 2]>::default();
                grid.row(
                    head.into_iter()
                        .chain(middle)
                        .chain(tail.clone())
                        .collect::<Vec<_>>(),
                );
            }
        }
        let mut text = grid.draw(page);
        for route in self {
            let backends = route
                .backends
                .iter()
                .map(|backend| (&backend.service, &backend.subset, &backend.invalid));
            let mirrors = route
                .mirrors
                .iter()
                .map(|mirror| (&mirror.service, &mirror.subset, &mirror.invalid));
            for (service, subset, invalid) in backends.chain(mirrors) {
                let Some(reason) = invalid else { continue };
                let label = page.paint.bad("invalid:");
                text.push_str(&format!(
                    "{label} {} of {}\n  {reason}\n",
                    name(service, subset, &route.service),
                    if route.origin.is_empty() {
                        &route.service
                    } else {
                        &route.origin
                    },
                ));
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.iter().map(|route| route.service.clone()).collect();
        names.dedup();
        names
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No routes found")
    }
}

fn conditions(route: &RouteReport) -> String {
    if route.matches.is_empty() {
        "everything".to_owned()
    } else {
        route.matches.join(" and ")
    }
}

/// The subset alone where the service is the one that was called.
fn name(service: &str, subset: &str, called: &str) -> String {
    match (subset, service == called) {
        ("", _) => service.to_owned(),
        (subset, true) => subset.to_owned(),
        (subset, false) => format!("{service} {subset}"),
    }
}
