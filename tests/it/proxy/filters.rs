//! Rate limits and adaptive concurrency on a chain and on its routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::filter::{
    AdaptiveConcurrency, DescriptorLimit, HttpFilter, LocalRateLimit, RateLimitAction,
    RateLimitRule, TokenBucket,
};
use meshctl::mesh::listener::{ChainAction, Direction, HttpCodec};
use meshctl::mesh::route::{Action, Forward, Share};
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn tokens(max_tokens: u32) -> TokenBucket {
    TokenBucket {
        max_tokens,
        tokens_per_fill: 1,
        fill_interval: Duration::from_hours(1),
    }
}

fn limit() -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        enabled: Share::default(),
        enforced: Share::default(),
        ..LocalRateLimit::default()
    }
}

/// Carries HTTP from `bind` to `app` through `filter`.
fn view(bind: SocketAddr, app: SocketAddr, filter: HttpFilter, action: Forward) -> View {
    let chain = ChainAction::Http {
        routes: "t".to_owned(),
        codec: HttpCodec::Auto,
        options: std::sync::Arc::default(),
    };
    let mut view = Views::default()
        .listener("t", bind, Direction::Outbound, chain)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .0;
    let mut listener = (*view.listeners["t"]).clone();
    listener.chains[0].filters = vec![filter];
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    view
}

fn limiting(config: LocalRateLimit) -> HttpFilter {
    HttpFilter::LocalRateLimit(Arc::new(config))
}

#[tokio::test]
async fn without_a_token_the_caller_is_told_so() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let filter = limiting(LocalRateLimit {
        bucket: Some(tokens(2)),
        response_headers: vec![("x-local-rate-limit".to_owned(), "true".to_owned())],
        rate_limit_headers: true,
        retry_after: true,
        ..limit()
    });
    let options = Options {
        admin: Some(admin),
        ..Options::default()
    };
    let view = view(bind, app.address, filter, forward(&[("app", 1)]));
    let proxy = Proxy::with(options, view.clone(), None).await;
    assert_eq!(status(&get(bind, "/").await), 200);
    assert_eq!(status(&get(bind, "/").await), 200);
    let refused = get(bind, "/").await;
    assert!(
        status(&refused) == 429 && refused.ends_with("local_rate_limited"),
        "{refused}"
    );
    for header in [
        "x-local-rate-limit: true\r\n",
        "x-ratelimit-limit: 2\r\n",
        "x-ratelimit-remaining: 0\r\n",
        "x-ratelimit-reset: ",
        "retry-after: ",
    ] {
        assert!(refused.contains(header), "{header}: {refused}");
    }
    // gRPC callers are told in their way.
    let grpc = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\
                Content-Length: 0\r\nConnection: close\r\n\r\n";
    let refused = exchange(bind, grpc).await;
    assert!(
        status(&refused) == 200 && refused.contains("grpc-status: 14\r\n"),
        "{refused}"
    );
    assert_eq!(app.hits(), 2);
    // A change elsewhere fills no bucket.
    let mut changed = view;
    changed
        .clusters
        .insert("more".to_owned(), Arc::new(cluster("more")));
    proxy.views.publish(changed);
    eventually(|| async { own_page(admin, "/config_dump").await.contains("\"more\"") }).await;
    assert_eq!(status(&get(bind, "/").await), 429);
    let metrics = own_page(admin, "/stats/prometheus").await;
    let labels = "{envoy_local_http_ratelimit_prefix=\"limit\"}";
    for expected in [
        format!("envoy_http_local_rate_limit_enabled{labels} 5"),
        format!("envoy_http_local_rate_limit_enforced{labels} 3"),
        format!("envoy_http_local_rate_limit_ok{labels} 2"),
        "response_flags=\"RL\"".to_owned(),
    ] {
        assert!(metrics.contains(&expected), "{expected}: {metrics}");
    }
}

#[tokio::test]
async fn values_of_requests_have_buckets_by_route() {
    let app = App::start("a");
    let bind = free();
    // The chain's filter limits nothing until a route says what.
    let filter = limiting(limit());
    let mut action = forward(&[("app", 1)]);
    action.filters = vec![limiting(LocalRateLimit {
        descriptors: vec![DescriptorLimit {
            entries: vec![
                ("generic_key".to_owned(), "shop".to_owned()),
                ("user".to_owned(), String::new()),
            ],
            bucket: tokens(1),
        }],
        ..limit()
    })];
    action.rate_limits = vec![RateLimitRule {
        stage: 0,
        actions: vec![
            RateLimitAction::GenericKey {
                key: "generic_key".to_owned(),
                value: "shop".to_owned(),
            },
            RateLimitAction::RequestHeader {
                header: "x-user".to_owned(),
                key: "user".to_owned(),
                skip_if_absent: false,
            },
        ],
    }];
    let _proxy = Proxy::start(view(bind, app.address, filter, action)).await;
    let ask = async |user: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{user}\r\n");
        status(&exchange(bind, request).await)
    };
    assert_eq!(ask("X-User: ann\r\n").await, 200);
    assert_eq!(ask("X-User: ann\r\n").await, 429);
    assert_eq!(ask("X-User: bob\r\n").await, 200);
    // Who gives no name has no descriptor.
    assert_eq!((ask("").await, ask("").await), (200, 200));
}

#[tokio::test]
async fn what_is_not_enforced_is_marked() {
    let app = App::start("a");
    let bind = free();
    let filter = limiting(LocalRateLimit {
        bucket: Some(tokens(0)),
        enforced: Share::NONE,
        request_headers: vec![("x-would-limit".to_owned(), "yes".to_owned())],
        ..limit()
    });
    let view = view(bind, app.address, filter, forward(&[("app", 1)]));
    let _proxy = Proxy::start(view).await;
    let answer = get(bind, "/").await;
    assert!(answer.contains("\nx-would-limit: yes\n"), "{answer}");
}

#[tokio::test]
async fn each_connection_may_have_its_own_tokens() {
    let app = App::start("a");
    let bind = free();
    let tasks = Tasks::new();
    let filter = limiting(LocalRateLimit {
        bucket: Some(tokens(1)),
        per_connection: true,
        ..limit()
    });
    let view = view(bind, app.address, filter, forward(&[("app", 1)]));
    let _proxy = Proxy::start(view).await;
    for _ in 0..2 {
        let mut caller = Caller::new(&tasks, bind).await;
        assert_eq!(caller.get("/").await.unwrap().0, 200);
        assert_eq!(caller.get("/").await.unwrap().0, 429);
    }
}

/// Three at once while the best latency is not known; a place comes back with the answer.
#[tokio::test]
async fn concurrency_is_limited_and_places_come_back() {
    let (app, address) = listen();
    let bind = free();
    let filter = HttpFilter::AdaptiveConcurrency(AdaptiveConcurrency::default());
    let view = view(bind, address, filter, forward(&[("app", 1)]));
    let _proxy = Proxy::start(view).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut caller = connect(bind).await;
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        caller.write_all(request).await.unwrap();
        let (mut peer, _) = app.accept().await.unwrap();
        read_until(&mut peer, "\r\n\r\n").await;
        held.push((caller, peer));
    }
    let refused = get(bind, "/").await;
    assert!(
        status(&refused) == 503 && refused.ends_with("reached concurrency limit"),
        "{refused}"
    );
    let (mut caller, mut peer) = held.pop().unwrap();
    peer.write_all(OK.as_bytes()).await.unwrap();
    read_until(&mut caller, "ok").await;
    // Nobody would answer on it a second time.
    drop(peer);
    let tasks = Tasks::new();
    tasks.spawn("app", async move {
        loop {
            let (mut peer, _) = app.accept().await.unwrap();
            read_until(&mut peer, "\r\n\r\n").await;
            peer.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    // The place is free a moment after the answer is there.
    eventually(|| async { status(&get(bind, "/").await) == 200 }).await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        overload: meshctl::proxy::OverloadOptions {
            max_connections: Some(1),
            ..meshctl::proxy::OverloadOptions::default()
        },
        ..Options::default()
    };
    let _proxy = Proxy::with(options, simple(bind, app.address, |_| {}), None).await;
    let tasks = Tasks::new();
    // The one that only asked whether anybody listens may not be gone yet.
    let mut first = None;
    for _ in 0..1000 {
        let mut caller = Caller::new(&tasks, bind).await;
        if caller.get("/").await.is_ok() {
            first = Some(caller);
            break;
        }
    }
    let mut first = first.expect("no connection was served");
    let mut second = connect(bind).await;
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ended = second.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
    assert_eq!(first.get("/").await.unwrap().0, 200);
    let metrics = own_page(admin, "/stats/prometheus").await;
    let line = "envoy_listener_downstream_global_cx_overflow ";
    let rejected = metrics
        .lines()
        .find_map(|found| found.strip_prefix(line))
        .unwrap_or_else(|| panic!("{metrics}"));
    assert!(rejected.parse::<u64>().unwrap() >= 1, "{rejected}");
}

/// A proxy that is out of memory refuses requests and ends kept connections.
#[tokio::test]
async fn without_memory_requests_are_refused() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        overload: meshctl::proxy::OverloadOptions {
            // Less than any process has, yet connections are accepted.
            max_memory: Some(1 << 20),
            stop_connections: u64::MAX,
            ..meshctl::proxy::OverloadOptions::default()
        },
        ..Options::default()
    };
    let _proxy = Proxy::with(options, simple(bind, app.address, |_| {}), None).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    eventually(|| async { status(&get(bind, "/").await) == 503 }).await;
    let answer = exchange(bind, request).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.contains("x-envoy-overloaded: true\r\n"), "{answer}");
    let metrics = own_page(admin, "/stats/prometheus").await;
    assert!(metrics.contains("response_flags=\"OM\""), "{metrics}");
}
