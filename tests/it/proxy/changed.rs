//! What becomes of connections when the rules change by which they were let in.

use std::net::SocketAddr;
use std::time::Duration;

use meshctl::mesh::{NodeKind, View};
use meshctl::proxy::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::mtls::{Mesh, options};
use super::policies::{SHOP, view};
use super::raw_http2::RawHttp2;
use super::support::*;

const DRAIN: Duration = Duration::from_millis(400);

const STRICT: &str = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
";

/// The same for one port, which had no chains of its own before.
const STRICT_PORT: &str = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec:
  selector: {matchLabels: {app: shop}}
  mtls: {mode: PERMISSIVE}
  portLevelMtls: {8080: {mode: STRICT}}
";

const COMPRESSED: &str = "---
apiVersion: policy.meshctl.dev/v1alpha1
kind: CompressionPolicy
metadata: {name: small}
spec:
  targetRefs: [{kind: Service, name: shop}]
";

const REFUSED: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: refused}
spec:
  selector: {matchLabels: {app: shop}}
  action: DENY
  rules: [{to: [{operation: {paths: [/closed]}}]}]
";

fn sidecar(policies: &str, at: (SocketAddr, SocketAddr)) -> View {
    view(&format!("{SHOP}{policies}"), NodeKind::Sidecar, at)
}

async fn proxy(view: View) -> Proxy {
    let options = Options {
        drain: DRAIN,
        workers: 1,
        ..options("shop")
    };
    Proxy::with(options, view, Some(Mesh::new().identity("shop"))).await
}

fn fields(method: &'static str) -> [(&'static str, &'static str); 4] {
    [
        (":method", method),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "shop.example.com"),
    ]
}

/// Sends the head of an upload, which stays under way until its body comes.
async fn upload(bind: SocketAddr, app: &App) -> tokio::net::TcpStream {
    let (was, mut stream) = (app.hits(), connect(bind).await);
    let head = b"POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 3\r\n\r\n";
    stream.write_all(head).await.unwrap();
    eventually(|| async { app.hits() > was }).await;
    stream
}

#[tokio::test]
async fn strangers_let_in_before_ask_nothing_more_of_a_strict_workload() {
    for strict in [STRICT, STRICT_PORT] {
        let (app, bind) = (App::start("shop"), free());
        let proxy = proxy(sidecar("", (bind, app.address))).await;
        let mut http2 = RawHttp2::open(bind).await;
        http2.ask(1, &fields("POST"), false).await;
        eventually(|| async { app.hits() == 1 }).await;
        let mut http1 = connect(bind).await;
        let ask = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n";
        http1.write_all(ask).await.unwrap();
        let answer = read_until(&mut http1, "\r\n\r\n").await;
        assert_eq!(status(&answer), 200);

        proxy.views.publish(sidecar(strict, (bind, app.address)));
        http2.warned().await;
        let was = app.hits();
        // It knows of nothing, and asks on.
        http2.ask(3, &fields("GET"), true).await;
        assert_eq!(http2.status(3).await, 403, "{strict}");
        let _sent = http1.write_all(ask).await;
        let mut rest = Vec::new();
        let _ended = http1.read_to_end(&mut rest).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("HTTP/1.1 200"), "{strict}: {rest}");
        assert_eq!(app.hits(), was, "{strict}");
        // What is under way has its time, and no more.
        http2.ended().await;
    }
}

#[tokio::test]
async fn what_is_under_way_is_served_in_a_drains_time() {
    let (app, bind) = (App::start("shop"), free());
    let options = Options {
        drain: DEADLINE,
        ..options("shop")
    };
    let identity = Some(Mesh::new().identity("shop"));
    let proxy = Proxy::with(options, sidecar("", (bind, app.address)), identity).await;
    let mut begun = upload(bind, &app).await;
    proxy.views.publish(sidecar(STRICT, (bind, app.address)));
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    eventually(|| async { !exchange(bind, ask).await.contains(" 200 ") }).await;
    begun.write_all(b"all").await.unwrap();
    let mut answer = Vec::new();
    begun.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(status(&answer), 200, "{answer}");
}

/// A chain that changes in something else cuts nothing, however long that takes.
#[tokio::test]
async fn only_a_change_of_who_may_do_what_ends_what_is_under_way() {
    let (app, bind) = (App::start("shop"), free());
    let proxy = proxy(sidecar("", (bind, app.address))).await;
    let mut long = upload(bind, &app).await;
    proxy
        .views
        .publish(sidecar(COMPRESSED, (bind, app.address)));
    let mut byte = [0];
    let early = tokio::time::timeout(DRAIN * 4, long.read(&mut byte)).await;
    assert!(early.is_err(), "{early:?}");
    long.write_all(b"all").await.unwrap();
    let answer = read_until(&mut long, "\r\n\r\n").await;
    assert_eq!(status(&answer), 200);

    let mut long = upload(bind, &app).await;
    let policies = format!("{COMPRESSED}{REFUSED}");
    proxy.views.publish(sidecar(&policies, (bind, app.address)));
    let cut = tokio::time::timeout(DEADLINE, long.read(&mut byte)).await;
    let cut = cut.expect("it stayed");
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
}
