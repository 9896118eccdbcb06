//! Active health checks: asking endpoints whether they are well.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::route::{HeaderOperations, TextMatch};

/// How the endpoints of a cluster are asked (Envoy's fields and defaults).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub check: Check,
    /// An answer later than this is a failure.
    pub timeout: Duration,
    /// From one check to the next.
    pub interval: Duration,
    /// The first check waits up to this long, by chance. Default 0.
    pub initial_jitter: Duration,
    /// Each wait is longer by up to this, by chance. Default 0.
    pub interval_jitter: Duration,
    /// Each wait is longer by up to this share of it, by chance; percent. Default 0.
    pub interval_jitter_percent: u32,
    /// Failures in a row until an endpoint is unhealthy. A wrong answer counts at once, unless its
    /// status is retriable.
    pub unhealthy_threshold: u32,
    /// Successes in a row until it is healthy again. The very first check counts at once.
    pub healthy_threshold: u32,
    /// The wait while nothing was ever sent to the cluster. Default 60 s.
    pub no_traffic_interval: Duration,
    /// The same for healthy endpoints; absent is `no_traffic_interval`.
    pub no_traffic_healthy_interval: Option<Duration>,
    /// The wait for unhealthy endpoints; absent is `interval`.
    pub unhealthy_interval: Option<Duration>,
    /// The wait while failures are being counted; absent is `unhealthy_interval`.
    pub unhealthy_edge_interval: Option<Duration>,
    /// The wait while successes are being counted; absent is `interval`.
    pub healthy_edge_interval: Option<Duration>,
    /// Checks share a connection. Default true.
    pub reuse_connection: bool,
    /// Asked there instead of at the endpoint's own port.
    pub alt_port: Option<u16>,
    /// What becomes of endpoints besides.
    pub policy: CheckPolicy,
}

/// What a cluster does with the results of checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "Envoy's switches, each by its own name"
)]
pub struct CheckPolicy {
    /// An endpoint that is discovered no more goes at once. Default false: it stays for as long as
    /// it passes its checks.
    pub ignore_health_on_host_removal: bool,
    /// Endpoints without a first result do not count among all when shares are worked out.
    pub ignore_new_hosts_until_first_hc: bool,
    /// Connections to an endpoint that fails its checks are closed.
    pub close_connections_on_failure: bool,
    /// Every failed check is logged, not only those that change something.
    pub always_log_failures: bool,
    /// Every passed check is logged.
    pub always_log_success: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Check {
    /// A request, judged by its status.
    Http(Box<HttpCheck>),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
    /// A connection, and perhaps bytes.
    Tcp(TcpCheck),
}

/// A request that is judged by its status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCheck {
    /// `host`; empty is the name of the cluster.
    pub host: String,
    /// With its query.
    pub path: String,
    /// Default GET.
    pub method: Method,
    /// The request's body.
    pub send: Vec<u8>,
    /// These must be in the body of the answer, in this order.
    pub receive: Vec<Vec<u8>>,
    /// How much of the answer's body is looked through; 0 is all of it. Absent is 1024.
    pub response_buffer_size: Option<u64>,
    /// Header fields that are set, added, removed.
    pub headers: HeaderOperations,
    /// Statuses that are well; none is 200 alone.
    pub expected_statuses: Vec<StatusRange>,
    /// Statuses that are counted to `unhealthy_threshold`; others are unhealthy at once.
    pub retriable_statuses: Vec<StatusRange>,
    /// HTTP/2.
    pub http2: bool,
    /// The field `x-envoy-upstream-healthchecked-cluster` of the answer must be this.
    pub service_name: Option<TextMatch>,
}

/// `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcCheck {
    /// Empty is the server as a whole.
    pub service_name: String,
    /// `:authority`; empty is the name of the cluster.
    pub authority: String,
    /// Metadata that is set, added.
    pub metadata: HeaderOperations,
}

/// A connection, and perhaps bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpCheck {
    /// Sent when connected; empty is nothing.
    pub send: Vec<u8>,
    /// These must come back, in this order; none is to be content with the connection.
    pub receive: Vec<Vec<u8>>,
}

/// Statuses from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusRange {
    /// First.
    pub start: u16,
    /// After the last.
    pub end: u16,
}

impl StatusRange {
    /// Whether `status` is in it.
    pub fn holds(self, status: u16) -> bool {
        (self.start..self.end).contains(&status)
    }
}

/// How a health check asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are HTTP's")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// As HTTP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// What is different when one endpoint is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointCheck {
    /// It is not checked, and always counts as well.
    pub disabled: bool,
    /// Asked there instead of at its own address.
    pub address: Option<SocketAddr>,
    /// Instead of the check's `host` or `authority`; empty is no difference.
    pub hostname: String,
}

impl HealthCheck {
    /// Envoy's `no_traffic_interval`.
    pub const NO_TRAFFIC: Duration = Duration::from_mins(1);

    /// `check` with these times and Envoy's defaults for the rest.
    pub fn new(check: Check, interval: Duration, timeout: Duration) -> Self {
        Self {
            check,
            timeout,
            interval,
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            unhealthy_threshold: 1,
            healthy_threshold: 1,
            no_traffic_interval: Self::NO_TRAFFIC,
            no_traffic_healthy_interval: None,
            unhealthy_interval: None,
            unhealthy_edge_interval: None,
            healthy_edge_interval: None,
            reuse_connection: true,
            alt_port: None,
            policy: CheckPolicy::default(),
        }
    }
}
