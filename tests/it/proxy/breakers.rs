//! Circuit breakers: each limit, its counters and gauges, and the two priorities.

use std::net::SocketAddr;

use meshctl::mesh::View;
use meshctl::mesh::cluster::{Limits, Thresholds};
use meshctl::mesh::route::{Action, HeaderMatch, Match, Priority, TextMatch};
use meshctl::proxy::Options;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct Stand {
    _proxy: Proxy,
    bind: SocketAddr,
    admin: SocketAddr,
    app: TcpListener,
}

/// Requests with `x-important` have priority HIGH.
fn view(bind: SocketAddr, app: SocketAddr, limits: Limits) -> View {
    let mut limited = cluster("app");
    limited.limits = limits;
    let mut important = forward(&[("app", 1)]);
    important.priority = Priority::High;
    let mut first = route(Action::Forward(important));
    first.matches = Match {
        headers: vec![HeaderMatch {
            name: "x-important".to_owned(),
            value: TextMatch::Present,
            invert: false,
        }],
        ..Match::default()
    };
    let usual = route(Action::Forward(forward(&[("app", 1)])));
    Views::default()
        .http("t", bind)
        .routes("t", vec![first, usual])
        .cluster(limited, vec![endpoint(app)])
        .0
}

impl Stand {
    async fn start(limits: Limits) -> Self {
        let (app, address) = listen();
        let (bind, admin) = (free(), free());
        let options = Options {
            workers: 1,
            admin: Some(admin),
            ..Options::default()
        };
        Self {
            _proxy: Proxy::with(options, view(bind, address, limits), None).await,
            bind,
            admin,
            app,
        }
    }

    /// A request that the application has and does not answer.
    async fn held(&self, head: &str) -> (TcpStream, TcpStream) {
        let caller = self.asked(head).await;
        let accepted = tokio::time::timeout(DEADLINE, self.app.accept()).await;
        let mut app = accepted.unwrap().unwrap().0;
        read_until(&mut app, "\r\n\r\n").await;
        (caller, app)
    }

    async fn asked(&self, head: &str) -> TcpStream {
        let mut caller = connect(self.bind).await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{head}\r\n");
        caller.write_all(request.as_bytes()).await.unwrap();
        caller
    }

    async fn metric(&self, name: &str) -> u64 {
        let metrics = own_page(self.admin, "/stats/prometheus").await;
        let line = format!("envoy_cluster_{name}{{envoy_cluster_name=\"app\"}} ");
        metrics
            .lines()
            .find_map(|found| found.strip_prefix(&line))
            .map_or(0, |value| value.parse().unwrap())
    }
}

#[tokio::test]
async fn the_line_for_a_connection_is_limited() {
    let stand = Stand::start(Limits {
        max_connections: 1,
        max_pending_requests: 1,
        ..Limits::default()
    })
    .await;
    let (mut first, mut app) = stand.held("").await;
    let mut second = stand.asked("").await;
    eventually(|| async {
        stand
            .metric("circuit_breakers_default_rq_pending_open")
            .await
            == 1
    })
    .await;
    assert_eq!(stand.metric("circuit_breakers_default_cx_open").await, 1);
    let answer = get(stand.bind, "/").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("x-envoy-overloaded: true\r\n"), "{answer}");
    assert_eq!(stand.metric("upstream_rq_pending_overflow").await, 1);
    assert_eq!(stand.metric("upstream_cx_overflow").await, 2);
    app.write_all(OK.as_bytes()).await.unwrap();
    read_until(&mut first, "ok").await;
    // The connection that came free is the second's.
    read_until(&mut app, "\r\n\r\n").await;
    app.write_all(OK.as_bytes()).await.unwrap();
    read_until(&mut second, "ok").await;
    assert_eq!(
        stand
            .metric("circuit_breakers_default_rq_pending_open")
            .await,
        0
    );
}

#[tokio::test]
async fn priorities_have_limits_of_their_own() {
    let stand = Stand::start(Limits {
        max_requests: 1,
        track_remaining: true,
        high: Some(Thresholds {
            max_requests: 2,
            ..Thresholds::default()
        }),
        ..Limits::default()
    })
    .await;
    let _usual = stand.held("").await;
    let _important = stand.held("X-Important: yes\r\n").await;
    for (name, expected) in [
        ("circuit_breakers_default_rq_open", 1),
        ("circuit_breakers_default_remaining_rq", 0),
        ("circuit_breakers_high_rq_open", 0),
        ("circuit_breakers_high_remaining_rq", 1),
        ("circuit_breakers_high_remaining_cx", 1023),
        ("circuit_breakers_high_remaining_retries", 3),
    ] {
        assert_eq!(stand.metric(name).await, expected, "{name}");
    }
    assert_eq!(status(&get(stand.bind, "/").await), 503);
    let _another = stand.held("X-Important: yes\r\n").await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Important: 1\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&exchange(stand.bind, request).await), 503);
    assert_eq!(stand.metric("upstream_rq_pending_overflow").await, 2);
}
