//! Traces: what heads say on, and what spans tell whoever gets them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::route::{Action, Share};
use meshctl::mesh::tracing::{CustomTag, SpanFormat, SpanSink, TagFrom, Tracing};
use meshctl::mesh::{HttpOptions, View};
use meshctl::rt::Tasks;
use meshctl::telemetry::otlp::{ExportTraceServiceRequest, Span, Value};
use prost::Message as _;
use serde_json::json;

use super::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Somebody who gets spans: keeps each message, and answers what it is told.
struct Sink {
    address: SocketAddr,
    got: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
    status: Arc<Mutex<u16>>,
    _tasks: Tasks,
}

impl Sink {
    fn start() -> Self {
        let (socket, address) = listen();
        let got = Arc::new(Mutex::new(Vec::new()));
        let status = Arc::new(Mutex::new(200));
        let tasks = Tasks::new();
        let (kept, told, group) = (Arc::clone(&got), Arc::clone(&status), tasks.clone());
        tasks.spawn("sink", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                let (kept, told) = (Arc::clone(&kept), Arc::clone(&told));
                group.spawn("sink connection", async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (kept, told) = (Arc::clone(&kept), Arc::clone(&told));
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.unwrap().to_bytes();
                            let path = head.uri.path().to_owned();
                            let status = *told.lock().unwrap();
                            if status == 200 {
                                kept.lock().unwrap().push((path, head.headers, body));
                            }
                            let trailers = async {
                                let mut trailers = HeaderMap::new();
                                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                                Some(Ok::<_, Infallible>(trailers))
                            };
                            let answer = Full::<Bytes>::default().with_trailers(trailers);
                            let response = Response::builder().status(status).body(answer);
                            Ok::<_, Infallible>(response.unwrap())
                        }
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ended = builder.serve_connection(TokioIo::new(tcp), service).await;
                });
            }
        });
        Self {
            address,
            got,
            status,
            _tasks: tasks,
        }
    }

    /// Waits for a message, and gives all.
    async fn messages(&self) -> Vec<(String, HeaderMap, Bytes)> {
        eventually(|| async { !self.got.lock().unwrap().is_empty() }).await;
        self.got.lock().unwrap().clone()
    }

    /// The spans of all messages in OpenTelemetry's words, behind so many bytes.
    async fn spans(&self, prefix: usize) -> Vec<Span> {
        let messages = self.messages().await;
        let read = messages.iter().flat_map(|(_, _, body)| {
            let message = ExportTraceServiceRequest::decode(&body[prefix..]).unwrap();
            message
                .resource_spans
                .into_iter()
                .flat_map(|group| group.scope_spans)
                .flat_map(|part| part.spans)
        });
        read.collect()
    }
}

fn tag<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|tag| tag.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// HTTP from `bind` to `app`, traced so, with `sink` as cluster `sink`.
fn view(bind: SocketAddr, app: SocketAddr, sink: SocketAddr, tracing: Tracing) -> View {
    let options = HttpOptions {
        tracing: Some(Arc::new(tracing)),
        ..HttpOptions::default()
    };
    let mut collector = cluster("sink");
    collector.protocol = UpstreamProtocol::Downstream;
    Views::default()
        .http_with("t", bind, options)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .cluster(collector, vec![endpoint(sink)])
        .0
}

fn to(speaks: SpanFormat, path: &str) -> SpanSink {
    SpanSink {
        cluster: "sink".to_owned(),
        authority: "collector".to_owned(),
        speaks,
        path: path.to_owned(),
        service: "shop.default".to_owned(),
        ..SpanSink::default()
    }
}

fn always(speaks: SpanFormat, path: &str) -> Tracing {
    Tracing {
        sampling: Share::default(),
        to: Some(to(speaks, path)),
        ..Tracing::default()
    }
}

/// A GET with these fields; what the application got of each name, in order.
async fn seen(bind: SocketAddr, fields: &[(&str, &str)], name: &str) -> Vec<String> {
    let mut request = "GET /a?b=c HTTP/1.1\r\nHost: app\r\nConnection: close\r\n".to_owned();
    for (name, value) in fields {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    let answer = exchange(bind, request + "\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let start = format!("{name}: ");
    let lines = answer.lines().filter_map(|line| line.strip_prefix(&start));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_span_is_part_of_the_callers_and_the_application_of_it() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let tracing = Tracing {
        tags: [
            ("team", TagFrom::Literal, "blue", ""),
            ("tenant", TagFrom::Header, "x-tenant", "nobody"),
            ("zone", TagFrom::Header, "x-zone", "unknown"),
        ]
        .into_iter()
        .map(|(name, from, value, default)| {
            let (value, default) = (value.to_owned(), default.to_owned());
            let tag = CustomTag {
                from,
                value,
                default,
            };
            (name.to_owned(), tag)
        })
        .collect(),
        ..always(SpanFormat::OtlpHttp, "/v1/traces")
    };
    let proxy = Proxy::start(view(bind, app.address, sink.address, tracing)).await;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let fields = [
        ("traceparent", parent.as_str()),
        ("tracestate", "a=b"),
        ("x-tenant", "one"),
        ("user-agent", "test"),
    ];
    let told = seen(bind, &fields, "traceparent").await;
    let [told] = told.as_slice() else {
        panic!("{told:?}")
    };
    let own = told
        .strip_prefix(&format!("00-{TRACE}-"))
        .and_then(|rest| rest.strip_suffix("-01"))
        .unwrap_or_else(|| panic!("{told}"));
    assert_ne!(own, SPAN);
    let spans = sink.spans(0).await;
    let span = &spans[0];
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.span_id), own);
    assert_eq!(hex(&span.parent_span_id), SPAN);
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    for (name, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.url", "http://app/a?b=c"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("response_flags", "-"),
        ("user_agent", "test"),
        ("upstream_cluster", "app"),
        ("peer.address", "127.0.0.1"),
        ("team", "blue"),
        ("tenant", "one"),
        ("zone", "unknown"),
    ] {
        assert_eq!(tag(span, name), Some(value), "{name}");
    }
    assert_eq!(tag(span, "error"), None);
    assert!(tag(span, "response_size").unwrap().parse::<u64>().unwrap() > 10);
    // It passes as it came; ids are what the application sees.
    assert_eq!(seen(bind, &fields, "tracestate").await, ["a=b"]);
    let (path, head, _) = &sink.messages().await[0];
    assert_eq!(path, "/v1/traces");
    assert_eq!(head["content-type"], "application/x-protobuf");
    assert!(
        head["traceparent"].to_str().unwrap().ends_with("-00"),
        "telling of spans leaves none"
    );
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_context_goes_on_in_the_forms_that_it_came_in() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let tracing = Tracing {
        to: Some(to(
            SpanFormat::Zipkin {
                w3c: false,
                wide: true,
            },
            "/api/v2/spans",
        )),
        ..Tracing::default()
    };
    let proxy = Proxy::start(view(bind, app.address, sink.address, tracing)).await;
    let several = [
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "1"),
    ];
    assert_eq!(seen(bind, &several, "x-b3-traceid").await, [TRACE]);
    assert_eq!(seen(bind, &several, "x-b3-parentspanid").await, [SPAN]);
    let own = seen(bind, &several, "x-b3-spanid").await;
    assert!(own.len() == 1 && own[0] != SPAN, "{own:?}");
    assert!(seen(bind, &several, "traceparent").await.is_empty());
    let single = [("b3", format!("{TRACE}-{SPAN}-1"))];
    let single: Vec<_> = single
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let told = seen(bind, &single, "b3").await;
    assert!(
        told.len() == 1 && told[0].starts_with(TRACE) && told[0].ends_with(&format!("-1-{SPAN}")),
        "{told:?}"
    );
    // What was decided not to be recorded passes untouched.
    let off = [("b3", "0")];
    assert_eq!(seen(bind, &off, "b3").await, ["0"]);
    let messages = sink.messages().await;
    let (path, head, body) = &messages[0];
    assert_eq!(
        (path.as_str(), &head["content-type"]),
        (
            "/api/v2/spans",
            &HeaderValue::from_static("application/json")
        )
    );
    let spans: serde_json::Value = serde_json::from_slice(body).unwrap();
    let span = &spans[0];
    assert_eq!(span["traceId"], json!(TRACE));
    assert_eq!(span["parentId"], json!(SPAN));
    assert_eq!(span["kind"], json!("CLIENT"));
    assert_eq!(span["tags"]["http.status_code"], json!("200"));
    assert!(span["duration"].as_u64().unwrap() >= 1);
    assert!(span["timestamp"].as_u64().unwrap() > 1_700_000_000_000_000);
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_not_sampled_is_decided_once_for_the_whole_way() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let never = Tracing {
        sampling: Share::NONE,
        ..always(SpanFormat::OtlpGrpc, "")
    };
    let proxy = Proxy::start(view(bind, app.address, sink.address, never)).await;
    let told = seen(bind, &[], "traceparent").await;
    assert!(told.len() == 1 && told[0].ends_with("-00"), "{told:?}");
    let came = format!("00-{TRACE}-{SPAN}-00");
    assert_eq!(
        seen(bind, &[("traceparent", &came)], "traceparent").await,
        [came.as_str()]
    );
    // Nobody's context: a new one takes its place, and what belonged to it goes.
    let broken = [("traceparent", "00-1-2-01"), ("tracestate", "a=b")];
    let told = seen(bind, &broken, "traceparent").await;
    assert!(told.len() == 1 && told[0].len() == 55, "{told:?}");
    assert!(seen(bind, &broken, "tracestate").await.is_empty());
    // The application beside may ask for a trace, whatever the share is.
    let forced = [("x-envoy-force-trace", "1")];
    let told = seen(bind, &forced, "traceparent").await;
    assert!(told.len() == 1 && told[0].ends_with("-01"), "{told:?}");
    let spans = sink.spans(5).await;
    assert_eq!(spans.len(), 1);
    assert_eq!(hex(&spans[0].trace_id), told[0].split('-').nth(1).unwrap());
    assert!(spans[0].parent_span_id.is_empty());
    let (path, head, _) = &sink.messages().await[0];
    assert_eq!(
        path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    assert_eq!(head["content-type"], "application/grpc");
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_has_one_id_in_its_head_and_in_its_span() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let tracing = always(SpanFormat::OtlpHttp, "/v1/traces");
    let proxy = Proxy::start(view(bind, app.address, sink.address, tracing)).await;
    let made = seen(bind, &[], "x-request-id").await;
    let kept = seen(bind, &[("x-request-id", "mine")], "x-request-id").await;
    assert_eq!(kept, ["mine"]);
    eventually(|| async { sink.spans(0).await.len() == 2 }).await;
    let spans = sink.spans(0).await;
    // Each worker has its own way out, so they come in any order.
    let ids: BTreeSet<_> = spans
        .iter()
        .map(|span| tag(span, "guid:x-request-id"))
        .collect();
    assert_eq!(ids, [Some(made[0].as_str()), Some("mine")].into());
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn without_anybody_who_gets_spans_heads_stay_as_they_are() {
    let (app, bind) = (App::start("app"), free());
    let proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    assert!(seen(bind, &[], "traceparent").await.is_empty());
    let came = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(
        seen(bind, &[("traceparent", &came)], "traceparent").await,
        [came]
    );
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_away_costs_no_request() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    *sink.status.lock().unwrap() = 503;
    let tracing = always(SpanFormat::OtlpHttp, "/v1/traces");
    let view = view(bind, app.address, sink.address, tracing);
    let proxy = Proxy::start(view).await;
    let tasks = Tasks::new();
    let mut caller = Caller::new(&tasks, bind).await;
    for _ in 0..300 {
        assert_eq!(caller.get("/").await.unwrap().0, 200);
    }
    assert!(sink.got.lock().unwrap().is_empty());
    // What was tried in vain is delivered once somebody is there again.
    *sink.status.lock().unwrap() = 200;
    eventually(|| async { sink.spans(0).await.len() == 300 }).await;
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn spans_of_the_last_moment_are_delivered_at_the_end() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let tracing = always(SpanFormat::OtlpHttp, "/v1/traces");
    let proxy = Proxy::start(view(bind, app.address, sink.address, tracing)).await;
    assert_eq!(status(&get(bind, "/").await), 200);
    proxy.stop().await.unwrap();
    assert_eq!(sink.spans(0).await.len(), 1);
}

#[tokio::test]
async fn a_call_of_grpc_is_told_as_one() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let tracing = always(SpanFormat::OtlpHttp, "/v1/traces");
    let proxy = Proxy::start(view(bind, app.address, sink.address, tracing)).await;
    let fields = [
        ("content-type", "application/grpc+proto"),
        ("grpc-timeout", "3S"),
        ("te", "trailers"),
    ];
    assert_eq!(seen(bind, &fields, "traceparent").await.len(), 1);
    let spans = sink.spans(0).await;
    for (name, value) in [
        ("grpc.path", "/a?b=c"),
        ("grpc.authority", "app"),
        ("grpc.content_type", "application/grpc+proto"),
        ("grpc.timeout", "3S"),
    ] {
        assert_eq!(tag(&spans[0], name), Some(value), "{name}");
    }
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn more_calls_than_may_leave_a_span_in_a_second_pass_without_one() {
    let (app, sink, bind) = (App::start("app"), Sink::start(), free());
    let tracing = always(SpanFormat::OtlpHttp, "/v1/traces");
    let options = meshctl::proxy::Options {
        workers: 1,
        ..meshctl::proxy::Options::default()
    };
    let view = view(bind, app.address, sink.address, tracing);
    let proxy = Proxy::with(options, view, None).await;
    let tasks = Tasks::new();
    let since = meshctl::rt::now();
    let calls = (0..8).map(|_| async {
        let mut caller = Caller::new(&tasks, bind).await;
        let mut sampled = 0_u64;
        for _ in 0..500 {
            let (status, body) = caller.get("/").await.unwrap();
            assert_eq!(status, 200);
            // One way or the other it is said to everybody after.
            let told = body.lines().find(|line| line.starts_with("traceparent: "));
            sampled += u64::from(told.unwrap().ends_with("-01"));
        }
        sampled
    });
    let sampled: u64 = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .sum();
    let seconds = since.elapsed().as_secs() + 2;
    assert!(sampled <= seconds * 500, "{sampled} in {seconds} s");
    proxy.stop().await.unwrap();
}
