//! Targets of one rule for bytes that are asked for as forward proxies, each in its own way.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::mesh::destinations::Caller;
use crate::mesh::world::{Config, StreamRule};
use crate::mesh::{Finding, Severity};
use crate::resource::codes;

/// A connection is carried in one way, whichever target it is for. Who would have it otherwise is told;
/// until then nobody gets through.
pub(super) fn check(config: &Config, findings: &mut Vec<Finding>) {
    let mut rules = config.destinations.all();
    let tunnelled = rules.any(|rule| {
        let subsets = rule.subsets.values();
        let mut policies = std::iter::once(&rule.policy).chain(subsets.map(|own| &own.policy));
        policies.any(|policy| policy.tunnel.is_some())
    });
    if !tunnelled {
        return;
    }
    let inside = config.routes.values().flat_map(|routes| &routes.streams);
    let bound = config.bound.values().flatten();
    let servers = config.listening.values().flat_map(|own| &own.servers);
    let attached = servers.filter_map(|server| server.attached.as_ref());
    let rules = inside
        .chain(bound.flat_map(|bound| &bound.streams))
        .chain(attached.flat_map(|attached| &attached.streams));
    for rule in rules.filter(|rule| rule.targets.len() > 1) {
        let unequal = callers(config, rule)
            .into_iter()
            .find_map(|caller| config.tunnels(rule, caller).err());
        let Some((one, other)) = unequal else {
            continue;
        };
        let words = |tunnel: Option<&Arc<str>>| match tunnel {
            Some(to) => format!("a tunnel to {to}"),
            None => "no tunnel".to_owned(),
        };
        let message = format!(
            "of the targets of this rule one is asked for {}, and another for {}",
            words(one),
            words(other)
        );
        findings.push(
            Finding::new(
                Severity::Error,
                codes::UNEQUAL_TUNNELS,
                &rule.origin,
                message,
            )
            .hint("give the targets the same tunnel in their DestinationRules, or a rule each"),
        );
    }
}

/// Everybody that rules tell apart who may be carried by `rule`.
fn callers<'a>(config: &'a Config, rule: &'a StreamRule) -> Vec<Caller<'a>> {
    static NONE: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    let own = (rule.origin.namespace.as_str(), &NONE);
    let all: BTreeSet<_> = rule
        .targets
        .iter()
        .flat_map(|target| config.destinations.around(&target.host))
        .map(|rule| (rule.namespace.as_str(), &rule.selector))
        .chain([own])
        .collect();
    all.into_iter()
        .map(|(namespace, labels)| Caller { namespace, labels })
        .collect()
}
