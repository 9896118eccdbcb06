//! Answers that are compressed on their way.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use meshctl::mesh::View;
use meshctl::mesh::filter::{Compressor, HttpFilter};
use meshctl::mesh::listener::{ChainAction, Direction, HttpCodec};
use meshctl::mesh::route::Action;
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

fn view(bind: SocketAddr, app: SocketAddr, how: Compressor, route_: Option<Compressor>) -> View {
    let chain = ChainAction::Http {
        routes: "t".to_owned(),
        codec: HttpCodec::Auto,
        options: Arc::default(),
    };
    let mut action = forward(&[("app", 1)]);
    let own = route_.map(|how| HttpFilter::Compressor(Arc::new(how)));
    action.filters.extend(own);
    let mut view = Views::default()
        .listener("t", bind, Direction::Outbound, chain)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .0;
    let mut listener = (*view.listeners["t"]).clone();
    listener.chains[0].filters = vec![HttpFilter::Compressor(Arc::new(how))];
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    view
}

fn weak() -> Compressor {
    Compressor {
        weaken_etag: true,
        ..Compressor::default()
    }
}

fn plain(packed: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut text)
        .unwrap();
    text
}

/// Head and body of the answer to a request with these fields, the body as it came without chunks.
async fn ask(to: SocketAddr, line: &str, fields: &str) -> (String, Vec<u8>) {
    let mut stream = connect(to).await;
    let request = format!("{line}\r\nHost: app\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..at].to_vec())
        .unwrap()
        .to_ascii_lowercase();
    let mut rest = &answer[at + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

const TAKES: &str = "Accept-Encoding: gzip, br\r\n";

#[tokio::test]
async fn a_long_text_is_compressed_for_who_takes_it() {
    let tasks = Tasks::new();
    let text = "hello world. ".repeat(40);
    let answer: &'static str = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nETag: \"v1\"\r\nVary: Origin\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .leak();
    let app = Scripted::start(&tasks, &[answer]);
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, weak(), None)).await;
    let (head, body) = ask(bind, "GET / HTTP/1.1", TAKES).await;
    for field in [
        "content-encoding: gzip",
        "etag: w/\"v1\"",
        "vary: origin",
        "vary: accept-encoding",
        "transfer-encoding: chunked",
    ] {
        assert!(head.contains(field), "{head}");
    }
    assert!(!head.contains("content-length"), "{head}");
    assert!(body.len() < text.len() / 2);
    assert_eq!(plain(&body), text);
    // Caches are told though this one takes it as it is.
    let (head, body) = ask(bind, "GET / HTTP/1.1", "").await;
    assert!(head.contains("vary: accept-encoding"), "{head}");
    assert!(
        head.contains("etag: \"v1\"") && !head.contains("content-encoding"),
        "{head}"
    );
    assert_eq!(body, text.as_bytes());
    // To HTTP/1.0 the end of the connection is the end.
    let (head, body) = ask(bind, "GET / HTTP/1.0", TAKES).await;
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(plain(&body), text);
    assert!(
        app.heads()[0]
            .to_ascii_lowercase()
            .contains("accept-encoding: gzip, br")
    );
    tasks.end().await;
}

#[tokio::test]
async fn what_must_not_change_stays() {
    let tasks = Tasks::new();
    let long = "x".repeat(100);
    let of = |fields: &str| -> &'static str {
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 100\r\n\r\n{long}").leak()
    };
    for answer in [
        of("Content-Type: image/png\r\n"),
        of("Content-Type: text/html\r\nContent-Encoding: br\r\n"),
        of("Content-Type: text/html\r\nCache-Control: no-transform\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nshort",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nContent-Type: text/html\r\n\r\n",
    ] {
        let app = Scripted::start(&tasks, &[answer]);
        let bind = free();
        let _proxy = Proxy::start(view(bind, app.address, weak(), None)).await;
        let (head, body) = ask(bind, "GET / HTTP/1.1", TAKES).await;
        let (_, came) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(String::from_utf8_lossy(&body), came, "{head}");
        assert!(!head.contains("gzip"), "{head}");
        assert!(!head.contains("w/"), "{head}");
    }
    // Nor does what a route keeps out.
    let app = Scripted::start(&tasks, &[of("Content-Type: text/html\r\n")]);
    let bind = free();
    let kept = view(bind, app.address, weak(), Some(Compressor::off()));
    let _proxy = Proxy::start(kept).await;
    let (head, body) = ask(bind, "GET / HTTP/1.1", TAKES).await;
    assert_eq!(body.len(), 100, "{head}");
    assert!(!head.contains("vary"), "{head}");
    // The answer to a HEAD says what would be, and has no body.
    let app = Scripted::start(
        &tasks,
        &["HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100\r\n\r\n"],
    );
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, weak(), None)).await;
    let (head, body) = ask(bind, "HEAD / HTTP/1.1", TAKES).await;
    assert!(body.is_empty() && !head.contains("gzip"), "{head}");
    assert!(head.contains("vary: accept-encoding"), "{head}");
    tasks.end().await;
}

/// An event is there for the caller when it has come, though the answer goes on.
#[tokio::test]
async fn events_are_not_held_back() {
    let tasks = Tasks::new();
    let (socket, address) = listen();
    let (more, mut said) = tokio::sync::mpsc::channel::<&str>(1);
    tasks.spawn("events", async move {
        let (mut tcp, _) = socket.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _count = tcp.read(&mut buffer).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        tcp.write_all(head.as_bytes()).await.unwrap();
        while let Some(event) = said.recv().await {
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            tcp.write_all(chunk.as_bytes()).await.unwrap();
        }
        tcp.write_all(b"0\r\n\r\n").await.unwrap();
    });
    let bind = free();
    let how = Compressor {
        content_types: vec!["text/event-stream".to_owned()],
        ..Compressor::default()
    };
    let _proxy = Proxy::start(view(bind, address, how, None)).await;
    let (send, connection) = h2::client::handshake(connect(bind).await).await.unwrap();
    tasks.spawn("caller", async move {
        let _ended = connection.await;
    });
    let mut send = send.ready().await.unwrap();
    let request = Request::get("http://app/events")
        .header("accept-encoding", "gzip")
        .body(())
        .unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    more.send("data: 1\n\n").await.unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut body = response.into_body();
    let mut packed = Vec::new();
    for (at, event) in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"]
        .into_iter()
        .enumerate()
    {
        if at > 0 {
            more.send(event).await.unwrap();
        }
        let wanted = (at + 1) * event.len();
        let read = async {
            loop {
                let mut text = vec![0; wanted];
                if flate2::read::GzDecoder::new(packed.as_slice())
                    .read_exact(&mut text)
                    .is_ok()
                {
                    return text;
                }
                let data = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                packed.extend_from_slice(&data);
            }
        };
        let text = tokio::time::timeout(DEADLINE, read).await.unwrap();
        assert!(text.ends_with(event.as_bytes()));
    }
    drop(more);
    while let Some(data) = body.data().await {
        packed.extend_from_slice(&data.unwrap());
    }
    assert_eq!(plain(&packed), "data: 1\n\ndata: 2\n\ndata: 3\n\n");
    tasks.end().await;
}
