//! Asking one endpoint, once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::mesh::HealthCheck;
use crate::mesh::cluster::ClientTls;
use crate::mesh::health_check::{Check, GrpcCheck, HttpCheck, StatusRange, TcpCheck};
use crate::mesh::route::HeaderOperations;
use crate::net::{self, ConnectOptions};
use crate::rt::Tasks;

use super::super::client::Io;
use super::super::introduced;
use super::super::origination::Originator;
use super::super::tls::{Identity, Speak};
use super::check::Verdict;

/// Envoy's `response_buffer_size`.
const RESPONSE_BUFFER: usize = 1024;
/// Most that is kept of what an endpoint sends.
const MOST_ANSWERED: usize = 1024 * 1024;
/// Says that an endpoint works worse than it should.
const DEGRADED: &str = "x-envoy-degraded";
/// The service's own name, for [`HttpCheck::service_name`].
const CHECKED_CLUSTER: &str = "x-envoy-upstream-healthchecked-cluster";

/// Whom to ask, and how to get there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) policy: Arc<crate::mesh::Cluster>,
    pub(crate) address: SocketAddr,
    /// `host` where the check names none.
    pub(crate) hostname: String,
    /// The address to ask from.
    pub(crate) from: Option<IpAddr>,
    /// It speaks the mesh's mTLS.
    pub(crate) mtls: bool,
    /// TLS to servers outside the mesh.
    pub(crate) originator: Option<Arc<Originator>>,
    pub(crate) identity: Option<Arc<Identity>>,
}

/// A connection that was kept from the check before.
pub(crate) enum Kept {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    Bytes(Box<dyn Io>),
}

/// Why a check did not come to an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the check is not a request: {0}")]
    Request(#[from] http::Error),
}

/// Asks, and says how it went; with the connection, where another check may use it.
pub(crate) async fn probe(
    target: Target,
    kept: Option<Kept>,
    tasks: Tasks,
) -> (Verdict, Option<Kept>) {
    let Some(policy) = target.policy.health_check.clone() else {
        return (Verdict::Passed, None);
    };
    let asked = async {
        let reused = kept.is_some();
        match ask(&target, &policy, kept, &tasks).await {
            // What had died since the last check says nothing of the endpoint now.
            Err(_) if reused => ask(&target, &policy, None, &tasks).await,
            asked => asked,
        }
    };
    match tokio::time::timeout(policy.timeout, asked).await {
        Err(_) => (Verdict::TooLate, None),
        Ok(Ok((verdict, kept))) => (verdict, kept.filter(|_| policy.reuse_connection)),
        Ok(Err(error)) => {
            tracing::debug!(endpoint = %target.address, %error, "health check failed");
            (Verdict::Unreachable, None)
        }
    }
}

async fn ask(
    target: &Target,
    policy: &HealthCheck,
    kept: Option<Kept>,
    tasks: &Tasks,
) -> Result<(Verdict, Option<Kept>), Broken> {
    match &policy.check {
        Check::Tcp(check) => over_tcp(target, check, kept).await,
        Check::Http(check) => {
            let mut sender = Sender::open(target, check.http2, kept, tasks).await?;
            let request = request(target, check)?;
            let response = sender.send(request).await?;
            let verdict = judge(check, response).await?;
            Ok((verdict, sender.keep()))
        }
        Check::Grpc(check) => {
            let mut sender = Sender::open(target, true, kept, tasks).await?;
            let request = call(target, check)?;
            let response = sender.send(request).await?;
            let verdict = serving(response).await?;
            Ok((verdict, sender.keep()))
        }
    }
}

/// A connection for requests.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn open(
        target: &Target,
        http2: bool,
        kept: Option<Kept>,
        tasks: &Tasks,
    ) -> Result<Self, Broken> {
        let alive = match kept {
            Some(Kept::Http1(sender)) if !http2 => Some(Self::Http1(sender)),
            Some(Kept::Http2(sender)) if http2 => Some(Self::Http2(sender)),
            _ => None,
        };
        if let Some(mut sender) = alive
            && sender.is_ready().await
        {
            return Ok(sender);
        }
        let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
        let io = TokioIo::new(connect(target, speak).await?);
        Self::over(io, http2, tasks).await
    }

    /// On a connection that is there.
    pub(crate) async fn over(
        io: TokioIo<Box<dyn Io>>,
        http2: bool,
        tasks: &Tasks,
    ) -> Result<Self, Broken> {
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tasks.spawn("own connection", async move {
                // The request that it was for has failed too, and says so.
                let _ended = connection.await;
            });
            Ok(Self::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tasks.spawn("own connection", async move {
                let _ended = connection.await;
            });
            Ok(Self::Http1(sender))
        }
    }

    pub(crate) async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                let (mut head, body) = request.into_parts();
                // HTTP/1 asks for a path, and names the host beside it.
                if let Some(host) = head.uri.authority().map(ToString::to_string) {
                    if let Ok(host) = HeaderValue::try_from(host) {
                        head.headers.entry(http::header::HOST).or_insert(host);
                    }
                    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
                    if let Ok(path) = path.parse() {
                        head.uri = path;
                    }
                }
                sender.send_request(Request::from_parts(head, body)).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    fn keep(self) -> Option<Kept> {
        match self {
            Self::Http1(sender) => (!sender.is_closed()).then_some(Kept::Http1(sender)),
            Self::Http2(sender) => (!sender.is_closed()).then_some(Kept::Http2(sender)),
        }
    }
}

pub(crate) async fn connect(target: &Target, speak: Speak) -> Result<Box<dyn Io>, Broken> {
    let cluster = &target.policy;
    let tls = cluster.tls.as_ref().filter(|_| target.mtls);
    if tls.is_none() && cluster.tls.as_ref().is_some_and(|tls| tls.required) {
        return Err(Broken::Tls("the endpoint does not speak mTLS".to_owned()));
    }
    let outside = target.originator.as_ref().map(|originator| {
        let named = Some(target.hostname.as_bytes()).filter(|name| !name.is_empty());
        originator.secure(
            cluster,
            (named, target.address.ip()),
            speak,
            crate::rt::now(),
        )
    });
    let outside = outside.transpose().map_err(Broken::Tls)?;
    let options = ConnectOptions {
        timeout: cluster.connect_timeout,
        from: target.from,
    };
    let mut tcp = net::connect(target.address, options).await?;
    if let Some(version) = cluster.proxy_protocol {
        introduced::write(&mut tcp, version, None).await?;
    }
    if let Some((client, name)) = outside {
        let handshake = TlsConnector::from(client).connect(name, tcp).await;
        let stream =
            handshake.map_err(|error| Broken::Tls(crate::tls::outside::explain_outside(&error)))?;
        return Ok(Box::new(stream));
    }
    let Some(tls) = tls else {
        return Ok(Box::new(tcp));
    };
    secured(target, tls, tcp, speak).await
}

async fn secured(
    target: &Target,
    tls: &ClientTls,
    tcp: tokio::net::TcpStream,
    speak: Speak,
) -> Result<Box<dyn Io>, Broken> {
    let broken = |error: String| Broken::Tls(error);
    let identity = target.identity.as_ref();
    let identity = identity.ok_or_else(|| broken("there is no identity yet".to_owned()))?;
    let client = identity
        .client(&tls.principals, speak)
        .map_err(|error| broken(error.to_string()))?;
    let name = ServerName::try_from(tls.sni.clone())
        .unwrap_or_else(|_| ServerName::IpAddress(target.address.ip().into()));
    let stream = TlsConnector::from(client)
        .connect(name, tcp)
        .await
        .map_err(|error| broken(crate::tls::explain(&error)))?;
    Ok(Box::new(stream))
}

fn authority<'t>(target: &'t Target, named: &'t str) -> &'t str {
    match (target.hostname.as_str(), named) {
        ("", "") => &target.policy.name,
        ("", named) => named,
        (own, _) => own,
    }
}

/// The URI of `path` at `host`. A cluster's name, with its bars, is a host to Envoy and none to
/// anybody else; an HTTP/1 head carries it, an HTTP/2 one gets the address instead.
pub(crate) fn uri(target: &Target, host: &str, path: &str) -> Result<http::Uri, http::Error> {
    let path = if path.is_empty() { "/" } else { path };
    let plain: Result<http::uri::Authority, _> = host.parse();
    let authority = match plain {
        Ok(authority) => authority,
        Err(_) => target.address.to_string().parse()?,
    };
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(path);
    uri.build()
}

fn request(target: &Target, check: &HttpCheck) -> Result<Request<Full<Bytes>>, http::Error> {
    let host = authority(target, &check.host);
    let version = if check.http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    let mut request = Request::builder()
        .method(check.method.as_str())
        .version(version)
        .uri(uri(target, host, &check.path)?)
        .header(http::header::USER_AGENT, "meshctl/HC")
        .body(Full::from(check.send.clone()))?;
    if !check.http2
        && let Ok(host) = HeaderValue::from_str(host)
    {
        request.headers_mut().insert(http::header::HOST, host);
    }
    edit(request.headers_mut(), &check.headers);
    Ok(request)
}

/// What is no header field is left out.
fn edit(headers: &mut HeaderMap, edits: &HeaderOperations) {
    let field = |name: &str, value: &str| {
        let name = HeaderName::try_from(name).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in edits
        .set
        .iter()
        .filter_map(|(name, value)| field(name, value))
    {
        headers.insert(name, value);
    }
    for (name, value) in edits
        .add
        .iter()
        .filter_map(|(name, value)| field(name, value))
    {
        headers.append(name, value);
    }
    for (name, value) in edits
        .add_if_absent
        .iter()
        .filter_map(|(name, value)| field(name, value))
    {
        headers.entry(name).or_insert(value);
    }
}

async fn judge(check: &HttpCheck, response: Response<Incoming>) -> Result<Verdict, Broken> {
    let status = response.status().as_u16();
    let within = |ranges: &[StatusRange]| ranges.iter().any(|range| range.holds(status));
    let expected = match check.expected_statuses.as_slice() {
        [] => status == 200,
        ranges => within(ranges),
    };
    let named = check.service_name.as_ref().is_none_or(|name| {
        let told = response.headers().get(CHECKED_CLUSTER);
        told.is_some_and(|told| name.holds(told.as_bytes()))
    });
    let most = match check.response_buffer_size {
        None => RESPONSE_BUFFER,
        Some(0) => MOST_ANSWERED,
        Some(size) => usize::try_from(size)
            .unwrap_or(MOST_ANSWERED)
            .min(MOST_ANSWERED),
    };
    let degraded = response.headers().contains_key(DEGRADED);
    let body = read(response.into_body(), most).await?.0;
    Ok(if !expected {
        if within(&check.retriable_statuses) {
            Verdict::Retriable
        } else {
            Verdict::Wrong
        }
    } else if named && holds(&body, &check.receive) {
        if degraded {
            Verdict::Degraded
        } else {
            Verdict::Passed
        }
    } else {
        Verdict::Wrong
    })
}

/// Reads all of a body, keeps its first `most` bytes, and gives its trailers.
async fn read(mut body: Incoming, most: usize) -> hyper::Result<(Vec<u8>, HeaderMap)> {
    let mut kept = Vec::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                let room = most.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((kept, trailers))
}

/// Whether `blocks` are in `bytes`, each behind the one before it.
fn holds(bytes: &[u8], blocks: &[Vec<u8>]) -> bool {
    let mut rest = bytes;
    blocks.iter().all(|block| {
        block.is_empty()
            || rest
                .windows(block.len())
                .position(|window| window == block.as_slice())
                .and_then(|at| rest.get(at + block.len()..))
                .map(|behind| rest = behind)
                .is_some()
    })
}

async fn over_tcp(
    target: &Target,
    check: &TcpCheck,
    kept: Option<Kept>,
) -> Result<(Verdict, Option<Kept>), Broken> {
    let mut io = match kept {
        Some(Kept::Bytes(io)) => io,
        _ => connect(target, Speak::Bytes).await?,
    };
    if !check.send.is_empty() {
        io.write_all(&check.send).await?;
        io.flush().await?;
    }
    if check.receive.is_empty() {
        return Ok((Verdict::Passed, None));
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !holds(&answer, &check.receive) {
        let count = io.read(&mut buffer).await?;
        if count == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if answer.len() > MOST_ANSWERED {
            return Ok((Verdict::Wrong, None));
        }
    }
    Ok((Verdict::Passed, Some(Kept::Bytes(io))))
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is `SERVING`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// gRPC puts a flag and a length in front of each message.
const PREFIX: usize = 5;

fn call(target: &Target, check: &GrpcCheck) -> Result<Request<Full<Bytes>>, http::Error> {
    let message = HealthCheckRequest {
        service: check.service_name.clone(),
    };
    let bytes = prost::Message::encode_to_vec(&message);
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(&bytes);
    let host = authority(target, &check.authority);
    let mut request = Request::post(uri(target, host, "/grpc.health.v1.Health/Check")?)
        .version(Version::HTTP_2)
        .header(http::header::USER_AGENT, "meshctl/HC")
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(Full::from(body))?;
    edit(request.headers_mut(), &check.metadata);
    Ok(request)
}

async fn serving(response: Response<Incoming>) -> Result<Verdict, Broken> {
    if response.status() != http::StatusCode::OK {
        return Ok(Verdict::Wrong);
    }
    let ok = |headers: &HeaderMap| {
        headers
            .get("grpc-status")
            .map(|status| status.as_bytes() == b"0")
    };
    let told = ok(response.headers());
    let (body, trailers) = read(response.into_body(), MOST_ANSWERED).await?;
    let message = body.get(PREFIX..).unwrap_or_default();
    let well = ok(&trailers).or(told) == Some(true)
        && body.first() == Some(&0)
        && <HealthCheckResponse as prost::Message>::decode(message)
            .is_ok_and(|answer| answer.status == SERVING);
    Ok(if well {
        Verdict::Passed
    } else {
        Verdict::Wrong
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_their_order_and_not_twice() {
        let blocks = |all: &[&str]| -> Vec<Vec<u8>> {
            all.iter().map(|block| block.as_bytes().to_vec()).collect()
        };
        for (bytes, receive, expected) in [
            ("", &[][..], true),
            ("+PONG\r\n", &["PONG"][..], true),
            ("a..b..c", &["a", "c"], true),
            ("a..b..c", &["c", "a"], false),
            ("aa", &["a", "a"], true),
            ("a", &["a", "a"], false),
        ] {
            assert_eq!(
                holds(bytes.as_bytes(), &blocks(receive)),
                expected,
                "{bytes} {receive:?}"
            );
        }
    }
}
