//! When and how often a request is tried again: Envoy's conditions, Istio's defaults.
//!
//! Beyond Envoy, a request that was delivered and whose fate is unknown (the endpoint broke off,
//! reset it, or took too long) is tried again only when its method may be repeated (RFC 9110,
//! 9.2.2) or it carries an `Idempotency-Key`, whatever the policy says. An answer that the policy
//! names is tried again as in Envoy: the endpoint said what became of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HeaderMatch, is_default};

/// When and how often a request is tried again (Envoy's names; Istio's defaults). Another try goes
/// to an endpoint that was not tried yet, while there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// For each try; `None` is the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Ends a try in which nothing came from the endpoint for so long; `None` is no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub per_try_idle_timeout: Option<Duration>,
    /// Any of these.
    pub on: Vec<RetryOn>,
    /// For `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// For `retriable-headers`: any of these holds for the answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: Vec<HeaderMatch>,
    /// Only requests for which any of these holds are tried again; all when empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: Vec<HeaderMatch>,
    /// Wait before try `n + 1` is random below `(2^n - 1)` times this. Envoy's default is 25 ms.
    pub base_interval: Duration,
    /// No try begins sooner after the one before: the random wait comes on top (Gateway API). Envoy has no
    /// such thing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_interval: Duration,
    /// Longest wait; `None` is ten times `base_interval` (Envoy).
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_interval: Option<Duration>,
    /// Waits that the answer itself asks for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_limited: Option<RateLimitedBackOff>,
}

/// How the answer's own word on when to come back is read (Envoy: `rate_limited_retry_back_off`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitedBackOff {
    /// The first that is there and is at most `max_interval` counts.
    pub reset_headers: Vec<ResetHeader>,
    /// Longer waits are passed over for the ordinary ones. Envoy's default is 300 s.
    pub max_interval: Duration,
}

impl RateLimitedBackOff {
    /// Envoy's default for `max_interval`.
    pub const MAX_INTERVAL: Duration = Duration::from_mins(5);
}

/// A header that says when to come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetHeader {
    /// Such as `retry-after`.
    pub name: String,
    /// How its number is meant.
    pub format: ResetFormat,
}

/// How a reset header's number is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

impl Default for Retry {
    /// Istio's: two more tries where nothing can have been processed twice.
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            on: vec![
                RetryOn::ConnectFailure,
                RetryOn::RefusedStream,
                RetryOn::Unavailable,
                RetryOn::Cancelled,
                RetryOn::RetriableStatusCodes,
            ],
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            base_interval: Duration::from_millis(25),
            min_interval: Duration::ZERO,
            max_interval: None,
            rate_limited: None,
        }
    }
}

macro_rules! retry_conditions {
    ($($variant:ident $name:literal $doc:literal),* $(,)?) => {
        /// A condition for another try, by Envoy's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum RetryOn {
            $(#[doc = $doc] #[serde(rename = $name)] $variant,)*
        }

        impl RetryOn {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Envoy's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// By Envoy's name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

retry_conditions! {
    ServerError "5xx" "Any 5xx, or no answer at all.",
    GatewayError "gateway-error" "502, 503 or 504.",
    Reset "reset" "The peer broke off without answering.",
    ResetBeforeRequest "reset-before-request" "The peer broke off before the request was sent.",
    ConnectFailure "connect-failure" "No connection could be made.",
    Retriable4xx "retriable-4xx" "409.",
    RefusedStream "refused-stream" "HTTP/2 REFUSED_STREAM: surely not processed.",
    RetriableStatusCodes "retriable-status-codes" "One of the policy's status codes.",
    Cancelled "cancelled" "gRPC status 1.",
    DeadlineExceeded "deadline-exceeded" "gRPC status 4.",
    RetriableHeaders "retriable-headers" "The answer has one of the policy's headers.",
    RateLimited "envoy-ratelimited" "The answer says `x-envoy-ratelimited`; without this it is never tried again.",
    ResourceExhausted "resource-exhausted" "gRPC status 8.",
    Internal "internal" "gRPC status 13.",
    Unavailable "unavailable" "gRPC status 14.",
}
