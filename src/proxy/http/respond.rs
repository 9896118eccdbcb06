//! Every way a request can fail, and what its caller is told.
//!
//! One exhaustive match turns a [`Failure`] into status, Envoy's response flag and details, and the
//! condition under which a policy may try again.

use crate::mesh::route::{Missing, RetryOn};
use crate::telemetry::Flag;

use super::super::filter::Refusal;
use super::ask::Unauthorized;

/// Why a request was not answered by an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("head too large")]
    HeadTooLarge,
    #[error("too many fields")]
    TooManyFields,
    #[error("body too large")]
    BodyTooLarge,
    #[error("HTTP/1.0 is not served")]
    LowVersion,
    #[error("HTTP version not supported")]
    Version,
    #[error("path refused")]
    Path,
    #[error("no host")]
    NoHost,
    #[error("head took too long to arrive")]
    HeadTimeout,
    #[error("request took too long to arrive")]
    RequestTimeout,
    #[error("protocol may not be switched to")]
    Upgrade,
    #[error("no route matches")]
    NoRoute,
    #[error("the route's cluster does not exist")]
    NoCluster(Missing),
    #[error("no healthy endpoint")]
    NoEndpoint,
    #[error("the endpoint of the session cannot be had")]
    NoSession(u16),
    #[error("the cluster drops requests")]
    Dropped,
    #[error("a limit of the cluster is reached")]
    Overflow,
    #[error("would call this proxy itself")]
    Loop,
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("TLS towards the endpoint failed: {0}")]
    Tls(String),
    #[error("an identity is needed and there is none yet")]
    NoIdentity,
    #[error("the endpoint broke off before answering")]
    Broken,
    #[error("the endpoint reset the stream")]
    Reset,
    #[error("the endpoint refused the stream")]
    RefusedStream,
    #[error("the endpoint's answer is malformed")]
    BadResponse,
    #[error("no answer in time")]
    Timeout,
    #[error("no answer to this try in time")]
    TryTimeout,
    #[error("the endpoint takes no extended CONNECT")]
    NoUpgrade,
    #[error("nothing from the endpoint during this try for too long")]
    TryIdle,
    #[error("nothing moved for too long")]
    StreamIdle {
        /// The request had arrived whole.
        complete: bool,
    },
    #[error("the request took longer than it may")]
    MaxDuration {
        /// The request had arrived whole.
        complete: bool,
    },
    #[error("a filter refused: {}", .0.details)]
    Filtered(Box<Refusal>),
    #[error("whoever was asked refused: {}", .0.details)]
    Unauthorized(Box<Unauthorized>),
    #[error("the proxy protects itself")]
    Overloaded,
    #[error("the peer could not reach the application")]
    Undelivered,
    #[error("cannot connect: {0}")]
    ConnectAgain(String),
    #[error("the caller went away")]
    CallerGone,
    #[error("the caller's body is malformed")]
    BadBody,
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) flag: Flag,
    /// Envoy's `response_code_details`.
    pub(crate) details: &'static str,
    pub(crate) body: &'static str,
    /// The conditions under which a policy tries again.
    pub(crate) retry: &'static [RetryOn],
    /// The connection cannot be used further.
    pub(crate) close: bool,
}

const RESET: &[RetryOn] = &[RetryOn::Reset, RetryOn::ServerError, RetryOn::GatewayError];
const CONNECT: &[RetryOn] = &[
    RetryOn::ConnectFailure,
    RetryOn::ServerError,
    RetryOn::GatewayError,
    RetryOn::Reset,
    RetryOn::ResetBeforeRequest,
];

impl Failure {
    /// What the caller is told.
    pub(crate) fn reply(&self) -> Reply {
        let caller = |status, details, body| Reply {
            status,
            flag: Flag::Dpe,
            details,
            body,
            retry: &[],
            close: true,
        };
        let proxy = |status, flag, details, body| Reply {
            status,
            flag,
            details,
            body,
            retry: &[],
            close: false,
        };
        let upstream = |status, flag, details, body, retry| Reply {
            status,
            flag,
            details,
            body,
            retry,
            close: false,
        };
        match self {
            Self::Malformed(details) => caller(400, details, "Bad Request"),
            Self::BadBody => caller(400, "http1.codec_error", "Bad Request"),
            Self::HeadTooLarge => caller(
                431,
                "http1.headers_too_large",
                "Request Header Fields Too Large",
            ),
            Self::TooManyFields => caller(
                431,
                "http1.too_many_headers",
                "Request Header Fields Too Large",
            ),
            Self::BodyTooLarge => Reply {
                flag: Flag::None,
                ..caller(413, "request_payload_too_large", "Payload Too Large")
            },
            Self::LowVersion => caller(426, "low_version", "Upgrade Required"),
            Self::Version => caller(505, "http1.invalid_version", "HTTP Version Not Supported"),
            Self::Path => caller(400, "path_normalization_failed", "Bad Request"),
            Self::NoHost => caller(400, "missing_host_header", "Bad Request"),
            Self::HeadTimeout => Reply {
                flag: Flag::None,
                ..caller(408, "request_header_timeout", "request header timeout")
            },
            Self::RequestTimeout => Reply {
                flag: Flag::None,
                ..caller(408, "request_overall_timeout", "request timeout")
            },
            Self::Upgrade => Reply {
                flag: Flag::None,
                close: false,
                ..caller(403, "upgrade_failed", "")
            },
            Self::NoRoute => proxy(404, Flag::Nr, "route_not_found", ""),
            Self::NoCluster(missing) => proxy(missing.status(), Flag::Nc, "cluster_not_found", ""),
            Self::NoEndpoint => proxy(503, Flag::Uh, "no_healthy_upstream", "no healthy upstream"),
            Self::NoSession(status) => proxy(
                *status,
                Flag::Uh,
                "no_healthy_upstream",
                "no healthy upstream",
            ),
            Self::Dropped => proxy(503, Flag::Do, "drop_overload", "drop overload"),
            // Never tried again: that would add to it.
            Self::Overflow => proxy(
                503,
                Flag::Uo,
                "upstream_reset_before_response_started{overflow}",
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ),
            Self::Loop => proxy(502, Flag::Uf, "request_would_loop", "request would loop"),
            Self::Connect(_) | Self::ConnectAgain(_) | Self::Undelivered => upstream(
                503,
                Flag::Uf,
                "upstream_reset_before_response_started{remote_connection_failure}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
                CONNECT,
            ),
            Self::Tls(_) | Self::NoIdentity => upstream(
                503,
                Flag::Uf,
                "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: TLS error",
                CONNECT,
            ),
            Self::Broken => upstream(
                503,
                Flag::Uc,
                "upstream_reset_before_response_started{connection_termination}",
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                RESET,
            ),
            Self::Reset => upstream(
                503,
                Flag::Ur,
                "upstream_reset_before_response_started{remote_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
                RESET,
            ),
            Self::RefusedStream => upstream(
                503,
                Flag::Ur,
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset",
                &[
                    RetryOn::RefusedStream,
                    RetryOn::ServerError,
                    RetryOn::GatewayError,
                    RetryOn::Reset,
                    RetryOn::ResetBeforeRequest,
                ],
            ),
            Self::BadResponse => upstream(
                502,
                Flag::Upe,
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                RESET,
            ),
            Self::Timeout => proxy(
                504,
                Flag::Ut,
                "response_timeout",
                "upstream request timeout",
            ),
            Self::TryTimeout => upstream(
                504,
                Flag::Ut,
                "upstream_per_try_timeout",
                "upstream request timeout",
                RESET,
            ),
            Self::TryIdle => upstream(
                504,
                Flag::Ut,
                "upstream_per_try_idle_timeout",
                "upstream request timeout",
                RESET,
            ),
            Self::StreamIdle { complete } => Reply {
                // What is left of the request may still come.
                close: !complete,
                ..proxy(
                    late(*complete),
                    Flag::Si,
                    "stream_idle_timeout",
                    "stream timeout",
                )
            },
            Self::MaxDuration { complete } => Reply {
                close: !complete,
                ..proxy(
                    late(*complete),
                    Flag::Dt,
                    "max_duration_timeout",
                    "downstream duration timeout",
                )
            },
            Self::Filtered(refusal) => {
                proxy(refusal.status, refusal.flag, refusal.details, refusal.body)
            }
            Self::Unauthorized(told) => proxy(told.status, Unauthorized::flag(), told.details, ""),
            Self::Overloaded => proxy(503, Flag::Om, "overload", "overloaded"),
            Self::NoUpgrade => proxy(
                503,
                Flag::Upe,
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            ),
            Self::CallerGone => Reply {
                flag: Flag::Dc,
                ..caller(0, "downstream_remote_disconnect", "")
            },
        }
    }

    /// The caller is told that trying again at once would add to the load.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Self::Overflow | Self::Overloaded)
    }

    /// Nothing of the request reached the application: the caller's own proxy may try again,
    /// whatever the request.
    pub(crate) fn never_reached(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Undelivered)
    }

    /// The same where an earlier try did reach it.
    pub(crate) fn after_another(self) -> Self {
        match self {
            Self::Connect(reason) => Self::ConnectAgain(reason),
            Self::Undelivered => Self::ConnectAgain(String::new()),
            other => other,
        }
    }

    /// What the log says about the connection to the endpoint.
    pub(crate) fn transport_reason(&self) -> String {
        match self {
            Self::Connect(_) | Self::ConnectAgain(_) | Self::Tls(_) | Self::NoIdentity => {
                self.to_string()
            }
            _ => String::new(),
        }
    }
}

/// The status for what took too long: the caller's fault while its request is incomplete.
fn late(complete: bool) -> u16 {
    if complete { 504 } else { 408 }
}

/// The gRPC status for a failure with this HTTP status (gRPC's own mapping).
pub(crate) fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The HTTP status that a gRPC status stands for (Envoy's mapping).
pub(crate) fn http_status(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The usual reason phrase of `status`.
pub(crate) fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_flags_are_envoys() {
        for (failure, status, flag) in [
            (Failure::NoRoute, 404, "NR"),
            (Failure::NoCluster(Missing::Unavailable), 503, "NC"),
            (Failure::NoCluster(Missing::Internal), 500, "NC"),
            (Failure::NoEndpoint, 503, "UH"),
            (Failure::Overflow, 503, "UO"),
            (Failure::Connect(String::new()), 503, "UF"),
            (Failure::Broken, 503, "UC"),
            (Failure::Timeout, 504, "UT"),
            (Failure::BadResponse, 502, "UPE"),
            (Failure::HeadTooLarge, 431, "DPE"),
            (Failure::CallerGone, 0, "DC"),
        ] {
            let reply = failure.reply();
            assert_eq!(
                (reply.status, reply.flag.name()),
                (status, flag),
                "{failure}"
            );
        }
    }

    #[test]
    fn the_overall_timeout_is_never_tried_again() {
        assert!(Failure::Timeout.reply().retry.is_empty());
        assert!(!Failure::TryTimeout.reply().retry.is_empty());
    }
}
