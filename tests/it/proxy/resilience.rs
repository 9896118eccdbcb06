//! Retries, timeouts, limits and ejection.

use std::time::Duration;

use meshctl::mesh::cluster::Limits;
use meshctl::mesh::route::{Action, Retry, RetryOn};
use meshctl::rt::Tasks;
use tokio::io::AsyncWriteExt as _;

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

fn retry(attempts: u32, on: &[RetryOn]) -> Retry {
    Retry {
        attempts,
        on: on.to_vec(),
        base_interval: Duration::from_millis(1),
        ..Retry::default()
    }
}

#[tokio::test]
async fn answers_are_tried_again_with_the_same_body() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &[UNAVAILABLE, UNAVAILABLE, OK]);
    let bind = free();
    let view = simple(bind, app.address, |forward| {
        forward.retry = Some(retry(2, &[RetryOn::GatewayError]));
    });
    let _proxy = Proxy::start(view).await;
    let answer = exchange(
        bind,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
    )
    .await;
    assert!(answer.ends_with("ok"), "{answer}");
    let heads = app.heads();
    assert_eq!(heads.len(), 3);
    assert!(heads.iter().all(|head| head.ends_with("body")), "{heads:?}");
    assert!(!heads[0].contains("x-envoy-attempt-count"));
    assert!(heads[2].contains("x-envoy-attempt-count: 3\r\n"));
}

#[tokio::test]
async fn tries_end_and_the_last_answer_passes() {
    let app = App::answering("a", 503);
    let bind = free();
    let view = simple(bind, app.address, |forward| {
        forward.retry = Some(retry(2, &[RetryOn::ServerError]));
    });
    let _proxy = Proxy::start(view).await;
    let answer = get(bind, "/").await;
    assert!(
        answer.contains("a GET /") && status(&answer) == 503,
        "{answer}"
    );
    assert_eq!(app.hits(), 3);
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_cannot_be_reached() {
    let app = App::start("a");
    let bind = free();
    let mut action = forward(&[("app", 1)]);
    action.retry = Some(retry(2, &[RetryOn::ConnectFailure]));
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(
            cluster("app"),
            vec![endpoint(app.address), endpoint(free())],
        )
        .0;
    let _proxy = Proxy::start(view).await;
    for _ in 0..10 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!(app.hits(), 10);
}

#[tokio::test]
async fn slow_answers_time_out() {
    let (socket, address) = listen();
    let bind = free();
    let view = simple(bind, address, |forward| {
        forward.timeout = Some(Duration::from_millis(100));
    });
    let _proxy = Proxy::start(view).await;
    let answer = get(bind, "/").await;
    assert!(
        status(&answer) == 504 && answer.ends_with("upstream request timeout"),
        "{answer}"
    );
    drop(socket);
}

#[tokio::test]
async fn each_try_has_a_limit_of_its_own() {
    let (slow, slow_address) = listen();
    let app = App::start("a");
    let bind = free();
    let mut action = forward(&[("app", 1)]);
    action.retry = Some(Retry {
        per_try_timeout: Some(Duration::from_millis(100)),
        ..retry(1, &[RetryOn::Reset])
    });
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(
            cluster("app"),
            vec![endpoint(slow_address), endpoint(app.address)],
        )
        .0;
    let _proxy = Proxy::start(view).await;
    for _ in 0..4 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    drop(slow);
}

/// A kept connection that dies under a request: repeated when that is harmless, and only then.
#[tokio::test]
async fn only_harmless_requests_are_delivered_twice() {
    for (method, expected, deliveries) in [("GET", 200, 3), ("POST", 503, 2)] {
        let tasks = Tasks::new();
        let app = Scripted::start(&tasks, &[OK, "", OK]);
        let bind = free();
        let options = meshctl::proxy::Options {
            workers: 1,
            ..Default::default()
        };
        let view = simple(bind, app.address, |_| {});
        let _proxy = Proxy::with(options, view, None).await;
        assert_eq!(status(&get(bind, "/").await), 200);
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        );
        assert_eq!(status(&exchange(bind, request).await), expected, "{method}");
        assert_eq!(app.heads().len(), deliveries, "{method}");
    }
}

#[tokio::test]
async fn limits_refuse_at_once() {
    let (socket, address) = listen();
    let bind = free();
    let mut limited = cluster("app");
    limited.limits = Limits {
        max_requests: 1,
        ..Limits::default()
    };
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(limited, vec![endpoint(address)])
        .0;
    let _proxy = Proxy::start(view).await;
    let mut first = connect(bind).await;
    first
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    // The application has the first request and keeps it.
    let (mut held, _) = socket.accept().await.unwrap();
    read_until(&mut held, "\r\n\r\n").await;
    let answer = get(bind, "/").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("x-envoy-overloaded: true\r\n"), "{answer}");
    held.write_all(OK.as_bytes()).await.unwrap();
    read_until(&mut first, "ok").await;
}

#[tokio::test]
async fn connections_are_limited_and_waited_for() {
    let app = App::start("a");
    let bind = free();
    let mut limited = cluster("app");
    limited.limits = Limits {
        max_connections: 1,
        ..Limits::default()
    };
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(limited, vec![endpoint(app.address)])
        .0;
    let options = meshctl::proxy::Options {
        workers: 1,
        ..Default::default()
    };
    let _proxy = Proxy::with(options, view, None).await;
    let answers = (0..10).map(|_| get(bind, "/"));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(status(&answer), 200, "{answer}");
    }
}
