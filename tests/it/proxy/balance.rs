//! Who is called how often, while nothing changes and while everything does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use meshctl::mesh::route::Action;
use meshctl::rt::Tasks;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_is_exact_over_all_workers() {
    let (a, b) = (App::start("a"), App::start("b"));
    let bind = free();
    let view = Views::default()
        .http("t", bind)
        .routes(
            "t",
            vec![route(Action::Forward(forward(&[("a", 90), ("b", 10)])))],
        )
        .cluster(cluster("a"), vec![endpoint(a.address)])
        .cluster(cluster("b"), vec![endpoint(b.address)])
        .0;
    let proxy = Proxy::start(view).await;
    let tasks = Tasks::new();
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut caller = Caller::new(&tasks, bind).await;
        callers.push(async move {
            for _ in 0..250 {
                assert_eq!(caller.get("/").await.unwrap().0, 200);
            }
        });
    }
    futures_util::future::join_all(callers).await;
    assert_eq!((a.hits(), b.hits()), (1800, 200));
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn round_robin_is_exact_by_weight() {
    let apps = [App::start("a"), App::start("b"), App::start("c")];
    let bind = free();
    let endpoints = apps
        .iter()
        .zip([1, 2, 5])
        .map(|(app, weight)| {
            let mut endpoint = endpoint(app.address);
            endpoint.weight = weight;
            endpoint
        })
        .collect();
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster("app"), endpoints)
        .0;
    let _proxy = Proxy::start(view).await;
    let tasks = Tasks::new();
    let mut caller = Caller::new(&tasks, bind).await;
    for _ in 0..80 {
        caller.get("/").await.unwrap();
    }
    assert_eq!(apps.each_ref().map(App::hits), [10, 20, 50]);
}

/// Weights, endpoints and listeners change fifty times under load; not one request notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_view_changes() {
    let apps = Arc::new([App::start("a"), App::start("b"), App::start("c")]);
    let (bind, other) = (free(), free());
    let make = |n: u32| {
        let mut endpoints = vec![endpoint(apps[0].address)];
        if !n.is_multiple_of(3) {
            endpoints.push(endpoint(apps[2].address));
        }
        let weight = n * 7 % 100 + 1;
        let mut views = Views::default()
            .http("t", bind)
            .routes(
                "t",
                vec![route(Action::Forward(forward(&[
                    ("a", weight),
                    ("b", 100),
                ])))],
            )
            .cluster(cluster("a"), endpoints)
            .cluster(cluster("b"), vec![endpoint(apps[1].address)]);
        if !n.is_multiple_of(2) {
            views = views.http("other", other);
        }
        views.0
    };
    let proxy = Proxy::start(make(0)).await;
    let tasks = Tasks::new();
    let go_on = Arc::new(AtomicBool::new(true));
    let done = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for _ in 0..4 {
        let mut caller = Caller::new(&tasks, bind).await;
        let (go_on, done) = (Arc::clone(&go_on), Arc::clone(&done));
        callers.push(async move {
            while go_on.load(Ordering::Relaxed) {
                let (status, body) = caller.get("/").await.expect("a request failed");
                assert_eq!(status, 200, "{body}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let change = async {
        for n in 1..=50 {
            let before = done.load(Ordering::Relaxed);
            proxy.views.publish(make(n));
            eventually(|| async { done.load(Ordering::Relaxed) > before + 20 }).await;
        }
        go_on.store(false, Ordering::Relaxed);
    };
    futures_util::future::join(change, futures_util::future::join_all(callers)).await;
    assert!(done.load(Ordering::Relaxed) >= 1000);
    assert!(apps.iter().all(|app| app.hits() > 0));
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_listener_that_goes_takes_its_connections_and_no_others() {
    let app = App::start("a");
    let (bind, other) = (free(), free());
    let both = Views(simple(bind, app.address, |_| {})).http("t2", other).0;
    let mut both = both;
    both.routes
        .insert("t2".to_owned(), both.routes["t"].clone());
    let proxy = Proxy::start(both).await;
    let tasks = Tasks::new();
    let mut stays = Caller::new(&tasks, bind).await;
    let mut goes = Caller::new(&tasks, other).await;
    assert_eq!(stays.get("/").await.unwrap().0, 200);
    assert_eq!(goes.get("/").await.unwrap().0, 200);
    proxy.views.publish(simple(bind, app.address, |_| {}));
    eventually(|| async { !reachable(other).await }).await;
    eventually(|| async { goes.is_closed() }).await;
    assert_eq!(stays.get("/").await.unwrap().0, 200);
    assert!(!stays.is_closed());
}
