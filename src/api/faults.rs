//! Faults that are injected for a while.

use serde::{Deserialize, Serialize};

use super::resources::{Convergence, ObjectOutcome, Written};

/// `POST /faults/{namespace}/{service}`: let calls go wrong for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultSet {
    /// How long calls are held back.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    /// What callers are told: a status of HTTP, or `grpc:` and one of gRPC.
    #[serde(default)]
    pub abort: Option<String>,
    /// Of how many calls, from 0 to 100.
    pub percent: f64,
    /// How long it lasts.
    pub for_ms: u64,
    /// Only calls with these: `header:NAME=VALUE`.
    #[serde(default)]
    pub matches: Vec<String>,
    /// Who asks.
    #[serde(default)]
    pub who: String,
}

/// `GET /faults`: a fault as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultStatus {
    /// `name.namespace`.
    pub service: String,
    /// How long calls are held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// What callers are told: a status of HTTP, or the name of one of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<String>,
    /// Of how many calls.
    pub percent: f64,
    /// Only calls with these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
    /// When it ends.
    pub until_unix_ms: u64,
}

/// What injecting or clearing did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionReport {
    /// The fault that is in force now; absent when it was cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultStatus>,
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
