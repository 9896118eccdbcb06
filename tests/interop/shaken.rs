//! Who is not what it must be, at either end of a handshake or with bytes of its own: openssl with certificates of the
//! mesh's own authority that are odd in one way each, and servers that answer what has two readings. The real
//! executable is on the other side, and each time a good one of the same make gets through.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::authority::{AUTHORITIES, script};
use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, STRICT, program, service};
use crate::processes::{Process, free};
use crate::stand::until;

/// `leaf NAME SIGNER NAMES PURPOSES BEGIN END`: `NAME.key`, `NAME.pem`, and `NAME.chain` with who signed it.
const LEAF: &str = r#"
leaf() {
  openssl ecparam -name prime256v1 -genkey -noout -out $1.key
  openssl req -new -key $1.key -subj /O=elsewhere -out $1.csr
  mkdir -p $1.ca; : > $1.ca/index.txt; echo 01 > $1.ca/number
  printf "[ca]\ndefault_ca=own\n[own]\ndatabase=$1.ca/index.txt\nnew_certs_dir=$1.ca\nrand_serial=yes\ndefault_md=sha256
default_crl_days=9\ncrlnumber=$1.ca/number\npolicy=any\n[any]\norganizationName=optional
[leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=$4
subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=$3\n" > $1.ca/cnf
  at() { date -u -d "$1" +%Y%m%d%H%M%SZ; }
  openssl ca -batch -notext -config $1.ca/cnf -extensions leaf -in $1.csr -out $1.pem -cert $2.pem -keyfile $2.key \
    -startdate $(at "$5") -enddate $(at "$6")
  cat $1.pem $2.pem > $1.chain; }
"#;

const OWN: &str = "URI:spiffe://cluster.local/ns/default/sa/ops";
const BOTH: &str = "serverAuth,clientAuth";

/// Certificates that are odd in one way each: name, who signed, names, purposes, begin and end.
const ODD: &[[&str; 6]] = &[
    ["foreign", "other", OWN, BOTH, "-1 hour", "+1 hour"],
    ["expired", "one", OWN, BOTH, "-2 hour", "-1 hour"],
    ["not-yet", "one", OWN, BOTH, "+1 hour", "+2 hour"],
    ["no-identity", "one", "DNS:ops", BOTH, "-1 hour", "+1 hour"],
    [
        "two-identities",
        "one",
        "URI:spiffe://cluster.local/ns/default/sa/ops,URI:spiffe://cluster.local/ns/default/sa/admin",
        BOTH,
        "-1 hour",
        "+1 hour",
    ],
    [
        "no-spiffe",
        "one",
        "URI:https://cluster.local/ns/default/sa/ops",
        BOTH,
        "-1 hour",
        "+1 hour",
    ],
    [
        "other-domain",
        "one",
        "URI:spiffe://other.mesh/ns/default/sa/ops",
        BOTH,
        "-1 hour",
        "+1 hour",
    ],
    ["code", "one", OWN, "codeSigning", "-1 hour", "+1 hour"],
];

/// Makes `odd` in `dir`, and a good one beside it.
fn make(dir: &Path, odd: &[[&str; 6]]) {
    let good = ["good", "one", OWN, BOTH, "-1 hour", "+1 hour"];
    let all = odd.iter().chain([&good]);
    let all = all.map(|[name, signer, names, purposes, begin, end]| {
        format!("leaf {name} {signer} {names} {purposes} '{begin}' '{end}'\n")
    });
    script(dir, &format!("{LEAF}{}", all.collect::<String>()));
}

/// A mesh whose authority is plugged in: what signs is at hand as `one.key`, and a stranger's as `other.key`.
async fn plugged() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    let dir = mesh.path().to_owned();
    script(
        &dir,
        &format!(
            "{AUTHORITIES} root root; root other; openssl ecparam -name prime256v1 -genkey -noout -out one.key
            below one root TRUE,pathlen:0 keyCertSign,cRLSign; put one /dev/null root.pem"
        ),
    );
    let certs = dir.join("cacerts").display().to_string();
    mesh.start_control_plane_with(&["--ca-certs", &certs]).await;
    mesh
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_certificates_and_plaintext_get_nothing_of_a_strict_workload() {
    let tasks = Tasks::new();
    let mesh = plugged().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let server_only = [
        "server-only",
        "one",
        OWN,
        "serverAuth",
        "-1 hour",
        "+1 hour",
    ];
    let odd: Vec<_> = ODD.iter().copied().chain([server_only]).collect();
    make(mesh.path(), &odd);
    let url = format!("https://{}/", web.inbound(9080));
    let ask = |who: &str| {
        let file = |kind: &str| {
            mesh.path()
                .join(format!("{who}.{kind}"))
                .display()
                .to_string()
        };
        let (chain, key) = (file("chain"), file("key"));
        let args = [
            "-ksS", "-m", "10", "-i", "--cert", &chain, "--key", &key, &url,
        ];
        program("curl", &args)
    };
    until("the good one to be let in", 20, || {
        ask("good").0.then_some(())
    })
    .await;
    for [who, ..] in &odd {
        let (good, said) = ask(who);
        assert!(!good && !said.contains("HTTP/"), "{who}: {said}");
    }
    let (good, said) = program("curl", &["-ksS", "-m", "10", "-i", &url]);
    assert!(!good && !said.contains("HTTP/"), "nobody: {said}");
    // Plaintext is closed without an answer.
    let mut plain = connect(web.inbound(9080), ConnectOptions::default())
        .await
        .unwrap();
    let hello = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    plain.write_all(hello).await.unwrap();
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(15), plain.read_to_end(&mut said));
    let _reset = ended.await.unwrap();
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    assert!(ask("good").1.contains("web /"));
    drop(mesh);
    tasks.end().await;
}

/// openssl as a server that answers `/answer` and says so, with the certificate `name` of `dir`.
struct Server {
    _process: Process,
    /// What came, and what it says of that.
    told: PathBuf,
    says: PathBuf,
}

impl Server {
    async fn start(dir: &Path, name: &str, at: SocketAddr, how: &[&str]) -> Self {
        std::fs::write(
            dir.join("answer"),
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        )
        .unwrap();
        let file = |kind: &str| dir.join(format!("{name}-{}.{kind}", at.port()));
        let (told, says) = (file("told"), file("says"));
        let child = Command::new("openssl")
            .args(["s_server", "-accept", &at.to_string()])
            .args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")])
            .args(["-cert_chain", &format!("{name}.chain")])
            .args(how)
            .current_dir(dir)
            // It ends with its input.
            .stdin(Stdio::piped())
            .stdout(File::create(&told).unwrap())
            .stderr(File::create(&says).unwrap())
            .spawn()
            .unwrap();
        until("openssl", 20, || {
            std::net::TcpStream::connect(at).is_ok().then_some(())
        })
        .await;
        Self {
            _process: Process(child),
            told,
            says,
        }
    }

    /// What it said of what it was told.
    fn told(&self) -> String {
        let told = std::fs::read(&self.told).unwrap();
        String::from_utf8_lossy(&told).into_owned()
    }

    /// How often it answered.
    fn asked(&self) -> usize {
        let says = std::fs::read(&self.says).unwrap();
        let says = [self.told(), String::from_utf8_lossy(&says).into_owned()];
        says.concat().matches("FILE:answer").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_place_of_a_service_hears_nothing_unless_it_is_that() {
    let tasks = Tasks::new();
    let mesh = plugged().await;
    let client_only = [
        "client-only",
        "one",
        OWN,
        "clientAuth",
        "-1 hour",
        "+1 hour",
    ];
    let another = [
        "another",
        "one",
        "URI:spiffe://cluster.local/ns/default/sa/ratings",
        BOTH,
        "-1 hour",
        "+1 hour",
    ];
    let odd: Vec<_> = ODD.iter().copied().chain([client_only, another]).collect();
    make(mesh.path(), &odd);
    let app = App {
        service: "caller",
        version: "v1",
        port: 9080,
        at: backend("c", &tasks),
        flags: &[],
    };
    let caller = mesh.sidecar(&app).await;
    let mut servers = Vec::new();
    for [name, ..] in odd.iter().chain([&["good", "", "", "", "", ""]]) {
        let at = free();
        servers.push((
            *name,
            Server::start(mesh.path(), name, at, &["-HTTP"]).await,
        ));
        mesh.apply(&service(name, &[("http", 9080)]));
        let port = format!("9080={at}");
        let args = [
            "register",
            name,
            "--service",
            name,
            "--service-account",
            "ops",
            "--address",
            "192.0.2.7",
            "--port",
            &port,
            "--mtls",
        ];
        mesh.run(&args, None);
    }
    mesh.settled().await;
    let calling = Caller::new(caller.outbound());
    for (name, server) in &servers {
        let answer = calling.get(&format!("{name}:9080"), "/answer").await;
        let (status, body) = answer.unwrap();
        let expected = if *name == "good" { 200 } else { 503 };
        assert_eq!(status, expected, "{name}: {body}");
        let asked = usize::from(*name == "good");
        assert_eq!(server.asked(), asked, "{name}: {}", server.told());
        assert!(!server.told().contains("GET "), "{name}: {}", server.told());
    }
    drop(mesh);
    tasks.end().await;
}

/// A proxy that has only a token, and where it says what it does.
fn joiner(
    mesh: &Mesh,
    name: &str,
    at: SocketAddr,
    token: &str,
    address: IpAddr,
) -> (Process, PathBuf) {
    let log = mesh.path().join(format!("{name}.log"));
    let child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .arg("--home")
        .arg(mesh.path().join(name))
        .args(["proxy", "--service", "cart", "--name", name])
        .args(["--service-account", "cart", "--app", "9080=127.0.0.1:1"])
        .args(["--address", &address.to_string()])
        .args(["--control-plane", &at.to_string()])
        .env("MESHCTL_JOIN_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    (Process(child), log)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_plays_the_control_plane_learns_no_token() {
    let mesh = plugged().await;
    let control = "URI:spiffe://cluster.local/ns/meshctl-system/sa/meshctl";
    let day = |name, signer, names| [name, signer, names, BOTH, "-1 hour", "+1 hour"];
    make(
        mesh.path(),
        &[
            day("stranger", "other", control),
            day("member", "one", OWN),
            ["old", "one", control, BOTH, "-2 hour", "-1 hour"],
            day("real", "one", control),
        ],
    );
    // First contact goes by the root's fingerprint, so the root comes along.
    script(
        mesh.path(),
        "for name in stranger member old real; do cat root.pem >> $name.chain; done",
    );
    let args = [
        "token",
        "create",
        "-q",
        "--service-account",
        "cart",
        "--uses",
        "9",
    ];
    let token = mesh.run(&args, None);
    let token = token.trim();
    let secret = token.split('_').nth(2).unwrap();
    for (name, reason) in [
        ("stranger", "not issued by the mesh's root"),
        (
            "member",
            "expected spiffe://cluster.local/ns/meshctl-system/sa/meshctl",
        ),
        ("old", "expired"),
    ] {
        let at = free();
        let server = Server::start(mesh.path(), name, at, &["-alpn", "h2", "-quiet"]).await;
        let who = format!("joiner-{name}");
        let (joiner, log) = joiner(&mesh, &who, at, token, mesh.spare());
        until("the reason", 30, || {
            let said = std::fs::read_to_string(&log).unwrap();
            said.contains(reason).then_some(())
        })
        .await;
        drop(joiner);
        // Not a byte came after the handshake.
        assert_eq!(server.told(), "", "{name}");
    }
    // One that can prove it is told all; the same token is still good where it belongs.
    let at = free();
    let server = Server::start(mesh.path(), "real", at, &["-alpn", "h2", "-quiet"]).await;
    let (one, _) = joiner(&mesh, "joiner-real", at, token, mesh.spare());
    until("its first words", 30, || {
        server.told().contains("PRI * HTTP/2.0").then_some(())
    })
    .await;
    drop(one);
    for name in ["stranger", "member", "old"] {
        let home = mesh.path().join(format!("joiner-{name}"));
        let (found, said) = program("grep", &["-rl", secret, home.to_str().unwrap()]);
        assert!(!found, "{said}");
    }
    let (_one, _) = joiner(&mesh, "joiner", Mesh::tls(), token, mesh.spare());
    until("its certificate", 30, || {
        let log = mesh.json(&["identity", "audit"]);
        let mut log = log.as_array().unwrap().iter();
        log.any(|one| one["event"] == "tokenUsed").then_some(())
    })
    .await;
}

/// An application that answers every request with the bytes that it is given, for as long as its caller stays.
fn raw(tasks: &Tasks) -> (Arc<Mutex<Vec<u8>>>, SocketAddr) {
    let next = Arc::new(Mutex::new(Vec::new()));
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (answers, connections) = (Arc::clone(&next), tasks.clone());
    tasks.spawn("raw", async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let answers = Arc::clone(&answers);
            connections.spawn("answer", async move {
                let mut head = Vec::new();
                while let Ok(byte) = io.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer = answers.lock().unwrap().clone();
                        // It may be refused before its end.
                        let _sent = io.write_all(&answer).await;
                    }
                }
            });
        }
    });
    (next, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_two_readings_come_to_nobody() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    let (next, at) = raw(&tasks);
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let ask = async |answer: &str| {
        answer.as_bytes().clone_into(&mut next.lock().unwrap());
        let mut io = connect(web.inbound(9080), ConnectOptions::default())
            .await
            .unwrap();
        io.write_all(b"GET /x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), io.read_to_end(&mut got));
        read.await.unwrap().unwrap();
        String::from_utf8_lossy(&got).into_owned()
    };
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nyes";
    until("the sidecar", 20, || {
        std::net::TcpStream::connect(web.inbound(9080))
            .is_ok()
            .then_some(())
    })
    .await;
    assert!(ask(good).await.ends_with("\r\n\r\nyes"));
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(62 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        // What an application wrote into a value would be a field.
        "HTTP/1.1 200 OK\r\nX: y\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n evil\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        // Where it ends.
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 0\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nevil",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Nobody asked for it.
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nevil",
        &large,
        &many,
    ] {
        let got = ask(answer).await;
        let start = answer.get(..99.min(answer.len()));
        assert!(got.starts_with("HTTP/1.1 502 "), "{start:?}: {got:?}");
        assert!(
            !got.contains("evil") && !got.contains("yyyy"),
            "{start:?}: {got:?}"
        );
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{start:?}: {got:?}");
    }
    assert!(ask(good).await.ends_with("\r\n\r\nyes"));
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_outside_that_are_not_believed_hear_nothing() {
    let tasks = Tasks::new();
    let mesh = plugged().await;
    let dir = mesh.path().to_owned();
    let names = "DNS:tls.example.com";
    let outside = [
        "outside",
        "other",
        names,
        "serverAuth",
        "-1 hour",
        "+1 hour",
    ];
    let late = ["late", "other", names, "serverAuth", "-2 hour", "-1 hour"];
    make(&dir, &[outside, late]);
    script(
        &dir,
        "list() { openssl ca -config outside.ca/cnf -cert other.pem -keyfile other.key -gencrl -out $1; }
        list none.crl
        openssl ca -config outside.ca/cnf -cert other.pem -keyfile other.key -revoke outside.pem; list one.crl",
    );
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    let (good, ended) = (free(), free());
    let server = Server::start(&dir, "outside", good, &["-HTTP"]).await;
    let late = Server::start(&dir, "late", ended, &["-HTTP"]).await;
    let file = |name: &str| dir.join(name).display().to_string();
    let (believed, none, one) = (file("other.pem"), file("none.crl"), file("one.crl"));
    let root = file("root.pem");
    let calling = Caller::new(sidecar.outbound());
    let cases = [
        (
            "the right one",
            good,
            format!("caCertificates: {believed}"),
            true,
        ),
        (
            "another root",
            good,
            format!("caCertificates: {root}"),
            false,
        ),
        (
            "what machines trust",
            good,
            "sni: tls.example.com".to_owned(),
            false,
        ),
        (
            "another name",
            good,
            format!("caCertificates: {believed}, subjectAltNames: [pay.example.com]"),
            false,
        ),
        (
            "an old one",
            ended,
            format!("caCertificates: {believed}"),
            false,
        ),
        (
            "not revoked",
            good,
            format!("caCertificates: {believed}, caCrl: {none}"),
            true,
        ),
        (
            "revoked",
            good,
            format!("caCertificates: {believed}, caCrl: {one}"),
            false,
        ),
    ];
    let mut asked = 0;
    for (what, at, tls, let_in) in cases {
        let port = at.port();
        mesh.apply(&format!(
            r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: tls}}
spec:
  hosts: [tls.example.com]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: tls}}
spec:
  host: tls.example.com
  trafficPolicy:
    tls: {{mode: SIMPLE, {tls}}}
"
        ));
        mesh.settled().await;
        let answer = calling.get("tls.example.com", "/answer").await;
        let (status, body) = answer.unwrap();
        assert_eq!(status, if let_in { 200 } else { 503 }, "{what}: {body}");
        asked += usize::from(let_in);
        assert_eq!(server.asked(), asked, "{what}: {}", server.told());
    }
    assert_eq!(late.asked(), 0, "{}", late.told());
    drop(mesh);
    tasks.end().await;
}
