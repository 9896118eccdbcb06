//! Bytes that nobody should send, from outside to the real executable: none of them gets past a policy, makes the
//! application hear what was refused, or keeps others from being served.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mesh::{App, Mesh, service};
use crate::raw_http2::RawHttp2;
use crate::spellings::SPELLINGS;

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin, '/admin/*']}}]
  - to: [{operation: {methods: [DELETE]}}]
  - to: [{operation: {paths: [/members]}}]
    from: [{source: {notPrincipals: ['cluster.local/ns/default/sa/ops']}}]
  - to: [{operation: {paths: [/near]}}]
    from: [{source: {notIpBlocks: [10.9.8.7/32]}}]
";

/// An application that notes the heads that it gets, and answers each; `/broken` by 500.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    heads: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
}

impl Heard {
    pub(crate) fn start(tasks: &Tasks) -> (Self, SocketAddr) {
        let own = Self::default();
        let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, connections) = (own.clone(), tasks.clone());
        tasks.spawn("application", async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let heard = heard.clone();
                connections.spawn("connection", async move {
                    let mut head = Vec::new();
                    while let Ok(byte) = io.read_u8().await {
                        head.push(byte);
                        if !head.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        let text = String::from_utf8_lossy(&head).to_lowercase();
                        head.clear();
                        let broken = text.starts_with("get /broken ");
                        heard.heads.lock().unwrap().push(text);
                        heard.count.fetch_add(1, Ordering::Relaxed);
                        let status = if broken { "500 Broken" } else { "200 OK" };
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
                        if io.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (own, address)
    }

    pub(crate) fn hits(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn last(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap()
    }
}

/// The status of what `bytes` are answered; 0 where the connection is ended instead.
pub(crate) async fn told(to: SocketAddr, bytes: &[u8]) -> u16 {
    let mut stream = connect(to, ConnectOptions::default()).await.unwrap();
    // It may have been closed already.
    let _sent = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ended = tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .expect("the connection did not end");
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1);
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

pub(crate) fn request(line: &str, more: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: web\r\n{more}Connection: close\r\n\r\n").into_bytes()
}

pub(crate) async fn by_http2(to: SocketAddr, fields: &[(&str, &str)]) -> u16 {
    let mut raw = RawHttp2::open(to).await;
    raw.ask(1, fields, true).await;
    raw.status(1).await
}

/// Sends the same frame until the other side has had enough, 200,000 times at most.
async fn is_ended_by(to: SocketAddr, kind: u8, stream: u8, payload: &[u8]) -> bool {
    let mut raw = RawHttp2::open(to).await;
    for _ in 0..200_000 {
        if !raw.frame(kind, 0, stream, payload).await {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_get_past_a_sidecar_or_keep_it_from_serving() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(POLICIES);
    let (heard, at) = Heard::start(&tasks);
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let to = web.inbound(9080);
    assert_eq!(told(to, &request("GET /open", "")).await, 200);
    assert_eq!(heard.hits(), 1);

    // Spellings of what is closed, by both versions.
    let usual = |method, path| {
        [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "web"),
        ]
    };
    for spelling in SPELLINGS {
        let line = format!("GET {spelling}");
        let status = told(to, &request(&line, "")).await;
        assert!(matches!(status, 400 | 403 | 404), "{spelling}: {status}");
        let status = by_http2(to, &usual("GET", spelling)).await;
        assert!(
            matches!(status, 0 | 400 | 403 | 404),
            "{spelling}: {status}"
        );
    }
    // What callers say of themselves.
    for (path, more) in [
        (
            "/members",
            "X-Forwarded-Client-Cert: By=x;Hash=y;URI=spiffe://cluster.local/ns/default/sa/ops\r\n",
        ),
        ("/near", "X-Forwarded-For: 10.9.8.7\r\n"),
        (
            "/near",
            "X-Real-IP: 10.9.8.7\r\nForwarded: for=10.9.8.7\r\n",
        ),
        (
            "/admin",
            "X-Original-URL: /open\r\nX-Rewrite-URL: /open\r\n",
        ),
    ] {
        let line = format!("GET {path}");
        assert_eq!(told(to, &request(&line, more)).await, 403, "{path} {more}");
    }
    let header = [
        &b"PROXY TCP4 10.9.8.7 10.0.0.1 4000 9080\r\n"[..],
        &request("GET /near", ""),
    ];
    assert!(matches!(told(to, &header.concat()).await, 0 | 400 | 403));
    // HTTP/2 that no reader should take.
    for fields in [
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/open"),
            (":path", "/admin"),
            (":authority", "web"),
        ][..],
        &[
            (":method", "GET"),
            (":method", "DELETE"),
            (":scheme", "http"),
            (":path", "/open"),
            (":authority", "web"),
        ],
        &[
            (":scheme", "http"),
            (":path", "/open"),
            (":authority", "web"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "web"),
            ("a", "b"),
            (":path", "/open"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/open"),
            (":authority", "web"),
            ("host", "other"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/open"),
            (":authority", "web"),
            ("Upper", "x"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/open"),
            (":authority", "web"),
            ("connection", "close"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/open"),
            (":authority", "web"),
            ("a", "b\r\nc: d"),
        ],
    ] {
        let status = by_http2(to, fields).await;
        assert!(matches!(status, 0 | 400), "{fields:?}: {status}");
    }
    assert_eq!(heard.hits(), 1, "{}", heard.last());

    // Frames that cost their sender nothing.
    for (what, kind, stream, payload) in [
        ("PING", 6, 0, &[0; 8][..]),
        ("SETTINGS", 4, 0, &[0, 4, 0, 0, 0, 1]),
        ("PRIORITY", 2, 1, &[0; 5]),
        ("WINDOW_UPDATE", 8, 0, &[0, 0, 0, 1]),
    ] {
        assert!(is_ended_by(to, kind, stream, payload).await, "{what}");
    }
    // A TLS hello that never ends.
    let hello = [
        &[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..],
        &vec![0; 64 << 10],
    ]
    .concat();
    assert_eq!(told(to, &hello).await, 0);
    // Others are served, and learn nothing that a caller made up.
    let forged = "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/default/sa/ops\r\n";
    assert_eq!(told(to, &request("GET /open", forged)).await, 200);
    assert!(!heard.last().contains("sa/ops"), "{}", heard.last());
    assert_eq!(heard.hits(), 2);
    drop(mesh);
    tasks.end().await;
}
