//! What one proxy tells of metrics: what is said of the mesh, its namespace and its workload, the narrowest last.

use std::sync::Arc;

use super::told::holding;
use crate::mesh::listener::{Direction, Listener};
use crate::mesh::metrics::Change;
use crate::mesh::world::Config;
use crate::mesh::{Node, NodeKind};

/// Puts into `listener` what holds for the side of calls that `node` is there.
pub(super) fn shape(config: &Config, node: &Node, listener: &mut Arc<Listener>) {
    if config.metrics.is_empty() {
        return;
    }
    let client = node.kind == NodeKind::Gateway || listener.direction == Direction::Outbound;
    let told = holding(config, &config.metrics, node, client);
    let rules = told.into_iter().flat_map(|told| &told.rules);
    let rules = rules.filter(|rule| if client { rule.client } else { rule.server });
    let changes: Vec<Change> = rules.map(|rule| rule.change.clone()).collect();
    if !changes.is_empty() {
        Arc::make_mut(listener).options.metrics = Some(Arc::new(changes));
    }
}
