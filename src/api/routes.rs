//! Effective routes, and why a request goes where it goes.

use serde::{Deserialize, Serialize};

use super::registry::EndpointReport;
use crate::mesh::Origin;
use crate::mesh::route::explain::RouteTrace;

/// `GET /routes`: one backend of one route, as a caller sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// `name.namespace` of the gateway that takes the requests; empty where a workload calls.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// `name.namespace` of the service that is called; at a gateway, the host that is asked for.
    pub service: String,
    /// Service port, or that of the gateway.
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
    /// The gateway that a caller from outside comes to, in place of a workload that calls.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Namespace for short names.
    pub namespace: String,
}

/// Why a request goes where it goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExplainReport {
    /// The caller, or the gateway, whose configuration was walked.
    pub from: String,
    /// The listener and its chain that take the connection.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// Route table.
    pub table: String,
    /// Virtual host; absent: nothing serves this host.
    pub host: Option<String>,
    /// Every rule of the host in order, with all conditions.
    pub routes: Vec<RouteTrace>,
    /// Rules of the host that are not for this caller or this port, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Fact>,
    /// What happens: the chosen route's effect.
    pub outcome: Option<RouteReport>,
    /// What is so for the request as a whole: the service, timeout, retries.
    pub facts: Vec<Fact>,
    /// What is done to the request, and then to the answer, in this order.
    pub steps: Vec<Fact>,
    /// What is said of each backend, in the order of the backends.
    pub backends: Vec<Vec<Fact>>,
    /// Endpoints of each backend, in the order of the backends.
    pub endpoints: Vec<Vec<CandidateReport>>,
    /// How the request is sent on, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<SentReport>,
    /// The answer that the proxy itself gives, if it gives one, such as `404 (NR route_not_found)`.
    pub answer: Option<String>,
    /// Its status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Where it sends the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What was perhaps meant by a host that no service has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub meant: Vec<String>,
    /// The objects that say all this, in the state that counts.
    pub sources: Vec<SourceReport>,
}

/// Something that is so, and the object that says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fact {
    /// What it is about, such as `timeout`.
    pub name: String,
    /// What is so.
    pub value: String,
    /// Where it was written; absent: a default, or nobody's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl Fact {
    /// `name` is `value`, says `origin`.
    pub fn new(name: &str, value: impl Into<String>, origin: Option<&Origin>) -> Self {
        Self {
            name: name.to_owned(),
            value: value.into(),
            origin: origin.filter(|origin| !origin.kind.is_empty()).cloned(),
        }
    }
}

/// An endpoint that may be chosen, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateReport {
    /// What it is.
    #[serde(flatten)]
    pub endpoint: EndpointReport,
    /// 0 is used first.
    #[serde(default)]
    pub priority: u32,
    /// `region/zone/subzone`, as far as it is known.
    #[serde(default)]
    pub locality: String,
}

/// The target of a request as an endpoint gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentReport {
    /// Host.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// An object and the state that it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// Such as `VirtualService`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The file that it was applied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The revision that last changed it; 0 where a cluster keeps it.
    pub revision: u64,
    /// The cluster's number for its state; absent where none keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}
