//! Services, endpoints and registered instances.

use crate::api::ejections::EjectedBy;
use crate::api::registry::{EndpointReport, InstanceReport, ServiceReport};
use crate::mesh::Health;

use super::{Cell, Column, Grid, Page, Render, Tone, mixed, number};

impl Render for Vec<ServiceReport> {
    fn text(&self, page: &Page) -> String {
        let namespaces = page.wide || mixed(self.iter().map(|row| row.namespace.as_str()));
        let mut grid = Grid::new([
            Column::text("NAMESPACE").when(namespaces),
            Column::long("NAME"),
            Column::long("PORTS"),
            Column::text("READY"),
            Column::long("VERSIONS"),
            Column::text("MTLS"),
            Column::long("ADDRESSES").when(page.wide),
            Column::long("HOST").when(page.wide),
        ]);
        for row in self {
            let ports: Vec<String> = row
                .ports
                .iter()
                .map(|port| {
                    let target = if page.wide && port.target != port.port.to_string() {
                        format!("→{}", port.target)
                    } else {
                        String::new()
                    };
                    format!("{}{target}/{}", port.port, port.protocol)
                })
                .collect();
            let versions: Vec<String> = row
                .versions
                .iter()
                .map(|(version, count)| format!("{version}×{count}"))
                .collect();
            let mtls = match row.mtls.as_str() {
                "strict" => Tone::Good,
                "disable" | "mixed" => Tone::Warn,
                _ => Tone::Plain,
            };
            grid.row([
                row.namespace.as_str().into(),
                row.name.as_str().into(),
                Cell::or_dash(&ports.join(" ")),
                ready(row.ready, row.instances),
                Cell::or_dash(&versions.join(" ")),
                Cell::new(&*row.mtls, mtls),
                Cell::or_dash(&row.addresses.join(" ")),
                row.host.as_str().into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter()
            .map(|row| format!("{}.{}", row.name, row.namespace))
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No services found")
    }
}

impl Render for Vec<EndpointReport> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("SERVICE"),
            Column::number("PORT"),
            Column::text("ADDRESS"),
            Column::text("VERSION"),
            Column::text("HEALTH"),
            Column::text("MTLS"),
            Column::number("WEIGHT").when(page.wide),
            Column::long("INSTANCE").when(page.wide),
            Column::long("EJECTED BY").when(self.iter().any(|row| !row.ejected_by.is_empty())),
        ]);
        for row in self {
            grid.row([
                row.service.as_str().into(),
                row.port.to_string().into(),
                row.address.as_str().into(),
                Cell::or_dash(&row.version),
                health(row.health),
                yes(row.mtls),
                row.weight.to_string().into(),
                row.instance.as_str().into(),
                ejected(&row.ejected_by, page),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.address.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No endpoints found")
    }
}

impl Render for Vec<InstanceReport> {
    fn text(&self, page: &Page) -> String {
        let namespaces = mixed(self.iter().map(|row| row.instance.namespace.as_str()));
        let mut grid = Grid::new([
            Column::text("NAMESPACE").when(page.wide || namespaces),
            Column::long("NAME"),
            Column::long("WORKLOAD"),
            Column::text("VERSION"),
            Column::text("ADDRESS"),
            Column::text("HEALTH"),
            Column::number("SEEN"),
            Column::number("EXPIRES"),
            Column::long("LABELS").when(page.wide),
        ]);
        for row in self {
            let instance = &row.instance;
            let labels: Vec<String> = instance
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let expires = match row.expires_unix_ms {
                0 => "never".to_owned(),
                then => number::until(then, page.now_unix_ms),
            };
            grid.row([
                instance.namespace.as_str().into(),
                instance.name.as_str().into(),
                instance.workload.as_str().into(),
                instance.canonical_revision().into(),
                instance.address.to_string().into(),
                health(instance.health),
                number::age(row.seen_unix_ms, page.now_unix_ms).into(),
                expires.into(),
                Cell::or_dash(&labels.join(" ")),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter()
            .map(|row| format!("{}.{}", row.instance.name, row.instance.namespace))
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No instances are registered")
    }
}

/// `2/3`, in the colour of how good that is.
pub(crate) fn ready(ready: usize, all: usize) -> Cell {
    let tone = if ready == 0 {
        Tone::Bad
    } else if ready < all {
        Tone::Warn
    } else {
        Tone::Plain
    };
    Cell::new(format!("{ready}/{all}"), tone)
}

/// Who leaves it out and how long yet; on a wide page each one, with why and since when.
fn ejected(by: &[EjectedBy], page: &Page) -> Cell {
    let Some(last) = by.iter().max_by_key(|one| one.until_unix_ms) else {
        return Cell::or_dash("");
    };
    // Who is late to say that it is over has said so by the next second.
    let left =
        |one: &EjectedBy| number::until(one.until_unix_ms.max(page.now_unix_ms), page.now_unix_ms);
    let text = match by {
        _ if page.wide => {
            let each = by.iter().map(|one| {
                let since = number::age(one.since_unix_ms, page.now_unix_ms);
                format!(
                    "{} ({}, {since} ago, {} left)",
                    one.proxy,
                    one.reason,
                    left(one)
                )
            });
            each.collect::<Vec<_>>().join("; ")
        }
        [one] if one.workload.is_empty() => format!("{}, {} left", one.proxy, left(one)),
        [one] => format!("{}, {} left", one.workload, left(one)),
        several => format!("{} proxies, {} left", several.len(), left(last)),
    };
    Cell::new(text, Tone::Bad)
}

fn health(health: Health) -> Cell {
    match health {
        Health::Healthy => Cell::new("healthy", Tone::Good),
        Health::Unhealthy => Cell::new("unhealthy", Tone::Bad),
        Health::Degraded => Cell::new("degraded", Tone::Warn),
        Health::Draining => Cell::new("draining", Tone::Warn),
    }
}

fn yes(value: bool) -> Cell {
    if value {
        "yes".into()
    } else {
        Cell::new("no", Tone::Warn)
    }
}
