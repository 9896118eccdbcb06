//! Traces from proxies: OpenTelemetry's `TraceService/Export`, and the store behind it.
//!
//! Owns whose spans are believed: a proxy's own, by its certificate. They are kept in memory only, within
//! [`MAX_BYTES`](crate::aggregate::traces::MAX_BYTES), and are gone after a restart.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tonic::codegen::{Body, Service, StdError};
use tonic::{Request, Response, Status};

use super::attest::is_anothers;
use super::push::Revised;
use super::serve_tls::PeerIdentity;
use crate::aggregate::traces::{Spanned, Traces, Wanted};
use crate::api::traces::{TraceReport, TracesReport};
use crate::mesh::{SpiffeId, World};
use crate::rt::Reader;
use crate::telemetry::otlp::{
    CLIENT, ERROR, EXPORT, ExportTracePartialSuccess, ExportTraceServiceRequest,
    ExportTraceServiceResponse, KeyValue, ResourceSpans, SERVER, SERVICE, Span, Value,
};

/// One message is a batch of a proxy's; anything larger than this is not read.
const MOST_MESSAGE_BYTES: usize = 4 << 20;

/// The traces that are kept. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Traces>>);

impl Kept {
    fn with<T>(&self, work: impl FnOnce(&mut Traces) -> T) -> T {
        // A panic in the middle leaves a span more or less.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those that `wanted` holds for.
    pub fn list(&self, wanted: &Wanted) -> TracesReport {
        self.with(|traces| traces.list(wanted))
    }

    /// The trace of this number.
    pub fn get(&self, id: u128) -> Option<TraceReport> {
        self.with(|traces| traces.get(id))
    }

    /// Memory that they take, about.
    pub fn bytes(&self) -> usize {
        self.with(|traces| traces.bytes())
    }
}

/// The service: takes spans of a proxy from that proxy alone.
#[derive(Debug, Clone)]
pub struct TraceServer {
    kept: Kept,
    world: Reader<Revised>,
}

impl TraceServer {
    /// Puts what proxies of the world say of themselves into `kept`.
    pub fn new(kept: Kept, world: Reader<Revised>) -> Self {
        Self { kept, world }
    }

    fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let peer = request.extensions().get::<PeerIdentity>();
        let id = peer
            .and_then(|peer| peer.id.clone())
            .ok_or_else(|| Status::unauthenticated("a client certificate of the mesh is needed"))?;
        let world = Arc::clone(&self.world.load().world);
        let mut rejected = 0_i64;
        let mut reason = String::new();
        for group in request.into_inner().resource_spans {
            match owner(&group, &id, &world) {
                Ok((service, workload)) => {
                    let spans = group.scope_spans.into_iter().flat_map(|part| part.spans);
                    self.kept.with(|traces| {
                        for span in spans {
                            let read = read(span, &service, &workload);
                            if read.is_none_or(|span| !traces.add(span)) {
                                rejected += 1;
                            }
                        }
                    });
                }
                Err(why) => {
                    let spans = group.scope_spans.iter().map(|part| part.spans.len());
                    rejected += i64::try_from(spans.sum::<usize>()).unwrap_or(0);
                    reason = why;
                }
            }
        }
        if !reason.is_empty() {
            tracing::warn!(%id, reason, rejected, "spans are not taken");
        }
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: (rejected > 0).then_some(ExportTracePartialSuccess {
                rejected_spans: rejected,
                error_message: reason,
            }),
        }))
    }
}

fn attribute<'a>(of: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = of.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Service and workload of who made a group of spans, if that is `id`; else why not.
fn owner(
    group: &ResourceSpans,
    id: &SpiffeId,
    world: &World,
) -> Result<(Arc<str>, Arc<str>), String> {
    let resource = group.resource.as_ref();
    let attributes = resource.map_or(&[][..], |resource| resource.attributes.as_slice());
    let said = |key| attribute(attributes, key).unwrap_or_default();
    let namespace = said("k8s.namespace.name");
    if namespace != id.namespace {
        return Err(format!(
            "spans of namespace {namespace:?}, and the certificate is for {}",
            id.namespace
        ));
    }
    let workload = said("k8s.deployment.name");
    if is_anothers(world, id, workload) {
        return Err(format!("workload {workload} is another account's"));
    }
    let service = said("service.name");
    let own = service
        .rsplit_once('.')
        .is_some_and(|(_, of)| of == namespace);
    let short = |text: &str| text.chars().take(128).collect::<String>();
    Ok((
        if own {
            short(service).into()
        } else {
            format!("{}.{namespace}", short(service)).into()
        },
        short(workload).into(),
    ))
}

fn read(from: Span, service: &Arc<str>, workload: &Arc<str>) -> Option<Spanned> {
    let trace = u128::from_be_bytes(from.trace_id.try_into().ok()?);
    let id = u64::from_be_bytes(from.span_id.try_into().ok()?);
    let parent: Result<[u8; 8], _> = from.parent_span_id.try_into();
    let known = trace != 0 && id != 0 && matches!(from.kind, SERVER | CLIENT);
    let attributes = from.attributes.into_iter();
    let tags = attributes.filter_map(|attribute| match attribute.value?.value? {
        Value::StringValue(text) => Some((attribute.key, text)),
        Value::IntValue(number) => Some((attribute.key, number.to_string())),
        Value::BoolValue(on) => Some((attribute.key, on.to_string())),
        _ => None,
    });
    let lasted = from
        .end_time_unix_nano
        .checked_sub(from.start_time_unix_nano)?;
    known.then(|| Spanned {
        trace,
        id,
        parent: parent.ok().map(u64::from_be_bytes).filter(|id| *id != 0),
        service: Arc::clone(service),
        workload: Arc::clone(workload),
        name: from.name,
        server: from.kind == SERVER,
        start_unix_us: from.start_time_unix_nano / 1_000,
        duration_us: lasted / 1_000,
        error: from.status.is_some_and(|status| status.code == ERROR),
        tags: tags.collect(),
    })
}

impl tonic::server::NamedService for TraceServer {
    const NAME: &'static str = SERVICE;
}

impl<B> Service<http::Request<B>> for TraceServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.uri().path() != EXPORT {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let method = tower::service_fn(move |request| {
                let server = server.clone();
                async move { server.export(request) }
            });
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MOST_MESSAGE_BYTES)
                .unary(method, request)
                .await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otlp::{Resource, ScopeSpans, SpanStatus, text};

    fn group(namespace: &str) -> ResourceSpans {
        ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", "shop.default"),
                    text("k8s.namespace.name", namespace),
                    text("k8s.deployment.name", "shop-v1"),
                ],
            }),
            scope_spans: vec![ScopeSpans {
                scope: None,
                spans: vec![
                    Span {
                        trace_id: 7_u128.to_be_bytes().to_vec(),
                        span_id: 9_u64.to_be_bytes().to_vec(),
                        name: "call".to_owned(),
                        kind: SERVER,
                        start_time_unix_nano: 5_000,
                        end_time_unix_nano: 9_000,
                        attributes: vec![text("http.status_code", "503")],
                        status: Some(SpanStatus {
                            code: ERROR,
                            message: String::new(),
                        }),
                        ..Span::default()
                    },
                    // No number of a trace.
                    Span {
                        trace_id: vec![0; 16],
                        span_id: vec![1; 8],
                        kind: SERVER,
                        ..Span::default()
                    },
                ],
            }],
        }
    }

    fn export(namespace: &str, id: Option<SpiffeId>) -> (Kept, Result<i64, tonic::Code>) {
        let kept = Kept::default();
        let world = crate::rt::Published::new(Revised {
            revision: 0,
            world: Arc::default(),
        });
        let server = TraceServer::new(kept.clone(), world.reader());
        let mut request = Request::new(ExportTraceServiceRequest {
            resource_spans: vec![group(namespace)],
        });
        request.extensions_mut().insert(PeerIdentity {
            id,
            chain: Arc::new([]),
        });
        let answered = server.export(request).map_err(|status| status.code());
        let rejected = answered.map(|answer| {
            let partial = answer.into_inner().partial_success;
            partial.map_or(0, |partial| partial.rejected_spans)
        });
        (kept, rejected)
    }

    #[test]
    fn a_proxy_tells_of_its_own_calls_and_of_no_others() {
        let own = || Some(SpiffeId::new("cluster.local", "default", "shop"));
        let (kept, rejected) = export("default", own());
        assert_eq!(rejected, Ok(1));
        let trace = kept.get(7).unwrap();
        assert_eq!(trace.spans[0].service, "shop.default");
        assert_eq!(trace.spans[0].workload, "shop-v1");
        assert_eq!(trace.spans[0].duration_us, 4);
        assert!(trace.spans[0].error);
        let (kept, rejected) = export("other", own());
        assert_eq!((rejected, kept.bytes()), (Ok(2), 0));
        let (kept, rejected) = export("default", None);
        assert_eq!(rejected, Err(tonic::Code::Unauthenticated));
        assert_eq!(kept.bytes(), 0);
    }
}
