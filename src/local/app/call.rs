//! Calls to the neighbours: pooled, through `HTTP_PROXY` when there is one, with a deadline.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::net::{ConnectOptions, connect};

/// How long a neighbour may take; the page then goes without it.
const DEADLINE: Duration = Duration::from_secs(3);

/// Answers larger than this are refused; the real ones are under 2 KiB.
const MAX_ANSWER: usize = 1 << 20;

/// What a program hands on so that a trace stays one trace, and what routes are matched on.
const HANDED_ON: &[&str] = &[
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-cloud-trace-context",
    "end-user",
    "cookie",
    "authorization",
    "user-agent",
];

/// A pooled client.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    client: Client<Connector, Empty<Bytes>>,
}

/// Why a neighbour gave nothing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// What the neighbour (or its proxy) answered; 503 when there was no answer, 504 when late.
    pub(super) status: StatusCode,
    /// In words.
    pub(super) reason: String,
}

impl Caller {
    pub(super) fn new(proxy: Option<String>) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(Connector { proxy }),
        }
    }

    /// `GET url`, with the trace headers of the request that is being served.
    pub(super) async fn json(&self, url: &str, from: &HeaderMap) -> Result<Value, Failure> {
        tokio::time::timeout(DEADLINE, self.fetch(url, from))
            .await
            .unwrap_or_else(|_| {
                Err(Failure {
                    status: StatusCode::GATEWAY_TIMEOUT,
                    reason: format!("no answer within {} s", DEADLINE.as_secs()),
                })
            })
    }

    async fn fetch(&self, url: &str, from: &HeaderMap) -> Result<Value, Failure> {
        let down = |reason: String| Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason,
        };
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(url)
            .body(Empty::new())
            .map_err(|error| down(error.to_string()))?;
        for name in HANDED_ON {
            for value in from.get_all(*name) {
                request.headers_mut().append(*name, value.clone());
            }
        }
        let response = self.client.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            down(cause.unwrap_or_else(|| error.to_string()))
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| down(error.to_string()))?
            .to_bytes();
        if !status.is_success() {
            return Err(Failure {
                status,
                reason: String::from_utf8_lossy(&body).chars().take(200).collect(),
            });
        }
        serde_json::from_slice(&body).map_err(|error| Failure {
            status: StatusCode::BAD_GATEWAY,
            reason: format!("the answer is not JSON: {error}"),
        })
    }
}

#[derive(Debug, Clone)]
struct Connector {
    proxy: Option<String>,
}

/// A connection that knows whether a proxy is at its other end, which asks for the absolute form.
#[derive(Debug)]
struct Link {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl tower::Service<Uri> for Connector {
    type Response = Link;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Link>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let proxied = self.proxy.is_some();
        let target = self.proxy.clone().or_else(|| {
            uri.host()
                .map(|host| format!("{host}:{}", uri.port_u16().unwrap_or(80)))
        });
        Box::pin(async move {
            let target =
                target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no host"))?;
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in tokio::net::lookup_host(&target).await? {
                match connect(address, ConnectOptions::default()).await {
                    Ok(stream) => {
                        return Ok(Link {
                            io: TokioIo::new(stream),
                            proxied,
                        });
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
