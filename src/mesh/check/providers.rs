//! Whom CUSTOM policies ask: a provider that is asked about its own questions never answers one.

use crate::mesh::authorization::{Authorization, Condition, On, Rule, wild};
use crate::mesh::ext_authz::Asks;
use crate::mesh::policy::{Policy, Says, Whom};
use crate::mesh::service::TargetPort;
use crate::mesh::world::selects;
use crate::mesh::{Finding, Instance, Service, Severity, World};

use super::authorization::is_of;

/// A provider whose own workload asks it.
const ASKS_ITSELF: &str = "MSH0514";
/// What is called to ask by gRPC.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

pub(super) fn check(world: &World, findings: &mut Vec<Finding>) {
    for policy in &world.config.policies {
        if let Says::Authorization(says) = &policy.says {
            findings.extend(asks_itself(world, policy, says));
        }
    }
}

fn asks_itself(world: &World, policy: &Policy, says: &Authorization) -> Option<Finding> {
    // What is only counted stops nobody.
    let provider = says.asks().filter(|_| !says.dry_run)?;
    let asks = &provider.how.as_ref()?.asks;
    // `outbound|PORT||HOST`, as lowering names it.
    let mut parts = asks.cluster().split('|');
    let port: u16 = parts.nth(1)?.parse().ok()?;
    let host = parts.nth(1)?;
    let mut services = world.config.services.values();
    let service = services.find(|service| service.host.as_str() == host)?;
    let of = service.ports.iter().find(|of| of.port == port)?;
    let mut instances = world.instances.values();
    let (instance, index) = instances.find_map(|instance| {
        let reached = instance.mtls && is_behind(service, instance);
        if !reached || !acts(policy, service, instance) {
            return None;
        }
        let target = match (instance.service_ports.get(&of.name), &of.target) {
            (Some(own), _) => *own,
            (None, TargetPort::Number(number)) => *number,
            (None, TargetPort::Name(name)) => *instance.port_names.get(name)?,
        };
        let question = Question {
            port: target.to_string(),
            by_grpc: matches!(asks, Asks::Grpc { .. }),
            principal: format!(
                "{}/ns/{}/sa/{}",
                world.config.trust_domain, instance.namespace, instance.service_account
            ),
            namespace: &instance.namespace,
        };
        let index = says.rules.iter().position(|rule| question.meets(rule))?;
        Some((instance, index))
    })?;
    let (name, workload) = (&provider.name, &instance.name);
    Some(
        Finding::new(
            Severity::Warning,
            ASKS_ITSELF,
            &policy.origin,
            format!(
                "{name:?} runs in {}/{workload}, which the policy is for too: it asks itself about each question, and never answers one",
                instance.namespace
            ),
        )
        .at(format!("spec.rules[{index}]"))
        .hint(format!(
            "choose with spec.selector whom the policy is for, or leave port {} of the provider out of the rule (notPorts)",
            of.port
        )),
    )
}

fn is_behind(service: &Service, instance: &Instance) -> bool {
    service.namespace == instance.namespace
        && !service.selector.is_empty()
        && selects(&service.selector, &instance.labels)
}

fn acts(policy: &Policy, service: &Service, instance: &Instance) -> bool {
    match &policy.whom {
        Whom::All => is_of(policy, &instance.namespace),
        Whom::Workloads(labels) => {
            is_of(policy, &instance.namespace) && selects(labels, &instance.labels)
        }
        Whom::Targets { services, .. } => services.contains(&service.host),
    }
}

/// What is known beforehand of a question that the provider's own workload asks.
struct Question<'a> {
    /// Of the workload.
    port: String,
    by_grpc: bool,
    /// Without `spiffe://`.
    principal: String,
    namespace: &'a str,
}

impl Question<'_> {
    /// Whether the rule certainly holds for it.
    fn meets(&self, rule: &Rule) -> bool {
        let all = |of: &Vec<Condition>| of.iter().all(|condition| self.is(condition));
        let any = |of: &[Vec<Condition>]| of.is_empty() || of.iter().any(all);
        any(&rule.from) && any(&rule.to) && rule.when.iter().all(|condition| self.is(condition))
    }

    fn is(&self, condition: &Condition) -> bool {
        let text = match &condition.on {
            On::DestinationPort => self.port.as_str(),
            On::Principal => &self.principal,
            On::Namespace => self.namespace,
            // By HTTP it has the method and the path of what is asked about.
            On::Path if self.by_grpc => CHECK,
            On::Method if self.by_grpc => "POST",
            _ => return false,
        };
        let is = |value: &String| wild(value, "").holds(text.as_bytes());
        (condition.values.is_empty() || condition.values.iter().any(is))
            && !condition.not.iter().any(is)
    }
}
