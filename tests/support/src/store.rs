//! The objects and what happened to them: one counter for all, as etcd has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

/// Where an object is kept: `deployments.apps`, its namespace, its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// See [`crate::kinds::Kind::key`].
    pub resource: String,
    /// Empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Change {
    /// The counter's value after it.
    pub revision: u64,
    /// To what.
    pub key: Key,
    /// What was there.
    pub before: Option<Arc<Value>>,
    /// What is there.
    pub after: Option<Arc<Value>>,
}

/// All objects and a bounded history.
#[derive(Debug)]
pub struct Store {
    revision: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    compacted: u64,
    news: watch::Sender<u64>,
}

/// Changes that are kept for watches; older ones are compacted.
const HISTORY: usize = 20_000;

impl Default for Store {
    fn default() -> Self {
        Self {
            revision: 1,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted: 0,
            news: watch::Sender::new(1),
        }
    }
}

impl Store {
    /// The counter.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Up to which revision history is gone.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Tells of every new revision.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// A collection in order of namespace and name; an empty namespace means all.
    pub fn list<'a>(
        &'a self,
        resource: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let from = Key {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        self.objects.range(from..).take_while(move |(key, _)| {
            key.resource == resource && (namespace.is_empty() || key.namespace == namespace)
        })
    }

    /// Everything.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// A collection as it was at a revision that is still in history.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: &str,
        revision: u64,
    ) -> Vec<(Key, Arc<Value>)> {
        let mut then: BTreeMap<Key, Arc<Value>> = self
            .list(resource, namespace)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for change in self.history.iter().rev() {
            if change.revision <= revision {
                break;
            }
            let ours = change.key.resource == resource
                && (namespace.is_empty() || change.key.namespace == namespace);
            if !ours {
                continue;
            }
            match &change.before {
                Some(before) => then.insert(change.key.clone(), before.clone()),
                None => then.remove(&change.key),
            };
        }
        then.into_iter().collect()
    }

    /// Writes, and stamps the revision into the object.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), object.clone());
        self.note(key, before, Some(object.clone()));
        object
    }

    /// Removes; the answer carries the revision of the removal.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        self.note(key.clone(), Some(before.clone()), None);
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        Some(Arc::new(last))
    }

    fn note(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.history.push_back(Change {
            revision: self.revision,
            key,
            before,
            after,
        });
        if self.history.len() > HISTORY
            && let Some(gone) = self.history.pop_front()
        {
            self.compacted = gone.revision;
        }
        self.news.send_replace(self.revision);
    }

    /// Changes of a collection after a revision; nothing if history does not reach back.
    pub fn since(&self, resource: &str, namespace: &str, revision: u64) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let from = self.history.partition_point(|c| c.revision <= revision);
        Some(
            self.history
                .range(from..)
                .filter(|c| {
                    c.key.resource == resource
                        && (namespace.is_empty() || c.key.namespace == namespace)
                })
                .cloned()
                .collect(),
        )
    }

    /// All changes after a revision; nothing if history does not reach back.
    pub fn since_all(&self, revision: u64) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let from = self.history.partition_point(|c| c.revision <= revision);
        Some(self.history.range(from..).cloned().collect())
    }

    /// Forgets all history, as etcd's compaction does.
    pub fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
        self.news.send_replace(self.revision);
    }
}
