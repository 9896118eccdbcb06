//! A client that does nothing but keep the books, against both servers, under random turmoil.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::xds::snapshot::Resource;
use crate::xds::subscription::{DeltaServer, Server, SotwServer};

#[derive(Debug, Clone)]
enum Op {
    Publish(Vec<(Kind, u8, u8)>),
    Subscribe(Kind, u8),
    Unsubscribe(Kind, u8),
    Up,
    Down,
    Refuse,
    Reconnect,
}

fn name(index: u8) -> String {
    format!("n{index}")
}

fn world(resources: &[(Kind, u8, u8)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (kind, index, content) in resources {
        // Contents say their name, because state of the world carries nothing else.
        snapshot.insert(*kind, name(*index), format!("{}={content}", name(*index)));
    }
    Arc::new(snapshot)
}

fn op() -> impl Strategy<Value = Op> {
    let kind = || select(vec![Cluster, Endpoint, Listener, Route]);
    prop_oneof![
        2 => proptest::collection::vec((kind(), 0..4_u8, 0..3_u8), 0..10).prop_map(Op::Publish),
        2 => (kind(), 0..4_u8).prop_map(|(kind, n)| Op::Subscribe(kind, n)),
        1 => (kind(), 0..4_u8).prop_map(|(kind, n)| Op::Unsubscribe(kind, n)),
        6 => Just(Op::Up),
        6 => Just(Op::Down),
        1 => Just(Op::Refuse),
        1 => Just(Op::Reconnect),
    ]
}

/// What both kinds of client keep.
#[derive(Default)]
struct Books {
    has: BTreeMap<Kind, BTreeMap<String, String>>,
    names: BTreeMap<Kind, BTreeSet<String>>,
    /// Clusters that changed and whose endpoints did not come since.
    warming: BTreeSet<String>,
    refused: bool,
}

impl Books {
    fn take(&mut self, kind: Kind, name: &str, content: &str) {
        let has = self.has.entry(kind).or_default();
        let changed = has.get(name).map(String::as_str) != Some(content);
        has.insert(name.to_owned(), content.to_owned());
        match kind {
            Cluster if changed => {
                self.warming.insert(name.to_owned());
            }
            Endpoint => {
                self.warming.remove(name);
            }
            _ => {}
        }
    }

    fn check(&self, snapshot: &Snapshot) {
        for kind in [Cluster, Endpoint, Listener, Route] {
            let names = self.names.get(&kind).cloned().unwrap_or_default();
            let wanted: BTreeMap<String, String> = snapshot
                .of(kind)
                .filter(|(name, _)| kind.wildcard() || names.contains(&***name))
                .map(|(name, r)| {
                    (
                        name.to_string(),
                        String::from_utf8(r.bytes.to_vec()).unwrap(),
                    )
                })
                .collect();
            let mut has = self.has.get(&kind).cloned().unwrap_or_default();
            has.retain(|name, _| kind.wildcard() || names.contains(name));
            if !kind.wildcard() {
                // State of the world cannot delete these; their users went.
                has.retain(|name, _| snapshot.get(kind, name).is_some());
            }
            assert_eq!(has, wanted, "{kind:?}");
        }
        let names = self.names.get(&Endpoint).cloned().unwrap_or_default();
        for cluster in &self.warming {
            let stuck = names.contains(cluster)
                && snapshot.get(Cluster, cluster).is_some()
                && snapshot.get(Endpoint, cluster).is_some();
            assert!(!stuck, "{cluster} waits for its endpoints");
        }
    }
}

fn content(bytes: &[u8]) -> (String, String) {
    let text = std::str::from_utf8(bytes).unwrap();
    let (name, _) = text.split_once('=').unwrap();
    (name.to_owned(), text.to_owned())
}

fn refusal(refuse: bool) -> Option<Status> {
    refuse.then(|| Status {
        message: "no".to_owned(),
        ..Default::default()
    })
}

#[derive(Default)]
struct DeltaModel {
    books: Books,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
}

impl DeltaModel {
    fn connect(&mut self) {
        self.up.clear();
        self.down.clear();
        for kind in [Cluster, Endpoint, Listener, Route] {
            let names = self.books.names.get(&kind).cloned().unwrap_or_default();
            if !kind.wildcard() {
                self.books
                    .has
                    .entry(kind)
                    .or_default()
                    .retain(|n, _| names.contains(n));
            }
            self.up.push_back(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: if kind.wildcard() {
                    Vec::new()
                } else {
                    names.into_iter().collect()
                },
                initial_resource_versions: self
                    .books
                    .has
                    .get(&kind)
                    .into_iter()
                    .flatten()
                    .map(|(name, text)| {
                        (
                            name.clone(),
                            Resource::new(text.clone()).version.to_string(),
                        )
                    })
                    .collect(),
                ..Default::default()
            });
        }
    }

    fn receive(&mut self, refuse: bool) {
        let Some(response) = self.down.pop_front() else {
            return;
        };
        let kind = Kind::of(&response.type_url).unwrap();
        self.books.refused |= refuse;
        if !refuse {
            for resource in response.resources {
                let (name, text) = content(&resource.resource.unwrap().value);
                assert_eq!(name, resource.name);
                self.books.take(kind, &name, &text);
            }
            for name in response.removed_resources {
                self.books.has.entry(kind).or_default().remove(&name);
                self.books.warming.remove(&name);
            }
        }
        self.up.push_back(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: response.nonce,
            error_detail: refusal(refuse),
            ..Default::default()
        });
    }

    fn subscribe(&mut self, kind: Kind, index: u8, on: bool) {
        if kind.wildcard() {
            return;
        }
        let names = self.books.names.entry(kind).or_default();
        let changed = if on {
            names.insert(name(index))
        } else {
            names.remove(&name(index))
        };
        if changed {
            let list = vec![name(index)];
            let (subscribe, unsubscribe) = if on { (list, vec![]) } else { (vec![], list) };
            self.up.push_back(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                ..Default::default()
            });
        }
    }
}

#[derive(Default)]
struct SotwModel {
    books: Books,
    last: BTreeMap<Kind, (String, String)>,
    up: VecDeque<DiscoveryRequest>,
    down: VecDeque<DiscoveryResponse>,
}

impl SotwModel {
    fn send(&mut self, kind: Kind, refuse: bool) {
        let (version, nonce) = self.last.get(&kind).cloned().unwrap_or_default();
        self.up.push_back(DiscoveryRequest {
            version_info: version,
            resource_names: if kind.wildcard() {
                Vec::new()
            } else {
                self.books
                    .names
                    .get(&kind)
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect()
            },
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: refusal(refuse),
            ..Default::default()
        });
    }

    fn connect(&mut self) {
        self.up.clear();
        self.down.clear();
        for (_, nonce) in self.last.values_mut() {
            nonce.clear();
        }
        for kind in [Cluster, Endpoint, Listener, Route] {
            if kind.wildcard() || self.books.names.get(&kind).is_some_and(|n| !n.is_empty()) {
                self.send(kind, false);
            }
        }
    }

    fn receive(&mut self, refuse: bool) {
        let Some(response) = self.down.pop_front() else {
            return;
        };
        let kind = Kind::of(&response.type_url).unwrap();
        self.books.refused |= refuse;
        let last = self.last.entry(kind).or_default();
        last.1 = response.nonce;
        if !refuse {
            last.0 = response.version_info;
            let mut came = BTreeSet::new();
            for resource in response.resources {
                let (name, text) = content(&resource.value);
                assert!(came.insert(name.clone()), "{name} came twice");
                self.books.take(kind, &name, &text);
            }
            if kind.wildcard() {
                self.books
                    .has
                    .entry(kind)
                    .or_default()
                    .retain(|n, _| came.contains(n));
            }
        }
        self.send(kind, refuse);
    }

    fn subscribe(&mut self, kind: Kind, index: u8, on: bool) {
        if kind.wildcard() {
            return;
        }
        let names = self.books.names.entry(kind).or_default();
        let changed = if on {
            names.insert(name(index))
        } else {
            names.remove(&name(index))
        };
        if changed {
            if !on && let Some(has) = self.books.has.get_mut(&kind) {
                has.remove(&name(index));
            }
            self.send(kind, false);
        }
    }
}

/// Runs `$ops` and then lets both sides finish.
macro_rules! turmoil {
    ($model:ty, $server:ty, $ops:expr, $judged:expr) => {{
        let mut model = <$model>::default();
        let mut snapshot = world(&[]);
        let mut server = <$server>::new(Arc::clone(&snapshot), 0);
        let mut revision = 0;
        let mut on_its_way: BTreeMap<Kind, i32> = BTreeMap::new();
        model.connect();
        for op in $ops {
            match op {
                Op::Publish(resources) => {
                    snapshot = world(&resources);
                    revision += 1;
                    server.publish(Arc::clone(&snapshot), revision);
                }
                Op::Subscribe(kind, index) => model.subscribe(kind, index, true),
                Op::Unsubscribe(kind, index) => model.subscribe(kind, index, false),
                Op::Up => {
                    if let Some(request) = model.up.pop_front() {
                        let kind = Kind::of(&request.type_url).unwrap();
                        for event in server.request(request) {
                            if !matches!(event, crate::xds::subscription::Event::Unknown(_)) {
                                *on_its_way.entry(kind).or_default() -= 1;
                            }
                        }
                    }
                }
                Op::Down => model.receive(false),
                Op::Refuse => model.receive(true),
                Op::Reconnect => {
                    let unfinished = server.unfinished();
                    server = <$server>::new(Arc::clone(&snapshot), revision);
                    server.owe(unfinished);
                    on_its_way.clear();
                    model.books.refused = false;
                    model.connect();
                }
            }
            while let Some((kind, response)) = server.next() {
                let out = on_its_way.entry(kind).or_default();
                *out += 1;
                assert!(*out <= 1, "two responses of {kind:?} on their way");
                model.down.push_back(response);
            }
            assert!($judged(&mut server), "what is to be said is not up to date");
        }
        // What was refused comes again only when it changes, or on another stream.
        if model.books.refused {
            let unfinished = server.unfinished();
            server = <$server>::new(Arc::clone(&snapshot), revision);
            server.owe(unfinished);
            model.connect();
        }
        for round in 0.. {
            assert!(round < 1000, "no end of messages");
            while let Some(request) = model.up.pop_front() {
                server.request(request);
            }
            while let Some((_, response)) = server.next() {
                model.down.push_back(response);
            }
            if model.down.is_empty() {
                break;
            }
            model.receive(false);
        }
        model.books.check(&snapshot);
        assert_eq!(server.acked(revision), revision);
    }};
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_delta_client_ends_up_with_the_snapshot(ops in proptest::collection::vec(op(), 0..80)) {
        turmoil!(DeltaModel, DeltaServer, ops, |server: &mut DeltaServer| {
            server.in_small_pieces();
            server.is_judged()
        });
    }

    #[test]
    fn a_state_of_the_world_client_ends_up_with_the_snapshot(ops in proptest::collection::vec(op(), 0..80)) {
        turmoil!(SotwModel, SotwServer, ops, |_: &mut SotwServer| true);
    }
}

/// Found by the model: the endpoints that a cluster waits for were refused, and then counted as had.
#[test]
fn refused_endpoints_are_owed_to_the_next_stream() {
    let mut ops = vec![
        Op::Up,
        Op::Up,
        Op::Up,
        Op::Subscribe(Endpoint, 1),
        Op::Up,
        Op::Down,
    ];
    ops.extend([Op::Up, Op::Up, Op::Down, Op::Up, Op::Down, Op::Up]);
    ops.push(Op::Publish(vec![(Endpoint, 1, 1)]));
    ops.push(Op::Publish(vec![(Endpoint, 1, 1), (Cluster, 1, 0)]));
    ops.extend([Op::Down, Op::Down, Op::Up, Op::Refuse, Op::Up, Op::Up]);
    turmoil!(DeltaModel, DeltaServer, ops, |server: &mut DeltaServer| {
        server.in_small_pieces();
        server.is_judged()
    });
}

/// Found by the model: the version of a later response stood for what an earlier one had in vain.
#[test]
fn a_version_does_not_stand_for_what_was_refused() {
    let mut ops = vec![Op::Subscribe(Endpoint, 3), Op::Subscribe(Endpoint, 0)];
    ops.extend([Op::Up, Op::Down, Op::Reconnect, Op::Up]);
    ops.extend([Op::Publish(vec![(Cluster, 0, 0)]), Op::Down]);
    ops.push(Op::Publish(vec![(Endpoint, 0, 2)]));
    ops.extend([Op::Up, Op::Up, Op::Up, Op::Refuse, Op::Up, Op::Down]);
    ops.push(Op::Publish(vec![(Endpoint, 0, 2), (Endpoint, 3, 0)]));
    ops.push(Op::Down);
    turmoil!(SotwModel, SotwServer, ops, |_: &mut SotwServer| true);
}

/// Found by the model: named again after the last response, and then the stream ended.
#[test]
fn a_version_does_not_stand_for_what_was_let_go() {
    let mut ops = vec![Op::Subscribe(Route, 2), Op::Up, Op::Up, Op::Up, Op::Down];
    ops.extend([
        Op::Publish(vec![(Route, 2, 0)]),
        Op::Publish(vec![(Route, 2, 0)]),
    ]);
    ops.extend([Op::Up, Op::Down, Op::Down]);
    ops.extend([Op::Unsubscribe(Route, 2), Op::Subscribe(Route, 2)]);
    ops.push(Op::Reconnect);
    turmoil!(SotwModel, SotwServer, ops, |_: &mut SotwServer| true);
}
