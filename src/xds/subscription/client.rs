//! The asking side of a delta stream.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::rpc::Status;

use super::super::decode::{Item, Members, Rejected, assemble, item};
use super::super::encode::ROOTS;
use super::super::node::node_to_proto;
use super::super::pb::core;
use super::super::snapshot::{Kind, Resource, Snapshot};
use crate::mesh::{ChainAction, Listener, Node, View};

/// gRPC's `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// What our proxy subscribed to and has, over as many streams as it takes.
///
/// Clusters and listeners are taken as a whole; endpoints by the clusters that name them, route
/// tables by the listeners. Each response is applied as far as it is understood, and what is
/// refused keeps its last good version.
#[derive(Debug)]
pub struct DeltaClient {
    node: core::Node,
    held: BTreeMap<Kind, BTreeMap<String, (Resource, Item)>>,
    wanted: BTreeMap<Kind, BTreeSet<String>>,
    /// The control plane says that there is none.
    absent: BTreeSet<(Kind, String)>,
    rejected: BTreeMap<(Kind, String), String>,
    ignored: BTreeMap<(Kind, String), Vec<String>>,
    /// The mesh's roots are wanted too.
    roots: bool,
    /// It is known which listeners there are, be it none.
    listeners: bool,
}

/// What follows from a response.
#[derive(Debug, Default)]
pub struct Step {
    /// To be sent, in order.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// The view is another one now.
    pub changed: bool,
    /// What was refused in this response.
    pub rejected: Vec<Rejected>,
}

impl DeltaClient {
    /// A client for `node` that has `saved` already. What is saved and no longer understood (an
    /// older or newer version wrote it) is forgotten.
    pub fn new(node: &Node, saved: &Snapshot) -> Self {
        let mut client = Self {
            node: node_to_proto(node),
            held: BTreeMap::new(),
            wanted: BTreeMap::new(),
            absent: BTreeSet::new(),
            rejected: BTreeMap::new(),
            ignored: BTreeMap::new(),
            roots: false,
            listeners: false,
        };
        for kind in Kind::ALL {
            for (name, resource) in saved.of(kind) {
                if let Ok(item) = item(kind, name, &resource.bytes, &mut Vec::new()) {
                    client
                        .held
                        .entry(kind)
                        .or_default()
                        .insert(name.to_string(), (resource.clone(), item));
                }
            }
        }
        for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
            let wanted = client.names(kind);
            client.wanted.insert(kind, wanted);
        }
        client.listeners = client.held.contains_key(&Kind::Listener);
        client
    }

    /// The same, and it asks for the mesh's roots ([`ROOTS`]), which nothing names.
    #[must_use]
    pub fn following_roots(mut self) -> Self {
        self.roots = true;
        let wanted = self.names(Kind::Secret);
        self.wanted.insert(Kind::Secret, wanted);
        self
    }

    /// The first requests on a new stream. What is held is named with its version, so that only
    /// what changed comes again.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.absent.clear();
        self.rejected.clear();
        let mut requests = Vec::new();
        for kind in [
            Kind::Cluster,
            Kind::Endpoint,
            Kind::Listener,
            Kind::Route,
            Kind::Secret,
        ] {
            let names: Vec<String> = self
                .wanted
                .get(&kind)
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            if names.is_empty() && !kind.wildcard() {
                continue;
            }
            requests.push(DeltaDiscoveryRequest {
                node: requests.is_empty().then(|| self.node.clone()),
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: self
                    .held
                    .get(&kind)
                    .into_iter()
                    .flatten()
                    .map(|(name, (resource, _))| (name.clone(), resource.version.to_string()))
                    .collect(),
                ..Default::default()
            });
        }
        requests
    }

    /// Applies a response as far as it is understood.
    pub fn response(&mut self, response: DeltaDiscoveryResponse) -> Step {
        let mut step = Step::default();
        let mut acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..Default::default()
        };
        let Some(kind) = Kind::of(&response.type_url) else {
            acknowledgement.error_detail = Some(refusal(format!(
                "type {:?} was not asked for",
                response.type_url
            )));
            step.requests.push(acknowledgement);
            return step;
        };
        if kind == Kind::Listener && !self.listeners {
            self.listeners = true;
            // That there are none is news too: a gateway without work is ready for it.
            step.changed = true;
        }
        let mut seen = BTreeSet::new();
        let twice = response
            .resources
            .iter()
            .find(|resource| !seen.insert(resource.name.clone()));
        if let Some(resource) = twice {
            let reason = "stands twice in one response";
            step.rejected.push(rejected(kind, &resource.name, reason));
        } else {
            for resource in response.resources {
                // What nothing names would never be taken away again.
                let named = kind.wildcard()
                    || self
                        .wanted
                        .get(&kind)
                        .is_some_and(|wanted| wanted.contains(&resource.name));
                if named {
                    self.apply(kind, resource, &mut step);
                }
            }
            for name in response.removed_resources {
                self.rejected.remove(&(kind, name.clone()));
                self.ignored.remove(&(kind, name.clone()));
                let had = self.held.get_mut(&kind).and_then(|held| held.remove(&name));
                step.changed |= had.is_some();
                if self.wanted.get(&kind).is_some_and(|w| w.contains(&name)) {
                    self.absent.insert((kind, name));
                }
            }
        }
        if !step.rejected.is_empty() {
            let reasons: Vec<_> = step
                .rejected
                .iter()
                .map(|rejected| format!("{}: {}", rejected.name, rejected.reason))
                .collect();
            acknowledgement.error_detail = Some(refusal(reasons.join("; ")));
        }
        // First what else is wanted: then the server knows of it when it sees the acknowledgement.
        step.requests.extend(self.resubscribe());
        step.requests.push(acknowledgement);
        step
    }

    fn apply(&mut self, kind: Kind, wire: WireResource, step: &mut Step) {
        let name = wire.name;
        let key = (kind, name.clone());
        let held = self.held.entry(kind).or_default();
        let Some(body) = wire.resource else {
            // A sign of life for a resource with a time to live.
            if held
                .get(&name)
                .is_none_or(|(resource, _)| *resource.version != *wire.version)
            {
                step.rejected.push(rejected(kind, &name, "has no body"));
            }
            return;
        };
        if Kind::of(&body.type_url) != Some(kind) {
            let reason = format!("is a {:?}", body.type_url);
            step.rejected.push(rejected(kind, &name, &reason));
            return;
        }
        let mut ignored = Vec::new();
        match item(kind, &name, &body.value, &mut ignored) {
            Ok(item) => {
                self.absent.remove(&key);
                self.rejected.remove(&key);
                ignored.sort();
                ignored.dedup();
                if ignored.is_empty() {
                    self.ignored.remove(&key);
                } else {
                    self.ignored.insert(key, ignored);
                }
                let resource = Resource {
                    version: wire.version.into(),
                    bytes: body.value.into(),
                };
                match held.get_mut(&name) {
                    // Endpoints come again with every change of their cluster.
                    Some((had, _)) if had.bytes == resource.bytes => *had = resource,
                    _ => {
                        step.changed = true;
                        held.insert(name, (resource, item));
                    }
                }
            }
            Err(fault) => {
                let reason = fault.to_string();
                step.rejected.push(rejected(kind, &name, &reason));
                self.rejected.insert(key, reason);
            }
        }
    }

    /// Follows what clusters and listeners name.
    fn resubscribe(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
            let now = self.names(kind);
            let before = self.wanted.entry(kind).or_default();
            let subscribe: Vec<String> = now.difference(before).cloned().collect();
            let unsubscribe: Vec<String> = before.difference(&now).cloned().collect();
            *before = now;
            for name in &unsubscribe {
                if let Some(held) = self.held.get_mut(&kind) {
                    held.remove(name);
                }
                self.absent.remove(&(kind, name.clone()));
                self.rejected.remove(&(kind, name.clone()));
            }
            if !(subscribe.is_empty() && unsubscribe.is_empty()) {
                requests.push(DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: subscribe,
                    resource_names_unsubscribe: unsubscribe,
                    ..Default::default()
                });
            }
        }
        requests
    }

    fn names(&self, kind: Kind) -> BTreeSet<String> {
        let held = |kind: Kind| self.held.get(&kind).into_iter().flatten();
        match kind {
            Kind::Endpoint => held(Kind::Cluster)
                .filter_map(|(_, (_, item))| match item {
                    Item::Cluster(_, Members::Named(name)) => Some(name.clone()),
                    _ => None,
                })
                .collect(),
            Kind::Route => held(Kind::Listener)
                .flat_map(|(_, (_, item))| match item {
                    Item::Listener(listener, inline) => tables(listener)
                        .filter(|name| inline.iter().all(|table| table.name != *name))
                        .map(str::to_owned)
                        .collect(),
                    _ => Vec::new(),
                })
                .collect(),
            Kind::Secret => held(Kind::Listener)
                .chain(held(Kind::Cluster))
                .flat_map(|(_, (_, item))| match item {
                    Item::Listener(listener, _) => secrets(listener).map(str::to_owned).collect(),
                    Item::Cluster(cluster, _) => {
                        let how = cluster.origination.iter();
                        let names = how.flat_map(|how| how.secrets());
                        names.map(str::to_owned).collect()
                    }
                    _ => Vec::new(),
                })
                .chain(self.roots.then(|| ROOTS.to_owned()))
                .collect(),
            Kind::Cluster | Kind::Listener => BTreeSet::new(),
        }
    }

    /// Whether everything that is named has come, or is known not to exist. Before that a view
    /// would answer 503 where a moment later it would not.
    pub fn complete(&self) -> bool {
        self.wanted.iter().all(|(kind, names)| {
            // Other control planes may never answer for the roots, and no request needs them.
            let mut names = names.iter().filter(|name| *name != ROOTS);
            names.all(|name| {
                let key = (*kind, name.clone());
                self.held
                    .get(kind)
                    .is_some_and(|held| held.contains_key(name))
                    || self.absent.contains(&key)
                    || self.rejected.contains_key(&key)
            })
        })
    }

    /// Whether the control plane, or what was saved, has said which listeners there are.
    pub fn knows_listeners(&self) -> bool {
        self.listeners
    }

    /// What is held, as the proxy runs it. What did not change is shared with earlier views.
    pub fn view(&self) -> View {
        assemble(
            self.held
                .values()
                .flatten()
                .map(|(name, (_, item))| (name.as_str(), item)),
        )
    }

    /// What is held, to be saved.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (kind, held) in &self.held {
            for (name, (resource, _)) in held {
                snapshot.put(*kind, name.as_str(), resource.clone());
            }
        }
        snapshot
    }

    /// What is refused at present.
    pub fn rejected(&self) -> Vec<Rejected> {
        self.rejected
            .iter()
            .map(|((kind, name), reason)| rejected(*kind, name, reason))
            .collect()
    }

    /// Fields without effect here, as `TYPE NAME: Message.field`.
    pub fn ignored(&self) -> Vec<String> {
        self.ignored
            .iter()
            .flat_map(|((kind, name), fields)| {
                fields
                    .iter()
                    .map(move |field| format!("{} {name}: {field}", kind.short()))
            })
            .collect()
    }
}

pub(super) fn tables(listener: &Listener) -> impl Iterator<Item = &str> {
    listener
        .chains
        .iter()
        .chain(&listener.default_chain)
        .filter_map(|chain| match &chain.action {
            ChainAction::Http { routes, .. } | ChainAction::Detect { routes, .. } => {
                Some(routes.as_str())
            }
            ChainAction::Tcp { .. } => None,
        })
}

/// Credentials that a listener needs the text of.
fn secrets(listener: &Listener) -> impl Iterator<Item = &str> {
    let chains = listener.chains.iter().chain(&listener.default_chain);
    chains
        .filter_map(|chain| chain.tls.as_ref()?.own.as_ref())
        .flat_map(|own| own.secrets())
}

fn rejected(kind: Kind, name: &str, reason: &str) -> Rejected {
    Rejected {
        type_url: kind.type_url().to_owned(),
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

fn refusal(message: String) -> Status {
    Status {
        code: INVALID_ARGUMENT,
        message,
        ..Default::default()
    }
}
