//! Which of what Telemetries say holds for one proxy, the narrowest last.

use std::sync::Arc;

use crate::mesh::destinations::ROOTS;
use crate::mesh::policy::Whom;
use crate::mesh::told::Told;
use crate::mesh::world::{Config, selects};
use crate::mesh::{Node, NodeKind};

/// What of `all`, the oldest first, holds for `node`: of several that are as narrow the oldest alone.
pub(super) fn holding<'t, R>(
    config: &Config,
    all: &'t [Arc<Told<R>>],
    node: &Node,
    client: bool,
) -> Vec<&'t Told<R>> {
    let mut told: Vec<(u8, &Told<R>)> = all
        .iter()
        .filter_map(|told| {
            let whom = (told.namespace.as_str(), &told.whom);
            Some((reach(config, whom, node, client)?, &**told))
        })
        .collect();
    // Stable, so of two as narrow the oldest stays first.
    told.sort_by_key(|(reach, _)| *reach);
    told.dedup_by_key(|(reach, _)| *reach);
    told.into_iter().map(|(_, told)| told).collect()
}

/// How narrow what is written in `namespace` for `whom` is for `node`; more is narrower. None where it is for others.
fn reach(
    config: &Config,
    (namespace, whom): (&str, &Whom),
    node: &Node,
    client: bool,
) -> Option<u8> {
    let root = ROOTS.contains(&namespace);
    let space = root || namespace == node.namespace;
    match whom {
        Whom::All => space.then_some(u8::from(!root)),
        Whom::Workloads(labels) => {
            (space && selects(labels, &node.labels)).then_some(if root { 2 } else { 3 })
        }
        Whom::Targets {
            services,
            gateways,
            attached,
        } => {
            let leads_here = |host| {
                let service = config.services.get(host);
                service.is_some_and(|service| {
                    service.namespace == node.namespace
                        && !service.selector.is_empty()
                        && selects(&service.selector, &node.labels)
                })
            };
            let server = !client && services.iter().any(leads_here);
            let edge = node.kind == NodeKind::Gateway;
            let serves = |gateway: Option<&Arc<crate::mesh::gateway::Gateway>>| {
                gateway.is_some_and(|gateway| gateway.is_served_by(&node.namespace, &node.labels))
            };
            let named = edge
                && gateways
                    .iter()
                    .any(|name| serves(config.gateways.get(name)));
            let listening = edge
                && attached.iter().any(|to| {
                    let name = (to.namespace.clone(), to.name.clone());
                    serves(config.listening.get(&name))
                });
            (server || named || listening).then_some(4)
        }
    }
}
