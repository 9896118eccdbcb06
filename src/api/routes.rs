//! Effective routes, and why a request goes where it goes.

use serde::{Deserialize, Serialize};

use crate::mesh::route::explain::RouteTrace;

/// `GET /routes`: one backend of one route, as a caller sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// `name.namespace` of the service that is called.
    pub service: String,
    /// Service port.
    pub port: u16,
    /// Position in the table, from 0.
    pub index: usize,
    /// The route's name; may be empty.
    pub name: String,
    /// Conditions in words; empty matches everything.
    pub matches: Vec<String>,
    /// What it does, in words: `forward`, `redirect 301 …`, `respond 200`, and `carry` for bytes.
    pub action: String,
    /// Where requests go.
    pub backends: Vec<BackendReport>,
    /// Where copies of requests go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<MirrorReport>,
    /// What goes wrong on purpose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultReport>,
    /// Origins whose pages may call, in words; empty leaves that to the application.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// For the whole request; absent is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Tries after the first.
    pub retries: u32,
    /// The object that it was written in, `VirtualService default/reviews`; empty for the default route.
    pub origin: String,
}

/// One weighted backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendReport {
    /// Cluster, Istio's name.
    pub cluster: String,
    /// `name.namespace`.
    pub service: String,
    /// Subset; empty for the whole service.
    pub subset: String,
    /// As written.
    pub weight: u32,
    /// Share of the sum of weights, in percent.
    pub share_percent: f64,
    /// Share measured over the last minute, in percent; absent without traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_percent: Option<f64>,
    /// Healthy endpoints.
    pub ready: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// Why it cannot be used; absent when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorReport {
    /// Cluster, Istio's name.
    pub cluster: String,
    /// `name.namespace`.
    pub service: String,
    /// Subset; empty for the whole service.
    pub subset: String,
    /// Of how many requests.
    pub percent: f64,
    /// Why nothing is copied; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

/// What goes wrong on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// In words, such as `delay 2000ms` and `abort 503`.
    pub what: String,
    /// Of how many requests.
    pub percent: f64,
}

/// `POST /routes/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainRequest {
    /// Upper case.
    pub method: String,
    /// `http://reviews:9080/reviews/1`.
    pub url: String,
    /// Name and value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Caller: `workload` or `workload.namespace`, or an instance; empty is a workload of the default namespace.
    #[serde(default)]
    pub from: String,
    /// Namespace for short names.
    pub namespace: String,
}

/// Why a request goes where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainReport {
    /// The caller whose configuration was walked.
    pub from: String,
    /// Route table.
    pub table: String,
    /// Virtual host; absent: nothing serves this host.
    pub host: Option<String>,
    /// Routes in order, up to the one that matched.
    pub routes: Vec<RouteTrace>,
    /// What happens: the chosen route's effect.
    pub outcome: Option<RouteReport>,
    /// Endpoints of each backend, in the order of the backends.
    pub endpoints: Vec<Vec<super::registry::EndpointReport>>,
    /// The answer that the proxy itself gives, if it gives one, such as `404 (NR route_not_found)`.
    pub answer: Option<String>,
}
