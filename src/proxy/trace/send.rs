//! One batch of spans to somebody who gets them: how it is asked for, and what the answer means.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use prost::Message as _;

use crate::mesh::tracing::{SpanFormat, SpanSink};
use crate::rt::{Reader, Tasks};
use crate::telemetry::otlp::{EXPORT, ExportTraceServiceResponse, HTTP_PATH};
use crate::tls::Material;

use super::super::control_link::Caller;
use super::super::health::probe::Sender;
use super::super::unary::{GRPC, Line, Outcome, PROTOBUF, Ways, ask, framed};
use super::Collector;
use super::span::Span;
use super::tags::Maker;
use super::{otlp, zipkin};

/// Zipkin's path.
const ZIPKIN_PATH: &str = "/api/v2/spans";
/// Who gets spans, and the way there.
#[derive(Debug)]
pub(super) enum Way {
    /// The control plane.
    Own(Collector, Reader<Option<Arc<Material>>>),
    /// A service of the configuration's.
    Service(SpanSink, Ways),
}

impl Way {
    /// What it is called where people look.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(..) => "the control plane",
            Self::Service(sink, _) => &sink.cluster,
        }
    }

    fn format(&self) -> SpanFormat {
        match self {
            Self::Own(..) => SpanFormat::OtlpGrpc,
            Self::Service(sink, _) => sink.speaks,
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
            Self::Service(sink, ways) => {
                let path = match (sink.speaks, sink.path.as_str()) {
                    (SpanFormat::OtlpGrpc, _) => EXPORT,
                    (SpanFormat::OtlpHttp, "") => HTTP_PATH,
                    (SpanFormat::Zipkin { .. }, "") => ZIPKIN_PATH,
                    (_, path) => path,
                };
                let grpc = sink.speaks == SpanFormat::OtlpGrpc;
                let reached = ways.reach(&sink.cluster, &sink.authority, grpc).await?;
                reached.line(&sink.authority, path, tasks).await
            }
        }
    }

    /// Sends `spans` over `line`.
    pub(super) async fn send(&self, line: &mut Line, spans: &[&Span], maker: &Maker) -> Outcome {
        let (service, headers) = match self {
            Self::Own(..) => ("", &[][..]),
            Self::Service(sink, _) => (sink.service.as_str(), sink.headers.as_slice()),
        };
        let service = if service.is_empty() {
            maker.service()
        } else {
            service.to_owned()
        };
        let format = self.format();
        let otlp = || otlp::message(spans, maker, &service).encode_to_vec();
        let (content, body) = match format {
            SpanFormat::Zipkin { .. } => {
                ("application/json", zipkin::message(spans, maker, &service))
            }
            SpanFormat::OtlpHttp => (PROTOBUF, otlp()),
            SpanFormat::OtlpGrpc => (GRPC, framed(&[&otlp()])),
        };
        let answer = match ask(line, content, headers, body).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        let partial = match format {
            SpanFormat::Zipkin { .. } => None,
            SpanFormat::OtlpGrpc | SpanFormat::OtlpHttp => {
                ExportTraceServiceResponse::decode(answer.as_slice()).ok()
            }
        };
        let refused = partial.and_then(|answer| answer.partial_success);
        let refused = refused.map_or(0, |partial| partial.rejected_spans);
        Outcome::Taken(usize::try_from(refused).unwrap_or(0))
    }
}
