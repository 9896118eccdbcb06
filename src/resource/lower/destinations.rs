//! How services are called: DestinationRules, merged by host.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Services, of_kind, resolve};
use crate::mesh::world::{Destination, Subset, TrafficPolicy};
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::istio::{DestinationRule, Policy};
use crate::resource::object::{Kind, Object, Objects};

pub(super) fn lower(
    objects: &Objects,
    services: &Services,
    findings: &mut Vec<Finding>,
) -> BTreeMap<Hostname, Arc<Destination>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::DestinationRule(rule) => Some(rule),
        _ => None,
    });
    let mut by_host: BTreeMap<Hostname, Vec<(&Object, &DestinationRule)>> = BTreeMap::new();
    for (object, rule) in written {
        let Some(host) = resolve(&rule.host, &object.metadata.namespace, services) else {
            continue;
        };
        if !services.keys().any(|service| host.covers(service)) {
            let message =
                format!("host {host} is no service of the mesh, so the rule has no effect");
            let mut finding = object.finding(
                Severity::Warning,
                codes::UNKNOWN_DESTINATION_HOST,
                "spec.host",
                message,
            );
            finding.hint = super::similar(&host, services)
                .map(|service| format!("did you mean {}?", service.host));
            findings.push(finding);
        }
        by_host.entry(host).or_default().push((object, rule));
    }
    let mut destinations = BTreeMap::new();
    for (host, mut rules) in by_host {
        // The owner of the service has the first word.
        let owner = services
            .get(&host)
            .map(|service| service.namespace.as_str());
        rules.sort_by_key(|(object, _)| Some(object.metadata.namespace.as_str()) != owner);
        let mut destination = Destination::default();
        for (index, (object, rule)) in rules.iter().enumerate() {
            merge(&mut destination, index == 0, object, rule, findings);
        }
        destinations.insert(host, Arc::new(destination));
    }
    destinations
}

/// Istio's merge: subsets of all rules, the policy of the first that has one.
fn merge(
    destination: &mut Destination,
    first: bool,
    object: &Object,
    rule: &DestinationRule,
    findings: &mut Vec<Finding>,
) {
    if first {
        destination.origin = object.origin.clone();
    }
    let has_policy = rule.policy != Policy::default();
    let free = destination.policy == TrafficPolicy::default() && destination.ports.is_empty();
    if has_policy && free {
        destination.policy = rule.policy.all.clone();
        destination.ports = rule.policy.ports.clone();
    } else if has_policy {
        findings.push(
            object
                .finding(
                    Severity::Warning,
                    codes::SCHEMA_WARNING,
                    "spec.trafficPolicy",
                    format!(
                        "another rule for this host has a policy already ({}), so this one has no effect",
                        destination.origin
                    ),
                )
                .hint("put both into one DestinationRule"),
        );
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        if destination.subsets.contains_key(&subset.name) {
            findings.push(
                object
                    .finding(
                        Severity::Warning,
                        codes::SCHEMA_WARNING,
                        &format!("spec.subsets[{index}]"),
                        format!(
                            "another rule for this host defines subset {:?} already ({}), so this one has no effect",
                            subset.name, destination.origin
                        ),
                    )
                    .hint("put both into one DestinationRule"),
            );
            continue;
        }
        destination.subsets.insert(
            subset.name.clone(),
            Subset {
                labels: subset.labels.clone(),
                policy: subset.policy.all.clone(),
                ports: subset.policy.ports.clone(),
            },
        );
    }
}
