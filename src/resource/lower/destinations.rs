//! How services are called: DestinationRules, merged by host.

use std::collections::{BTreeMap, BTreeSet};

use super::credentials::named;
use super::gateways::Credentials;
use super::{Services, exported, of_kind, resolve};
use crate::mesh::destinations::Destinations;

use crate::mesh::world::{Destination, Subset, TrafficPolicy};
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::istio::{DestinationRule, Policy};
use crate::resource::object::{Kind, Object, Objects};

/// What makes rules of one host one: they are merged, others stand beside each other.
type Group = (String, BTreeMap<String, String>, BTreeSet<String>);

pub(super) fn lower(
    objects: &Objects,
    (services, credentials): (&Services, &Credentials),
    usual: &[String],
    findings: &mut Vec<Finding>,
) -> Destinations {
    let written = of_kind(objects, |kind| match kind {
        Kind::DestinationRule(rule) => Some(rule),
        _ => None,
    });
    // In order of age, as what is older goes before.
    let mut by_host: BTreeMap<Hostname, Vec<(Group, Destination)>> = BTreeMap::new();
    for (object, rule) in written {
        let namespace = &object.metadata.namespace;
        let Some(host) = resolve(&rule.host, namespace, services) else {
            continue;
        };
        if !host.covers_any(services) {
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
        named(object, rule, credentials, findings);
        let group = (
            namespace.clone(),
            rule.selector.clone(),
            exports(rule, usual, namespace),
        );
        let groups = by_host.entry(host).or_default();
        if let Some((_, destination)) = groups.iter_mut().find(|(of, _)| *of == group) {
            merge(destination, object, rule, findings);
            continue;
        }
        if let Some((_, other)) = groups.iter().find(|(of, _)| overlap(of, &group)) {
            let message = format!(
                "another rule for this host is for some of the same callers ({}), so this one has no effect for those",
                other.origin
            );
            findings.push(
                object
                    .finding(Severity::Warning, codes::SCHEMA_WARNING, "spec", message)
                    .hint("give both one exportTo, and they are merged"),
            );
        }
        let mut destination = Destination {
            namespace: group.0.clone(),
            selector: group.1.clone(),
            export: group.2.clone(),
            origin: object.origin.clone(),
            ..Destination::default()
        };
        merge(&mut destination, object, rule, findings);
        groups.push((group, destination));
    }
    let mut destinations = Destinations::default();
    for (host, groups) in by_host {
        for (_, destination) in groups {
            destinations.add(host.clone(), destination);
        }
    }
    destinations
}

/// A rule for some workloads is for those of its own namespace, whatever is usual.
fn exports(rule: &DestinationRule, usual: &[String], own: &str) -> BTreeSet<String> {
    let usual = if rule.selector.is_empty() { usual } else { &[] };
    exported(&rule.export_to, usual, own)
}

/// Whether both are for all workloads of a namespace, so that one of them cannot be.
fn overlap((namespace, selector, export): &Group, other: &Group) -> bool {
    *namespace == other.0
        && selector.is_empty()
        && other.1.is_empty()
        && (export.is_empty() || other.2.is_empty() || !export.is_disjoint(&other.2))
}

/// Istio's merge: subsets of all rules, the policy of the first that has one.
fn merge(
    destination: &mut Destination,
    object: &Object,
    rule: &DestinationRule,
    findings: &mut Vec<Finding>,
) {
    let has_policy = *rule.policy != Policy::default();
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
