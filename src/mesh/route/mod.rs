//! Route tables: which requests go where.
//!
//! The match types here are the ones that the data path runs. [`Router`] finds the route of a
//! request; [`explain`] walks the same conditions and says what each found, so the proxy,
//! `routes --explain` and the shadowed-rule check cannot disagree.

mod claim;
pub mod explain;
pub mod hash;
pub mod matching;
pub mod policy;
pub mod retry;
pub mod rewrite;
pub mod router;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Origin;
use super::filter::{HttpFilter, RateLimitRule};
use super::shadow::Comparison;
pub use claim::ClaimMatch;
pub use hash::{HashCookie, HashOf, HashPolicy};
pub use matching::{HeaderMatch, Match, PathMatch, Pattern, QueryMatch, Request, TextMatch};
pub use policy::{AttemptHeaders, Deadlines, GrpcTimeout, Mirror, Missing, Priority, Share};
pub use retry::{RateLimitedBackOff, ResetFormat, ResetHeader, Retry, RetryOn};
pub use rewrite::{location, rewritten};
pub use router::{Found, Router};

/// Routes by host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTable {
    /// Unique in a view: a port such as `9080`, `http_proxy`, or `inbound|9080||`.
    pub name: String,
    /// A domain without a port stands for the name with any port. Where the port was not known from
    /// the connection (an explicit proxy), it must not: `reviews:1234` is not `reviews:9080`.
    pub ignore_port: bool,
    /// Searched exact names first, then the longest `*.suffix`, then `*`.
    pub hosts: Vec<VirtualHost>,
}

/// The routes of some host names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualHost {
    /// Unique in its table, such as `reviews.default.svc.cluster.local:9080`.
    pub name: String,
    /// Host names as requests carry them, with and without port.
    pub domains: Vec<String>,
    /// The first match wins.
    pub routes: Vec<Route>,
    /// What is said about tries.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attempts: AttemptHeaders,
}

/// Whether a field says nothing: it is left out then.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// For access logs and explanations; may be empty.
    pub name: String,
    /// All conditions must hold.
    pub matches: Match,
    /// What happens then.
    pub action: Action,
    /// Edits for every answer and request of this route.
    #[serde(default)]
    pub headers: HeaderEdits,
    /// The object that it was written in.
    #[serde(default)]
    pub origin: Origin,
}

/// What a route does.
#[expect(clippy::large_enum_variant, reason = "nearly every route forwards")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Sends the request on.
    Forward(Forward),
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Answers by itself.
    Respond(Respond),
}

/// Sending a request on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// Each gets `weight` of the sum of weights. A cluster that the view does not hold answers as `missing`
    /// says (`NC`).
    pub clusters: Vec<WeightedCluster>,
    /// For the whole request with its retries; `None` is no limit (Istio's default).
    pub timeout: Option<Duration>,
    /// `None` never retries.
    pub retry: Option<Retry>,
    /// Further limits in time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deadlines: Deadlines,
    /// A try that takes longer than its limit goes on beside the next one, and the first good
    /// answer counts (Envoy: `hedge_on_per_try_timeout`). Requests that may not be done twice are
    /// never hedged.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hedge: bool,
    /// Where copies of requests go, whose answers nobody gets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mirrors: Vec<Mirror>,
    /// What their answers are compared by with those that callers get; `None` compares nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compare: Option<Arc<Comparison>>,
    /// Whose share of the clusters' limits requests take.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Most bytes of a body that are kept for another try; `None` is 64 KiB. A larger body is sent
    /// once (Envoy: `request_body_buffer_limit`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub replay_limit: Option<u64>,
    /// The route's own configuration of filters, in place of the chain's of the same kind.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filters: Vec<HttpFilter>,
    /// How requests get the values that a chain's rate limit goes by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_limits: Vec<RateLimitRule>,
    /// Changes path and host before sending on.
    #[serde(default)]
    pub rewrite: Rewrite,
    /// What of a request chooses its endpoint, in clusters that choose by hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<HashPolicy>,
    /// The answer where the view does not hold the cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missing: Missing,
}

/// A cluster and its share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightedCluster {
    /// Name of a cluster in the view.
    pub cluster: String,
    /// Share of the sum of weights.
    pub weight: u32,
    /// Edits for requests that go here.
    #[serde(default)]
    pub headers: HeaderEdits,
}

/// Changes to the request line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// What takes the place of the matched prefix, or of the whole path.
    pub path: Option<PathRewrite>,
    /// What takes the place of the host.
    pub authority: Option<String>,
}

/// A change of the path; the query stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// Replaces the prefix that matched.
    Prefix(String),
    /// Replaces the whole path.
    Full(String),
    /// Replaces every match of a pattern; `\1` is its first group.
    Regex {
        /// RE2 syntax.
        pattern: Pattern,
        /// With `\N` for groups.
        substitution: String,
    },
}

/// Sending the caller elsewhere; what is `None` stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Istio's default is 301.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host without port.
    pub authority: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Replaces the whole path.
    pub path: Option<String>,
    /// Replaces the prefix that matched, where no whole path is given.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix: Option<String>,
}

/// Answering by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Respond {
    /// Status.
    pub status: u16,
    /// Body, at most 4 KiB (Envoy's default limit).
    pub body: String,
}

/// Header edits: first removed, then set, then added, then added where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderEdits {
    /// Of the request, before it is sent on.
    pub request: HeaderOperations,
    /// Of the answer, before the caller gets it.
    pub response: HeaderOperations,
}

/// Edits of one header block. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    /// Replaces all values.
    pub set: BTreeMap<String, String>,
    /// Appends a value.
    pub add: BTreeMap<String, String>,
    /// Adds a value where there is none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add_if_absent: BTreeMap<String, String>,
    /// Removes all values.
    pub remove: Vec<String>,
}

impl HeaderOperations {
    /// Whether nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
            && self.add.is_empty()
            && self.add_if_absent.is_empty()
            && self.remove.is_empty()
    }
}
