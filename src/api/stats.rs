//! Golden signals.

use serde::{Deserialize, Serialize};

/// `GET /stats?window=60&service=&from=&to=&version=&route=&code=&by=`; `by` is a list, with commas between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsReport {
    /// Length of the window.
    pub window_seconds: u64,
    /// End of the window.
    pub at_unix_ms: u64,
    /// Rows by destination, and by version, source or route as asked for.
    pub rows: Vec<StatsRow>,
}

/// The signals of one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatsRow {
    /// Destination service, `name.namespace`.
    pub service: String,
    /// Destination version; empty when rows are not by version.
    pub version: String,
    /// Source workload, `name.namespace`; empty when rows are not by source.
    pub source: String,
    /// The caller's route: its name, else its conditions in words; empty when rows are not by route,
    /// and for callers outside the mesh.
    pub route: String,
    /// Such as `5xx`; empty when rows are not by code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code_class: String,
    /// Requests a second.
    pub requests_per_second: f64,
    /// All requests in the window.
    pub requests: u64,
    /// Answers below 500 (gRPC: status 0), in percent; absent without requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_percent: Option<f64>,
    /// Tries that were answered so, of all: without what trying again has mended. Absent without requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub try_success_percent: Option<f64>,
    /// Median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p50_ms: Option<f64>,
    /// 95th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p95_ms: Option<f64>,
    /// 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p99_ms: Option<f64>,
    /// Share of requests over mTLS, in percent, as the destinations saw it; absent without requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls_percent: Option<f64>,
    /// Tries after the first.
    pub retries: u64,
    /// Requests that ran out of time (`UT`).
    pub timeouts: u64,
    /// Requests refused by a circuit breaker (`UO`).
    pub overflows: u64,
    /// Endpoints that outlier detection of some caller leaves out now; 0 where rows are of a route.
    #[serde(rename = "ejectedEndpoints")]
    pub ejected: u64,
    /// Requests by class of their status.
    pub codes: Vec<CodeCount>,
    /// TCP connections opened.
    pub tcp_opened: u64,
    /// TCP bytes to the service.
    pub tcp_sent_bytes: u64,
    /// TCP bytes from the service.
    pub tcp_received_bytes: u64,
}

/// Requests that were answered alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CodeCount {
    /// Such as `5xx`; `none` where nobody answered.
    pub class: String,
    /// How many.
    pub requests: u64,
}
