//! Attacks from outside on a gateway of the real executable: spellings, made-up addresses and wishes, frames
//! without end, bad certificates, and certificates of another namespace.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use meshctl::net::{ConnectOptions, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::attacks::{Heard, by_http2, request, told};
use crate::gateway::{certificates, secret};
use crate::mesh::{App, Mesh, program, service};
use crate::spellings::SPELLINGS;
use crate::stand::until;

const EDGE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 18080, name: http, protocol: HTTP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ['*']
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /closed}}]
    directResponse: {status: 451}
  - route: [{destination: {host: web}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge}
spec:
  selector: {matchLabels: {istio: edge}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin, '/admin/*']}}]
  - to: [{operation: {paths: [/near]}}]
    from: [{source: {notIpBlocks: [10.9.8.7/32]}}]
  - to: [{operation: {paths: [/began]}}]
    from: [{source: {notRemoteIpBlocks: [10.9.8.7/32]}}]
";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The block of `GET /open` of `web`.
fn head() -> Vec<u8> {
    let path = [&[0x04, 5][..], b"/open"].concat();
    [&[0x82, 0x86][..], &path, &[0x41, 3], b"web"].concat()
}

/// Whether the other side ends the connection while `frames` are sent.
async fn is_ended_by(to: SocketAddr, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let mut io = connect(to, ConnectOptions::default()).await.unwrap();
    let hello = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
    ]
    .concat();
    io.write_all(&hello).await.unwrap();
    let (mut read, mut write) = io.split();
    let sends = async {
        let mut batch = Vec::new();
        for frame in frames {
            batch.extend_from_slice(&frame);
            if batch.len() > 16 << 10 {
                if write.write_all(&batch).await.is_err() {
                    return true;
                }
                batch.clear();
            }
        }
        write.write_all(&batch).await.is_err()
    };
    let reads = async {
        let mut all = vec![0; 64 << 10];
        while read.read(&mut all).await.is_ok_and(|count| count > 0) {}
        true
    };
    let both = async {
        tokio::select! {
            ended = reads => ended,
            ended = sends => ended,
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), both)
        .await
        .unwrap_or(false)
}

/// The most memory that a process has had, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() / 1024
}

/// Frames that cost their sender little, to anything that speaks HTTP/2.
async fn floods(to: SocketAddr, heard: &Heard) {
    let ids = || (1_u32..400_000).step_by(2);
    let many = |bytes: Vec<u8>| (0..200_000).map(move |_| bytes.clone());
    let begun = || [frame(1, 0, 1, &head())].into_iter();
    let before = heard.hits();
    let resets = ids().flat_map(|id| [frame(1, 5, id, &head()), frame(3, 0, id, &[0, 0, 0, 8])]);
    assert!(is_ended_by(to, resets).await, "rapid reset");
    let made = ids().flat_map(|id| [frame(1, 5, id, &head()), frame(8, 0, id, &[0; 4])]);
    assert!(
        is_ended_by(to, made).await,
        "resets that it is made to send"
    );
    // Streams that are given up at once are no requests of the application.
    assert!(heard.hits() < before + 400, "{}", heard.hits() - before);
    let field = [&[0, 1, b'a', 1][..], b"b"].concat();
    let continued = begun().chain(many(frame(9, 0, 1, &field)));
    assert!(is_ended_by(to, continued).await, "CONTINUATION");
    let empty = begun().chain(many(frame(9, 0, 1, &[])));
    assert!(is_ended_by(to, empty).await, "empty CONTINUATION");
    let stray = many(frame(0xbe, 0, 0, &[0; 64]));
    assert!(is_ended_by(to, stray).await, "stray frames");
    // One entry of 4 KB in the table, and a byte for each time that it is meant.
    let before = heard.hits();
    let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4000]].concat();
    let bomb = [head(), long, vec![0xbe; 10_000]].concat();
    let mut io = connect(to, ConnectOptions::default()).await.unwrap();
    let hello = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
        &frame(1, 5, 1, &bomb),
        // The connection goes on, or is ended; whoever asks next is answered or not, but is not the bomb.
        &frame(7, 0, 0, &[0; 8]),
    ]
    .concat();
    io.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let read = io.read_to_end(&mut answer);
    let _ended = tokio::time::timeout(std::time::Duration::from_secs(30), read)
        .await
        .expect("the connection of the bomb did not end");
    let refused = answer.windows(3).any(|three| three == b"431");
    assert!(refused, "{answer:?}");
    assert_eq!(heard.hits(), before, "a bomb was delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_from_outside_get_past_a_gateway_or_keep_it_from_serving() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(EDGE);
    let (heard, at) = Heard::start(&tasks);
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let (process, address) = mesh.gateway("edge", &[18080]).await;
    let to = SocketAddr::new(address, 18080);
    mesh.settled().await;
    assert_eq!(told(to, &request("GET /open", "")).await, 200);
    assert_eq!(heard.hits(), 1);

    let by_two = async |path: &str| {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "web"),
        ];
        by_http2(to, &fields).await
    };
    for spelling in SPELLINGS {
        let status = told(to, &request(&format!("GET {spelling}"), "")).await;
        assert!(matches!(status, 400 | 403 | 404), "{spelling}: {status}");
        let status = by_two(spelling).await;
        assert!(
            matches!(status, 0 | 400 | 403 | 404),
            "{spelling}: {status}"
        );
    }
    // Routes go by the one normal form.
    for spelling in [
        "/closed",
        "/x/../closed",
        "/%63losed",
        "/x/%2e%2e/closed",
        "/x\\..\\closed",
        "/./closed",
        "/open/../closed",
    ] {
        let status = told(to, &request(&format!("GET {spelling}"), "")).await;
        assert_eq!(status, 451, "{spelling}");
        let status = by_two(spelling).await;
        assert_eq!(status, 451, "{spelling}");
    }
    // Addresses that callers say they have.
    for path in ["/near", "/began"] {
        for said in [
            "",
            "X-Forwarded-For: 10.9.8.7\r\n",
            "X-Forwarded-For: 10.9.8.7\r\nX-Forwarded-For: 10.9.8.7\r\n",
            "X-Forwarded-For: 10.9.8.7, 10.9.8.7, 10.9.8.7\r\n",
            "X-Real-IP: 10.9.8.7\r\nForwarded: for=10.9.8.7\r\n",
            "X-Envoy-External-Address: 10.9.8.7\r\nX-Envoy-Internal: true\r\n",
            "True-Client-IP: 10.9.8.7\r\nX-Client-IP: 10.9.8.7\r\n",
        ] {
            let status = told(to, &request(&format!("GET {path}"), said)).await;
            assert_eq!(status, 403, "{path} {said}");
        }
    }
    assert_eq!(heard.hits(), 1, "{}", heard.last());
    // What is sent on is what was matched, and none of what only proxies may say.
    let said = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Envoy-Internal: true\r\n\
                X-Envoy-Retry-On: 5xx\r\nX-Envoy-Max-Retries: 5\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\r\n\
                X-Envoy-External-Address: 10.9.8.7\r\n\
                X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/default/sa/ops\r\n";
    let line = "GET /a/./b/../%63?x=/../y";
    assert_eq!(told(to, &request(line, said)).await, 200);
    let last = heard.last();
    assert!(last.starts_with("get /a/c?x=/../y "), "{last}");
    assert!(last.contains("x-forwarded-for: 203.0.113.7,127."), "{last}");
    for made_up in [
        "x-forwarded-proto: https",
        "x-envoy-internal: true",
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "x-envoy-external-address: 10.9.8.7",
        "sa/ops",
    ] {
        assert!(!last.contains(made_up), "{made_up}: {last}");
    }
    // A wish to be tried again is not one of strangers.
    let before = heard.hits();
    let wish = "X-Envoy-Retry-On: 5xx\r\nX-Envoy-Max-Retries: 5\r\n";
    for more in ["", "X-Forwarded-For: 10.0.0.1\r\n"] {
        let fields = format!("{wish}{more}");
        assert_eq!(told(to, &request("GET /broken", &fields)).await, 500);
    }
    assert_eq!(heard.hits(), before + 2);

    // The gateway and the sidecar, by bytes.
    for (pid, to) in [(process.0.id(), to), (web.pid(), web.inbound(9080))] {
        floods(to, &heard).await;
        assert!(peak(pid) < 300, "{} MiB", peak(pid));
        assert_eq!(told(to, &request("GET /open", "")).await, 200);
    }
    drop(mesh);
    tasks.end().await;
}

/// A Gateway API gateway that lets bad certificates in, and an Istio one whose certificate is elsewhere.
const DOORS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: open}
spec:
  gatewayClassName: meshctl
  listeners:
  - name: https
    port: 18443
    protocol: HTTPS
    tls: {certificateRefs: [{name: own}]}
  tls:
    frontend:
      default: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: open}
spec:
  parentRefs: [{name: open}]
  rules: [{backendRefs: [{name: web, port: 9080}]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shut}
spec:
  selector: {istio: shut}
  servers:
  - port: {number: 18444, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, credentialName: theirs}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shut}
spec:
  hosts: ['*']
  gateways: [shut]
  http: [{route: [{destination: {host: web}}]}]
";

/// The authority's certificate in a ConfigMap.
fn roots(dir: &Path) -> String {
    let pem = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let lines: Vec<String> = pem.lines().map(|line| format!("    {line}")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots}}\ndata:\n  ca.crt: |\n{}\n",
        lines.join("\n")
    )
}

/// A service without a sidecar, which would tell of the gateway alone.
fn outside(at: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{ports: [{{name: http, port: 9080, targetPort: 3000}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-ip4, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}, protocol: TCP}}]\n\
         endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]\n",
        at.port(),
        at.ip()
    )
}

/// What curl is answered: the status, or why none came.
fn get(to: IpAddr, port: u16, caller: Option<(&Path, &str)>) -> String {
    let url = format!("https://shop.example.com:{port}/open");
    let connect = format!("::{to}:");
    let mut args = vec![
        "-sS",
        "-k",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--connect-to",
        &connect,
    ];
    let files = caller.map(|(dir, who)| {
        let file = |ending: &str| dir.join(format!("{who}.{ending}")).display().to_string();
        (file("pem"), file("key"))
    });
    if let Some((cert, key)) = &files {
        args.extend(["--cert", cert, "--key", key]);
    }
    args.push(&url);
    program("curl", &args).1
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_bad_certificates_nor_those_of_another_namespace_count_at_a_gateway() {
    let tasks = Tasks::new();
    let (dir, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, foreign) = (dir.path(), foreign.path());
    certificates(dir, &["shop.example.com", "anna.example.com"]);
    certificates(foreign, &["anna.example.com"]);
    let mesh = Mesh::start().await;
    mesh.apply(&secret(dir, "own", "shop.example.com"));
    mesh.apply(&roots(dir));
    let (heard, at) = Heard::start(&tasks);
    mesh.apply(&outside(at));
    let theirs = secret(dir, "theirs", "shop.example.com");
    mesh.apply(&theirs.replace("{name: theirs}", "{name: theirs, namespace: other}"));
    mesh.run(&["apply", "--force", "-f", "-"], Some(DOORS));
    let (_open, open) = mesh.gateway("open", &[18443]).await;
    let (_shut, shut) = mesh.gateway("shut", &[18444]).await;

    // Who is let in with a bad certificate, or with none, is told of as nobody; with a good one it is told of.
    until("the gateway", 20, || {
        (get(open, 18443, None) == "200").then_some(())
    })
    .await;
    let told_of = |caller| {
        let status = get(open, 18443, caller);
        assert_eq!(status, "200");
        heard.last().matches("hash=").count()
    };
    let nobody = told_of(None);
    assert_eq!(told_of(Some((foreign, "anna.example.com"))), nobody);
    assert_eq!(
        told_of(Some((dir, "anna.example.com"))),
        nobody + 1,
        "{}",
        heard.last()
    );

    // The Secret of another namespace is in no view, and nobody is served with it.
    let before = heard.hits();
    let refused = get(shut, 18444, None);
    assert!(refused.starts_with("000"), "{refused}");
    for name in ["open", "shut"] {
        let held = mesh.run(&["config", "secrets", name, "-o", "json"], None);
        assert!(!held.contains("theirs"), "{name}: {held}");
    }
    assert_eq!(heard.hits(), before);
    mesh.apply(&theirs);
    until("the gateway's own certificate", 20, || {
        (get(shut, 18444, None) == "200").then_some(())
    })
    .await;
    drop(mesh);
    tasks.end().await;
}

/// A listener of the Gateway API that shows, and one that holds callers against, what another namespace has.
const BORROWED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: borrower}
spec:
  gatewayClassName: meshctl
  listeners:
  - name: shown
    port: 18443
    protocol: HTTPS
    hostname: shop.example.com
    tls: {certificateRefs: [{name: theirs, namespace: other}]}
  - name: bytes
    port: 18444
    protocol: TLS
    hostname: shop.example.com
    tls: {mode: Terminate, certificateRefs: [{name: theirs, namespace: other}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: borrower}
spec:
  parentRefs: [{name: borrower, sectionName: shown}]
  rules: [{backendRefs: [{name: web, port: 9080}]}]
";

/// What the owner of Secrets in `namespace` lets Gateways of `from` have.
fn grant(namespace: &str, from: &str, kind: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
         metadata: {{name: lent, namespace: {namespace}}}\nspec:\n  \
         from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}]\n  \
         to: [{{group: '', kind: Secret, name: {to}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_namespace_is_shown_by_its_owners_leave_alone() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir, &["shop.example.com"]);
    let mesh = Mesh::start().await;
    let (heard, at) = Heard::start(&tasks);
    mesh.apply(&outside(at));
    let theirs = secret(dir, "theirs", "shop.example.com");
    mesh.apply(&theirs.replace("{name: theirs}", "{name: theirs, namespace: other}"));
    // What is refused is applied with a warning, and its status says so.
    mesh.run(&["apply", "--force", "-f", "-"], Some(BORROWED));
    let (_process, at) = mesh.gateway("borrower", &[18443, 18444]).await;
    let reasons = || {
        let found = mesh.json(&["get", "gateways.gateway.networking.k8s.io", "borrower"]);
        let found = found.to_string();
        found.matches("RefNotPermitted").count()
    };
    let shut = |why: &str| {
        for port in [18443, 18444] {
            let said = get(at, port, None);
            assert!(said.starts_with("000"), "{why}, {port}: {said}");
        }
        let held = mesh.run(&["config", "secrets", "borrower", "-o", "json"], None);
        assert!(!held.contains("theirs"), "{why}: {held}");
        for kind in ["listeners", "clusters"] {
            let held = mesh.run(&["config", kind, "borrower", "-o", "json"], None);
            assert!(!held.contains("PRIVATE KEY"), "{why}: {held}");
        }
    };
    shut("no grant");
    assert!(reasons() > 0);
    // Grants that are not for this: of whoever wants it, for another namespace, kind or Secret.
    for (why, text) in [
        (
            "its own grant",
            grant("default", "default", "Gateway", "theirs"),
        ),
        ("for others", grant("other", "third", "Gateway", "theirs")),
        (
            "for routes",
            grant("other", "default", "HTTPRoute", "theirs"),
        ),
        (
            "for another Secret",
            grant("other", "default", "Gateway", "another"),
        ),
    ] {
        mesh.apply(&text);
        mesh.settled().await;
        shut(why);
        assert!(reasons() > 0, "{why}");
    }
    assert_eq!(heard.hits(), 0);

    // With leave it is shown, and without it no more.
    mesh.apply(&grant("other", "default", "Gateway", "theirs"));
    until("the certificate that is lent", 20, || {
        (get(at, 18443, None) == "200").then_some(())
    })
    .await;
    assert_eq!(reasons(), 0);
    mesh.run(&["delete", "referencegrant", "lent", "-n", "other"], None);
    until("the end of the loan", 20, || {
        get(at, 18443, None).starts_with("000").then_some(())
    })
    .await;
    mesh.settled().await;
    shut("the grant is taken back");
    drop(mesh);
    tasks.end().await;
}
