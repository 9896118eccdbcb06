//! A proxy that is replaced by another process, again and again, while it carries HTTP/1.1, HTTP/2
//! and WebSocket: no request fails and no connection is reset.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::mesh::{App, Mesh, STRICT, service};
use crate::processes::{Process, free};
use crate::stand::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshctl");
/// What each process serves before the next one comes: about three seconds' requests.
const TERM: usize = 4_000;
const TERMS: usize = 4;

/// What went on.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    done: AtomicUsize,
    reconnected: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn failed(&self, what: impl Into<String>) {
        self.failures.lock().unwrap().push(what.into());
    }

    /// Waits until another term of requests has been answered.
    async fn term(&self) {
        let enough = self.done.load(Ordering::Relaxed) + TERM;
        until("a term of requests", 30, || {
            (self.done.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }
}

/// HTTP/1.1 and HTTP/2 that answer `ok`, and upgrades that send everything back.
fn backend(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let group = tasks.clone();
    tasks.spawn("backend", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tasks = group.clone();
            group.spawn("connection", async move {
                let service = service_fn(move |request| {
                    let answer = answer(&tasks, request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let _ended = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(tcp), service)
                    .await;
            });
        }
    });
    address
}

fn answer(tasks: &Tasks, mut request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    if !request.headers().contains_key("upgrade") {
        return Response::new(Full::from("ok"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tasks.spawn("echo", async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = io.read(&mut buffer).await {
            if io.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    let switching = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(Full::default());
    switching.unwrap()
}

fn proxy(home: &Path, (listen, to): (SocketAddr, SocketAddr), mode: &str) -> Process {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(home.join(format!("{mode}.log")))
        .unwrap();
    let child = Command::new(PROGRAM)
        .arg("--home")
        .arg(home)
        .args(["proxy", "--hot-restart", "--workers", "2", "--drain", "60s"])
        .args([
            "--static",
            &format!("{listen}={to}"),
            "--static-in",
            mode,
            "--static-out",
            mode,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Process(child)
}

async fn dial(to: SocketAddr, tally: &Tally) -> Option<TcpStream> {
    match connect(to, ConnectOptions::default()).await {
        Ok(tcp) => Some(tcp),
        Err(error) => {
            tally.failed(format!("refused: {error}"));
            None
        }
    }
}

/// Asks every `pace` over HTTP/1.1, on a new connection when an answer says that the last one ends.
async fn http1(to: SocketAddr, tally: Arc<Tally>, pace: Duration) {
    http1_to("a", to, tally, pace).await;
}

async fn http1_to(host: &str, to: SocketAddr, tally: Arc<Tally>, pace: Duration) {
    let ask = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut ticks = tokio::time::interval(pace);
    'connection: while tally.goes_on() {
        let Some(mut tcp) = dial(to, &tally).await else {
            return;
        };
        tally.reconnected.fetch_add(1, Ordering::Relaxed);
        while tally.goes_on() {
            ticks.tick().await;
            if let Err(error) = tcp.write_all(ask.as_bytes()).await {
                return tally.failed(format!("http1 request: {error}"));
            }
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\nok") {
                let mut buffer = [0; 1024];
                match tcp.read(&mut buffer).await {
                    Ok(count @ 1..) => text.extend_from_slice(&buffer[..count]),
                    ended => {
                        let text = String::from_utf8_lossy(&text);
                        return tally.failed(format!("http1 answer {text:?}: {ended:?}"));
                    }
                }
            }
            let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
            if !text.starts_with("http/1.1 200 ") {
                return tally.failed(text);
            }
            tally.done.fetch_add(1, Ordering::Relaxed);
            if text.contains("connection: close") {
                continue 'connection;
            }
        }
    }
}

/// Asks every `pace` over HTTP/2, on a new connection when the last one said goodbye.
async fn http2(to: SocketAddr, tally: Arc<Tally>, pace: Duration, tasks: Tasks) {
    let mut ticks = tokio::time::interval(pace);
    while tally.goes_on() {
        let Some(tcp) = dial(to, &tally).await else {
            return;
        };
        tally.reconnected.fetch_add(1, Ordering::Relaxed);
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (mut send, connection) = match handshake.await {
            Ok(pair) => pair,
            Err(error) => return tally.failed(format!("http2 handshake: {error}")),
        };
        tasks.spawn("http2 connection", async move {
            let _ended = connection.await;
        });
        while tally.goes_on() {
            ticks.tick().await;
            if send.ready().await.is_err() {
                break;
            }
            let request = Request::get("http://a/").body(Full::<Bytes>::default());
            match send.send_request(request.unwrap()).await {
                Ok(response) if response.status() == 200 => {
                    let body = response.into_body().collect().await;
                    match body.map(http_body_util::Collected::to_bytes) {
                        Ok(body) if body == "ok" => {
                            tally.done.fetch_add(1, Ordering::Relaxed);
                        }
                        other => return tally.failed(format!("http2 body: {other:?}")),
                    }
                }
                Ok(response) => return tally.failed(format!("http2: {}", response.status())),
                // A stream beyond the last that the peer took was never looked at (RFC 9113, 6.8).
                Err(error) if error.is_canceled() || goodbye(&error) => break,
                Err(error) => return tally.failed(format!("http2 request: {error:?}")),
            }
        }
    }
}

fn goodbye(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// One WebSocket that lasts as long as the test: every message comes back.
async fn websocket(to: SocketAddr, tally: Arc<Tally>, pace: Duration) {
    let Some(mut tcp) = dial(to, &tally).await else {
        return;
    };
    let ask = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    tcp.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => return tally.failed(format!("upgrade: {error}")),
        }
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return tally.failed(String::from_utf8_lossy(&head));
    }
    let mut ticks = tokio::time::interval(pace);
    let mut number = 0_u64;
    while tally.goes_on() {
        ticks.tick().await;
        number += 1;
        let sent = tcp.write_u64(number).await;
        match (sent, tcp.read_u64().await) {
            (Ok(()), Ok(same)) if same == number => {
                tally.done.fetch_add(1, Ordering::Relaxed);
            }
            ended => return tally.failed(format!("message {number}: {ended:?}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_follow_each_other_and_no_request_fails() {
    let tasks = Tasks::new();
    let home = tempfile::tempdir().unwrap();
    let to = backend(&tasks);
    let (one, two) = (free(), free());
    let start = || {
        [
            proxy(home.path(), (one, to), "http1"),
            proxy(home.path(), (two, to), "http2"),
        ]
    };
    let mut running = vec![start()];
    for address in [one, two] {
        until("the proxy", 20, || {
            std::net::TcpStream::connect(address).is_ok().then_some(())
        })
        .await;
    }
    let tally = Arc::new(Tally::default());
    let group = Tasks::new();
    let pace = Duration::from_millis(20);
    // 800 requests a second over HTTP/1.1, 800 over HTTP/2, 400 messages.
    for _ in 0..16 {
        group.spawn("http1", http1(one, Arc::clone(&tally), pace));
        let more = group.clone();
        group.spawn("http2", http2(two, Arc::clone(&tally), pace, more));
    }
    for _ in 0..8 {
        group.spawn("websocket", websocket(one, Arc::clone(&tally), pace));
    }
    let begun = meshctl::rt::now();
    for _ in 0..TERMS {
        tally.term().await;
        running.push(start());
        // The ones before take no more once the new ones serve; they end when their last message
        // has come.
        let log = |mode: &str| {
            std::fs::read_to_string(home.path().join(format!("{mode}.log"))).unwrap_or_default()
        };
        let times = running.len() - 1;
        until("the new processes to take over", 20, || {
            ["http1", "http2"]
                .iter()
                .all(|mode| log(mode).matches("has taken over").count() >= times)
                .then_some(())
        })
        .await;
    }
    tally.term().await;
    let took = begun.elapsed();
    // The HTTP/2 processes before the last have nothing left to do, and end by themselves.
    let last = running.pop().unwrap();
    for [_, Process(old)] in &mut running {
        until("an old process to end", 20, || old.try_wait().unwrap()).await;
        let status = old.wait().unwrap();
        assert!(status.success(), "{status}");
    }
    tally.stop.store(true, Ordering::Relaxed);
    // Each caller has its tally until its last request is over.
    until("the callers to end", 20, || {
        (Arc::strong_count(&tally) == 1).then_some(())
    })
    .await;
    let done = tally.done.load(Ordering::Relaxed);
    let failures = tally.failures.lock().unwrap().clone();
    let rate = f64::from(u32::try_from(done).unwrap()) / took.as_secs_f64();
    eprintln!(
        "{done} requests in {took:?} ({rate:.0}/s), {} connections, {TERMS} processes replaced",
        tally.reconnected.load(Ordering::Relaxed)
    );
    assert!(
        failures.is_empty(),
        "{} failures: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    assert!(rate > 1000.0, "{rate} requests a second");
    assert!(tally.reconnected.load(Ordering::Relaxed) >= 32 * (TERMS + 1));
    group.end().await;
    drop((running, last));
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_is_replaced_and_its_peers_do_not_notice() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("echo", &[("http", 9090)]));
    mesh.apply(STRICT);
    let app = App {
        service: "echo",
        version: "v1",
        port: 9090,
        at: backend(&tasks),
        flags: &["--workers", "1", "--drain", "10s"],
    };
    let mut callee = mesh.sidecar(&app).await;
    let calling = App {
        service: "caller",
        ..app.clone()
    };
    let mut caller = mesh.sidecar(&calling).await;
    mesh.settled().await;
    let tally = Arc::new(Tally::default());
    let group = Tasks::new();
    for _ in 0..4 {
        let pace = Duration::from_millis(10);
        group.spawn(
            "http1",
            http1_to("echo:9090", caller.outbound(), Arc::clone(&tally), pace),
        );
    }
    for round in 1..=2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for (sidecar, app) in [(&mut callee, &app), (&mut caller, &calling)] {
            let mut old = mesh.replace(sidecar, app);
            let name = sidecar.name.clone();
            until("the old process to end", 30, || old.0.try_wait().unwrap()).await;
            let said = mesh.said(&name);
            assert_eq!(said.matches("has taken over").count(), round, "{said}");
            // It was never out of the registry.
            let instances = mesh.json(&["register", "--list"]);
            let listed = instances.as_array().unwrap().iter();
            let healthy = |one: &&serde_json::Value| one["instance"]["health"] == "healthy";
            assert_eq!(listed.filter(healthy).count(), 2, "{instances}");
        }
    }
    mesh.settled().await;
    tally.stop.store(true, Ordering::Relaxed);
    // Each caller has its tally until its last request is over.
    until("the callers to end", 20, || {
        (Arc::strong_count(&tally) == 1).then_some(())
    })
    .await;
    let failures = tally.failures.lock().unwrap().clone();
    let done = tally.done.load(Ordering::Relaxed);
    assert!(
        failures.is_empty(),
        "{} of {done}: {:?}",
        failures.len(),
        failures.first()
    );
    assert!(done > 400, "{done}");
    group.end().await;
    drop(mesh);
    tasks.end().await;
}
