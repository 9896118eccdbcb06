//! Requests that hide in requests: the proxy before servers of others, which must never take for a
//! request what was none of the caller's.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshctl::net::{ConnectOptions, connect};
use meshctl::proxy::{self, Options, Side, SideProtocol, static_view};
use meshctl::rt::{Drain, Published, Tasks};
use meshctl::telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::corpus::{Case, cases};
use crate::grpc::Script;
use crate::processes::{Process, free};
use crate::stand::until;

/// A proxy in this process that carries HTTP to `app`.
pub(crate) async fn proxied(tasks: &Tasks, app: SocketAddr) -> (SocketAddr, Drain) {
    let bind = free();
    let side = Side {
        protocol: SideProtocol::Http1,
        mtls: false,
    };
    let views = Published::new(static_view((bind, side), (app, side)));
    let identities = Published::new(None);
    let (drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    let registry = Arc::new(Registry::new("Kubernetes"));
    tasks.spawn("proxy", async move {
        let ran = proxy::run_with(Options::default(), registry, readers, signal).await;
        drop((views, identities));
        ran.unwrap();
    });
    until("the proxy to listen", 10, || {
        std::net::TcpStream::connect(bind).ok().map(drop)
    })
    .await;
    (bind, drain)
}

/// Sends `bytes` and reads to the end.
async fn send(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(to, ConnectOptions::default()).await.unwrap();
    // The proxy may have refused and gone before everything is written.
    let _sent = stream.write_all(bytes).await;
    let _ended = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _reset = tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the connection did not end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends all cases; an ordinary request behind each shows that the server was not confused by it.
async fn send_all(to: SocketAddr) -> Vec<Case> {
    let all = cases();
    for case in &all {
        let answer = send(to, &case.bytes).await;
        if case.statuses == [200] {
            assert!(!answer.is_empty(), "{} ({})", case.name, case.details);
        }
        let after = send(
            to,
            b"GET /ok/after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            after.starts_with("HTTP/1.1 200 "),
            "after {}: {after}",
            case.name
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_server_sees_only_what_was_asked() {
    let tasks = Tasks::new();
    let mut server = Script::start(Path::new("python3"), "lenient.py", "", None);
    let port: u16 = server.line().parse().unwrap();
    let (bind, drain) = proxied(&tasks, ([127, 0, 0, 1], port).into()).await;
    let all = send_all(bind).await;
    let wanted: usize = all.iter().map(|case| case.targets.len() + 1).sum();
    let mut seen = 0;
    while seen < wanted {
        let line = server.line();
        assert!(!line.contains("evil"), "{line}");
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(said.get("refused").is_none(), "{line}");
        seen += usize::from(said.get("line").is_some());
    }
    drain.start();
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_sees_only_what_was_asked() {
    if Command::new("nginx")
        .arg("-v")
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        assert!(std::env::var_os("CI").is_none(), "nginx is not installed");
        eprintln!("SKIPPED: nginx is not installed");
        return;
    }
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let app = free();
    let path = dir.path().display();
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/errors;
         events {{ }}
         http {{
           log_format seen '$status $request';
           access_log {path}/seen seen;
           client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
           fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
           client_max_body_size 10m; merge_slashes off;
           server {{ listen {app}; location / {{ return 200 ok; }} }}
         }}"
    );
    std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
    let child = Command::new("nginx")
        .args(["-p", &path.to_string(), "-c", "nginx.conf"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _nginx = Process(child);
    until("nginx to listen", 10, || {
        std::net::TcpStream::connect(app).ok().map(drop)
    })
    .await;
    let (bind, drain) = proxied(&tasks, app).await;
    send_all(bind).await;
    let log = std::fs::read_to_string(dir.path().join("seen")).unwrap();
    assert!(log.lines().count() > 150, "{log}");
    for line in log.lines() {
        // What was cut off in its body may be logged as a request that failed.
        assert!(!line.contains("evil") || line.starts_with("400 "), "{line}");
    }
    drain.start();
    tasks.end().await;
}
