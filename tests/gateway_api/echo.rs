//! Applications behind the gateways: each answers with what it was asked, in JSON.
//!
//! A query may ask for more: `delay` to be slow, `succeedAfter` with `uuid` to fail that often
//! first (with `responseCode`, or by breaking off), and `x-echo-set-header` for fields of the answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::pki::Pair;

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1, and WebSocket on it.
    Http1,
    /// HTTP/2 without asking.
    Http2,
    /// A line with who answers, then every byte back.
    Bytes,
}

/// Who an application is, and what it has seen.
pub(crate) struct App {
    pub(crate) namespace: &'static str,
    pub(crate) pod: String,
    /// Paths with their queries, in order.
    seen: Mutex<Vec<String>>,
    tries: Mutex<BTreeMap<String, u32>>,
}

/// How an application proves who it is, and whom it asks for as much.
#[derive(Clone)]
pub(crate) struct ServerTls {
    acceptor: TlsAcceptor,
}

impl ServerTls {
    pub(crate) fn new(pair: &Pair, callers: Option<&str>, alpn: &[&[u8]]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match callers {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(crate::client::roots(pem));
                builder.with_client_cert_verifier(
                    rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider)
                        .build()
                        .unwrap(),
                )
            }
        };
        let (chain, key) = crate::client::chain_and_key(pair);
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

/// What TLS said of a connection.
#[derive(Debug, Clone, Default)]
struct Hello {
    tls: bool,
    server_name: String,
    client_certificate: String,
}

impl App {
    pub(crate) fn new(namespace: &'static str, pod: &str) -> Arc<Self> {
        Arc::new(Self {
            namespace,
            pod: pod.to_owned(),
            seen: Mutex::default(),
            tries: Mutex::default(),
        })
    }

    /// How many requests it had whose path and query have `part`.
    pub(crate) fn count(&self, part: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|path| path.contains(part)).count()
    }

    /// Serves on a port of loopback.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        speaks: Speaks,
        tls: Option<ServerTls>,
    ) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (app, tls) = (Arc::clone(&app), tls.clone());
                tokio::spawn(async move { app.connection(io, speaks, tls).await });
            }
        });
        address
    }

    async fn connection(
        self: Arc<Self>,
        io: tokio::net::TcpStream,
        speaks: Speaks,
        tls: Option<ServerTls>,
    ) {
        let Some(tls) = tls else {
            return self.speak(io, speaks, Hello::default()).await;
        };
        let Ok(io) = tls.acceptor.accept(io).await else {
            return;
        };
        let connection = io.get_ref().1;
        let client = connection.peer_certificates().and_then(<[_]>::first);
        let hello = Hello {
            tls: true,
            server_name: connection.server_name().unwrap_or_default().to_owned(),
            client_certificate: client.map_or_else(String::new, |der| {
                base64::engine::general_purpose::STANDARD.encode(der)
            }),
        };
        let speaks = match connection.alpn_protocol() {
            Some(b"h2") => Speaks::Http2,
            _ => speaks,
        };
        self.speak(io, speaks, hello).await;
    }

    async fn speak(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        speaks: Speaks,
        hello: Hello,
    ) {
        let app = Arc::clone(&self);
        let told = hello.clone();
        let service = service_fn(move |request| {
            let (app, hello) = (Arc::clone(&app), told.clone());
            async move { app.answer(request, hello).await }
        });
        // Callers go as they please.
        let _ended = match speaks {
            Speaks::Bytes => self.bytes(io, &hello).await.is_ok(),
            Speaks::Http1 => hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
                .await
                .is_ok(),
            Speaks::Http2 => hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(io), service)
                .await
                .is_ok(),
        };
    }

    /// Waits for a line, says who is here, and gives back what comes then.
    async fn bytes(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin,
        hello: &Hello,
    ) -> std::io::Result<()> {
        let (mut read, mut write) = tokio::io::split(io);
        let mut first = [0; 1024];
        if read.read(&mut first).await? == 0 {
            return Ok(());
        }
        let line = json!({
            "namespace": self.namespace, "pod": self.pod,
            "tls": hello.tls, "sni": hello.server_name,
        });
        write.write_all(format!("{line}\n").as_bytes()).await?;
        tokio::io::copy(&mut read, &mut write).await?;
        Ok(())
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        hello: Hello,
    ) -> Result<Response<BoxBody<Bytes, std::io::Error>>, std::io::Error> {
        let target = request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string);
        self.seen.lock().unwrap().push(target);
        let query: BTreeMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let milliseconds = |key: &str| {
            let text = query.get(key)?;
            let value: u64 = text.trim_end_matches(char::is_alphabetic).parse().ok()?;
            Some(if text.ends_with("ms") {
                value
            } else {
                value * 1000
            })
        };
        if let Some(delay) = milliseconds("delay") {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if let (Some(uuid), Some(after)) = (query.get("uuid"), query.get("succeedAfter")) {
            let tried = {
                let mut tries = self.tries.lock().unwrap();
                let tried = tries.entry(uuid.clone()).or_default();
                *tried += 1;
                *tried
            };
            if tried <= after.parse().unwrap_or(0) {
                if let Some(delay) = milliseconds("delayRetry") {
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                }
                let Some(code) = query.get("responseCode") else {
                    return Err(std::io::ErrorKind::ConnectionReset.into());
                };
                let code: u16 = code.parse().unwrap_or(500);
                let mut answer = Response::new(empty());
                *answer.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
                return Ok(answer);
            }
        }
        if request.headers().contains_key("upgrade") {
            return Ok(websocket(&mut request));
        }
        let is_grpc = request
            .headers()
            .get("content-type")
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let text = self.report(&request, &hello).to_string();
        let extra = extra_fields(&request);
        // Until all of it is read the exchange is not over.
        let _body = request.into_body().collect().await.is_ok();
        let mut answer = if is_grpc {
            grpc(&text)
        } else {
            Response::new(
                Full::new(Bytes::from(text))
                    .map_err(|never| match never {})
                    .boxed(),
            )
        };
        for (name, value) in extra {
            answer.headers_mut().append(name, value);
        }
        Ok(answer)
    }

    fn report(&self, request: &Request<Incoming>, hello: &Hello) -> Value {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.to_string()).or_default().push(value);
        }
        let host = match request.uri().authority() {
            Some(authority) => authority.to_string(),
            None => headers
                .get("host")
                .and_then(|values| values.first().cloned())
                .unwrap_or_default(),
        };
        let path = request.uri().path_and_query();
        json!({
            "namespace": self.namespace,
            "pod": self.pod,
            "method": request.method().as_str(),
            "path": path.map_or("", |path| path.as_str()),
            "host": host,
            "version": format!("{:?}", request.version()),
            "headers": headers,
            "tls": hello.tls,
            "sni": hello.server_name,
            "clientCertificate": hello.client_certificate,
        })
    }
}

fn empty() -> BoxBody<Bytes, std::io::Error> {
    Full::default().map_err(|never| match never {}).boxed()
}

/// Fields that the request asks for: `x-echo-set-header: name:value,name:value`.
fn extra_fields(
    request: &Request<Incoming>,
) -> Vec<(hyper::header::HeaderName, hyper::header::HeaderValue)> {
    let wanted = request.headers().get_all("x-echo-set-header");
    let texts = wanted.iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .filter_map(|pair| pair.split_once(':'))
        .filter_map(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)))
        .collect()
}

/// A message of gRPC that holds `text`, and a good end.
fn grpc(text: &str) -> Response<BoxBody<Bytes, std::io::Error>> {
    let mut message = vec![0];
    message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    message.extend(text.as_bytes());
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [
        Ok(Frame::data(Bytes::from(message))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut answer = Response::new(body.boxed());
    let headers = answer.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    answer
}

/// Agrees to a WebSocket, and gives back the payload of each of its frames.
fn websocket(request: &mut Request<Incoming>) -> Response<BoxBody<Bytes, std::io::Error>> {
    let key = request.headers().get("sec-websocket-key");
    let key = key.map_or(&b""[..], |key| key.as_bytes());
    let accept = crate::client::websocket_accept(key);
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else {
            return;
        };
        let mut io = TokioIo::new(upgraded);
        let mut head = [0; 6];
        // Small frames of a caller: two bytes, and the four of the mask.
        while io.read_exact(&mut head).await.is_ok() {
            let [first, length, mask @ ..] = head;
            let length = length & 0x7f;
            let mut payload = vec![0; usize::from(length)];
            if io.read_exact(&mut payload).await.is_err() {
                return;
            }
            for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= key;
            }
            let frame = [&[first, length][..], &payload].concat();
            if io.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(empty())
        .unwrap()
}
