//! What the control plane and the proxies answer: one struct per report, serialised as it stands.
//!
//! Owns the keys: the API, `-o json` and the dashboard share these, so each is a promise: lowerCamelCase,
//! numbers as numbers, the unit in the name. How they are computed and drawn is left to others.

pub mod access;
pub mod analysis;
pub mod authz;
pub mod canary;
pub mod check;
pub mod diff;
pub mod edges;
pub mod ejections;
pub mod faults;
pub mod identity;
pub mod local;
pub mod proxies;
pub mod registry;
pub mod resources;
pub mod rollouts;
pub mod routes;
pub mod series;
pub mod shadow;
pub mod stats;
pub mod tap;
pub mod traces;

use serde::{Deserialize, Serialize};

use crate::mesh::Finding;

/// Path under which everything is served.
pub const PREFIX: &str = "/api/v1";

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A stable word: `invalid`, `notFound`, `conflict`, `readOnly`, `unknown`, `denied`,
    /// `unauthenticated`, `rateLimited`, `internal`.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong with a manifest, place by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The request cannot be honoured as it is.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// Something else stands there already.
    Conflict,
    /// The store takes no writes now (a full disk, for example).
    ReadOnly,
    /// The write may or may not have happened: look before you repeat it.
    Unknown,
    /// The caller may not.
    Denied,
    /// The caller has not proven who it is.
    Unauthenticated,
    /// The caller has failed to prove who it is too often.
    RateLimited,
    /// A fault of ours.
    Internal,
}

impl Problem {
    /// A problem without hint and findings.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            hint: None,
            findings: Vec::new(),
        }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The HTTP status that carries it.
    pub fn status(&self) -> u16 {
        match self.reason {
            Reason::Invalid => 422,
            Reason::NotFound => 404,
            Reason::Conflict => 409,
            Reason::ReadOnly | Reason::Unknown => 503,
            Reason::Denied => 403,
            Reason::Unauthenticated => 401,
            Reason::RateLimited => 429,
            Reason::Internal => 500,
        }
    }
}

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Semantic version of the control plane.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Since when it runs.
    pub started_unix_ms: u64,
    /// Newest revision of the configuration.
    pub revision: u64,
    /// The root of identities.
    pub trust_domain: String,
    /// Where proxies connect: xDS without TLS (loopback only), xDS and CA with TLS.
    pub xds_address: String,
    /// See `xds_address`.
    pub tls_address: String,
    /// Where this API is served over TLS, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<String>,
}
