//! What happens to a request before it is sent on: the HTTP filters of a listener's chain, and what
//! routes say of them. The fields are Envoy's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ext_authz::ExtAuthz;
use super::jwt_authn::JwtAuthn;
use super::rbac::Rbac;
use super::route::{HeaderMatch, Share, TextMatch};
use super::session::StatefulSession;

/// Whether a field says nothing: it is left out then.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One filter. Filters run in the order in which a chain names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpFilter {
    /// Refuses requests that come faster than tokens (`envoy.filters.http.local_ratelimit`).
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Refuses requests beyond a number that follows the application's own speed
    /// (`envoy.filters.http.adaptive_concurrency`).
    AdaptiveConcurrency(AdaptiveConcurrency),
    /// Delays requests and answers them with errors, on purpose (`envoy.filters.http.fault`). One
    /// that says nothing is the place where those of routes act.
    Fault(Arc<Fault>),
    /// Answers what browsers ask before they let pages of other origins call
    /// (`envoy.filters.http.cors`). In a chain only its place counts; routes say what is allowed.
    Cors(Arc<Cors>),
    /// Compresses answers (`envoy.filters.http.compressor`, by gzip). On a route it says only whether
    /// it acts there.
    Compressor(Arc<Compressor>),
    /// Lets pages in browsers call gRPC (`envoy.filters.http.grpc_web`).
    GrpcWeb,
    /// Sends requests of a session to the endpoint of the session
    /// (`envoy.filters.http.stateful_session`). One that says nothing is the place where those of routes
    /// act.
    StatefulSession(Arc<StatefulSession>),
    /// Refuses requests with bad tokens, and tells what good ones say (`envoy.filters.http.jwt_authn`).
    JwtAuthn(Arc<JwtAuthn>),
    /// Refuses callers who may not do what they ask for (`envoy.filters.http.rbac`).
    Rbac(Arc<Rbac>),
    /// Asks somebody outside whether a request may be made (`envoy.filters.http.ext_authz`).
    ExtAuthz(Arc<ExtAuthz>),
}

impl HttpFilter {
    /// Whether it does nothing but mark where those of routes act.
    pub fn is_place(&self) -> bool {
        match self {
            Self::LocalRateLimit(limit) => **limit == LocalRateLimit::place(),
            Self::Fault(fault) => **fault == Fault::default(),
            Self::Cors(policy) => **policy == Cors::default(),
            Self::StatefulSession(session) => **session == StatefulSession::default(),
            Self::AdaptiveConcurrency(_)
            | Self::Compressor(_)
            | Self::GrpcWeb
            | Self::JwtAuthn(_)
            | Self::Rbac(_)
            | Self::ExtAuthz(_) => false,
        }
    }

    /// Whether one takes the place of the other.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Envoy's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LocalRateLimit(_) => "envoy.filters.http.local_ratelimit",
            Self::AdaptiveConcurrency(_) => "envoy.filters.http.adaptive_concurrency",
            Self::Fault(_) => "envoy.filters.http.fault",
            Self::Cors(_) => "envoy.filters.http.cors",
            Self::Compressor(_) => "envoy.filters.http.compressor",
            Self::GrpcWeb => "envoy.filters.http.grpc_web",
            Self::StatefulSession(_) => "envoy.filters.http.stateful_session",
            Self::JwtAuthn(_) => "envoy.filters.http.jwt_authn",
            Self::Rbac(_) => "envoy.filters.http.rbac",
            Self::ExtAuthz(_) => "envoy.filters.http.ext_authz",
        }
    }

    /// Puts this among a route's `filters`, which are in the order of their names, in the place of one
    /// like it.
    pub fn put_into(self, filters: &mut Vec<Self>) {
        match filters.iter().position(|other| other.name() >= self.name()) {
            Some(at) => match filters.get_mut(at) {
                Some(other) if other.is_like(&self) => *other = self,
                _ => filters.insert(at, self),
            },
            None => filters.push(self),
        }
    }
}

/// What judges whoever connects, before bytes are carried. Filters run in the order in which a chain names
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkFilter {
    /// Refuses callers who may not connect (`envoy.filters.network.rbac`).
    Rbac(Arc<Rbac>),
    /// Asks somebody outside whether a caller may (`envoy.filters.network.ext_authz`). Only by gRPC, and of
    /// what is there of a request nothing is told.
    ExtAuthz(Arc<ExtAuthz>),
}

impl NetworkFilter {
    /// The filter that judges requests so.
    pub fn of_requests(&self) -> HttpFilter {
        match self {
            Self::Rbac(rbac) => HttpFilter::Rbac(Arc::clone(rbac)),
            Self::ExtAuthz(asks) => HttpFilter::ExtAuthz(Arc::clone(asks)),
        }
    }
}

/// Which pages of other origins may call. Values of fields are as they are sent; empty sends none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cors {
    /// Any of these; `*` is all.
    #[serde(skip_serializing_if = "is_default")]
    pub origins: Vec<TextMatch>,
    /// `access-control-allow-methods`; `*` is what is asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub methods: String,
    /// `access-control-allow-headers`; `*` is what is asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: String,
    /// `access-control-expose-headers`.
    #[serde(skip_serializing_if = "is_default")]
    pub expose: String,
    /// `access-control-max-age`, in seconds.
    #[serde(skip_serializing_if = "is_default")]
    pub max_age: String,
    /// `access-control-allow-credentials`. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub credentials: Option<bool>,
    /// What is asked for an origin that is not allowed is for the application to answer; else it is
    /// answered without leave. Default true.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_unmatched: Option<bool>,
    /// Pages may call networks that are more private than theirs. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub private_network: Option<bool>,
    /// Requests that are looked at. Default all.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Share,
}

impl Cors {
    /// With what `outer` says where this says nothing.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        let text = |own: &String, outer: &String| if own.is_empty() { outer } else { own }.clone();
        Self {
            origins: if self.origins.is_empty() {
                outer.origins.clone()
            } else {
                self.origins.clone()
            },
            methods: text(&self.methods, &outer.methods),
            headers: text(&self.headers, &outer.headers),
            expose: text(&self.expose, &outer.expose),
            max_age: text(&self.max_age, &outer.max_age),
            credentials: self.credentials.or(outer.credentials),
            forward_unmatched: self.forward_unmatched.or(outer.forward_unmatched),
            private_network: self.private_network.or(outer.private_network),
            enabled: self.enabled,
        }
    }
}

/// Requests that go wrong on purpose: first delayed, then answered with an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fault {
    /// Held back before anything else happens.
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Option<Delay>,
    /// Answered by the proxy itself.
    #[serde(skip_serializing_if = "is_default")]
    pub abort: Option<Abort>,
    /// Only for requests that go to this cluster; empty is any.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster: String,
    /// Only for requests for which all of these hold.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<HeaderMatch>,
}

/// A delay of some requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// How long.
    pub time: Duration,
    /// Of how many.
    pub share: Share,
}

/// An error for some requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// What callers are told.
    pub with: AbortWith,
    /// Of how many.
    pub share: Share,
}

/// What the caller of an aborted request is told. Callers that do not speak gRPC are told the
/// HTTP status that a gRPC status stands for, and the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AbortWith {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status.
    Grpc(u8),
}

/// Tokens that requests take, filled up in steps. Shared by all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenBucket {
    /// Most tokens, and how many there are at first.
    pub max_tokens: u32,
    /// Added at each step. Default 1.
    pub tokens_per_fill: u32,
    /// Between steps; at least 50 ms (Envoy).
    pub fill_interval: Duration,
}

/// Limits the rate of requests.
#[expect(
    clippy::struct_excessive_bools,
    reason = "Envoy's own switches, each independent of the others"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRateLimit {
    /// Names its counters.
    pub stat_prefix: String,
    /// What a refused caller is told. Default 429.
    pub status: u16,
    /// For requests that no descriptor takes, or for all; none limits nothing.
    pub bucket: Option<TokenBucket>,
    /// Requests that are looked at. Default none.
    pub enabled: Share,
    /// Of these, requests that are refused when there is no token. Default none.
    pub enforced: Share,
    /// Added to a request that would have been refused.
    pub request_headers: Vec<(String, String)>,
    /// Added to the answer of a refused request.
    pub response_headers: Vec<(String, String)>,
    /// Buckets for requests with these values.
    pub descriptors: Vec<DescriptorLimit>,
    /// Which of a route's rules are meant.
    pub stage: u32,
    /// Each connection has its own buckets.
    pub per_connection: bool,
    /// Callers are told `x-ratelimit-limit`, `-remaining` and `-reset` when refused.
    pub rate_limit_headers: bool,
    /// `bucket` is for all requests, also for those that a descriptor takes. Default true.
    pub always_default: bool,
    /// A refused gRPC call ends with RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// How requests get their values; empty leaves that to routes.
    pub rules: Vec<RateLimitRule>,
    /// Values kept at once for each descriptor with a wildcard. Default 20.
    pub max_dynamic: u32,
    /// A caller that is told 429 is told `retry-after` too.
    pub retry_after: bool,
}

impl LocalRateLimit {
    /// One that limits nothing, and is the place where those of routes act. It has a name, which Envoy
    /// asks for.
    pub fn place() -> Self {
        Self {
            stat_prefix: "http_local_rate_limiter".to_owned(),
            ..Self::default()
        }
    }
}

impl Default for LocalRateLimit {
    fn default() -> Self {
        Self {
            stat_prefix: String::new(),
            status: 429,
            bucket: None,
            enabled: Share::NONE,
            enforced: Share::NONE,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            descriptors: Vec::new(),
            stage: 0,
            per_connection: false,
            rate_limit_headers: false,
            always_default: true,
            resource_exhausted: false,
            rules: Vec::new(),
            max_dynamic: 20,
            retry_after: false,
        }
    }
}

/// A bucket for requests with all of these values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescriptorLimit {
    /// Key and value; an empty value is any, with a bucket for each.
    pub entries: Vec<(String, String)>,
    /// Its tokens.
    pub bucket: TokenBucket,
}

/// How a request gets its values: one descriptor, unless an action finds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitRule {
    /// For the filters of this stage.
    #[serde(default)]
    pub stage: u32,
    /// One entry each, in this order.
    pub actions: Vec<RateLimitAction>,
}

/// How one value is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RateLimitAction {
    /// `destination_cluster`: the cluster of the route.
    DestinationCluster,
    /// The value of a header.
    RequestHeader {
        /// Its name.
        header: String,
        /// Key of the entry.
        key: String,
        /// Without the header there is no entry, instead of no descriptor.
        skip_if_absent: bool,
    },
    /// `remote_address`: who calls.
    RemoteAddress,
    /// `source_principal`: the proven identity of who calls; callers without one have none.
    SourcePrincipal,
    /// `source_namespace`: the namespace of that identity.
    SourceNamespace,
    /// `masked_remote_address`: the network of who calls, such as `10.1.0.0/16`.
    MaskedRemoteAddress {
        /// Bits of IPv4. Default 32.
        v4: u8,
        /// Bits of IPv6. Default 128.
        v6: u8,
    },
    /// A constant.
    GenericKey {
        /// Default `generic_key`.
        key: String,
        /// Value.
        value: String,
    },
    /// A constant for requests for which conditions hold.
    HeaderValueMatch {
        /// Default `header_match`.
        key: String,
        /// Value.
        value: String,
        /// The conditions must hold; else at least one must not. Default true.
        expect: bool,
        /// Conditions.
        headers: Vec<HeaderMatch>,
    },
}

/// Which answers are compressed, and how.
#[expect(
    clippy::struct_excessive_bools,
    reason = "Envoy's own switches, each independent of the others"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compressor {
    /// Default true.
    pub enabled: bool,
    /// Shorter bodies stay, where their length is known. Default 30.
    pub min_length: u32,
    /// Kinds of content, without parameters; none is [`Compressor::USUAL`].
    pub content_types: Vec<String>,
    /// Answers of these statuses stay.
    pub except_statuses: BTreeSet<u16>,
    /// Answers with an `etag` stay.
    pub except_etag: bool,
    /// The `etag` of what is compressed becomes a weak one; else it is removed.
    pub weaken_etag: bool,
    /// Applications do not learn that the caller takes compressed answers.
    pub hide_accept_encoding: bool,
    /// From 1, fast, to 9, small; 0 is the usual.
    pub level: u8,
}

impl Compressor {
    /// Kinds of content that are compressed unless others are named (Envoy).
    pub const USUAL: [&str; 8] = [
        "application/javascript",
        "application/json",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/css",
        "text/html",
        "text/plain",
        "text/xml",
    ];

    /// One that says that answers of a route stay as they are.
    pub fn off() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }

    /// Kinds of content that are compressed.
    pub fn content_types(&self) -> impl Iterator<Item = &str> {
        let usual = self.content_types.is_empty().then_some(Self::USUAL);
        let own = self.content_types.iter().map(String::as_str);
        usual.into_iter().flatten().chain(own)
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self {
            enabled: true,
            min_length: 30,
            content_types: Vec::new(),
            except_statuses: BTreeSet::new(),
            except_etag: false,
            weaken_etag: false,
            hide_accept_encoding: false,
            level: 0,
        }
    }
}

/// Limits requests at once by how their latency changes (Envoy's gradient controller).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdaptiveConcurrency {
    /// Takes effect. Default true.
    pub enabled: bool,
    /// What a refused caller is told. Default 503.
    pub status: u16,
    /// Which latency of a window counts, in thousandths of a percent. Default 50 %.
    pub percentile_milli: u32,
    /// Most requests at once. Default 1000.
    pub max_limit: u32,
    /// How long latencies are gathered before the limit changes.
    pub update_interval: Duration,
    /// How often the best latency is measured again; `None` with a fixed one.
    pub min_rtt_interval: Option<Duration>,
    /// The best latency, where it is not measured.
    pub min_rtt_fixed: Option<Duration>,
    /// Requests by which the best latency is measured. Default 50.
    pub min_rtt_requests: u32,
    /// Random share of `min_rtt_interval` on top of it, in thousandths of a percent. Default 15 %.
    pub jitter_milli: u32,
    /// Requests at once while the best latency is measured, and the lowest limit. Default 3.
    pub min_concurrency: u32,
    /// How much slower than the best is still good, in thousandths of a percent. Default 25 %.
    pub buffer_milli: u32,
}

impl Default for AdaptiveConcurrency {
    /// Envoy's, with its example's intervals.
    fn default() -> Self {
        Self {
            enabled: true,
            status: 503,
            percentile_milli: 50_000,
            max_limit: 1000,
            update_interval: Duration::from_millis(100),
            min_rtt_interval: Some(Duration::from_mins(1)),
            min_rtt_fixed: None,
            min_rtt_requests: 50,
            jitter_milli: 15_000,
            min_concurrency: 3,
            buffer_milli: 25_000,
        }
    }
}
