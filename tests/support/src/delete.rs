//! Deleting: finalizers, dependents, and namespaces that empty themselves.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::server::{Server, State, key_of};
use crate::status::{Answer, Refusal};
use crate::store::Key;

impl Server {
    /// Deletes one object, or marks it if finalizers hold it.
    pub fn delete(
        &self,
        kind: &Kind,
        key: &Key,
        options: &Value,
        dry: bool,
    ) -> Answer<(Arc<Value>, bool)> {
        let now = self.timestamp();
        let mut state = self.state();
        let Some(object) = state.store.get(key) else {
            return Err(Refusal::not_found(&kind.plural, &kind.group, &key.name));
        };
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if wanted.is_string() && *wanted != object["metadata"][field] {
                return Err(Refusal::conflict(&kind.plural, &kind.group, &key.name));
            }
        }
        if dry {
            return Ok((object, true));
        }
        let answer = state.dismiss(key, options, &now);
        state.settle(&now);
        Ok(answer.unwrap_or((object, true)))
    }
}

/// Holds an object until those are gone that say that they block it.
const FOREGROUND: &str = "foregroundDeletion";

impl State {
    /// Deletes as somebody asks for it: what becomes of dependents, and how long a pod has.
    pub fn dismiss(&mut self, key: &Key, options: &Value, now: &str) -> Option<(Arc<Value>, bool)> {
        match options["propagationPolicy"].as_str() {
            Some("Orphan") => {
                let object = self.store.get(key)?;
                self.disown(&object["metadata"]["uid"]);
            }
            Some("Foreground") => {
                let object = self.store.get(key)?;
                let mut held = Value::clone(&object);
                let mut finalizers = held["metadata"]["finalizers"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                if !finalizers.iter().any(|f| f == FOREGROUND) {
                    finalizers.push(FOREGROUND.into());
                }
                held["metadata"]["finalizers"] = finalizers.into();
                self.store.put(key.clone(), held);
            }
            _ => {}
        }
        if key.resource == "pods" && options["gracePeriodSeconds"] == 0 {
            return self.ended(key, now);
        }
        self.remove(key, false, now)
    }

    /// A pod whose containers have ended.
    pub fn ended(&mut self, key: &Key, now: &str) -> Option<(Arc<Value>, bool)> {
        let kubelet = std::mem::replace(&mut self.kubelet, false);
        let answer = self.remove(key, false, now);
        self.kubelet = kubelet;
        answer
    }

    /// Takes an owner's references out of its dependents.
    fn disown(&mut self, uid: &Value) {
        let dependents: Vec<(Key, Arc<Value>)> = self
            .store
            .all()
            .filter(|(_, o)| owners(o).any(|r| r["uid"] == *uid))
            .map(|(k, o)| (k.clone(), o.clone()))
            .collect();
        for (key, object) in dependents {
            let others: Vec<Value> = owners(&object)
                .filter(|r| r["uid"] != *uid)
                .cloned()
                .collect();
            self.keep(key, &object, others);
        }
    }

    /// Writes a dependent with the owners that are left.
    fn keep(&mut self, key: Key, object: &Value, owners: Vec<Value>) {
        let mut kept = object.clone();
        if owners.is_empty() {
            if let Some(m) = kept["metadata"].as_object_mut() {
                m.shift_remove("ownerReferences");
            }
        } else {
            kept["metadata"]["ownerReferences"] = owners.into();
        }
        self.store.put(key, kept);
    }

    /// Seconds that a running pod has to end; none if it goes at once.
    fn grace(&self, key: &Key, object: &Value) -> Option<i64> {
        let runs = key.resource == "pods"
            && self.kubelet
            && object["spec"]["nodeName"].is_string()
            && object["status"]["phase"] != "Succeeded"
            && object["status"]["phase"] != "Failed";
        let seconds = object["spec"]["terminationGracePeriodSeconds"].as_i64();
        seconds.filter(|s| runs && *s > 0)
    }

    /// Removes, or marks. The answer's flag says whether it is gone.
    pub fn remove(&mut self, key: &Key, orphan: bool, now: &str) -> Option<(Arc<Value>, bool)> {
        let object = self.store.get(key)?;
        let is_namespace = key.resource == "namespaces";
        let held = object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty())
            || (is_namespace
                && object["spec"]["finalizers"]
                    .as_array()
                    .is_some_and(|f| !f.is_empty()));
        let grace = self.grace(key, &object);
        if held || grace.is_some() {
            if object["metadata"]["deletionTimestamp"].is_string() {
                return Some((object, false));
            }
            let mut marked = Value::clone(&object);
            marked["metadata"]["deletionTimestamp"] = now.into();
            marked["metadata"]["deletionGracePeriodSeconds"] = grace.unwrap_or(0).into();
            if is_namespace {
                marked["status"]["phase"] = "Terminating".into();
            } else if let Some(generation) = marked["metadata"]["generation"].as_i64() {
                marked["metadata"]["generation"] = (generation + 1).into();
            }
            return Some((self.store.put(key.clone(), marked), false));
        }
        let gone = self.store.remove(key)?;
        self.after(key, &gone, orphan, now);
        Some((gone, true))
    }

    /// What follows when an object is gone: its kind, its objects, its dependents.
    pub fn after(&mut self, key: &Key, gone: &Value, orphan: bool, now: &str) {
        if key.resource == crate::server::DEFINITIONS {
            let keys: Vec<Key> = self
                .store
                .list(&key.name, "")
                .map(|(k, _)| k.clone())
                .collect();
            for key in keys {
                self.remove(&key, false, now);
            }
            self.kinds
                .retain(|k| k.custom.is_none() || k.key() != key.name);
        }
        let uid = gone["metadata"]["uid"].clone();
        let dependents: Vec<(Key, Arc<Value>)> = self
            .store
            .all()
            .filter(|(_, o)| owners(o).any(|r| r["uid"] == uid))
            .map(|(k, o)| (k.clone(), o.clone()))
            .collect();
        for (key, object) in dependents {
            let others: Vec<Value> = owners(&object)
                .filter(|r| r["uid"] != uid && self.lives(&r["uid"]))
                .cloned()
                .collect();
            if orphan || !others.is_empty() {
                self.keep(key, &object, others);
            } else {
                self.remove(&key, false, now);
            }
        }
    }

    fn lives(&self, uid: &Value) -> bool {
        self.store.all().any(|(_, o)| o["metadata"]["uid"] == *uid)
    }

    /// Objects whose last finalizer is gone go, and so do namespaces that are empty.
    pub fn settle(&mut self, now: &str) {
        // Each that goes may free another.
        loop {
            let before = self.store.revision();
            self.settle_once(now);
            if self.store.revision() == before {
                return;
            }
        }
    }

    /// In the foreground: dependents first. True if none is left that blocks the owner.
    fn unblock(&mut self, key: &Key, object: &Value, now: &str) {
        let uid = &object["metadata"]["uid"];
        let dependents: Vec<(Key, bool)> = self
            .store
            .all()
            .filter_map(|(k, o)| {
                let mut mine = owners(o).filter(|r| r["uid"] == *uid);
                let mine = mine.next()?;
                Some((k.clone(), mine["blockOwnerDeletion"] == true))
            })
            .collect();
        for (dependent, _) in &dependents {
            let going = self
                .store
                .get(dependent)
                .is_none_or(|o| o["metadata"]["deletionTimestamp"].is_string());
            if !going {
                self.dismiss(dependent, &json!({"propagationPolicy": "Foreground"}), now);
            }
        }
        let blocked = dependents
            .iter()
            .any(|(k, blocks)| *blocks && self.store.get(k).is_some());
        if !blocked && let Some(object) = self.store.get(key) {
            let mut free = Value::clone(&object);
            if let Some(all) = free["metadata"]["finalizers"].as_array_mut() {
                all.retain(|f| f != FOREGROUND);
            }
            self.store.put(key.clone(), free);
        }
    }

    fn settle_once(&mut self, now: &str) {
        let marked: Vec<(Key, Arc<Value>)> = self
            .store
            .all()
            .filter(|(_, o)| o["metadata"]["deletionTimestamp"].is_string())
            .map(|(k, o)| (k.clone(), o.clone()))
            .collect();
        for (key, object) in marked {
            let foreground = object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|f| f.iter().any(|f| f == FOREGROUND));
            if foreground {
                self.unblock(&key, &object, now);
                continue;
            }
            if key.resource != "namespaces" {
                if key.resource == "pods" && self.grace(&key, &object).is_some() {
                    // The kubelet is at it.
                    continue;
                }
                if object["metadata"]["finalizers"]
                    .as_array()
                    .is_none_or(Vec::is_empty)
                {
                    self.remove(&key, false, now);
                }
                continue;
            }
            let inside: Vec<Key> = self
                .store
                .all()
                .filter(|(k, _)| k.namespace == key.name)
                .map(|(k, _)| k.clone())
                .collect();
            for inner in inside {
                self.remove(&inner, false, now);
            }
            let empty = !self.store.all().any(|(k, _)| k.namespace == key.name);
            let held = object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty());
            let foreign = object["spec"]["finalizers"]
                .as_array()
                .is_some_and(|f| f.iter().any(|f| f != "kubernetes"));
            if empty
                && !held
                && !foreign
                && let Some(gone) = self.store.remove(&key)
            {
                self.after(&key, &gone, false, now);
            }
        }
    }

    /// After an update: an object that was marked may be free to go.
    pub fn updated(&mut self, kind: &Kind, object: &Value, now: &str) -> bool {
        self.follow(kind, object);
        if object["metadata"]["deletionTimestamp"].is_string() {
            self.settle(now);
            return self.store.get(&key_of(kind, object)).is_none();
        }
        false
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
}
