//! What gateways name: which Secrets and ConfigMaps of the cluster are followed, as configuration changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::index::Index;
use crate::mesh::world::Config;
use crate::resource::{self, Key};
use crate::source::Change;
use crate::source::kubernetes::Named;

/// Proxies wait so long for what their gateways name, at the start: a Secret that nobody answers for must not keep
/// all others waiting.
const SETTLE: Duration = Duration::from_secs(5);
/// Changes of the world are gathered for so long.
const PAUSE: Duration = Duration::from_millis(100);

impl Index {
    /// What gateways name in the world as it is.
    async fn named(&self) -> BTreeSet<Key> {
        let state = self.state.lock().await;
        let world = self.world();
        resource::named(&state.union(&state.objects), &world)
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

/// What an answer is made of: the configuration, and where gateways run.
type Made = (Arc<Config>, BTreeSet<(String, String)>);

/// Has followed what gateways name, for ever.
pub(super) async fn keep(index: Arc<Index>, named: Named) {
    let mut worlds = index.reader();
    // What the last answer was made of.
    let mut made: Option<Made> = None;
    loop {
        let world = index.world();
        // Where gateways run decides whose Secrets are meant; other pods come and go without that.
        let instances = world.instances.values();
        let gateways = instances.filter_map(|one| {
            let label = |name: &str| one.labels.get(name).cloned();
            let api = || label("gateway.networking.k8s.io/gateway-name");
            Some((one.namespace.clone(), label("istio").or_else(api)?))
        });
        let now: Made = (Arc::clone(&world.config), gateways.collect());
        let same = |made: &Made| Arc::ptr_eq(&made.0, &now.0) && made.1 == now.1;
        if !made.as_ref().is_some_and(same) {
            let wanted = index.named().await;
            named.wanted.send_if_modified(|before| {
                let changed = *before != wanted;
                *before = wanted;
                changed
            });
            made = Some(now);
        }
        if !worlds.changed().await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
