//! Policies of the mesh's own kinds, as they are written, in a live proxy: beside an application, and at
//! a gateway.

use std::net::SocketAddr;

use meshctl::mesh::node::{Application, Node};
use meshctl::mesh::{Client, Locality, NodeKind, Protocol, View};
use meshctl::resource::{Instances, collect, lower, parse};
use meshctl::xds::{decode, encode};

use super::support::*;

pub(super) const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// The view of a proxy whose application is at `app` and which takes calls at `bind`, as it is carried.
pub(super) fn view(manifests: &str, kind: NodeKind, (bind, app): (SocketAddr, SocketAddr)) -> View {
    let (objects, findings) = parse(manifests, "policies.yaml", "default");
    assert_eq!(findings, []);
    let (objects, _) = collect(objects);
    let (world, findings) = lower(&objects, Instances::default());
    assert_eq!(findings, []);
    let labels = match kind {
        NodeKind::Sidecar => [("app".to_owned(), "shop".to_owned())],
        NodeKind::Gateway => [("istio".to_owned(), "edge".to_owned())],
    };
    let port = match kind {
        NodeKind::Sidecar => 8080,
        NodeKind::Gateway => 80,
    };
    let node = Node {
        id: "sidecar~127.0.0.1~shop-1.default~default.svc.cluster.local".to_owned(),
        client: Client::Meshctl,
        kind,
        name: "shop-1".to_owned(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        workload: "shop".to_owned(),
        labels: labels.into(),
        locality: Locality::default(),
        address: bind.ip(),
        outbound: free(),
        inbound: bind,
        transparent: false,
        applications: vec![Application {
            port,
            name: String::new(),
            bind,
            address: app,
            protocol: Protocol::Auto,
        }],
    };
    let view = world.view(&node);
    let carried = decode(&encode(&view, &node));
    assert!(carried.rejected.is_empty(), "{:?}", carried.rejected);
    assert_eq!(carried.view, view);
    carried.view
}

async fn ask(to: SocketAddr, path: &str, fields: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n{fields}\r\n"
    );
    exchange(to, request).await
}

#[tokio::test]
async fn limits_of_a_service_are_kept_by_its_sidecar() {
    let app = App::start("shop");
    let bind = free();
    let policy = "
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: limits}
spec:
  targetRefs: [{kind: Service, name: shop}]
  rateLimitHeaders: true
  limits:
  - {requests: 1, unit: Day, match: {path: {exact: /orders}}, by: [{source: Header, header: x-user}]}
  - {requests: 4, unit: Day, match: {path: {prefix: /all}}}
";
    let view = view(
        &format!("{SHOP}{policy}"),
        NodeKind::Sidecar,
        (bind, app.address),
    );
    let _proxy = Proxy::start(view).await;
    let told = async |path: &str, user: &str| {
        let field = format!("X-User: {user}\r\n");
        ask(bind, path, &field).await
    };
    // One for each user, whatever is asked about.
    assert_eq!(status(&told("/orders", "ann").await), 200);
    let refused = told("/orders?page=2", "ann").await;
    assert_eq!(status(&refused), 429);
    for field in [
        "x-envoy-ratelimited: true",
        "x-ratelimit-limit: 1",
        "retry-after: ",
    ] {
        assert!(refused.contains(field), "{refused}");
    }
    assert_eq!(status(&told("/orders", "bob").await), 200);
    assert_eq!(status(&ask(bind, "/orders", "").await), 200);
    assert_eq!(status(&told("/others", "ann").await), 200);
    // Four for all of them together.
    for _ in 0..4 {
        assert_eq!(status(&told("/all/x", "ann").await), 200);
    }
    assert_eq!(status(&told("/all/y", "bob").await), 429);
    assert_eq!(app.hits(), 8);
}

const EDGE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /one}}]
    directResponse: {status: 201}
  - match: [{uri: {prefix: /two}}]
    route: [{destination: {host: shop}}]
    headers: {response: {set: {x-frame-options: ALLOWALL}}}
  - route: [{destination: {host: shop}}]
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: HeaderPolicy
metadata: {name: browsers}
spec:
  targetRefs: [{group: networking.istio.io, kind: Gateway, name: edge}]
  securityHeaders: Strict
  response: {set: {x-frame-options: SAMEORIGIN}, addIfAbsent: {server: someone, x-tier: free}, remove: [content-type]}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: edge}
spec:
  targetRefs: [{group: networking.istio.io, kind: Gateway, name: edge}]
  status: 503
  limits: [{requests: 2, unit: Day, by: [{source: Address}]}]
";

#[tokio::test]
async fn at_a_gateway_all_routes_draw_from_one_bucket_and_have_the_same_edits() {
    let bind = free();
    let mut view = view(EDGE, NodeKind::Gateway, (bind, free()));
    let app = App::start("shop");
    let cluster = "outbound|80||shop.default.svc.cluster.local";
    let assignment = meshctl::mesh::Assignment::new(vec![endpoint(app.address)]);
    view.endpoints
        .insert(cluster.to_owned(), std::sync::Arc::new(assignment));
    let mut plain = (*view.clusters[cluster]).clone();
    plain.tls = None;
    view.clusters
        .insert(cluster.to_owned(), std::sync::Arc::new(plain));
    let _proxy = Proxy::start(view).await;
    let of = |answer: &str, name: &str| -> Vec<String> {
        let lines = answer.lines().map(str::to_ascii_lowercase);
        lines
            .filter(|line| line.starts_with(&format!("{name}: ")))
            .collect()
    };
    for path in ["/two", "/three"] {
        let answer = ask(bind, path, "").await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert_eq!(
            of(&answer, "x-frame-options"),
            ["x-frame-options: sameorigin"]
        );
        assert_eq!(of(&answer, "x-tier"), ["x-tier: free"], "{answer}");
        assert_eq!(of(&answer, "server").len(), 1, "{answer}");
        assert_eq!(
            of(&answer, "referrer-policy"),
            ["referrer-policy: no-referrer"]
        );
        assert!(of(&answer, "content-type").is_empty(), "{answer}");
    }
    // Two it was, over two routes; what the gateway answers by itself has the edits too.
    let refused = ask(bind, "/two", "").await;
    assert_eq!(status(&refused), 503, "{refused}");
    let own = ask(bind, "/one", "").await;
    assert_eq!(status(&own), 201, "{own}");
    assert_eq!(of(&own, "x-frame-options"), ["x-frame-options: sameorigin"]);
}
