//! What lasts, through a gateway and a sidecar of real processes: a large upload, a WebSocket, gRPC that
//! streams, and gRPC as browsers speak it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::grpc::server;
use crate::mesh::{App, Mesh, STRICT, Sidecar, service};
use crate::processes::{Process, installed};

const GIB: u64 = 1 << 30;
/// What is sent at a time.
const PIECE: usize = 256 * 1024;
/// Everything must happen within this.
const DEADLINE: Duration = Duration::from_mins(2);

const EDGE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 18080, name: http, protocol: HTTP}
    hosts: ['*']
  - port: {number: 18081, name: web, protocol: GRPC-WEB}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http:
  - route: [{destination: {host: shop}}]
";

/// A mesh that refuses plaintext, with a gateway in front of one application.
struct Stage {
    mesh: Mesh,
    sidecar: Sidecar,
    gateway: Process,
    address: IpAddr,
}

impl Stage {
    async fn start(port: &str, app: SocketAddr) -> Self {
        let mesh = Mesh::start().await;
        mesh.apply(&service("shop", &[(port, 9080)]));
        mesh.apply(STRICT);
        let app = App {
            service: "shop",
            version: "v1",
            port: 9080,
            at: app,
            flags: &[],
        };
        let sidecar = mesh.sidecar(&app).await;
        mesh.apply(EDGE);
        let (gateway, address) = mesh.gateway("edge", &[18080, 18081]).await;
        mesh.settled().await;
        Self {
            mesh,
            sidecar,
            gateway,
            address,
        }
    }

    async fn connect(&self, port: u16) -> tokio::net::TcpStream {
        let at = SocketAddr::new(self.address, port);
        connect(at, ConnectOptions::default()).await.unwrap()
    }
}

/// The most memory that a process ever had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// Counts the bytes of each request's body and answers with that.
fn counting(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("counting", async move {
        while let Ok((io, _)) = listener.accept().await {
            connections.spawn("counting connection", async move {
                let answer = service_fn(
                    |request: hyper::Request<hyper::body::Incoming>| async move {
                        let mut body = request.into_body();
                        let mut count = 0;
                        while let Some(frame) = body.frame().await {
                            count += frame?.data_ref().map_or(0, Bytes::len);
                        }
                        let text = Full::new(Bytes::from(count.to_string()));
                        Ok::<_, hyper::Error>(hyper::Response::new(text))
                    },
                );
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(io), answer)
                    .await;
                // Callers go as they please.
                let _ended = served.is_ok();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_goes_up_and_memory_stays_flat() {
    let tasks = Tasks::new();
    let stage = Stage::start("http", counting(&tasks)).await;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stage.connect(18080).await))
            .await
            .unwrap();
    tasks.spawn("uploading", async move {
        let _ended = connection.await;
    });
    let before = [stage.gateway.0.id(), stage.sidecar.pid()].map(peak);
    let piece = Bytes::from(vec![7; PIECE]);
    let pieces = usize::try_from(GIB).unwrap() / PIECE;
    let frames = tokio_stream::iter(
        (0..pieces).map(move |_| Ok::<_, std::convert::Infallible>(Frame::data(piece.clone()))),
    );
    let request = hyper::Request::put("/upload")
        .header("host", "shop.example.com")
        .header("content-length", GIB)
        .body(StreamBody::new(frames))
        .unwrap();
    let answer = async {
        let response = send.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let counted = tokio::time::timeout(DEADLINE, answer).await.unwrap();
    assert_eq!(counted, GIB.to_string());
    let after = [stage.gateway.0.id(), stage.sidecar.pid()].map(peak);
    for (before, after) in before.into_iter().zip(after) {
        let grown = after - before;
        assert!(grown < 32 << 20, "grew by {grown} bytes");
    }
    drop(stage);
    tasks.end().await;
}

/// Grants a switch to WebSocket and sends back what comes then.
fn echoing(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("echoing", async move {
        while let Ok((mut io, _)) = listener.accept().await {
            connections.spawn("echoing connection", async move {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(count @ 1..) = io.read(&mut buffer).await else {
                        return;
                    };
                    head.extend_from_slice(&buffer[..count]);
                }
                let grant = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                             Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                if io.write_all(grant.as_bytes()).await.is_err() {
                    return;
                }
                while let Ok(count @ 1..) = io.read(&mut buffer).await {
                    if io.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_in_both_directions() {
    let tasks = Tasks::new();
    let stage = Stage::start("http", echoing(&tasks)).await;
    let mut socket = stage.connect(18080).await;
    let ask = "GET /chat HTTP/1.1\r\nHost: shop.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    socket.write_all(ask.as_bytes()).await.unwrap();
    let talk = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // Of the key that was sent (RFC 6455, section 1.3).
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        for size in [1_usize, 125, 70_000] {
            let frame: Vec<u8> = (0..size)
                .map(|at| u8::try_from(at % 251).unwrap())
                .collect();
            socket.write_all(&frame).await.unwrap();
            let mut back = vec![0; size];
            socket.read_exact(&mut back).await.unwrap();
            assert_eq!(back, frame);
        }
    };
    tokio::time::timeout(DEADLINE, talk).await.unwrap();
    drop(stage);
    tasks.end().await;
}

/// Sends each message back as it comes, and a status behind the last.
fn conversing(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let streams = tasks.clone();
    tasks.spawn("conversing", async move {
        while let Ok((io, _)) = listener.accept().await {
            let group = streams.clone();
            streams.spawn("conversing connection", async move {
                let Ok(mut connection) = h2::server::handshake(io).await else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    group.spawn("conversing stream", async move {
                        let head = hyper::Response::builder()
                            .header("content-type", "application/grpc")
                            .body(())
                            .unwrap();
                        let mut send = respond.send_response(head, false).unwrap();
                        let mut body = request.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            if send.send_data(data, false).is_err() {
                                return;
                            }
                        }
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        let _sent = send.send_trailers(trailers);
                    });
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_converses_message_by_message() {
    let tasks = Tasks::new();
    let stage = Stage::start("grpc", conversing(&tasks)).await;
    let (client, connection) = h2::client::handshake(stage.connect(18080).await)
        .await
        .unwrap();
    tasks.spawn("caller", async move {
        let _ended = connection.await;
    });
    let talk = async {
        let mut client = client.ready().await.unwrap();
        let request = hyper::Request::post("http://shop.example.com/a.B/Talk")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"\0\0\0\0\x01a"), false)
            .unwrap();
        let mut body = response.await.unwrap().into_body();
        // The next is only said when the one before was heard.
        for message in [&b"\0\0\0\0\x01b"[..], b"\0\0\0\0\x01c", b"\0\0\0\0\x01d"] {
            let heard = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(heard.len()).unwrap();
            assert_eq!(heard.len(), message.len());
            send.send_data(Bytes::copy_from_slice(message), false)
                .unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    };
    tokio::time::timeout(DEADLINE, talk).await.unwrap();
    drop(stage);
    tasks.end().await;
}

/// A browser's call to `method` of Echo, and the frames that it gets: flag and content.
async fn browse(stage: &Stage, method: &str, (kind, message): (&str, &[u8])) -> Vec<(u8, Vec<u8>)> {
    let tasks = Tasks::new();
    let io = TokioIo::new(stage.connect(18081).await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tasks.spawn("browser", async move {
        let _ended = connection.await;
    });
    let text = kind.contains("-text");
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    let body = if text {
        STANDARD.encode(&frame).into_bytes()
    } else {
        frame
    };
    let request = hyper::Request::post(format!("/echo.Echo/{method}"))
        .header("host", "shop.example.com")
        .header("content-type", kind)
        .header("accept", kind)
        .header("x-grpc-web", "1")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let response = send.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let told = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(told.starts_with("application/grpc-web"), "{told}");
    assert_eq!(told.contains("-text"), text, "{told}");
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut bytes = Vec::new();
    if text {
        for group in body.chunks(4) {
            bytes.extend_from_slice(&STANDARD.decode(group).unwrap());
        }
    } else {
        bytes.extend_from_slice(&body);
    }
    let mut frames = Vec::new();
    let mut rest = bytes.as_slice();
    while let [flag, a, b, c, d, more @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
        frames.push((*flag, more[..length].to_vec()));
        rest = &more[length..];
    }
    if let (true, Some(status)) = (frames.is_empty(), headers.get("grpc-status")) {
        // An answer of nothing but a head.
        let line = format!("grpc-status:{}\r\n", status.to_str().unwrap());
        frames.push((0x80, line.into_bytes()));
    }
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_call_grpc_through_the_gateway() {
    let Some(python) = installed("grpc", "bin/python") else {
        return;
    };
    let python: &Path = &python;
    let (_server, app) = server(python, "shop");
    let stage = Stage::start("grpc", app).await;
    let calls = async {
        for kind in ["application/grpc-web+proto", "application/grpc-web-text"] {
            let frames = browse(&stage, "Mirror", (kind, b"hello")).await;
            assert_eq!(frames[0], (0, b"hello".to_vec()), "{kind}");
            let trailers = String::from_utf8(frames[1].1.clone()).unwrap();
            assert!(trailers.contains("grpc-status:0\r\n"), "{trailers}");
            let frames = browse(&stage, "Count", (kind, b"5")).await;
            assert_eq!(frames.len(), 6, "{frames:?}");
            let refused = browse(&stage, "Refuse", (kind, b"")).await;
            let trailers = String::from_utf8(refused.last().unwrap().1.clone()).unwrap();
            assert!(trailers.contains("grpc-status:9\r\n"), "{trailers}");
        }
    };
    tokio::time::timeout(DEADLINE, calls).await.unwrap();
    drop(stage.mesh);
}
