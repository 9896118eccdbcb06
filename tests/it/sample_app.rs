//! The sample application over real sockets.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::local::app::{Options, serve};
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use serde_json::Value;

/// Starts one program with these variables and gives its address.
fn start(tasks: &Tasks, name: &str, version: &str, variables: &[(&str, String)]) -> SocketAddr {
    let options = Options::new(name, Some(version), |key| {
        let found = variables.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| value.clone())
    })
    .unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let end = tasks.token();
    tasks.spawn("app", async move {
        serve(listener, options, async move { end.cancelled().await }).await;
    });
    address
}

async fn get(to: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> (u16, Bytes) {
    let stream = connect(to, ConnectOptions::default()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let tasks = Tasks::new();
    tasks.spawn("client", async move {
        connection.await.unwrap();
    });
    let mut request = Request::get(path).header("host", to.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, body)
}

async fn json(to: SocketAddr, path: &str) -> Value {
    let (status, body) = get(to, path, &[]).await;
    assert_eq!(status, 200, "{path}: {body:?}");
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn the_page_is_made_of_four_services_and_survives_losing_one() {
    let tasks = Tasks::new();
    let url = |address: SocketAddr| format!("http://{address}");
    let ratings = start(&tasks, "ratings", "v1", &[]);
    let details = start(&tasks, "details", "v1", &[]);
    let reviews = start(
        &tasks,
        "reviews",
        "v3",
        &[
            ("RATINGS_URL", url(ratings)),
            ("POD_NAME", "reviews-v3-x".to_owned()),
        ],
    );
    let neighbours = [("DETAILS_URL", url(details)), ("REVIEWS_URL", url(reviews))];
    let page = start(&tasks, "productpage", "v1", &neighbours);
    let product = json(page, "/api/v1/products/0").await;
    assert_eq!(product["reviews"]["podname"], "reviews-v3-x");
    assert_eq!(product["reviews"]["version"], "v3");
    let rating = &product["reviews"]["reviews"][0]["rating"];
    assert_eq!(
        (&rating["stars"], &rating["color"]),
        (&5.into(), &"red".into())
    );
    assert_eq!(product["details"]["author"], "William Shakespeare");
    let (status, html) = get(page, "/productpage", &[]).await;
    let html = String::from_utf8(html.to_vec()).unwrap();
    assert_eq!(status, 200);
    assert!(
        html.contains("★★★★☆") && html.contains("reviews v3 by reviews-v3-x"),
        "{html}"
    );

    // Without reviews the page is still a page, and the API says what failed.
    let alone = [
        ("DETAILS_URL", url(details)),
        ("REVIEWS_URL", "http://127.0.0.1:1".to_owned()),
    ];
    let page = start(&tasks, "productpage", "v1", &alone);
    let (status, html) = get(page, "/productpage", &[]).await;
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&html).contains("Sorry, reviews are not available"));
    let (status, body) = get(page, "/api/v1/products/0", &[]).await;
    assert_eq!(status, 503, "{body:?}");
    tasks.end().await;
}

#[tokio::test]
async fn the_versions_of_reviews_differ_in_their_stars() {
    let tasks = Tasks::new();
    let ratings = start(&tasks, "ratings", "v1", &[]);
    for (version, colour) in [("v1", None), ("v2", Some("black")), ("v3", Some("red"))] {
        let url = [("RATINGS_URL", format!("http://{ratings}"))];
        let reviews = start(&tasks, "reviews", version, &url);
        let answer = json(reviews, "/reviews/0").await;
        assert_eq!(answer["reviews"][1]["rating"]["color"].as_str(), colour);
        assert_eq!(answer["id"], "0");
    }
    tasks.end().await;
}

#[tokio::test]
async fn calls_go_through_the_proxy_with_the_headers_of_the_trace() {
    let tasks = Tasks::new();
    // The echo server stands in for a proxy: it shows the request as it came.
    let proxy = start(&tasks, "echo", "v1", &[("POD_NAME", "proxy".to_owned())]);
    let page = start(
        &tasks,
        "productpage",
        "v1",
        &[("HTTP_PROXY", format!("http://{proxy}"))],
    );
    let sent = [
        ("x-request-id", "r-1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("b3", "1-2-1"),
        ("x-secret", "stays here"),
    ];
    let (status, body) = get(page, "/api/v1/products/0", &sent).await;
    assert_eq!(status, 200);
    let seen: Value = serde_json::from_slice(&body).unwrap();
    let seen = &seen["details"];
    assert_eq!(seen["authority"], "details:9080");
    assert_eq!(seen["path"], "/details/0");
    assert_eq!(seen["headers"]["host"], "details:9080");
    assert_eq!(seen["headers"]["x-request-id"], "r-1");
    assert_eq!(seen["headers"]["b3"], "1-2-1");
    assert!(seen["headers"]["x-secret"].is_null());
    tasks.end().await;
}

#[tokio::test]
async fn echo_speaks_http2_in_clear_and_returns_trailers() {
    let tasks = Tasks::new();
    let echo = start(&tasks, "echo", "v7", &[]);
    let stream = connect(echo, ConnectOptions::default()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tasks.spawn("client", async move {
        connection.await.unwrap();
    });
    for path in ["/any?q=1", "/stream"] {
        let trailers: HeaderMap = [(
            "grpc-status".parse().unwrap(),
            HeaderValue::from_static("0"),
        )]
        .into_iter()
        .collect();
        let body = Full::new(Bytes::from_static(b"hello"))
            .with_trailers(std::future::ready(Some(Ok(trailers))));
        let request = Request::post(format!("http://{echo}{path}"))
            .body(body)
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        let bytes = collected.to_bytes();
        if path == "/stream" {
            assert_eq!(&bytes[..], b"hello");
        } else {
            let seen: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(seen["protocol"], "HTTP/2.0");
            assert_eq!(seen["method"], "POST");
            assert_eq!(seen["query"], "q=1");
            assert_eq!(seen["body"], "hello");
            assert_eq!(seen["trailers"]["grpc-status"], "0");
            assert_eq!(seen["version"], "v7");
        }
    }
    drop(sender);
    tasks.end().await;
}

#[tokio::test]
async fn test_paths_answer_as_asked_or_say_what_is_wrong() {
    let tasks = Tasks::new();
    let details = start(&tasks, "details", "v1", &[]);
    for (path, expected) in [
        ("/health", 200),
        ("/status/503", 503),
        ("/status/99", 400),
        ("/slow?ms=1", 200),
        ("/slow?ms=soon", 400),
        ("/details/x", 404),
        ("/nothing", 404),
    ] {
        assert_eq!(get(details, path, &[]).await.0, expected, "{path}");
    }
    tasks.end().await;
}
