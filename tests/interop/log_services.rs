//! Services that are told of calls, by the same configuration as a real Envoy, read with the official messages: slow
//! ones, those that go, and those that come back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use meshctl::mesh::access_log::format::Part;
use meshctl::mesh::access_log::service::{LogService, Otlp, Says};
use meshctl::mesh::access_log::{Filter, Logger};
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::expression::Expression;
use meshctl::mesh::listener::TcpOptions;
use meshctl::mesh::tracing::{CustomTag, TagFrom};
use meshctl::mesh::{ChainAction, HttpOptions, Listener, View};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};
use meshctl::telemetry::Registry;
use serde_json::Value;

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
    logs: &[LogService],
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
    let logs = logs.iter().cloned().map(Logger::service);
    let logs: Arc<Vec<Logger>> = Arc::new(logs.collect());
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
        let mine = told.into_iter().filter(|one| one["node"] == node);
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

/// Says of each of `calls` and of a connection of bytes what both have in common.
fn common(entries: &[Value]) -> Vec<Value> {
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        let kind = entry["kind"].as_str().unwrap().to_owned();
        let entry = entry.as_object_mut().unwrap();
        // Who tells.
        for name in ["node", "cluster", "stream"] {
            entry.remove(name);
        }
        let entry = entry["entry"].as_object_mut().unwrap();
        let common = entry["common_properties"].as_object_mut().unwrap();
        for name in ["start_time", "duration", "time_to_last_downstream_tx_byte"] {
            assert!(
                common.remove(name).is_some() || kind == "tcp_logs",
                "{name}"
            );
        }
        for (name, port) in [
            ("downstream_remote_address", true),
            ("downstream_direct_remote_address", true),
            ("downstream_local_address", true),
            ("upstream_local_address", true),
            ("upstream_remote_address", false),
        ] {
            if port && let Some(address) = common.get_mut(name) {
                let socket = address["socket_address"].as_object_mut().unwrap();
                assert!(socket.remove("port_value").is_some());
            }
        }
    }
    entries
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
    let logs = [http, base("connections", Says::Tcp)];
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
        // Those who looked whether it listens said nothing.
        let told = told(&mut sink, node, 14).await;
        let mut told = common(&told);
        for kind in ["http_logs", "tcp_logs"] {
            let of_kind = told.iter().filter(|one| one["kind"] == kind).count();
            assert!(of_kind >= 6, "{kind}: {of_kind}");
        }
        told.retain(|one| {
            let bytes = &one["entry"]["connection_properties"]["received_bytes"];
            let request = &one["entry"]["request"]["request_method"];
            let raw = &one["entry"]["common_properties"]["access_log_type"];
            let looked = *raw == "TcpConnectionEnd";
            !looked || bytes.as_str().is_some_and(|bytes| bytes != "0") || !request.is_null()
        });
        all.push(told);
    }
    for (theirs, ours) in all[0].iter().zip(&all[1]) {
        eprintln!("THEIRS {}", serde_json::to_string(theirs).unwrap());
        eprintln!("OURS   {}", serde_json::to_string(ours).unwrap());
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
        let logs = [base("records", Says::Otlp(Box::new(said)))];
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

/// What an own proxy says of the calls that services were told of: `sent`, `dropped` or `failed`.
async fn counted(admin: SocketAddr, what: &str) -> usize {
    let page = send(
        admin,
        "GET /stats/prometheus HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
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
    let view = logged(binds, app, (port, false), &[service]);
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
    const CALLS: usize = 4_000;
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
    let (proxy, admin, drain) = telling(&tasks, app, ports[0], base("calls", plain())).await;
    let caller = Caller::new(proxy);
    let get = async |path: &str| {
        let (status, _) = caller.get("reviews:9080", path).await.unwrap();
        assert_eq!(status, 200);
    };
    get("/first").await;
    told(&mut sink, "ours", 1).await;
    // Its streams end, and it stays.
    sink.told("cut");
    get("/ends-the-stream").await;
    until("another stream", 20, || {
        let all: Value = serde_json::from_str(&sink.told("all")).unwrap();
        (all["streams"].as_array().unwrap().len() > 1).then_some(())
    })
    .await;
    let all: Value = serde_json::from_str(&sink.told("all")).unwrap();
    for stream in all["streams"].as_array().unwrap() {
        assert_eq!(stream["identified"], 1, "{stream}");
        assert_eq!(stream["metadata"]["x-team"], "blue");
    }
    // It is gone, and comes back at the same place.
    drop(sink);
    let mut gone = 0;
    while counted(admin, "sent").await < 3 && gone < 5 {
        gone += 1;
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
        flush: std::time::Duration::from_secs(600),
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
