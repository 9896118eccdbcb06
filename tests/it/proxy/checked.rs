//! Endpoints that are asked whether they are well.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::health_check::{
    Check, EndpointCheck, GrpcCheck, HealthCheck, HttpCheck, StatusRange, TcpCheck,
};
use meshctl::mesh::outlier::OutlierDetection;
use meshctl::mesh::route::{Action, HeaderOperations, TextMatch};
use meshctl::mesh::{Assignment, Endpoint, View};
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::mtls;
use super::support::*;

const SOON: Duration = Duration::from_millis(20);

/// A server that answers `/health` and `grpc.health.v1.Health` as it is told to, and everything else
/// with 200.
struct Patient {
    address: SocketAddr,
    /// The status of `/health`; 200 is also `SERVING`.
    health: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
    hits: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    /// Says so with every answer.
    suffers: Arc<AtomicBool>,
    last: Arc<std::sync::Mutex<String>>,
    _tasks: Tasks,
}

impl Patient {
    fn start(health: u16) -> Self {
        let (socket, address) = listen();
        let tasks = Tasks::new();
        let patient = Self {
            address,
            health: Arc::new(AtomicU16::new(health)),
            checks: Arc::default(),
            hits: Arc::default(),
            connections: Arc::default(),
            suffers: Arc::default(),
            last: Arc::default(),
            _tasks: tasks.clone(),
        };
        let (health, checks, hits, last) = (
            Arc::clone(&patient.health),
            Arc::clone(&patient.checks),
            Arc::clone(&patient.hits),
            Arc::clone(&patient.last),
        );
        let suffers = Arc::clone(&patient.suffers);
        let (opened, group) = (Arc::clone(&patient.connections), tasks.clone());
        tasks.spawn("patient", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                let (health, checks) = (Arc::clone(&health), Arc::clone(&checks));
                let (hits, last) = (Arc::clone(&hits), Arc::clone(&last));
                let suffers = Arc::clone(&suffers);
                group.spawn("patient connection", async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let path = request.uri().path().to_owned();
                        let checked = path == "/health" || path == "/grpc.health.v1.Health/Check";
                        if checked {
                            checks.fetch_add(1, Ordering::Relaxed);
                            *last.lock().unwrap() = format!("{request:?}");
                        } else {
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                        let status = health.load(Ordering::Relaxed);
                        let suffers = suffers.load(Ordering::Relaxed);
                        async move {
                            let mut response = match path.as_str() {
                                "/health" => answer(status, "I feel fine today", None),
                                "/grpc.health.v1.Health/Check" => serving(request, status).await,
                                _ => answer(200, "ok", None),
                            };
                            if suffers {
                                let yes = "true".parse().unwrap();
                                response.headers_mut().insert("x-envoy-degraded", yes);
                            }
                            Ok::<_, Infallible>(response)
                        }
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // Callers may leave whenever they like.
                    let _ended = builder.serve_connection(TokioIo::new(tcp), service).await;
                });
            }
        });
        patient
    }

    fn feels(&self, health: u16) {
        self.health.store(health, Ordering::Relaxed);
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }

    fn last(&self) -> String {
        self.last.lock().unwrap().clone()
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn answer(status: u16, text: &str, trailers: Option<HeaderMap>) -> Response<Body> {
    let data = Full::from(text.as_bytes().to_vec());
    let body = match trailers {
        None => data.boxed_unsync(),
        Some(trailers) => data
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed_unsync(),
    };
    Response::builder()
        .status(status)
        .header("x-envoy-upstream-healthchecked-cluster", "app-v1")
        .body(body)
        .unwrap()
}

/// `SERVING` for 200, `NOT_SERVING` for others; only the service `app` is known.
async fn serving(request: Request<Incoming>, status: u16) -> Response<Body> {
    let message = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = HeaderMap::new();
    if &message[..] != b"\0\0\0\0\x05\x0a\x03app" {
        trailers.insert("grpc-status", 5.into());
        return answer(200, "", Some(trailers));
    }
    trailers.insert("grpc-status", 0.into());
    let state = if status == 200 { '\x01' } else { '\x02' };
    answer(200, &format!("\0\0\0\0\x02\x08{state}"), Some(trailers))
}

fn http_check(change: impl FnOnce(&mut HttpCheck)) -> HealthCheck {
    let mut check = HttpCheck {
        path: "/health".to_owned(),
        ..HttpCheck::default()
    };
    change(&mut check);
    soon(Check::Http(Box::new(check)))
}

fn soon(check: Check) -> HealthCheck {
    HealthCheck {
        no_traffic_interval: SOON,
        ..HealthCheck::new(check, SOON, Duration::from_secs(5))
    }
}

fn view(bind: SocketAddr, check: HealthCheck, endpoints: Vec<Endpoint>) -> View {
    let mut config = cluster("app");
    config.health_check = Some(check);
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(config, endpoints)
        .0
}

async fn proxy(view: View) -> (Proxy, SocketAddr) {
    let admin = free();
    let options = Options {
        workers: 2,
        admin: Some(admin),
        ..Options::default()
    };
    (Proxy::with(options, view, None).await, admin)
}

async fn told(admin: SocketAddr, what: String) -> bool {
    own_page(admin, "/clusters").await.contains(&what)
}

fn failed(address: SocketAddr) -> String {
    format!("app::{address}::health_flags::/failed_active_hc\n")
}

fn well(address: SocketAddr) -> String {
    format!("app::{address}::health_flags::healthy\n")
}

#[tokio::test]
async fn results_come_before_requests_and_decide_who_gets_them() {
    let (sick, fine) = (Patient::start(500), Patient::start(200));
    let bind = free();
    let endpoints = vec![endpoint(sick.address), endpoint(fine.address)];
    let (_proxy, admin) = proxy(view(bind, http_check(|_| {}), endpoints)).await;
    for _ in 0..20 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!((sick.hits(), fine.hits()), (0, 20));
    assert!(told(admin, failed(sick.address)).await);
    sick.feels(200);
    eventually(|| async {
        get(bind, "/").await;
        sick.hits() > 0
    })
    .await;
    fine.feels(503);
    eventually(|| told(admin, failed(fine.address))).await;
    let before = fine.hits();
    for _ in 0..20 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!(fine.hits(), before);
    let metrics = own_page(admin, "/stats/prometheus").await;
    for line in [
        "envoy_cluster_health_check_healthy{envoy_cluster_name=\"app\"} 1\n",
        "envoy_cluster_health_check_network_failure{envoy_cluster_name=\"app\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn nobody_left_is_nobody_to_ask() {
    let sick = Patient::start(500);
    let bind = free();
    let view = view(bind, http_check(|_| {}), vec![endpoint(sick.address)]);
    let (_proxy, _) = proxy(view).await;
    let answer = get(bind, "/").await;
    assert!(
        status(&answer) == 503 && answer.ends_with("no healthy upstream"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_is_what_the_check_says() {
    let patient = Patient::start(204);
    let bind = free();
    let check = http_check(|check| {
        check.host = "named".to_owned();
        check.headers = HeaderOperations {
            set: [("x-check".to_owned(), "yes".to_owned())].into(),
            remove: vec!["user-agent".to_owned()],
            ..HeaderOperations::default()
        };
        check.expected_statuses = vec![StatusRange {
            start: 204,
            end: 205,
        }];
        check.service_name = Some(TextMatch::Prefix("app".to_owned()));
    });
    let (_proxy, admin) = proxy(view(bind, check, vec![endpoint(patient.address)])).await;
    eventually(|| told(admin, well(patient.address))).await;
    let last = patient.last();
    assert!(last.contains("\"host\": \"named\""), "{last}");
    assert!(last.contains("\"x-check\": \"yes\""), "{last}");
    assert!(!last.contains("user-agent"), "{last}");
    // All over one connection, beside the caller's own.
    eventually(|| async { patient.checks() > 5 }).await;
    assert_eq!(patient.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_the_answer_says_counts_beside_its_status() {
    for (receive, name, is_well) in [
        (&["fine", "today"][..], "app", true),
        (&["today", "fine"][..], "app", false),
        (&[][..], "other", false),
    ] {
        let patient = Patient::start(200);
        let bind = free();
        let check = http_check(|check| {
            check.receive = receive
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect();
            check.http2 = true;
            check.service_name = Some(TextMatch::Prefix(name.to_owned()));
        });
        let (_proxy, admin) = proxy(view(bind, check, vec![endpoint(patient.address)])).await;
        eventually(|| async { patient.checks() > 1 }).await;
        let expected = if is_well { well } else { failed };
        assert!(told(admin, expected(patient.address)).await, "{receive:?}");
        assert!(patient.last().contains("HTTP/2.0"));
    }
}

#[tokio::test]
async fn retriable_statuses_are_counted_and_others_are_not() {
    let patient = Patient::start(200);
    let bind = free();
    let mut check = http_check(|check| {
        check.retriable_statuses = vec![StatusRange {
            start: 500,
            end: 504,
        }];
    });
    check.unhealthy_threshold = 1_000_000;
    let (_proxy, admin) = proxy(view(bind, check, vec![endpoint(patient.address)])).await;
    eventually(|| told(admin, well(patient.address))).await;
    patient.feels(503);
    let before = patient.checks();
    eventually(|| async { patient.checks() > before + 5 }).await;
    assert!(told(admin, well(patient.address)).await);
    patient.feels(404);
    eventually(|| told(admin, failed(patient.address))).await;
}

#[tokio::test]
async fn grpc_health_is_asked_for_by_service() {
    let patient = Patient::start(200);
    let (bind, bind_other) = (free(), free());
    let check = |service: &str| {
        soon(Check::Grpc(GrpcCheck {
            service_name: service.to_owned(),
            authority: "called".to_owned(),
            metadata: HeaderOperations::default(),
        }))
    };
    let (_proxy, admin) = proxy(view(bind, check("app"), vec![endpoint(patient.address)])).await;
    eventually(|| told(admin, well(patient.address))).await;
    assert!(
        patient.last().contains("http://called/grpc.health"),
        "{}",
        patient.last()
    );
    patient.feels(503);
    eventually(|| told(admin, failed(patient.address))).await;
    patient.feels(200);
    eventually(|| told(admin, well(patient.address))).await;
    let unknown = view(bind_other, check("other"), vec![endpoint(patient.address)]);
    let (_other, admin) = proxy(unknown).await;
    assert!(told(admin, failed(patient.address)).await);
}

#[tokio::test]
async fn bytes_are_sent_and_must_come_back() {
    let (socket, address) = listen();
    let tasks = Tasks::new();
    let group = tasks.clone();
    tasks.spawn("redis", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            group.spawn("redis connection", async move {
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = tcp.read(&mut buffer).await {
                    let answer: &[u8] = match &buffer[..count] {
                        b"PING\r\n" => b"+PONG\r\n",
                        _ => b"-ERR\r\n",
                    };
                    // In two pieces, as the network may.
                    if tcp.write_all(&answer[..2]).await.is_err()
                        || tcp.write_all(&answer[2..]).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    for (send, receive, timeout, is_well) in [
        ("PING\r\n", vec!["PONG"], 5_000, true),
        ("PUNG\r\n", vec!["PONG"], 50, false),
        ("", vec![], 5_000, true),
    ] {
        let bind = free();
        let mut check = soon(Check::Tcp(TcpCheck {
            send: send.into(),
            receive: receive
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect(),
        }));
        check.timeout = Duration::from_millis(timeout);
        let (_proxy, admin) = proxy(view(bind, check, vec![endpoint(address)])).await;
        let expected = if is_well {
            well(address)
        } else {
            format!("app::{address}::health_flags::/failed_active_hc/active_hc_timeout\n")
        };
        eventually(|| told(admin, expected.clone())).await;
    }
}

#[tokio::test]
async fn an_endpoint_says_where_and_whether_it_is_asked() {
    let (elsewhere, sick) = (Patient::start(200), Patient::start(500));
    let served = App::start("a");
    let bind = free();
    let own = |check: EndpointCheck, address| Endpoint {
        health_check: Some(Box::new(check)),
        ..endpoint(address)
    };
    let endpoints = vec![
        own(
            EndpointCheck {
                address: Some(elsewhere.address),
                hostname: "own".to_owned(),
                disabled: false,
            },
            served.address,
        ),
        own(
            EndpointCheck {
                disabled: true,
                ..EndpointCheck::default()
            },
            sick.address,
        ),
    ];
    let (_proxy, admin) = proxy(view(bind, http_check(|_| {}), endpoints)).await;
    eventually(|| told(admin, well(served.address))).await;
    assert!(
        elsewhere.last().contains("\"host\": \"own\""),
        "{}",
        elsewhere.last()
    );
    for _ in 0..10 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!((served.hits(), sick.hits(), sick.checks()), (5, 5, 0));
}

#[tokio::test]
async fn checks_are_made_over_mtls_where_requests_are() {
    let mesh = mtls::Mesh::new();
    for (protocol, http2) in [
        (UpstreamProtocol::Http1, false),
        (UpstreamProtocol::Http2, true),
    ] {
        let patient = Patient::start(200);
        let (inner, bind, admin) = (free(), free(), free());
        let inward = mtls::strict(inner, patient.address, mtls::http());
        let _inner = Proxy::with(mtls::options("app"), inward, Some(mesh.identity("app"))).await;
        let mut outward = mtls::outward(bind, inner, "app", protocol);
        let check = http_check(|check| check.http2 = http2);
        let config = outward.0.clusters.get_mut("app").unwrap();
        Arc::make_mut(config).health_check = Some(check);
        let options = Options {
            admin: Some(admin),
            ..mtls::options("caller")
        };
        let _outer = Proxy::with(options, outward.0, Some(mesh.identity("caller"))).await;
        eventually(|| told(admin, well(inner))).await;
        assert!(patient.checks() > 0);
        patient.feels(500);
        eventually(|| told(admin, failed(inner))).await;
    }
}

#[tokio::test]
async fn a_passed_check_ends_an_ejection_unless_told_otherwise() {
    for uneject_on_health_check in [true, false] {
        let bad = App::answering("bad", 503);
        let bind = free();
        let check = soon(Check::Tcp(TcpCheck::default()));
        let mut view = view(bind, check, vec![endpoint(bad.address)]);
        let config = Arc::make_mut(view.clusters.get_mut("app").unwrap());
        config.outlier = Some(OutlierDetection {
            consecutive_5xx: 1,
            uneject_on_health_check,
            ..OutlierDetection::default()
        });
        let (_proxy, admin) = proxy(view).await;
        assert!(get(bind, "/").await.contains("bad GET /"));
        let passed = async || -> u64 {
            let metrics = own_page(admin, "/metrics").await;
            let line = "envoy_cluster_health_check_success{envoy_cluster_name=\"app\"} ";
            let line = metrics.lines().find_map(|l| l.strip_prefix(line));
            line.unwrap().trim().parse().unwrap()
        };
        let before = passed().await;
        eventually(|| async { passed().await > before + 2 }).await;
        let answer = get(bind, "/").await;
        assert_eq!(
            answer.contains("bad GET /"),
            uneject_on_health_check,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_is_checked_from_now_on_stays_in_until_it_fails() {
    let patient = Patient::start(500);
    let bind = free();
    let mut check = http_check(|_| {});
    check.initial_jitter = Duration::from_millis(200);
    let with = view(bind, check, vec![endpoint(patient.address)]);
    let mut without = with.clone();
    let config = Arc::make_mut(without.clusters.get_mut("app").unwrap());
    config.health_check = None;
    let (proxy, admin) = proxy(without.clone()).await;
    assert_eq!(status(&get(bind, "/").await), 200);
    proxy.views.publish(with);
    eventually(|| told(admin, failed(patient.address))).await;
    assert_eq!(status(&get(bind, "/").await), 503);
    // And back again.
    proxy.views.publish(without);
    eventually(|| told(admin, well(patient.address))).await;
    assert_eq!(status(&get(bind, "/").await), 200);
}

/// Envoy's rule: what discovery has lost and checks have not stays.
#[tokio::test]
async fn what_is_no_longer_discovered_stays_for_as_long_as_it_passes() {
    for ignore in [false, true] {
        let (lost, kept) = (Patient::start(200), Patient::start(200));
        let bind = free();
        let mut check = http_check(|_| {});
        check.policy.ignore_health_on_host_removal = ignore;
        let endpoints = vec![endpoint(lost.address), endpoint(kept.address)];
        let full = view(bind, check, endpoints);
        let (proxy, admin) = proxy(full.clone()).await;
        eventually(|| told(admin, well(lost.address))).await;
        let mut fewer = full;
        fewer.endpoints.insert(
            "app".to_owned(),
            Arc::new(Assignment::new(vec![endpoint(kept.address)])),
        );
        // Something that shows that the new view is there.
        let mark = Arc::make_mut(fewer.clusters.get_mut("app").unwrap());
        mark.connect_timeout = Duration::from_secs(77);
        proxy.views.publish(fewer);
        eventually(|| async { own_page(admin, "/config_dump").await.contains("77") }).await;
        let line = format!("app::{}::rq_total", lost.address);
        assert_eq!(told(admin, line.clone()).await, !ignore);
        if ignore {
            continue;
        }
        let before = lost.hits();
        for _ in 0..4 {
            get(bind, "/").await;
        }
        assert_eq!(lost.hits(), before + 2, "it still gets its share");
        lost.feels(500);
        eventually(|| async { !told(admin, line.clone()).await }).await;
    }
}

#[tokio::test]
async fn connections_to_who_fails_are_closed_where_that_is_asked_for() {
    let patient = Patient::start(200);
    let bind = free();
    let mut check = http_check(|_| {});
    check.policy.close_connections_on_failure = true;
    let (_proxy, admin) = proxy(view(bind, check, vec![endpoint(patient.address)])).await;
    assert_eq!(status(&get(bind, "/").await), 200);
    let idle = "meshctl_upstream_idle_connections ";
    let kept = |count: usize| {
        let line = format!("{idle}{count}\n");
        async move { own_page(admin, "/metrics").await.contains(&line) }
    };
    eventually(|| kept(1)).await;
    patient.feels(500);
    eventually(|| kept(0)).await;
}

#[tokio::test]
async fn who_says_that_it_works_badly_is_called_when_nobody_else_is_left() {
    let (well, degraded) = (Patient::start(200), Patient::start(200));
    degraded.suffers.store(true, Ordering::Relaxed);
    let bind = free();
    let endpoints = vec![endpoint(well.address), endpoint(degraded.address)];
    let (_proxy, admin) = proxy(view(bind, http_check(|_| {}), endpoints)).await;
    let line = format!(
        "app::{}::health_flags::/degraded_active_hc\n",
        degraded.address
    );
    eventually(|| told(admin, line.clone())).await;
    eventually(|| async {
        let before = degraded.hits();
        for _ in 0..10 {
            get(bind, "/").await;
        }
        degraded.hits() == before
    })
    .await;
    well.feels(500);
    eventually(|| told(admin, failed(well.address))).await;
    eventually(|| async { status(&get(bind, "/").await) == 200 }).await;
    assert!(degraded.hits() > 0);
}
