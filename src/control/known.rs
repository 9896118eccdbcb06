//! What the writer knows: applied objects, registered instances, and what a cluster holds beside
//! them. On Kubernetes the API server is the store, so nothing of the latter is written to ours.
//!
//! Plain data, and the world that it makes. Who changes it, and that the store has it first, is left
//! to `index`, `registry` and `follow`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::registry::Lease;
use crate::api::{Problem, Reason};
use crate::mesh::jwt_authn::{KeySets, KeySource};
use crate::mesh::{Finding, Instance, Severity, World};
use crate::resource::codes;
use crate::resource::{self, Instances, Key, Object, Objects, Running};
use crate::source::{Change, MADE_FROM};

use super::attest::{Attested, Counted};
use super::enrolled::Enrolled;
use super::history::Ledger;

/// What the writer knows; held while a write is under way, so that writes have an order.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: Objects,
    pub(super) followed: Followed,
    pub(super) stored: BTreeMap<Key, Stamp>,
    /// Who registered here.
    enrolled: Enrolled,
    /// What registered here and what runs in the cluster, which wins.
    running: Instances,
    /// Number of the newest change of configuration.
    pub(super) revision: u64,
    /// Number of the newest world, instances included.
    pub(super) generation: u64,
    pub(super) findings: Vec<Finding>,
    /// Keys of token issuers that were fetched.
    pub(super) keys: KeySets,
    /// When each of them was fetched last, in milliseconds since the epoch.
    pub(super) keys_had: BTreeMap<KeySource, u64>,
    /// Sets that rules which are about to be in force name.
    pub(super) keys_wanted: Vec<KeySource>,
    /// Why keys could not be had last time.
    pub(super) missing_keys: BTreeMap<KeySource, String>,
    /// How much of the past is kept.
    pub(super) history: Ledger,
    /// What people wrote changed since that was published last.
    pub(super) rewritten: bool,
    /// Who runs in the cluster.
    counted: Counted,
    /// They say otherwise of themselves than when that was published last.
    said_otherwise: bool,
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
    /// Which objects cannot be read, as the cluster has them: the one in `objects` is an earlier one, if any.
    unread: BTreeMap<Key, Unread>,
    /// Grows with what is wrong with objects in themselves.
    pub(super) wrongs: u64,
    pub(super) running: Running,
}

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) api_version: String,
    /// Of which object of that name.
    pub(super) uid: String,
    pub(super) generation: u64,
}

impl Unread {
    fn of(value: &serde_json::Value) -> Self {
        let text = |pointer: &str| value.pointer(pointer).and_then(serde_json::Value::as_str);
        let generation = value.pointer("/metadata/generation");
        Self {
            api_version: text("/apiVersion").unwrap_or_default().to_owned(),
            uid: text("/metadata/uid").unwrap_or_default().to_owned(),
            generation: generation
                .and_then(serde_json::Value::as_u64)
                .unwrap_or_default(),
        }
    }
}

impl Followed {
    /// Objects that cannot be read, and why.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&Key, &Unread, &[Finding])> {
        self.unread.iter().map(|(key, unread)| {
            let findings = self.findings.get(key).map_or(&[][..], Vec::as_slice);
            (key, unread, findings)
        })
    }

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
            Some(key) => {
                let object = self.objects.get(key);
                let (keeper, hint) = match object.and_then(|object| made_from(&object.raw)) {
                    None => ("Kubernetes", "change it with kubectl; the mesh follows"),
                    Some(keeper) => (keeper, "change it there; the mesh follows"),
                };
                let message = format!("{key} is kept in {keeper} and cannot be changed here");
                Err(Problem::new(Reason::Conflict, message).hint(hint))
            }
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
        if key.kind == "Service" {
            self.running.service(&key.namespace, &key.name);
        }
        let Some(text) = object else {
            if self.findings.remove(&key).is_some() {
                self.wrongs += 1;
            }
            self.unread.remove(&key);
            self.stamps.remove(&key);
            return self.objects.remove(&key).is_some();
        };
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(%key, %error, "this object cannot be read; the last good one stays in force");
                return false;
            }
        };
        let (object, mut findings) = resource::from_cluster(&value);
        // What has no effect on proxies that people start is for what is made here.
        findings
            .retain(|of| of.code != codes::IGNORED || !of.path.starts_with("spec.infrastructure."));
        let from = made_from(&value).unwrap_or("Kubernetes");
        let generation = value
            .pointer("/metadata/generation")
            .and_then(Value::as_u64);
        for finding in &findings {
            if finding.severity == Severity::Error {
                tracing::error!(%finding, generation, from, "the last good one stays in force");
            } else {
                tracing::debug!(%finding, generation, from, "followed");
            }
        }
        let unread = object.is_none().then(|| Unread::of(&value));
        let known = self.findings.get(&key).map_or(&[][..], Vec::as_slice);
        if known != findings || self.unread.get(&key) != unread.as_ref() {
            self.wrongs += 1;
        }
        if findings.is_empty() {
            self.findings.remove(&key);
        } else {
            self.findings.insert(key.clone(), findings);
        }
        match unread {
            Some(unread) => self.unread.insert(key.clone(), unread),
            None => self.unread.remove(&key),
        };
        let Some(object) = object else { return false };
        let created = object
            .metadata
            .created
            .as_deref()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .and_then(|at| u64::try_from(at.as_millisecond()).ok())
            .unwrap_or(now_unix_ms);
        let object = Arc::new(object);
        let known = self.objects.insert(key.clone(), Arc::clone(&object));
        if known
            .as_ref()
            .is_some_and(|known| asks_the_same(&known.raw, &object.raw))
        {
            return false;
        }
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

/// Whether two forms of an object ask for the same: whatever is written to a status, ours too, counts an object on,
/// and is no reason to make the world again.
fn asks_the_same(before: &Value, now: &Value) -> bool {
    const METADATA: [&str; 3] = ["resourceVersion", "generation", "managedFields"];
    fn without<'a>(object: &'a Value, fields: &[&str]) -> BTreeMap<&'a str, &'a Value> {
        let all = object.as_object().into_iter().flatten();
        let all = all.map(|(name, value)| (name.as_str(), value));
        all.filter(|(name, _)| !fields.contains(name)).collect()
    }
    let metadata = |object: &Value| object.get("metadata").cloned().unwrap_or_default();
    without(before, &["metadata", "status"]) == without(now, &["metadata", "status"])
        && without(&metadata(before), &METADATA) == without(&metadata(now), &METADATA)
}

/// The source that an object was made from, if nobody wrote it.
fn made_from(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    annotations.get(MADE_FROM)?.as_str()
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
    pub(super) fn running(&self) -> Instances {
        self.running.clone()
    }

    /// Who registered here.
    pub(super) fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    /// Adds or renews an instance.
    pub(super) fn enroll(&mut self, registered: Registered) {
        let key = registered.key();
        self.enrolled.insert(registered);
        self.show(&key);
    }

    /// Changes what is known of an instance; gives whether there is one.
    pub(super) fn revise(
        &mut self,
        key: &(String, String),
        change: impl FnOnce(&mut Registered),
    ) -> bool {
        let Some(registered) = self.enrolled.get_mut(key) else {
            return false;
        };
        change(registered);
        self.show(key);
        true
    }

    /// Takes an instance out.
    pub(super) fn dismiss(&mut self, key: &(String, String)) {
        self.enrolled.remove(key);
        self.show(key);
    }

    /// Those whose term has ended.
    pub(super) fn ended(&mut self, now_unix_ms: u64) -> BTreeSet<(String, String)> {
        self.enrolled.ended(now_unix_ms)
    }

    /// Takes in what runs in the cluster now; gives whether anything of it is new.
    pub(super) fn take_running(&mut self) -> bool {
        let followed = &mut self.followed;
        let moved = followed.running.settle(&followed.objects);
        for one in &moved {
            let now = followed.running.instance(&one.key);
            let (before, now) = (one.before.as_deref(), now.map(AsRef::as_ref));
            self.said_otherwise |= self.counted.moved(before, now);
        }
        for one in &moved {
            self.show(&one.key);
        }
        !moved.is_empty()
    }

    /// What is known of who may say what of itself in `world`.
    pub(super) fn attested(&self, world: &World) -> Attested {
        Attested::new(self.written(), self.counted.running(), world)
    }

    /// The same, out of what was known `before`, if anything of it changed since the last call. `configured` is
    /// whether that was of another configuration.
    pub(super) fn attested_again(
        &mut self,
        before: &Attested,
        world: &World,
        configured: bool,
    ) -> Option<Attested> {
        let rewritten = std::mem::take(&mut self.rewritten);
        let otherwise = std::mem::take(&mut self.said_otherwise);
        if configured || rewritten {
            return Some(self.attested(world));
        }
        otherwise.then(|| before.with(self.counted.running()))
    }

    /// Brings up to date what runs under `key`.
    fn show(&mut self, key: &(String, String)) {
        let followed = self.followed.running.instance(key);
        let registered = || {
            self.enrolled
                .get(key)
                .map(|registered| &registered.instance)
        };
        match followed.or_else(registered) {
            Some(instance) => {
                let shown = self.running.get(key);
                if !shown.is_some_and(|shown| Arc::ptr_eq(shown, instance)) {
                    self.running.insert(key.clone(), Arc::clone(instance));
                }
            }
            None => {
                self.running.remove(key);
            }
        }
    }

    pub(super) fn lower(&self, applied: &Objects) -> (World, Vec<Finding>) {
        let (mut world, findings) = resource::lower(&self.union(applied), self.running());
        if !self.keys.is_empty() {
            Arc::make_mut(&mut world.config).put_keys(&self.keys);
        }
        (world, findings)
    }
}

#[cfg(test)]
mod tests;
