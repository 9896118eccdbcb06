//! Which calls of one proxy are logged: what is said of the mesh, its namespace and its workload, the narrowest last.

use std::sync::Arc;

use super::told::holding;
use crate::mesh::access_log::rules::logs;
use crate::mesh::access_log::service::Says;
use crate::mesh::access_log::{Logger, Sink};
use crate::mesh::listener::{ChainAction, Direction, Listener};
use crate::mesh::world::Config;
use crate::mesh::{Client, Node, NodeKind};

/// Puts into `listener` what holds for the calls that `node` takes there. A service whose cluster is not among those
/// that `knows` holds for is told nothing: Envoy refuses what names one that it does not have.
pub(super) fn shape(
    config: &Config,
    node: &Node,
    listener: &mut Arc<Listener>,
    knows: &dyn Fn(&str) -> bool,
) {
    let rules = &config.access_log;
    if rules.base.is_empty() && rules.all.is_empty() {
        return;
    }
    let client = node.kind == NodeKind::Gateway || listener.direction == Direction::Outbound;
    let told = holding(config, &rules.all, node, client);
    let Some(logs) = logs(&rules.base, &told, client) else {
        return;
    };
    let mut logs: Vec<Logger> = logs
        .into_iter()
        .filter_map(|log| here(log, node, knows))
        .collect();
    if logs.is_empty() {
        logs.push(Logger::off());
    }
    let logs = Arc::new(logs);
    let listener = Arc::make_mut(listener);
    let chains = listener.chains.iter_mut();
    for chain in chains.chain(&mut listener.default_chain) {
        match &mut chain.action {
            ChainAction::Http { options, .. } | ChainAction::Detect { options, .. } => {
                Arc::make_mut(options).access_log = Some(Arc::clone(&logs));
            }
            ChainAction::Tcp { options, .. } => options.access_log = Some(Arc::clone(&logs)),
        }
    }
}

/// A log as `node` writes it; none where it cannot reach who is told.
fn here(mut log: Logger, node: &Node, knows: &dyn Fn(&str) -> bool) -> Option<Logger> {
    if let Sink::Service(service) = &mut log.to {
        if !knows(&service.cluster) {
            return None;
        }
        // Told where it was written; it is for Envoys alone.
        if node.client == Client::Meshctl && !service.filter_state.is_empty() {
            Arc::make_mut(service).filter_state.clear();
        }
        if let Says::Otlp(_) = service.says
            && let Says::Otlp(said) = &mut Arc::make_mut(service).says
        {
            let named = [
                (
                    "service.name",
                    format!("{}.{}", node.canonical_service(), node.namespace),
                ),
                ("service.version", node.canonical_revision().to_owned()),
                ("k8s.namespace.name", node.namespace.clone()),
                ("k8s.pod.name", node.name.clone()),
            ];
            for (name, value) in named {
                said.resource.entry(name.to_owned()).or_insert(value);
            }
        }
    }
    Some(log)
}
