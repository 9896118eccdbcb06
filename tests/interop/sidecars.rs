//! Other people's clients through two sidecars: HTTP/1.1, HTTP/2 and gRPC, trailers and all.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;

use crate::grpc::{Script, server};
use crate::mesh::{App, Mesh, STRICT, Sidecar, program, service};
use crate::processes::installed;

/// A server of HTTP/1.1 and h2c that gives every body back, and its length in a trailer.
fn mirror(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("mirror", async move {
        while let Ok((io, _)) = listener.accept().await {
            connections.spawn("connection", async move {
                let served = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(io), service_fn(answer))
                    .await;
                // Callers go as they please.
                let _ended = served.is_ok();
            });
        }
    });
    address
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let version = format!("{:?}", request.version());
    let body = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-length", body.len().into());
    let body = if body.is_empty() {
        Bytes::from_static(b"empty\n")
    } else {
        body
    };
    // Without a known length, after which curl would not wait for trailers.
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let answer = Response::builder()
        .header("x-version", version)
        .header("trailer", "x-length")
        .body(body.boxed());
    Ok(answer.unwrap())
}

/// `echo` behind a sidecar, its port declared as `port`, and a sidecar of somebody who calls it.
async fn pair(port: &str, at: SocketAddr) -> (Mesh, Sidecar, Sidecar) {
    let mesh = Mesh::start().await;
    mesh.apply(&service("echo", &[(port, 9090)]));
    mesh.apply(STRICT);
    let app = App {
        service: "echo",
        version: "v1",
        port: 9090,
        at,
        flags: &[],
    };
    let callee = mesh.sidecar(&app).await;
    let caller = mesh
        .sidecar(&App {
            service: "caller",
            ..app
        })
        .await;
    mesh.settled().await;
    (mesh, caller, callee)
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_pass_with_trailers() {
    let tasks = Tasks::new();
    let (mesh, caller, _callee) = pair("http2", mirror(&tasks)).await;
    let url = format!("http://{}/some/path", caller.outbound());

    let authority = ["-H", ":authority: echo:9090"];
    let h2load = |words: &str, more: &[&str]| {
        let words: Vec<&str> = words.split(' ').collect();
        program("h2load", &[&words[..], &authority, more].concat())
    };
    let (good, said) = h2load("-n 4000 -c 8 -m 16", &[&url]);
    assert!(good, "{said}");
    assert!(
        said.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{said}"
    );
    assert!(said.contains("4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");

    // Bodies of a megabyte in both directions, with flow control on the way.
    let big = mesh.path().join("big");
    std::fs::write(&big, vec![b'x'; 1 << 20]).unwrap();
    let big = big.to_str().unwrap();
    let (_, said) = h2load("-n 40 -c 2 -m 4", &["-d", big, &url]);
    assert!(said.contains("40 succeeded, 0 failed"), "{said}");

    let args = [&["-v", "-d", big][..], &authority, &[&url]].concat();
    let (good, said) = program("nghttp", &args);
    assert!(good && said.contains(":status: 200"), "{said}");
    assert!(said.contains("x-length: 1048576"), "{said}");

    let connect = format!("echo:9090:{}", caller.outbound());
    let curl = |version: &str| {
        let args = [
            "-sS",
            "-D",
            "-",
            "-m",
            "10",
            "-d",
            "12345",
            version,
            "--connect-to",
            &connect,
            "http://echo:9090/",
        ];
        program("curl", &args)
    };
    let (good, said) = curl("--http2-prior-knowledge");
    assert!(good && said.starts_with("HTTP/2 200"), "{said}");
    assert!(said.contains("x-length: 5"), "{said}");
    assert!(said.contains("x-version: HTTP/2.0"), "{said}");
    // HTTP/1.1 in, HTTP/2 out, because the port says so.
    let (good, said) = curl("--http1.1");
    assert!(good && said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains("x-version: HTTP/2.0"), "{said}");
    assert!(said.contains("12345"), "{said}");
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_applications_are_reached_from_both_protocols() {
    let tasks = Tasks::new();
    let (mesh, caller, callee) = pair("http", mirror(&tasks)).await;
    let connect = format!("echo:9090:{}", caller.outbound());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let args = ["-sS", "-i", "-m", "10", "-d", "12345", version];
        let more = ["--connect-to", &connect, "http://echo:9090/"];
        let (good, said) = program("curl", &[&args[..], &more].concat());
        assert!(good && said.contains("x-version: HTTP/1.1"), "{said}");
        assert!(said.contains("12345"), "{said}");
    }
    // As a forward proxy too, which is how an application without capture finds its sidecar.
    let proxy = format!("http://{}", caller.outbound());
    let args = ["-sS", "-i", "-m", "10", "-x", &proxy, "http://echo:9090/"];
    let (good, said) = program("curl", &args);
    assert!(good && said.contains("empty"), "{said}");
    // Both sides counted it, encrypted.
    let metrics = format!("http://{}:15090/stats/prometheus", callee.address);
    let (good, said) = program("curl", &["-sS", &metrics]);
    assert!(good, "{said}");
    assert!(
        said.lines().any(|line| {
            line.starts_with("istio_requests_total")
                && line.contains("connection_security_policy=\"mutual_tls\"")
                && line.contains(
                    "source_principal=\"spiffe://cluster.local/ns/default/sa/caller-account\"",
                )
        }),
        "{said}"
    );
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_of_all_kinds_pass() {
    let Some(python) = installed("grpc", "bin/python") else {
        return;
    };
    let (_server, at) = server(&python, "echo");
    let (mesh, caller, _callee) = pair("grpc", at).await;
    let mut client = Script::start(
        &python,
        "grpc_streams.py",
        &caller.outbound().to_string(),
        None,
    );
    let report: serde_json::Value = serde_json::from_str(&client.line()).unwrap();
    let expected = serde_json::json!({
        "unary": "echo",
        // A message each, in order, while the stream goes on.
        "serverStream": ["0", "1", "2", "3", "4"],
        "clientStream": "100",
        "conversation": ["echo: a", "echo: b", "echo: c"],
        "trailer": "said 3",
        "status": ["FAILED_PRECONDITION", "not today: ä"],
        "unknown": "UNIMPLEMENTED",
        "deadline": "DEADLINE_EXCEEDED",
        "cancelled": "CANCELLED",
        "large": 3_000_000,
    });
    assert_eq!(report, expected);
    drop(mesh);
}
