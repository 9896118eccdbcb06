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
        let orphan = options["propagationPolicy"] == "Orphan";
        let answer = state.remove(key, orphan, &now);
        state.settle(&now);
        Ok(answer.unwrap_or((object, true)))
    }
}

impl State {
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
        if held {
            if object["metadata"]["deletionTimestamp"].is_string() {
                return Some((object, false));
            }
            let mut marked = Value::clone(&object);
            marked["metadata"]["deletionTimestamp"] = now.into();
            marked["metadata"]["deletionGracePeriodSeconds"] = 0.into();
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
                let mut kept = Value::clone(&object);
                kept["metadata"]["ownerReferences"] = json!(others);
                if others.is_empty()
                    && let Some(m) = kept["metadata"].as_object_mut()
                {
                    m.shift_remove("ownerReferences");
                }
                self.store.put(key, kept);
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
        let marked: Vec<(Key, Arc<Value>)> = self
            .store
            .all()
            .filter(|(_, o)| o["metadata"]["deletionTimestamp"].is_string())
            .map(|(k, o)| (k.clone(), o.clone()))
            .collect();
        for (key, object) in marked {
            if key.resource != "namespaces" {
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
