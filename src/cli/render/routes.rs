//! Route tables, and why a request goes where it goes.

use crate::api::routes::{ExplainReport, RouteReport};

use super::registry::ready;
use super::{Cell, Column, Grid, Page, Render, Tone, number};

impl Render for Vec<RouteReport> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("SERVICE"),
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

impl Render for ExplainReport {
    fn text(&self, page: &Page) -> String {
        let paint = page.paint;
        let mark = |holds: bool| {
            if holds {
                paint.good("✓ true ")
            } else {
                paint.bad("✗ false")
            }
        };
        let mut text = format!("From    {}\nTable   {}\n", self.from, self.table);
        match &self.host {
            Some(host) => text.push_str(&format!("Host    {host}\n")),
            None => text.push_str("Host    none: nothing in this table serves the host\n"),
        }
        text.push('\n');
        for route in &self.routes {
            let name = if route.name.is_empty() {
                String::new()
            } else {
                format!(" {:?}", route.name)
            };
            let verdict = if route.matched {
                paint.good("matched")
            } else {
                paint.faint("not matched")
            };
            text.push_str(&format!("Route {}{name}: {verdict}\n", route.index));
            if route.conditions.is_empty() {
                text.push_str(&format!("  {}  matches everything\n", mark(true)));
            }
            for condition in &route.conditions {
                text.push_str(&format!(
                    "  {}  {}\n",
                    mark(condition.holds),
                    condition.text
                ));
            }
        }
        if !self.routes.is_empty() {
            text.push('\n');
        }
        if let Some(outcome) = &self.outcome {
            outcome_text(outcome, self, page, &mut text);
        }
        if let Some(answer) = &self.answer {
            text.push_str(&format!("Answer  {}\n", paint.warn(answer)));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.outcome
            .iter()
            .flat_map(|outcome| &outcome.backends)
            .map(|backend| backend.cluster.clone())
            .collect()
    }
}

fn outcome_text(outcome: &RouteReport, report: &ExplainReport, page: &Page, text: &mut String) {
    text.push_str(&format!("Action  {}\n", outcome.action));
    if let Some(timeout) = outcome.timeout_ms {
        text.push_str(&format!("Timeout {timeout}ms\n"));
    }
    if outcome.retries > 0 {
        text.push_str(&format!("Retries {}\n", outcome.retries));
    }
    for fault in &outcome.faults {
        let share = number::share(fault.percent);
        text.push_str(&format!("Fault   {}, {share} of requests\n", fault.what));
    }
    if !outcome.origins.is_empty() {
        let origins = outcome.origins.join(" or ");
        text.push_str(&format!("CORS    origin {origins}\n"));
    }
    for mirror in &outcome.mirrors {
        let to = name(&mirror.service, &mirror.subset, "");
        let share = number::share(mirror.percent);
        let missing = mirror.invalid.as_deref();
        let missing = missing.map_or_else(String::new, |why| format!(" ({})", page.paint.bad(why)));
        text.push_str(&format!("Mirror  {to}, {share} of requests{missing}\n"));
    }
    let origin = if outcome.origin.is_empty() {
        "default route"
    } else {
        &outcome.origin
    };
    text.push_str(&format!("Origin  {origin}\n"));
    if outcome.backends.is_empty() {
        return;
    }
    text.push('\n');
    let mut grid = Grid::new([
        Column::long("BACKEND"),
        Column::number("WEIGHT"),
        Column::number("SHARE"),
        Column::text("READY"),
        Column::long("ENDPOINTS"),
    ]);
    for (at, backend) in outcome.backends.iter().enumerate() {
        let endpoints: Vec<&str> = report
            .endpoints
            .get(at)
            .into_iter()
            .flatten()
            .map(|endpoint| endpoint.address.as_str())
            .collect();
        let shown = match (&backend.invalid, endpoints.is_empty()) {
            (Some(reason), _) => Cell::new(reason.as_str(), Tone::Bad),
            (None, true) => Cell::new("none", Tone::Bad),
            (None, false) => endpoints.join(" ").into(),
        };
        let full = if backend.subset.is_empty() {
            backend.service.clone()
        } else {
            format!("{} {}", backend.service, backend.subset)
        };
        grid.row([
            full.into(),
            backend.weight.to_string().into(),
            number::share(backend.share_percent).into(),
            ready(backend.ready, backend.endpoints),
            shown,
        ]);
    }
    text.push_str(&grid.draw(page));
}
