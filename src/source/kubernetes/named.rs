//! Objects that are followed one by one: Secrets that gateways show, and roots that they hold others against.
//!
//! Each has a watch of its own, by its name, so that nothing else of its kind ever comes here, whatever the account
//! may read. (A list of all Secrets, or of all of type `kubernetes.io/tls`, would have every key of the cluster in
//! our memory, and Istio's generic ones not among them.) How they stand is told as one kind.

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

use super::Change;
use super::kinds::NAMED;
use super::watch::{Said, Word, watch};
use crate::resource::Key;
use crate::rt::Tasks;

/// Follows what is wanted.
pub(super) struct Follower {
    client: Client,
    /// Its place among kinds.
    place: usize,
    words: mpsc::Sender<Word>,
    absent: channel::Sender<BTreeSet<Key>>,
    tasks: Tasks,
    followed: BTreeMap<Key, One>,
    /// Which watch is whose; watches that ended have none.
    slots: BTreeMap<usize, Key>,
    next: usize,
}

struct One {
    slot: usize,
    ends: CancellationToken,
    there: bool,
    trouble: Option<Trouble>,
}

#[derive(Clone)]
enum Trouble {
    /// The server does not answer for it.
    Away(String),
    /// It may not be read.
    Forbidden(String),
}

impl Follower {
    pub(super) fn new(
        client: Client,
        place: usize,
        words: mpsc::Sender<Word>,
        absent: channel::Sender<BTreeSet<Key>>,
        tasks: Tasks,
    ) -> Self {
        Self {
            client,
            place,
            words,
            absent,
            tasks,
            followed: BTreeMap::new(),
            slots: BTreeMap::new(),
            next: 0,
        }
    }

    /// Runs until nobody wants anything any more.
    pub(super) async fn run(mut self, mut wanted: channel::Receiver<BTreeSet<Key>>) {
        let (say, mut said) = mpsc::channel(64);
        loop {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = wanted.borrow_and_update().clone();
                    self.want(now, &say).await;
                }
                Some(word) = said.recv() => self.hear(word).await,
            }
        }
    }

    async fn want(&mut self, wanted: BTreeSet<Key>, say: &mpsc::Sender<Word>) {
        let gone: Vec<Key> = self
            .followed
            .keys()
            .filter(|key| !wanted.contains(*key))
            .cloned()
            .collect();
        let mut changes = Vec::new();
        for key in gone {
            if let Some(one) = self.followed.remove(&key) {
                one.ends.cancel();
                self.slots.remove(&one.slot);
                self.absent.send_if_modified(|absent| absent.remove(&key));
                if one.there {
                    changes.push(Change { key, object: None });
                }
            }
        }
        if !changes.is_empty() {
            self.tell(changes).await;
        }
        for key in wanted {
            if self.followed.contains_key(&key) {
                continue;
            }
            let Some(kind) = NAMED.iter().find(|kind| kind.name == key.kind) else {
                continue;
            };
            let (slot, ends) = (self.next, CancellationToken::new());
            self.next += 1;
            let only = Some((key.namespace.clone(), key.name.clone()));
            let watching = watch(self.client.clone(), (kind, only), slot, say.clone());
            let end = ends.clone();
            self.tasks.spawn("kubernetes", async move {
                tokio::select! {
                    () = watching => {}
                    () = end.cancelled() => {}
                }
            });
            self.slots.insert(slot, key.clone());
            let one = One {
                slot,
                ends,
                there: false,
                trouble: None,
            };
            self.followed.insert(key, one);
        }
    }

    async fn hear(&mut self, word: Word) {
        let Some(key) = self.slots.get(&word.kind) else {
            return;
        };
        let Some(one) = self.followed.get_mut(key) else {
            return;
        };
        one.there = word.objects > 0;
        let (changes, trouble, answered) = match word.said {
            Said::Changed(changes) => (changes, None, true),
            Said::Answers => (Vec::new(), None, false),
            Said::OnlyListed(changes, reason) => (changes, Some(Trouble::Away(reason)), true),
            Said::Missing(changes, reason) => (changes, Some(Trouble::Forbidden(reason)), true),
            Said::Unread(reason) | Said::Failed(reason) => {
                (Vec::new(), Some(Trouble::Away(reason)), false)
            }
        };
        one.trouble = trouble;
        let (key, there) = (key.clone(), one.there);
        self.tell(changes).await;
        self.absent.send_if_modified(|absent| {
            if there {
                absent.remove(&key)
            } else {
                answered && absent.insert(key)
            }
        });
    }

    /// Passes `changes` on, with how all of them stand.
    async fn tell(&self, changes: Vec<Change>) {
        let troubles = || self.followed.values().filter_map(|one| one.trouble.clone());
        let away = troubles().find_map(|trouble| match trouble {
            Trouble::Away(reason) => Some(reason),
            Trouble::Forbidden(_) => None,
        });
        let forbidden = troubles().find_map(|trouble| match trouble {
            Trouble::Forbidden(reason) => Some(reason),
            Trouble::Away(_) => None,
        });
        let said = match (away, forbidden) {
            (Some(reason), _) if changes.is_empty() => Said::Failed(reason),
            (Some(reason), _) => Said::OnlyListed(changes, reason),
            (None, Some(reason)) => Said::Missing(changes, reason),
            (None, None) => Said::Changed(changes),
        };
        let word = Word {
            kind: self.place,
            said,
            objects: self.followed.values().filter(|one| one.there).count(),
        };
        // Nobody listens any more when the control plane is ending.
        let _heard = self.words.send(word).await.is_ok();
    }
}
