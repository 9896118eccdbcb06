//! What a proxy says about itself, and how it ends.

use std::sync::Arc;

use meshctl::mesh::View;
use meshctl::mesh::metrics::Change;
use meshctl::proxy::{AccessLog, Options, ProxyError};
use meshctl::rt::Tasks;
use meshctl::telemetry::LogFormat;
use tokio::io::AsyncWriteExt as _;

use super::support::*;

async fn post(to: std::net::SocketAddr, path: &str) -> String {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    exchange(to, request).await
}

#[tokio::test]
async fn numbers_configuration_and_health_are_answered() {
    let app = App::start("a");
    let (bind, admin, health) = (free(), free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        status: vec![health],
        ..Options::default()
    };
    let proxy = Proxy::with(options, View::default(), None).await;
    eventually(|| async { reachable(health).await }).await;
    assert_eq!(status(&get(health, "/ready").await), 503);
    proxy.views.publish(simple(bind, app.address, |_| {}));
    eventually(|| async { status(&get(health, "/healthz/ready").await) == 200 }).await;
    eventually(|| async { reachable(bind).await }).await;
    for _ in 0..3 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!(status(&get(bind, "/").await), 200);
    let metrics = own_page(admin, "/stats/prometheus").await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("istio_requests_total{reporter=\"source\""))
        .unwrap();
    assert!(line.ends_with(" 4"), "{line}");
    assert!(
        line.contains("destination_service=\"app.default.svc.cluster.local\""),
        "{line}"
    );
    assert!(metrics.contains("istio_request_duration_milliseconds_bucket{"));
    let clusters = own_page(admin, "/clusters").await;
    assert!(
        clusters.contains(&format!("app::{}::rq_total::4\n", app.address)),
        "{clusters}"
    );
    assert!(
        own_page(admin, "/listeners")
            .await
            .contains(&format!("t::{bind}\n"))
    );
    assert!(
        own_page(admin, "/config_dump")
            .await
            .contains("\"listeners\"")
    );
    assert!(
        own_page(admin, "/server_info")
            .await
            .contains("\"state\": \"LIVE\"")
    );
    assert!(
        own_page(admin, "/certs")
            .await
            .contains("\"certificates\": []")
    );
    // The health address can be reached from outside, so it can do nothing.
    assert_eq!(status(&get(health, "/config_dump").await), 404);
    assert_eq!(status(&post(health, "/quitquitquit").await), 404);
    assert_eq!(status(&post(admin, "/quitquitquit").await), 200);
    proxy.ended().await.unwrap();
}

#[tokio::test]
async fn metrics_are_told_as_a_view_says_and_counted_all_the_same() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        ..Options::default()
    };
    let usual = simple(bind, app.address, |_| {});
    let proxy = Proxy::with(options, usual.clone(), None).await;
    eventually(|| async { reachable(bind).await }).await;
    for _ in 0..2 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    let requests = async || {
        let page = own_page(admin, "/stats/prometheus").await;
        let line = page
            .lines()
            .find(|line| line.starts_with("istio_requests_total{"));
        (line.unwrap_or_default().to_owned(), page)
    };
    let (line, page) = requests().await;
    assert!(
        line.contains("response_code=\"200\"") && line.ends_with(" 2"),
        "{line}"
    );
    assert!(page.contains("istio_request_bytes_count{"));

    let mut changed = usual.clone();
    for listener in changed.listeners.values_mut() {
        Arc::make_mut(listener).options.metrics = Some(Arc::new(vec![
            Change {
                metric: Some("istio_request_bytes".to_owned()),
                disabled: Some(true),
                ..Change::default()
            },
            Change {
                without: vec!["response_code".to_owned()],
                ..Change::default()
            },
        ]));
    }
    proxy.views.publish(changed);
    eventually(|| async { !requests().await.0.contains("response_code=") }).await;
    assert_eq!(status(&get(bind, "/").await), 200);
    let (line, page) = requests().await;
    assert!(line.ends_with(" 3"), "{line}");
    assert!(line.contains("destination_service="), "{line}");
    assert!(!page.contains("istio_request_bytes"), "{page}");
    assert!(page.contains("istio_response_bytes_count{"));

    proxy.views.publish(usual);
    eventually(|| async { requests().await.0.contains("response_code=\"200\"") }).await;
    assert!(requests().await.0.ends_with(" 3"));
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    let (_held, address) = listen();
    let (views, identities) = (
        meshctl::rt::Published::new(simple(address, address, |_| {})),
        meshctl::rt::Published::new(None),
    );
    let (_drain, signal) = meshctl::rt::Drain::new();
    let options = Options {
        workers: 1,
        ..Options::default()
    };
    let error = meshctl::proxy::run(options, views.reader(), identities.reader(), signal)
        .await
        .unwrap_err();
    assert!(matches!(error, ProxyError::Bind { .. }), "{error}");
    assert!(error.hint().unwrap().contains(&address.port().to_string()));
}

#[tokio::test]
async fn a_drain_ends_connections_after_their_request() {
    let tasks = Tasks::new();
    let (socket, address) = listen();
    let bind = free();
    let mut proxy = Proxy::start(simple(bind, address, |_| {})).await;
    let mut idle = connect(bind).await;
    let mut busy = connect(bind).await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let (mut held, _) = socket.accept().await.unwrap();
    read_until(&mut held, "\r\n\r\n").await;
    proxy.begin_drain();
    let mut nothing = Vec::new();
    let _ended = tokio::time::timeout(
        DEADLINE,
        tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut nothing),
    )
    .await
    .expect("an idle connection stayed open");
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    let answer = read_until(&mut busy, "ok").await;
    assert_eq!(status(&answer), 200);
    proxy.stop().await.unwrap();
    drop(tasks);
}

#[tokio::test]
async fn requests_are_logged() {
    let app = App::start("a");
    let bind = free();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let options = Options {
        workers: 1,
        access_log: Some(AccessLog {
            format: LogFormat::Json,
            path: Some(path.clone()),
        }),
        ..Options::default()
    };
    let proxy = Proxy::with(options, simple(bind, app.address, |_| {}), None).await;
    let answer = get(bind, "/logged?x").await;
    let by_uri = "GET http://app/by-uri?x HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    exchange(bind, by_uri).await;
    proxy.stop().await.unwrap();
    let log = std::fs::read_to_string(path).unwrap();
    let line = log.lines().find(|line| line.contains("/logged?x")).unwrap();
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(record["response_code"], 200);
    assert_eq!(record["upstream_cluster"], "app");
    assert_eq!(record["upstream_host"], app.address.to_string());
    assert_eq!(record["route_name"], "r");
    // The id that the application was told, which the caller gave none of.
    let id = answer.split("x-request-id: ").nth(1).unwrap();
    assert_eq!(record["request_id"], id.lines().next().unwrap());
    // Who calls by a proxy's variable says a whole URI; what it asks for is the same.
    let line = log.lines().find(|line| line.contains("by-uri")).unwrap();
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(record["path"], "/by-uri?x");
    assert_eq!(record["authority"], "app");
}

#[tokio::test]
async fn administration_is_on_loopback_or_not_at_all() {
    let options = Options {
        workers: 1,
        admin: Some(([0, 0, 0, 0], 0).into()),
        ..Options::default()
    };
    let error = Proxy::with(options, View::default(), None)
        .await
        .ended()
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("0.0.0.0:0 is not on loopback"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("127.0.0.0/8"), "{error}");
}
