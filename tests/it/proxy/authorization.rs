//! Who may call, from outside: policies as they are written, in live proxies.

use std::net::SocketAddr;

use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::{NodeKind, View};
use meshctl::proxy::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::mtls::{Mesh, options, outward};
use super::policies::{SHOP, view};
use super::raw_http2::RawHttp2;
use super::spellings::SPELLINGS;
use super::support::*;

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
  hosts: ['*']
  gateways: [edge]
  http: [{directResponse: {status: 200, body: {string: reached}}}]
";

fn policy(name: &str, labels: &str, spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {labels}}}\n  {}\n",
        spec.trim()
    )
}

fn sidecar(specs: &[&str], at: (SocketAddr, SocketAddr)) -> View {
    let mut manifests = SHOP.to_owned();
    for (index, spec) in specs.iter().enumerate() {
        manifests.push_str(&policy(&format!("p{index}"), "{app: shop}", spec));
    }
    view(&manifests, NodeKind::Sidecar, at)
}

fn gateway(specs: &[&str], bind: SocketAddr) -> View {
    let mut manifests = EDGE.to_owned();
    for (index, spec) in specs.iter().enumerate() {
        manifests.push_str(&policy(&format!("p{index}"), "{istio: edge}", spec));
    }
    view(&manifests, NodeKind::Gateway, (bind, bind))
}

/// The status of what `request` is answered; 0 where the connection is closed instead.
async fn told(to: SocketAddr, request: &[u8]) -> u16 {
    let mut stream = connect(to).await;
    // The proxy may have closed it already.
    let _sent = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

fn request(line: &str, host: &str, more: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n").into_bytes()
}

const DENIES: &str = "
action: DENY
rules:
- to: [{operation: {paths: [/admin, '/admin/*']}}]
- to: [{operation: {methods: [DELETE]}}]
- to: [{operation: {hosts: [secret.example.com]}}]
";

const ALLOWS: &str = "
action: ALLOW
rules:
- to: [{operation: {methods: [GET], paths: ['/public/*', /public], hosts: [shop.example.com]}}]
";

/// None of the requests that rules are against comes through, by HTTP/1.1 or HTTP/2.
async fn none_gets_past(to: SocketAddr) {
    for spelling in SPELLINGS {
        let status = told(
            to,
            &request(&format!("GET {spelling}"), "shop.example.com", ""),
        )
        .await;
        assert!(matches!(status, 400 | 403 | 404), "{spelling}: {status}");
        let status = by_http2(to, "GET", spelling, "shop.example.com").await;
        assert!(
            matches!(status, 0 | 400 | 403 | 404),
            "HTTP/2 {spelling}: {status}"
        );
    }
    for method in ["DELETE", "delete", "Delete", "dELETE"] {
        let line = format!("{method} /public/x");
        let status = told(to, &request(&line, "shop.example.com", "")).await;
        assert!(matches!(status, 400 | 403), "{method}: {status}");
        let status = by_http2(to, method, "/public/x", "shop.example.com").await;
        assert!(matches!(status, 0 | 400 | 403), "HTTP/2 {method}: {status}");
    }
    for host in [
        "secret.example.com",
        "SECRET.example.com",
        "secret.example.com:80",
        "Secret.Example.Com:8080",
    ] {
        let status = told(to, &request("GET /public/x", host, "")).await;
        assert_eq!(status, 403, "{host}");
        assert_eq!(by_http2(to, "GET", "/public/x", host).await, 403, "{host}");
    }
    // Who says it twice says nothing.
    for (line, more) in [
        ("GET /public/x", "Host: secret.example.com\r\n"),
        ("GET http://secret.example.com/public/x", ""),
        ("GET http://secret.example.com:80/public/x", ""),
    ] {
        let status = told(to, &request(line, "shop.example.com", more)).await;
        assert!(matches!(status, 400 | 403), "{line}: {status}");
    }
    // What a caller writes about itself or its path is no path and no identity.
    for more in [
        "X-Original-URL: /public/x\r\n",
        "X-Rewrite-URL: /public/x\r\n",
        "X-Envoy-Original-Path: /public/x\r\n",
        "X-HTTP-Method-Override: GET\r\n",
        "X-Forwarded-Host: public.example.com\r\n",
    ] {
        let status = told(to, &request("GET /admin", "shop.example.com", more)).await;
        assert_eq!(status, 403, "{more}");
    }
}

async fn by_http2(to: SocketAddr, method: &str, path: &str, host: &str) -> u16 {
    http2_raw(
        to,
        &[
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", host),
        ],
    )
    .await
}

/// Sends these fields as one HTTP/2 request, byte by byte as given; the status, or 0 where the stream or
/// the connection is ended instead.
async fn http2_raw(to: SocketAddr, fields: &[(&str, &str)]) -> u16 {
    let mut raw = RawHttp2::open(to).await;
    raw.ask(1, fields, true).await;
    raw.status(1).await
}

#[tokio::test]
async fn no_spelling_gets_past_a_sidecar() {
    for specs in [&[DENIES][..], &[ALLOWS], &[DENIES, ALLOWS]] {
        let (app, bind) = (App::start("shop"), free());
        let _proxy = Proxy::start(sidecar(specs, (bind, app.address))).await;
        for path in ["/public/x", "/public", "/public/a%20b?q=/admin"] {
            let line = format!("GET {path}");
            assert_eq!(
                told(bind, &request(&line, "shop.example.com", "")).await,
                200,
                "{path}"
            );
            assert_eq!(
                by_http2(bind, "GET", path, "shop.example.com").await,
                200,
                "{path}"
            );
        }
        let before = app.hits();
        if specs.len() == 1 && specs[0] == ALLOWS {
            let status = told(bind, &request("POST /public/x", "shop.example.com", "")).await;
            assert_eq!(status, 403);
        }
        none_gets_past(bind).await;
        assert_eq!(app.hits(), before, "of {specs:?}");
    }
}

#[tokio::test]
async fn no_spelling_gets_past_a_gateway() {
    for specs in [&[DENIES][..], &[ALLOWS]] {
        let bind = free();
        let _proxy = Proxy::start(gateway(specs, bind)).await;
        let status = told(bind, &request("GET /public/x", "shop.example.com", "")).await;
        assert_eq!(status, 200);
        none_gets_past(bind).await;
    }
}

#[tokio::test]
async fn http2_pseudo_fields_are_no_way_around() {
    let (app, bind) = (App::start("shop"), free());
    let _proxy = Proxy::start(sidecar(&[DENIES], (bind, app.address))).await;
    let (method, scheme) = ((":method", "GET"), (":scheme", "http"));
    let (path, host) = ((":path", "/admin"), (":authority", "shop.example.com"));
    for fields in [
        &[method, scheme, (":path", "/public"), path, host][..],
        &[method, scheme, path, (":path", "/public"), host],
        &[method, scheme, path, host, ("path", "/public"), ("x", "y")],
        &[method, scheme, host, ("x", "y"), path],
        &[(":method", "get"), scheme, path, host],
        &[method, (":scheme", "https"), path, host],
        &[method, scheme, (":path", "admin"), host],
        &[method, scheme, (":path", ""), host],
        &[method, scheme, (":path", "/public#/admin"), host],
        &[method, scheme, (":path", "/public\r\nX: y"), host],
        &[method, scheme, (":path", "/public /admin"), host],
        &[
            method,
            scheme,
            (":path", "/public"),
            (":authority", "secret.example.com"),
            ("host", "shop.example.com"),
        ],
        &[
            method,
            scheme,
            (":path", "/public"),
            host,
            ("host", "secret.example.com"),
        ],
        &[
            method,
            scheme,
            (":path", "/public"),
            ("host", "secret.example.com"),
        ],
        &[
            method,
            scheme,
            (":path", "/public"),
            (":authority", "secret.example.com@shop.example.com"),
        ],
        &[method, method, scheme, path, host],
        &[
            (":method", "CONNECT"),
            (":authority", "secret.example.com:80"),
        ],
    ] {
        let status = http2_raw(bind, fields).await;
        assert!(
            matches!(status, 0 | 400 | 403 | 404 | 405),
            "{fields:?}: {status}"
        );
    }
    assert_eq!(app.hits(), 0);
}

/// A proxy that takes mTLS for `shop`, and one for each caller that leads there.
async fn callers(
    mesh: &Mesh,
    specs: &[&str],
    app: SocketAddr,
    accounts: &[&str],
) -> (SocketAddr, Vec<SocketAddr>, Vec<Proxy>) {
    let bind = free();
    let server = Options {
        admin: Some(free()),
        ..options("shop")
    };
    let view = sidecar(specs, (bind, app));
    let mut proxies = vec![Proxy::with(server, view, Some(mesh.identity("shop"))).await];
    let mut outs = Vec::new();
    for account in accounts {
        let out = free();
        let view = outward(out, bind, "shop", UpstreamProtocol::Negotiated).0;
        let identity = Some(mesh.identity(account));
        proxies.push(Proxy::with(options(account), view, identity).await);
        outs.push(out);
    }
    (bind, outs, proxies)
}

#[tokio::test]
async fn callers_are_judged_by_what_they_proved() {
    let mesh = Mesh::new();
    let app = App::start("shop");
    let specs = ["
rules:
- from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]
  to: [{operation: {paths: ['/orders*']}}]
- from: [{source: {serviceAccounts: [admin]}}]
- from: [{source: {namespaces: [monitoring]}}]
"];
    let (bind, outs, _proxies) =
        callers(&mesh, &specs, app.address, &["web", "admin", "thief"]).await;
    let forged = "X-Forwarded-Client-Cert: By=x;Hash=y;URI=spiffe://cluster.local/ns/default/sa/admin\r\n\
                  X-Meshctl-Peer: admin;admin;monitoring;admin;v1\r\n\
                  X-Forwarded-For: 127.0.0.1\r\n";
    for (who, path, expected) in [
        (outs[0], "/orders/7", 200),
        (outs[0], "/prices", 403),
        (outs[1], "/prices", 200),
        (outs[2], "/orders/7", 403),
        // Who shows no certificate is nobody.
        (bind, "/orders/7", 403),
    ] {
        let line = format!("GET {path}");
        let status = told(who, &request(&line, "shop.example.com", forged)).await;
        assert_eq!(status, expected, "{path} by {who}");
    }
    assert_eq!(app.hits(), 2);
}

#[tokio::test]
async fn bytes_are_judged_before_the_application_hears_of_them_and_again_when_rules_change() {
    let mesh = Mesh::new();
    let app = App::start("shop");
    let spec = "
rules:
- from: [{source: {ipBlocks: [127.0.0.0/8]}}]
";
    let (admit, refuse) = (spec, spec.replace("127.0.0.0/8", "10.0.0.0/8"));
    let bind = free();
    let tcp = |spec: &str| {
        let manifests = SHOP.replace("name: http,", "name: tcp-x,");
        let policies = policy("p", "{app: shop}", spec);
        view(
            &format!("{manifests}{policies}"),
            NodeKind::Sidecar,
            (bind, app.address),
        )
    };
    let proxy = Proxy::with(options("shop"), tcp(admit), Some(mesh.identity("shop"))).await;
    let mut open = connect(bind).await;
    open.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut open, "\r\n\r\n").await;
    assert_eq!(app.hits(), 1);
    proxy.views.publish(tcp(&refuse));
    // The one that was let in is ended, and no other is let in.
    let mut rest = Vec::new();
    let _ended = open.read_to_end(&mut rest).await;
    assert_eq!(told(bind, b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await, 0);
    assert_eq!(app.hits(), 1);
    proxy.views.publish(tcp(admit));
    eventually(|| async { told(bind, &request("GET /3", "a", "")).await == 200 }).await;
}

#[tokio::test]
async fn a_connection_goes_by_the_rules_of_the_day() {
    let app = App::start("shop");
    let bind = free();
    let closed = "
action: DENY
rules: [{to: [{operation: {paths: [/orders]}}]}]
";
    let proxy = Proxy::start(sidecar(&[], (bind, app.address))).await;
    let mut kept = connect(bind).await;
    let ask = b"GET /orders HTTP/1.1\r\nHost: a\r\n\r\n";
    kept.write_all(ask).await.unwrap();
    read_until(&mut kept, "\r\n\r\n").await;
    proxy.views.publish(sidecar(&[closed], (bind, app.address)));
    eventually(|| async { told(bind, &request("GET /orders", "a", "")).await == 403 }).await;
    let before = app.hits();
    // It is ended, or what is asked on it is refused.
    let _sent = kept.write_all(ask).await;
    let mut answer = Vec::new();
    let _read = tokio::time::timeout(
        std::time::Duration::from_secs(5),
        kept.read_to_end(&mut answer),
    )
    .await;
    let text = String::from_utf8_lossy(&answer);
    assert!(!text.contains("HTTP/1.1 200"), "{text}");
    assert_eq!(app.hits(), before);
}

#[tokio::test]
async fn a_dry_run_is_counted_and_refuses_nobody() {
    let app = App::start("shop");
    let (bind, admin) = (free(), free());
    let dry = policy(
        "dry",
        "{app: shop}",
        "action: DENY\nrules: [{to: [{operation: {methods: [GET]}}]}]",
    )
    .replace(
        "{name: dry}",
        "{name: dry, annotations: {istio.io/dry-run: 'true'}}",
    );
    let view = view(
        &format!("{SHOP}{dry}"),
        NodeKind::Sidecar,
        (bind, app.address),
    );
    let with_admin = Options {
        admin: Some(admin),
        ..options("shop")
    };
    let _proxy = Proxy::with(with_admin, view, None).await;
    assert_eq!(told(bind, &request("GET /x", "a", "")).await, 200);
    assert_eq!(told(bind, &request("POST /x", "a", "")).await, 200);
    let metrics = own_page(admin, "/stats/prometheus").await;
    for line in [
        "envoy_http_rbac_shadow_denied 1",
        "envoy_http_rbac_shadow_allowed 1",
        "envoy_http_rbac_policy_shadow_matched{envoy_rbac_policy=\"ns[default]-policy[dry]-rule[0]\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn grpc_callers_are_told_in_their_own_way() {
    let app = App::start("shop");
    let bind = free();
    let _proxy = Proxy::start(sidecar(&["action: ALLOW"], (bind, app.address))).await;
    let more = "Content-Type: application/grpc\r\nTE: trailers\r\n";
    let answer = exchange(bind, request("POST /a.B/C", "a", more)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("grpc-status: 7"), "{answer}");
    let answer = exchange(bind, request("GET /", "a", "")).await;
    assert!(answer.ends_with("RBAC: access denied"), "{answer}");
    assert_eq!(app.hits(), 0);
}
