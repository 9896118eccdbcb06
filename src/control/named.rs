//! What gateways name: which Secrets and ConfigMaps of the cluster are followed, as configuration changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::index::Index;
use crate::resource::{self, Key, Objects};
use crate::source::Change;
use crate::source::kubernetes::Named;

/// Proxies wait so long for what their gateways name, at the start: a Secret that nobody answers for must not keep
/// all others waiting.
const SETTLE: Duration = Duration::from_secs(5);
/// Changes of the world are gathered for so long.
const PAUSE: Duration = Duration::from_millis(100);

/// Kinds that name them, or say who may. What Istio's kinds and Ingresses name is known of the world.
const NAMING: [&str; 4] = [
    "BackendTLSPolicy",
    "Gateway.gateway.networking.k8s.io",
    "GatewayClass",
    "ReferenceGrant",
];

impl Index {
    /// What gateways name in the world as it is.
    async fn named(&self) -> BTreeSet<Key> {
        let state = self.state.lock().await;
        // In the order in which they win.
        let all = state.objects.iter().chain(&state.followed.objects);
        let naming = all.filter(|(key, _)| NAMING.contains(&key.kind.as_str()));
        let naming: Objects = naming
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        resource::named(&naming, &self.world())
    }

    async fn has_all(&self, wanted: &BTreeSet<Key>, absent: &BTreeSet<Key>) -> bool {
        let state = self.state.lock().await;
        let held = &state.followed.objects;
        let known = |key: &Key| held.contains_key(key) || absent.contains(key);
        wanted.iter().all(known)
    }

    /// After everything else is known: waits for what gateways name, so that none that shows a certificate is told
    /// at first that there is none. It takes in `batches` meanwhile; false when they have ended.
    pub(super) async fn settle(
        &self,
        named: &Named,
        batches: &mut mpsc::Receiver<Vec<Change>>,
    ) -> bool {
        let wanted = self.named().await;
        named.wanted.send_replace(wanted.clone());
        let mut absent = named.absent.clone();
        let waiting = async {
            loop {
                let known = absent.borrow_and_update().clone();
                if self.has_all(&wanted, &known).await {
                    return true;
                }
                tokio::select! {
                    batch = batches.recv() => match batch {
                        Some(changes) => self.follow(changes).await,
                        None => return false,
                    },
                    changed = absent.changed() => if changed.is_err() {
                        return false;
                    },
                }
            }
        };
        let settled = tokio::time::timeout(SETTLE, waiting).await;
        settled.unwrap_or_else(|_| {
            tracing::warn!("not all Secrets that gateways name are known; they come later");
            true
        })
    }
}

/// Has followed what gateways name, for ever.
pub(super) async fn keep(index: Arc<Index>, named: Named) {
    let mut worlds = index.reader();
    loop {
        let wanted = index.named().await;
        named.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
        if !worlds.changed().await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
