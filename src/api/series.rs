//! Golden signals over time.

use serde::{Deserialize, Serialize};

/// `GET /series?window=SECONDS&step=SECONDS&service=&from=&version=&route=&code=&by=&to=UNIXMS`. `by` is a list of
/// `service`, `version`, `source`, `route` and `code`, with commas between. There is a row for each service in any case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeriesReport {
    /// Length of a point: what was asked for, or more where no finer slots are kept.
    pub step_seconds: u64,
    /// Begin of the first point that there may be.
    pub from_unix_ms: u64,
    /// End of the window.
    pub to_unix_ms: u64,
    /// One for each group in which anything happened.
    pub rows: Vec<SeriesRow>,
}

/// The signals of one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeriesRow {
    /// Destination service, `name.namespace`.
    pub service: String,
    /// Destination version; empty when rows are not by version.
    pub version: String,
    /// Source workload, `name.namespace`; empty when rows are not by source, or it is outside the mesh.
    pub source: String,
    /// The caller's route; empty when rows are not by route.
    pub route: String,
    /// Such as `5xx`; empty when rows are not by code.
    pub code_class: String,
    /// Ascending by time. Where nothing happened there is none.
    pub points: Vec<SeriesPoint>,
}

/// The signals of one group in one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeriesPoint {
    /// When it begins.
    pub at_unix_ms: u64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those answered 5xx, not at all, or with a gRPC status other than 0.
    pub failures: u64,
    /// Median; absent without requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p50_ms: Option<f64>,
    /// 95th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p95_ms: Option<f64>,
    /// 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p99_ms: Option<f64>,
    /// Tries after the first.
    pub retries: u64,
    /// Requests that ran out of time.
    pub timeouts: u64,
    /// Requests refused by a circuit breaker.
    pub overflows: u64,
    /// TCP connections opened.
    pub tcp_opened: u64,
    /// TCP bytes to the service.
    pub tcp_sent_bytes: u64,
    /// TCP bytes from the service.
    pub tcp_received_bytes: u64,
}
