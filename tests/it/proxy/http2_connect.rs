//! Connections inside of streams: CONNECT, and WebSocket from either version to either version.

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Response, StatusCode};
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::route::Action;
use meshctl::mesh::{HttpOptions, View};
use meshctl::rt::Tasks;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn view(bind: SocketAddr, app: SocketAddr, protocol: UpstreamProtocol) -> View {
    let mut cluster = cluster("app");
    cluster.protocol = protocol;
    let mut options = HttpOptions::default();
    options.upgrades.0.push("connect".to_owned());
    Views::default()
        .http_with("t", bind, options)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster, vec![endpoint(app)])
        .0
}

/// Sends bytes back until their end.
fn echo(tasks: &Tasks) -> SocketAddr {
    let (socket, address) = listen();
    let group = tasks.clone();
    tasks.spawn("echo", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            group.spawn("echo connection", async move {
                let (mut read, mut write) = tcp.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _ended = write.shutdown().await;
            });
        }
    });
    address
}

/// Takes an upgrade by HTTP/1.1, says hello at once, and sends back what comes.
fn upgrading_app(tasks: &Tasks) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let (socket, address) = listen();
    let (told, heads) = tokio::sync::mpsc::channel(8);
    let group = tasks.clone();
    tasks.spawn("upgrading app", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            let told = told.clone();
            group.spawn("upgraded connection", async move {
                let head = read_until(&mut tcp, "\r\n\r\n").await;
                told.send(head).await.unwrap();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
                );
                tcp.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = tcp.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _ended = write.shutdown().await;
            });
        }
    });
    (address, heads)
}

/// Takes extended CONNECT by HTTP/2 if `enabled`, and sends back what comes.
fn connecting_app(
    tasks: &Tasks,
    enabled: bool,
) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let (socket, address) = listen();
    let (told, heads) = tokio::sync::mpsc::channel(8);
    let group = tasks.clone();
    tasks.spawn("connecting app", async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            let (told, streams) = (told.clone(), group.clone());
            group.spawn("connecting connection", async move {
                let mut builder = h2::server::Builder::new();
                if enabled {
                    builder.enable_connect_protocol();
                }
                let mut connection = builder.handshake::<_, Bytes>(tcp).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let protocol = request.extensions().get::<Protocol>();
                    let protocol = protocol.map(|name| name.as_str().to_owned());
                    let head = format!(
                        "{} {} {protocol:?} {:?}",
                        request.method(),
                        request.uri(),
                        request.headers()
                    );
                    told.send(head).await.unwrap();
                    streams.spawn("connected stream", async move {
                        let response = Response::builder().header("sec-websocket-protocol", "chat");
                        let mut send = respond
                            .send_response(response.body(()).unwrap(), false)
                            .unwrap();
                        let mut body = request.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            send.send_data(data, false).unwrap();
                        }
                        let _ended = send.send_data(Bytes::new(), true);
                    });
                }
            });
        }
    });
    (address, heads)
}

/// Opens a tunnel by HTTP/2; the answer's status and both directions.
async fn open(
    tasks: &Tasks,
    to: SocketAddr,
    request: Request<()>,
) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let (send, connection) = h2::client::handshake(connect(to).await).await.unwrap();
    tasks.spawn("h2 caller", async move {
        let _ended = connection.await;
    });
    let mut send = send.ready().await.unwrap();
    // The setting must have come before it may be used.
    if request.extensions().get::<Protocol>().is_some() {
        eventually(|| {
            let send = send.clone();
            async move { send.is_extended_connect_protocol_enabled() }
        })
        .await;
    }
    let (response, stream) = send.send_request(request, false).unwrap();
    (response.await.unwrap(), stream)
}

async fn take(body: &mut h2::RecvStream, length: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < length {
        let data = tokio::time::timeout(DEADLINE, body.data())
            .await
            .expect("nothing came");
        got.extend_from_slice(&data.expect("ended early").unwrap());
    }
    got
}

fn websocket() -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://app/chat?x")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    request
}

fn upgrade() -> String {
    format!(
        "GET /chat?x HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

#[tokio::test]
async fn connect_over_http2_reaches_the_endpoint_and_ends_on_both_sides() {
    let tasks = Tasks::new();
    let (bind, app) = (free(), echo(&tasks));
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http1)).await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("app:80")
        .body(())
        .unwrap();
    let (response, mut up) = open(&tasks, bind, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut down = response.into_body();
    for text in ["one", "two"] {
        up.send_data(text.into(), false).unwrap();
        assert_eq!(take(&mut down, 3).await, text.as_bytes());
    }
    up.send_data("last".into(), true).unwrap();
    assert_eq!(take(&mut down, 4).await, b"last");
    let end = tokio::time::timeout(DEADLINE, down.data())
        .await
        .expect("no end");
    assert!(end.is_none_or(|data| data.unwrap().is_empty()));
}

#[tokio::test]
async fn a_websocket_by_http2_is_an_upgrade_to_an_application_of_http1() {
    let tasks = Tasks::new();
    let (app, mut heads) = upgrading_app(&tasks);
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Downstream] {
        let bind = free();
        let _proxy = Proxy::start(view(bind, app, protocol)).await;
        let (response, mut up) = open(&tasks, bind, websocket()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(response.headers().get("sec-websocket-accept").is_none());
        let head = heads.recv().await.unwrap();
        assert!(
            head.starts_with("GET /chat?x HTTP/1.1\r\nhost: app\r\n"),
            "{head}"
        );
        for field in [
            "connection: upgrade\r\n",
            "upgrade: websocket\r\n",
            "sec-websocket-key: ",
        ] {
            assert!(head.contains(field), "{head}");
        }
        let mut down = response.into_body();
        // What came right behind the head of the answer is there too.
        assert_eq!(take(&mut down, 5).await, b"hello");
        up.send_data("frame".into(), false).unwrap();
        assert_eq!(take(&mut down, 5).await, b"frame");
    }
}

#[tokio::test]
async fn an_upgrade_by_http1_is_an_extended_connect_to_an_application_of_http2() {
    let tasks = Tasks::new();
    let (app, mut heads) = connecting_app(&tasks, true);
    let bind = free();
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http2)).await;
    let mut tcp = connect(bind).await;
    tcp.write_all(upgrade().as_bytes()).await.unwrap();
    let answer = read_until(&mut tcp, "\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{answer}"
    );
    for field in [
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-protocol: chat\r\n",
    ] {
        assert!(answer.contains(field), "{answer}");
    }
    assert!(
        answer.contains(&format!("sec-websocket-accept: {ACCEPT}\r\n")),
        "{answer}"
    );
    let head = heads.recv().await.unwrap();
    assert!(
        head.starts_with("CONNECT http://app/chat?x Some(\"websocket\")"),
        "{head}"
    );
    assert!(!head.contains("sec-websocket-key"), "{head}");
    tcp.write_all(b"frame").await.unwrap();
    read_until(&mut tcp, "frame").await;
    tcp.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut rest)).await;
    assert_eq!(end.expect("no end").unwrap(), 0);
}

#[tokio::test]
async fn a_websocket_by_http2_to_http2_stays_one() {
    let tasks = Tasks::new();
    let (app, mut heads) = connecting_app(&tasks, true);
    let bind = free();
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http2)).await;
    let (response, mut up) = open(&tasks, bind, websocket()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        heads
            .recv()
            .await
            .unwrap()
            .starts_with("CONNECT http://app/chat?x Some(\"websocket\")")
    );
    let mut down = response.into_body();
    up.send_data("frame".into(), true).unwrap();
    assert_eq!(take(&mut down, 5).await, b"frame");
}

#[tokio::test]
async fn an_endpoint_that_takes_no_extended_connect_is_not_sent_one() {
    let tasks = Tasks::new();
    let (app, mut heads) = connecting_app(&tasks, false);
    let bind = free();
    let _proxy = Proxy::start(view(bind, app, UpstreamProtocol::Http2)).await;
    let mut tcp = connect(bind).await;
    tcp.write_all(upgrade().as_bytes()).await.unwrap();
    let answer = read_until(&mut tcp, "\r\n\r\n").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let tasks = Tasks::new();
    let app = Scripted::start(
        &tasks,
        &["HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"],
    );
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, UpstreamProtocol::Http1)).await;
    let (response, _up) = open(&tasks, bind, websocket()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(take(&mut response.into_body(), 2).await, b"no");
}
