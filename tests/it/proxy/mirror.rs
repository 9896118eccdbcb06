//! Copies of requests: what they carry, and that the caller never feels them.

use std::net::SocketAddr;

use meshctl::mesh::View;
use meshctl::mesh::cluster::{Limits, UpstreamProtocol};
use meshctl::mesh::route::{Action, Mirror, Share};
use meshctl::proxy::Options;
use meshctl::rt::Tasks;

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Carries `bind` to `app`, and copies of it to `copy`.
fn view(bind: SocketAddr, app: SocketAddr, copy: SocketAddr, mirror: Mirror) -> View {
    let mut action = forward(&[("app", 1)]);
    action.mirrors = vec![mirror];
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .cluster(cluster("copy"), vec![endpoint(copy)])
        .0
}

fn to_copy() -> Mirror {
    Mirror {
        cluster: "copy".to_owned(),
        ..Mirror::default()
    }
}

fn options(admin: SocketAddr) -> Options {
    Options {
        workers: 1,
        admin: Some(admin),
        ..Options::default()
    }
}

async fn counted(admin: SocketAddr, name: &str) -> u64 {
    let metrics = own_page(admin, "/stats/prometheus").await;
    let line = format!("envoy_cluster_{name}{{envoy_cluster_name=\"copy\"}} ");
    metrics
        .lines()
        .find_map(|found| found.strip_prefix(&line))
        .map_or(0, |value| value.parse().unwrap())
}

const POST: &str = "POST /x?y HTTP/1.1\r\nHost: shop:80\r\nTransfer-Encoding: chunked\r\n\
                    Connection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n";

#[tokio::test]
async fn a_copy_carries_the_request_under_another_host() {
    let tasks = Tasks::new();
    for plain_host in [false, true] {
        let app = App::start("a");
        let copy = Scripted::start(&tasks, &["HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"]);
        let (bind, admin) = (free(), free());
        let mirror = Mirror {
            plain_host,
            ..to_copy()
        };
        let view = view(bind, app.address, copy.address, mirror);
        let _proxy = Proxy::with(options(admin), view, None).await;
        let answer = exchange(bind, POST).await;
        assert!(
            status(&answer) == 200 && answer.ends_with("\nbody"),
            "{answer}"
        );
        eventually(|| async { copy.heads().len() == 1 }).await;
        let head = copy.heads().remove(0);
        let host = if plain_host {
            "shop:80"
        } else {
            "shop-shadow:80"
        };
        assert!(head.starts_with("POST /x?y HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
        eventually(|| async { counted(admin, "upstream_rq_mirrored").await == 1 }).await;
        // What the copy is answered is nobody's.
        let metrics = own_page(admin, "/stats/prometheus").await;
        assert!(!metrics.contains("response_code=\"500\""), "{metrics}");
    }
}

#[tokio::test]
async fn a_copy_is_spoken_as_its_cluster_speaks() {
    let (app, copy) = (App::start("a"), App::start("copy"));
    let bind = free();
    let mut view = view(bind, app.address, copy.address, to_copy());
    let mut spoken = cluster("copy");
    spoken.protocol = UpstreamProtocol::Http2;
    view.clusters
        .insert("copy".to_owned(), std::sync::Arc::new(spoken));
    let _proxy = Proxy::start(view).await;
    for sent in 1..4 {
        assert_eq!(status(&exchange(bind, POST).await), 200);
        eventually(|| async { copy.hits() == sent }).await;
    }
    assert_eq!(app.hits(), 3);
}

/// A mirror that hangs, is dead, or is full costs its callers nothing.
#[tokio::test]
async fn callers_do_not_wait_for_copies() {
    let app = App::start("a");
    let (hanging, hangs) = listen();
    for copy in [hangs, free()] {
        let (bind, admin) = (free(), free());
        let mut view = view(bind, app.address, copy, to_copy());
        let mut limited = cluster("copy");
        limited.limits = Limits {
            max_requests: 2,
            ..Limits::default()
        };
        view.clusters
            .insert("copy".to_owned(), std::sync::Arc::new(limited));
        let _proxy = Proxy::with(options(admin), view, None).await;
        for _ in 0..5 {
            assert_eq!(status(&exchange(bind, POST).await), 200);
        }
        eventually(|| async {
            counted(admin, "upstream_rq_mirrored").await
                + counted(admin, "upstream_rq_mirror_dropped").await
                == 5
        })
        .await;
    }
    drop(hanging);
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_copied() {
    let tasks = Tasks::new();
    let app = App::start("a");
    let copy = Scripted::start(&tasks, &[OK]);
    let (bind, admin) = (free(), free());
    let view = view(bind, app.address, copy.address, to_copy());
    let _proxy = Proxy::with(options(admin), view, None).await;
    let body = "x".repeat(100_000);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(status(&exchange(bind, request).await), 200);
    eventually(|| async { counted(admin, "upstream_rq_mirror_dropped").await == 1 }).await;
    assert!(copy.heads().is_empty());
}

#[tokio::test]
async fn a_share_of_requests_is_copied() {
    let tasks = Tasks::new();
    let app = App::start("a");
    let copy = Scripted::start(&tasks, &[OK]);
    let (bind, admin) = (free(), free());
    let mirror = Mirror {
        share: Share::NONE,
        ..to_copy()
    };
    let view = view(bind, app.address, copy.address, mirror);
    let _proxy = Proxy::with(options(admin), view, None).await;
    for _ in 0..5 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!(counted(admin, "upstream_rq_mirrored").await, 0);
    assert!(copy.heads().is_empty());
}
