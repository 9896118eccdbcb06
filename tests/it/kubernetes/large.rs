//! A large cluster: what it takes of a control plane, and how long a change takes to reach a proxy while a hundred
//! come each second. The figures are in `docs/control-plane-scale.md`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::Cluster;
use cluster::store::Key;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use meshctl::mesh::node::Node;
use meshctl::mesh::{Client, Locality, NodeKind, SpiffeId};
use meshctl::proxy::control_link::{Caller, connect_control};
use meshctl::proxy::identity::{IdentityClient, IdentityOptions, TokenSource};
use meshctl::tls::{Material, control_plane_id};
use meshctl::xds::{Kind, node_to_proto};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::installed::{Replica, Stand};
use super::seen::{SYSTEM, address, run_pod};

const SERVICES: usize = 5_000;
const ENDPOINTS: usize = 10;
const NAMESPACES: usize = 20;
/// Proxies that are told.
const PROXIES: [&str; 4] = ["watch-1", "watch-2", "watch-3", "watch-4"];
/// Between two changes.
const EVERY: Duration = Duration::from_millis(10);
/// For so long.
const SECONDS: usize = 30;
const EACH_SECOND: usize = 100;
/// The first and last of them are compared.
const COMPARED: usize = 10;
/// What other work on the machine may delay; a rare change by several times as much.
const BUSY: Duration = Duration::from_millis(100);
/// A change is at the proxy by then: changes are gathered for up to 100 ms by who follows, and by who pushes.
const MEDIAN: Duration = Duration::from_millis(500);
/// As is all but one in a hundred.
const SLOWEST: Duration = Duration::from_secs(2);

fn namespace(service: usize) -> String {
    format!("ns-{}", service % NAMESPACES)
}

fn pod_address(service: usize, which: usize) -> String {
    let number = u32::try_from(service * 16 + which).unwrap();
    Ipv4Addr::from(0x0a00_0001 + number).to_string()
}

fn put(cluster: &Cluster, resource: &str, object: Value) {
    let text = |name: &str| {
        object["metadata"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let key = Key {
        resource: resource.to_owned(),
        namespace: text("namespace"),
        name: text("name"),
    };
    cluster.server().state().store.put(key, object);
}

/// The slice of a service, of endpoints from `first` on.
fn slice(service: usize, first: usize) -> Value {
    let name = format!("svc-{service}");
    let endpoints: Vec<Value> = (first..ENDPOINTS)
        .map(|which| {
            json!({
                "addresses": [pod_address(service, which)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", which % 10),
                "targetRef": {
                    "kind": "Pod", "name": format!("{name}-{which}"), "namespace": namespace(service),
                },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-x"), "namespace": namespace(service), "uid": format!("slice-{service}"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// Services, their slices, and a pod for each endpoint.
fn fill(cluster: &Cluster) {
    for number in 0..NAMESPACES {
        let name = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(number)}});
        cluster.server().create_now("namespaces", "", name).unwrap();
    }
    for service in 0..SERVICES {
        let (name, namespace) = (format!("svc-{service}"), namespace(service));
        let address = Ipv4Addr::from(0x0b00_0001 + u32::try_from(service).unwrap());
        put(
            cluster,
            "services",
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": namespace, "uid": format!("service-{service}")},
                "spec": {
                    "type": "ClusterIP", "clusterIP": address.to_string(), "clusterIPs": [address.to_string()],
                    "selector": {"app": name},
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
                },
            }),
        );
        put(
            cluster,
            "endpointslices.discovery.k8s.io",
            slice(service, 0),
        );
        for which in 0..ENDPOINTS {
            let at = pod_address(service, which);
            put(
                cluster,
                "pods",
                json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {
                        "name": format!("{name}-{which}"), "namespace": namespace,
                        "uid": format!("pod-{service}-{which}"),
                        "labels": {"app": name, "version": "v1", "security.istio.io/tlsMode": "istio"},
                        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-7d9c5b8f6"), "uid": "1", "controller": true}],
                    },
                    "spec": {
                        "serviceAccountName": "default", "nodeName": format!("node-{}", which % 10),
                        "containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
                    },
                    "status": {
                        "phase": "Running", "podIP": at, "podIPs": [{"ip": at}],
                        "conditions": [{"type": "Ready", "status": "True"}],
                    },
                }),
            );
        }
    }
}

/// What a process has used: seconds of CPU, and MiB of memory, now and at most.
fn used(pid: u32) -> (f64, f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<f64>().unwrap() / 1024.0
    };
    // A tick is 10 ms on every Linux that this runs on.
    ((ticks(11) + ticks(12)) / 100.0, of("VmRSS"), of("VmHWM"))
}

/// When the change of which service came, by proxy and service.
type Book = Arc<Mutex<BTreeMap<(usize, usize), Instant>>>;

/// Which service a change is of; no two of them the same.
fn changed_service(number: usize) -> usize {
    number * 7 % SERVICES
}

/// A certificate for a pod of `shop`, by its account's token.
async fn joined(stand: &Stand, name: &str, to: SocketAddr) -> (Arc<Material>, SpiffeId) {
    let dir = stand.dir.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let token = stand
        .cluster
        .token("shop", "default", &["istio-ca"], 3_600)
        .unwrap();
    let roots = stand
        .object("configmaps", SYSTEM, "meshctl-ca-root-cert")
        .unwrap();
    let file = dir.join("root.pem");
    std::fs::write(&file, roots["data"]["root-cert.pem"].as_str().unwrap()).unwrap();
    let id = SpiffeId::new("cluster.local", "shop", "default");
    let mut client = IdentityClient::new(IdentityOptions {
        token: Some(TokenSource::Value(token)),
        root_file: Some(file),
        ..IdentityOptions::new(to, id.clone(), &dir)
    });
    (client.start().await.unwrap(), id)
}

fn node(name: &str) -> Node {
    let address: IpAddr = address(name).parse().unwrap();
    Node {
        id: format!("sidecar~{address}~{name}.shop~shop.svc.cluster.local"),
        client: Client::Meshctl,
        kind: NodeKind::Sidecar,
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: "default".to_owned(),
        workload: "watch".to_owned(),
        labels: [("app".to_owned(), "watch".to_owned())].into(),
        locality: Locality::default(),
        address,
        outbound: ([127, 0, 0, 1], 15001).into(),
        inbound: ([0, 0, 0, 0], 15006).into(),
        transparent: true,
        applications: Vec::new(),
    }
}

/// Takes and acknowledges everything, and books when a change came; counts the assignments.
async fn follow(
    (which, name): (usize, &'static str),
    material: Arc<Material>,
    to: SocketAddr,
    book: Book,
    assignments: Arc<Mutex<Vec<usize>>>,
) {
    let server = control_plane_id("cluster.local");
    let io = connect_control(to, &server, Caller::Member(&material))
        .await
        .unwrap();
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = io.take();
        async move { io.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = Endpoint::from_static("http://control-plane")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector(connector)
        .await
        .unwrap();
    let mut service =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let (up, requests) = mpsc::channel(64);
    let first = DeltaDiscoveryRequest {
        node: Some(node_to_proto(&node(name))),
        type_url: Kind::Cluster.type_url().to_owned(),
        ..Default::default()
    };
    up.send(first).await.unwrap();
    let mut responses = service
        .delta_aggregated_resources(ReceiverStream::new(requests))
        .await
        .unwrap()
        .into_inner();
    while let Ok(Some(response)) = responses.message().await {
        let came = meshctl::rt::now();
        let mut fresh = Vec::new();
        for resource in &response.resources {
            if response.type_url == Kind::Cluster.type_url()
                && resource.name.starts_with("outbound|")
            {
                fresh.push(resource.name.clone());
            }
            if response.type_url == Kind::Endpoint.type_url() {
                let bytes = &resource.resource.as_ref().unwrap().value;
                if let Some(service) = changed(&resource.name, bytes) {
                    book.lock().unwrap().entry((which, service)).or_insert(came);
                }
            }
        }
        if response.type_url == Kind::Endpoint.type_url() {
            assignments.lock().unwrap()[which] += response.resources.len();
        }
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        let more = (!fresh.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: Kind::Endpoint.type_url().to_owned(),
            resource_names_subscribe: fresh,
            ..Default::default()
        });
        for request in [Some(acknowledgement), more].into_iter().flatten() {
            if up.send(request).await.is_err() {
                return;
            }
        }
    }
}

/// The service of an assignment that has one endpoint less, which is what a change makes.
fn changed(name: &str, bytes: &[u8]) -> Option<usize> {
    let host = name.rsplit_once("|svc-")?.1;
    let service = host.split_once('.')?.0.parse().ok()?;
    let all = ClusterLoadAssignment::decode(bytes).unwrap();
    let groups = all.endpoints.iter();
    let endpoints: usize = groups.map(|group| group.lb_endpoints.len()).sum();
    (endpoints == ENDPOINTS - 1).then_some(service)
}

async fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let began = meshctl::rt::now();
    while !done() {
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The median and the 99th percentile.
fn percentiles(mut all: Vec<Duration>) -> (Duration, Duration) {
    all.sort_unstable();
    (all[all.len() / 2], all[all.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and measures: cargo test --test it -- --ignored --nocapture five_thousand"]
#[expect(clippy::print_stdout, reason = "what was measured")]
async fn five_thousand_services_are_followed_and_a_hundred_changes_a_second_are_passed_on() {
    let stand = Stand::start().await;
    stand.install(&[]);
    let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let server = stand.cluster.server();
    server.create_now("namespaces", "", shop).unwrap();
    fill(&stand.cluster);
    for name in PROXIES {
        run_pod(&stand, "shop", name, &json!({"app": "watch"}), "default");
    }

    let (began, server_before) = (meshctl::rt::now(), used(std::process::id()).0);
    let replica = Replica::start(&stand, "one");
    let pid = replica.id();
    let served = |log: &Path| {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        log.contains("proxies are served")
    };
    until("its lists", Duration::from_mins(10), || {
        served(&replica.log)
    })
    .await;
    let ready = began.elapsed();
    let (cpu, rss, most) = used(pid);
    let of_server = used(std::process::id()).0 - server_before;
    println!(
        "ready after {ready:.1?}: {cpu:.1} s of CPU, {rss:.0} MiB now, {most:.0} MiB at most; the API server's {of_server:.1} s"
    );
    until("the roots", Duration::from_mins(2), || {
        let roots = stand.object("configmaps", SYSTEM, "meshctl-ca-root-cert");
        roots.is_some()
    })
    .await;

    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, replica.tls));
    let book = Book::default();
    let assignments = Arc::new(Mutex::new(vec![0; PROXIES.len()]));
    let (linking, before) = (meshctl::rt::now(), used(pid).0);
    let mut followers = tokio::task::JoinSet::new();
    for (which, name) in PROXIES.into_iter().enumerate() {
        let (material, _) = joined(&stand, name, to).await;
        let (book, assignments) = (Arc::clone(&book), Arc::clone(&assignments));
        followers.spawn(follow((which, name), material, to, book, assignments));
    }
    until("everything at every proxy", Duration::from_mins(10), || {
        let all = assignments.lock().unwrap();
        all.iter().all(|count| *count >= SERVICES)
    })
    .await;
    let (cpu, rss, most) = used(pid);
    println!(
        "{} proxies had everything after {:.1?}: {:.1} s of CPU, {rss:.0} MiB now, {most:.0} MiB at most",
        PROXIES.len(),
        linking.elapsed(),
        cpu - before
    );

    let (before, began) = (used(pid).0, meshctl::rt::now());
    let mut every = tokio::time::interval(EVERY);
    let mut made = Vec::new();
    let mut spent = Vec::new();
    for number in 0..SECONDS * EACH_SECOND {
        every.tick().await;
        if number % (COMPARED * EACH_SECOND) == 0 {
            spent.push(used(pid).0);
        }
        let service = changed_service(number);
        let object = slice(service, 1);
        let at = meshctl::rt::now();
        put(&stand.cluster, "endpointslices.discovery.k8s.io", object);
        made.push(at);
    }
    let making = began.elapsed();
    spent.push(used(pid).0);
    until("the last change", Duration::from_mins(5), || {
        book.lock().unwrap().len() == made.len() * PROXIES.len()
    })
    .await;
    let (cpu, rss, most) = used(pid);
    println!(
        "{} changes in {making:.1?}: {:.1} s of CPU, {rss:.0} MiB now, {most:.0} MiB at most",
        made.len(),
        cpu - before
    );
    for (tens, two) in spent.windows(2).enumerate() {
        println!(
            "  in ten seconds from {} s on: {:.1} s of CPU",
            tens * COMPARED,
            two[1] - two[0]
        );
    }
    let book = book.lock().unwrap().clone();
    // Every change came to every proxy.
    for number in 0..made.len() {
        for which in 0..PROXIES.len() {
            assert!(
                book.contains_key(&(which, changed_service(number))),
                "{number} {which}"
            );
        }
    }
    let took = |from: usize| -> Vec<Duration> {
        let some = (from..from + COMPARED * EACH_SECOND)
            .flat_map(|number| (0..PROXIES.len()).map(move |which| (number, which)));
        some.map(|(number, which)| {
            let came = book[&(which, changed_service(number))];
            came.duration_since(made[number])
        })
        .collect()
    };
    let (first, last) = (
        percentiles(took(0)),
        percentiles(took((SECONDS - COMPARED) * EACH_SECOND)),
    );
    println!(
        "first ten seconds: p50 {:.0?}, p99 {:.0?}",
        first.0, first.1
    );
    println!("last ten seconds: p50 {:.0?}, p99 {:.0?}", last.0, last.1);
    // Flat: nothing piles up. What the machine may be busy with meanwhile is let pass.
    assert!(
        last.0 <= first.0.mul_f64(1.25) + BUSY && last.1 <= first.1.mul_f64(1.5) + 5 * BUSY,
        "{first:?} {last:?}"
    );
    let cost: Vec<f64> = spent.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(
        cost[cost.len() - 1] <= cost[0] * 1.25 + 0.2,
        "seconds of CPU in ten seconds: {cost:?}"
    );
    // And soon: where each push cost the whole cluster, these were ten seconds and more.
    for (p50, p99) in [first, last] {
        assert!(p50 < MEDIAN && p99 < SLOWEST, "{first:?} {last:?}");
    }
    drop(followers);
    replica.end();
}
