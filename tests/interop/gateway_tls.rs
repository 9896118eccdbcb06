//! TLS at gateways as openssl sees it: versions, suites, proofs that nothing is revoked, conditions on callers,
//! and certificates that change under open connections. What Envoy makes of the same is held beside.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use meshctl::mesh::OwnTls;
use meshctl::mesh::credential::{CertificateSource, Stapling, TlsVersion};
use meshctl::mesh::listener::ServerTls;
use meshctl::rt::Tasks;

use crate::backend::backend;
use crate::envoy::{any_port, envoy, synced};
use crate::gateway::{certificates, secret};
use crate::mesh::{App, Mesh, program, service};
use crate::stand::{Stand, until, view};

const HOST: &str = "shop.example.com";
const SUITE: &str = "ECDHE-ECDSA-AES256-GCM-SHA384";
const OTHER_SUITE: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";

/// Runs a script in `dir`, which must succeed, and gives what it printed.
fn shell(dir: &Path, script: &str) -> String {
    let script = format!("set -e; cd {}; {script}", dir.display());
    let (good, said) = program("sh", &["-c", &script]);
    assert!(good, "{script}: {said}");
    said
}

/// An OCSP response of the authority in `dir` for the certificate of `who`: `V` is good, `R` revoked.
fn answer(dir: &Path, who: &str, status: &str) -> PathBuf {
    let file = dir.join(format!("{who}.{status}.ocsp"));
    let revoked = if status == "R" { "250101000000Z" } else { "" };
    shell(
        dir,
        &format!(
            "serial=$(openssl x509 -in {who}.pem -noout -serial | cut -d= -f2); \
             printf '{status}\\t491231235959Z\\t{revoked}\\t%s\\tunknown\\t/CN={who}\\n' $serial > index.txt; \
             openssl ocsp -issuer ca.pem -cert {who}.pem -no_nonce -reqout {who}.req; \
             openssl ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin {who}.req \
               -no_nonce -ndays 2 -respout {}",
            file.display()
        ),
    );
    file
}

/// The same response with another end of its time. Nobody but its reader looks at the signature here.
fn ended(response: &[u8]) -> Vec<u8> {
    let mut ended = response.to_vec();
    let times: Vec<usize> = response
        .windows(17)
        .enumerate()
        .filter(|(_, part)| part.starts_with(b"\x18\x0F20") && part.ends_with(b"Z"))
        .map(|(at, _)| at)
        .collect();
    // Produced at, holds from, holds until; certificates of responders have times in another form.
    assert_eq!(times.len(), 3, "{times:?}");
    let from = times[2] + 2;
    ended[from..from + 4].copy_from_slice(b"2021");
    ended
}

fn stapled(dir: &Path, name: &str, who: &str, staple: &[u8]) -> String {
    use base64::Engine as _;
    let coded = base64::engine::general_purpose::STANDARD.encode(staple);
    format!(
        "{}data: {{tls.ocsp-staple: {coded}}}\n",
        secret(dir, name, who)
    )
}

/// What a call by openssl came to.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Version and suite, and whether a good proof came along.
    Agreed(String, String, bool),
    Refused,
}

fn call(dir: &Path, to: SocketAddr, args: &[&str]) -> Said {
    let ca = dir.join("ca.pem").display().to_string();
    let to = to.to_string();
    let base = [
        "s_client",
        "-connect",
        &to,
        "-servername",
        HOST,
        "-CAfile",
        &ca,
        "-verify_return_error",
        "-status",
    ];
    let (_, said) = program("openssl", &[&base[..], args].concat());
    let line = said.lines().find(|line| line.starts_with("New, TLSv"));
    let Some((version, suite)) = line.and_then(|line| {
        let rest = line.strip_prefix("New, ")?;
        rest.split_once(", Cipher is ")
    }) else {
        return Said::Refused;
    };
    let good =
        said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good");
    assert!(
        good || said.contains("OCSP response: no response sent"),
        "{said}"
    );
    Said::Agreed(version.to_owned(), suite.to_owned(), good)
}

fn agreed(version: &str, suite: &str, proof: bool) -> Said {
    Said::Agreed(version.to_owned(), suite.to_owned(), proof)
}

/// What is asked of a listener of each kind: only 1.3; only 1.2 with one suite; anything, with a proof.
fn versions_and_suites(dir: &Path, [newest, oldest, usual]: [SocketAddr; 3]) {
    let ask = |to, args: &[&str]| call(dir, to, args);
    // TLS 1.3's first suite is the caller's choice or the server's.
    let Said::Agreed(version, _, false) = ask(newest, &["-tls1_3"]) else {
        panic!("1.3 is spoken")
    };
    assert_eq!(version, "TLSv1.3");
    assert_eq!(ask(newest, &["-tls1_2"]), Said::Refused);
    assert_eq!(ask(oldest, &["-tls1_3"]), Said::Refused);
    assert_eq!(ask(oldest, &["-tls1_2"]), agreed("TLSv1.2", SUITE, false));
    assert_eq!(
        ask(oldest, &["-tls1_2", "-cipher", SUITE]),
        agreed("TLSv1.2", SUITE, false)
    );
    for refused in [OTHER_SUITE, "ECDHE-RSA-AES256-GCM-SHA384"] {
        assert_eq!(ask(oldest, &["-tls1_2", "-cipher", refused]), Said::Refused);
    }
    for (suite, args) in [
        (OTHER_SUITE, &["-tls1_2", "-cipher", OTHER_SUITE][..]),
        (
            "TLS_AES_256_GCM_SHA384",
            &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        ),
    ] {
        let Said::Agreed(_, spoken, proof) = ask(usual, args) else {
            panic!("{suite} is spoken");
        };
        assert_eq!((spoken.as_str(), proof), (suite, true));
    }
}

fn servers(dir: &Path, more: &str) -> String {
    let dir = dir.display();
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: edge}}
  servers:
  - port: {{number: 18443, name: newest, protocol: HTTPS}}
    hosts: [{HOST}]
    tls: {{mode: SIMPLE, serverCertificate: {dir}/{HOST}.pem, privateKey: {dir}/{HOST}.key, minProtocolVersion: TLSV1_3}}
  - port: {{number: 18444, name: oldest, protocol: HTTPS}}
    hosts: [{HOST}]
    tls:
      mode: SIMPLE
      serverCertificate: {dir}/{HOST}.pem
      privateKey: {dir}/{HOST}.key
      maxProtocolVersion: TLSV1_2
      cipherSuites: [{SUITE}, DES-CBC3-SHA]
  - port: {{number: 18445, name: usual, protocol: HTTPS}}
    hosts: [{HOST}]
    tls: {{mode: SIMPLE, credentialName: stapled}}
{more}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge}}
spec:
  hosts: [{HOST}]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: shop}}}}]}}]
"
    )
}

async fn shop(mesh: &Mesh, tasks: &Tasks) -> crate::mesh::Sidecar {
    mesh.apply(&service("shop", &[("http", 9080)]));
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", tasks),
        flags: &[],
    };
    mesh.sidecar(&app).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_gets_the_versions_suites_and_proofs_that_a_gateway_is_given() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir, &[HOST, "other.example.com"]);
    let good = std::fs::read(answer(dir, HOST, "V")).unwrap();
    let mesh = Mesh::start().await;
    let _sidecar = shop(&mesh, &tasks).await;
    let applied = mesh.try_run(&["apply", "-f", "-"], Some(&servers(dir, "")));
    let said = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(applied.status.success(), "{said}");
    assert!(
        said.contains("DES-CBC3-SHA"),
        "left out with a word: {said}"
    );
    let none = servers(dir, "").replace(&format!("[{SUITE}, DES-CBC3-SHA]"), "[DES-CBC3-SHA]");
    let refused = mesh.try_run(&["apply", "-f", "-"], Some(&none));
    assert_eq!(refused.status.code(), Some(1));
    let old = servers(dir, "").replace("TLSV1_3", "TLSV1_1");
    let refused = mesh.try_run(&["apply", "-f", "-"], Some(&old));
    assert_eq!(refused.status.code(), Some(1));

    let (_process, address) = mesh.gateway("edge", &[18443, 18444, 18445]).await;
    let at = |port| SocketAddr::new(address, port);
    let usual = at(18445);
    // What openssl sees at the last of them.
    let becomes = async |what: &str, expected: Option<bool>| {
        until(what, 20, || {
            let proof = match call(dir, usual, &[]) {
                Said::Agreed(_, _, proof) => Some(proof),
                Said::Refused => None,
            };
            (proof == expected).then_some(())
        })
        .await;
    };
    mesh.apply(&stapled(dir, "stapled", HOST, &good));
    becomes("the proof", Some(true)).await;
    versions_and_suites(dir, [at(18443), at(18444), usual]);

    // Nothing is shown that does not hold, or is not for this certificate; it comes back by itself.
    let other = std::fs::read(answer(dir, "other.example.com", "V")).unwrap();
    let revoked = std::fs::read(answer(dir, HOST, "R")).unwrap();
    for (what, staple, word) in [
        (
            "another's proof",
            &other[..],
            Some("for another certificate"),
        ),
        ("a revocation", &revoked[..], Some("certificate is good")),
        ("rubbish", b"rubbish", Some("no OCSP response")),
        ("an old proof", &ended(&good), None),
    ] {
        mesh.apply(&stapled(dir, "stapled", HOST, staple));
        becomes(what, Some(false)).await;
        let found = mesh.try_run(&["analyze"], None);
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        match word {
            Some(word) => assert!(found.contains(word), "{what}: {found}"),
            None => assert!(!found.contains("ocsp-staple"), "{what}: {found}"),
        }
        mesh.apply(&stapled(dir, "stapled", HOST, &good));
        becomes("the proof again", Some(true)).await;
    }

    // A certificate that must not be believed without a proof is not shown without one.
    shell(
        dir,
        &format!(
            "printf 'subjectAltName=DNS:{HOST}\\ntlsfeature=status_request\\n' > {HOST}.ext; \
             openssl x509 -req -in {HOST}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
               -extfile {HOST}.ext -out {HOST}.pem"
        ),
    );
    mesh.apply(&secret(dir, "stapled", HOST));
    becomes("no certificate", None).await;
    let good = std::fs::read(answer(dir, HOST, "V")).unwrap();
    mesh.apply(&stapled(dir, "stapled", HOST, &good));
    becomes("the new proof", Some(true)).await;
    mesh.apply(&stapled(dir, "stapled", HOST, &ended(&good)));
    becomes("nothing for want of a proof that holds", None).await;
    drop(mesh);
    tasks.end().await;
}

/// A caller that stays.
struct Open(std::process::Child);

impl Open {
    fn new(dir: &Path, to: SocketAddr) -> Self {
        let child = Command::new("openssl")
            .args(["s_client", "-quiet", "-ign_eof", "-servername", HOST])
            .args(["-CAfile", dir.join("ca.pem").to_str().unwrap()])
            .args(["-connect", &to.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Asks for `/` and gives the answer's first line, having read all of it.
    fn ask(&mut self) -> String {
        use std::io::Read as _;
        let stdin = self.0.stdin.as_mut().unwrap();
        write!(stdin, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
        stdin.flush().unwrap();
        let out = self.0.stdout.as_mut().unwrap();
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"\r\n\r\n") {
            out.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        let head = String::from_utf8(said).unwrap().to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap_or_else(|| panic!("{head}"));
        let mut body = vec![0; length.parse().unwrap()];
        out.read_exact(&mut body).unwrap();
        head.lines().next().unwrap().to_owned()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn serial(dir: &Path, to: SocketAddr) -> String {
    shell(
        dir,
        &format!(
            "openssl s_client -connect {to} -servername {HOST} </dev/null 2>/dev/null \
             | openssl x509 -noout -serial"
        ),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_proofs_change_under_open_connections() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir, &[HOST]);
    let mesh = Mesh::start().await;
    let _sidecar = shop(&mesh, &tasks).await;
    mesh.apply(&servers(dir, ""));
    mesh.apply(&secret(dir, "stapled", HOST));
    let (_process, address) = mesh.gateway("edge", &[18443, 18444, 18445]).await;
    let to = SocketAddr::new(address, 18445);
    until("the certificate", 20, || {
        (call(dir, to, &[]) != Said::Refused).then_some(())
    })
    .await;
    let mut open = Open::new(dir, to);
    assert!(open.ask().starts_with("http/1.1 200"));
    for _ in 0..3 {
        let before = serial(dir, to);
        certificates(dir, &[HOST]);
        let proof = std::fs::read(answer(dir, HOST, "V")).unwrap();
        mesh.apply(&stapled(dir, "stapled", HOST, &proof));
        until("the new certificate with its proof", 20, || {
            let new = serial(dir, to) != before;
            let proven = matches!(call(dir, to, &[]), Said::Agreed(_, _, true));
            (new && proven).then_some(())
        })
        .await;
        assert!(open.ask().starts_with("http/1.1 200"));
    }
    drop((mesh, open));
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_let_in_by_name_key_and_certificate() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let callers = ["anna.example.com", "bert.example.com", "carl.example.com"];
    certificates(dir, &[&[HOST][..], &callers].concat());
    let mesh = Mesh::start().await;
    let _sidecar = shop(&mesh, &tasks).await;
    let key = shell(
        dir,
        "openssl x509 -in anna.example.com.pem -noout -pubkey | openssl pkey -pubin -outform der \
         | openssl dgst -sha256 -binary | openssl base64",
    );
    let certificate = shell(
        dir,
        "openssl x509 -in bert.example.com.pem -noout -fingerprint -sha256 | cut -d= -f2",
    );
    let (key, certificate) = (key.trim(), certificate.trim());
    // Bert is revoked in the list beside the roots of the fourth.
    shell(
        dir,
        "printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=revoked.txt\\ndefault_md=sha256\\ndefault_crl_days=9\\ncrlnumber=number\\n' > ca.cnf; echo 01 > number; \
         : > revoked.txt; openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -revoke bert.example.com.pem; \
         openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem -gencrl -out crl.pem",
    );
    let server = |port: u16, mode: &str, more: &str| {
        let dir = dir.display();
        format!(
            "  - port: {{number: {port}, name: m{port}, protocol: HTTPS}}\n    hosts: [{HOST}]\n    tls: \
             {{mode: {mode}, serverCertificate: {dir}/{HOST}.pem, privateKey: {dir}/{HOST}.key, \
             caCertificates: {dir}/ca.pem{more}}}\n"
        )
    };
    let crl = format!(", caCrl: {}", dir.join("crl.pem").display());
    let more = [
        server(18501, "MUTUAL", ", subjectAltNames: [carl.example.com]"),
        server(
            18502,
            "MUTUAL",
            &format!(", verifyCertificateSpki: ['{key}']"),
        ),
        server(
            18503,
            "MUTUAL",
            &format!(", verifyCertificateHash: ['{certificate}']"),
        ),
        server(18504, "MUTUAL", &crl),
        server(18505, "OPTIONAL_MUTUAL", &crl),
    ];
    mesh.apply(&servers(dir, &more.concat()));
    let ports = [18501, 18502, 18503, 18504, 18505];
    let (_process, address) = mesh.gateway("edge", &ports).await;
    let answered = |port: u16, who: Option<&str>| {
        let with = who.map_or_else(String::new, |who| format!("-cert {who}.pem -key {who}.key"));
        let script = format!(
            "cd {}; (printf 'GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) \
             | openssl s_client -quiet -connect {address}:{port} -servername {HOST} -CAfile ca.pem {with}",
            dir.display()
        );
        program("sh", &["-c", &script]).1.contains("HTTP/1.1 200")
    };
    until("the gateway", 20, || answered(18505, None).then_some(())).await;
    let [anna, bert, carl] = callers;
    for (port, let_in) in [
        (18501, &[carl][..]),
        (18502, &[anna]),
        (18503, &[bert]),
        (18504, &[anna, carl]),
        (18505, &[anna, carl]),
    ] {
        for who in callers {
            assert_eq!(
                answered(port, Some(who)),
                let_in.contains(&who),
                "{port} {who}"
            );
        }
        assert_eq!(answered(port, None), port == 18505, "{port} without any");
    }

    // Both hops are told of: TLS with strangers, and the mesh's own behind it.
    until("the edges of the gateway", 30, || {
        let report = mesh.json(&["edges", "-t", "5m"]);
        let rows = report["edges"].as_array()?;
        let has = |destination: &str, security: &str, reason: &str, by: &str| {
            rows.iter().any(|row| {
                row["destination"] == destination
                    && row["security"] == security
                    && row["reason"] == reason
                    && row["tlsVersion"] == "TLSv1.3"
                    && row["reportedBy"] == by
                    && row["requests"].as_u64() > Some(0)
            })
        };
        let outer = has("edge.default", "tls", "gatewayTls", "destination");
        let inner = has("shop.default", "mutualTls", "", "both");
        (outer && inner).then_some(())
    })
    .await;
    drop(mesh);
    tasks.end().await;
}

/// A view with one listener for each of these.
fn listeners(at: [SocketAddr; 3], to: SocketAddr, own: [OwnTls; 3]) -> meshctl::mesh::View {
    let mut all = view(at[0], &[("shop", 100, &[to])]);
    let (_, one) = all.listeners.pop_first().unwrap();
    for (bind, own) in at.into_iter().zip(own) {
        let mut listener = (*one).clone();
        listener.name = format!("at-{}", bind.port());
        listener.bind = bind;
        listener.chains[0].tls = Some(ServerTls {
            alpn: Vec::new(),
            own: Some(Box::new(own)),
        });
        all.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_speaks_the_same_versions_and_suites_and_shows_the_same_proofs() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir, &[HOST]);
    let path = |name: String| dir.join(name).display().to_string();
    let proof = answer(dir, HOST, "V").display().to_string();
    let files = |staple: Option<&String>| {
        vec![CertificateSource::Files {
            chain: path(format!("{HOST}.pem")),
            key: path(format!("{HOST}.key")),
            staple: staple.cloned(),
        }]
    };
    let own = [
        OwnTls {
            certificates: files(None),
            min_version: TlsVersion::V13,
            ..OwnTls::default()
        },
        OwnTls {
            certificates: files(None),
            max_version: Some(TlsVersion::V12),
            cipher_suites: vec![SUITE.to_owned()],
            ..OwnTls::default()
        },
        OwnTls {
            certificates: files(Some(&proof)),
            stapling: Stapling::Strict,
            ..OwnTls::default()
        },
    ];
    let free = || {
        SocketAddr::new(
            IpAddr::from([127, 0, 0, 1]),
            crate::processes::free().port(),
        )
    };
    let at = [free(), free(), free()];
    let stand = Stand::start(
        listeners(at, backend("shop", &tasks), own),
        any_port(),
        None,
    );
    let Some((_envoy, _logs)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    until("Envoy to listen", 20, || {
        let listens = |to: &SocketAddr| std::net::TcpStream::connect(to).is_ok();
        at.iter().all(listens).then_some(())
    })
    .await;
    versions_and_suites(dir, at);
    drop(stand);
    tasks.end().await;
}
