//! A caller: one connection a request, in the clear or over TLS, HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pki::Pair;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a caller speaks TLS.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) server_name: String,
    /// Whom it trusts.
    pub(crate) roots: String,
    pub(crate) client: Option<Pair>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: String,
    pub(crate) host: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) http2: bool,
    pub(crate) body: Bytes,
    pub(crate) tls: Option<Tls>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What the application reported.
    pub(crate) fn report(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The status of gRPC; that of HTTP stands for it as gRPC's own page says.
    pub(crate) fn grpc_status(&self) -> u16 {
        let told = [&self.trailers, &self.headers];
        let told = told.iter().find_map(|fields| fields.get("grpc-status"));
        match told.and_then(|value| value.to_str().ok()?.parse().ok()) {
            Some(status) => status,
            None => match self.status {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502..=504 => 14,
                _ => 2,
            },
        }
    }
}

/// The authorities of a bundle.
pub(crate) fn roots(pem: &str) -> rustls::RootCertStore {
    let mut store = rustls::RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        store.add(der.unwrap()).unwrap();
    }
    store
}

pub(crate) fn chain_and_key(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes());
    (
        chain.collect::<Result<_, _>>().unwrap(),
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
    )
}

/// Sends one request on a connection of its own.
pub(crate) async fn ask(to: SocketAddr, request: &Ask) -> Result<Answer, String> {
    let asking = async {
        let io = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
        match &request.tls {
            None => exchange(io, request).await,
            Some(tls) => {
                let alpn: &[u8] = if request.http2 { b"h2" } else { b"http/1.1" };
                exchange(secure(io, tls, &[alpn]).await?, request).await
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.map_err(|_| "no answer in time".to_owned())?
}

/// A handshake, in which `tls` says who is expected.
async fn secure(
    io: TcpStream,
    tls: &Tls,
    alpn: &[&[u8]],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&tls.roots));
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = chain_and_key(pair);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(tls.server_name.clone()).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, io).await.map_err(|e| e.to_string())
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: &Ask,
) -> Result<Answer, String> {
    let mut request = Request::builder().method(ask.method.as_str());
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    let body = Full::new(ask.body.clone());
    let io = TokioIo::new(io);
    let text = |error: hyper::Error| format!("{error}: {:?}", std::error::Error::source(&error));
    let answer: Response<hyper::body::Incoming> = if ask.http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(text)?;
        tokio::spawn(connection);
        let scheme = if ask.tls.is_some() { "https" } else { "http" };
        let uri: Uri = format!("{scheme}://{}{}", ask.host, ask.path)
            .parse()
            .map_err(|error| format!("{error}"))?;
        let request = request.version(hyper::Version::HTTP_2).uri(uri).body(body);
        let request = request.map_err(|error| error.to_string())?;
        sender.send_request(request).await.map_err(text)?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(text)?;
        tokio::spawn(connection);
        let request = request
            .uri(ask.path.as_str())
            .header("host", &ask.host)
            .body(body);
        let request = request.map_err(|error| error.to_string())?;
        sender.send_request(request).await.map_err(text)?
    };
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(text)?;
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        trailers: body.trailers().cloned().unwrap_or_default(),
        body: body.to_bytes(),
    })
}

/// Says hello on a byte stream, and gives what the application said of itself.
pub(crate) async fn bytes(to: SocketAddr, tls: Option<&Tls>) -> Result<Value, String> {
    async fn talk(io: impl AsyncRead + AsyncWrite + Unpin) -> Result<Value, String> {
        let mut io = tokio::io::BufStream::new(io);
        io.write_all(b"hello\n").await.map_err(|e| e.to_string())?;
        io.flush().await.map_err(|e| e.to_string())?;
        let mut line = String::new();
        io.read_line(&mut line).await.map_err(|e| e.to_string())?;
        serde_json::from_str(&line).map_err(|_| format!("{line:?} is no report"))
    }
    let asking = async {
        let io = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
        match tls {
            None => talk(io).await,
            Some(tls) => talk(secure(io, tls, &[]).await?).await,
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.map_err(|_| "no answer in time".to_owned())?
}

/// Sends two frames over a WebSocket, and gives what came back.
pub(crate) async fn websocket(
    to: SocketAddr,
    host: &str,
    path: &str,
) -> Result<Vec<(u8, Vec<u8>)>, String> {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let asking = async {
        let mut io = TcpStream::connect(to).await?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        );
        io.write_all(head.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let accept = websocket_accept(KEY.as_bytes()).to_ascii_lowercase();
        if !head.starts_with("http/1.1 101 ") || !head.contains(&accept) {
            return Err(std::io::Error::other(head));
        }
        let mut back = Vec::new();
        for (first, payload) in [(0x81, &b"text of a frame"[..]), (0x82, &[1, 2, 3, 0xff])] {
            let length = u8::try_from(payload.len()).unwrap();
            // The mask is nothing: what is sent is the payload itself.
            let frame = [&[first, 0x80 | length, 0, 0, 0, 0][..], payload].concat();
            io.write_all(&frame).await?;
            let mut head = [0; 2];
            io.read_exact(&mut head).await?;
            let mut payload = vec![0; usize::from(head[1])];
            io.read_exact(&mut payload).await?;
            back.push((head[0], payload));
        }
        Ok(back)
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    let answer = answer.map_err(|_| "no answer in time".to_owned())?;
    answer.map_err(|error| error.to_string())
}

/// What a server answers to a caller's key (RFC 6455, 4.2.2).
pub(crate) fn websocket_accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    base64::engine::general_purpose::STANDARD.encode(digest)
}
