//! Faults that routes inject.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::filter::{Abort, AbortWith, Delay, Fault, HttpFilter};
use meshctl::mesh::listener::{ChainAction, Direction, HttpCodec};
use meshctl::mesh::route::{Action, HeaderMatch, Match, PathMatch, Respond, Share, TextMatch};
use meshctl::proxy::{AccessLog, Options};
use meshctl::rt::{self, Tasks};
use meshctl::telemetry::LogFormat;
use tokio::io::AsyncWriteExt as _;

use super::support::*;

const DELAY: Duration = Duration::from_millis(150);

fn abort(with: AbortWith) -> Abort {
    let share = Share::default();
    Abort { with, share }
}

fn delay() -> Delay {
    Delay {
        time: DELAY,
        share: Share::default(),
    }
}

/// Carries HTTP from `bind` to `app`: `/plain` as it comes, `/own` answered here, and all the rest
/// with the fault of its route. The chain has `chain`.
fn view(bind: SocketAddr, app: SocketAddr, chain: Fault, own: Fault) -> View {
    let mut plain = route(Action::Forward(forward(&[("app", 1)])));
    plain.matches.path = PathMatch::Prefix("/plain".to_owned());
    let mut answered = route(Action::Respond(Respond {
        status: 201,
        body: String::new(),
    }));
    answered.matches = Match {
        path: PathMatch::Exact("/own".to_owned()),
        ..Match::default()
    };
    let mut faulty = forward(&[("app", 1)]);
    faulty.filters = vec![HttpFilter::Fault(Arc::new(own))];
    // What follows a delay has its whole time.
    faulty.timeout = Some(DELAY * 2 / 3);
    let http = ChainAction::Http {
        routes: "t".to_owned(),
        codec: HttpCodec::Auto,
        options: Arc::default(),
    };
    let mut view = Views::default()
        .listener("t", bind, Direction::Outbound, http)
        .routes("t", vec![plain, answered, route(Action::Forward(faulty))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .0;
    let mut listener = (*view.listeners["t"]).clone();
    listener.chains[0].filters = vec![HttpFilter::Fault(Arc::new(chain))];
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    view
}

async fn started(admin: SocketAddr, view: View) -> Proxy {
    let options = Options {
        workers: 1,
        admin: Some(admin),
        ..Options::default()
    };
    Proxy::with(options, view, None).await
}

const GRPC: &str = "POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\
                    Content-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn an_abort_never_reaches_the_application() {
    let app = App::start("a");
    for (with, http, grpc) in [
        (AbortWith::Http(418), 418, 2),
        (AbortWith::Http(503), 503, 14),
        (AbortWith::Grpc(8), 429, 8),
    ] {
        let (bind, admin) = (free(), free());
        let own = Fault {
            abort: Some(abort(with)),
            ..Fault::default()
        };
        let _proxy = started(admin, view(bind, app.address, Fault::default(), own)).await;
        let answer = get(bind, "/x").await;
        assert_eq!(status(&answer), http, "{answer}");
        assert!(answer.ends_with("fault filter abort"), "{answer}");
        let answer = exchange(bind, GRPC).await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(
            answer.contains(&format!("grpc-status: {grpc}\r\n")),
            "{answer}"
        );
        assert!(
            answer.contains("grpc-message: fault filter abort\r\n"),
            "{answer}"
        );
        // Only its own route is meant.
        let before = app.hits();
        assert_eq!(status(&get(bind, "/plain").await), 200);
        assert_eq!(status(&get(bind, "/own").await), 201);
        assert_eq!(app.hits(), before + 1);
        let metrics = own_page(admin, "/stats/prometheus").await;
        assert!(
            metrics.contains("envoy_http_fault_aborts_injected 2\n"),
            "{metrics}"
        );
        let counted = metrics
            .lines()
            .find(|line| line.starts_with("istio_requests_total") && line.contains("\"FI\""))
            .unwrap_or_else(|| panic!("{metrics}"));
        // It is counted to the service that was called.
        assert!(
            counted.contains("destination_service_name=\"app\""),
            "{counted}"
        );
    }
}

#[tokio::test]
async fn a_delay_comes_before_everything_and_off_no_limit() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let own = Fault {
        delay: Some(delay()),
        ..Fault::default()
    };
    let _proxy = started(admin, view(bind, app.address, Fault::default(), own)).await;
    let begun = rt::now();
    let request =
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    let answer = exchange(bind, request).await;
    assert!(begun.elapsed() >= DELAY);
    assert!(
        status(&answer) == 200 && answer.ends_with("\nbody"),
        "{answer}"
    );
    let tasks = Tasks::new();
    let (send, connection) = h2::client::handshake(connect(bind).await).await.unwrap();
    tasks.spawn("h2 caller", async move {
        let _ended = connection.await;
    });
    let begun = rt::now();
    let request = hyper::Request::get("http://app/y").body(()).unwrap();
    let (answer, _) = send
        .ready()
        .await
        .unwrap()
        .send_request(request, true)
        .unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(begun.elapsed() >= DELAY);
    let metrics = own_page(admin, "/stats/prometheus").await;
    assert!(
        metrics.contains("envoy_http_fault_delays_injected 2\n"),
        "{metrics}"
    );
    assert!(metrics.contains("response_flags=\"DI\""), "{metrics}");
}

#[tokio::test]
async fn a_delayed_request_may_be_aborted_and_its_caller_may_leave() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let own = Fault {
        delay: Some(delay()),
        abort: Some(abort(AbortWith::Http(504))),
        ..Fault::default()
    };
    let _proxy = started(admin, view(bind, app.address, Fault::default(), own)).await;
    let begun = rt::now();
    assert_eq!(status(&get(bind, "/x").await), 504);
    assert!(begun.elapsed() >= DELAY);
    let mut gone = connect(bind).await;
    gone.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    // Ending it with a reset, as a process that is killed does.
    gone.set_zero_linger().unwrap();
    eventually(|| async {
        let metrics = own_page(admin, "/stats/prometheus").await;
        metrics.contains("envoy_http_fault_delays_injected 2\n")
    })
    .await;
    drop(gone);
    eventually(|| async {
        let metrics = own_page(admin, "/stats/prometheus").await;
        metrics.contains("response_flags=\"DC\"")
    })
    .await;
    assert_eq!(app.hits(), 0);
}

#[tokio::test]
async fn a_chains_own_fault_is_for_all_but_routes_that_have_theirs() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let chain = Fault {
        abort: Some(abort(AbortWith::Http(500))),
        headers: vec![HeaderMatch {
            name: "x-fault".to_owned(),
            value: TextMatch::Present,
            invert: false,
        }],
        ..Fault::default()
    };
    let own = Fault {
        abort: Some(abort(AbortWith::Http(501))),
        cluster: "another".to_owned(),
        ..Fault::default()
    };
    let _proxy = started(admin, view(bind, app.address, chain, own)).await;
    let ask = async |path: &str, field: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n");
        status(&exchange(bind, request).await)
    };
    assert_eq!(ask("/plain", "").await, 200);
    assert_eq!(ask("/plain", "x-fault: 1\r\n").await, 500);
    // What the proxy answers by itself is no exception.
    assert_eq!(ask("/own", "x-fault: 1\r\n").await, 500);
    // The route's own is for another cluster.
    assert_eq!(ask("/x", "x-fault: 1\r\n").await, 200);
}

/// What was refused on purpose is told from what failed, with where it would have gone.
#[tokio::test]
async fn the_access_log_says_what_was_injected() {
    let app = App::start("a");
    let bind = free();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let options = Options {
        workers: 1,
        access_log: Some(AccessLog {
            path: Some(file.clone()),
            format: LogFormat::Json,
        }),
        ..Options::default()
    };
    let own = Fault {
        abort: Some(abort(AbortWith::Http(503))),
        ..Fault::default()
    };
    let chain = Fault {
        delay: Some(delay()),
        ..Fault::default()
    };
    let view = view(bind, app.address, chain, own);
    let proxy = Proxy::with(options, view, None).await;
    get(bind, "/x").await;
    get(bind, "/plain").await;
    proxy.stop().await.unwrap();
    let log = std::fs::read_to_string(file).unwrap();
    for (path, code, flag, details) in [
        ("/x", 503, "FI", "fault_filter_abort"),
        ("/plain", 200, "DI", "via_upstream"),
    ] {
        let line = log.lines().find(|line| line.contains(path)).unwrap();
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["response_code"], code, "{line}");
        assert_eq!(record["response_flags"], flag, "{line}");
        assert_eq!(record["response_code_details"], details, "{line}");
        assert_eq!(record["upstream_cluster"], "app", "{line}");
        assert_eq!(record["route_name"], "r", "{line}");
    }
}

#[tokio::test]
async fn a_share_of_none_is_none() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let own = Fault {
        abort: Some(Abort {
            with: AbortWith::Http(500),
            share: Share::NONE,
        }),
        ..Fault::default()
    };
    let _proxy = started(admin, view(bind, app.address, Fault::default(), own)).await;
    for _ in 0..5 {
        assert_eq!(status(&get(bind, "/x").await), 200);
    }
}
