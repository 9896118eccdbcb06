//! The serving side of a delta stream.
//!
//! What is to be said is kept by name and judged again only for the names that something happened
//! to: a mesh has tens of thousands, and each client hears of one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};

use crate::rt::{HashMap, HashSet};

use super::super::pb::Any;
use super::super::snapshot::{Kind, Name, Snapshot};
use super::{Event, REMOVALS, Server, Standing, mentioned, waits};

/// A response ends with the resource that reaches this size, and the rest follows in others: a client
/// that gets everything anew must not cost the control plane all of it at once. Each client has one on
/// its way, as a message and as bytes; with 1 MiB, 500 that came at once took 1.2 GB.
const ENOUGH_BYTES: usize = 256 << 10;

/// What one client subscribed to, has, and is owed.
#[derive(Debug)]
pub struct DeltaServer {
    snapshot: Arc<Snapshot>,
    revision: u64,
    topics: BTreeMap<Kind, Topic>,
    /// Clusters that were sent and whose endpoints have not been sent since.
    owed: BTreeSet<Name>,
    /// Endpoints that the client refused: sent again with a change, or on its next stream.
    refused: BTreeSet<Name>,
    nonce: u64,
    enough_bytes: usize,
}

/// One type on one stream.
#[derive(Debug, Default)]
struct Topic {
    wildcard: bool,
    /// Hashed, as is what is held: each step of a search through a tree of all names of a mesh would be
    /// to memory that no other stream has touched.
    names: HashSet<Name>,
    /// What the client has by version; `None` when it was told that there is no such resource.
    held: HashMap<Name, Option<Arc<str>>>,
    /// How many of these are there.
    resources: usize,
    /// To be answered whatever the client has.
    again: BTreeSet<Name>,
    /// What is to be said.
    pending: Pending,
    /// The client awaits a first answer, be it empty.
    answer: bool,
    outstanding: Option<Outstanding>,
    /// The last answer was refused.
    rejected: bool,
    sent: Option<u64>,
    acked: u64,
}

#[derive(Debug)]
struct Outstanding {
    nonce: String,
    names: Vec<Name>,
    covers: u64,
}

/// What is to be said about one type; a name stands in one of them at most.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pending {
    updates: BTreeSet<Name>,
    /// Asked for, but there is no such resource.
    absent: BTreeSet<Name>,
    /// Had by the client, and gone.
    removals: BTreeSet<Name>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.absent.is_empty()
    }
}

/// What is to be said about one name.
enum Word {
    Nothing,
    Update,
    Absent,
    Removal,
}

impl Topic {
    fn word(&self, kind: Kind, name: &Name, snapshot: &Snapshot, owed: &BTreeSet<Name>) -> Word {
        let held = self.held.get(name);
        let again = self.again.contains(name);
        if let Some(resource) = snapshot.get(kind, name) {
            let due = kind == Kind::Endpoint && owed.contains(name);
            let wanted = self.wildcard || self.names.contains(name) || due;
            let has = held.is_some_and(|held| held.as_ref() == Some(&resource.version));
            return if wanted && (!has || due || again) {
                Word::Update
            } else {
                Word::Nothing
            };
        }
        match held {
            _ if again => Word::Absent,
            None if self.names.contains(name) => Word::Absent,
            Some(Some(_)) => Word::Removal,
            _ => Word::Nothing,
        }
    }

    /// Judges `name` again.
    fn touch(&mut self, kind: Kind, name: &Name, snapshot: &Snapshot, owed: &BTreeSet<Name>) {
        self.pending.updates.remove(name);
        self.pending.absent.remove(name);
        self.pending.removals.remove(name);
        match self.word(kind, name, snapshot, owed) {
            Word::Nothing => return,
            Word::Update => &mut self.pending.updates,
            Word::Absent => &mut self.pending.absent,
            Word::Removal => &mut self.pending.removals,
        }
        .insert(Arc::clone(name));
    }

    fn hold(&mut self, name: &Name, version: Option<Arc<str>>) {
        self.resources += usize::from(version.is_some());
        let before = self.held.insert(Arc::clone(name), version);
        self.resources -= usize::from(before.flatten().is_some());
    }

    fn let_go(&mut self, name: &Name) {
        let before = self.held.remove(name);
        self.resources -= usize::from(before.flatten().is_some());
    }

    fn subscribe(&mut self, name: Name, first: bool) {
        // A client that asks again has forgotten; one that reconnects says what it has.
        if !(first && self.held.contains_key(&name)) {
            self.again.insert(Arc::clone(&name));
        }
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &Name) {
        self.names.remove(name);
        if self.wildcard {
            // The client must learn whether the wildcard still covers it.
            self.again.insert(Arc::clone(name));
        } else {
            self.let_go(name);
            self.again.remove(name);
        }
    }

    /// Everything is wanted from now on, or only what is named.
    fn widen(&mut self, wildcard: bool) {
        self.answer = if wildcard {
            self.answer || !self.wildcard
        } else {
            false
        };
        self.wildcard = wildcard;
        if !wildcard {
            let others = self.held.keys().filter(|name| !self.names.contains(*name));
            for name in others.cloned().collect::<Vec<_>>() {
                self.let_go(&name);
            }
        }
    }
}

/// `name` as the snapshot has it, so that it is in memory once.
fn known(snapshot: &Snapshot, kind: Kind, name: &str) -> Name {
    snapshot
        .name(kind, name)
        .cloned()
        .unwrap_or_else(|| name.into())
}

impl DeltaServer {
    /// Judges `names` of a topic again.
    fn touch<'a>(&mut self, kind: Kind, names: impl IntoIterator<Item = &'a Name>) {
        if let Some(topic) = self.topics.get_mut(&kind) {
            for name in names {
                topic.touch(kind, name, &self.snapshot, &self.owed);
            }
        }
    }

    /// Judges everything of a topic again that there is, that the client has or that it asked for.
    fn touch_all(&mut self, kind: Kind) {
        let Some(topic) = self.topics.get_mut(&kind) else {
            return;
        };
        let mut names: BTreeSet<Name> = self
            .snapshot
            .of(kind)
            .map(|(name, _)| name.clone())
            .collect();
        names.extend(
            topic
                .held
                .keys()
                .chain(&topic.names)
                .chain(&topic.again)
                .cloned(),
        );
        let before = std::mem::take(&mut topic.pending);
        names.extend(before.updates);
        names.extend(before.absent);
        names.extend(before.removals);
        for name in &names {
            topic.touch(kind, name, &self.snapshot, &self.owed);
        }
    }

    /// Ends responses after a few bytes.
    #[cfg(test)]
    pub(super) fn in_small_pieces(&mut self) {
        self.enough_bytes = 12;
    }

    /// Whether judging everything anew would come to what is kept.
    #[cfg(test)]
    pub(super) fn is_judged(&mut self) -> bool {
        let kinds: Vec<Kind> = self.topics.keys().copied().collect();
        kinds.into_iter().all(|kind| {
            let kept = self
                .topics
                .get_mut(&kind)
                .map(|topic| std::mem::take(&mut topic.pending));
            self.touch_all(kind);
            self.pending(kind) == kept.as_ref()
        })
    }

    fn pending(&self, kind: Kind) -> Option<&Pending> {
        self.topics.get(&kind).map(|topic| &topic.pending)
    }

    fn acknowledge(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Option<Event> {
        let topic = self.topics.get_mut(&kind)?;
        // Another nonce than the one that is out is of an earlier response.
        let out = topic
            .outstanding
            .take_if(|out| out.nonce == request.response_nonce)?;
        let Some(error) = &request.error_detail else {
            topic.rejected = false;
            topic.acked = out.covers;
            return Some(Event::Acked(kind));
        };
        topic.rejected = true;
        if kind == Kind::Endpoint {
            self.refused.extend(out.names.iter().cloned());
        }
        Some(Event::Nacked {
            kind,
            reason: error.message.clone(),
            resources: mentioned(&error.message, out.names.iter()),
        })
    }

    /// What of `updates` goes into one response.
    fn enough(&self, kind: Kind, updates: &BTreeSet<Name>) -> Vec<Name> {
        let mut bytes = 0;
        let mut enough = Vec::new();
        for name in updates {
            enough.push(Arc::clone(name));
            bytes += self
                .snapshot
                .get(kind, name)
                .map_or(0, |resource| resource.bytes.len() + name.len());
            if bytes >= self.enough_bytes {
                break;
            }
        }
        enough
    }

    fn respond(
        &mut self,
        kind: Kind,
        updates: &[Name],
        removed: &[Name],
        covers: u64,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let topic = self.topics.entry(kind).or_default();
        let mut resources = Vec::with_capacity(updates.len());
        let mut owing = Vec::new();
        for name in updates {
            let Some(resource) = self.snapshot.get(kind, name) else {
                continue;
            };
            topic.hold(name, Some(Arc::clone(&resource.version)));
            match kind {
                Kind::Cluster => {
                    self.owed.insert(Arc::clone(name));
                    owing.push(Arc::clone(name));
                }
                Kind::Endpoint => {
                    self.owed.remove(name);
                    self.refused.remove(name);
                }
                Kind::Listener | Kind::Route | Kind::Secret => {}
            }
            resources.push(WireResource {
                name: name.to_string(),
                version: resource.version.to_string(),
                resource: Some(Any {
                    type_url: kind.type_url().to_owned(),
                    value: resource.bytes.to_vec(),
                }),
                ..Default::default()
            });
        }
        for name in removed {
            if topic.names.contains(name) {
                topic.hold(name, None);
            } else {
                topic.let_go(name);
            }
            if kind == Kind::Cluster {
                self.owed.remove(name);
                owing.push(Arc::clone(name));
            }
        }
        for name in updates.iter().chain(removed) {
            topic.again.remove(name);
        }
        topic.answer = false;
        topic.sent = Some(self.revision);
        topic.outstanding = Some(Outstanding {
            nonce: nonce.clone(),
            names: updates.to_vec(),
            covers,
        });
        self.touch(kind, updates.iter().chain(removed));
        self.touch(Kind::Endpoint, &owing);
        DeltaDiscoveryResponse {
            system_version_info: self.revision.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            nonce,
            ..Default::default()
        }
    }
}

impl Server for DeltaServer {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn new(snapshot: Arc<Snapshot>, revision: u64) -> Self {
        Self {
            snapshot,
            revision,
            topics: BTreeMap::new(),
            owed: BTreeSet::new(),
            refused: BTreeSet::new(),
            nonce: 0,
            enough_bytes: ENOUGH_BYTES,
        }
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Vec<Event> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return vec![Event::Unknown(request.type_url)];
        };
        let event = self.acknowledge(kind, &request);
        let first = !self.topics.contains_key(&kind);
        let snapshot = Arc::clone(&self.snapshot);
        let topic = self.topics.entry(kind).or_default();
        let mut touched = Vec::new();
        let mut widened = first && kind == Kind::Endpoint && !self.owed.is_empty();
        if first {
            for (name, version) in request.initial_resource_versions {
                let name = known(&snapshot, kind, &name);
                // The same text is in memory once.
                let ours = snapshot.get(kind, &name);
                let ours = ours.filter(|resource| *resource.version == *version);
                let version = ours.map_or_else(|| version.into(), |own| Arc::clone(&own.version));
                topic.hold(&name, Some(version));
                touched.push(name);
            }
            if request.resource_names_subscribe.is_empty() && kind.wildcard() {
                topic.wildcard = true;
                topic.answer = true;
                widened = true;
            }
        }
        // Also with a stale nonce: a client tells each change once.
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                topic.widen(false);
                widened = true;
                continue;
            }
            let name = known(&snapshot, kind, name);
            topic.unsubscribe(&name);
            touched.push(name);
        }
        for name in request.resource_names_subscribe {
            if name == "*" {
                topic.widen(true);
                widened = true;
                continue;
            }
            let name = known(&snapshot, kind, &name);
            topic.subscribe(Arc::clone(&name), first);
            touched.push(name);
        }
        if first && !topic.held.is_empty() {
            // It has something already, so nothing that it waits for.
            topic.answer = false;
        }
        if widened {
            self.touch_all(kind);
        } else {
            self.touch(kind, &touched);
        }
        event.into_iter().collect()
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>, revision: u64) {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        self.revision = revision;
        for (kind, topic) in &mut self.topics {
            for name in self.snapshot.changed(&before, *kind) {
                // Told that there is none, and now there is: that is an ordinary update. What a
                // subscribed name no longer has is a removal, unless the client never had it.
                let told = topic.held.get(&name).is_some_and(Option::is_none);
                if told && self.snapshot.get(*kind, &name).is_some() {
                    topic.held.remove(&name);
                }
                topic.touch(*kind, &name, &self.snapshot, &self.owed);
            }
        }
    }

    fn next(&mut self) -> Option<(Kind, DeltaDiscoveryResponse)> {
        let kinds: Vec<Kind> = self.topics.keys().copied().collect();
        let mut waiting = false;
        for kind in kinds {
            let topic = self.topics.get(&kind)?;
            let out = topic.outstanding.is_some();
            let pending = &topic.pending;
            if matches!(kind, Kind::Cluster | Kind::Endpoint) {
                waiting |= out || !pending.is_empty();
            }
            if out || (waits(kind) && waiting) || (pending.is_empty() && !topic.answer) {
                continue;
            }
            let updates = self.enough(kind, &pending.updates);
            let absent: Vec<Name> = pending.absent.iter().cloned().collect();
            let all = updates.len() == pending.updates.len() && pending.removals.is_empty();
            let covers = if all { self.revision } else { topic.acked };
            return Some((kind, self.respond(kind, &updates, &absent, covers)));
        }
        if self
            .topics
            .values()
            .any(|topic| topic.outstanding.is_some())
        {
            return None;
        }
        for kind in REMOVALS {
            let Some(pending) = self.pending(kind) else {
                continue;
            };
            let removals: Vec<Name> = pending.removals.iter().cloned().collect();
            // Refused listeners and routes still use what they used before.
            let used = matches!(kind, Kind::Cluster | Kind::Endpoint)
                && self
                    .topics
                    .iter()
                    .any(|(kind, topic)| waits(*kind) && topic.rejected);
            if !removals.is_empty() && !used {
                return Some((kind, self.respond(kind, &[], &removals, self.revision)));
            }
        }
        None
    }

    fn unfinished(&self) -> BTreeSet<String> {
        let sent = self
            .topics
            .get(&Kind::Endpoint)
            .and_then(|topic| topic.outstanding.as_ref());
        let sent = sent.into_iter().flat_map(|out| &out.names);
        self.owed
            .iter()
            .chain(&self.refused)
            .chain(sent)
            .map(ToString::to_string)
            .collect()
    }

    fn owe(&mut self, clusters: BTreeSet<String>) {
        let names: Vec<Name> = clusters.into_iter().map(Name::from).collect();
        self.owed.extend(names.iter().cloned());
        self.touch(Kind::Endpoint, &names);
    }

    fn holds(&self, kind: Kind, name: &str) -> Option<Arc<str>> {
        let topic = self.topics.get(&kind)?;
        let mut under_way = topic.outstanding.iter().flat_map(|out| &out.names);
        if topic.rejected || under_way.any(|out| **out == *name) {
            return None;
        }
        topic.held.get(name).cloned().flatten()
    }

    fn standing(&self) -> Vec<Standing> {
        self.topics
            .iter()
            .map(|(kind, topic)| {
                let clean = topic.outstanding.is_none()
                    && topic.pending == Pending::default()
                    && !topic.rejected;
                Standing {
                    kind: *kind,
                    sent: topic.sent,
                    acked: if clean { self.revision } else { topic.acked },
                    waiting: topic.outstanding.is_some(),
                    resources: topic.resources,
                }
            })
            .collect()
    }
}
