//! The way out of a catalogue: what changed against what was said already, gathered into batches.
//!
//! Whoever follows says again and again how each of its services is now; only what differs leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Change;
use crate::resource::Key;
use crate::rt::now;

/// A batch is handed on when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// But no later than this after its first change.
const PATIENCE: Duration = Duration::from_millis(500);

/// Objects, by who they are.
pub(super) type Made = BTreeMap<Key, Arc<Value>>;

/// What was said, and what is still to be.
#[derive(Debug)]
pub(super) struct Outlet {
    out: mpsc::Sender<Vec<Change>>,
    /// What each owner's objects are, as was said or is about to be.
    said: BTreeMap<String, Made>,
    pending: BTreeMap<Key, Option<Arc<Value>>>,
    complete: bool,
    /// Since when there is something to hand on, and when the last of it came.
    since: Option<(Instant, Instant)>,
}

impl Outlet {
    /// One that says nothing until it is [`complete`](Self::complete).
    pub(super) fn new(out: mpsc::Sender<Vec<Change>>) -> Self {
        Self {
            out,
            said: BTreeMap::new(),
            pending: BTreeMap::new(),
            complete: false,
            since: None,
        }
    }

    /// These are all objects of `owner` now.
    pub(super) fn put(&mut self, owner: &str, made: Made) {
        let before = if made.is_empty() {
            self.said.remove(owner)
        } else {
            self.said.insert(owner.to_owned(), made.clone())
        };
        let before = before.unwrap_or_default();
        let gone = before.keys().filter(|key| !made.contains_key(*key));
        let gone: Vec<Key> = gone.cloned().collect();
        let mut changed = !gone.is_empty();
        for key in gone {
            // Another owner may have it now.
            let left = self.said.values().find_map(|made| made.get(&key)).cloned();
            self.pending.insert(key, left);
        }
        for (key, value) in made {
            if before.get(&key) != Some(&value) {
                changed = true;
                self.pending.insert(key, Some(value));
            }
        }
        if changed {
            self.touch();
        }
    }

    /// How many objects of `kind` are known.
    pub(super) fn count(&self, kind: &str) -> usize {
        let all = self.said.values().flat_map(BTreeMap::keys);
        all.filter(|key| key.kind == kind).count()
    }

    /// Everything was said once.
    pub(super) fn complete(&mut self) {
        if !self.complete {
            self.complete = true;
            self.touch();
        }
    }

    fn touch(&mut self) {
        let now = now();
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// Resolves when there is a batch to hand on.
    pub(super) async fn due(&self) {
        match self.since {
            // What is not complete would look as if the rest had been deleted.
            Some((first, last)) if self.complete => {
                tokio::time::sleep_until((last + QUIET).min(first + PATIENCE)).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// Hands the batch on; false when nobody wants it any more.
    pub(super) async fn flush(&mut self) -> bool {
        self.since = None;
        let batch = std::mem::take(&mut self.pending).into_iter();
        let batch = batch.map(|(key, object)| Change {
            key,
            object: object.map(|object| object.to_string().into()),
        });
        self.out.send(batch.collect()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            kind: "ServiceEntry".to_owned(),
            namespace: "consul".to_owned(),
            name: name.to_owned(),
        }
    }

    fn made(names: &[(&str, u32)]) -> Made {
        let objects = names.iter();
        objects
            .map(|(name, value)| (key(name), Arc::new((*value).into())))
            .collect()
    }

    fn change(name: &str, value: Option<u32>) -> Change {
        Change {
            key: key(name),
            object: value.map(|value| value.to_string().into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_differs_leaves_and_nothing_before_all_is_known() {
        let (out, mut batches) = mpsc::channel(1);
        let mut outlet = Outlet::new(out);
        outlet.put("web", made(&[("web", 1), ("web-1", 1)]));
        let early = tokio::time::timeout(Duration::from_secs(9), outlet.due()).await;
        assert!(early.is_err());
        outlet.complete();
        outlet.due().await;
        assert!(outlet.flush().await);
        assert_eq!(
            batches.recv().await.unwrap(),
            [change("web", Some(1)), change("web-1", Some(1))]
        );
        // The same again is nothing.
        outlet.put("web", made(&[("web", 1), ("web-1", 1)]));
        let nothing = tokio::time::timeout(Duration::from_secs(9), outlet.due()).await;
        assert!(nothing.is_err());
        outlet.put("web", made(&[("web", 1), ("web-1", 2)]));
        outlet.put("db", made(&[("db", 1)]));
        outlet.put("db", Made::new());
        outlet.due().await;
        assert!(outlet.flush().await);
        assert_eq!(
            batches.recv().await.unwrap(),
            [change("db", None), change("web-1", Some(2))]
        );
        assert_eq!(outlet.count("ServiceEntry"), 2);
        drop(batches);
        outlet.put("web", Made::new());
        assert!(!outlet.flush().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_that_never_pauses_is_handed_on_all_the_same() {
        let (out, _batches) = mpsc::channel(1);
        let mut outlet = Outlet::new(out);
        outlet.complete();
        let started = now();
        for value in 0.. {
            outlet.put("web", made(&[("web", value)]));
            let pause = Duration::from_millis(20);
            if tokio::time::timeout(pause, outlet.due()).await.is_ok() {
                break;
            }
        }
        assert!(started.elapsed() <= PATIENCE + QUIET);
    }
}
