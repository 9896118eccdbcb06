//! HTTP/2 on either side, with trailers and streams that go both ways at once.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use meshctl::mesh::View;
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::route::Action;
use meshctl::rt::Tasks;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::*;

pub(super) async fn caller(tasks: &Tasks, to: SocketAddr) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(connect(to).await).await.unwrap();
    tasks.spawn("h2 caller", async move {
        let _ended = connection.await;
    });
    send.ready().await.unwrap()
}

fn request(path: &str) -> Request<()> {
    Request::post(format!("http://app{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// A gRPC-like server: sends each message back as it comes, and its status in trailers.
pub(super) fn streaming_app(tasks: &Tasks) -> SocketAddr {
    let (socket, address) = listen();
    let group = tasks.clone();
    tasks.spawn("h2 app", async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            let streams = group.clone();
            group.spawn("h2 app connection", async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    streams.spawn("h2 app stream", async move {
                        let status = match request.uri().path() {
                            "/unavailable" => "14",
                            _ => "0",
                        };
                        let te = request.headers().get("te").cloned();
                        let response = Response::builder()
                            .header("content-type", "application/grpc")
                            .header("x-te", te.unwrap_or_else(|| "none".parse().unwrap()))
                            .body(())
                            .unwrap();
                        let mut send = respond.send_response(response, false).unwrap();
                        let mut body = request.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            if send.send_data(data, false).is_err() {
                                return;
                            }
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", status.parse().unwrap());
                        let _sent = send.send_trailers(trailers);
                    });
                }
            });
        }
    });
    address
}

fn view(bind: SocketAddr, app: SocketAddr, protocol: UpstreamProtocol) -> View {
    let mut cluster = cluster("app");
    cluster.protocol = protocol;
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster, vec![endpoint(app)])
        .0
}

#[tokio::test]
async fn messages_go_both_ways_at_once_and_trailers_follow() {
    let tasks = Tasks::new();
    let bind = free();
    let app = streaming_app(&tasks);
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http2)).await;
    let mut send = caller(&tasks, bind).await;
    let (response, mut up) = send.send_request(request("/stream"), false).unwrap();
    up.send_data("one".into(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["x-te"], "trailers");
    let mut down = response.into_body();
    assert_eq!(down.data().await.unwrap().unwrap(), "one");
    // The answer has begun while the request goes on.
    up.send_data("two".into(), false).unwrap();
    assert_eq!(down.data().await.unwrap().unwrap(), "two");
    up.send_data(Bytes::new(), true).unwrap();
    while let Some(data) = down.data().await {
        assert!(data.unwrap().is_empty());
    }
    let trailers = down.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn large_streams_wait_for_their_windows() {
    const TOTAL: usize = 3_000_000;
    let tasks = Tasks::new();
    let bind = free();
    let app = streaming_app(&tasks);
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Downstream)).await;
    let mut send = caller(&tasks, bind).await;
    let (response, mut up) = send.send_request(request("/"), false).unwrap();
    up.send_data(vec![1; TOTAL].into(), true).unwrap();
    let mut down = response.await.unwrap().into_body();
    let mut got = 0;
    while let Some(data) = down.data().await {
        let data = data.unwrap();
        got += data.len();
        down.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(got, TOTAL);
}

#[tokio::test]
async fn versions_are_translated() {
    let app = App::start("a");
    let tasks = Tasks::new();
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, UpstreamProtocol::Http1)).await;
    let mut send = caller(&tasks, bind).await;
    // HTTP/2 in, HTTP/1 out, body of unknown length.
    let ask = Request::post("http://app/x?y").body(()).unwrap();
    let (response, mut up) = send.send_request(ask, false).unwrap();
    up.send_data("body".into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut text = Vec::new();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with("a POST /x?y\n") && text.ends_with("\n\nbody"),
        "{text}"
    );
    assert!(
        text.contains("host: app\n") && text.contains("transfer-encoding: chunked\n"),
        "{text}"
    );

    // HTTP/1 in, HTTP/2 out.
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, UpstreamProtocol::Http2)).await;
    let answer = exchange(
        bind,
        "POST /z HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    assert!(
        answer.contains("a POST http://app/z\n") && answer.ends_with("\n\nabc"),
        "{answer}"
    );
}

#[tokio::test]
async fn trailers_cross_from_one_version_to_the_other() {
    let tasks = Tasks::new();
    let bind = free();
    let app = streaming_app(&tasks);
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http2)).await;
    let answer = exchange(
        bind,
        "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    )
    .await;
    assert!(
        answer.ends_with("2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        "{answer}"
    );
    // And back: trailers of HTTP/1 arrive over HTTP/2.
    let text = Scripted::start(
        &tasks,
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 7\r\n\r\n",
        ],
    );
    let bind = free();
    let _proxy = Proxy::start(view(bind, text.address, UpstreamProtocol::Http1)).await;
    let mut send = caller(&tasks, bind).await;
    let (response, _) = send.send_request(request("/"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "hi");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "7");
}

#[tokio::test]
async fn failures_are_told_in_grpcs_own_words() {
    let tasks = Tasks::new();
    let bind = free();
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster("app"), Vec::new())
        .0;
    let _proxy = Proxy::start(view).await;
    let mut send = caller(&tasks, bind).await;
    let (response, _) = send.send_request(request("/"), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
}

#[tokio::test]
async fn a_caller_that_resets_frees_the_endpoint() {
    let tasks = Tasks::new();
    let (socket, address) = listen();
    let (told, mut hears) = tokio::sync::mpsc::channel(1);
    let group = tasks.clone();
    tasks.spawn("patient app", async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            let told = told.clone();
            group.spawn("patient connection", async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                let mut waiting: Vec<h2::server::SendResponse<Bytes>> = Vec::new();
                loop {
                    tokio::select! {
                        accepted = connection.accept() => match accepted {
                            Some(Ok((_, respond))) => waiting.push(respond),
                            _ => return,
                        },
                        () = std::future::poll_fn(|cx| match waiting.last_mut() {
                            Some(respond) => respond.poll_reset(cx).map(drop),
                            None => std::task::Poll::Pending,
                        }) => {
                            told.send(()).await.unwrap();
                            return;
                        }
                    }
                }
            });
        }
    });
    let bind = free();
    let _proxy = Proxy::start(view(bind, address, UpstreamProtocol::Http2)).await;
    let mut send = caller(&tasks, bind).await;
    let (response, mut up) = send.send_request(request("/"), false).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    up.send_reset(h2::Reason::CANCEL);
    drop(response);
    let heard = tokio::time::timeout(DEADLINE, hears.recv()).await;
    assert_eq!(heard.expect("the endpoint was not told"), Some(()));
}

#[tokio::test]
async fn a_drain_lets_streams_end() {
    let tasks = Tasks::new();
    let bind = free();
    let app = streaming_app(&tasks);
    let mut proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http2)).await;
    let mut send = caller(&tasks, bind).await;
    let (response, mut up) = send.send_request(request("/"), false).unwrap();
    up.send_data("one".into(), false).unwrap();
    let mut down = response.await.unwrap().into_body();
    assert_eq!(down.data().await.unwrap().unwrap(), "one");
    proxy.begin_drain();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    up.send_data("two".into(), true).unwrap();
    assert_eq!(down.data().await.unwrap().unwrap(), "two");
    while let Some(data) = down.data().await {
        assert!(data.unwrap().is_empty());
    }
    assert!(down.trailers().await.unwrap().is_some());
    drop((send, up, down));
    proxy.stop().await.unwrap();
}

/// A peer that drains says goodbye on connections that are in use; whoever comes next goes elsewhere.
#[tokio::test]
async fn a_goodbye_of_the_endpoint_fails_no_request() {
    let tasks = Tasks::new();
    let (socket, address) = listen();
    let group = tasks.clone();
    tasks.spawn("leaving app", async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            group.spawn("leaving connection", async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                let mut served = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                    served += 1;
                    if served == 3 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let bind = free();
    let _proxy = Proxy::start(view(bind, address, UpstreamProtocol::Http2)).await;
    let mut send = caller(&tasks, bind).await;
    for n in 0..50 {
        let ask = Request::post("http://app/").body(()).unwrap();
        let (response, mut up) = send.send_request(ask, false).unwrap();
        up.send_data("body".into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK, "{n}");
        send = send.ready().await.unwrap();
    }
}

/// More streams than one connection may carry open another, and what is configured is what is said.
#[tokio::test]
async fn streams_of_a_connection_are_limited_as_configured() {
    let tasks = Tasks::new();
    let (socket, address) = listen();
    let connections = Arc::new(AtomicUsize::new(0));
    let (counted, group) = (Arc::clone(&connections), tasks.clone());
    tasks.spawn("counting app", async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            group.spawn("counting connection", async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let response = Response::builder().body(()).unwrap();
                    open.push(respond.send_response(response, false).unwrap());
                }
            });
        }
    });
    let bind = free();
    let mut view = view(bind, address, UpstreamProtocol::Http2);
    let cluster = Arc::make_mut(view.clusters.get_mut("app").unwrap());
    cluster.http2.max_concurrent_streams = Some(2);
    let options = meshctl::proxy::Options {
        workers: 1,
        ..meshctl::proxy::Options::default()
    };
    let _proxy = Proxy::with(options, view, None).await;
    let mut send = caller(&tasks, bind).await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        let (response, _) = send.send_request(request("/"), true).unwrap();
        answers.push(response.await.unwrap());
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}
