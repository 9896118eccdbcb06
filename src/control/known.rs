//! What the writer knows: applied objects, registered instances, and what a cluster holds beside
//! them. On Kubernetes the API server is the store, so nothing of the latter is written to ours.
//!
//! Plain data, and the world that it makes. Who changes it, and that the store has it first, is left
//! to `index`, `registry` and `follow`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::registry::Lease;
use crate::api::{Problem, Reason};
use crate::mesh::{Finding, Instance, Severity, World};
use crate::resource::{self, Key, Object, Objects, Running};
use crate::source::kubernetes::Change;

use super::history::Ledger;

/// What the writer knows; held while a write is under way, so that writes have an order.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: Objects,
    pub(super) followed: Followed,
    pub(super) stored: BTreeMap<Key, Stamp>,
    pub(super) instances: BTreeMap<(String, String), Registered>,
    /// Number of the newest change of configuration.
    pub(super) revision: u64,
    /// Number of the newest world, instances included.
    pub(super) generation: u64,
    pub(super) findings: Vec<Finding>,
    /// How much of the past is kept.
    pub(super) history: Ledger,
}

/// When an object was made and last changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) created_unix_ms: u64,
    pub(super) changed_unix_ms: u64,
    /// 0 for what was not changed here.
    pub(super) revision: u64,
}

/// An instance and its term.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Registered {
    pub(super) instance: Arc<Instance>,
    pub(super) ttl_seconds: u32,
    pub(super) seen_unix_ms: u64,
}

/// An instance as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptInstance {
    pub(super) instance: Instance,
    pub(super) ttl_seconds: u32,
}

impl Registered {
    /// Reads what was kept; its term starts anew.
    pub(super) fn from_bytes(bytes: &[u8], now_unix_ms: u64) -> Option<Self> {
        let kept: KeptInstance = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            instance: Arc::new(kept.instance),
            ttl_seconds: kept.ttl_seconds,
            seen_unix_ms: now_unix_ms,
        })
    }

    pub(super) fn key(&self) -> (String, String) {
        (self.instance.namespace.clone(), self.instance.name.clone())
    }

    pub(super) fn expires_unix_ms(&self) -> u64 {
        match self.ttl_seconds {
            0 => 0,
            seconds => self.seen_unix_ms + u64::from(seconds) * 1_000,
        }
    }

    pub(super) fn lease(&self) -> Lease {
        Lease {
            expires_unix_ms: self.expires_unix_ms(),
        }
    }
}

/// What the cluster holds.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) objects: Objects,
    pub(super) stamps: BTreeMap<Key, Stamp>,
    /// What is wrong with each object in itself.
    findings: BTreeMap<Key, Vec<Finding>>,
    pub(super) running: Running,
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
    pub(super) fn take(&mut self, change: Change, now_unix_ms: u64) -> bool {
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
    /// Everything that people applied, here or to the cluster.
    pub(super) fn written(&self) -> impl Iterator<Item = &Object> {
        let all = self.objects.values().chain(self.followed.objects.values());
        all.map(AsRef::as_ref)
    }

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

    pub(super) fn lower(&self, applied: &Objects) -> (World, Vec<Finding>) {
        resource::lower(&self.union(applied), Arc::new(self.running()))
    }
}
