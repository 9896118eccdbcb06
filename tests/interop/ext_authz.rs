//! Somebody outside who is asked whether requests may be made: by our own proxy as by a real Envoy, and
//! through a mesh of real processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::ext_authz::{Asks, AsksHttp, CheckedBody, ExtAuthz, WhenNoted};
use meshctl::mesh::filter::HttpFilter;
use meshctl::mesh::listener::Listener;
use meshctl::mesh::rbac::{Action, Entry, Rbac, Rules, Term};
use meshctl::mesh::route::TextMatch;
use meshctl::mesh::{Cluster, View};
use meshctl::net::{ConnectOptions, connect};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::envoy::{any_port, envoy, synced};
use crate::grpc::Script;
use crate::mesh::{App, Mesh, STRICT, service};
use crate::processes::{free, installed};
use crate::stand::{Stand, cluster, endpoints, until, view};

pub(crate) const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
pub(crate) const GRPC: &str = "outbound|9000||authz.default.svc.cluster.local";
const HTTP: &str = "outbound|8000||authz.default.svc.cluster.local";
pub(crate) const NOBODY: &str = "outbound|1||nobody.default.svc.cluster.local";

/// An application, and whoever is asked by gRPC and by HTTP.
pub(crate) struct Asked {
    _script: Script,
    pub(crate) app: SocketAddr,
    pub(crate) grpc: SocketAddr,
    http: SocketAddr,
}

pub(crate) fn asked() -> Option<Asked> {
    let python = installed("grpc", "bin/python")?;
    let mut script = Script::start(&python, "ext_authz.py", "", None);
    let ports: Value = serde_json::from_str(&script.line()).unwrap();
    let at = |name: &str| {
        let port = u16::try_from(ports[name].as_u64().unwrap()).unwrap();
        SocketAddr::from(([127, 0, 0, 1], port))
    };
    Some(Asked {
        app: at("app"),
        grpc: at("grpc"),
        http: at("http"),
        _script: script,
    })
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Told {
    /// What the application says that it got.
    fn got(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

async fn reached(to: SocketAddr) -> TcpStream {
    until("the listener", 20, || {
        std::net::TcpStream::connect(to).is_ok().then_some(())
    })
    .await;
    connect(to, ConnectOptions::default()).await.unwrap()
}

async fn call(to: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> Told {
    let mut io = reached(to).await;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: reviews:9080\r\n{length}{fields}\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    if fields.contains("100-continue") {
        let mut informed = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        io.read_exact(&mut informed).await.unwrap();
        assert!(informed.starts_with(b"HTTP/1.1 100"), "{informed:?}");
    }
    io.write_all(body.as_bytes()).await.unwrap();
    read_answer(&mut io, method == "HEAD").await
}

async fn answer(io: &mut TcpStream) -> Told {
    read_answer(io, false).await
}

/// A body in chunks, once it is whole.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = rest.get(end + 2..)?;
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
        if size == 0 {
            return Some(whole);
        }
    }
}

async fn read_answer(io: &mut TcpStream, bodiless: bool) -> Told {
    let mut read = Vec::new();
    let whole = async {
        loop {
            let end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8(read[..end].to_vec()).unwrap();
                let mut lines = head.split("\r\n");
                let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse();
                let headers: BTreeMap<String, String> = lines
                    .map(|line| {
                        let (name, value) = line.split_once(':').unwrap();
                        (name.to_ascii_lowercase(), value.trim().to_owned())
                    })
                    .collect();
                let length = headers.get("content-length");
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                let body = if bodiless {
                    Some(Vec::new())
                } else if headers.contains_key("transfer-encoding") {
                    unchunked(&read[end + 4..])
                } else {
                    read.get(end + 4..end + 4 + length).map(<[u8]>::to_vec)
                };
                if let Some(body) = body {
                    return Told {
                        status: status.unwrap(),
                        headers,
                        body: String::from_utf8(body).unwrap(),
                    };
                }
            }
            let count = io.read_buf(&mut read).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&read));
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), whole).await;
    told.unwrap_or_else(|_| panic!("no answer but {:?}", String::from_utf8_lossy(&read)))
}

pub(crate) fn by_grpc(cluster: &str) -> ExtAuthz {
    ExtAuthz {
        asks: Asks::Grpc {
            cluster: cluster.to_owned(),
            authority: "authz".to_owned(),
            metadata: Vec::new(),
        },
        timeout: Duration::from_secs(3),
        ..ExtAuthz::default()
    }
}

fn names(all: &[&str]) -> Vec<TextMatch> {
    let exact = |name: &&str| TextMatch::Exact((*name).to_owned());
    all.iter().map(exact).collect()
}

fn by_http(cluster: &str) -> ExtAuthz {
    ExtAuthz {
        asks: Asks::Http(Box::new(AsksHttp {
            cluster: cluster.to_owned(),
            uri: "http://authz".to_owned(),
            path_prefix: "/check".to_owned(),
            headers_to_add: vec![("x-added".to_owned(), "here".to_owned())],
            upstream: names(&["x-asked", "x-client"]),
            allowed: names(&["x-told"]),
            ..AsksHttp::default()
        })),
        allowed_headers: names(&["x-client"]),
        ..by_grpc(cluster)
    }
}

fn with_body(config: ExtAuthz, max_bytes: u32, partial: bool, as_bytes: bool) -> ExtAuthz {
    ExtAuthz {
        body: Some(CheckedBody {
            max_bytes,
            partial,
            as_bytes,
        }),
        ..config
    }
}

/// Ways to ask, each at a listener of its own.
fn ways() -> Vec<(&'static str, ExtAuthz)> {
    let quick = |config: ExtAuthz| ExtAuthz {
        timeout: Duration::from_millis(300),
        ..config
    };
    let open = |config: ExtAuthz| ExtAuthz {
        fail_open: true,
        tells_fail_open: true,
        ..config
    };
    let mut some_denied = by_http(HTTP);
    if let Asks::Http(http) = &mut some_denied.asks {
        http.denied = names(&["x-why"]);
    }
    vec![
        ("grpc", quick(by_grpc(GRPC))),
        ("grpc open", open(quick(by_grpc(GRPC)))),
        ("grpc body", with_body(by_grpc(GRPC), 16, false, false)),
        ("grpc part", with_body(by_grpc(GRPC), 16, true, true)),
        (
            "grpc some headers",
            ExtAuthz {
                allowed_headers: names(&["x-client", ":path"]),
                ..by_grpc(GRPC)
            },
        ),
        (
            "grpc nobody",
            ExtAuthz {
                status_on_error: 503,
                ..by_grpc(NOBODY)
            },
        ),
        ("grpc nobody open", open(by_grpc(NOBODY))),
        ("http", quick(by_http(HTTP))),
        ("http open", open(quick(by_http(HTTP)))),
        ("http some denied", some_denied),
        ("http body", with_body(by_http(HTTP), 16, false, false)),
        ("http part", with_body(by_http(HTTP), 16, true, false)),
        ("http nobody", by_http(NOBODY)),
        ("sometimes", noted(by_grpc(GRPC))),
    ]
}

fn noted(config: ExtAuthz) -> ExtAuthz {
    ExtAuthz {
        when: Some(WhenNoted {
            prefix: "noted_".to_owned(),
            policy: TextMatch::Prefix("ask-".to_owned()),
        }),
        ..config
    }
}

/// Notes `/deny` only.
fn notes() -> Rbac {
    let entry = Entry {
        permissions: vec![Term::Path(TextMatch::Prefix("/deny".to_owned()))],
        principals: vec![Term::Any],
    };
    Rbac {
        shadow: Some(Arc::new(Rules {
            action: Action::Deny,
            policies: BTreeMap::from([("ask-it".to_owned(), entry)]),
        })),
        shadow_prefix: "noted_".to_owned(),
        ..Rbac::default()
    }
}

fn asking(binds: &[SocketAddr], asked: &Asked) -> View {
    let mut made = view(binds[0], &[(V1, 1, &[asked.app])]);
    let table = made.routes.get_mut("9080").unwrap();
    Arc::make_mut(table).hosts[0].domains = vec!["*".to_owned()];
    let plain = made.listeners.remove("virtualOutbound").unwrap();
    for (name, at) in [(GRPC, asked.grpc), (HTTP, asked.http), (NOBODY, free())] {
        let protocol = if name == HTTP {
            UpstreamProtocol::Http1
        } else {
            UpstreamProtocol::Http2
        };
        let cluster = Cluster {
            protocol,
            ..Cluster::clone(&cluster(name))
        };
        made.clusters.insert(name.to_owned(), Arc::new(cluster));
        made.endpoints.insert(name.to_owned(), endpoints(&[at]));
    }
    for (bind, (name, way)) in binds.iter().zip(ways()) {
        let mut listener = Listener::clone(&plain);
        listener.name = name.replace(' ', "-");
        listener.bind = *bind;
        listener.chains[0].filters = vec![
            HttpFilter::Rbac(Arc::new(notes())),
            HttpFilter::ExtAuthz(Arc::new(way)),
        ];
        made.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }
    made
}

const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("GET", "/a?b=c", "X-Client: own\r\nX-Secret: s\r\n", ""),
    (
        "GET",
        "/a",
        "Authorization: Basic x\r\nX-Client: a\r\nX-Client: b\r\n",
        "",
    ),
    (
        "GET",
        "/x/../headers",
        "X-Client: own\r\nX-Secret: s\r\nX-More: one\r\n",
        "",
    ),
    ("DELETE", "/headers", "", ""),
    ("GET", "/query?admin=1&x=y", "", ""),
    ("GET", "/deny", "", ""),
    ("HEAD", "/deny", "", ""),
    ("GET", "/deny/bare", "", ""),
    ("POST", "/deny", "", "a body"),
    ("POST", "/a", "", "short"),
    ("POST", "/a", "", "longer than sixteen bytes"),
    ("GET", "/redirect", "", ""),
    ("GET", "/slow", "", ""),
    ("GET", "/broken", "", ""),
];

/// What is held against the other's: what may differ between two proxies is left out.
fn said(told: &Told) -> (u16, Vec<(String, String)>, Value) {
    let kept = [
        "x-why",
        "x-hidden",
        "x-told",
        "content-type",
        "location",
        "x-app",
    ];
    let headers = kept.iter().filter_map(|name| {
        let value = told.headers.get(*name)?;
        Some(((*name).to_owned(), value.clone()))
    });
    let mut got = told.got();
    let body = if got.is_null() {
        Value::String(told.body.clone())
    } else {
        let headers = got["headers"].as_object().cloned().unwrap_or_default();
        let kept = [
            "x-client",
            "x-more",
            "x-secret",
            "x-asked",
            "authorization",
            "content-length",
            "x-envoy-auth-failure-mode-allowed",
        ];
        let headers = headers.into_iter();
        let headers = headers.filter(|(name, _)| kept.contains(&name.as_str()));
        got["headers"] = Value::Object(headers.collect());
        got.as_object_mut().unwrap().remove("asked");
        // In what order parameters are written again is no matter.
        let path = got["path"].as_str().unwrap().to_owned();
        if let Some((path, query)) = path.split_once('?') {
            let mut parts: Vec<&str> = query.split('&').collect();
            parts.sort_unstable();
            got["path"] = Value::String(format!("{path}?{}", parts.join("&")));
        }
        got
    };
    (told.status, headers.collect(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_asks_as_we_do() {
    let Some(asked) = asked() else { return };
    let tasks = Tasks::new();
    let count = ways().len();
    let binds: Vec<SocketAddr> = (0..2 * count)
        .map(|_| cluster::ports::free_address())
        .collect();
    let (theirs, ours) = binds.split_at(count);
    let stand = Stand::start(asking(theirs, &asked), any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let (views, identities) = (Published::new(asking(ours, &asked)), Published::new(None));
    let (_drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    tasks.spawn("proxy", async move {
        proxy::run(Options::default(), readers.0, readers.1, signal)
            .await
            .unwrap();
    });
    let mut differing = Vec::new();
    let mut statuses = BTreeMap::new();
    for ((their, our), (name, _)) in theirs.iter().zip(ours).zip(ways()) {
        for (method, path, fields, body) in REQUESTS {
            let (expected, found) = tokio::join!(
                call(*their, method, path, fields, body),
                call(*our, method, path, fields, body),
            );
            *statuses.entry(found.status).or_insert(0) += 1;
            let (mut expected, mut found) = (expected, found);
            if *method == "HEAD" {
                // Where there is no body Envoy does not say what it would be.
                expected.headers.remove("content-type");
                found.headers.remove("content-type");
            }
            if said(&expected) != said(&found) {
                differing.push(format!(
                    "{name}: {method} {path} {body:?}\n  Envoy {:?}\n  ours  {:?}",
                    said(&expected),
                    said(&found)
                ));
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    let statuses: Vec<_> = statuses.keys().copied().collect();
    assert_eq!(statuses, [200, 302, 401, 403, 413, 503]);
    tasks.end().await;
}

/// An answer that says no header can be refuses the request, and what the caller wrote in its place does not
/// pass either. A caller that goes away is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_honoured_let_nothing_pass() {
    let Some(asked) = asked() else { return };
    let tasks = Tasks::new();
    let binds: Vec<SocketAddr> = ways()
        .iter()
        .map(|_| cluster::ports::free_address())
        .collect();
    let (views, identities) = (Published::new(asking(&binds, &asked)), Published::new(None));
    let (_drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    tasks.spawn("proxy", async move {
        proxy::run(Options::default(), readers.0, readers.1, signal)
            .await
            .unwrap();
    });
    let at = |name: &str| {
        let place = ways().iter().position(|(own, _)| *own == name).unwrap();
        binds[place]
    };
    let evil = call(at("grpc"), "GET", "/evil", "X-Client: own\r\n", "").await;
    assert_eq!((evil.status, evil.body.as_str()), (500, ""));
    // Who fails open does not do it for an answer that is there.
    let evil = call(at("grpc open"), "GET", "/evil", "X-Client: own\r\n", "").await;
    assert_eq!(evil.status, 500);
    // Whatever the spelling, the path that is asked about is the one that the application gets.
    for path in ["/deny/../a", "/a/./b", "/a//b", "/%61", "/a;x=1"] {
        let told = call(at("grpc"), "GET", path, "", "").await;
        let got = told.got();
        let seen: Value =
            serde_json::from_str(got["headers"]["x-asked"].as_str().unwrap()).unwrap();
        assert_eq!(seen["path"], got["path"], "{path}");
    }
    // Rules that ask hold in every reading of a path.
    for path in [
        "/deny",
        "/DENY",
        "/deny;x=1",
        "/%64eny",
        "/a/../deny",
        "/%2564eny",
        "/deny%2f",
    ] {
        let told = call(at("sometimes"), "GET", path, "", "").await;
        let asked = told.status == 401 || told.got()["headers"].get("x-asked").is_some();
        assert!(asked, "{path}: {told:?}");
    }
    let told = call(at("sometimes"), "GET", "/other", "", "").await;
    assert_eq!(told.got()["headers"].get("x-asked"), None);
    // What asks for another protocol is asked about before it is said whether that may be.
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let told = call(at("grpc"), "GET", "/deny", fields, "").await;
    assert_eq!(told.status, 401);
    let mut io = reached(at("grpc nobody")).await;
    io.write_all(b"CONNECT reviews:9080 HTTP/1.1\r\nHost: reviews:9080\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(answer(&mut io).await.status, 503);
    // A body that waits to be asked for.
    let fields = "Expect: 100-continue\r\n";
    let told = call(at("grpc body"), "POST", "/a", fields, "what is asked").await;
    assert_eq!(told.got()["body"], "what is asked");
    let seen = told.got()["headers"]["x-asked"]
        .as_str()
        .unwrap()
        .to_owned();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["body"], "what is asked");
    // In chunks, and more than is asked about: the application gets all of it, once.
    let mut io = reached(at("grpc part")).await;
    let head = "POST /a HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    for part in [
        "a\r\n0123456789\r\n",
        "a\r\nabcdefghij\r\n",
        "5\r\nvwxyz\r\n",
        "0\r\n\r\n",
    ] {
        io.write_all(part.as_bytes()).await.unwrap();
    }
    let told = answer(&mut io).await;
    assert_eq!(told.got()["body"], "0123456789abcdefghijvwxyz");
    let seen = told.got()["headers"]["x-asked"]
        .as_str()
        .unwrap()
        .to_owned();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["raw"], "0123456789abcdef");
    assert_eq!(seen["headers"]["x-envoy-auth-partial-body"], "true");
    // The connection goes on.
    io.write_all(b"GET /deny HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(answer(&mut io).await.status, 401);
    io.write_all(b"GET /a HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(answer(&mut io).await.status, 200);
    tasks.end().await;
}

fn providers(grpc_open: bool) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: meshctl-system}}
data:
  mesh: |
    extensionProviders:
    - name: by-grpc
      envoyExtAuthzGrpc:
        service: default/authz-grpc.default.svc.cluster.local
        port: 9000
        timeout: 2s
        failOpen: {grpc_open}
        statusOnError: \"503\"
    - name: by-http
      envoyExtAuthzHttp:
        service: authz-http.default.svc.cluster.local
        port: 8000
        pathPrefix: /check
        timeout: 2s
        includeRequestHeadersInCheck: [x-client]
        headersToUpstreamOnAllow: [x-asked]
        headersToDownstreamOnDeny: [x-why, content-type]
        includeRequestBodyInCheck: {{maxRequestBytes: 64}}
"
    )
}

fn policy(name: &str, app: &str, provider: &str, paths: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {app}}}
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{to: [{{operation: {{paths: {paths}}}}}]}}]
"
    )
}

const EDGE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 18080, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: ['*']
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /moved}}]
    redirect: {uri: /elsewhere}
  - match: [{uri: {exact: /fixed}}]
    directResponse: {status: 200, body: {string: fixed}}
  - route: [{destination: {host: reviews, port: {number: 9080}}}]
";

/// With the real binary: at a sidecar over the mesh's mTLS, and at a gateway; whoever is asked is of the mesh.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_asked_decides_at_sidecars_and_gateways() {
    let Some(asked) = asked() else { return };
    let mesh = Mesh::start().await;
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(&service("authz-grpc", &[("grpc", 9000)]));
    mesh.apply(&service("authz-http", &[("http", 8000)]));
    mesh.apply(STRICT);
    mesh.apply(&providers(false));
    mesh.apply(EDGE);
    let start = async |service: &'static str, port: u16, at: SocketAddr| {
        let app = App {
            service,
            version: "v1",
            port,
            at,
            flags: &["--access-log", "json"],
        };
        mesh.sidecar(&app).await
    };
    let _reviews = start("reviews", 9080, asked.app).await;
    let grpc = start("authz-grpc", 9000, asked.grpc).await;
    let _http = start("authz-http", 8000, asked.http).await;
    let page = start("productpage", 9081, asked.app).await;
    let (_edge, edge) = mesh.gateway("edge", &["18080"]).await;
    let edge = SocketAddr::new(edge, 18080);
    mesh.settled().await;
    let out = page.outbound();
    // A connection that is older than the policy.
    let mut older = reached(out).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: reviews:9080\r\n\r\n");
    older.write_all(get("/deny").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut older).await.status, 200);

    mesh.apply(&policy(
        "ask",
        "{app: reviews}",
        "by-grpc",
        "['/deny*', '/a*', '/slow']",
    ));
    older.write_all(get("/deny").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut older).await.status, 401);
    let told = call(out, "GET", "/a", "X-Client: own\r\n", "").await;
    assert_eq!(told.status, 200, "{told:?}");
    let got = told.got();
    let seen: Value = serde_json::from_str(got["headers"]["x-asked"].as_str().unwrap()).unwrap();
    assert_eq!(
        seen["principal"],
        "spiffe://cluster.local/ns/default/sa/productpage-account"
    );
    assert_eq!(
        seen["destination"],
        "spiffe://cluster.local/ns/default/sa/reviews-account"
    );
    assert_eq!(seen["certificate"], "-----BEGIN%20CERTIFICATE---");
    assert_eq!(seen["protocol"], "HTTP/2");
    let denied = call(out, "GET", "/deny", "", "").await;
    assert_eq!((denied.status, denied.body.as_str()), (401, "not you"));
    assert_eq!(denied.headers["x-why"], "because");
    assert_eq!(denied.headers["content-type"], "text/x-why");
    // Nobody is asked about others.
    let other = call(out, "GET", "/other", "", "").await;
    assert_eq!(other.got()["headers"].get("x-asked"), None, "{other:?}");
    let log = || mesh.said("reviews-v1");
    until("the refusal to be logged", 20, || {
        (log().contains("ext_authz_denied") && log().contains("UAEX")).then_some(())
    })
    .await;

    // What is said before.
    let check = |path: &'static str| {
        let args = [
            "authz",
            "check",
            "--from",
            "productpage-v1",
            "--to",
            "reviews",
            "GET",
            path,
        ];
        String::from_utf8(mesh.try_run(&args, None).stdout).unwrap()
    };
    let at = "by-grpc at authz-grpc.default.svc.cluster.local:9000";
    assert!(
        check("/a").contains(&format!("asks {at}")),
        "{}",
        check("/a")
    );
    assert!(
        !check("/other").contains("if that lets it"),
        "{}",
        check("/other")
    );
    let url = "http://reviews:9080/a";
    let text = mesh.run(
        &[
            "routes",
            "--explain",
            "GET",
            url,
            "--from",
            "productpage-v1",
        ],
        None,
    );
    assert!(text.contains(&format!("asks {at}")), "{text}");

    // Too late is no answer.
    let begun = meshctl::rt::now();
    assert_eq!(call(out, "GET", "/slow", "", "").await.status, 503);
    assert!(begun.elapsed() < Duration::from_secs(4));

    // At the gateway, by HTTP: before redirects and answers of routes.
    let gate = policy(
        "gate",
        "{istio: edge}",
        "by-http",
        "['/deny*', '/gate', '/moved/deny', '/fixed', '/redirect']",
    );
    mesh.apply(&gate);
    mesh.settled().await;
    let told = call(edge, "POST", "/gate", "X-Client: own\r\n", "a question").await;
    assert_eq!(told.status, 200, "{told:?}");
    let got = told.got();
    assert_eq!(got["body"], "a question");
    let seen: Value = serde_json::from_str(got["headers"]["x-asked"].as_str().unwrap()).unwrap();
    assert_eq!(seen["body"], "a question");
    assert_eq!(seen["path"], "/check/gate");
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["headers"]["x-client"], "own");
    let large = "x".repeat(65);
    assert_eq!(call(edge, "POST", "/gate", "", &large).await.status, 413);
    for path in ["/deny", "/moved/deny", "/moved/../deny", "/DENY"] {
        let denied = call(edge, "GET", path, "", "").await;
        assert_eq!(
            denied.status,
            if path == "/DENY" { 200 } else { 401 },
            "{path}"
        );
        assert_eq!(denied.headers.get("x-hidden"), None);
    }
    assert_eq!(call(edge, "GET", "/fixed", "", "").await.body, "fixed");
    assert_eq!(call(edge, "GET", "/moved", "", "").await.status, 301);
    let away = call(edge, "GET", "/redirect", "", "").await;
    assert_eq!(away.headers["location"], "https://login.example/?a=b");

    // Two providers for one workload: what either is asked about is refused.
    mesh.apply(&policy("second", "{app: reviews}", "by-http", "['/b']"));
    for path in ["/a", "/b"] {
        assert_eq!(call(out, "GET", path, "", "").await.status, 403, "{path}");
        assert!(check(path).contains("several providers"), "{}", check(path));
    }
    let found = mesh.try_run(&["analyze"], None);
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("MSH0511"), "{found}");
    mesh.run(&["delete", "authorizationpolicy", "second"], None);
    assert_eq!(call(out, "GET", "/a", "", "").await.status, 200);

    // One whom nobody knows is no way around.
    let unknown = policy("ask", "{app: reviews}", "nobody", "['/a*']");
    let refused = mesh.try_run(&["apply", "-f", "-"], Some(&unknown));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("MSH0510"), "{text}");
    mesh.run(&["apply", "--force", "-f", "-"], Some(&unknown));
    assert_eq!(call(out, "GET", "/a", "", "").await.status, 403);
    assert_eq!(call(out, "GET", "/other", "", "").await.status, 200);
    mesh.apply(&policy("ask", "{app: reviews}", "by-grpc", "['/a*']"));
    assert_eq!(call(out, "GET", "/a", "", "").await.status, 200);

    // Gone, and by leave open.
    drop(grpc);
    assert_eq!(call(out, "GET", "/a", "", "").await.status, 503);
    mesh.run(&["apply", "-f", "-"], Some(&providers(true)));
    assert_eq!(call(out, "GET", "/a", "", "").await.status, 200);
    until("the error to be logged", 20, || {
        log().contains("ext_authz_error").then_some(())
    })
    .await;
}
