//! What calls went through: the traces that the control plane keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /traces?service=&minDurationMs=&errors=true&limit=`: the newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracesReport {
    /// Those that were asked for.
    pub traces: Vec<TraceRow>,
    /// Traces that are kept.
    pub kept_traces: u64,
    /// Memory that all of them take, about.
    pub kept_bytes: u64,
    /// What they may take: when it is reached, the oldest go.
    pub max_bytes: u64,
}

/// One trace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceRow {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// Where it begins, as far as is known.
    pub root_service: String,
    /// What was called there.
    pub name: String,
    /// When it began.
    pub started_unix_ms: u64,
    /// From the first span's begin to the last one's end.
    pub duration_ms: f64,
    /// How many spans.
    pub spans: u64,
    /// Of those, how many failed.
    pub errors: u64,
    /// Whose spans these are, by name.
    pub services: Vec<String>,
}

/// `GET /traces/{id}`: the whole of one trace, in order of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceReport {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// Its spans.
    pub spans: Vec<SpanReport>,
}

/// One span.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpanReport {
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span that it is part of; that one need not be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whose it is, `name.namespace`.
    pub service: String,
    /// The workload, such as `reviews-v1`.
    pub workload: String,
    /// What was called.
    pub name: String,
    /// `server` or `client`.
    pub kind: String,
    /// When it began.
    pub start_unix_us: u64,
    /// How long it took.
    pub duration_us: u64,
    /// Whether it failed.
    pub error: bool,
    /// What else is told of it.
    pub tags: BTreeMap<String, String>,
}
