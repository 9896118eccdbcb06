//! Configuration: what an apply did, objects, history, findings.

use serde_json::Value;

use crate::api::resources::{
    ApplyReport, Convergence, HistoryEntry, ObjectOutcome, Outcome, ResourceReport,
};
use crate::mesh::{Finding, Severity};

use super::{Cell, Column, Grid, Page, Paint, Render, mixed, number};

/// `virtualservice/reviews`.
pub(crate) fn object_name(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_ascii_lowercase())
}

pub(crate) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
    }
}

/// `reviews.yaml:14:9: warning [IST0101] spec.http[0]: message` and the hint on a line of its own.
pub(crate) fn finding(finding: &Finding, paint: Paint) -> String {
    let severity = match finding.severity {
        Severity::Info => paint.hint("info"),
        Severity::Warning => paint.warn("warning"),
        Severity::Error => paint.bad("error"),
    };
    let mut text = String::new();
    let place = finding.origin.to_string();
    if !place.is_empty() {
        text.push_str(&paint.strong(format!("{place}:")));
        text.push(' ');
    }
    text.push_str(&format!("{severity} [{}] ", finding.code));
    if !finding.path.is_empty() {
        text.push_str(&format!("{}: ", finding.path));
    }
    text.push_str(&finding.message);
    if let Some(hint) = &finding.hint {
        text.push_str(&format!("\n  {} {hint}", paint.hint("hint:")));
    }
    text
}

/// `acknowledged by 6 of 6 proxies, median 12ms, last 31ms`.
pub(crate) fn convergence(convergence: &Convergence) -> String {
    if convergence.proxies == 0 {
        return "no proxy is connected".to_owned();
    }
    let mut text = format!(
        "acknowledged by {} of {} proxies",
        convergence.acknowledged, convergence.proxies
    );
    if convergence.acknowledged > 0 {
        text.push_str(&format!(
            ", median {}, last {}",
            ms(convergence.median_ms),
            ms(convergence.last_ms)
        ));
    }
    text
}

fn ms(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.1} ms")
    } else {
        format!("{value:.0} ms")
    }
}

impl Render for ApplyReport {
    fn text(&self, _: &Page) -> String {
        let several = mixed(self.objects.iter().map(|object| object.namespace.as_str()));
        let mut text = String::new();
        for object in &self.objects {
            let namespace = if several && !object.namespace.is_empty() {
                format!(" in {}", object.namespace)
            } else {
                String::new()
            };
            text.push_str(&format!(
                "{} {}{namespace}\n",
                object_name(&object.kind, &object.name),
                outcome(object.outcome)
            ));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        names(&self.objects)
    }
}

fn names(objects: &[ObjectOutcome]) -> Vec<String> {
    objects
        .iter()
        .map(|object| object_name(&object.kind, &object.name))
        .collect()
}

impl Render for Vec<ResourceReport> {
    fn text(&self, page: &Page) -> String {
        let namespaces = page.wide || mixed(self.iter().map(|row| row.namespace.as_str()));
        let kinds = mixed(self.iter().map(|row| row.kind.as_str()));
        let mut grid = Grid::new([
            Column::text("NAMESPACE").when(namespaces),
            Column::text("KIND").when(kinds),
            Column::long("NAME"),
            Column::long("ABOUT"),
            Column::number("REVISION"),
            Column::number("AGE"),
        ]);
        for row in self {
            grid.row([
                row.namespace.as_str().into(),
                row.kind.as_str().into(),
                row.name.as_str().into(),
                Cell::or_dash(&about(&row.kind, &row.object)),
                row.revision.to_string().into(),
                number::age(row.created_unix_ms, page.now_unix_ms).into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter()
            .map(|row| object_name(&row.kind, &row.name))
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No resources found")
    }
}

/// The part of an object that tells it from others of its kind.
fn about(kind: &str, object: &Value) -> String {
    let spec = |path: &str| object.pointer(&format!("/spec{path}"));
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let list = |value: Option<&Value>, part: &str| -> Vec<String> {
        value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|item| {
                text(if part.is_empty() {
                    Some(item)
                } else {
                    item.get(part)
                })
            })
            .filter(|item| !item.is_empty())
            .collect()
    };
    let named = |name: &str, items: Vec<String>| {
        if items.is_empty() {
            String::new()
        } else {
            format!("{name} {}", items.join(","))
        }
    };
    let parts = match kind {
        "VirtualService" => vec![
            named("hosts", list(spec("/hosts"), "")),
            named("gateways", list(spec("/gateways"), "")),
        ],
        "DestinationRule" => vec![
            named("host", vec![text(spec("/host"))]),
            named("subsets", list(spec("/subsets"), "name")),
        ],
        "Service" => vec![
            text(spec("/type")),
            named("ports", list(spec("/ports"), "port")),
        ],
        "Deployment" | "StatefulSet" => {
            let replicas = spec("/replicas").and_then(Value::as_u64).unwrap_or(1);
            vec![
                format!("replicas {replicas}"),
                named(
                    "containers",
                    list(spec("/template/spec/containers"), "name"),
                ),
            ]
        }
        "PeerAuthentication" => vec![named("mtls", vec![text(spec("/mtls/mode"))])],
        "RequestAuthentication" => {
            vec![named("issuers", list(spec("/jwtRules"), "issuer"))]
        }
        "AuthorizationPolicy" => vec![
            named("action", vec![text(spec("/action"))]),
            format!(
                "rules {}",
                spec("/rules").and_then(Value::as_array).map_or(0, Vec::len)
            ),
        ],
        "ServiceEntry" => vec![named("hosts", list(spec("/hosts"), ""))],
        "GatewayClass" => vec![named("controller", vec![text(spec("/controllerName"))])],
        "Gateway.gateway.networking.k8s.io" => vec![
            named("class", vec![text(spec("/gatewayClassName"))]),
            named("listeners", list(spec("/listeners"), "name")),
        ],
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" => vec![
            named("hosts", list(spec("/hostnames"), "")),
            named("parents", list(spec("/parentRefs"), "name")),
        ],
        "TCPRoute" => vec![named("parents", list(spec("/parentRefs"), "name"))],
        "BackendTLSPolicy" => vec![
            named("targets", list(spec("/targetRefs"), "name")),
            named("hostname", vec![text(spec("/validation/hostname"))]),
        ],
        "Ingress" => vec![
            named("class", vec![text(spec("/ingressClassName"))]),
            named("hosts", list(spec("/rules"), "host")),
        ],
        "IngressClass" => vec![named("controller", vec![text(spec("/controller"))])],
        "Canary" => vec![
            named("service", vec![text(spec("/service"))]),
            named("to", vec![text(spec("/to"))]),
        ],
        "TrafficSplit" => vec![
            named("service", vec![text(spec("/service"))]),
            named("backends", list(spec("/backends"), "service")),
        ],
        "ServiceProfile" => vec![named("routes", list(spec("/routes"), "name"))],
        "Sidecar" => vec![named("egress", list(spec("/egress/0/hosts"), ""))],
        _ => Vec::new(),
    };
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|part| !part.is_empty() && !part.ends_with(' '))
        .collect();
    parts.join("; ")
}

impl Render for Vec<HistoryEntry> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::number("REVISION"),
            Column::number("AGE"),
            Column::text("WHEN").when(page.wide),
            Column::text("WHO"),
            Column::long("WHAT"),
            Column::long("OBJECTS"),
        ]);
        for row in self {
            let objects: Vec<String> = row
                .objects
                .iter()
                .map(|object| {
                    format!(
                        "{} {}",
                        object_name(&object.kind, &object.name),
                        outcome(object.outcome)
                    )
                })
                .collect();
            let few = match objects.as_slice() {
                all if page.wide || all.len() <= 2 => all.join(", "),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
                [] => String::new(),
            };
            grid.row([
                row.revision.to_string().into(),
                number::age(row.at_unix_ms, page.now_unix_ms).into(),
                number::moment(row.at_unix_ms).into(),
                Cell::or_dash(&row.who),
                Cell::or_dash(&row.what),
                Cell::or_dash(&few),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.revision.to_string()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No changes yet")
    }
}
