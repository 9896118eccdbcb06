//! Telling what a connection speaks: it reads once, loses nothing and waits for nobody longer than
//! it is told; what is declared is not looked at.

use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::listener::{Direction, HttpCodec, TcpOptions};
use meshctl::mesh::route::Action;
use meshctl::mesh::{ChainAction, HttpOptions, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::support::*;

/// A proxy whose chain does `action` after `timeout`, before an application that speaks HTTP and a
/// socket for everything else.
struct Stand {
    bind: std::net::SocketAddr,
    bytes: TcpListener,
    _app: App,
    _proxy: Proxy,
}

async fn stand(action: ChainAction, timeout: Duration) -> Stand {
    let only_http = matches!(action, ChainAction::Http { .. });
    let app = App::start("a");
    let (bytes, other) = listen();
    let bind = free();
    let mut view = Views::default()
        .listener("l", bind, Direction::Outbound, action)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster("app"), vec![endpoint(app.address)])
        .cluster(cluster("bytes"), vec![endpoint(other)])
        .0;
    let mut listener = Listener::clone(&view.listeners["l"]);
    listener.detect_timeout = timeout;
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    let proxy = Proxy::start(view).await;
    if !only_http {
        // Whoever looked whether the proxy listens is passed on as bytes.
        bytes.accept().await.unwrap();
    }
    Stand {
        bind,
        bytes,
        _app: app,
        _proxy: proxy,
    }
}

fn detect() -> ChainAction {
    ChainAction::Detect {
        routes: "t".to_owned(),
        cluster: "bytes".to_owned(),
        tunnel: None,
        options: Arc::default(),
    }
}

const NEVER: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn http_in_small_pieces_is_http() {
    let stand = stand(detect(), NEVER).await;
    let mut stream = connect(stand.bind).await;
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = read_until(&mut stream, "a GET /slow\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn http2_in_small_pieces_is_http2() {
    let stand = stand(detect(), NEVER).await;
    let mut stream = connect(stand.bind).await;
    stream.set_nodelay(true).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    for piece in preface.chunks(3) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    // A SETTINGS frame comes back.
    let mut frame = [0; 9];
    let read = stream.read_exact(&mut frame);
    tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap();
    assert_eq!((frame[3], &frame[5..]), (4, &[0; 4][..]));
}

#[tokio::test]
async fn other_bytes_arrive_whole_however_they_are_cut() {
    let stand = stand(detect(), NEVER).await;
    for pieces in [
        &[&b"\x00\x01rest"[..]][..],
        &[b"P", b"ING\r\n", b"rest"],
        &[b"GET", b" is no HTTP\r\nrest"],
        &[b"\x16", b"\x02rest"],
        &[b"PRI * HTTP/2.0\r\n", b"\r\nno\r\nrest"],
        &[b"\r\n\r\n\r\n\r\nrest"],
    ] {
        let mut stream = connect(stand.bind).await;
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let (mut other, _) = tokio::time::timeout(DEADLINE, stand.bytes.accept())
            .await
            .unwrap_or_else(|_| panic!("{pieces:?} went elsewhere"))
            .unwrap();
        let all = pieces.concat();
        let mut got = vec![0; all.len()];
        other.read_exact(&mut got).await.unwrap();
        assert_eq!(got, all);
        other.write_all(b"pong").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"pong");
    }
}

#[tokio::test]
async fn servers_that_speak_first_are_heard_after_the_timeout() {
    let stand = stand(detect(), SOON).await;
    for begun in ["", "GE"] {
        let mut stream = connect(stand.bind).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let (mut other, _) = tokio::time::timeout(DEADLINE, stand.bytes.accept())
            .await
            .unwrap()
            .unwrap();
        other.write_all(b"220 hello\r\n").await.unwrap();
        read_until(&mut stream, "220 hello\r\n").await;
        stream.write_all(b"QUIT\r\n").await.unwrap();
        let heard = read_until(&mut other, "QUIT\r\n").await;
        assert_eq!(heard, format!("{begun}QUIT\r\n"));
    }
}

#[tokio::test]
async fn declared_protocols_are_not_looked_at() {
    let tcp = ChainAction::Tcp {
        clusters: vec![("bytes".to_owned(), 1)],
        options: TcpOptions::default(),
    };
    let declared = stand(tcp, NEVER).await;
    let mut stream = connect(declared.bind).await;
    let (mut other, _) = declared.bytes.accept().await.unwrap();
    other.write_all(b"220 hello\r\n").await.unwrap();
    read_until(&mut stream, "220 hello\r\n").await;

    let http = ChainAction::Http {
        routes: "t".to_owned(),
        codec: HttpCodec::Http1,
        options: Arc::new(HttpOptions::default()),
    };
    let declared = stand(http, NEVER).await;
    let answer = exchange(declared.bind, "\x00\x01 no HTTP at all\r\n\r\n").await;
    assert_eq!(status(&answer), 400);
    assert!(get(declared.bind, "/x").await.contains("a GET /x\n"));
}

#[tokio::test]
async fn callers_that_leave_are_not_waited_for() {
    let stand = stand(detect(), NEVER).await;
    for begun in ["", "GE"] {
        let mut stream = connect(stand.bind).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let (mut other, _) = tokio::time::timeout(DEADLINE, stand.bytes.accept())
            .await
            .unwrap()
            .unwrap();
        let mut got = Vec::new();
        let ended = other.read_to_end(&mut got);
        tokio::time::timeout(DEADLINE, ended)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got, begun.as_bytes());
        // What it would have been answered still passes.
        other.write_all(b"late").await.unwrap();
        drop(other);
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"late");
    }
}
