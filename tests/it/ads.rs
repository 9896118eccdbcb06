//! Our proxy's client against the control plane's server, over real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshctl::api::proxies::Outcome;
use meshctl::control::serve_tls::PeerIdentity;
use meshctl::mesh::{Client, Locality, Node, NodeKind, SpiffeId, View};
use meshctl::net::{ConnectOptions, connect};
use meshctl::proxy::client::{ClientOptions, Configuration, Dial, Io, start};
use meshctl::rt::{Tasks, Wall};
use meshctl::xds::node::node_id;

use crate::stand::{Stand, table, until, view};

const LOOPBACK: &str = "127.0.0.1:0";
const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V3: &str = "outbound|9080|v3|reviews.default.svc.cluster.local";

fn any_port() -> SocketAddr {
    LOOPBACK.parse().unwrap()
}

fn node(name: &str) -> Node {
    let ip = "127.0.0.1".parse().unwrap();
    Node {
        id: node_id(NodeKind::Sidecar, ip, name, "default"),
        client: Client::Meshctl,
        kind: NodeKind::Sidecar,
        name: name.to_owned(),
        namespace: "default".to_owned(),
        service_account: "productpage".to_owned(),
        workload: "productpage-v1".to_owned(),
        labels: std::collections::BTreeMap::new(),
        locality: Locality::default(),
        address: ip,
        outbound: SocketAddr::new(ip, 15001),
        inbound: SocketAddr::new(ip, 15006),
        transparent: false,
        applications: Vec::new(),
    }
}

fn dial(to: SocketAddr) -> Dial {
    Arc::new(move || {
        Box::pin(async move {
            let io = connect(to, ConnectOptions::default()).await?;
            let io: Box<dyn Io> = Box::new(io);
            Ok(io)
        })
    })
}

pub(crate) async fn proxy(
    name: &str,
    to: SocketAddr,
    dir: Option<&Path>,
    tasks: &Tasks,
) -> Configuration {
    let options = ClientOptions {
        node: node(name),
        dial: dial(to),
        dir: dir.map(Path::to_owned),
        wall: Wall::default(),
        in_force: None,
        proofs: None,
    };
    start(options, tasks).await
}

fn split(first: u32, second: u32) -> View {
    let at = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
    let (one, two) = (at(9001), at(9002));
    view(any_port(), &[(V1, first, &one), (V3, second, &two)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_weights_is_acknowledged_by_every_proxy_in_a_blink() {
    let stand = Stand::start(split(90, 10), any_port(), None);
    let tasks = Tasks::new();
    let mut proxies = Vec::new();
    for index in 0..10 {
        proxies.push(proxy(&format!("p{index}"), stand.address, None, &tasks).await);
    }
    for proxy in &proxies {
        until("the first view", 10, || {
            (*proxy.view.load() == split(90, 10)).then_some(())
        })
        .await;
    }
    let mut latencies = Vec::new();
    for weight in 0..20 {
        let since = meshctl::rt::now();
        let revision = stand.change(|view| {
            view.routes.insert(
                "9080".to_owned(),
                table(&[(V1, 100 - weight), (V3, weight)]),
            );
        });
        let verdict = stand
            .hub
            .wait_acked(revision, since, Duration::from_secs(5))
            .await;
        assert_eq!(verdict.len(), 10);
        for answer in verdict {
            assert_eq!(answer.outcome, Outcome::Acknowledged);
            latencies.push(answer.latency_ms.unwrap());
        }
        for proxy in &proxies {
            // What is acknowledged is in force.
            assert_eq!(*proxy.view.load(), split(100 - weight, weight));
        }
    }
    latencies.sort_unstable();
    let median = latencies[latencies.len() / 2];
    assert!(median < 200, "median {median} ms of {latencies:?}");
    let status = stand.hub.status();
    assert!(
        status
            .iter()
            .all(|proxy| proxy.synced && proxy.protocol == "delta")
    );
    tasks.end().await;
    until("all proxies gone", 5, || {
        stand.hub.status().is_empty().then_some(())
    })
    .await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_control_plane_changes_nothing_and_resends_nothing() {
    let stand = Stand::start(split(90, 10), any_port(), None);
    let address = stand.address;
    let tasks = Tasks::new();
    let mut proxy = proxy("p", address, None, &tasks).await;
    until("the first view", 10, || {
        (*proxy.view.load() == split(90, 10)).then_some(())
    })
    .await;
    let view = stand.stop().await;
    until("the link to break", 10, || {
        (!proxy.link.load().connected).then_some(())
    })
    .await;
    assert_eq!(*proxy.view.load(), split(90, 10));
    let stand = Stand::start(view, address, None);
    until("the link to be back", 10, || {
        proxy.link.load().connected.then_some(())
    })
    .await;
    let synced = until("the status", 5, || {
        stand
            .hub
            .status()
            .into_iter()
            .find(|proxy| proxy.synced && proxy.types.len() == 4)
    })
    .await;
    for kind in &synced.types {
        assert_eq!(kind.revision_sent, None, "{} was sent again", kind.kind);
    }
    let revision = stand.change(|view| *view = split(1, 2));
    let since = meshctl::rt::now();
    stand
        .hub
        .wait_acked(revision, since, Duration::from_secs(5))
        .await;
    assert_eq!(*proxy.view.load(), split(1, 2));
    assert!(proxy.view.changed().await);
    tasks.end().await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_from_its_last_configuration_while_the_control_plane_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.bin");
    let stand = Stand::start(split(90, 10), any_port(), None);
    let address = stand.address;
    let tasks = Tasks::new();
    let first = proxy("p", address, Some(dir.path()), &tasks).await;
    until("the first view", 10, || {
        (*first.view.load() == split(90, 10)).then_some(())
    })
    .await;
    until("the saved file", 10, || file.exists().then_some(())).await;
    tasks.end().await;
    stand.stop().await;

    let tasks = Tasks::new();
    let second = proxy("p", address, Some(dir.path()), &tasks).await;
    assert_eq!(*second.view.load(), split(90, 10));
    assert!(!second.link.load().synced);
    tasks.end().await;

    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    std::fs::write(&file, bytes).unwrap();
    let tasks = Tasks::new();
    let third = proxy("p", address, Some(dir.path()), &tasks).await;
    assert_eq!(*third.view.load(), View::default());
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_someone_elses_name_is_turned_away_and_remembered() {
    let other = SpiffeId::new("cluster.local", "default", "details");
    let peer = PeerIdentity {
        id: Some(other.clone()),
        chain: Arc::default(),
    };
    let stand = Stand::start(split(1, 1), any_port(), Some(peer));
    let tasks = Tasks::new();
    let proxy = proxy("p", stand.address, None, &tasks).await;
    let reason = until("the refusal", 10, || {
        proxy
            .link
            .load()
            .last_error
            .clone()
            .filter(|error| error.contains("PermissionDenied"))
    })
    .await;
    assert!(
        reason.contains("default/productpage") && reason.contains(&other.to_string()),
        "{reason}"
    );
    let refusal = stand.hub.refusals().remove(0);
    assert_eq!(refusal.identity, Some(other.to_string()));
    assert_eq!(stand.hub.status(), []);
    assert_eq!(*proxy.view.load(), View::default());
    tasks.end().await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tls_port_serves_nobody_without_a_certificate() {
    let peer = PeerIdentity::of(None);
    let stand = Stand::start(split(1, 1), any_port(), Some(peer));
    let tasks = Tasks::new();
    let proxy = proxy("p", stand.address, None, &tasks).await;
    until("the refusal", 10, || {
        proxy
            .link
            .load()
            .last_error
            .clone()
            .filter(|error| error.contains("Unauthenticated"))
    })
    .await;
    assert_eq!(*proxy.view.load(), View::default());
    tasks.end().await;
    stand.stop().await;
}

/// A client that asks and never reads, beside one that does.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_holds_up_nobody() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Service;
    let stand = Stand::start(split(90, 10), any_port(), None);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", stand.address))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let (requests, outgoing) = tokio::sync::mpsc::channel(64);
    requests
        .send(DeltaDiscoveryRequest {
            node: Some(meshctl::xds::node_to_proto(&node("slow"))),
            type_url: meshctl::xds::Kind::Cluster.type_url().to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    let _never_read = Service::new(channel)
        .delta_aggregated_resources(tokio_stream::wrappers::ReceiverStream::new(outgoing))
        .await
        .unwrap();
    let tasks = Tasks::new();
    let quick = proxy("quick", stand.address, None, &tasks).await;
    until("both clients", 10, || {
        (stand.hub.status().len() == 2).then_some(())
    })
    .await;
    for weight in 1..10 {
        let revision = stand.change(|view| *view = split(weight, 1));
        until("the change", 10, || {
            (*quick.view.load() == split(weight, 1)).then_some(())
        })
        .await;
        let since = meshctl::rt::now();
        let verdict = stand
            .hub
            .wait_acked(revision, since, Duration::from_millis(50))
            .await;
        let outcome = |name: &str| verdict.iter().find(|a| a.name == name).unwrap().outcome;
        assert_eq!(outcome("slow"), Outcome::Pending);
        assert_eq!(outcome("quick"), Outcome::Acknowledged);
    }
    tasks.end().await;
    stand.stop().await;
}
