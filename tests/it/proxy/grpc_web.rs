//! gRPC for browsers: as bytes and as text, over either version of HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meshctl::mesh::View;
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::filter::{Abort, AbortWith, Fault, HttpFilter};
use meshctl::mesh::listener::{ChainAction, Direction, HttpCodec};
use meshctl::mesh::route::{Action, Share};
use meshctl::rt::Tasks;

use super::http2::{caller, streaming_app};
use super::support::*;

fn view(bind: SocketAddr, app: SocketAddr, fault: Option<Fault>) -> View {
    let chain = ChainAction::Http {
        routes: "t".to_owned(),
        codec: HttpCodec::Auto,
        options: Arc::default(),
    };
    let mut action = forward(&[("app", 1)]);
    let own = fault.map(|fault| HttpFilter::Fault(Arc::new(fault)));
    action.filters.extend(own);
    let mut cluster = cluster("app");
    cluster.protocol = UpstreamProtocol::Http2;
    let mut view = Views::default()
        .listener("t", bind, Direction::Outbound, chain)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster, vec![endpoint(app)])
        .0;
    let mut listener = (*view.listeners["t"]).clone();
    listener.chains[0].filters = vec![HttpFilter::GrpcWeb, HttpFilter::Fault(Arc::default())];
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    view
}

/// A message as gRPC frames it.
fn message(text: &str) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The frames of a body: flag and content.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
        frames.push((*flag, rest[..length].to_vec()));
        body = &rest[length..];
    }
    assert!(body.is_empty());
    frames
}

async fn call(
    to: SocketAddr,
    kind: &str,
    accept: &str,
    body: Vec<u8>,
) -> (http::response::Parts, Vec<u8>) {
    let tasks = Tasks::new();
    let io = TokioIo::new(connect(to).await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tasks.spawn("browser", async move {
        let _ended = connection.await;
    });
    let request = Request::post("/a.B/C")
        .header("host", "app")
        .header("content-type", kind)
        .header("accept", accept)
        .header("x-grpc-web", "1")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = async {
        let (head, body) = send.send_request(request).await.unwrap().into_parts();
        (head, body.collect().await.unwrap().to_bytes().to_vec())
    };
    tokio::time::timeout(DEADLINE, answer).await.unwrap()
}

#[tokio::test]
async fn calls_as_bytes_end_with_a_frame_of_trailers() {
    let tasks = Tasks::new();
    let bind = free();
    let _proxy = Proxy::start(view(bind, streaming_app(&tasks), None)).await;
    let sent = message("hello");
    let (head, body) = call(bind, "application/grpc-web+proto", "*/*", sent.clone()).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "application/grpc-web+proto");
    assert_eq!(head.headers["x-te"], "trailers");
    assert!(head.headers.get("content-length").is_none());
    let expected = [
        (0, b"hello".to_vec()),
        (0x80, b"grpc-status:0\r\n".to_vec()),
    ];
    assert_eq!(frames(&body), expected);
    // What is gRPC already stays so, with trailers of its own.
    let mut client = caller(&tasks, bind).await;
    let request = Request::post("http://app/a.B/C")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(sent.into(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    tasks.end().await;
}

#[tokio::test]
async fn calls_as_text_are_answered_as_text() {
    let tasks = Tasks::new();
    let bind = free();
    let _proxy = Proxy::start(view(bind, streaming_app(&tasks), None)).await;
    let kind = "application/grpc-web-text";
    // Two messages, each padded by itself.
    let sent = [
        STANDARD.encode(message("one")),
        STANDARD.encode(message("three")),
    ]
    .concat();
    let (head, body) = call(bind, kind, kind, sent.into_bytes()).await;
    assert_eq!(
        head.headers["content-type"],
        "application/grpc-web-text+proto"
    );
    let mut bytes = Vec::new();
    for group in body.chunks(4) {
        bytes.extend_from_slice(&STANDARD.decode(group).unwrap());
    }
    let all = frames(&bytes);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!((&*all[0].1, &*all[1].1), (&b"one"[..], &b"three"[..]));
    assert_eq!(all[2], (0x80, b"grpc-status:0\r\n".to_vec()));
    // Text that is none is the caller's mistake.
    let (head, _) = call(bind, kind, kind, b"no base64!".to_vec()).await;
    let status = head
        .headers
        .get("grpc-status")
        .map(|value| value.to_str().unwrap());
    assert_eq!(
        (head.status.as_u16(), status),
        (200, Some("13")),
        "{head:?}"
    );
    tasks.end().await;
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_for_browsers_too() {
    let tasks = Tasks::new();
    let bind = free();
    let fault = Fault {
        abort: Some(Abort {
            with: AbortWith::Grpc(8),
            share: Share::default(),
        }),
        ..Fault::default()
    };
    let view = view(bind, streaming_app(&tasks), Some(fault));
    let _proxy = Proxy::start(view).await;
    let (head, body) = call(bind, "application/grpc-web", "*/*", message("x")).await;
    assert_eq!(head.headers["content-type"], "application/grpc-web+proto");
    assert_eq!(head.headers["grpc-status"], "8");
    assert!(body.is_empty());
    tasks.end().await;
}
