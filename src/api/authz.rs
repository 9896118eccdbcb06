//! Who may call whom, and why.

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::mesh::authorization::explain::AuthorizationTrace;

/// `POST /authz/check`: a call that is judged, but not made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthzCheck {
    /// Caller: `workload` or `workload.namespace`; empty is somebody without an identity.
    pub from: String,
    /// The caller's address, in place of the workload's own.
    pub from_ip: String,
    /// Called: a service, a workload or an instance, with or without namespace.
    pub to: String,
    /// Service port; 0 is the first, of HTTP if there is one.
    pub port: u16,
    /// Upper case.
    pub method: String,
    /// With the query.
    pub path: String,
    /// The host that is asked for; empty is the service's.
    pub host: String,
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// What a verified token says.
    pub claims: Option<Value>,
    /// Namespace for short names.
    pub namespace: String,
}

/// What would come of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthzReport {
    /// The caller's identity; empty is none.
    pub principal: String,
    /// The workload that is called, `name.namespace`.
    pub workload: String,
    /// The port of the workload.
    pub port: u16,
    /// It is judged as bytes: nothing of requests is looked at.
    pub bytes: bool,
    /// Who must speak mTLS there.
    pub mtls: String,
    /// The path as it is judged.
    pub path: String,
    /// The judgement.
    #[serde(flatten)]
    pub trace: AuthorizationTrace,
}

/// `GET /authz/suggest`: the least policies that let pass what was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthzSuggestion {
    /// AuthorizationPolicies, one for each service that was called.
    pub policies: Vec<Value>,
    /// Callers that no policy can name, and why.
    pub uncovered: Vec<Uncovered>,
}

/// A caller that a policy cannot name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Uncovered {
    /// Called, `name.namespace`.
    pub service: String,
    /// Calling workload; empty is somebody outside of the mesh.
    pub source: String,
    /// Why.
    pub reason: String,
}

/// `GET /authz/matrix?method=&path=`: every caller against every service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthzMatrix {
    /// Calling workloads, `name.namespace`; empty is somebody without an identity.
    pub callers: Vec<String>,
    /// Called, `name.namespace`; those that no instance stands behind are not judged.
    pub services: Vec<String>,
    /// Upper case.
    pub method: String,
    /// As it is judged.
    pub path: String,
    /// Judged calls.
    pub cells: Vec<AuthzCell>,
    /// Calls that were not judged, because there are too many.
    pub left_out: usize,
}

/// One judged call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthzCell {
    /// Caller.
    pub from: String,
    /// Service.
    pub to: String,
    /// What would come of it.
    pub verdict: Verdict,
    /// A policy that audits holds for it.
    pub audited: bool,
    /// Why, in words.
    pub because: String,
    /// Policies that are asked there, `ACTION name.namespace`.
    pub policies: Vec<String>,
}

/// What comes of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It does not.
    #[default]
    Denied,
    /// It passes if an outside authority lets it.
    Asked,
}
