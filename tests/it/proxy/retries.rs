//! Which requests are delivered again, when, and with which words.

use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::cluster::{Limits, RetryBudget};
use meshctl::mesh::http::{HttpOptions, RemoteOptions};
use meshctl::mesh::route::{
    Action, AttemptHeaders, Forward, HeaderMatch, RateLimitedBackOff, ResetFormat, ResetHeader,
    Retry, RetryOn, TextMatch,
};
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::io::AsyncWriteExt as _;

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn retry(attempts: u32, on: &[RetryOn]) -> Retry {
    Retry {
        attempts,
        on: on.to_vec(),
        base_interval: Duration::from_millis(1),
        ..Retry::default()
    }
}

fn present(name: &str) -> HeaderMatch {
    HeaderMatch {
        name: name.to_owned(),
        value: TextMatch::Present,
        invert: false,
    }
}

fn one_worker() -> Options {
    Options {
        workers: 1,
        ..Options::default()
    }
}

/// What a request with these head lines is answered, and how often it was delivered.
async fn deliveries(
    answers: &[&'static str],
    head: &str,
    change: impl FnOnce(&mut Forward),
) -> (u16, Vec<String>) {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, answers);
    let bind = free();
    let _proxy = Proxy::with(one_worker(), simple(bind, app.address, change), None).await;
    let request = format!("{head}\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = exchange(bind, request).await;
    (status(&answer), app.heads())
}

#[tokio::test]
async fn conditions_on_answers_are_envoys() {
    use RetryOn::{
        GatewayError, RateLimited, Retriable4xx, RetriableHeaders, RetriableStatusCodes,
        ServerError, Unavailable,
    };
    let e500 = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n";
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    let e409 = "HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n";
    let e418 = "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n";
    let again = "HTTP/1.1 200 OK\r\nX-Again: 1\r\nContent-Length: 0\r\n\r\n";
    let overloaded = "HTTP/1.1 503 No\r\nx-envoy-overloaded: true\r\nContent-Length: 0\r\n\r\n";
    let limited = "HTTP/1.1 429 Slow\r\nx-envoy-ratelimited: true\r\nContent-Length: 0\r\n\r\n";
    let limited5 = "HTTP/1.1 503 Slow\r\nx-envoy-ratelimited: true\r\nContent-Length: 0\r\n\r\n";
    let grpc14 = "HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 0\r\n\r\n";
    for (on, first, tried_again) in [
        (ServerError, e500, true),
        (GatewayError, e500, false),
        (GatewayError, e503, true),
        (Retriable4xx, e409, true),
        (Retriable4xx, e418, false),
        (RetriableStatusCodes, e418, true),
        (RetriableStatusCodes, e409, false),
        (RetriableHeaders, again, true),
        (RetriableHeaders, e500, false),
        (Unavailable, grpc14, true),
        (Unavailable, e503, false),
        // An overloaded peer is never asked again.
        (ServerError, overloaded, false),
        (RateLimited, limited, true),
        // Only this condition looks past a rate limit.
        (ServerError, limited5, false),
    ] {
        let (status, heads) = deliveries(&[first, OK], "GET / HTTP/1.1", |forward| {
            forward.retry = Some(Retry {
                status_codes: vec![418],
                headers: vec![present("x-again")],
                ..retry(1, &[on])
            });
        })
        .await;
        let name = on.name();
        assert_eq!(heads.len(), 1 + usize::from(tried_again), "{name}: {first}");
        assert_eq!(
            tried_again,
            status == 200 && heads.len() == 2,
            "{name}: {first}"
        );
    }
}

/// An endpoint that breaks off may have processed the request: whatever the policy says, only
/// requests that may be repeated are.
#[tokio::test]
async fn an_unknown_fate_is_not_risked_twice() {
    let on = [RetryOn::Reset, RetryOn::ServerError, RetryOn::GatewayError];
    for (head, expected, delivered) in [
        ("GET / HTTP/1.1", 200, 2),
        ("PUT / HTTP/1.1\r\nContent-Length: 0", 200, 2),
        ("POST / HTTP/1.1\r\nContent-Length: 0", 503, 1),
        ("PATCH / HTTP/1.1\r\nContent-Length: 0", 503, 1),
        (
            "POST / HTTP/1.1\r\nIdempotency-Key: 7\r\nContent-Length: 0",
            200,
            2,
        ),
    ] {
        let (status, heads) = deliveries(&["", OK], head, |forward| {
            forward.retry = Some(retry(2, &on));
        })
        .await;
        assert_eq!((status, heads.len()), (expected, delivered), "{head}");
    }
}

#[tokio::test]
async fn conditions_on_requests_come_first() {
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    for (head, delivered) in [("GET / HTTP/1.1\r\nX-Retry: yes", 2), ("GET / HTTP/1.1", 1)] {
        let (_, heads) = deliveries(&[e503, OK], head, |forward| {
            forward.retry = Some(Retry {
                request_headers: vec![present("x-retry")],
                ..retry(1, &[RetryOn::ServerError])
            });
        })
        .await;
        assert_eq!(heads.len(), delivered, "{head}");
    }
}

#[tokio::test]
async fn the_application_may_say_itself_and_others_may_not() {
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    let wish = "GET / HTTP/1.1\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 2";
    let (status, heads) = deliveries(&[e503, e503, OK], wish, |_| {}).await;
    assert_eq!((status, heads.len()), (200, 3));
    assert!(
        heads.iter().all(|head| !head.contains("retry-on")),
        "{heads:?}"
    );
    let outside = format!("{wish}\r\nX-Forwarded-For: 203.0.113.7");
    let (status, heads) = deliveries(&[e503, OK], &outside, |_| {}).await;
    assert_eq!((status, heads.len()), (503, 1));
    assert!(
        heads.iter().all(|head| !head.contains("max-retries")),
        "{heads:?}"
    );
    // A number alone asks for nothing.
    let bare = "GET / HTTP/1.1\r\nx-envoy-max-retries: 5";
    assert_eq!(deliveries(&[e503, OK], bare, |_| {}).await.1.len(), 1);
    let codes = "GET / HTTP/1.1\r\nx-envoy-retry-on: retriable-status-codes\r\n\
                 x-envoy-retriable-status-codes: 503";
    assert_eq!(deliveries(&[e503, OK], codes, |_| {}).await.1.len(), 2);
}

#[tokio::test]
async fn a_forged_address_gives_nobody_a_say() {
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    let wish = "GET / HTTP/1.1\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 2";
    // Somebody was before the caller, whatever the first of several fields says.
    let two = format!("{wish}\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 203.0.113.7");
    let (code, heads) = deliveries(&[e503, OK], &two, |_| {}).await;
    assert_eq!((code, heads.len()), (503, 1));

    // At an edge the listener's own rules count, and not that the peer's address is private.
    let one = format!("{wish}\r\nX-Forwarded-For: 10.0.0.1");
    for (head, internal, expected) in [
        (one.as_str(), "10.0.0.0/8", (503, 1)),
        (wish, "10.0.0.0/8", (503, 1)),
        (wish, "127.0.0.0/8", (200, 2)),
    ] {
        let tasks = Tasks::new();
        let app = Scripted::start(&tasks, &[e503, OK]);
        let bind = free();
        let options = HttpOptions {
            remote: RemoteOptions {
                use_remote_address: true,
                internal: vec![internal.parse().unwrap()],
                ..RemoteOptions::default()
            },
            ..HttpOptions::default()
        };
        let view = Views::default()
            .http_with("t", bind, options)
            .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
            .cluster(cluster("app"), vec![endpoint(app.address)])
            .0;
        let _proxy = Proxy::with(one_worker(), view, None).await;
        let answer = exchange(
            bind,
            format!("{head}\r\nHost: a\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert_eq!(
            (status(&answer), app.heads().len()),
            expected,
            "{internal}: {head}"
        );
    }
}

#[tokio::test]
async fn tries_are_told_where_that_is_asked_for() {
    let tasks = Tasks::new();
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    let app = Scripted::start(&tasks, &[e503, OK]);
    let bind = free();
    let mut view = simple(bind, app.address, |forward| {
        forward.retry = Some(retry(1, &[RetryOn::ServerError]));
    });
    told(&mut view);
    let _proxy = Proxy::with(one_worker(), view, None).await;
    let answer = get(bind, "/").await;
    assert!(answer.contains("x-envoy-attempt-count: 2\r\n"), "{answer}");
    let heads = app.heads();
    assert!(
        heads[0].contains("x-envoy-attempt-count: 1\r\n"),
        "{heads:?}"
    );
    assert!(
        heads[1].contains("x-envoy-attempt-count: 2\r\n"),
        "{heads:?}"
    );
    assert!(!heads[1].contains("x-envoy-is-timeout-retry"), "{heads:?}");
}

fn told(view: &mut View) {
    let table = view.routes.get_mut("t").unwrap();
    let mut changed = (**table).clone();
    changed.hosts[0].attempts = AttemptHeaders {
        request: true,
        response: true,
        timeout_retry: true,
    };
    *table = std::sync::Arc::new(changed);
}

#[tokio::test]
async fn a_try_after_a_slow_one_says_so() {
    let (slow, slow_address) = listen();
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let mut action = forward(&[("app", 1)]);
    action.retry = Some(Retry {
        per_try_timeout: Some(Duration::from_millis(50)),
        ..retry(1, &[RetryOn::Reset])
    });
    let mut view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(
            cluster("app"),
            vec![endpoint(slow_address), endpoint(app.address)],
        )
        .0;
    told(&mut view);
    let options = Options {
        admin: Some(admin),
        ..one_worker()
    };
    let _proxy = Proxy::with(options, view, None).await;
    for answer in [get(bind, "/").await, get(bind, "/").await] {
        let second = answer.contains("\nx-envoy-attempt-count: 2\n");
        let said = answer.contains("\nx-envoy-is-timeout-retry: true\n");
        assert_eq!(second, said, "{answer}");
    }
    let metrics = own_page(admin, "/stats/prometheus").await;
    assert!(
        metrics.contains("envoy_cluster_upstream_rq_per_try_timeout{"),
        "{metrics}"
    );
    drop(slow);
}

/// When too many retries are going on, the answer that there is passes.
#[tokio::test]
async fn without_leave_the_first_answer_passes() {
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nmine";
    for limits in [
        Limits {
            max_retries: 0,
            ..Limits::default()
        },
        Limits {
            retry_budget: Some(RetryBudget {
                percent_milli: 20_000,
                min_concurrency: 0,
            }),
            ..Limits::default()
        },
    ] {
        let tasks = Tasks::new();
        let app = Scripted::start(&tasks, &[e503, OK]);
        let (bind, admin) = (free(), free());
        let mut limited = cluster("app");
        limited.limits = limits;
        let mut action = forward(&[("app", 1)]);
        action.retry = Some(retry(2, &[RetryOn::ServerError]));
        let view = Views::default()
            .http("t", bind)
            .routes("t", vec![route(Action::Forward(action))])
            .cluster(limited, vec![endpoint(app.address)])
            .0;
        let options = Options {
            admin: Some(admin),
            ..one_worker()
        };
        let _proxy = Proxy::with(options, view, None).await;
        let answer = get(bind, "/").await;
        assert!(
            status(&answer) == 503 && answer.ends_with("mine"),
            "{answer}"
        );
        let metrics = own_page(admin, "/stats/prometheus").await;
        for expected in [
            "envoy_cluster_upstream_rq_retry_overflow{envoy_cluster_name=\"app\"} 1",
            "response_flags=\"UO\"",
        ] {
            assert!(metrics.contains(expected), "{expected}: {metrics}");
        }
    }
}

/// Also where the first try goes over a connection that was kept: that it broke off may be the
/// endpoint's doing, which then has seen the request.
#[tokio::test]
async fn an_endpoint_that_breaks_off_sees_a_request_as_often_as_the_policy_says() {
    for (broken, expected, seen) in [(3, 200, 4), (4, 503, 4)] {
        let tasks = Tasks::new();
        let mut script = vec![OK];
        script.extend(std::iter::repeat_n("", broken));
        script.push(OK);
        let app = Scripted::start(&tasks, &script);
        let bind = free();
        let view = simple(bind, app.address, |forward| {
            forward.retry = Some(retry(3, &[RetryOn::Reset]));
        });
        let _proxy = Proxy::with(one_worker(), view, None).await;
        assert_eq!(status(&get(bind, "/").await), 200);
        assert_eq!(status(&get(bind, "/").await), expected, "{broken}");
        assert_eq!(app.heads().len(), 1 + seen, "{broken}");
    }
}

#[tokio::test]
async fn retries_are_counted_by_envoys_names() {
    let tasks = Tasks::new();
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    let app = Scripted::start(&tasks, &[e503, OK, e503, e503]);
    let (bind, admin) = (free(), free());
    let view = simple(bind, app.address, |forward| {
        forward.retry = Some(retry(1, &[RetryOn::ServerError]));
    });
    let options = Options {
        admin: Some(admin),
        ..one_worker()
    };
    let _proxy = Proxy::with(options, view, None).await;
    assert_eq!(status(&get(bind, "/").await), 200);
    assert_eq!(status(&get(bind, "/").await), 503);
    let metrics = own_page(admin, "/stats/prometheus").await;
    for expected in [
        "envoy_cluster_upstream_rq_retry{envoy_cluster_name=\"app\"} 2",
        "envoy_cluster_upstream_rq_retry_success{envoy_cluster_name=\"app\"} 1",
        "envoy_cluster_upstream_rq_retry_limit_exceeded{envoy_cluster_name=\"app\"} 1",
        "envoy_cluster_upstream_rq_retry_backoff_exponential{envoy_cluster_name=\"app\"} 2",
        "response_flags=\"URX\"",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
}

#[tokio::test]
async fn an_answer_may_say_when_to_come_back() {
    let tasks = Tasks::new();
    let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    let late = "HTTP/1.1 503 Busy\r\nRetry-After: 100\r\nContent-Length: 0\r\n\r\n";
    let app = Scripted::start(&tasks, &[busy, OK, late, OK]);
    let (bind, admin) = (free(), free());
    let view = simple(bind, app.address, |forward| {
        forward.retry = Some(Retry {
            rate_limited: Some(RateLimitedBackOff {
                reset_headers: vec![ResetHeader {
                    name: "retry-after".to_owned(),
                    format: ResetFormat::Seconds,
                }],
                max_interval: Duration::from_secs(2),
            }),
            ..retry(1, &[RetryOn::ServerError])
        });
    });
    let options = Options {
        admin: Some(admin),
        ..one_worker()
    };
    let _proxy = Proxy::with(options, view, None).await;
    let begun = meshctl::rt::now();
    assert_eq!(status(&get(bind, "/").await), 200);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // Longer than is believed: the usual wait.
    assert_eq!(status(&get(bind, "/").await), 200);
    let metrics = own_page(admin, "/stats/prometheus").await;
    for expected in [
        "envoy_cluster_upstream_rq_retry_backoff_ratelimited{envoy_cluster_name=\"app\"} 1",
        "envoy_cluster_upstream_rq_retry_backoff_exponential{envoy_cluster_name=\"app\"} 1",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_sent_once() {
    let e503 = "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n";
    for (limit, delivered) in [(8, 2), (7, 1)] {
        let tasks = Tasks::new();
        let app = Scripted::start(&tasks, &[e503, OK]);
        let bind = free();
        let view = simple(bind, app.address, |forward| {
            forward.retry = Some(retry(1, &[RetryOn::ServerError]));
            forward.replay_limit = Some(limit);
        });
        let _proxy = Proxy::with(one_worker(), view, None).await;
        let request =
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nConnection: close\r\n\r\n12345678";
        exchange(bind, request).await;
        assert_eq!(app.heads().len(), delivered, "{limit}");
    }
}

/// The slow try goes on beside the next; the first good answer counts, and the other is given up.
#[tokio::test]
async fn a_slow_try_goes_on_beside_the_next() {
    for first_wins in [false, true] {
        let ((a, a_address), (b, b_address)) = (listen(), listen());
        let bind = free();
        let mut action = forward(&[("app", 1)]);
        action.hedge = true;
        action.retry = Some(Retry {
            per_try_timeout: Some(Duration::from_millis(50)),
            ..retry(1, &[RetryOn::ServerError])
        });
        let view = Views::default()
            .http("t", bind)
            .routes("t", vec![route(Action::Forward(action))])
            .cluster(
                cluster("app"),
                vec![endpoint(a_address), endpoint(b_address)],
            )
            .0;
        let _proxy = Proxy::with(one_worker(), view, None).await;
        let peers = async {
            let (slow, quick) = tokio::join!(a.accept(), b.accept());
            let (mut a, mut b) = (slow.unwrap().0, quick.unwrap().0);
            let (to_a, to_b) = (
                read_until(&mut a, "\r\n\r\n").await,
                read_until(&mut b, "\r\n\r\n").await,
            );
            // Which of the two came first is the balancer's choice.
            let (first, second) = if to_a.contains("attempt-count: 2") {
                (&mut b, &mut a)
            } else {
                assert!(to_b.contains("x-envoy-attempt-count: 2\r\n"), "{to_b}");
                (&mut a, &mut b)
            };
            let (winner, loser) = if first_wins {
                (first, second)
            } else {
                // A bad answer of the late one is not waited upon and not passed.
                (second, first)
            };
            winner.write_all(OK.as_bytes()).await.unwrap();
            let mut rest = [0; 16];
            let read = tokio::io::AsyncReadExt::read(loser, &mut rest);
            let ended = tokio::time::timeout(DEADLINE, read).await.unwrap();
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        };
        let (answer, ()) = tokio::join!(get(bind, "/"), peers);
        assert!(answer.ends_with("ok"), "{answer}");
    }
}

/// What may not be done twice is not hedged.
#[tokio::test]
async fn only_harmless_requests_are_hedged() {
    let (slow, address) = listen();
    let bind = free();
    let view = simple(bind, address, |forward| {
        forward.hedge = true;
        forward.retry = Some(Retry {
            per_try_timeout: Some(Duration::from_millis(50)),
            ..retry(3, &[RetryOn::ServerError])
        });
    });
    let _proxy = Proxy::with(one_worker(), view, None).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&exchange(bind, request).await), 504);
    let delivered = async {
        let mut count = 0;
        while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(20), slow.accept()).await {
            count += 1;
        }
        count
    };
    assert_eq!(delivered.await, 1);
}
