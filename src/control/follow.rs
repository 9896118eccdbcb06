//! What a cluster holds, beside what people applied here.
//!
//! On Kubernetes the API server is the store, so nothing of this is written to ours. An object that
//! the cluster has wins over one of the same name that was applied here, and cannot be changed
//! here; one that cannot be read leaves the one before it in force, and is a finding.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::api::{Problem, Reason};
use crate::mesh::{Finding, Instance, Severity, World};
use crate::resource::{self, Key, Objects, Running};
use crate::source::kubernetes::Change;

use super::index::{Index, Stamp, State};

/// What the cluster holds.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) objects: Objects,
    pub(super) stamps: BTreeMap<Key, Stamp>,
    /// What is wrong with each object in itself.
    findings: BTreeMap<Key, Vec<Finding>>,
    running: Running,
    pub(super) instances: BTreeMap<(String, String), Arc<Instance>>,
}

impl Followed {
    /// What is wrong with objects in themselves.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().flatten()
    }

    /// Refuses a change to what the cluster holds.
    pub(super) fn refuse<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Result<(), Problem> {
        let mut held = keys.filter(|key| {
            // One that cannot be read is the cluster's all the same.
            self.objects.contains_key(*key) || self.findings.contains_key(*key)
        });
        match held.next() {
            None => Ok(()),
            Some(key) => Err(Problem::new(
                Reason::Conflict,
                format!("{key} is kept in Kubernetes and cannot be changed here"),
            )
            .hint("change it with kubectl; the mesh follows")),
        }
    }

    /// Takes in one change; gives whether it is one of configuration.
    fn take(&mut self, change: Change, now_unix_ms: u64) -> bool {
        let Change { key, object } = change;
        if Running::keeps(&key.kind) {
            if let Err(reason) = self.running.set(&key, object.as_deref()) {
                tracing::error!(%reason, "what was known of it stays");
            }
            return false;
        }
        let Some(value) = object else {
            self.findings.remove(&key);
            self.stamps.remove(&key);
            return self.objects.remove(&key).is_some();
        };
        let (object, findings) = resource::from_cluster(&value);
        let generation = value
            .pointer("/metadata/generation")
            .and_then(serde_json::Value::as_u64);
        for finding in &findings {
            if finding.severity == Severity::Error {
                tracing::error!(%finding, generation, "from Kubernetes; the last good one stays in force");
            } else {
                tracing::debug!(%finding, generation, "from Kubernetes");
            }
        }
        if findings.is_empty() {
            self.findings.remove(&key);
        } else {
            self.findings.insert(key.clone(), findings);
        }
        let Some(object) = object else { return false };
        let created = object
            .metadata
            .created
            .as_deref()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .and_then(|at| u64::try_from(at.as_millisecond()).ok())
            .unwrap_or(now_unix_ms);
        let known = self.objects.insert(key.clone(), Arc::new(object));
        let stamp = Stamp {
            created_unix_ms: created,
            // What was there before we were has changed when it was made, for all that we know.
            changed_unix_ms: known.map_or(created, |_| now_unix_ms),
            revision: 0,
        };
        self.stamps.insert(key, stamp);
        true
    }
}

impl State {
    /// What people applied here and what the cluster holds, which wins.
    pub(super) fn union(&self, applied: &Objects) -> Objects {
        let mut union = applied.clone();
        let followed = self.followed.objects.iter();
        union.extend(followed.map(|(key, object)| (key.clone(), Arc::clone(object))));
        union
    }

    /// What registered here and what runs in the cluster, which wins.
    pub(super) fn running(&self) -> BTreeMap<(String, String), Arc<Instance>> {
        let registered = self
            .instances
            .iter()
            .map(|(key, registered)| (key.clone(), Arc::clone(&registered.instance)));
        let followed = self.followed.instances.iter();
        registered
            .chain(followed.map(|(key, instance)| (key.clone(), Arc::clone(instance))))
            .collect()
    }
}

impl Index {
    /// Takes in what became of the cluster's objects, as one new world.
    pub(super) async fn follow(&self, changes: Vec<Change>) {
        let mut state = self.state.lock().await;
        let now = self.wall.millis();
        let mut configured = false;
        for change in changes {
            configured |= state.followed.take(change, now);
        }
        let instances = state.followed.running.instances(&state.followed.objects);
        let moved = instances != state.followed.instances;
        if moved {
            state.followed.instances = instances;
        }
        if configured {
            let (world, findings) = state.lower(&state.objects);
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
                instances: Arc::new(state.running()),
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
