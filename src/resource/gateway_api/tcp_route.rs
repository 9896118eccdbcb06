//! TCPRoute, and what TLSRoute has in common with it.

use super::filters::RouteFilters;
use super::reference::{ParentRef, RouteBackend, parents, route_backend};
use crate::resource::reader::{Fields, Value};

/// A TCPRoute: connections by the port that they come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TcpRoute {
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Where connections go.
    pub backends: Vec<RouteBackend>,
}

pub(in crate::resource) fn tcp_route(fields: &Fields<'_>) -> TcpRoute {
    let Some(spec) = fields.require("spec") else {
        return TcpRoute::default();
    };
    let spec = spec.fields();
    let route = TcpRoute {
        parents: parents(&spec),
        backends: only_rule(&spec, backends),
    };
    spec.finish();
    route
}

/// The one rule of a route of connections: nothing would tell a second from it.
pub(super) fn only_rule<T: Default>(spec: &Fields<'_>, read: impl Fn(&Value<'_>) -> T) -> T {
    let rules = spec.list("rules");
    if rules.len() != 1 {
        spec.value.error_hint(
            format!("{} rules are one too many or too few", rules.len()),
            "rules: [{backendRefs: [{name: …, port: …}]}]; write a route for each other",
        );
    }
    rules.first().map(read).unwrap_or_default()
}

pub(super) fn backends(rule: &Value<'_>) -> Vec<RouteBackend> {
    let fields = rule.fields();
    fields.ignore(
        "name",
        "nothing of ours goes by the names of rules for connections",
    );
    let written = fields.list("backendRefs");
    if written.is_empty() {
        rule.error_hint(
            "a rule for connections needs a backend",
            "backendRefs: [{name: …, port: …}]",
        );
    }
    let found = written
        .iter()
        .filter_map(|value| route_backend(value, |_| RouteFilters::default()))
        .collect();
    fields.finish();
    found
}
