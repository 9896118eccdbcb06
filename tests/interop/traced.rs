//! Traces of a mesh of real processes, as others read them: OpenTelemetry's own messages, Zipkin, a real Envoy.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::route::Share;
use meshctl::mesh::tracing::{SpanFormat, SpanSink, Tracing};
use meshctl::mesh::{ChainAction, HttpOptions, Listener};
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::backend;
use crate::envoy::{any_port, envoy, synced};
use crate::grpc::Script;
use crate::mesh::{App, Mesh, service};
use crate::processes::{free, installed};
use crate::stand::{Stand, cluster, endpoints, until, view};

const PORT: u16 = 9_080;

/// Fields that an application passes on to whomever it calls.
const W3C: &[&str] = &["traceparent", "tracestate", "x-request-id"];
const B3: &[&str] = &[
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-request-id",
];

/// An application that calls the next one, if there is one, by its sidecar, and passes `fields` on.
fn application(
    tasks: &Tasks,
    next: Option<(SocketAddr, &'static str)>,
    fields: &'static [&'static str],
) -> SocketAddr {
    let socket = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = socket.local_addr().unwrap();
    let group = tasks.clone();
    tasks.spawn("application", async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            group.spawn("application connection", async move {
                let service = service_fn(move |request: Request<Incoming>| async move {
                    let mut told = String::new();
                    for name in fields {
                        if let Some(value) = request.headers().get(*name) {
                            write!(told, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
                        }
                    }
                    let answer = match next {
                        Some((proxy, host)) => ask(proxy, host, &told).await,
                        None => "the end".to_owned(),
                    };
                    let body = Full::new(Bytes::from(answer));
                    Ok::<_, Infallible>(Response::new(body))
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ended = builder.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
    address
}

/// A GET of `host` by `proxy` with these fields; all of the answer.
async fn ask(proxy: SocketAddr, host: &str, fields: &str) -> String {
    let mut stream = connect(proxy, ConnectOptions::default()).await.unwrap();
    let request = format!(
        "GET /way HTTP/1.1\r\nHost: {host}\r\nUser-Agent: traced\r\nConnection: close\r\n{fields}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The spans that a sink has got, once there are `count`.
async fn got(sink: &mut Script, count: usize) -> Vec<Value> {
    until("the spans", 20, || {
        let spans: Vec<Value> = serde_json::from_str(&sink.told("all")).unwrap();
        (spans.len() >= count).then_some(spans)
    })
    .await
}

/// Holds when each of `spans` is part of the one before, from `services` in order.
fn is_chain(spans: &[Value], trace: &str, first_parent: &str, services: &[&str]) {
    assert_eq!(spans.len(), services.len(), "{spans:#?}");
    let mut parent = first_parent.to_owned();
    for service in services {
        let span = spans
            .iter()
            .find(|span| span["parent"] == parent.as_str())
            .unwrap_or_else(|| panic!("nothing is part of {parent}: {spans:#?}"));
        assert_eq!(span["service"], *service);
        assert_eq!(span["trace"], trace);
        assert_eq!(span["error"], false);
        parent = span["id"].as_str().unwrap().to_owned();
    }
}

/// Three applications, each behind a sidecar: `one` calls `two`, which calls `three`.
async fn three(
    mesh: &Mesh,
    tasks: &Tasks,
    fields: &'static [&'static str],
    ports: [&str; 3],
) -> Vec<crate::mesh::Sidecar> {
    let names = ["three", "two", "one"];
    let manifests: Vec<String> = names
        .iter()
        .zip(ports)
        .map(|(name, port)| service(name, &[(port, PORT)]))
        .collect();
    mesh.apply(&manifests.join("---\n"));
    let mut sidecars: Vec<crate::mesh::Sidecar> = Vec::new();
    // Where an application calls is known before its sidecar runs: addresses follow each other.
    let mut next: Option<(SocketAddr, &'static str)> = None;
    for name in names {
        let at = application(tasks, next, fields);
        let app = App {
            service: name,
            version: "v1",
            port: PORT,
            at,
            flags: &[],
        };
        let sidecar = mesh.sidecar(&app).await;
        // The next one calls this one, by a sidecar of its own that comes after.
        let [.., host] = match sidecar.address {
            std::net::IpAddr::V4(address) => address.octets(),
            std::net::IpAddr::V6(_) => unreachable!(),
        };
        let mut own = sidecar.outbound();
        if let std::net::IpAddr::V4(address) = sidecar.address {
            let [a, b, c, _] = address.octets();
            own.set_ip([a, b, c, host + 1].into());
        }
        let called: &'static str = match name {
            "three" => "three:9080",
            _ => "two:9080",
        };
        next = Some((own, called));
        sidecars.push(sidecar);
    }
    mesh.settled().await;
    sidecars
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Who gets spans, as a MeshConfig and a service outside the mesh.
fn collector(kind: &str, port: u16) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: meshctl-system}}
data:
  mesh: |
    extensionProviders:
    - name: spans
      {kind}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: collector}}
spec:
  hosts: [collector.example.com]
  ports: [{{number: {port}, name: {protocol}, protocol: {protocol}}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: spans, namespace: meshctl-system}}
spec:
  tracing:
  - providers: [{{name: spans}}]
    customTags: {{team: {{literal: {{value: blue}}}}}}
",
        protocol = if kind.contains("http:") || kind.contains("zipkin") {
            "HTTP"
        } else {
            "GRPC"
        },
    )
}

async fn chain(
    speaks: impl Fn(u16, u16) -> (String, u16),
    fields: &'static [&'static str],
    came: &str,
    (how, ports): (&str, [&str; 3]),
) {
    let Some(python) = installed("otlp", "bin/python") else {
        return;
    };
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let mut sink = Script::start(&python, "otlp_sink.py", "127.0.0.1", None);
    let listening = sink.line();
    let (grpc, http) = listening.split_once(' ').unwrap();
    let (kind, port) = speaks(grpc.parse().unwrap(), http.parse().unwrap());
    mesh.apply(&collector(&kind, port));
    let sidecars = three(&mesh, &tasks, fields, ports).await;
    // Not sampled: nobody hears of it.
    let unsampled = came
        .replace("-01\r", "-00\r")
        .replace("sampled: 1", "sampled: 0");
    let answer = ask(sidecars[2].outbound(), "two:9080", &unsampled).await;
    assert!(answer.contains("the end"), "{answer}");
    let answer = ask(sidecars[2].outbound(), "two:9080", came).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("the end"),
        "{answer}"
    );
    let spans = got(&mut sink, 4).await;
    assert!(spans.iter().all(|span| span["how"] == how), "{spans:#?}");
    let services = ["one.default", "two.default", "two.default", "three.default"];
    is_chain(&spans, TRACE, SPAN, &services);
    for span in &spans {
        assert_eq!(span["tags"]["component"], "proxy");
        assert_eq!(span["tags"]["team"], "blue");
        assert_eq!(span["tags"]["istio.namespace"], "default");
        assert_eq!(span["tags"]["http.status_code"], "200");
    }
    // The control plane keeps the same, with nothing else installed.
    let kept = until("the control plane to know", 20, || {
        let list = mesh.json(&["traces", "--service", "three"]);
        let row = list["traces"].as_array().unwrap().first().cloned()?;
        (row["spans"] == 4).then_some(row)
    })
    .await;
    assert_eq!(kept["traceId"], TRACE);
    assert_eq!(kept["rootService"], "one.default");
    assert_eq!(kept["errors"], 0);
    let tree = mesh.run(&["traces", TRACE], None);
    let lines: Vec<&str> = tree.lines().skip(1).collect();
    assert_eq!(lines.len(), 4, "{tree}");
    assert!(lines[0].starts_with("one.default"), "{tree}");
    assert!(
        lines[3].trim_start().starts_with("└─ three.default"),
        "{tree}"
    );
}

#[tokio::test]
async fn a_chain_is_one_trace_over_w3c_and_otlp_by_grpc() {
    let came = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let speaks = |grpc, _| {
        let kind = format!("opentelemetry: {{service: collector.example.com, port: {grpc}}}");
        (kind, grpc)
    };
    chain(speaks, W3C, &came, ("grpc", ["http", "http", "http"])).await;
}

#[tokio::test]
async fn a_chain_is_one_trace_over_b3_and_zipkin() {
    let came = format!("x-b3-traceid: {TRACE}\r\nx-b3-spanid: {SPAN}\r\nx-b3-sampled: 1\r\n");
    let speaks = |_, http| {
        let kind = format!("zipkin: {{service: collector.example.com, port: {http}}}");
        (kind, http)
    };
    chain(speaks, B3, &came, ("zipkin", ["http", "http", "http"])).await;
}

#[tokio::test]
async fn a_chain_is_one_trace_over_http2_and_otlp_by_http() {
    let came = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let speaks = |_, http| {
        let kind = format!(
            "opentelemetry: {{service: collector.example.com, port: {http}, http: {{path: /v1/traces}}}}"
        );
        (kind, http)
    };
    chain(speaks, W3C, &came, ("http", ["http2", "http2", "http"])).await;
}

#[tokio::test]
async fn a_real_envoy_traces_by_the_same_configuration() {
    let Some(python) = installed("otlp", "bin/python") else {
        return;
    };
    for speaks in [
        SpanFormat::OtlpGrpc,
        SpanFormat::OtlpHttp,
        SpanFormat::Zipkin {
            w3c: true,
            wide: true,
        },
    ] {
        let tasks = Tasks::new();
        let mut sink = Script::start(&python, "otlp_sink.py", "127.0.0.1", None);
        let listening = sink.line();
        let (grpc, http) = listening.split_once(' ').unwrap();
        let by_grpc = speaks == SpanFormat::OtlpGrpc;
        let port: u16 = if by_grpc { grpc } else { http }.parse().unwrap();
        let v1 = backend("v1", &tasks);
        let bind = free();
        let mut view = view(bind, &[("outbound|9080|v1|reviews", 1, &[v1])]);
        let mut collector = (*cluster("sink")).clone();
        if by_grpc {
            collector.protocol = UpstreamProtocol::Http2;
        }
        view.clusters.insert("sink".to_owned(), Arc::new(collector));
        view.endpoints.insert(
            "sink".to_owned(),
            endpoints(&[SocketAddr::from(([127, 0, 0, 1], port))]),
        );
        let tracing = Tracing {
            sampling: Share::default(),
            to: Some(SpanSink {
                cluster: "sink".to_owned(),
                authority: "collector.example.com".to_owned(),
                speaks,
                path: match speaks {
                    SpanFormat::OtlpGrpc => String::new(),
                    SpanFormat::OtlpHttp => "/v1/traces".to_owned(),
                    SpanFormat::Zipkin { .. } => "/api/v2/spans".to_owned(),
                },
                service: "productpage.default".to_owned(),
                ..SpanSink::default()
            }),
            ..Tracing::default()
        };
        for listener in view.listeners.values_mut() {
            let listener: &mut Listener = Arc::make_mut(listener);
            for chain in &mut listener.chains {
                if let ChainAction::Http { options, .. } = &mut chain.action {
                    *options = Arc::new(HttpOptions {
                        tracing: Some(Arc::new(tracing.clone())),
                        ..HttpOptions::default()
                    });
                }
            }
        }
        let stand = Stand::start(view, any_port(), None);
        let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
            return;
        };
        synced(&stand).await;
        let answer = until("Envoy to serve", 20, || {
            std::net::TcpStream::connect(bind).is_ok().then_some(())
        });
        answer.await;
        let came = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
        let answer = ask(bind, "reviews:9080", &came).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let spans = got(&mut sink, 1).await;
        let span = spans.iter().find(|span| span["trace"] == TRACE);
        let span = span.unwrap_or_else(|| panic!("{speaks:?}: {spans:#?}"));
        assert_eq!(span["parent"], SPAN, "{speaks:?}");
        assert_eq!(span["service"], "productpage.default", "{speaks:?}");
        assert_eq!(span["tags"]["component"], "proxy");
        stand.stop().await;
    }
}
