//! Callers who leave while somebody outside is asked about their request: nobody goes on to answer it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::attacks::Heard;
use crate::mesh::{App, Mesh, program, service};
use crate::raw_http2::RawHttp2;
use crate::stand::until;

/// What an authority is asked that never answers (but about `/asked/later`, by HTTP, once it may), and what becomes
/// of its questions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    asked: usize,
    given_up: usize,
    may_answer: bool,
}

type Shared = Arc<Mutex<Seen>>;

/// A server that counts each question and answers none.
fn authority(tasks: &Tasks, by_grpc: bool) -> (Shared, SocketAddr) {
    let seen = Shared::default();
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, shared) = (tasks.clone(), Arc::clone(&seen));
    tasks.spawn("authority", async move {
        while let Ok((io, _)) = listener.accept().await {
            let seen = Arc::clone(&shared);
            connections.spawn("questions", async move {
                if by_grpc {
                    frames(io, &seen).await;
                } else {
                    bytes(io, &seen).await;
                }
            });
        }
    });
    (seen, address)
}

/// A connection of HTTP/1.1 takes one question; where it ends, that was given up.
async fn bytes(mut io: TcpStream, seen: &Shared) {
    let mut head = Vec::new();
    let mut asked = false;
    while let Ok(byte) = io.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            asked = true;
            seen.lock().unwrap().asked += 1;
            if head.starts_with(b"GET /asked/later ") {
                until("leave to answer", 30, || {
                    seen.lock().unwrap().may_answer.then_some(())
                })
                .await;
                let yes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                return io.write_all(yes).await.unwrap();
            }
        }
    }
    if asked {
        seen.lock().unwrap().given_up += 1;
    }
}

/// One of HTTP/2 takes many: a head asks, and RST_STREAM gives up.
async fn frames(mut io: TcpStream, seen: &Shared) {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut preface = [0; 24];
    if io.read_exact(&mut preface).await.is_err() || io.write_all(&settings).await.is_err() {
        return;
    }
    let mut head = [0; 9];
    while io.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if io.read_exact(&mut payload).await.is_err() {
            return;
        }
        match (head[3], head[4]) {
            (1, _) => seen.lock().unwrap().asked += 1,
            (3, _) => seen.lock().unwrap().given_up += 1,
            (4, 0) => {
                let acknowledged = [0, 0, 0, 4, 1, 0, 0, 0, 0];
                if io.write_all(&acknowledged).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// Two authorities beside the mesh, whom a caller's patience ends before ours does.
fn manifests(grpc: u16, http: u16) -> String {
    let entry = |name: &str, protocol: &str, port: u16| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example.com]
  resolution: STATIC
  ports: [{{number: 80, name: p, protocol: {protocol}, targetPort: {port}}}]
  endpoints: [{{address: 127.0.0.1}}]
---"
        )
    };
    let ask = |name: &str| {
        format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  action: CUSTOM
  provider: {{name: by-{name}}}
  rules: [{{to: [{{operation: {{paths: ['/asked*']}}}}]}}]
---"
        )
    };
    let all = [
        entry("grpc", "GRPC", grpc),
        entry("http", "HTTP", http),
        ask("grpc"),
        ask("http"),
    ];
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: meshctl-system}}
data:
  mesh: |
    extensionProviders:
    - name: by-grpc
      envoyExtAuthzGrpc: {{service: grpc.example.com, port: 80, timeout: 600s}}
    - name: by-http
      envoyExtAuthzHttp: {{service: http.example.com, port: 80, timeout: 600s}}
---{}",
        all.concat()
    )
}

/// Waits until a request is asked about, after what was seen `before`.
async fn asked(seen: &Shared, before: &Seen) {
    until("the question", 20, || {
        (seen.lock().unwrap().asked > before.asked).then_some(())
    })
    .await;
    assert_eq!(seen.lock().unwrap().given_up, before.given_up);
}

/// A caller that ends its own half, and has been asked about.
async fn half_closed(to: SocketAddr, path: &str, seen: &Shared) -> TcpStream {
    let before = seen.lock().unwrap().clone();
    let mut io = connect(to, ConnectOptions::default()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    asked(seen, &before).await;
    io
}

/// Who ends its own half alone may read the answer (RFC 9112 says nothing against it), and is waited for until it
/// leaves altogether.
async fn after_half_a_close(to: SocketAddr, seen: &Shared) {
    let before = seen.lock().unwrap().clone();
    let io = half_closed(to, "/asked", seen).await;
    io.set_zero_linger().unwrap();
    drop(io);
    until("the end of the question, for a reset", 30, || {
        (seen.lock().unwrap().given_up > before.given_up).then_some(())
    })
    .await;
    // Who has closed looks the same until its system is asked, which answers for it for a second here
    // (TCP_LINGER2), else for a minute.
    let before = seen.lock().unwrap().clone();
    let script = "import socket, sys\n\
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)\n\
        s.sendall(b'GET /asked HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n')\n\
        s.close()\n";
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let (good, said) = program("python3", &["-c", script, &ip, &port]);
    assert!(good, "{said}");
    asked(seen, &before).await;
    until("the end of the question, for a close", 45, || {
        (seen.lock().unwrap().given_up > before.given_up).then_some(())
    })
    .await;
}

async fn waits_for_its_answer(to: SocketAddr, seen: &Shared) {
    let before = seen.lock().unwrap().clone();
    let mut io = half_closed(to, "/asked/later", seen).await;
    seen.lock().unwrap().may_answer = true;
    let mut answer = Vec::new();
    let read = io.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    read.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(seen.lock().unwrap().given_up, before.given_up);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_any_longer_for_a_caller_who_has_left() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let (of_grpc, grpc) = authority(&tasks, true);
    let (of_http, http) = authority(&tasks, false);
    mesh.apply(&service("grpc", &[("http", 9080)]));
    mesh.apply(&service("http", &[("http", 9080)]));
    mesh.apply(&manifests(grpc.port(), http.port()));
    let (heard, at) = Heard::start(&tasks);
    for (name, seen) in [("grpc", &of_grpc), ("http", &of_http)] {
        let app = App {
            service: name,
            version: "v1",
            port: 9080,
            at,
            flags: &[],
        };
        let sidecar = mesh.sidecar(&app).await;
        let to = sidecar.inbound(9080);
        for by in [
            "a broken connection",
            "a reset stream",
            "a closed connection of streams",
        ] {
            let before = seen.lock().unwrap().clone();
            let fields = [
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/asked"),
                (":authority", "web"),
            ];
            // What is left open stays until the question is seen to be given up.
            let mut kept = None;
            if by == "a broken connection" {
                let mut io = connect(to, ConnectOptions::default()).await.unwrap();
                let head = b"GET /asked HTTP/1.1\r\nHost: web\r\n\r\n";
                io.write_all(head).await.unwrap();
                asked(seen, &before).await;
                // Ending one's own half alone is not leaving: some callers do and wait for the answer.
                io.set_zero_linger().unwrap();
                drop(io);
            } else {
                let mut raw = RawHttp2::open(to).await;
                raw.ask(1, &fields, true).await;
                asked(seen, &before).await;
                if by == "a reset stream" {
                    assert!(raw.frame(3, 0, 1, &[0, 0, 0, 8]).await);
                    kept = Some(raw);
                }
            }
            until(&format!("{name} to be told of {by}"), 30, || {
                let now = seen.lock().unwrap().clone();
                (now.given_up > before.given_up).then_some(())
            })
            .await;
            drop(kept);
        }
        after_half_a_close(to, seen).await;
        assert_eq!(
            *seen.lock().unwrap(),
            Seen {
                asked: 5,
                given_up: 5,
                may_answer: false,
            },
            "{name}"
        );
        if name == "http" {
            waits_for_its_answer(to, seen).await;
            assert!(
                heard.last().starts_with("get /asked/later "),
                "{}",
                heard.last()
            );
        }
        // The sidecar serves others, and of all that the application has heard nothing.
        let before = heard.hits();
        let open = crate::attacks::request("GET /open", "");
        let others = crate::attacks::told(to, &open);
        let status = tokio::time::timeout(Duration::from_secs(20), others).await;
        assert_eq!(status.unwrap(), 200);
        assert_eq!(heard.hits(), before + 1);
        assert!(heard.last().starts_with("get /open "), "{}", heard.last());
    }
    assert_eq!(heard.hits(), 3);
    drop(mesh);
    tasks.end().await;
}
