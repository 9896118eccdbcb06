//! Open connections of the real executable when a policy says that their callers may not be let in any more:
//! raw bytes, openssl and curl.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mesh::{App, Mesh, STRICT, service};
use crate::processes::Process;
use crate::stand::until;

/// A server that keeps connections until their callers end them. It sends back what it gets, where it is to,
/// and counts the bytes.
pub(crate) fn server(tasks: &Tasks, answers: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heard);
    tasks.spawn("server", async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            connections.spawn("connection", async move {
                let mut bytes = [0; 1024];
                while let Ok(read) = io.read(&mut bytes).await
                    && read > 0
                    && (!answers || io.write_all(&bytes[..read]).await.is_ok())
                {
                    counted.fetch_add(read, Ordering::Relaxed);
                }
            });
        }
    });
    (address, heard)
}

/// A caller's end of a connection to a server that answers.
trait Open {
    fn say(&mut self, line: &str) -> Option<String>;
}

impl Open for std::net::TcpStream {
    fn say(&mut self, line: &str) -> Option<String> {
        writeln!(self, "{line}").ok()?;
        line_of(self)
    }
}

/// openssl with a certificate of the mesh.
struct Member(Process);

impl Member {
    fn new(address: &str, dir: &Path) -> Self {
        let file = |name: &str| dir.join(name).display().to_string();
        let child = Command::new("openssl")
            .args(["s_client", "-quiet", "-alpn", "istio", "-connect", address])
            .args(["-cert", &file("cert-chain.pem"), "-key", &file("key.pem")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(Process(child))
    }
}

impl Open for Member {
    fn say(&mut self, line: &str) -> Option<String> {
        writeln!(self.0.0.stdin.as_mut()?, "{line}").ok()?;
        line_of(self.0.0.stdout.as_mut()?)
    }
}

/// What comes up to the end of a line; `None` when it ends before.
fn line_of(from: &mut impl std::io::Read) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).ok()? > 0 {
        if byte == *b"\n" {
            return String::from_utf8(line).ok();
        }
        line.extend(byte);
    }
    None
}

/// A connection that does not wait for ever.
fn connect(to: SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(to).unwrap();
    let most = Some(Duration::from_secs(20));
    stream.set_read_timeout(most).unwrap();
    stream
}

/// Whether it was ended, or reset, while nothing was said.
fn is_cut(stream: &mut std::net::TcpStream) -> bool {
    let read = stream.read(&mut [0]);
    let late = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
    match read {
        Ok(read) => read == 0,
        Err(error) => !late.contains(&error.kind()),
    }
}

pub(crate) fn issue(mesh: &Mesh, account: &str) -> std::path::PathBuf {
    let dir = mesh.path().join(account);
    let out = dir.display().to_string();
    let issue = ["identity", "issue", "--service-account", account, "--out"];
    mesh.run(&[&issue[..], &[&out]].concat(), None);
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_whoever_is_let_in_no_more_are_cut_and_others_stay() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("db", &[("tcp-db", 9080)]));
    mesh.apply(&service("web", &[("http", 9080)]));
    let app = |service, at| App {
        service,
        version: "v1",
        port: 9080,
        at,
        flags: &["--drain", "2s"],
    };
    let (mute, heard) = server(&tasks, false);
    let (db, web) = (app("db", server(&tasks, true).0), app("web", mute));
    let (db, web) = (mesh.sidecar(&db).await, mesh.sidecar(&web).await);
    let (db, web) = (db.inbound(9080), web.inbound(9080));
    let [ops, other] = ["ops", "other"].map(|account| issue(&mesh, account));

    let mut stranger = connect(db);
    assert_eq!(stranger.say("one").unwrap(), "one");
    let mut members = [&ops, &other].map(|dir| Member::new(&db.to_string(), dir));
    for member in &mut members {
        assert_eq!(member.say("one").unwrap(), "one");
    }
    // A request without an end, of a stranger.
    let mut endless = connect(web);
    endless
        .write_all(b"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .unwrap();
    until("the application to hear of it", 10, || {
        (heard.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    let was = heard.load(Ordering::Relaxed);
    let mut silent = connect(web);

    mesh.apply(STRICT);
    tokio::task::block_in_place(|| {
        assert!(is_cut(&mut stranger), "a stranger's bytes go on");
        assert!(is_cut(&mut endless), "a stranger's request goes on");
        let _sent = silent.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n");
        let mut said = Vec::new();
        let _ended = silent.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("HTTP/1.1 200"), "{said}");
        assert_eq!(heard.load(Ordering::Relaxed), was);
        for member in &mut members {
            assert_eq!(member.say("two").unwrap(), "two");
        }
    });

    // One member is let in no more; the other one does not notice.
    let [refused, kept] = &mut members;
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-ops}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/ops]}}]}]
",
    );
    until("the refused one's connection to end", 10, || {
        refused.0.0.try_wait().unwrap()
    })
    .await;
    tokio::task::block_in_place(|| assert_eq!(kept.say("three").unwrap(), "three"));
    drop(mesh);
    tasks.end().await;
}
