//! Which endpoint a request meets: shares, hashes, priorities, limits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meshctl::mesh::balancing::Balancing;
use meshctl::mesh::route::{Action, HashCookie, HashOf, HashPolicy};
use meshctl::mesh::{Assignment, Cluster, DropOverload, Endpoint, Health, LoadBalancer, View};
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::io::AsyncWriteExt as _;

use super::support::*;

/// A view that sends everything from `bind` to the endpoints of one cluster.
fn to(
    bind: std::net::SocketAddr,
    cluster: Cluster,
    endpoints: Vec<Endpoint>,
    hash: Vec<HashPolicy>,
) -> View {
    let mut action = forward(&[("app", 1)]);
    action.hash = hash;
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster, endpoints)
        .0
}

fn balanced(load_balancer: LoadBalancer, balancing: Balancing) -> Cluster {
    Cluster {
        load_balancer,
        balancing,
        ..cluster("app")
    }
}

/// Who answered.
fn name(body: &str) -> String {
    body.split(' ').next().unwrap_or_default().to_owned()
}

/// Row C1, for clusters of a route and for endpoints of a cluster: exact in every run of six
/// requests of a worker, and within one of the share over a hundred requests of two workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_two_one_three_are_exact_in_six_and_within_one_of_a_hundred() {
    let apps = [App::start("a"), App::start("b"), App::start("c")];
    let weights = [2, 1, 3];
    let weighted = apps.iter().zip(weights).map(|(app, weight)| {
        let mut endpoint = endpoint(app.address);
        endpoint.weight = weight;
        endpoint
    });
    let binds = [free(), free()];
    let by_endpoint = to(binds[0], cluster("app"), weighted.collect(), Vec::new());
    let mut by_route = Views::default().http("t", binds[1]).routes(
        "t",
        vec![route(Action::Forward(forward(&[
            ("a", 2),
            ("b", 1),
            ("c", 3),
        ])))],
    );
    for (app, name) in apps.iter().zip(["a", "b", "c"]) {
        by_route = by_route.cluster(cluster(name), vec![endpoint(app.address)]);
    }
    for (bind, view) in binds.into_iter().zip([by_endpoint, by_route.0]) {
        let proxy = Proxy::start(view).await;
        let tasks = Tasks::new();
        // One connection is one worker.
        let mut caller = Caller::new(&tasks, bind).await;
        let mut seen = Vec::new();
        for _ in 0..60 {
            seen.push(name(&caller.get("/").await.unwrap().1));
        }
        for window in seen.windows(6) {
            for (app, weight) in ["a", "b", "c"].iter().zip([2, 1, 3]) {
                let hits = window.iter().filter(|name| *name == app).count();
                assert_eq!(hits, weight, "{window:?}");
            }
        }
        proxy.stop().await.unwrap();
    }

    // A hundred requests by ten connections, wherever the kernel puts these.
    for bind in binds {
        let before = apps.each_ref().map(App::hits);
        let weighted = apps.iter().zip(weights).map(|(app, weight)| {
            let mut endpoint = endpoint(app.address);
            endpoint.weight = weight;
            endpoint
        });
        let view = to(bind, cluster("app"), weighted.collect(), Vec::new());
        let proxy = Proxy::start(view).await;
        let tasks = Tasks::new();
        for _ in 0..10 {
            let mut caller = Caller::new(&tasks, bind).await;
            for _ in 0..10 {
                caller.get("/").await.unwrap();
            }
        }
        for ((app, before), weight) in apps.iter().zip(before).zip([2, 1, 3]) {
            let hits = app.hits() - before;
            // Six times the distance, to stay in whole numbers.
            assert!((hits * 6).abs_diff(100 * weight) <= 6, "{hits} of {weight}");
        }
        proxy.stop().await.unwrap();
    }
}

/// The endpoints that requests with these heads meet.
async fn met(bind: std::net::SocketAddr, heads: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    for head in heads {
        let request = format!("GET {head}\r\nConnection: close\r\n\r\n");
        let answer = exchange(bind, request).await;
        assert_eq!(status(&answer), 200, "{answer}");
        names.push(name(answer.split("\r\n\r\n").nth(1).unwrap()));
    }
    names
}

#[tokio::test]
async fn equal_headers_and_parameters_meet_the_same_endpoint_on_every_connection() {
    let apps: Vec<App> = (0..5).map(|n| App::start(&format!("app{n}"))).collect();
    for (balancer, of) in [
        (
            LoadBalancer::RingHash,
            HashOf::Header {
                name: "x-user".to_owned(),
                rewrite: None,
            },
        ),
        (LoadBalancer::Maglev, HashOf::Query("user".to_owned())),
    ] {
        let bind = free();
        let endpoints = apps.iter().map(|app| endpoint(app.address)).collect();
        let view = to(
            bind,
            balanced(balancer, Balancing::default()),
            endpoints,
            vec![HashPolicy::of(of)],
        );
        let proxy = Proxy::start(view).await;
        let heads: Vec<String> = (0..20)
            .map(|n| format!("/?user=u{n} HTTP/1.1\r\nHost: a\r\nx-user: u{n}"))
            .collect();
        let first = met(bind, &heads).await;
        assert_eq!(first, met(bind, &heads).await, "{balancer:?}");
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(distinct.len() >= 3, "{first:?}");
        proxy.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_without_the_cookie_is_given_one_and_stays_where_it_was() {
    let apps: Vec<App> = (0..5).map(|n| App::start(&format!("app{n}"))).collect();
    let bind = free();
    let endpoints = apps.iter().map(|app| endpoint(app.address)).collect();
    let cookie = HashCookie {
        name: "session".to_owned(),
        ttl: Some(Duration::from_mins(1)),
        path: "/".to_owned(),
        attributes: vec![("SameSite".to_owned(), "Lax".to_owned())],
    };
    let view = to(
        bind,
        balanced(LoadBalancer::RingHash, Balancing::default()),
        endpoints,
        vec![HashPolicy::of(HashOf::Cookie(cookie))],
    );
    let _proxy = Proxy::start(view).await;
    for _ in 0..5 {
        let answer = get(bind, "/").await;
        let given = answer
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "))
            .unwrap_or_else(|| panic!("no cookie: {answer}"));
        let (pair, rest) = given.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/; SameSite=Lax; HttpOnly");
        let first = name(answer.split("\r\n\r\n").nth(1).unwrap());
        let head = format!("/ HTTP/1.1\r\nHost: a\r\nCookie: other=1; {pair}");
        let again = met(bind, &[head.clone(), head]).await;
        assert_eq!(again, [first.clone(), first]);
    }
    // Who shows it is not given another.
    let shown = "GET / HTTP/1.1\r\nHost: a\r\nCookie: session=x\r\nConnection: close\r\n\r\n";
    let answer = exchange(bind, shown).await;
    assert!(!answer.contains("set-cookie"), "{answer}");
}

#[tokio::test]
async fn the_callers_address_decides_whatever_its_port() {
    let apps: Vec<App> = (0..5).map(|n| App::start(&format!("app{n}"))).collect();
    let bind = free();
    let endpoints = apps.iter().map(|app| endpoint(app.address)).collect();
    let view = to(
        bind,
        balanced(LoadBalancer::Maglev, Balancing::default()),
        endpoints,
        vec![HashPolicy::of(HashOf::SourceIp)],
    );
    let _proxy = Proxy::start(view).await;
    let heads = vec!["/ HTTP/1.1\r\nHost: a".to_owned(); 10];
    let names = met(bind, &heads).await;
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
}

#[tokio::test]
async fn the_next_priority_takes_what_the_first_cannot() {
    let apps = [App::start("a"), App::start("b")];
    let bind = free();
    let endpoints = |health| {
        let mut first = endpoint(apps[0].address);
        first.health = health;
        let mut next = endpoint(apps[1].address);
        next.priority = 1;
        vec![first, next]
    };
    let view = |health| to(bind, cluster("app"), endpoints(health), Vec::new());
    let proxy = Proxy::start(view(Health::Healthy)).await;
    for _ in 0..10 {
        assert!(get(bind, "/").await.contains("a GET /"));
    }
    proxy.views.publish(view(Health::Unhealthy));
    eventually(|| async { get(bind, "/").await.contains("b GET /") }).await;
    proxy.views.publish(view(Health::Healthy));
    eventually(|| async { get(bind, "/").await.contains("a GET /") }).await;
}

/// An ejection moves the load of the whole priority, not only of the endpoint.
#[tokio::test]
async fn an_ejected_endpoint_counts_in_the_share_of_its_priority() {
    let (bad, backup) = (App::answering("bad", 503), App::start("backup"));
    let bind = free();
    let mut next = endpoint(backup.address);
    next.priority = 1;
    let cluster = Cluster {
        outlier: Some(meshctl::mesh::cluster::OutlierDetection {
            consecutive_5xx: 3,
            max_ejection_percent: 100,
            ..meshctl::mesh::cluster::OutlierDetection::default()
        }),
        ..cluster("app")
    };
    let view = to(bind, cluster, vec![endpoint(bad.address), next], Vec::new());
    let _proxy = Proxy::start(view).await;
    for _ in 0..3 {
        assert_eq!(status(&get(bind, "/").await), 503);
    }
    for _ in 0..10 {
        assert!(get(bind, "/").await.contains("backup GET /"));
    }
    assert_eq!((bad.hits(), backup.hits()), (3, 10));
}

#[tokio::test]
async fn a_connection_is_closed_after_so_many_requests() {
    let app = App::start("a");
    let bind = free();
    let mut limited = cluster("app");
    limited.limits.max_requests_per_connection = 3;
    let view = to(bind, limited, vec![endpoint(app.address)], Vec::new());
    let _proxy = Proxy::start(view).await;
    let tasks = Tasks::new();
    let mut caller = Caller::new(&tasks, bind).await;
    for _ in 0..9 {
        assert_eq!(caller.get("/").await.unwrap().0, 200);
    }
    assert_eq!(app.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_endpoint_has_a_limit_of_connections_of_its_own() {
    let tasks = Tasks::new();
    // Answers nothing, so that connections stay busy.
    let (socket, silent) = listen();
    let app = App::start("a");
    let bind = free();
    let mut limited = cluster("app");
    limited.limits.max_connections_per_endpoint = 1;
    limited.limits.max_pending_requests = 0;
    let view = to(
        bind,
        limited,
        vec![endpoint(silent), endpoint(app.address)],
        Vec::new(),
    );
    // One worker, so that the two take turns.
    let options = Options {
        workers: 1,
        ..Options::default()
    };
    let _proxy = Proxy::with(options, view, None).await;
    let mut waiting = Vec::new();
    let mut statuses = BTreeMap::new();
    for _ in 0..8 {
        let mut stream = connect(bind).await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first);
        match tokio::time::timeout(Duration::from_millis(500), read).await {
            Ok(read) => {
                read.unwrap();
                *statuses
                    .entry(status(&String::from_utf8_lossy(&first)))
                    .or_insert(0) += 1;
            }
            Err(_) => waiting.push(stream),
        }
    }
    // Four requests were for the silent one: one has its connection, the others overflow.
    assert_eq!(waiting.len(), 1);
    assert_eq!(statuses, BTreeMap::from([(200, 4), (503, 3)]));
    drop((socket, tasks));
}

#[tokio::test]
async fn an_overloaded_cluster_drops_its_share() {
    let app = App::start("a");
    let bind = free();
    let mut view = to(bind, cluster("app"), Vec::new(), Vec::new());
    let assignment = |per_million| Assignment {
        drops: vec![DropOverload {
            category: "throttle".to_owned(),
            per_million,
        }],
        ..Assignment::new(vec![endpoint(app.address)])
    };
    view.endpoints
        .insert("app".to_owned(), assignment(1_000_000).into());
    let proxy = Proxy::start(view.clone()).await;
    let answer = get(bind, "/").await;
    assert!(
        status(&answer) == 503 && answer.ends_with("drop overload"),
        "{answer}"
    );
    view.endpoints
        .insert("app".to_owned(), assignment(0).into());
    proxy.views.publish(view);
    eventually(|| async { status(&get(bind, "/").await) == 200 }).await;
    assert_eq!(app.hits(), 1);
}

#[tokio::test]
async fn another_address_of_an_endpoint_is_called_when_the_first_does_not_answer() {
    let app = App::start("a");
    let bind = free();
    let mut both = endpoint(free());
    both.additional = vec![app.address];
    let view = to(bind, cluster("app"), vec![both], Vec::new());
    let _proxy = Proxy::start(view).await;
    for _ in 0..3 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    assert_eq!(app.hits(), 3);
}

#[tokio::test]
async fn peak_ewma_leaves_a_slow_endpoint_alone() {
    let tasks = Tasks::new();
    let fast = App::start("fast");
    let (socket, slow) = listen();
    let hits = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counted, group) = (std::sync::Arc::clone(&hits), tasks.clone());
    tasks.spawn("slow", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            let counted = std::sync::Arc::clone(&counted);
            group.spawn("slow connection", async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = tokio::io::AsyncReadExt::read(&mut tcp, &mut buffer).await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if tcp.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let bind = free();
    let view = to(
        bind,
        balanced(LoadBalancer::PeakEwma, Balancing::default()),
        vec![endpoint(fast.address), endpoint(slow)],
        Vec::new(),
    );
    let _proxy = Proxy::start(view).await;
    let mut caller = Caller::new(&tasks, bind).await;
    for _ in 0..80 {
        assert_eq!(caller.get("/").await.unwrap().0, 200);
    }
    // It gets a request only when both draws are it: a quarter, rather than half.
    let slow = hits.load(Ordering::Relaxed);
    assert!((5..=34).contains(&slow), "{slow}");
}
