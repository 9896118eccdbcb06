//! Answers to copies of requests, compared with those that callers got.

use std::net::SocketAddr;
use std::sync::Arc;

use meshctl::mesh::View;
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::route::{Action, Mirror};
use meshctl::mesh::shadow::Comparison;
use meshctl::proxy::Options;
use meshctl::rt::Tasks;

use super::support::*;

const TEA: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n{\"name\":\"tea\",\"price\":1}";
const IN_CHUNKS: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
     9\r\n{\"price\":\r\nf\r\n1,\"name\":\"tea\"}\r\n0\r\n\r\n";
const DEARER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n{\"name\":\"tea\",\"price\":12}";

fn view(bind: SocketAddr, app: SocketAddr, copy: SocketAddr, how: Comparison) -> View {
    let mut action = forward(&[("app", 1)]);
    action.mirrors = vec![Mirror {
        cluster: "copy".to_owned(),
        ..Mirror::default()
    }];
    action.compare = Some(Arc::new(how));
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .cluster(cluster("copy"), vec![endpoint(copy)])
        .0
}

fn how() -> Comparison {
    Comparison {
        service: "shop.default".to_owned(),
        headers: vec!["content-type".to_owned()],
        ..Comparison::default()
    }
}

fn options(admin: SocketAddr) -> Options {
    Options {
        workers: 1,
        admin: Some(admin),
        ..Options::default()
    }
}

async fn counted(admin: SocketAddr, outcome: &str) -> u64 {
    let line = format!(
        "meshctl_shadow_compared_total{{shadowed_service=\"shop.default\",outcome=\"{outcome}\"}} "
    );
    let metrics = own_page(admin, "/stats/prometheus").await;
    let mut lines = metrics.lines();
    let found = lines.find_map(|found| found.strip_prefix(&line));
    found.map_or(0, |value| value.parse().unwrap())
}

/// `body` with its length, as the head says it; and `TEA` is spelled right.
#[test]
fn the_pages_are_as_long_as_they_say() {
    for page in [TEA, DEARER] {
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("Content-Length: {}", body.len())),
            "{page}"
        );
    }
}

#[tokio::test]
async fn the_same_page_is_the_same_however_it_comes() {
    let tasks = Tasks::new();
    // What the caller gets is not changed by being kept, and the order of members says nothing.
    for (page, copied) in [(TEA, IN_CHUNKS), (IN_CHUNKS, TEA), (IN_CHUNKS, IN_CHUNKS)] {
        let app = Scripted::start(&tasks, &[page]);
        let copy = Scripted::start(&tasks, &[copied]);
        let (bind, admin) = (free(), free());
        let view = view(bind, app.address, copy.address, how());
        let _proxy = Proxy::with(options(admin), view, None).await;
        let mut caller = Caller::new(&tasks, bind).await;
        for sent in 1..4 {
            let (status, body) = caller.get("/").await.unwrap();
            assert_eq!(status, 200);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body, serde_json::json!({"name": "tea", "price": 1}));
            eventually(|| async { counted(admin, "same").await == sent }).await;
        }
    }
}

#[tokio::test]
async fn what_differs_is_named_counted_and_shown() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &[TEA]);
    let copy = Scripted::start(&tasks, &[DEARER]);
    let (bind, admin) = (free(), free());
    let view = view(bind, app.address, copy.address, how());
    let _proxy = Proxy::with(options(admin), view, None).await;
    let mut caller = Caller::new(&tasks, bind).await;
    for _ in 0..3 {
        assert_eq!(caller.get("/").await.unwrap().0, 200);
    }
    eventually(|| async { counted(admin, "different").await == 3 }).await;
    let metrics = own_page(admin, "/stats/prometheus").await;
    let line = "meshctl_shadow_differences_total{shadowed_service=\"shop.default\",part=\"body\",at=\"$.price\"} 3\n";
    assert!(metrics.contains(line), "{metrics}");
    let page = own_page(admin, "/shadow").await;
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    let shown: serde_json::Value = serde_json::from_str(body).unwrap();
    let first = &shown["examples"][0];
    assert_eq!(
        (&first["primary"], &first["shadow"]),
        (&"1".into(), &"12".into()),
        "{shown}"
    );
}

#[tokio::test]
async fn what_is_meant_to_differ_does_not_count() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &[TEA]);
    let copy = Scripted::start(&tasks, &[DEARER]);
    let (bind, admin) = (free(), free());
    let ignoring = Comparison {
        ignore: vec!["$.price".parse().unwrap()],
        ..how()
    };
    let view = view(bind, app.address, copy.address, ignoring);
    let _proxy = Proxy::with(options(admin), view, None).await;
    let mut caller = Caller::new(&tasks, bind).await;
    assert_eq!(caller.get("/").await.unwrap().0, 200);
    eventually(|| async { counted(admin, "same").await == 1 }).await;
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_not_compared_and_pass_whole() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &[IN_CHUNKS]);
    let copy = Scripted::start(&tasks, &[DEARER]);
    let (bind, admin) = (free(), free());
    let short = Comparison {
        body_limit: 10,
        ..how()
    };
    let view = view(bind, app.address, copy.address, short);
    let _proxy = Proxy::with(options(admin), view, None).await;
    let mut caller = Caller::new(&tasks, bind).await;
    let (_, body) = caller.get("/").await.unwrap();
    assert_eq!(body, "{\"price\":1,\"name\":\"tea\"}");
    eventually(|| async { counted(admin, "partly").await == 1 }).await;
}

#[tokio::test]
async fn a_copy_without_an_answer_is_told_apart() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &[TEA]);
    let (bind, admin) = (free(), free());
    let view = view(bind, app.address, free(), how());
    let _proxy = Proxy::with(options(admin), view, None).await;
    let mut caller = Caller::new(&tasks, bind).await;
    assert_eq!(caller.get("/").await.unwrap().0, 200);
    eventually(|| async { counted(admin, "unanswered").await == 1 }).await;
}

#[tokio::test]
async fn versions_of_http_and_statuses_are_compared_as_they_mean() {
    let tasks = Tasks::new();
    let app = App::start("shop");
    let copy = App::answering("shop", 500);
    let (bind, admin) = (free(), free());
    let mut view = view(bind, app.address, copy.address, how());
    let mut spoken = cluster("copy");
    spoken.protocol = UpstreamProtocol::Http2;
    view.clusters.insert("copy".to_owned(), Arc::new(spoken));
    let _proxy = Proxy::with(options(admin), view, None).await;
    let mut caller = Caller::new(&tasks, bind).await;
    assert_eq!(caller.get("/").await.unwrap().0, 200);
    eventually(|| async { counted(admin, "different").await == 1 }).await;
    let metrics = own_page(admin, "/stats/prometheus").await;
    assert!(
        metrics.contains("part=\"status\",at=\"\"} 1\n"),
        "{metrics}"
    );
}
