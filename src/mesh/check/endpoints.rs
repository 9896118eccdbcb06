//! Who answers: services and subsets that no instance stands behind.

use std::sync::Arc;

use crate::mesh::selection::Selection;
use crate::mesh::service::TargetPort;
use crate::mesh::world::selects;
use crate::mesh::{Finding, Health, Protocol, Service, Severity, World};

/// A subset that chooses nothing.
const SUBSET_EMPTY: &str = "IST0173";
/// A selector that chooses nothing.
const NO_WORKLOAD: &str = "IST0127";
/// A port that leads nowhere.
const NO_TARGET: &str = "MSH0020";
/// A workload that plaintext reaches.
const NO_PROXY: &str = "IST0103";

pub(super) fn check<'w>(
    world: &'w World,
    services: impl Iterator<Item = &'w Arc<Service>> + Clone,
    findings: &mut Vec<Finding>,
) {
    // Without a single instance nothing is known about what runs: manifests are looked at offline.
    if world.instances.is_empty() {
        return;
    }
    let selection = Selection::new(world, services.clone());
    for service in services {
        if service.selector.is_empty() {
            continue;
        }
        let behind = selection.select(service);
        if behind.is_empty() {
            findings.push(
                Finding::new(
                    Severity::Warning,
                    NO_WORKLOAD,
                    &service.origin,
                    format!(
                        "no workload carries the labels that service {} asks for",
                        service.name
                    ),
                )
                .at("spec.selector")
                .hint("calls answer 503 until one does"),
            );
            continue;
        }
        if behind
            .iter()
            .all(|instance| instance.health != Health::Healthy)
        {
            findings.push(
                Finding::new(
                    Severity::Warning,
                    NO_WORKLOAD,
                    &service.origin,
                    format!("no instance of service {} is healthy", service.name),
                )
                .hint("see their readiness probes"),
            );
        }
        if let Some(instance) = behind.iter().find(|instance| !instance.mtls) {
            findings.push(
                Finding::new(
                    Severity::Info,
                    NO_PROXY,
                    &service.origin,
                    format!(
                        "instance {} of service {} has no proxy of the mesh: calls to it are plaintext",
                        instance.name, service.name
                    ),
                )
                .hint("`meshctl inject` its manifest, or run it with `meshctl up`"),
            );
        }
        for port in &service.ports {
            if let TargetPort::Name(name) = &port.target
                && port.protocol != Protocol::Udp
                && !behind
                    .iter()
                    .any(|instance| instance.port_names.contains_key(name))
            {
                findings.push(
                    Finding::new(
                        Severity::Warning,
                        NO_TARGET,
                        &service.origin,
                        format!("port {} of service {} leads to a container port named {name:?}, which no instance has", port.port, service.name),
                    )
                    .at("spec.ports")
                    .hint("name the container port, or target its number"),
                );
            }
        }
        // A wildcard's subsets are for whichever services have them.
        let rules = world.config.destinations.of(&service.host);
        let subsets = rules.iter().flat_map(|rule| {
            let named = rule.subsets.iter();
            named.map(move |(name, subset)| (&rule.origin, name, subset))
        });
        for (origin, name, subset) in subsets {
            if !behind
                .iter()
                .any(|instance| selects(&subset.labels, &instance.labels))
            {
                let labels: Vec<String> = subset
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                findings.push(
                    Finding::new(
                        Severity::Warning,
                        SUBSET_EMPTY,
                        origin,
                        format!(
                            "subset {name:?} of service {} chooses no instance ({})",
                            service.name,
                            labels.join(", ")
                        ),
                    )
                    .at("spec.subsets")
                    .hint("requests that are sent there answer 503"),
                );
            }
        }
    }
}
