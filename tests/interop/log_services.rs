//! Services that are told of calls, by the same configuration as a real Envoy, read with the official messages: slow
//! ones, those that go, and those that come back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use meshctl::mesh::access_log::format::Part;
use meshctl::mesh::access_log::service::{LogService, Otlp, Says};
use meshctl::mesh::access_log::{Filter, Format, Logger};
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::expression::Expression;
use meshctl::mesh::listener::TcpOptions;
use meshctl::mesh::tracing::{CustomTag, TagFrom};
use meshctl::mesh::{ChainAction, HttpOptions, Listener, View};
use meshctl::net::{ConnectOptions, connect};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};
use meshctl::telemetry::Registry;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::access_logs::{calls, send};
use crate::backend::{Caller, backend};
use crate::envoy::{any_port, envoy, synced};
use crate::grpc::Script;
use crate::mesh::{App, Mesh, service};
use crate::processes::{free, installed};
use crate::stand::{Stand, cluster, endpoints, until, view};

const CLUSTER: &str = "outbound|9080||reviews.default.svc.cluster.local";

/// A sink for `mode`, and its ports.
fn sink(mode: &str, at: SocketAddr) -> Option<(Script, Vec<u16>)> {
    let venv = if mode == "als" { "grpc" } else { "otlp" };
    let python = installed(venv, "bin/python")?;
    let mut sink = Script::start(&python, "log_sink.py", &format!("{mode} {at}"), None);
    let ports = sink.line();
    let ports = ports.split(' ').map(|port| port.parse().unwrap()).collect();
    Some((sink, ports))
}

/// A listener of HTTP at `binds.0` and one of bytes at `binds.1`, which log to `logs`, which are at `sink`.
fn logged(
    binds: (SocketAddr, SocketAddr),
    to: SocketAddr,
    (sink, http): (u16, bool),
    logs: &[Logger],
) -> View {
    let mut view = view(binds.0, &[(CLUSTER, 1, &[to])]);
    let mut collector = (*cluster("sink")).clone();
    if !http {
        collector.protocol = UpstreamProtocol::Http2;
    }
    view.clusters.insert("sink".to_owned(), Arc::new(collector));
    let at = SocketAddr::from(([127, 0, 0, 1], sink));
    view.endpoints.insert("sink".to_owned(), endpoints(&[at]));
    let kept = Expression::new("!request.url_path.startsWith('/dropped')").unwrap();
    let filter = Some(Filter::Expression(kept));
    let logs: Arc<Vec<Logger>> = Arc::new(logs.to_vec());
    let requests = logs.iter().cloned();
    let requests = requests.map(|log| log.filtered(filter.clone())).collect();
    let listener: &mut Listener = Arc::make_mut(view.listeners.get_mut("virtualOutbound").unwrap());
    let mut bytes = Listener {
        name: "bytes".to_owned(),
        bind: binds.1,
        ..listener.clone()
    };
    let requests = Arc::new(requests);
    for chain in &mut listener.chains {
        if let ChainAction::Http { options, .. } = &mut chain.action {
            *options = Arc::new(HttpOptions {
                access_log: Some(Arc::clone(&requests)),
                ..HttpOptions::default()
            });
        }
    }
    for chain in &mut bytes.chains {
        chain.action = ChainAction::Tcp {
            clusters: vec![(CLUSTER.to_owned(), 1)],
            options: TcpOptions {
                access_log: Some(Arc::clone(&logs)),
                ..TcpOptions::default()
            },
        };
    }
    view.listeners.insert("bytes".to_owned(), Arc::new(bytes));
    view
}

/// A proxy in this process with `view`.
fn own(view: View, tasks: &Tasks, options: Options) -> (Drain, Arc<Registry>) {
    let views = Published::new(view);
    let identities = Published::new(None);
    let (drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    let registry = Arc::new(Registry::new("Kubernetes"));
    let counted = Arc::clone(&registry);
    tasks.spawn("proxy", async move {
        let ran = proxy::run_with(options, counted, readers, signal).await;
        drop((views, identities));
        ran.unwrap();
    });
    (drain, registry)
}

fn options() -> Options {
    Options {
        node: "ours".to_owned(),
        ..Options::default()
    }
}

async fn listens(at: SocketAddr) {
    until("a proxy to listen", 10, || {
        std::net::TcpStream::connect(at).ok().map(drop)
    })
    .await;
}

/// What the sink was told by whoever calls itself `node`, once it is `count`.
async fn told(sink: &mut Script, node: &str, count: usize) -> Vec<Value> {
    let of = |sink: &mut Script| {
        let all: Value = serde_json::from_str(&sink.told("all")).unwrap();
        let told = all["told"].as_array().unwrap().clone();
        let mine = told
            .into_iter()
            .filter(|one| one["node"] == node && says(one));
        mine.collect::<Vec<Value>>()
    };
    until(&format!("{count} entries of {node:?}"), 20, || {
        let mine = of(sink);
        (mine.len() >= count).then_some(mine)
    })
    .await
}

fn base(name: &str, says: Says) -> LogService {
    LogService {
        cluster: "sink".to_owned(),
        authority: "collector.example.com".to_owned(),
        headers: vec![("x-team".to_owned(), "blue".to_owned())],
        name: name.to_owned(),
        says,
        ..LogService::default()
    }
}

/// What is only so with one of both: who tells, when, by which port; and what Envoy knows besides: the id that it gave a
/// request, and how many bytes heads and wires took.
const OWN: [&str; 13] = [
    "start_time",
    "duration",
    "request_id",
    "stream_id",
    "request_headers_bytes",
    "response_headers_bytes",
    "upstream_header_bytes_sent",
    "downstream_header_bytes_received",
    "upstream_header_bytes_received",
    "downstream_header_bytes_sent",
    "downstream_wire_bytes_sent",
    "downstream_wire_bytes_received",
    "upstream_wire_bytes_sent",
];

/// An entry without that.
fn common(one: &Value) -> Value {
    let mut entry = one["entry"].clone();
    for part in ["common_properties", "request", "response"] {
        let Some(part) = entry.get_mut(part).and_then(Value::as_object_mut) else {
            continue;
        };
        part.retain(|name, _| {
            !OWN.contains(&name.as_str())
                && name != "upstream_wire_bytes_received"
                && !name.starts_with("time_to_")
        });
        for name in [
            "downstream_remote_address",
            "downstream_direct_remote_address",
            "downstream_local_address",
            "upstream_local_address",
        ] {
            if let Some(address) = part.get_mut(name) {
                let socket = address["socket_address"].as_object_mut().unwrap();
                assert!(socket.remove("port_value").is_some());
            }
        }
    }
    serde_json::json!({"log": one["log"], "kind": one["kind"], "entry": entry})
}

/// Whether it tells of a call, or of a connection that said something.
fn says(one: &Value) -> bool {
    let entry = &one["entry"];
    let connection = entry["common_properties"]["access_log_type"] == "TcpConnectionEnd";
    let received = [
        &entry["connection_properties"]["received_bytes"],
        &entry["request"]["request_body_bytes"],
    ];
    !connection || received.iter().any(|bytes| !bytes.is_null())
}

/// Names of the moments that it tells of.
fn moments(one: &Value) -> Vec<String> {
    let common = one["entry"]["common_properties"].as_object().unwrap();
    let names = common.keys().filter(|name| name.starts_with("time_to_"));
    names.cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_and_our_proxy_tell_the_same() {
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    let Some((mut sink, ports)) = sink("als", any_port()) else {
        return;
    };
    let tag = CustomTag {
        from: TagFrom::Header,
        value: "x-user".to_owned(),
        default: "nobody".to_owned(),
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let http = LogService {
        tags: [("user".to_owned(), tag)].into(),
        ..base(
            "requests",
            Says::Http {
                request: names(&["x-user", "user-agent", "x-nope"]),
                response: names(&["content-length"]),
                trailers: names(&["x-nope"]),
            },
        )
    };
    let logs = [http, base("connections", Says::Tcp)].map(Logger::service);
    let theirs = (free(), free());
    let ours = (free(), free());
    let stand = Stand::start(
        logged(theirs, app, (ports[0], false), &logs),
        any_port(),
        None,
    );
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let (drain, _) = own(
        logged(ours, app, (ports[0], false), &logs),
        &tasks,
        options(),
    );
    for at in [theirs, ours] {
        listens(at.0).await;
        listens(at.1).await;
        calls(at.0).await;
        let dropped = "GET /dropped HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n";
        send(at.0, dropped).await;
        let asked = "GET /bytes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        send(at.1, asked).await;
    }
    let node = "sidecar~127.0.0.1~productpage-1.default~default.svc.cluster.local";
    let mut all = Vec::new();
    for node in [node, "ours"] {
        // Five calls and a connection, each in both words; who looked whether somebody listens said nothing.
        let told = told(&mut sink, node, 12).await;
        let answered = |one: &&Value| one["entry"]["response"]["response_code"] == 200;
        let mut moments = moments(told.iter().find(answered).unwrap());
        moments.sort();
        let mut told: Vec<Value> = told.iter().map(common).collect();
        // Two logs are told each for itself.
        told.sort_by_key(|one| one["log"].to_string());
        all.push((moments, told));
    }
    for (theirs, ours) in all[0].1.iter().zip(&all[1].1) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(all[1], all[0]);
    drain.start();
    stand.stop().await;
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_and_our_proxy_tell_opentelemetry_the_same() {
    for by_http in [false, true] {
        let tasks = Tasks::new();
        let app = backend("app", &tasks);
        let Some((mut sink, ports)) = sink("otlp", any_port()) else {
            return;
        };
        let text = |text: &str| Part::Text(text.to_owned());
        let said = Otlp {
            body: Some(text(
                "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE%",
            )),
            attributes: BTreeMap::from([
                ("code".to_owned(), text("%RESPONSE_CODE%")),
                ("flags".to_owned(), text("%RESPONSE_FLAGS%")),
                ("nothing".to_owned(), text("%REQ(X-NOPE)%")),
                (
                    "nested".to_owned(),
                    Part::Object([("bytes".to_owned(), text("%BYTES_SENT%"))].into()),
                ),
            ]),
            resource: [("region".to_owned(), "north".to_owned())].into(),
            builtin: true,
            http_path: by_http.then(|| "/v1/logs".to_owned()),
        };
        let logs = [base("records", Says::Otlp(Box::new(said)))].map(Logger::service);
        let (theirs, ours) = ((free(), free()), (free(), free()));
        let port = ports[usize::from(by_http)];
        let stand = Stand::start(
            logged(theirs, app, (port, by_http), &logs),
            any_port(),
            None,
        );
        let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
            return;
        };
        synced(&stand).await;
        let (drain, _) = own(logged(ours, app, (port, by_http), &logs), &tasks, options());
        for at in [theirs, ours] {
            listens(at.0).await;
            calls(at.0).await;
        }
        let node = "sidecar~127.0.0.1~productpage-1.default~default.svc.cluster.local";
        let mut all = Vec::new();
        for node in [node, "ours"] {
            let told = told(&mut sink, node, 5).await;
            let how = if by_http { "http" } else { "grpc" };
            assert!(told.iter().all(|one| one["how"] == how), "{told:#?}");
            let said = told.into_iter().map(|one| {
                assert_eq!(one["resource"]["region"], "north");
                assert_eq!(one["resource"]["log_name"], "records");
                (one["body"].clone(), one["attributes"].clone())
            });
            all.push(said.collect::<Vec<_>>());
        }
        assert_eq!(all[1], all[0], "by HTTP: {by_http}");
        drain.start();
        stand.stop().await;
        tasks.end().await;
    }
}

/// Operators that say something of connections, or nothing, whoever writes them.
const OF_BYTES: &str = "%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
    %CONNECTION_TERMINATION_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %REQ(:PATH)% %RESP(X-A)% %UPSTREAM_HOST% \
    %UPSTREAM_CLUSTER% %ROUTE_NAME% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% \
    %UPSTREAM_REQUEST_ATTEMPT_COUNT% %REQUESTED_SERVER_NAME% %GRPC_STATUS% %ACCESS_LOG_TYPE% %FILTER_CHAIN_NAME%\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_and_our_proxy_write_the_same_of_connections() {
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    for to in [app, free()] {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let logs = |at: usize| {
            let path = |name: &str| dirs[at].path().join(name).display().to_string();
            let text = |text: &str| Part::Text(text.to_owned());
            let object = [
                ("flags".to_owned(), text("%RESPONSE_FLAGS%")),
                ("sent".to_owned(), text("%BYTES_SENT%")),
                ("host".to_owned(), text("%UPSTREAM_HOST%")),
                ("method".to_owned(), text("%REQ(:METHOD)%")),
            ];
            [
                Logger::file(path("lines"), Format::Text(OF_BYTES.to_owned())),
                Logger::file(path("objects"), Format::Json(object.into())),
            ]
        };
        let (theirs, ours) = ((free(), free()), (free(), free()));
        let view = logged(theirs, to, (1, false), &logs(0));
        let stand = Stand::start(view, any_port(), None);
        let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
            return;
        };
        synced(&stand).await;
        let (drain, _) = own(logged(ours, to, (1, false), &logs(1)), &tasks, options());
        for at in [theirs, ours] {
            listens(at.0).await;
            let asked = "GET /bytes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            // Where nothing answers, it is closed.
            let mut stream = connect(at.1, ConnectOptions::default()).await.unwrap();
            let _sent = stream.write_all(asked.as_bytes()).await;
            let mut answer = Vec::new();
            let _read = stream.read_to_end(&mut answer).await;
            assert_eq!(answer.is_empty(), to != app);
        }
        let mut all = Vec::new();
        for dir in &dirs {
            let mut lines = Vec::new();
            for name in ["lines", "objects"] {
                let path = dir.path().join(name);
                let line = until(&format!("a line in {}", path.display()), 15, || {
                    let text = std::fs::read_to_string(&path).ok()?;
                    text.ends_with('\n').then_some(text)
                })
                .await;
                lines.push(line);
            }
            all.push(lines);
        }
        assert_eq!(all[1], all[0]);
        assert_eq!(all[1][0].contains(" UF,URX "), to != app, "{all:?}");
        drain.start();
        stand.stop().await;
    }
    tasks.end().await;
}

/// What an own proxy says of the calls that services were told of: `sent`, `dropped` or `failed`.
async fn counted(admin: SocketAddr, what: &str) -> usize {
    let page = send(
        admin,
        "GET /stats/prometheus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    let name = format!("meshctl_access_log_service_{what} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{name}: {page}"))
        .trim()
        .parse()
        .unwrap()
}

/// A proxy of ours that tells `service` at `port`, with where it takes calls, its administration and its end.
async fn telling(
    tasks: &Tasks,
    app: SocketAddr,
    port: u16,
    service: LogService,
) -> (SocketAddr, SocketAddr, Drain) {
    let (binds, admin) = ((free(), free()), free());
    let view = logged(binds, app, (port, false), &[Logger::service(service)]);
    let options = Options {
        admin: Some(admin),
        ..options()
    };
    let (drain, _) = own(view, tasks, options);
    listens(binds.0).await;
    listens(admin).await;
    (binds.0, admin, drain)
}

fn plain() -> Says {
    Says::Http {
        request: Vec::new(),
        response: Vec::new(),
        trailers: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_reads_nothing_holds_no_call_up() {
    const CALLS: usize = 3_000;
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    let Some((mut sink, ports)) = sink("als", any_port()) else {
        return;
    };
    let (at, admin, drain) = telling(&tasks, app, ports[0], base("calls", plain())).await;
    let caller = Caller::new(at);
    let get = async |path: &str| {
        let (status, _) = caller.get("reviews:9080", path).await.unwrap();
        assert_eq!(status, 200);
    };
    for _ in 0..10 {
        get("/before").await;
    }
    told(&mut sink, "ours", 10).await;

    sink.told("stop");
    // As long that so many do not fit into the queue.
    let long = format!("/{}", "x".repeat(8 * 1024));
    for _ in 0..CALLS {
        get(&long).await;
    }
    let dropped = counted(admin, "dropped").await;
    assert!(dropped > 0 && dropped < CALLS, "{dropped}");

    sink.told("go");
    let mut all = 0;
    until("all that was kept to be told", 40, || {
        all = sink.told("count").parse().unwrap();
        (all >= 10 + CALLS - dropped).then_some(())
    })
    .await;
    assert_eq!(all, 10 + CALLS - dropped);
    assert_eq!(counted(admin, "sent").await, all);
    assert_eq!(counted(admin, "failed").await, 0);
    get("/after").await;
    let told = told(&mut sink, "ours", all + 1).await;
    let last = &told.last().unwrap()["entry"]["request"];
    assert_eq!(last["path"], "/after");
    drain.start();
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_is_told_again_when_it_is_back() {
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    let at = free();
    let Some((mut sink, ports)) = sink("als", at) else {
        return;
    };
    let (proxy, _, drain) = telling(&tasks, app, ports[0], base("calls", plain())).await;
    let caller = Caller::new(proxy);
    let get = async |path: &str| {
        let (status, _) = caller.get("reviews:9080", path).await.unwrap();
        assert_eq!(status, 200);
    };
    get("/first").await;
    told(&mut sink, "ours", 1).await;
    // Its streams end, and it stays.
    sink.told("cut");
    let streams = |sink: &mut Script| {
        let all: Value = serde_json::from_str(&sink.told("all")).unwrap();
        let streams = all["streams"].as_array().unwrap().iter();
        streams.filter(|stream| stream["identified"] == 1).count()
    };
    for _ in 0..80 {
        if streams(&mut sink) > 1 {
            break;
        }
        // A stream ends with the next message, and the one after that has another.
        get("/on-another-stream").await;
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    assert!(streams(&mut sink) > 1);
    let all: Value = serde_json::from_str(&sink.told("all")).unwrap();
    for stream in all["streams"].as_array().unwrap() {
        // Who tells is said once.
        assert!(stream["identified"].as_u64().unwrap() <= 1, "{stream}");
        assert_eq!(stream["metadata"]["x-team"], "blue");
    }
    // It is gone, and comes back at the same place.
    drop(sink);
    for _ in 0..5 {
        get("/while-it-is-gone").await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let (mut sink, _) = self::sink("als", at).unwrap();
    until("calls to be told again", 30, || {
        let count: usize = sink.told("count").parse().unwrap();
        (count > 0).then_some(())
    })
    .await;
    get("/back").await;
    until("the last call", 20, || {
        let all = sink.told("all");
        all.contains("/back").then_some(())
    })
    .await;
    drain.start();
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_ends_tells_what_waits() {
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    let Some((mut sink, ports)) = sink("als", any_port()) else {
        return;
    };
    let slow = LogService {
        flush: std::time::Duration::from_mins(10),
        ..base("calls", plain())
    };
    let (at, _, drain) = telling(&tasks, app, ports[0], slow).await;
    for _ in 0..3 {
        let asked = "GET /last HTTP/1.1\r\nHost: reviews:9080\r\nConnection: close\r\n\r\n";
        assert!(send(at, asked).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(sink.told("count"), "0");
    drain.start();
    told(&mut sink, "ours", 3).await;
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_config_says_who_is_told() {
    let tasks = Tasks::new();
    let Some((mut sink, ports)) = sink("als", any_port()) else {
        return;
    };
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(&service("caller", &[("http", 9080)]));
    let mut sidecars = Vec::new();
    for name in ["shop", "caller"] {
        let app = App {
            service: name,
            version: "v1",
            port: 9080,
            at: backend(name, &tasks),
            flags: &[],
        };
        sidecars.push(mesh.sidecar(&app).await);
    }
    mesh.apply(&format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: meshctl-system}}
data:
  mesh: |
    extensionProviders:
    - name: calls
      envoyHttpAls:
        service: collector.example.com
        port: {port}
        logName: shop
        additionalRequestHeadersToLog: [x-user]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: collector}}
spec:
  hosts: [collector.example.com]
  ports: [{{number: {port}, name: grpc, protocol: GRPC}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: calls, namespace: default}}
spec:
  accessLogging:
  - providers: [{{name: calls}}]
    filter: {{expression: \"request.url_path.startsWith('/kept')\"}}
",
        port = ports[0]
    ));
    mesh.settled().await;
    let from = Caller::new(sidecars[1].outbound());
    let both = |sink: &mut Script| {
        let all: Value = serde_json::from_str(&sink.told("all")).unwrap();
        let told = all["told"].as_array().unwrap().clone();
        let secured = told.iter().find(|one| {
            let tls = &one["entry"]["common_properties"]["tls_properties"];
            tls["tls_version"] == "TLSv1_3"
        })?;
        let plain = told
            .iter()
            .find(|one| one["entry"]["common_properties"]["tls_properties"].is_null())?;
        Some((secured.clone(), plain.clone()))
    };
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(30);
    let (server, client) = loop {
        let (status, _) = from.get("shop:9080", "/kept").await.unwrap();
        assert_eq!(status, 200);
        from.get("shop:9080", "/other").await.unwrap();
        if let Some(both) = both(&mut sink) {
            break both;
        }
        assert!(meshctl::rt::now() < deadline, "{}", sink.told("all"));
    };
    for one in [&server, &client] {
        assert_eq!(one["log"], "shop");
        let node = one["node"].as_str().unwrap();
        assert!(node.starts_with("sidecar~"), "{node}");
        let request = &one["entry"]["request"];
        assert_eq!(request["path"], "/kept");
        assert_eq!(request["authority"], "shop:9080");
        assert_eq!(one["entry"]["response"]["response_code"], 200);
    }
    let tls = &server["entry"]["common_properties"]["tls_properties"];
    for (side, account) in [("peer", "caller"), ("local", "shop")] {
        let names = &tls[format!("{side}_certificate_properties")]["subject_alt_name"];
        let uri = names[0]["uri"].as_str().unwrap();
        assert!(
            uri.starts_with("spiffe://") && uri.contains(account),
            "{uri}"
        );
    }
    tasks.end().await;
}
