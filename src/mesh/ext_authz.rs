//! Somebody outside who is asked whether a request may be made (`envoy.filters.http.ext_authz`). The fields
//! are Envoy's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listener::is_default;
use super::route::TextMatch;

/// How long an answer is waited for where nobody says (Envoy's).
pub const TIMEOUT: Duration = Duration::from_millis(200);
/// The status of a request about which nothing could be learned (Envoy's).
pub const STATUS_ON_ERROR: u16 = 403;

/// Whom to ask, about which requests, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, each asked for by name"
)]
pub struct ExtAuthz {
    /// In names of what is counted.
    #[serde(skip_serializing_if = "is_default")]
    pub stat_prefix: String,
    /// Who answers, and in what words.
    pub asks: Asks,
    /// For the answer. Zero waits for ever.
    pub timeout: Duration,
    /// Who gets no answer passes.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_open: bool,
    /// The application is told of that, by `x-envoy-auth-failure-mode-allowed`.
    #[serde(skip_serializing_if = "is_default")]
    pub tells_fail_open: bool,
    /// What else who gets no answer is answered.
    pub status_on_error: u16,
    /// The request's body is part of the question.
    #[serde(skip_serializing_if = "is_default")]
    pub body: Option<CheckedBody>,
    /// An answer that changes the head lets its route be looked for again.
    #[serde(skip_serializing_if = "is_default")]
    pub clear_route_cache: bool,
    /// Headers in the question; lower-case names. Without any: all of them by gRPC, hardly any by HTTP.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_headers: Vec<TextMatch>,
    /// Headers that are never in it.
    #[serde(skip_serializing_if = "is_default")]
    pub disallowed_headers: Vec<TextMatch>,
    /// The caller's certificate is part of the question.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_certificate: bool,
    /// The TLS server name is.
    #[serde(skip_serializing_if = "is_default")]
    pub tls_session: bool,
    /// Only where this holds; else always.
    #[serde(skip_serializing_if = "is_default")]
    pub when: Option<WhenNoted>,
}

/// Holds when rules that are only counted ([`super::rbac::Rbac::shadow`]) held before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhenNoted {
    /// [`super::rbac::Rbac::shadow_prefix`] of those rules.
    pub prefix: String,
    /// The name of the policy that held.
    pub policy: TextMatch,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Asks {
    /// `envoy.service.auth.v3.Authorization/Check`.
    #[serde(rename_all = "camelCase")]
    Grpc {
        /// The cluster's name.
        cluster: String,
        /// The host that is asked for; the cluster's name without one.
        authority: String,
        /// Further fields of the question.
        metadata: Vec<(String, String)>,
    },
    /// A request like the one in question.
    Http(Box<AsksHttp>),
}

impl Asks {
    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        match self {
            Self::Grpc { cluster, .. } => cluster,
            Self::Http(http) => &http.cluster,
        }
    }
}

/// Asking by HTTP. Names of headers are in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AsksHttp {
    /// The cluster's name.
    pub cluster: String,
    /// What the cluster stands for; Envoy wants it and makes nothing of it.
    pub uri: String,
    /// Before the request's path.
    #[serde(skip_serializing_if = "is_default")]
    pub path_prefix: String,
    /// In the place of the request's path.
    #[serde(skip_serializing_if = "is_default")]
    pub path_override: String,
    /// Further fields of the question. They take the place of those of one name.
    #[serde(skip_serializing_if = "is_default")]
    pub headers_to_add: Vec<(String, String)>,
    /// Of the answer, what takes its place in the request when that may be made.
    #[serde(skip_serializing_if = "is_default")]
    pub upstream: Vec<TextMatch>,
    /// The same, added to what is there.
    #[serde(skip_serializing_if = "is_default")]
    pub upstream_append: Vec<TextMatch>,
    /// Of the answer, what the caller is told when the request may not be made; without any, all.
    #[serde(skip_serializing_if = "is_default")]
    pub denied: Vec<TextMatch>,
    /// Of the answer, what is added to the application's.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed: Vec<TextMatch>,
}

/// How the request's body is part of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedBody {
    /// At most so many bytes.
    pub max_bytes: u32,
    /// Of a longer one, its beginning; else it is refused (413).
    pub partial: bool,
    /// Bytes, whatever they are, rather than text.
    pub as_bytes: bool,
}

impl Default for ExtAuthz {
    fn default() -> Self {
        Self {
            stat_prefix: String::new(),
            asks: Asks::Grpc {
                cluster: String::new(),
                authority: String::new(),
                metadata: Vec::new(),
            },
            timeout: TIMEOUT,
            fail_open: false,
            tells_fail_open: false,
            status_on_error: STATUS_ON_ERROR,
            body: None,
            clear_route_cache: false,
            allowed_headers: Vec::new(),
            disallowed_headers: Vec::new(),
            peer_certificate: false,
            tls_session: false,
            when: None,
        }
    }
}

/// Whether one of `names` holds for a header's name, which is in lower case.
pub fn names(names: &[TextMatch], name: &[u8]) -> bool {
    names.iter().any(|of| of.holds(name))
}
