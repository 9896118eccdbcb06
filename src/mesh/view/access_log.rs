//! Which calls of one proxy are logged: what is said of the mesh, its namespace and its workload, the narrowest last.

use std::sync::Arc;

use super::tracing::reach;
use crate::mesh::access_log::rules::{Told, logs};
use crate::mesh::listener::{ChainAction, Direction, Listener};
use crate::mesh::world::Config;
use crate::mesh::{Node, NodeKind};

/// Puts into `listener` what holds for the calls that `node` takes there.
pub(super) fn shape(config: &Config, node: &Node, listener: &mut Arc<Listener>) {
    let rules = &config.access_log;
    if rules.base.is_empty() && rules.all.is_empty() {
        return;
    }
    let client = node.kind == NodeKind::Gateway || listener.direction == Direction::Outbound;
    let all = rules.all.iter();
    let mut told: Vec<(u8, &Told)> = all
        .filter_map(|told| {
            let whom = (told.namespace.as_str(), &told.whom);
            Some((reach(config, whom, node, client)?, &**told))
        })
        .collect();
    // Stable, so of two as narrow the oldest stays first; and it alone counts.
    told.sort_by_key(|(reach, _)| *reach);
    told.dedup_by_key(|(reach, _)| *reach);
    let told: Vec<&Told> = told.into_iter().map(|(_, told)| told).collect();
    let Some(logs) = logs(&rules.base, &told, client) else {
        return;
    };
    let logs = Arc::new(logs);
    let listener = Arc::make_mut(listener);
    let chains = listener.chains.iter_mut();
    for chain in chains.chain(&mut listener.default_chain) {
        if let ChainAction::Http { options, .. } | ChainAction::Detect { options, .. } =
            &mut chain.action
        {
            Arc::make_mut(options).access_log = Some(Arc::clone(&logs));
        }
    }
}
