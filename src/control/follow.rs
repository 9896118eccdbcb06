//! What a cluster holds, beside what people applied here.
//!
//! On Kubernetes the API server is the store, so nothing of this is written to ours. An object that
//! the cluster has wins over one of the same name that was applied here, and cannot be changed
//! here; one that cannot be read leaves the one before it in force, and is a finding.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::mesh::{Severity, World};
use crate::source::kubernetes::Change;

use super::index::Index;

impl Index {
    /// Takes in what became of the cluster's objects, as one new world.
    pub(super) async fn follow(&self, changes: Vec<Change>) {
        let mut state = self.state.lock().await;
        let now = self.wall.millis();
        let mut configured = false;
        for change in changes {
            configured |= state.followed.take(change, now);
        }
        let moved = state.take_running();
        if configured {
            let (world, findings) = self.lower(&state, &state.objects);
            for finding in findings.iter().filter(|f| f.severity == Severity::Error) {
                if !state.findings.contains(finding) {
                    tracing::error!(%finding, "in the configuration in force");
                }
            }
            state.findings = findings;
            self.publish(&mut state, world);
        } else if moved {
            let world = World {
                config: Arc::clone(&self.world.load().world.config),
                instances: state.running(),
            };
            self.publish(&mut state, world);
        }
    }
}

/// Takes in batches until they end. `complete` becomes true with the first, which has everything.
pub(super) async fn run(
    index: Arc<Index>,
    mut batches: mpsc::Receiver<Vec<Change>>,
    complete: watch::Sender<bool>,
) {
    while let Some(changes) = batches.recv().await {
        index.follow(changes).await;
        if !complete.send_replace(true) {
            tracing::info!("the cluster is known; proxies are served");
        }
    }
}

/// Waits until the world is complete: a proxy must not be told that what has not been listed yet is gone.
pub(super) async fn completed(mut complete: watch::Receiver<bool>) {
    if complete.wait_for(|complete| *complete).await.is_err() {
        // Whoever would have completed it is gone, so it never will be.
        std::future::pending::<()>().await;
    }
}
