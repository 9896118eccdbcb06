//! Spans in Zipkin's words: its second version, as JSON (`/api/v2/spans`).

use serde::Serialize;
use serde_json::{Map, Value};

use super::context::{half, wide};
use super::span::Span;
use super::tags::{Maker, name, tags};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    kind: &'static str,
    name: String,
    /// Microseconds since 1970.
    timestamp: u64,
    /// Microseconds; not 0, which is none.
    duration: u64,
    local_endpoint: Endpoint,
    tags: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    service_name: String,
}

/// The body of one message with all of `spans`.
pub(super) fn message(spans: &[&Span], maker: &Maker, service: &str) -> Vec<u8> {
    let all: Vec<ZipkinSpan> = spans.iter().map(|span| one(span, maker, service)).collect();
    // Text and numbers are always JSON.
    serde_json::to_vec(&all).unwrap_or_default()
}

fn ascii(digits: &[u8]) -> String {
    String::from_utf8_lossy(digits).into_owned()
}

fn one(span: &Span, maker: &Maker, service: &str) -> ZipkinSpan {
    let all = wide(span.ids.trace);
    let shown = match all.split_at_checked(16) {
        Some((_, low)) if span.ids.narrow => low,
        _ => &all,
    };
    let tags = tags(span, maker).into_iter();
    let duration = u64::try_from(span.duration.as_micros()).unwrap_or(u64::MAX);
    ZipkinSpan {
        trace_id: ascii(shown),
        id: ascii(&half(span.ids.span)),
        parent_id: span.parent.map(|parent| ascii(&half(parent))),
        kind: if span.server { "SERVER" } else { "CLIENT" },
        name: name(span),
        timestamp: span.begun_unix_us,
        duration: duration.max(1),
        local_endpoint: Endpoint {
            service_name: service.to_owned(),
        },
        tags: tags.map(|(key, value)| (key, Value::from(value))).collect(),
    }
}
