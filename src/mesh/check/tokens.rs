//! Rules about tokens that nobody looks at, and looks at tokens that nobody presents.

use std::collections::BTreeMap;

use crate::mesh::destinations::ROOTS;
use crate::mesh::gateway::Gateway;
use crate::mesh::policy::{Place, Policy, Says, Whom, Workload, in_force};
use crate::mesh::world::{Rule, World, selects};
use crate::mesh::{Finding, Severity};

/// Routes by claims where no token is looked at.
const CLAIMS_WITHOUT_TOKENS: &str = "IST0149";
/// A condition that no request fulfils.
const INEFFECTIVE_MATCH: &str = "IST0131";
/// A selector that chooses nothing.
const NO_WORKLOAD: &str = "IST0127";

pub(super) fn check(world: &World, findings: &mut Vec<Finding>) {
    let config = &world.config;
    let claims = |rule: &&Rule| !rule.route.matches.claims.is_empty();
    for (name, bounds) in &config.bound {
        let Some(gateway) = config.gateways.get(name) else {
            continue;
        };
        let mut rules = bounds
            .iter()
            .flat_map(|bound| &bound.rules)
            .filter(claims)
            .peekable();
        if rules.peek().is_none() || looks(gateway, &config.policies) {
            continue;
        }
        for rule in rules {
            let message = format!(
                "a route goes by claims of a token, and no RequestAuthentication has Gateway {}/{} look at tokens",
                name.0, name.1
            );
            findings.push(
                Finding::new(Severity::Warning, CLAIMS_WITHOUT_TOKENS, &rule.route.origin, message)
                    .at("spec.http")
                    .hint("write a RequestAuthentication in the gateway's namespace whose selector chooses it"),
            );
        }
    }
    for rule in config
        .routes
        .values()
        .flat_map(|of| &of.rules)
        .filter(claims)
    {
        let message = "a route of the mesh goes by claims of a token, which are known at gateways only: \
                       calls between workloads never have them";
        findings.push(
            Finding::new(
                Severity::Warning,
                INEFFECTIVE_MATCH,
                &rule.route.origin,
                message,
            )
            .at("spec.http")
            .hint("put it into a VirtualService with gateways: […] and without mesh among them"),
        );
    }
    // Without a single instance nothing is known about what runs.
    if world.instances.is_empty() {
        return;
    }
    for policy in &config.policies {
        let (Says::Tokens(_), Whom::Workloads(labels)) = (&policy.says, &policy.whom) else {
            continue;
        };
        let root = ROOTS.contains(&policy.namespace.as_str());
        let chosen = |namespace: &str, of: &BTreeMap<String, String>| {
            (root || namespace == policy.namespace) && selects(labels, of)
        };
        let mut instances = world.instances.values();
        let mut gateways = config.gateways.values().chain(config.listening.values());
        let some = instances.any(|of| chosen(&of.namespace, &of.labels))
            || gateways.any(|of| chosen(&of.namespace, &of.selector));
        if !some {
            findings.push(
                Finding::new(
                    Severity::Warning,
                    NO_WORKLOAD,
                    &policy.origin,
                    "no workload carries the labels of the selector, so nobody's tokens are looked at by this",
                )
                .at("spec.selector")
                .hint("correct the labels, or leave the selector out for the whole namespace"),
            );
        }
    }
}

/// Whether the proxies of a gateway look at tokens, by what is known of them: the labels they are chosen
/// by.
fn looks(gateway: &Gateway, policies: &[std::sync::Arc<Policy>]) -> bool {
    let workload = Workload {
        namespace: &gateway.namespace,
        labels: &gateway.selector,
    };
    let name = (gateway.namespace.clone(), gateway.name.clone());
    let force = in_force(policies, workload, Place::Gateway(&name));
    !force.tokens.is_empty()
}
