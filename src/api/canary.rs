//! Shifting weights.

use serde::{Deserialize, Serialize};

use super::resources::{Convergence, ObjectOutcome, Written};

/// `POST /canaries/{namespace}/{service}`: shift weights now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanarySet {
    /// Version (subset) and weight. All versions that are not named get nothing.
    pub weights: Vec<(String, u32)>,
    /// Only requests that match get these weights: `header:NAME=VALUE`.
    #[serde(default)]
    pub matches: Vec<String>,
    /// Who asks.
    #[serde(default)]
    pub who: String,
}

/// What a shift did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryReport {
    /// `name.namespace`.
    pub service: String,
    /// Weights before; empty when there was no split.
    pub before: Vec<VersionWeight>,
    /// Weights after.
    pub after: Vec<VersionWeight>,
    /// Objects that were changed for it.
    pub objects: Vec<ObjectOutcome>,
    /// The revision that holds it.
    pub revision: u64,
    /// How the proxies took it.
    pub convergence: Convergence,
    /// What was written to the API server, where that keeps it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<Written>,
}

/// A version and its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionWeight {
    /// Subset, which is the version.
    pub version: String,
    /// As written.
    pub weight: u32,
    /// Share of the sum, in percent.
    pub share_percent: f64,
    /// Instances that may be chosen.
    pub ready: usize,
}

/// `GET /canaries`: the split of one service as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// `name.namespace`.
    pub service: String,
    /// Weights, with what each version got in the last minute.
    pub versions: Vec<VersionStatus>,
    /// The object that holds the split.
    pub origin: String,
    /// When it was last changed.
    pub changed_unix_ms: u64,
}

/// One version of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// Weight and share.
    #[serde(flatten)]
    pub weight: VersionWeight,
    /// Share measured over the last minute, in percent; absent without traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_percent: Option<f64>,
    /// Requests a second over the last minute.
    pub requests_per_second: f64,
    /// Answers below 500 (gRPC: status 0), in percent; absent without traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_percent: Option<f64>,
    /// 99th percentile over the last minute; absent without traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p99_ms: Option<f64>,
}
