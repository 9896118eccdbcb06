//! Connections to a gateway of the real executable that are open when its configuration says that their callers may not
//! be let in any more: by openssl, for requests of HTTP/1.1 and HTTP/2, and for bytes.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use meshctl::rt::Tasks;

use crate::backend::backend;
use crate::changed::server;
use crate::gateway::{certificates, secret};
use crate::mesh::{App, Mesh, program, service};
use crate::processes::Process;
use crate::stand::until;

const REQUESTS: u16 = 18443;
const BYTES: u16 = 18444;
/// A byte is waited for that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server for requests, and one for bytes, for each of these hosts with this TLS.
fn gateway(servers: &[(&str, &str)]) -> String {
    let mut text = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
"
    .to_owned();
    for (host, tls) in servers {
        let name = host.split('.').next().unwrap();
        for (port, protocol) in [(REQUESTS, "HTTPS"), (BYTES, "TLS")] {
            writeln!(
                text,
                "  - port: {{number: {port}, name: {name}-{port}, protocol: {protocol}}}\n    hosts: [{host}]\n    tls: {{{tls}}}"
            )
            .unwrap();
        }
    }
    text
}

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ['*.example.com']
  gateways: [edge]
  http: [{route: [{destination: {host: web}}]}]
  tcp: [{match: [{port: 18444}], route: [{destination: {host: db}}]}]
";

/// openssl as a caller of `host`; what comes is read by a thread, so that it can be waited for.
struct Caller {
    child: Process,
    stdin: ChildStdin,
    out: Receiver<u8>,
    next: u32,
}

impl Caller {
    /// `with` are more of openssl's flags.
    fn new(to: SocketAddr, host: &str, with: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-ign_eof", "-servername", host])
            .args(["-connect", &to.to_string()])
            .args(with)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, out) = channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while stdout.read_exact(&mut byte).is_ok() && sender.send(byte[0]).is_ok() {}
        });
        Self {
            child: Process(child),
            stdin,
            out,
            next: 1,
        }
    }

    fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        (0..count)
            .map(|_| self.out.recv_timeout(PATIENCE).ok())
            .collect()
    }

    fn until(&mut self, end: &[u8]) -> Option<String> {
        let mut said = Vec::new();
        while !said.ends_with(end) {
            said.push(self.out.recv_timeout(PATIENCE).ok()?);
        }
        String::from_utf8(said).ok()
    }

    /// Sends a line to who sends it back.
    fn echo(&mut self, line: &str) -> bool {
        let line = format!("{line}\n");
        let sent = self.stdin.write_all(line.as_bytes()).is_ok();
        sent && self.until(b"\n").is_some_and(|said| said == line)
    }

    /// What a request of HTTP/1.1 is answered: the status, and whether the connection stays. Nothing when it has
    /// ended.
    fn get(&mut self, host: &str) -> Option<(u16, bool)> {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.stdin.write_all(request.as_bytes()).ok()?;
        let head = self.until(b"\r\n\r\n")?.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        self.bytes(length.map_or(0, |length| length.parse().unwrap()))?;
        let stays = !head.contains("connection: close");
        Some((head.split(' ').nth(1)?.parse().ok()?, stays))
    }

    /// Begins to speak HTTP/2.
    fn preface(&mut self) {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
        self.stdin.write_all(&preface).unwrap();
    }

    /// Asks for `/` of `host` by HTTP/2: whether that is answered 200, and whether the connection was told to end
    /// before. Nothing when it has ended.
    fn stream(&mut self, host: &str) -> Option<(bool, bool)> {
        let length = u8::try_from(host.len()).unwrap();
        let block = [&[0x82, 0x87, 0x84, 0x41, length][..], host.as_bytes()].concat();
        let size = u8::try_from(block.len()).unwrap();
        let id = self.next.to_be_bytes();
        self.next += 2;
        let frame = [&[0, 0, size, 1, 5][..], &id, &block].concat();
        self.stdin.write_all(&frame).ok()?;
        let mut told = false;
        loop {
            let (kind, stream, payload) = self.frame()?;
            match kind {
                7 => told = true,
                // A stream that the other side has not heard of any more.
                3 if stream == id => return Some((false, told)),
                // 200 is one byte.
                1 if stream == id => return Some((payload.first() == Some(&0x88), told)),
                _ => {}
            }
        }
    }

    fn frame(&mut self) -> Option<(u8, Vec<u8>, Vec<u8>)> {
        let head = self.bytes(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let payload = self.bytes(usize::try_from(length).unwrap())?;
        Some((head[3], head[5..].to_vec(), payload))
    }

    /// Whether HTTP/2 is told to end, by GOAWAY or at once.
    fn is_told_to_end(&mut self) -> bool {
        while let Some((kind, ..)) = self.frame() {
            if kind == 7 {
                return true;
            }
        }
        self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        let deadline = meshctl::rt::now() + PATIENCE;
        while meshctl::rt::now() < deadline {
            match self.out.recv_timeout(Duration::from_millis(50)) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(_) => {
                    if self.child.0.try_wait().unwrap().is_some() {
                        return true;
                    }
                }
            }
        }
        false
    }
}

/// A caller in each of three ways, which is served.
struct Three<'a> {
    host: &'a str,
    one: Caller,
    two: Caller,
    bytes: Caller,
}

impl<'a> Three<'a> {
    fn new(at: std::net::IpAddr, host: &'a str, with: &[&str]) -> Self {
        let to = |port| SocketAddr::new(at, port);
        let h2 = [with, &["-alpn", "h2"]].concat();
        let mut three = Self {
            host,
            one: Caller::new(to(REQUESTS), host, with),
            two: Caller::new(to(REQUESTS), host, &h2),
            bytes: Caller::new(to(BYTES), host, with),
        };
        three.two.preface();
        three.stay();
        three
    }

    /// They are served as if nothing had happened.
    fn stay(&mut self) {
        let host = self.host;
        assert_eq!(self.one.get(host), Some((200, true)), "{host}");
        assert_eq!(self.two.stream(host), Some((true, false)), "{host}");
        assert!(self.bytes.echo("more"), "{host}: bytes are cut");
    }

    /// Nothing is kept from them, but for requests they are to connect again.
    fn may_go(&mut self) {
        let host = self.host;
        let one = self.one.get(host);
        assert!(
            one.is_none_or(|(status, _)| status == 200),
            "{host}: {one:?}"
        );
        let two = self.two.stream(host);
        assert!(two.is_none_or(|(good, _)| good), "{host}: {two:?}");
        assert!(self.bytes.echo("more"), "{host}: bytes are cut");
    }

    /// They get nothing more, and are ended.
    fn leave(mut self) {
        let host = self.host;
        // Whatever is being read may have been a goodbye.
        let one = self.one.get(host);
        assert!(
            one.is_none_or(|(status, stays)| status != 200 && !stays),
            "{host}: {one:?}"
        );
        let mut two = self.two;
        let next = two.stream(host);
        assert!(next.is_none_or(|(good, _)| !good), "{host}: {next:?}");
        assert!(
            next.is_some_and(|(_, told)| told) || two.is_told_to_end(),
            "{host}: no GOAWAY"
        );
        assert!(self.bytes.has_ended(), "{host}: bytes go on");
        assert!(
            self.one.has_ended() && two.has_ended(),
            "{host}: connections stay"
        );
    }
}

/// Runs a script in `dir`, which must succeed.
fn shell(dir: &Path, script: &str) {
    let script = format!("set -e; cd {}; {script}", dir.display());
    let (good, said) = program("sh", &["-c", &script]);
    assert!(good, "{script}: {said}");
}

/// The Secret of whom callers are held against.
fn trusted(dir: &Path, crl: Option<&str>) -> String {
    let mut text =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: own-cacert}\nstringData:\n".to_owned();
    let crl = crl.map(|crl| ("ca.crl", crl));
    for (key, file) in [("ca.crt", "ca.pem")].into_iter().chain(crl) {
        let pem = std::fs::read_to_string(dir.join(file)).unwrap();
        writeln!(text, "  {key}: |").unwrap();
        for line in pem.lines() {
            writeln!(text, "    {line}").unwrap();
        }
    }
    text
}

const SIMPLE: &str = "mode: SIMPLE, credentialName: own";
const MUTUAL: &str = "mode: MUTUAL, credentialName: own";
const NEWEST: &str = "mode: SIMPLE, credentialName: own, minProtocolVersion: TLSV1_3";

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_gateway_who_are_let_in_no_more_get_nothing_more() {
    let tasks = Tasks::new();
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, other) = (dir.path(), other.path());
    let names = ["shop.example.com", "anna.example.com", "bert.example.com"];
    certificates(dir, &names);
    certificates(other, &["bert.example.com"]);
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&service("db", &[("tcp-db", 9080)]));
    let app = |service, at| App {
        service,
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let _web = mesh.sidecar(&app("web", backend("web", &tasks))).await;
    let _db = mesh.sidecar(&app("db", server(&tasks, true).0)).await;
    mesh.apply(&secret(dir, "own", "shop.example.com"));
    mesh.apply(&trusted(dir, None));
    let (a, b) = ("a.example.com", "b.example.com");
    mesh.apply(&gateway(&[(a, SIMPLE), (b, SIMPLE)]));
    mesh.apply(ROUTES);
    let ports = [REQUESTS, BYTES];
    let (_edge, at) = mesh.gateway_with("edge", &ports, &["--drain", "3s"]).await;
    mesh.settled().await;
    until("the gateway", 20, || {
        let listens = |port: &u16| std::net::TcpStream::connect((at, *port)).is_ok();
        ports.iter().all(listens).then_some(())
    })
    .await;
    let file = |name: &str, ending: &str| {
        dir.join(format!("{name}.example.com.{ending}"))
            .display()
            .to_string()
    };
    let files = |name: &str| (file(name, "pem"), file(name, "key"));
    let change = async |text: &str| {
        mesh.apply(text);
        mesh.settled().await;
    };

    // Callers must show a certificate from now on, and those of the other host need not.
    let (simple, mut beside) =
        tokio::task::block_in_place(|| (Three::new(at, a, &[]), Three::new(at, b, &[])));
    change(&gateway(&[(a, MUTUAL), (b, SIMPLE)])).await;
    let (anna, bert) = (files("anna"), files("bert"));
    let [mut anna, mut bert] = tokio::task::block_in_place(|| {
        simple.leave();
        beside.stay();
        [&anna, &bert].map(|(cert, key)| Three::new(at, a, &["-cert", cert, "-key", key]))
    });

    // One of them is revoked.
    shell(
        dir,
        "printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=revoked.txt\\ndefault_md=sha256\\ndefault_crl_days=9\\ncrlnumber=number\\n' > ca.cnf; \
         echo 01 > number; : > revoked.txt; \
         openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -gencrl -out none.pem; \
         openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -revoke anna.example.com.pem; \
         openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -gencrl -out crl.pem",
    );
    change(&trusted(dir, Some("none.pem"))).await;
    tokio::task::block_in_place(|| {
        anna.stay();
        bert.stay();
    });
    change(&trusted(dir, Some("crl.pem"))).await;
    tokio::task::block_in_place(|| {
        anna.leave();
        bert.stay();
        beside.stay();
    });

    // The other one's authority is believed no more.
    change(&trusted(other, None)).await;
    tokio::task::block_in_place(|| {
        bert.leave();
        beside.stay();
    });

    // An old version is not spoken any more; whoever speaks the new one has a new chain, and may finish.
    let (old, mut new) = tokio::task::block_in_place(|| {
        (
            Three::new(at, b, &["-tls1_2"]),
            Three::new(at, b, &["-tls1_3"]),
        )
    });
    change(&gateway(&[(a, MUTUAL), (b, NEWEST)])).await;
    tokio::task::block_in_place(|| {
        old.leave();
        new.may_go();
    });

    // The host is served no more.
    let last = tokio::task::block_in_place(|| Three::new(at, b, &[]));
    change(&gateway(&[(a, MUTUAL)])).await;
    tokio::task::block_in_place(|| last.leave());

    // Neither is anybody, at any port. What is carried then has its time, as at any end of a listener.
    change(&gateway(&[(b, SIMPLE)])).await;
    let last = tokio::task::block_in_place(|| Three::new(at, b, &[]));
    mesh.run(&["delete", "gateways.networking.istio.io", "edge"], None);
    mesh.settled().await;
    tokio::task::block_in_place(|| last.leave());
    drop((mesh, beside, new));
    tasks.end().await;
}
