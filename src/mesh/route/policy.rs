//! How requests of a route are bounded in time, copied and accounted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::is_default;

/// Limits in time beyond a route's timeout (Envoy's fields).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deadlines {
    /// Ends a request during which nothing moves either way for so long; zero is never, `None` what
    /// the connection manager says (Envoy: `idle_timeout`).
    #[serde(skip_serializing_if = "is_default")]
    pub idle: Option<Duration>,
    /// Longest life of a request from its first byte to the answer's last; zero is no limit, `None`
    /// what the connection manager says (Envoy: `max_stream_duration`).
    #[serde(skip_serializing_if = "is_default")]
    pub max_stream: Option<Duration>,
    /// A gRPC caller's own deadline takes the place of `max_stream` (Envoy:
    /// `grpc_timeout_header_max`).
    #[serde(skip_serializing_if = "is_default")]
    pub grpc_stream: Option<GrpcTimeout>,
    /// A gRPC caller's own deadline takes the place of the route's timeout (Envoy:
    /// `max_grpc_timeout`, which Istio sends), and endpoints are told what is left of it.
    #[serde(skip_serializing_if = "is_default")]
    pub grpc: Option<GrpcTimeout>,
}

/// How `grpc-timeout` is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcTimeout {
    /// At most this; zero is as the caller says.
    pub max: Duration,
    /// Taken off, where the deadline is longer than it; `None` takes nothing off.
    #[serde(skip_serializing_if = "is_default")]
    pub offset: Option<Duration>,
}

impl GrpcTimeout {
    /// The deadline for a caller that said `asked`. `None` is no limit.
    pub fn bound(&self, asked: Option<Duration>) -> Option<Duration> {
        // No deadline is the longest one.
        let asked = asked.filter(|asked| !asked.is_zero());
        let bounded = match asked {
            _ if self.max.is_zero() => asked?,
            None => self.max,
            Some(asked) => asked.min(self.max),
        };
        let left = bounded.checked_sub(self.offset.unwrap_or_default());
        Some(left.filter(|left| !left.is_zero()).unwrap_or(bounded))
    }
}

/// Whose share of a cluster's limits requests take (Envoy's routing priorities).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Priority {
    /// The usual one.
    #[default]
    Default,
    /// With limits of its own.
    High,
}

/// What is answered for a cluster that does not exist (Envoy: `cluster_not_found_response_code`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Missing {
    /// 503.
    #[default]
    Unavailable,
    /// 404.
    NotFound,
    /// 500, as the Gateway API asks for.
    Internal,
}

impl Missing {
    /// The status.
    pub fn status(self) -> u16 {
        match self {
            Self::Unavailable => 503,
            Self::NotFound => 404,
            Self::Internal => 500,
        }
    }
}

/// Part of all requests, as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Of so many.
    pub of: u32,
    /// So many.
    pub parts: u32,
}

impl Default for Share {
    /// All.
    fn default() -> Self {
        Self {
            of: 100,
            parts: 100,
        }
    }
}

impl Share {
    /// None of them.
    pub const NONE: Self = Self { of: 100, parts: 0 };

    /// Whether a request is among them, by a random number.
    pub fn takes(self, random: u32) -> bool {
        self.parts >= self.of || random % self.of.max(1) < self.parts
    }
}

/// Where copies of requests go. Answers are thrown away, and a copy that cannot keep up with its
/// request is given up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Name of a cluster in the view.
    pub cluster: String,
    /// Of how many requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub share: Share,
    /// The host is sent as it is; else with `-shadow` behind its name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub plain_host: bool,
}

/// What requests and answers say about tries (Envoy's virtual host options).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttemptHeaders {
    /// `x-envoy-attempt-count` in every request. Without it, only in those of later tries.
    pub request: bool,
    /// `x-envoy-attempt-count` in answers.
    pub response: bool,
    /// `x-envoy-is-timeout-retry: true` in tries that follow one that took too long.
    pub timeout_retry: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_deadlines_are_bounded_and_never_become_none() {
        let seconds = Duration::from_secs;
        let bound = |max, offset, asked: Option<u64>| {
            let offset = (offset > 0).then(|| seconds(offset));
            GrpcTimeout {
                max: seconds(max),
                offset,
            }
            .bound(asked.map(seconds))
            .map(|left| left.as_secs())
        };
        assert_eq!(bound(0, 0, None), None);
        assert_eq!(bound(0, 0, Some(7)), Some(7));
        assert_eq!(bound(5, 0, Some(7)), Some(5));
        assert_eq!(bound(5, 0, None), Some(5));
        assert_eq!(bound(5, 2, Some(4)), Some(2));
        // An offset that would leave nothing is passed over.
        assert_eq!(bound(5, 4, Some(4)), Some(4));
    }

    #[test]
    fn a_share_is_of_all_random_numbers() {
        let share = Share { of: 10, parts: 3 };
        assert_eq!((0..100).filter(|random| share.takes(*random)).count(), 30);
        assert!((0..100).all(|random| Share::default().takes(random)));
        assert!(!(0..100).any(|random| Share::NONE.takes(random)));
    }
}
