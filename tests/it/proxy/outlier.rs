//! Endpoints that are left out for how they serve.

use std::net::SocketAddr;
use std::time::Duration;

use meshctl::mesh::ChainAction;
use meshctl::mesh::listener::Direction;
use meshctl::mesh::outlier::{FailurePercentage, OutlierDetection, ResponseTime, SuccessRate};
use meshctl::mesh::route::Action;
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
const SOON: Duration = Duration::from_millis(50);

/// A proxy with a cluster that is watched by `policy`, and its admin address.
async fn watched(
    policy: OutlierDetection,
    endpoints: &[SocketAddr],
) -> (Proxy, SocketAddr, SocketAddr) {
    let (bind, admin) = (free(), free());
    let mut config = cluster("app");
    config.outlier = Some(policy);
    let endpoints = endpoints.iter().map(|address| endpoint(*address)).collect();
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(config, endpoints)
        .0;
    let options = Options {
        workers: 2,
        admin: Some(admin),
        ..Options::default()
    };
    (Proxy::with(options, view, None).await, bind, admin)
}

/// What `/clusters` says under `key` of the endpoint at `address`.
async fn told(admin: SocketAddr, address: SocketAddr, key: &str) -> String {
    let all = own_page(admin, "/clusters").await;
    let before = format!("app::{address}::{key}::");
    all.lines()
        .find_map(|line| line.strip_prefix(&before))
        .unwrap_or_else(|| panic!("no {before} in {all}"))
        .trim()
        .to_owned()
}

async fn metric(admin: SocketAddr, name: &str) -> String {
    let all = own_page(admin, "/stats/prometheus").await;
    let before = format!("envoy_cluster_{name}{{envoy_cluster_name=\"app\"}} ");
    all.lines()
        .find_map(|line| line.strip_prefix(&before))
        .unwrap_or_else(|| panic!("no {before} in {all}"))
        .trim()
        .to_owned()
}

#[tokio::test]
async fn failing_endpoints_are_ejected_and_told() {
    let (good, bad) = (App::start("good"), App::answering("bad", 500));
    let policy = OutlierDetection {
        consecutive_5xx: 3,
        max_ejection_percent: 50,
        ..OutlierDetection::default()
    };
    let (_proxy, bind, admin) = watched(policy, &[good.address, bad.address]).await;
    for _ in 0..40 {
        get(bind, "/").await;
    }
    assert_eq!((good.hits(), bad.hits()), (37, 3));
    let flags = told(admin, bad.address, "health_flags").await;
    assert_eq!(flags, "/failed_outlier_check");
    assert_eq!(told(admin, good.address, "health_flags").await, "healthy");
    for (name, value) in [
        ("outlier_detection_ejections_active", "1"),
        ("outlier_detection_ejections_enforced_total", "1"),
        ("outlier_detection_ejections_enforced_consecutive_5xx", "1"),
        ("outlier_detection_ejections_detected_success_rate", "0"),
    ] {
        assert_eq!(metric(admin, name).await, value, "{name}");
    }
}

#[tokio::test]
async fn an_endpoint_returns_after_its_time() {
    let tasks = Tasks::new();
    let sick = Scripted::start(&tasks, &[UNAVAILABLE, UNAVAILABLE, OK]);
    let good = App::start("good");
    let policy = OutlierDetection {
        consecutive_5xx: 0,
        consecutive_gateway: 2,
        interval: SOON,
        base_ejection: SOON,
        ..OutlierDetection::default()
    };
    let (_proxy, bind, admin) = watched(policy, &[good.address, sick.address]).await;
    eventually(|| async { status(&get(bind, "/").await) == 503 }).await;
    eventually(|| async {
        get(bind, "/").await;
        sick.heads().len() > 4
    })
    .await;
    assert_eq!(told(admin, sick.address, "ejections").await, "1");
    let name = "outlier_detection_ejections_enforced_consecutive_gateway_failure";
    assert_eq!(metric(admin, name).await, "1");
}

#[tokio::test]
async fn who_does_worse_than_the_others_is_ejected() {
    for (policy, name) in [
        (
            OutlierDetection {
                success_rate: SuccessRate {
                    enforcing: 100,
                    request_volume: 5,
                    ..SuccessRate::default()
                },
                ..OutlierDetection::default()
            },
            "success_rate",
        ),
        (
            OutlierDetection {
                failure_percentage: FailurePercentage {
                    enforcing: 100,
                    request_volume: 5,
                    ..FailurePercentage::default()
                },
                ..OutlierDetection::default()
            },
            "failure_percentage",
        ),
    ] {
        let apps: Vec<App> = (0..4).map(|_| App::start("good")).collect();
        let bad = App::answering("bad", 500);
        let mut addresses: Vec<SocketAddr> = apps.iter().map(|app| app.address).collect();
        addresses.push(bad.address);
        let policy = OutlierDetection {
            consecutive_5xx: 0,
            interval: Duration::from_millis(300),
            ..policy
        };
        let (_proxy, bind, admin) = watched(policy, &addresses).await;
        eventually(|| async {
            for _ in 0..30 {
                get(bind, "/").await;
            }
            told(admin, bad.address, "health_flags").await == "/failed_outlier_check"
        })
        .await;
        let name = format!("outlier_detection_ejections_enforced_{name}");
        assert_eq!(metric(admin, &name).await, "1");
    }
}

#[tokio::test]
async fn endpoints_that_cannot_be_reached_are_failures_of_our_own() {
    let good = App::start("good");
    let policy = OutlierDetection {
        consecutive_5xx: 1,
        split_external_local_origin_errors: true,
        consecutive_local_origin: 2,
        ..OutlierDetection::default()
    };
    let (_proxy, bind, admin) = watched(policy, &[good.address, free()]).await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(status(&get(bind, "/").await) == 503);
    }
    assert_eq!((failed, good.hits()), (2, 18));
    let name = "outlier_detection_ejections_enforced_consecutive_local_origin_failure";
    assert_eq!(metric(admin, name).await, "1");
}

#[tokio::test]
async fn connections_of_bytes_count_too() {
    let (socket, good) = listen();
    let tasks = Tasks::new();
    tasks.spawn("hello", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            // Callers may leave whenever they like.
            let _told = tcp.write_all(b"hello").await;
        }
    });
    let bind = free();
    let mut config = cluster("app");
    config.outlier = Some(OutlierDetection {
        consecutive_5xx: 2,
        ..OutlierDetection::default()
    });
    let action = ChainAction::Tcp {
        clusters: vec![("app".to_owned(), 1)],
        options: meshctl::mesh::listener::TcpOptions::idle(Duration::ZERO),
    };
    let view = Views::default()
        .listener("t", bind, Direction::Outbound, action)
        .cluster(config, vec![endpoint(good), endpoint(free())])
        .0;
    let _proxy = Proxy::start(view).await;
    let mut refused = 0;
    for _ in 0..20 {
        let mut tcp = connect(bind).await;
        let mut text = String::new();
        // A refused connection may be reset.
        let _ended = tcp.read_to_string(&mut text).await;
        refused += usize::from(text != "hello");
    }
    // The look whether it listens was one connection more.
    assert!((1..=2).contains(&refused), "{refused}");
}

#[tokio::test]
async fn the_status_of_a_call_counts_and_not_that_of_its_answer() {
    let tasks = Tasks::new();
    let sick = Scripted::start(
        &tasks,
        &["HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 0\r\n\r\n"],
    );
    let good = App::start("good");
    let policy = OutlierDetection {
        consecutive_5xx: 0,
        consecutive_gateway: 2,
        ..OutlierDetection::default()
    };
    let (_proxy, bind, _) = watched(policy, &[good.address, sick.address]).await;
    for _ in 0..20 {
        let request = "POST /a.B/C HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\n\
            Content-Length: 0\r\nConnection: close\r\n\r\n";
        exchange(bind, request).await;
    }
    assert_eq!(sick.heads().len(), 2);
}

#[tokio::test]
async fn the_slow_one_is_ejected() {
    let (socket, slow) = listen();
    let tasks = Tasks::new();
    let group = tasks.clone();
    tasks.spawn("slow", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            group.spawn("slow connection", async move {
                loop {
                    let mut request = [0; 4096];
                    let Ok(1..) = tcp.read(&mut request).await else {
                        return;
                    };
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    if tcp.write_all(OK.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let good = App::start("good");
    let policy = OutlierDetection {
        interval: SOON,
        response_time: Some(ResponseTime {
            threshold: Duration::from_millis(250),
            window: Duration::from_mins(1),
            request_volume: 2,
            enforcing: 100,
        }),
        ..OutlierDetection::default()
    };
    let (_proxy, bind, admin) = watched(policy, &[good.address, slow]).await;
    eventually(|| async {
        get(bind, "/").await;
        told(admin, slow, "health_flags").await == "/failed_outlier_check"
    })
    .await;
    let name = "outlier_detection_ejections_enforced_response_time";
    assert_eq!(metric(admin, name).await, "1");
    assert_eq!(told(admin, good.address, "health_flags").await, "healthy");
}
