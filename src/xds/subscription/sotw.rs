//! The serving side of a state-of-the-world stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use super::super::pb::Any;
use super::super::snapshot::{Kind, Name, Resource, Snapshot, hash};
use super::{Event, REMOVALS, Server, Standing, mentioned, waits};

/// What one client subscribed to, has, and is owed.
#[derive(Debug)]
pub struct SotwServer {
    snapshot: Arc<Snapshot>,
    revision: u64,
    topics: BTreeMap<Kind, Topic>,
    /// Clusters that were sent and whose endpoints have not been sent since.
    owed: BTreeSet<Name>,
    nonce: u64,
}

/// One type on one stream.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that the protocol keeps apart"
)]
struct Topic {
    wildcard: bool,
    /// A name was given on this stream, so none means nothing from then on.
    named: bool,
    names: BTreeSet<Name>,
    /// What the client has.
    held: BTreeMap<Name, Resource>,
    /// To be answered whatever the client has.
    again: BTreeSet<Name>,
    /// The client awaits a first answer, be it empty.
    answer: bool,
    /// Clusters were sent after the last endpoints.
    overtaken: bool,
    /// Of the last response; empty before the first.
    nonce: String,
    outstanding: Option<Outstanding>,
    rejected: bool,
    /// What the client refused: sent again with a change, or on its next stream.
    refused: BTreeSet<Name>,
    sent: Option<u64>,
    acked: u64,
}

#[derive(Debug)]
struct Outstanding {
    names: Vec<Name>,
    covers: u64,
}

/// A response in the making: what it carries, and what the client has after it.
struct Draft {
    carried: BTreeMap<Name, Resource>,
    after: BTreeMap<Name, Resource>,
}

impl Topic {
    fn wanted<'a>(
        &'a self,
        kind: Kind,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a Name, &'a Resource)> {
        snapshot
            .of(kind)
            .filter(|(name, _)| self.wildcard || self.names.contains(*name))
    }

    /// What is gone, for types in which absence means deletion.
    fn gone(&self, kind: Kind, snapshot: &Snapshot) -> impl Iterator<Item = (&Name, &Resource)> {
        self.held
            .iter()
            .filter(move |(name, _)| kind.wildcard() && snapshot.get(kind, name).is_none())
    }

    /// The next response, if there is anything to say. What is gone stays in it until `settled`.
    fn draft(
        &self,
        kind: Kind,
        snapshot: &Snapshot,
        owed: &BTreeSet<Name>,
        settled: bool,
    ) -> Option<Draft> {
        let due = |name: &Name| {
            self.again.contains(name) || (kind == Kind::Endpoint && owed.contains(name))
        };
        let mut after: BTreeMap<Name, Resource> = self
            .wanted(kind, snapshot)
            .map(|(name, resource)| (name.clone(), resource.clone()))
            .collect();
        if kind.wildcard() {
            let gone = self.gone(kind, snapshot).count() > 0;
            if !settled {
                after.extend(
                    self.gone(kind, snapshot)
                        .map(|(name, resource)| (name.clone(), resource.clone())),
                );
            }
            let differs = after.iter().any(|(name, resource)| {
                self.held
                    .get(name)
                    .is_none_or(|held| held.version != resource.version)
            });
            let say = self.answer || !self.again.is_empty() || differs || (settled && gone);
            return say.then(|| Draft {
                carried: after.clone(),
                after,
            });
        }
        let mut carried: BTreeMap<Name, Resource> = after
            .iter()
            .filter(|(name, resource)| {
                due(name)
                    || self
                        .held
                        .get(*name)
                        .is_none_or(|held| held.version != resource.version)
            })
            .map(|(name, resource)| (name.clone(), resource.clone()))
            .collect();
        if kind == Kind::Endpoint {
            // Of clusters that the client learns of only now.
            for name in owed {
                if let Some(resource) = snapshot.get(kind, name) {
                    carried.insert(name.clone(), resource.clone());
                }
            }
        }
        (!carried.is_empty()).then_some(Draft { carried, after })
    }

    /// What the version of a response says: everything that the client has after it.
    fn version(state: &BTreeMap<Name, Resource>) -> String {
        let mut text = String::new();
        for (name, resource) in state {
            text.push_str(name);
            text.push('\0');
            text.push_str(&resource.version);
            text.push('\n');
        }
        hash(text.as_bytes())
    }

    fn subscribe(&mut self, kind: Kind, names: Vec<String>) {
        if names.is_empty() {
            // Legacy: nothing was ever named, so everything is meant.
            let everything = kind.wildcard() && !self.named;
            self.answer |= everything && !self.wildcard;
            self.wildcard = everything;
        } else {
            self.named = true;
            let everything = names.iter().any(|name| name == "*");
            self.answer |= everything && !self.wildcard;
            self.wildcard = everything;
        }
        let names: BTreeSet<Name> = names
            .into_iter()
            .filter(|name| name != "*")
            .map(Name::from)
            .collect();
        let added = names.difference(&self.names).cloned();
        self.again.extend(added);
        self.again.retain(|name| names.contains(name));
        self.names = names;
        if !self.wildcard {
            let names = &self.names;
            self.held.retain(|name, _| names.contains(name));
        }
    }
}

impl SotwServer {
    fn respond(&mut self, kind: Kind, draft: Draft, covers: u64) -> DiscoveryResponse {
        self.nonce += 1;
        if kind == Kind::Cluster {
            // Only changed ones start over with their endpoints.
            let held = self.topics.get(&kind).map(|topic| &topic.held);
            let changed: Vec<_> = draft
                .carried
                .iter()
                .filter(|(name, resource)| {
                    held.and_then(|held| held.get(*name))
                        .is_none_or(|held| held.version != resource.version)
                })
                .map(|(name, _)| name.clone())
                .collect();
            self.owed.retain(|name| draft.after.contains_key(name));
            self.owed.extend(changed);
            if let Some(endpoints) = self.topics.get_mut(&Kind::Endpoint) {
                endpoints.overtaken = true;
            }
        }
        let topic = self.topics.entry(kind).or_default();
        if kind == Kind::Endpoint {
            topic.overtaken = false;
            self.owed.retain(|name| !draft.carried.contains_key(name));
        }
        topic
            .refused
            .retain(|name| !draft.carried.contains_key(name));
        topic.nonce = self.nonce.to_string();
        topic.again.clear();
        topic.answer = false;
        topic.sent = Some(self.revision);
        topic.outstanding = Some(Outstanding {
            names: draft.carried.keys().cloned().collect(),
            covers,
        });
        let mut version_info = Topic::version(&draft.after);
        if topic
            .refused
            .iter()
            .any(|name| draft.after.contains_key(name))
        {
            // The client lacks what this version would stand for: it must not match later.
            version_info = format!("{version_info}~{}", topic.nonce);
        }
        topic.held = draft.after;
        DiscoveryResponse {
            version_info,
            resources: draft
                .carried
                .into_values()
                .map(|resource| Any {
                    type_url: kind.type_url().to_owned(),
                    value: resource.bytes.to_vec(),
                })
                .collect(),
            type_url: kind.type_url().to_owned(),
            nonce: topic.nonce.clone(),
            ..Default::default()
        }
    }

    fn draft(&self, kind: Kind, settled: bool) -> Option<Draft> {
        self.topics
            .get(&kind)?
            .draft(kind, &self.snapshot, &self.owed, settled)
    }
}

impl Server for SotwServer {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn new(snapshot: Arc<Snapshot>, revision: u64) -> Self {
        Self {
            snapshot,
            revision,
            topics: BTreeMap::new(),
            owed: BTreeSet::new(),
            nonce: 0,
        }
    }

    fn request(&mut self, request: DiscoveryRequest) -> Vec<Event> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return vec![Event::Unknown(request.type_url)];
        };
        let first = !self.topics.contains_key(&kind);
        let topic = self.topics.entry(kind).or_default();
        if topic.nonce != request.response_nonce && !topic.nonce.is_empty() {
            // Sent before the client saw the last response: it will answer that one too, with all
            // that it then wants.
            return Vec::new();
        }
        let out = topic.outstanding.take();
        let answered = out.is_some();
        let event = out.map(|out| match &request.error_detail {
            None => {
                topic.rejected = false;
                topic.acked = out.covers;
                Event::Acked(kind)
            }
            Some(error) => {
                topic.rejected = true;
                topic.refused.extend(out.names.iter().cloned());
                Event::Nacked {
                    kind,
                    reason: error.message.clone(),
                    resources: mentioned(&error.message, out.names.iter()),
                }
            }
        });
        let before = topic.names.clone();
        topic.subscribe(kind, request.resource_names);
        if kind == Kind::Endpoint && !answered && topic.overtaken && before == topic.names {
            // Looks like an acknowledgement that was given already, yet is Envoy asking for the
            // endpoints of a cluster that changed.
            topic.again.extend(before);
        }
        // Of what has names, a client may have let go of one and asked for it again while it could reach
        // nobody: its version says nothing of that.
        if first && topic.wildcard && !request.version_info.is_empty() {
            let have: BTreeMap<Name, Resource> = topic
                .wanted(kind, &self.snapshot)
                .map(|(name, resource)| (name.clone(), resource.clone()))
                .collect();
            // Versions are hashes: the same one from before a reconnect means the same content.
            if Topic::version(&have) == request.version_info {
                topic.held = have;
                topic.again.clear();
                topic.answer = false;
            }
        }
        event.into_iter().collect()
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>, revision: u64) {
        self.snapshot = snapshot;
        self.revision = revision;
        let snapshot = &self.snapshot;
        for (kind, topic) in &mut self.topics {
            if !kind.wildcard() {
                // These cannot be deleted; should one come back it is sent again.
                topic
                    .held
                    .retain(|name, _| snapshot.get(*kind, name).is_some());
            }
        }
    }

    fn next(&mut self) -> Option<(Kind, DiscoveryResponse)> {
        let kinds: Vec<Kind> = self.topics.keys().copied().collect();
        let mut waiting = false;
        for kind in kinds {
            let draft = self.draft(kind, false);
            let topic = self.topics.get(&kind)?;
            let out = topic.outstanding.is_some();
            if matches!(kind, Kind::Cluster | Kind::Endpoint) {
                waiting |= out || draft.is_some();
            }
            let covers = if topic.gone(kind, &self.snapshot).next().is_none() {
                self.revision
            } else {
                topic.acked
            };
            match draft {
                Some(draft) if !(out || waits(kind) && waiting) => {
                    return Some((kind, self.respond(kind, draft, covers)));
                }
                _ => {}
            }
        }
        if self
            .topics
            .values()
            .any(|topic| topic.outstanding.is_some())
        {
            return None;
        }
        for kind in REMOVALS {
            let used = kind == Kind::Cluster
                && self
                    .topics
                    .iter()
                    .any(|(kind, topic)| waits(*kind) && topic.rejected);
            if used {
                continue;
            }
            if let Some(draft) = self.draft(kind, true) {
                return Some((kind, self.respond(kind, draft, self.revision)));
            }
        }
        None
    }

    fn unfinished(&self) -> BTreeSet<String> {
        let topic = self.topics.get(&Kind::Endpoint);
        let sent = topic.and_then(|topic| topic.outstanding.as_ref());
        self.owed
            .iter()
            .chain(topic.into_iter().flat_map(|topic| &topic.refused))
            .chain(sent.into_iter().flat_map(|out| &out.names))
            .map(ToString::to_string)
            .collect()
    }

    fn owe(&mut self, clusters: BTreeSet<String>) {
        self.owed.extend(clusters.into_iter().map(Name::from));
    }

    fn holds(&self, kind: Kind, name: &str) -> Option<Arc<str>> {
        let topic = self.topics.get(&kind)?;
        let mut under_way = topic.outstanding.iter().flat_map(|out| &out.names);
        if topic.rejected || under_way.any(|out| **out == *name) {
            return None;
        }
        let held = topic.held.get(name)?;
        Some(Arc::clone(&held.version))
    }

    fn standing(&self) -> Vec<Standing> {
        self.topics
            .iter()
            .map(|(kind, topic)| {
                let clean = topic.outstanding.is_none()
                    && !topic.rejected
                    && topic
                        .draft(*kind, &self.snapshot, &self.owed, true)
                        .is_none();
                Standing {
                    kind: *kind,
                    sent: topic.sent,
                    acked: if clean { self.revision } else { topic.acked },
                    waiting: topic.outstanding.is_some(),
                    resources: topic.held.len(),
                }
            })
            .collect()
    }
}
