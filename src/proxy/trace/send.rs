//! One batch of spans to somebody who gets them: how it is asked for, and what the answer means.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use prost::Message as _;

use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::tracing::{SpanFormat, SpanSink};
use crate::rt::{Reader, Tasks};
use crate::telemetry::otlp::{EXPORT, ExportTraceServiceResponse, HTTP_PATH};
use crate::tls::Material;

use super::super::balance::{Wish, pick};
use super::super::control_link::Caller;
use super::super::health::probe::{Sender, Target, connect, uri};
use super::super::tables::Tables;
use super::super::tls::{Identity, Speak};
use super::Collector;
use super::context::{Forms, Goes};
use super::span::Span;
use super::tags::Maker;
use super::{fresh, otlp, zipkin};

/// Most that is read of an answer.
const MOST_ANSWERED: usize = 64 * 1024;
/// Zipkin's path.
const ZIPKIN_PATH: &str = "/api/v2/spans";
/// gRPC puts a flag and a length in front of each message.
const PREFIX: usize = 5;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it but so many spans was taken.
    Taken(usize),
    /// It is not wanted, and will not be.
    Refused(String),
    /// It may be tried again.
    Later(String),
}

/// Who gets spans, and the way there.
#[derive(Debug)]
pub(super) enum Way {
    /// The control plane.
    Own(Collector, Reader<Option<Arc<Material>>>),
    /// A service of the configuration's.
    Service {
        sink: SpanSink,
        tables: Reader<Tables>,
        identities: Reader<Option<Arc<Material>>>,
        /// The address to call from.
        from: Option<IpAddr>,
    },
}

/// An open connection, and where on it.
pub(super) struct Line {
    sender: Sender,
    to: http::Uri,
}

impl Way {
    /// What it is called where people look.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(..) => "the control plane",
            Self::Service { sink, .. } => &sink.cluster,
        }
    }

    fn format(&self) -> SpanFormat {
        match self {
            Self::Own(..) => SpanFormat::OtlpGrpc,
            Self::Service { sink, .. } => sink.speaks,
        }
    }

    /// Connects.
    pub(super) async fn open(&self, tasks: &Tasks) -> Result<Line, String> {
        match self {
            Self::Own(collector, identities) => {
                let material = identities.load();
                let material = material.as_ref().as_ref().ok_or("no identity yet")?;
                let stream = collector
                    .at
                    .connect(&collector.server, Caller::Member(material))
                    .await
                    .map_err(|error| error.to_string())?;
                let sender = Sender::over(TokioIo::new(Box::new(stream)), true, tasks)
                    .await
                    .map_err(|error| error.to_string())?;
                let to = format!("http://control-plane{EXPORT}");
                Ok(Line {
                    sender,
                    to: to.parse().map_err(|_| "no address")?,
                })
            }
            Self::Service {
                sink,
                tables,
                identities,
                from,
            } => {
                let tables = tables.load();
                let cluster = tables.named_cluster(&sink.cluster);
                let cluster = cluster.ok_or("there is no such cluster")?;
                let entry = pick(&cluster.endpoints, Wish::default());
                let entry = entry.ok_or("no endpoint is healthy")?;
                let material = identities.load();
                let material = material.as_ref().clone();
                let target = Target {
                    policy: Arc::clone(&cluster.config),
                    address: entry.address,
                    hostname: sink.authority.clone(),
                    from: from.filter(|_| cluster.config.kind.is_outward()),
                    mtls: entry.mtls,
                    originator: cluster.originator.clone(),
                    identity: material.map(|material| Arc::new(Identity::new(material, 0))),
                };
                let http2 = sink.speaks == SpanFormat::OtlpGrpc
                    || cluster.config.protocol == UpstreamProtocol::Http2;
                let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
                let path = match (sink.speaks, sink.path.as_str()) {
                    (SpanFormat::OtlpGrpc, _) => EXPORT,
                    (SpanFormat::OtlpHttp, "") => HTTP_PATH,
                    (SpanFormat::Zipkin { .. }, "") => ZIPKIN_PATH,
                    (_, path) => path,
                };
                let to = uri(&target, &sink.authority, path).map_err(|error| error.to_string())?;
                let io = connect(&target, speak)
                    .await
                    .map_err(|error| error.to_string())?;
                let sender = Sender::over(TokioIo::new(io), http2, tasks)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Line { sender, to })
            }
        }
    }

    /// Sends `spans` over `line`.
    pub(super) async fn send(&self, line: &mut Line, spans: &[&Span], maker: &Maker) -> Outcome {
        let request = match self.request(line, spans, maker) {
            Ok(request) => request,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        if !line.sender.is_ready().await {
            return Outcome::Later("the connection has ended".to_owned());
        }
        let answer = async {
            let response = line.sender.send(request).await?;
            answer(response, self.format()).await
        };
        let answer: hyper::Result<Outcome> = answer.await;
        answer.unwrap_or_else(|error| Outcome::Later(error.to_string()))
    }

    fn request(
        &self,
        line: &Line,
        spans: &[&Span],
        maker: &Maker,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let (service, headers) = match self {
            Self::Own(..) => ("", &[][..]),
            Self::Service { sink, .. } => (sink.service.as_str(), sink.headers.as_slice()),
        };
        let service = if service.is_empty() {
            maker.service()
        } else {
            service.to_owned()
        };
        let (content, body) = match self.format() {
            SpanFormat::Zipkin { .. } => {
                ("application/json", zipkin::message(spans, maker, &service))
            }
            SpanFormat::OtlpHttp => (
                "application/x-protobuf",
                otlp::message(spans, maker, &service).encode_to_vec(),
            ),
            SpanFormat::OtlpGrpc => {
                let message = otlp::message(spans, maker, &service);
                let length = message.encoded_len();
                let mut body = Vec::with_capacity(PREFIX + length);
                body.push(0);
                body.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
                body.extend_from_slice(&message.encode_to_vec());
                ("application/grpc", body)
            }
        };
        let mut request = Request::post(line.to.clone())
            .header(header::CONTENT_TYPE, content)
            .header(header::USER_AGENT, "meshctl");
        if self.format() == SpanFormat::OtlpGrpc {
            request = request.header(header::TE, "trailers");
        } else {
            request = request.header(header::CONTENT_LENGTH, body.len());
        }
        let mut request = request.body(Full::from(body))?;
        let fields = request.headers_mut();
        unsampled(fields);
        for (name, value) in headers {
            fields.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        Ok(request)
    }
}

/// Telling of spans leaves none itself, at whomever's proxy it passes.
fn unsampled(fields: &mut HeaderMap) {
    let goes = Goes {
        ids: fresh(None),
        parent: None,
        sampled: false,
        forms: Forms::default(),
        fresh: true,
    };
    goes.each(|name, value| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    });
}

async fn answer(response: Response<Incoming>, format: SpanFormat) -> hyper::Result<Outcome> {
    let (head, mut body) = response.into_parts();
    let (mut kept, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                let room = MOST_ANSWERED.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let grpc = format == SpanFormat::OtlpGrpc;
    let told = |name: &str| {
        let value = trailers.get(name).or_else(|| head.headers.get(name));
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let status = told("grpc-status");
    let status = status.as_deref().filter(|_| grpc);
    if let Some(outcome) = judge(head.status, status, grpc, || {
        told("grpc-message").unwrap_or_default()
    }) {
        return Ok(outcome);
    }
    let message = if grpc {
        kept.get(PREFIX..).unwrap_or_default()
    } else {
        &kept
    };
    let partial = match format {
        SpanFormat::Zipkin { .. } => None,
        SpanFormat::OtlpGrpc | SpanFormat::OtlpHttp => {
            ExportTraceServiceResponse::decode(message).ok()
        }
    };
    let refused = partial.and_then(|answer| answer.partial_success);
    let refused = refused.map_or(0, |partial| partial.rejected_spans);
    Ok(Outcome::Taken(usize::try_from(refused).unwrap_or(0)))
}

/// What an answer means that is not a success; statuses that may be tried again are those of OTLP's
/// specification.
fn judge(
    status: StatusCode,
    grpc_status: Option<&str>,
    grpc: bool,
    message: impl FnOnce() -> String,
) -> Option<Outcome> {
    match (grpc, grpc_status, status.as_u16()) {
        (true, Some("0"), 200) | (false, _, 200..=299) => None,
        // Cancelled, deadline exceeded, resource exhausted, aborted, out of range, unavailable, data loss.
        (true, Some(told @ ("1" | "4" | "8" | "10" | "11" | "14" | "15")), _) => {
            Some(Outcome::Later(format!("gRPC status {told}: {}", message())))
        }
        (true, Some(told), _) => Some(Outcome::Refused(format!(
            "gRPC status {told}: {}",
            message()
        ))),
        (true, None, 200) => Some(Outcome::Later("the answer broke off".to_owned())),
        (_, _, 429 | 502..=504) => Some(Outcome::Later(format!("status {status}"))),
        _ => Some(Outcome::Refused(format!("status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_help_is_tried_again() {
        let of = |status: u16, grpc: Option<&str>, is_grpc: bool| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(status, grpc, is_grpc, String::new)
        };
        let later = |outcome| matches!(outcome, Some(Outcome::Later(_)));
        let refused = |outcome| matches!(outcome, Some(Outcome::Refused(_)));
        assert_eq!(of(202, None, false), None);
        assert_eq!(of(200, Some("0"), true), None);
        assert!(later(of(503, None, false)) && later(of(429, None, false)));
        assert!(refused(of(400, None, false)) && refused(of(404, None, false)));
        assert!(later(of(200, Some("14"), true)) && later(of(200, Some("8"), true)));
        assert!(refused(of(200, Some("12"), true)) && refused(of(200, Some("3"), true)));
        assert!(later(of(200, None, true)) && refused(of(404, None, true)));
    }
}
