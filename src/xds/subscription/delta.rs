//! The serving side of a delta stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};

use super::super::pb::Any;
use super::super::snapshot::{Kind, Snapshot};
use super::{Event, REMOVALS, Server, Standing, mentioned, waits};

/// What one client subscribed to, has, and is owed.
#[derive(Debug)]
pub struct DeltaServer {
    snapshot: Arc<Snapshot>,
    revision: u64,
    topics: BTreeMap<Kind, Topic>,
    /// Clusters that were sent and whose endpoints have not been sent since.
    owed: BTreeSet<String>,
    /// Endpoints that the client refused: sent again with a change, or on its next stream.
    refused: BTreeSet<String>,
    nonce: u64,
}

/// One type on one stream.
#[derive(Debug, Default)]
struct Topic {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client has by version; `None` when it was told that there is no such resource.
    held: BTreeMap<String, Option<String>>,
    /// To be answered whatever the client has.
    again: BTreeSet<String>,
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
    names: Vec<String>,
    covers: u64,
}

/// What is to be said about one type.
#[derive(Debug, Default)]
struct Pending {
    updates: Vec<String>,
    /// Asked for, but there is no such resource.
    absent: Vec<String>,
    /// Had by the client, and gone.
    removals: Vec<String>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.absent.is_empty()
    }
}

impl Topic {
    fn subscribe(&mut self, name: String, first: bool) {
        if name == "*" {
            self.answer |= !self.wildcard;
            self.wildcard = true;
            return;
        }
        // A client that asks again has forgotten; one that reconnects says what it has.
        if !(first && self.held.contains_key(&name)) {
            self.again.insert(name.clone());
        }
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == "*" {
            self.wildcard = false;
            self.answer = false;
            let names = &self.names;
            self.held.retain(|name, _| names.contains(name));
            return;
        }
        self.names.remove(name);
        if self.wildcard {
            // The client must learn whether the wildcard still covers it.
            self.again.insert(name.to_owned());
        } else {
            self.held.remove(name);
            self.again.remove(name);
        }
    }

    fn pending(&self, kind: Kind, snapshot: &Snapshot, owed: &BTreeSet<String>) -> Pending {
        let mut pending = Pending::default();
        for (name, resource) in snapshot.of(kind) {
            let due = kind == Kind::Endpoint && owed.contains(name);
            if !(self.wildcard || self.names.contains(name) || due) {
                continue;
            }
            let has = self
                .held
                .get(name)
                .is_some_and(|held| held.as_ref() == Some(&resource.version));
            if !has || due || self.again.contains(name) {
                pending.updates.push(name.clone());
            }
        }
        for name in self.names.union(&self.again) {
            if snapshot.get(kind, name).is_none()
                && (self.again.contains(name) || !self.held.contains_key(name))
            {
                pending.absent.push(name.clone());
            }
        }
        for (name, held) in &self.held {
            if held.is_some() && snapshot.get(kind, name).is_none() && !self.again.contains(name) {
                pending.removals.push(name.clone());
            }
        }
        pending
    }
}

impl DeltaServer {
    fn pending(&self, kind: Kind) -> Pending {
        self.topics
            .get(&kind)
            .map_or_else(Pending::default, |topic| {
                topic.pending(kind, &self.snapshot, &self.owed)
            })
    }

    fn outstanding(&self, kind: Kind) -> bool {
        self.topics
            .get(&kind)
            .is_some_and(|topic| topic.outstanding.is_some())
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

    fn respond(
        &mut self,
        kind: Kind,
        updates: Vec<String>,
        removed: Vec<String>,
        covers: u64,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let topic = self.topics.entry(kind).or_default();
        let mut resources = Vec::with_capacity(updates.len());
        for name in &updates {
            let Some(resource) = self.snapshot.get(kind, name) else {
                continue;
            };
            topic
                .held
                .insert(name.clone(), Some(resource.version.clone()));
            match kind {
                Kind::Cluster => {
                    self.owed.insert(name.clone());
                }
                Kind::Endpoint => {
                    self.owed.remove(name);
                    self.refused.remove(name);
                }
                Kind::Listener | Kind::Route | Kind::Secret => {}
            }
            resources.push(WireResource {
                name: name.clone(),
                version: resource.version.clone(),
                resource: Some(Any {
                    type_url: kind.type_url().to_owned(),
                    value: resource.bytes.to_vec(),
                }),
                ..Default::default()
            });
        }
        for name in &removed {
            if topic.names.contains(name) {
                topic.held.insert(name.clone(), None);
            } else {
                topic.held.remove(name);
            }
            if kind == Kind::Cluster {
                self.owed.remove(name);
            }
        }
        for name in updates.iter().chain(&removed) {
            topic.again.remove(name);
        }
        topic.answer = false;
        topic.sent = Some(self.revision);
        topic.outstanding = Some(Outstanding {
            nonce: nonce.clone(),
            names: updates,
            covers,
        });
        DeltaDiscoveryResponse {
            system_version_info: self.revision.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            removed_resources: removed,
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
        }
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Vec<Event> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return vec![Event::Unknown(request.type_url)];
        };
        let event = self.acknowledge(kind, &request);
        let first = !self.topics.contains_key(&kind);
        let topic = self.topics.entry(kind).or_default();
        if first {
            topic.held = request
                .initial_resource_versions
                .into_iter()
                .map(|(name, version)| (name, Some(version)))
                .collect();
            if request.resource_names_subscribe.is_empty() && kind.wildcard() {
                topic.wildcard = true;
                topic.answer = true;
            }
        }
        // Also with a stale nonce: a client tells each change once.
        for name in &request.resource_names_unsubscribe {
            topic.unsubscribe(name);
        }
        for name in request.resource_names_subscribe {
            topic.subscribe(name, first);
        }
        if first && !topic.held.is_empty() {
            // It has something already, so nothing that it waits for.
            topic.answer = false;
        }
        event.into_iter().collect()
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>, revision: u64) {
        self.snapshot = snapshot;
        self.revision = revision;
        for (kind, topic) in &mut self.topics {
            // Told that there is none, and now there is: that is an ordinary update. What a
            // subscribed name no longer has is a removal, unless the client never had it.
            topic
                .held
                .retain(|name, held| held.is_some() || self.snapshot.get(*kind, name).is_none());
        }
    }

    fn next(&mut self) -> Option<(Kind, DeltaDiscoveryResponse)> {
        let kinds: Vec<Kind> = self.topics.keys().copied().collect();
        let mut waiting = false;
        for kind in kinds {
            let pending = self.pending(kind);
            let out = self.outstanding(kind);
            if matches!(kind, Kind::Cluster | Kind::Endpoint) {
                waiting |= out || !pending.is_empty();
            }
            let answer = self.topics.get(&kind).is_some_and(|topic| topic.answer);
            if out || (waits(kind) && waiting) || (pending.is_empty() && !answer) {
                continue;
            }
            let covers = if pending.removals.is_empty() {
                self.revision
            } else {
                self.topics.get(&kind).map_or(0, |topic| topic.acked)
            };
            return Some((
                kind,
                self.respond(kind, pending.updates, pending.absent, covers),
            ));
        }
        if self
            .topics
            .values()
            .any(|topic| topic.outstanding.is_some())
        {
            return None;
        }
        for kind in REMOVALS {
            let removals = self.pending(kind).removals;
            // Refused listeners and routes still use what they used before.
            let used = matches!(kind, Kind::Cluster | Kind::Endpoint)
                && self
                    .topics
                    .iter()
                    .any(|(kind, topic)| waits(*kind) && topic.rejected);
            if !removals.is_empty() && !used {
                return Some((
                    kind,
                    self.respond(kind, Vec::new(), removals, self.revision),
                ));
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
            .cloned()
            .collect()
    }

    fn owe(&mut self, clusters: BTreeSet<String>) {
        self.owed.extend(clusters);
    }

    fn standing(&self) -> Vec<Standing> {
        self.topics
            .iter()
            .map(|(kind, topic)| {
                let pending = topic.pending(*kind, &self.snapshot, &self.owed);
                let clean = topic.outstanding.is_none()
                    && pending.is_empty()
                    && pending.removals.is_empty()
                    && !topic.rejected;
                Standing {
                    kind: *kind,
                    sent: topic.sent,
                    acked: if clean { self.revision } else { topic.acked },
                    waiting: topic.outstanding.is_some(),
                    resources: topic.held.values().flatten().count(),
                }
            })
            .collect()
    }
}
