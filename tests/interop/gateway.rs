//! A gateway of real processes: callers from outside, by curl and openssl, to services of a mesh that
//! refuses plaintext.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use meshctl::rt::Tasks;

use crate::backend::backend;
use crate::mesh::{App, Mesh, STRICT, program, service};
use crate::stand::until;

/// An authority with a certificate for each of these names.
pub(crate) fn certificates(dir: &Path, names: &[&str]) {
    let script = "set -e; cd \"$1\"; shift; \
        ec() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }; \
        test -e ca.pem || { ec ca; openssl req -x509 -new -key ca.key -subj /CN=outside -days 2 -out ca.pem; }; \
        for who in \"$@\"; do ec $who; \
          openssl req -new -key $who.key -subj /CN=$who -out $who.csr; \
          printf \"subjectAltName=DNS:$who\" > $who.ext; \
          openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile $who.ext -out $who.pem; done";
    let made = Command::new("sh")
        .args(["-c", script, "sh", dir.to_str().unwrap()])
        .args(names)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

/// A Secret of type `kubernetes.io/tls` with the certificate for `name`.
pub(crate) fn secret(dir: &Path, called: &str, name: &str) -> String {
    let file = |name: String| std::fs::read_to_string(dir.join(name)).unwrap();
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {called}}}\ntype: kubernetes.io/tls\nstringData:\n"
    );
    for (key, pem) in [
        ("tls.crt", file(format!("{name}.pem"))),
        ("tls.key", file(format!("{name}.key"))),
    ] {
        writeln!(text, "  {key}: |").unwrap();
        for line in pem.lines() {
            writeln!(text, "    {line}").unwrap();
        }
    }
    text
}

fn gateway(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: edge}}
  servers:
  - port: {{number: 18080, name: http, protocol: HTTP}}
    hosts: [shop.example.com]
  - port: {{number: 18080, name: moved, protocol: HTTP}}
    hosts: [secure.example.com]
    tls: {{httpsRedirect: true}}
  - port: {{number: 18443, name: https, protocol: HTTPS}}
    hosts: [shop.example.com, '*.example.com']
    tls: {{mode: SIMPLE, credentialName: shop-certificate}}
  - port: {{number: 18443, name: mutual, protocol: HTTPS}}
    hosts: [mutual.example.com]
    tls:
      mode: MUTUAL
      serverCertificate: {dir}/mutual.example.com.pem
      privateKey: {dir}/mutual.example.com.key
      caCertificates: {dir}/ca.pem
      subjectAltNames: [client.example.com]
  - port: {{number: 18444, name: passed, protocol: TLS}}
    hosts: [passed.example.com]
    tls: {{mode: PASSTHROUGH}}
  - port: {{number: 18090, name: bytes, protocol: TCP}}
    hosts: ['*']
"
    )
}

fn routes(tls: u16, bytes: u16) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge}}
spec:
  hosts: ['shop.example.com', 'mutual.example.com']
  gateways: [edge]
  http:
  - match: [{{uri: {{prefix: /old}}}}]
    rewrite: {{uri: /new}}
    route: [{{destination: {{host: shop}}}}]
  - match: [{{port: 18443, uri: {{prefix: /secret}}}}]
    route: [{{destination: {{host: shop}}}}]
  - match: [{{uri: {{prefix: /secret}}}}]
    directResponse: {{status: 403}}
  - route: [{{destination: {{host: shop}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: passed}}
spec:
  hosts: ['passed.example.com']
  gateways: [edge]
  tls:
  - match: [{{sniHosts: [passed.example.com]}}]
    route: [{{destination: {{host: passed.example.com}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bytes}}
spec:
  hosts: ['bytes.example.com']
  gateways: [edge]
  tcp:
  - route: [{{destination: {{host: bytes.example.com}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: passed}}
spec:
  hosts: [passed.example.com]
  resolution: STATIC
  ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {tls}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: bytes}}
spec:
  hosts: [bytes.example.com]
  resolution: STATIC
  ports: [{{number: 9000, name: tcp, protocol: TCP, targetPort: {bytes}}}]
  endpoints: [{{address: 127.0.0.1}}]
"
    )
}

/// What curl gets from a gateway for a URL: the status, a line break, then the body; and whether it got
/// anything.
pub(crate) struct Outside<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) gateway: IpAddr,
}

impl Outside<'_> {
    pub(crate) fn get(&self, url: &str, more: &[&str]) -> (bool, String) {
        let to = format!("::{}:", self.gateway);
        let ca = self.dir.join("ca.pem");
        let args = [
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--connect-to",
            &to,
            "--cacert",
            ca.to_str().unwrap(),
            "--write-out",
            "\n%{http_code} %{http_version} %{redirect_url}",
        ];
        program("curl", &[&args[..], more, &[url]].concat())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_from_outside_come_in_by_a_gateway() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(
        dir,
        &[
            "shop.example.com",
            "mutual.example.com",
            "client.example.com",
            "stranger.example.com",
            "passed.example.com",
        ],
    );
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let _sidecar = mesh.sidecar(&app).await;
    // TLS of the application's own, and bytes.
    let passed = backend_of_tls(dir);
    let bytes = backend("bytes", &tasks);
    mesh.apply(&gateway(dir));
    mesh.apply(&routes(passed.1, bytes.port()));
    let (_process, address) = mesh.gateway("edge", &[18080, 18443, 18444, 18090]).await;
    let outside = Outside {
        dir,
        gateway: address,
    };
    let found = |(_, text): (bool, String)| text;

    // In the clear, by host and path; the caller is a stranger, whatever it says of itself.
    let spoofed = [
        "-H",
        "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/a/sa/b",
    ];
    let plain = found(outside.get("http://shop.example.com:18080/old/1", &spoofed));
    assert!(plain.starts_with("shop /new/1"), "{plain}");
    assert!(
        plain.contains("/sa/edge") && !plain.contains("sa/b"),
        "{plain}"
    );
    assert!(plain.contains("\n200 1.1"), "{plain}");
    let refused = found(outside.get("http://shop.example.com:18080/secret", &[]));
    assert!(refused.contains("\n403 "), "{refused}");
    let nobody = found(outside.get("http://other.example.com:18080/", &[]));
    assert!(nobody.contains("\n404 "), "{nobody}");
    let moved = found(outside.get("http://secure.example.com:18080/x?y=1", &[]));
    assert!(moved.contains("\n301 "), "{moved}");
    assert!(moved.contains("https://secure.example.com"), "{moved}");

    // Until there is a certificate nobody is served.
    let (served, said) = outside.get("https://shop.example.com:18443/", &[]);
    assert!(!served, "{said}");
    mesh.apply(&secret(dir, "shop-certificate", "shop.example.com"));
    mesh.settled().await;
    until("the certificate", 20, || {
        let (served, _) = outside.get("https://shop.example.com:18443/", &[]);
        served.then_some(())
    })
    .await;
    let secure = found(outside.get("https://shop.example.com:18443/secret", &[]));
    assert!(secure.starts_with("shop /secret"), "{secure}");
    assert!(secure.contains("\n200 2"), "HTTP/2 is agreed on: {secure}");
    let (old, said) = outside.get("https://shop.example.com:18443/", &["--tls-max", "1.1"]);
    assert!(!old, "{said}");
    let (other, said) = outside.get("https://other.example.org:18443/", &["--insecure"]);
    assert!(!other, "{said}");
    // Who is let in for one host asks for another on the same connection, which wants a certificate.
    let around = ["-H", "host: mutual.example.com"];
    let around = found(outside.get("https://shop.example.com:18443/", &around));
    assert!(around.contains("\n421 "), "{around}");

    // Callers with a certificate of the right authority and name only.
    let mutual = "https://mutual.example.com:18443/";
    assert!(!outside.get(mutual, &[]).0);
    let with = |who: &str| {
        let file = |ending: &str| dir.join(format!("{who}{ending}")).display().to_string();
        (file(".pem"), file(".key"))
    };
    let (cert, key) = with("stranger.example.com");
    let (let_in, said) = outside.get(mutual, &["--cert", &cert, "--key", &key]);
    assert!(!let_in, "{said}");
    let (cert, key) = with("client.example.com");
    let (let_in, said) = outside.get(mutual, &["--cert", &cert, "--key", &key]);
    assert!(let_in && said.starts_with("shop /"), "{said}");

    // A certificate in a file is followed.
    let before = serial(address, 18443, "mutual.example.com");
    certificates(dir, &["mutual.example.com"]);
    until("the new certificate", 20, || {
        (serial(address, 18443, "mutual.example.com") != before).then_some(())
    })
    .await;

    // TLS that passes is the application's own.
    let passing = found(outside.get("https://passed.example.com:18444/", &[]));
    assert!(passing.contains("s_server"), "{passing}");
    let (wrong, said) = outside.get("https://other.example.com:18444/", &["--insecure"]);
    assert!(!wrong, "{said}");
    // And bytes are bytes.
    let carried = found(outside.get("http://anything:18090/z", &[]));
    assert!(carried.starts_with("bytes /z"), "{carried}");
    // Nobody sees the key.
    for shown in [
        mesh.run(&["config", "listeners", "edge"], None),
        mesh.run(&["config", "listeners", "edge", "-o", "json"], None),
    ] {
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
    drop(mesh);
    tasks.end().await;
}

/// The serial number of what a caller of `name` is shown.
fn serial(to: IpAddr, port: u16, name: &str) -> String {
    let script = "openssl s_client -connect \"$1\" -servername \"$2\" </dev/null 2>/dev/null | openssl x509 -noout -serial";
    let at = format!("{to}:{port}");
    program("sh", &["-c", script, "sh", &at, name]).1
}

/// openssl as a server with the certificate for `passed.example.com`.
fn backend_of_tls(dir: &Path) -> (crate::processes::Process, u16) {
    let port = crate::processes::free().port();
    let child = Command::new("openssl")
        .args(["s_server", "-www", "-accept", &port.to_string()])
        .args([
            "-cert",
            "passed.example.com.pem",
            "-key",
            "passed.example.com.key",
        ])
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    (crate::processes::Process(child), port)
}

const EGRESS: &str = include_str!("../../examples/egress/egress.yaml");

/// From an application to a host outside, by the sidecar and a gateway that takes only the mesh's callers.
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_outside_go_through_an_egress_gateway() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let outside = backend("outside", &tasks);
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(&format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [outside.example.com]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}]
  endpoints: [{{address: 127.0.0.1}}]
",
        outside.port()
    ));
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    mesh.apply(EGRESS);
    let (_process, address) = mesh.gateway("egress", &[8443]).await;
    mesh.settled().await;
    let caller = crate::backend::Caller::new(sidecar.outbound());
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(20);
    let body = loop {
        match caller.get("outside.example.com", "/x").await {
            Ok((200, body)) => break body,
            other => assert!(meshctl::rt::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert!(body.starts_with("outside /x"), "{body}");
    // What is said of both halves beforehand is what happens.
    let explain = |args: &[&str]| {
        let all = [&["routes", "--explain", "GET"][..], args].concat();
        mesh.json(&all)["outcome"]["backends"][0]["cluster"].clone()
    };
    let first = explain(&["http://outside.example.com/", "--from", "shop-v1"]);
    assert_eq!(first, "outbound|8443||egress.default.svc.cluster.local");
    let second = explain(&["https://outside.example.com:8443/", "--gateway", "egress"]);
    assert_eq!(second, "outbound|80||outside.example.com");
    // The gateway has it from a workload of the mesh, and nobody else is let in.
    assert!(body.contains("/sa/shop-account"), "{body}");
    let stranger = program(
        "curl",
        &[
            "--silent",
            "--insecure",
            "--max-time",
            "5",
            "--connect-to",
            &format!("::{address}:"),
            "https://outside.example.com:8443/",
        ],
    );
    assert!(!stranger.0, "{stranger:?}");
    drop(mesh);
    tasks.end().await;
}
