//! Who may call: policies that are for nobody, and rules that never hold where bytes are carried.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::authorization::{Authorization, PolicyAction, Rule};
use crate::mesh::destinations::ROOTS;
use crate::mesh::ext_authz::Asks;
use crate::mesh::policy::{Policy, Says, Whom};
use crate::mesh::service::TargetPort;
use crate::mesh::world::selects;
use crate::mesh::{Finding, Protocol, Service, Severity, World};

/// A selector that chooses nothing.
const NO_WORKLOAD: &str = "IST0127";
/// A rule about requests, for a port that carries bytes.
const RULE_OF_REQUESTS: &str = "MSH0503";
/// Several providers for one workload.
const SEVERAL_PROVIDERS: &str = "MSH0511";
/// Somebody to ask by HTTP about bytes.
const NOT_FOR_BYTES: &str = "MSH0512";

pub(super) fn check(world: &World, findings: &mut Vec<Finding>) {
    // Without a single instance nothing is known about what runs.
    if world.instances.is_empty() {
        return;
    }
    for policy in &world.config.policies {
        let Says::Authorization(says) = &policy.says else {
            continue;
        };
        if let Whom::Workloads(labels) = &policy.whom
            && !chooses(world, policy, labels)
        {
            findings.push(
                Finding::new(
                    Severity::Warning,
                    NO_WORKLOAD,
                    &policy.origin,
                    "no workload carries the labels of the selector, so nobody's callers are judged by this",
                )
                .at("spec.selector")
                .hint("correct the labels, or leave the selector out for the whole namespace"),
            );
        }
        bytes(world, policy, says, findings);
    }
    several(world, findings);
}

/// Policies by which workloads would ask several providers, of which one alone can be asked.
fn several(world: &World, findings: &mut Vec<Finding>) {
    let asking: Vec<(&Arc<Policy>, &str)> = world
        .config
        .policies
        .iter()
        .filter_map(|policy| match &policy.says {
            Says::Authorization(says) => Some((policy, says.asks()?.name.as_str())),
            _ => None,
        })
        .collect();
    let mut asked: Vec<&str> = asking.iter().map(|(_, name)| *name).collect();
    asked.dedup();
    if asked.len() < 2 {
        return;
    }
    let mut told: Vec<&Arc<Policy>> = Vec::new();
    let gateways = world.config.gateways.values();
    let gateways = gateways.chain(world.config.listening.values());
    let gateways = gateways.map(|of| (&of.namespace, &of.selector));
    let instances = world.instances.values();
    let places = instances
        .map(|of| (&of.namespace, &of.labels))
        .chain(gateways);
    for (namespace, labels) in places {
        let acts = |policy: &Policy| match &policy.whom {
            Whom::All => is_of(policy, namespace),
            Whom::Workloads(of) => is_of(policy, namespace) && selects(of, labels),
            Whom::Targets { services, .. } => world.config.services.values().any(|service| {
                services.contains(&service.host)
                    && service.namespace == *namespace
                    && !service.selector.is_empty()
                    && selects(&service.selector, labels)
            }),
        };
        let here: Vec<_> = asking.iter().filter(|(policy, _)| acts(policy)).collect();
        let Some((first, name)) = here.first() else {
            continue;
        };
        for (policy, other) in &here {
            if other == name || told.iter().any(|own| Arc::ptr_eq(own, policy)) {
                continue;
            }
            told.push(policy);
            findings.push(
                Finding::new(
                    Severity::Warning,
                    SEVERAL_PROVIDERS,
                    &policy.origin,
                    format!(
                        "AuthorizationPolicy {}/{} asks {name:?} for the same workload: of two providers none is asked, and what the rules of both hold for is refused",
                        first.origin.namespace, first.origin.name
                    ),
                )
                .at("spec.provider.name")
                .hint(format!("name {name:?} here too, or choose other workloads")),
            );
        }
    }
}

pub(super) fn is_of(policy: &Policy, namespace: &str) -> bool {
    ROOTS.contains(&policy.namespace.as_str()) || policy.namespace == namespace
}

/// Whether there is somebody with these labels where the policy acts.
fn chooses(world: &World, policy: &Policy, labels: &BTreeMap<String, String>) -> bool {
    let chosen = |namespace: &str, of: &BTreeMap<String, String>| {
        is_of(policy, namespace) && selects(labels, of)
    };
    let config = &world.config;
    let mut instances = world.instances.values();
    let mut gateways = config.gateways.values().chain(config.listening.values());
    instances.any(|of| chosen(&of.namespace, &of.labels))
        || gateways.any(|of| chosen(&of.namespace, &of.selector))
}

/// Whether the policy acts at workloads of `service` because it says so.
fn names(world: &World, policy: &Policy, service: &Service) -> bool {
    match &policy.whom {
        Whom::All => false,
        Whom::Targets { services, .. } => services.contains(&service.host),
        Whom::Workloads(labels) => {
            let mut instances = world.instances.values();
            instances.any(|of| {
                is_of(policy, &of.namespace)
                    && of.namespace == service.namespace
                    && !service.selector.is_empty()
                    && selects(labels, &of.labels)
                    && selects(&service.selector, &of.labels)
            })
        }
    }
}

fn bytes(world: &World, policy: &Policy, says: &Authorization, findings: &mut Vec<Finding>) {
    if says.action == PolicyAction::Deny {
        return;
    }
    let custom = says.action == PolicyAction::Custom;
    let provider = says.asks().and_then(|provider| provider.how.as_ref());
    if custom && provider.is_none_or(|how| matches!(how.asks, Asks::Grpc { .. })) {
        // It is asked, or that there is no such provider is found elsewhere.
        return;
    }
    let asks = |rule: &Rule| {
        let mut conditions = rule.conditions();
        custom || conditions.any(|condition| condition.on.is_of_requests())
    };
    let of_requests: Vec<_> = (says.rules.iter().enumerate())
        .filter(|(_, rule)| asks(rule))
        .collect();
    if of_requests.is_empty() {
        return;
    }
    let carried = world.config.services.values().find_map(|service| {
        if !names(world, policy, service) {
            return None;
        }
        let ports = service.ports.iter();
        let mut carried =
            ports.filter(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Tls));
        carried.find_map(|port| {
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(_) => None,
            };
            let mut rules = of_requests.iter();
            let (index, _) = rules.find(|(_, rule)| rule.is_for_port(number))?;
            Some((service, port, *index))
        })
    });
    let Some((service, port, index)) = carried else {
        return;
    };
    if custom {
        findings.push(
            Finding::new(
                Severity::Warning,
                NOT_FOR_BYTES,
                &policy.origin,
                format!(
                    "port {} of Service {} carries bytes, about which nobody is asked by HTTP: who the rule holds for is refused there, whatever it says of requests",
                    port.port, service.name
                ),
            )
            .at(format!("spec.rules[{index}]"))
            .hint("name a provider with envoyExtAuthzGrpc, say with ports which the rule is for (to: [{operation: {ports: [\"8080\"]}}]), or name the port http if it speaks HTTP"),
        );
        return;
    }
    let then = match says.action {
        PolicyAction::Audit => "is noted",
        PolicyAction::Allow | PolicyAction::Deny | PolicyAction::Custom => "is allowed",
    };
    findings.push(
        Finding::new(
            Severity::Warning,
            RULE_OF_REQUESTS,
            &policy.origin,
            format!(
                "the rule asks for something of requests, and port {} of Service {} carries bytes: nothing {then} by it there",
                port.port, service.name
            ),
        )
        .at(format!("spec.rules[{index}]"))
        .hint("say in a rule of its own who may reach that port (from, and to with ports), or name the port http if it speaks HTTP"),
    );
}
