//! Objects of other meshes, by what becomes of calls through real sidecars.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, Sidecar, service};

/// A server whose every second answer to `/flaky` is 500, and that takes its time for `/slow`.
fn unsteady(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, connections) = (Arc::new(AtomicUsize::new(0)), tasks.clone());
    tasks.spawn("unsteady", async move {
        while let Ok((io, _)) = listener.accept().await {
            let asked = Arc::clone(&asked);
            connections.spawn("connection", async move {
                let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let asked = Arc::clone(&asked);
                    async move {
                        let status = match request.uri().path() {
                            "/flaky" if asked.fetch_add(1, Ordering::Relaxed) % 2 == 0 => 500,
                            "/slow" => {
                                tokio::time::sleep(Duration::from_secs(5)).await;
                                200
                            }
                            _ => 200,
                        };
                        let mut answer = hyper::Response::new(Full::new(Bytes::from("unsteady")));
                        *answer.status_mut() = status.try_into().unwrap();
                        Ok::<_, Infallible>(answer)
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(io), answer)
                    .await;
                // Callers go as they please.
                let _ended = served.is_ok();
            });
        }
    });
    address
}

async fn sidecar(mesh: &Mesh, name: &str, at: SocketAddr) -> Sidecar {
    mesh.apply(&service(name, &[("http", 9080)]));
    let app = App {
        service: name,
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    mesh.sidecar(&app).await
}

const SPLIT: &str = "
apiVersion: split.smi-spec.io/v1alpha1
kind: TrafficSplit
metadata: {name: shop}
spec:
  service: shop
  backends:
  - {service: one, weight: 900m}
  - {service: two, weight: 100m}
";

const INSIDERS: &str = "
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: insiders}
spec: {matches: [{name: inside, pathRegex: /inside}]}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: insiders}
spec:
  service: shop
  matches: [{kind: HTTPRouteGroup, name: insiders}]
  backends: [{service: two, weight: 1}]
";

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_split_as_a_traffic_split_says() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let caller = sidecar(&mesh, "caller", backend("caller", &tasks)).await;
    let _one = sidecar(&mesh, "one", backend("one", &tasks)).await;
    let _two = sidecar(&mesh, "two", backend("two", &tasks)).await;
    // Nothing stands behind the service itself.
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(SPLIT);
    mesh.settled().await;
    let asking = Caller::new(caller.outbound());
    let counts = asking.count("shop:9080", 1000).await;
    assert_eq!(counts.get("one"), Some(&900), "{counts:?}");
    assert_eq!(counts.get("two"), Some(&100), "{counts:?}");

    mesh.apply(INSIDERS);
    mesh.settled().await;
    for _ in 0..20 {
        let (_, body) = asking.get("shop:9080", "/inside/x").await.unwrap();
        assert!(body.starts_with("two "), "{body}");
    }
    let counts = asking.count("shop:9080", 1000).await;
    assert_eq!(counts.get("one"), Some(&900), "{counts:?}");

    // As Argo shifts it.
    let half = SPLIT.replace("900m", "1").replace("100m", "'1'");
    mesh.apply(&half);
    mesh.settled().await;
    let counts = asking.count("shop:9080", 100).await;
    assert_eq!(counts.get("one"), Some(&50), "{counts:?}");
    drop(mesh);
    tasks.end().await;
}

const PROFILE: &str = "
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: shop.default.svc.cluster.local}
spec:
  routes:
  - {name: flaky, condition: {method: GET, pathRegex: /flaky}, isRetryable: true}
  - {name: slow, condition: {pathRegex: /slow}, timeout: 200ms}
";

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_tried_and_bounded_as_linkerd_says() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let caller = sidecar(&mesh, "caller", backend("caller", &tasks)).await;
    let _shop = sidecar(&mesh, "shop", unsteady(&tasks)).await;
    mesh.settled().await;
    let asking = Caller::new(caller.outbound());
    let statuses = async || {
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(asking.get("shop:9080", "/flaky").await.unwrap().0);
        }
        statuses
    };
    assert_eq!(statuses().await, [500, 200, 500, 200]);

    mesh.apply(PROFILE);
    mesh.settled().await;
    assert_eq!(statuses().await, [200; 4]);
    let (status, said) = asking.get("shop:9080", "/slow").await.unwrap();
    assert_eq!(status, 504, "{said}");
    let (status, _) = asking.get("shop:9080", "/else").await.unwrap();
    assert_eq!(status, 200);

    // The same by annotations of the Service.
    let profile = "shop.default.svc.cluster.local";
    mesh.run(&["delete", "serviceprofile", profile], None);
    mesh.settled().await;
    assert_eq!(statuses().await, [500, 200, 500, 200]);
    let annotated = service("shop", &[("http", 9080)]).replace(
        "metadata: {name: shop}",
        "metadata: {name: shop, annotations: {retry.linkerd.io/http: 5xx, timeout.linkerd.io/request: 200ms}}",
    );
    mesh.apply(&annotated);
    mesh.settled().await;
    assert_eq!(statuses().await, [200; 4]);
    let (status, said) = asking.get("shop:9080", "/slow").await.unwrap();
    assert_eq!(status, 504, "{said}");
    drop(mesh);
    tasks.end().await;
}

const MESH: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
    pathNormalization: {normalization: MERGE_SLASHES}
    defaultHttpRetryPolicy: {attempts: 2, retryOn: 5xx}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_config_is_for_every_proxy() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let caller = sidecar(&mesh, "caller", backend("caller", &tasks)).await;
    let _shop = sidecar(&mesh, "shop", unsteady(&tasks)).await;
    let _said = sidecar(&mesh, "said", backend("said", &tasks)).await;
    mesh.settled().await;
    let asking = Caller::new(caller.outbound());
    let flaky = async || asking.get("shop:9080", "/flaky").await.unwrap().0;
    assert_eq!((flaky().await, flaky().await), (500, 200));
    let (_, before) = asking.get("said:9080", "/a//b").await.unwrap();
    assert!(before.starts_with("said /a//b"), "{before}");

    mesh.apply(MESH);
    mesh.settled().await;
    assert_eq!((flaky().await, flaky().await), (200, 200));
    let (_, after) = asking.get("said:9080", "/a//b").await.unwrap();
    assert!(after.starts_with("said /a/b"), "{after}");
    let (status, said) = asking.get("outside.example.com", "/").await.unwrap();
    assert_eq!(status, 502, "{said}");
    drop(mesh);
    tasks.end().await;
}
