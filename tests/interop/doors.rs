//! What of a sidecar stands open to others on its machine and network: the ports for health and metrics, and
//! the socket by which its successor is given its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use meshctl::proxy::control_link::{Caller as Knocks, connect_control};
use meshctl::rt::Tasks;
use meshctl::tls::{Pin, control_plane_id};

use crate::attested::member;
use crate::backend::backend;
use crate::mesh::{App, Mesh, service};

/// Asks for `line` with raw bytes, and gives the status.
fn status(to: SocketAddr, line: &str) -> u16 {
    let mut stream = TcpStream::connect(to).unwrap();
    let most = Some(Duration::from_secs(20));
    stream.set_read_timeout(most).unwrap();
    let ask = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1);
    status.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Connects to a Unix socket as another user, asks for the sockets, and says what came.
const TAKE: &str = "\
import array, encodings.idna, os, socket, sys  # the second while its file may be read
uid = int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
s = socket.socket(socket.AF_UNIX); s.settimeout(20)
try:
    s.connect(sys.argv[1]); s.sendall(b'take\\n')
    said, more, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(4 * 64))
    print('got', len(said) > 0, len(more) > 0)
except PermissionError: print('refused by the file')
except ConnectionError: print('got False False')
";

/// The socket `name` below `dir`.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            return find(&entry.path(), name);
        }
        (kind.is_socket() && entry.file_name() == name).then(|| entry.path())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_health_ports_nor_other_users_end_or_empty_a_proxy() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    tokio::task::block_in_place(|| {
        for port in [15_020, 15_021, 15_090] {
            let to = web.inbound(port);
            for line in [
                "POST /quitquitquit",
                "GET /quitquitquit",
                "POST /quitquitquit?/ready",
                "POST /ready/../quitquitquit",
                "POST //quitquitquit",
                "POST http://localhost/quitquitquit",
                "POST /drain_listeners",
                "POST /healthcheck/fail",
                "POST /logging?level=off",
                "GET /logging",
                "GET /config_dump",
                "GET /clusters",
                "GET /listeners",
                "GET /certs",
                "GET /server_info",
                "POST /ready",
                "DELETE /metrics",
            ] {
                let status = status(to, line);
                assert!(
                    matches!(status, 400 | 403 | 404 | 405),
                    "{port} {line}: {status}"
                );
            }
            for path in ["/ready", "/healthz/ready", "/metrics"] {
                assert_eq!(status(to, &format!("GET {path}")), 200, "{port} {path}");
            }
        }
        assert_eq!(status(web.inbound(9080), "GET /"), 200);
    });

    let home = mesh.path().join(&web.name);
    let socket = find(&home, "restart.sock").expect("a socket below the home");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if nix::unistd::geteuid().is_root() {
        let take = || {
            let took = Command::new("python3")
                .args(["-c", TAKE, socket.to_str().unwrap(), "65534"])
                .output()
                .unwrap();
            let said = [took.stdout, took.stderr].concat();
            String::from_utf8(said).unwrap()
        };
        assert_eq!(take(), "refused by the file\n");
        // Somebody opened it to all; the kernel still says who asks.
        let ours = socket.ancestors().skip(1);
        for path in ours.take_while(|path| path.starts_with(mesh.path())) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(take(), "got False False\n");
    } else {
        eprintln!("SKIPPED: only root can be somebody else: another user at a proxy's socket");
    }
    // The proxy goes on as if nothing had been.
    let still = tokio::task::block_in_place(|| status(web.inbound(9080), "GET /"));
    assert_eq!(still, 200);
    drop(mesh);
    tasks.end().await;
}

/// Somebody without a certificate who keeps its connection alive in every way that HTTP/2 has.
#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_is_cut_though_it_answers_and_asks() {
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    mesh.start_control_plane_with(&["--join-timeout", "3s"])
        .await;
    let (_, shown) = member(&mesh, "ops");
    let pin = Pin::Roots(shown.roots.clone());
    let server = control_plane_id("cluster.local");
    let tasks = Tasks::new();
    let open = async |who: Knocks<'_>| {
        let io = connect_control(Mesh::tls(), &server, who).await.unwrap();
        h2::client::handshake(io).await.unwrap()
    };
    let began = meshctl::rt::now();
    // Pings of the server are answered while the connection is driven.
    let (idle, silent) = open(Knocks::Newcomer(&pin)).await;
    let (mut sender, mut busy) = open(Knocks::Newcomer(&pin)).await;
    let mut pings = busy.ping_pong().unwrap();
    let (stays, alive) = open(Knocks::Member(&shown)).await;
    let connected = tokio_util::sync::CancellationToken::new();
    let ended = connected.clone();
    tasks.spawn("member", async move {
        let _ended = alive.await;
        ended.cancel();
    });
    tasks.spawn("busy", async move {
        // Own pings, and questions that are answered by a refusal.
        while pings.ping(h2::Ping::opaque()).await.is_ok() {
            let request = http::Request::post(
                "https://control-plane/istio.v1.auth.IstioCertificateService/CreateCertificate",
            );
            let request = request.header("content-type", "application/grpc");
            let Ok((answer, _)) = sender.send_request(request.body(()).unwrap(), true) else {
                return;
            };
            let _refused = answer.await.is_ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for (what, connection) in [("silent", silent), ("busy", busy)] {
        let cut = tokio::time::timeout(Duration::from_secs(20), connection).await;
        assert!(cut.is_ok(), "{what}: still open");
        // Keepalive would take 40 s, and who is let stay has as long as it was said.
        let took = began.elapsed();
        assert!(
            took > Duration::from_millis(2_500) && took < Duration::from_secs(20),
            "{what}: {took:?}"
        );
    }
    assert!(!connected.is_cancelled(), "a member was cut");
    drop((idle, stays));
    tasks.end().await;
    let denied = mesh.try_run(&["control-plane", "--join-timeout", "11m"], None);
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(said.contains("is not between 1s and 10m"), "{said}");
}
