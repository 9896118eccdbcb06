//! The protocol's own examples, other implementations' faults, and a model.

mod delta;
mod model;
mod ours;
mod sotw;

use std::sync::Arc;

use super::super::snapshot::{Kind, Snapshot};

/// Resources as `kind name content`.
fn snapshot(resources: &[(Kind, &str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (kind, name, content) in resources {
        snapshot.insert(*kind, *name, content.as_bytes().to_vec());
    }
    Arc::new(snapshot)
}

use Kind::{Cluster, Endpoint, Listener, Route, Secret};
