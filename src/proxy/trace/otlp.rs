//! Spans in OpenTelemetry's words.

use crate::telemetry::otlp::{
    self, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, SpanStatus, text,
};

use super::span::Span;
use super::tags::{Maker, name, tags};

/// One message with all of `spans`. `service` is what the workload is called.
pub(super) fn message(spans: &[&Span], maker: &Maker, service: &str) -> ExportTraceServiceRequest {
    let spans = spans.iter().map(|span| one(span, maker)).collect();
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: resource(maker, service),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "meshctl".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans,
            }],
        }],
    }
}

fn resource(maker: &Maker, service: &str) -> Vec<KeyValue> {
    let workload = &maker.workload;
    let named = [
        ("service.name", service),
        ("service.version", &workload.version),
        ("service.namespace", &workload.namespace),
        ("service.instance.id", &workload.instance),
        ("k8s.pod.name", &workload.instance),
        ("k8s.namespace.name", &workload.namespace),
        ("k8s.deployment.name", &workload.workload),
        ("k8s.cluster.name", &maker.cluster),
    ];
    let known = named.into_iter().filter(|(_, value)| !value.is_empty());
    known.map(|(key, value)| text(key, value)).collect()
}

fn one(span: &Span, maker: &Maker) -> otlp::Span {
    let begun = span.begun_unix_us.saturating_mul(1_000);
    let lasted = u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX);
    let attributes = tags(span, maker).into_iter();
    otlp::Span {
        trace_id: span.ids.trace.to_be_bytes().to_vec(),
        span_id: span.ids.span.to_be_bytes().to_vec(),
        trace_state: String::new(),
        parent_span_id: span
            .parent
            .map(|parent| parent.to_be_bytes().to_vec())
            .unwrap_or_default(),
        name: name(span),
        kind: if span.server {
            otlp::SERVER
        } else {
            otlp::CLIENT
        },
        start_time_unix_nano: begun,
        end_time_unix_nano: begun.saturating_add(lasted),
        attributes: attributes.map(|(key, value)| text(&key, value)).collect(),
        status: span.failed().then(|| SpanStatus {
            code: otlp::ERROR,
            message: String::new(),
        }),
    }
}
