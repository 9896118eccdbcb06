//! A real Envoy on our ADS.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshctl::api::proxies::Outcome;
use meshctl::mesh::View;
use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::processes::{Process, free, installed};
use crate::stand::{Stand, cluster, endpoints, table, until, view};

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V3: &str = "outbound|9080|v3|reviews.default.svc.cluster.local";
const HOST: &str = "reviews:9080";

/// What an Envoy knows of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Introduction<'a> {
    /// `GRPC` or `DELTA_GRPC`.
    pub(crate) api: &'a str,
    pub(crate) id: &'a str,
    /// In YAML's flow form.
    pub(crate) metadata: &'a str,
    /// How it speaks to the control plane, likewise.
    pub(crate) transport: &'a str,
}

/// An Envoy that gets everything from `control_plane`; `api` is `GRPC` or `DELTA_GRPC`.
pub(crate) fn envoy(control_plane: SocketAddr, api: &str) -> Option<(Process, tempfile::TempDir)> {
    let introduction = Introduction {
        api,
        id: "sidecar~127.0.0.1~productpage-1.default~default.svc.cluster.local",
        metadata: "{}",
        transport: "",
    };
    introduced(control_plane, introduction)
}

/// An Envoy that says of itself what is wanted.
pub(crate) fn introduced(
    control_plane: SocketAddr,
    introduction: Introduction<'_>,
) -> Option<(Process, tempfile::TempDir)> {
    let Introduction {
        api,
        id,
        metadata,
        transport,
    } = introduction;
    let program = installed("envoy", "envoy/_bin/envoy")?;
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = dir.path().join("bootstrap.yaml");
    let (host, port) = (control_plane.ip(), control_plane.port());
    std::fs::write(
        &bootstrap,
        format!(
            "
node:
  id: {id}
  cluster: productpage.default
  metadata: {metadata}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]
  cds_config: {{resource_api_version: V3, ads: {{}}}}
  lds_config: {{resource_api_version: V3, ads: {{}}}}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    {transport}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]
"
        ),
    )
    .unwrap();
    let child = Command::new(program)
        .args(["--concurrency", "1", "--disable-hot-restart"])
        .args(["--file-flush-interval-msec", "100"])
        .args(["--use-dynamic-base-id", "-l", "warning", "-c"])
        .arg(&bootstrap)
        .arg("--log-path")
        .arg(dir.path().join("envoy.log"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some((Process(child), dir))
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Waits until the one client has everything of the newest revision.
pub(crate) async fn synced(stand: &Stand) {
    until("Envoy to be in sync", 20, || {
        let status = stand.hub.status();
        let rejected: Vec<_> = status
            .iter()
            .flat_map(|proxy| &proxy.types)
            .filter_map(|kind| kind.rejected.as_ref())
            .collect();
        assert!(rejected.is_empty(), "{rejected:?}");
        (status.len() == 1 && status[0].synced && status[0].types.len() >= 4).then_some(())
    })
    .await;
}

/// Applies `change` and gives how long Envoy took to acknowledge it.
pub(crate) async fn changed(stand: &Stand, change: impl FnOnce(&mut View)) -> Duration {
    let since = meshctl::rt::now();
    let revision = stand.change(change);
    let verdict = stand
        .hub
        .wait_acked(revision, since, Duration::from_secs(20))
        .await;
    assert_eq!(verdict.len(), 1);
    assert_eq!(verdict[0].outcome, Outcome::Acknowledged, "{verdict:?}");
    since.elapsed()
}

fn share(counts: &std::collections::BTreeMap<String, usize>, who: &str) -> f64 {
    let number = |n: usize| f64::from(u32::try_from(n).unwrap());
    number(counts.get(who).copied().unwrap_or(0)) / number(counts.values().sum())
}

async fn weighted_routes(api: &str) {
    let tasks = Tasks::new();
    let (one, three) = (backend("v1", &tasks), backend("v3", &tasks));
    let listen = free();
    let world = view(listen, &[(V1, 90, &[one]), (V3, 10, &[three])]);
    let stand = Stand::start(world, any_port(), None);
    let address = stand.address;
    let Some((_envoy, _dir)) = envoy(address, api) else {
        return;
    };
    synced(&stand).await;
    let caller = Caller::new(listen);

    let counts = caller.count(HOST, 3000).await;
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!((share(&counts, "v1") - 0.9).abs() < 0.03, "{counts:?}");

    // Routes only.
    let took = changed(&stand, |view| {
        view.routes
            .insert("9080".to_owned(), table(&[(V1, 50), (V3, 50)]));
    })
    .await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let counts = caller.count(HOST, 1000).await;
    assert!((share(&counts, "v1") - 0.5).abs() < 0.06, "{counts:?}");

    // A cluster that changes is served at once, because its endpoints follow it.
    let took = changed(&stand, |view| {
        let mut slower = meshctl::mesh::Cluster::clone(&cluster(V1));
        slower.connect_timeout = Duration::from_secs(7);
        view.clusters.insert(V1.to_owned(), Arc::new(slower));
    })
    .await;
    assert!(took < Duration::from_secs(5), "stalled for {took:?}");

    // Endpoints move, a cluster comes and another goes, and no call fails.
    let load = async {
        let mut all = std::collections::BTreeMap::new();
        for _ in 0..30 {
            for (who, count) in caller.count(HOST, 50).await {
                *all.entry(who).or_insert(0) += count;
            }
        }
        all
    };
    let four = backend("v4", &tasks);
    let moves = async {
        changed(&stand, |view| {
            view.endpoints
                .insert(V3.to_owned(), endpoints(&[one, three]));
        })
        .await;
        changed(&stand, |view| {
            view.clusters.insert("v4".to_owned(), cluster("v4"));
            view.endpoints.insert("v4".to_owned(), endpoints(&[four]));
            view.routes.insert("9080".to_owned(), table(&[("v4", 1)]));
            view.clusters.remove(V3);
            view.endpoints.remove(V3);
        })
        .await;
    };
    let (counts, ()) = tokio::join!(load, moves);
    assert!(
        counts.keys().all(|who| who.starts_with('v')),
        "calls failed: {counts:?}"
    );
    assert!(caller.count(HOST, 20).await.contains_key("v4"));

    // The control plane goes and comes; calls do not notice, and nothing is sent twice but what a client
    // of the state of the world may lack: it says a version, not what it has.
    let served = stand.stop().await;
    let counts = caller.count(HOST, 200).await;
    assert_eq!(counts.get("v4"), Some(&200), "{counts:?}");
    let stand = Stand::start(served, address, None);
    synced(&stand).await;
    for kind in &stand.hub.status()[0].types {
        if api == "GRPC" && matches!(kind.kind.as_str(), "EDS" | "RDS") {
            continue;
        }
        assert_eq!(kind.revision_sent, None, "{} was sent again", kind.kind);
    }
    changed(&stand, |view| {
        view.routes.insert("9080".to_owned(), table(&[(V1, 1)]));
    })
    .await;
    let counts = caller.count(HOST, 20).await;
    assert_eq!(counts.get("v1"), Some(&20), "{counts:?}");
    stand.stop().await;
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_routes_by_delta() {
    weighted_routes("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_routes_by_state_of_the_world() {
    weighted_routes("GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_ill_are_not_called_even_when_most_are() {
    let tasks = Tasks::new();
    let well = backend("well", &tasks);
    let (ill, worse) = (free(), free());
    let listen = free();
    let mut world = view(listen, &[(V1, 1, &[well, ill, worse])]);
    let mut members = endpoints(&[well, ill, worse]);
    for endpoint in &mut Arc::make_mut(&mut members).endpoints {
        if endpoint.address != well {
            endpoint.health = meshctl::mesh::Health::Unhealthy;
        }
    }
    world.endpoints.insert(V1.to_owned(), members);
    let stand = Stand::start(world, any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let counts = Caller::new(listen).count(HOST, 60).await;
    assert_eq!(counts.get("well"), Some(&60), "{counts:?}");
    stand.stop().await;
    tasks.end().await;
}
