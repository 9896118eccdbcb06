//! What a walk through the rules does not show: hosts that nobody has, and rules for others.

use crate::api::routes::Fact;
use crate::mesh::route::explain;
use crate::mesh::world::Rule;
use crate::mesh::{Hostname, Node, World};
use crate::resource::nearest;

use super::super::{find_service, short};

/// What was perhaps meant by a host that nobody has.
pub(super) fn meant(world: &World, authority: &str, port: u16, namespace: &str) -> Vec<String> {
    let services = &world.config.services;
    let name = authority.split(':').next().unwrap_or(authority);
    if let Some(service) = find_service(world, name, namespace) {
        let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
        if !service.ports.iter().any(|known| known.port == port) {
            return vec![format!(
                "{} has no port {port}, but {}",
                short(service),
                ports.join(", ")
            )];
        }
    }
    let bare = name.split('.').next().unwrap_or(name);
    let elsewhere: Vec<String> = services
        .values()
        .filter(|service| service.name == bare)
        .map(|service| short(service))
        .collect();
    if !elsewhere.is_empty() {
        return elsewhere;
    }
    let names = services.values().map(|service| service.name.as_str());
    let full = services.keys().map(Hostname::as_str);
    let near = nearest(bare, names).or_else(|| nearest(name, full));
    near.into_iter()
        .flat_map(|near| {
            let named = services
                .values()
                .filter(move |service| service.name == near || service.host.as_str() == near);
            named.map(|service| short(service))
        })
        .collect()
}

/// Rules for `host` that `node` does not get for `port`, and why.
pub(super) fn left_out(world: &World, node: &Node, host: &Hostname, port: u16) -> Vec<Fact> {
    let written = world.config.routes.iter();
    let covering = written
        .filter(|(name, _)| name.covers(host))
        .max_by_key(|(name, _)| (*name == host, name.as_str().len()));
    let Some((_, routes)) = covering else {
        return Vec::new();
    };
    if !routes.export.is_empty() && !routes.export.contains(&node.namespace) {
        let to: Vec<&str> = routes.export.iter().map(String::as_str).collect();
        let words = format!("exported to {} only", to.join(", "));
        return vec![Fact::new("all rules", words, Some(&routes.origin))];
    }
    let rules = routes.rules.iter().filter_map(|rule| {
        let reasons = reasons(rule, node, port)?;
        let name = explain::label(&rule.route);
        Some(Fact::new(&name, reasons, Some(&rule.route.origin)))
    });
    rules.collect()
}

/// Why `rule` is not for calls of `node` to `port`; none where it is.
pub(super) fn reasons(rule: &Rule, node: &Node, port: u16) -> Option<String> {
    let source = &rule.source;
    let mut reasons = Vec::new();
    if let Some(only) = rule.port.filter(|only| *only != port) {
        reasons.push(format!("for port {only}"));
    }
    if let Some(only) = source
        .namespace
        .as_ref()
        .filter(|ns| **ns != node.namespace)
    {
        reasons.push(format!("for callers in namespace {only}"));
    }
    let missing = source
        .labels
        .iter()
        .filter(|(key, value)| node.labels.get(*key) != Some(*value));
    reasons.extend(missing.map(|(key, value)| format!("for callers with {key}={value}")));
    (!reasons.is_empty()).then(|| reasons.join(" and "))
}
