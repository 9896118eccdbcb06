//! Clusters: groups of endpoints that are interchangeable to a caller, and how calls are spread,
//! limited and secured.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::balancing::{
    Balancing, HashFunction, LoadBalancer, LocalityBalancing, RingHash, SlowStart, ZoneAware,
};
use super::dns::Names;
use super::http2::Http2Options;
use super::listener::ProxyVersion;
use super::origination::Origination;
pub use super::outlier::OutlierDetection;
use super::{HealthCheck, Hostname, SpiffeId};

/// A group of interchangeable endpoints. Its name follows Istio:
/// `outbound|9080|v1|reviews.default.svc.cluster.local`, `inbound|9080||`, `PassthroughCluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Unique in a view.
    pub name: String,
    /// Where its endpoints come from.
    pub kind: ClusterKind,
    /// The service it stands for; none for passthrough and local applications.
    pub service: Option<ServiceRef>,
    /// How one endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// What the choice goes by beside.
    #[serde(default, skip_serializing_if = "Balancing::is_default")]
    pub balancing: Balancing,
    /// What is spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// How HTTP/2 is spoken, where it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http2: Http2Options,
    /// mTLS towards endpoints that speak it; others get plaintext unless `tls.required`.
    pub tls: Option<ClientTls>,
    /// TLS to endpoints that are no peers of the mesh, in place of `tls`, which is then none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origination: Option<Box<Origination>>,
    /// Istio's default is 10 s.
    pub connect_timeout: Duration,
    /// Circuit breakers.
    pub limits: Limits,
    /// Ejection of endpoints that fail; off when absent.
    pub outlier: Option<OutlierDetection>,
    /// Connections to its endpoints begin with a PROXY header that says who called us. Requests
    /// then do not share connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// Endpoints are asked whether they are well; off when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Cluster {
    /// Nameless, discovered, with Istio's defaults and without TLS.
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: ClusterKind::Discovered,
            service: None,
            load_balancer: LoadBalancer::default(),
            balancing: Balancing::default(),
            protocol: UpstreamProtocol::default(),
            http2: Http2Options::default(),
            tls: None,
            origination: None,
            connect_timeout: Duration::from_secs(10),
            limits: Limits::default(),
            outlier: None,
            proxy_protocol: None,
            health_check: None,
        }
    }
}

impl Cluster {
    /// For connections whose meant address is outside the mesh, and that may pass.
    pub const PASSTHROUGH: &'static str = "PassthroughCluster";
    /// For connections that may not: it has no endpoints.
    pub const BLACK_HOLE: &'static str = "BlackHoleCluster";
    /// For connections to ports of the application that nobody declared.
    pub const INBOUND_PASSTHROUGH: &'static str = "InboundPassthroughCluster";

    /// Whether it leads to the application beside the proxy.
    pub fn is_inward(&self) -> bool {
        self.name.starts_with("inbound|") || self.name.starts_with(Self::INBOUND_PASSTHROUGH)
    }

    /// Istio's name for a service port, or for a subset of it.
    pub fn outbound_name(port: u16, subset: &str, host: &Hostname) -> String {
        format!("outbound|{port}|{subset}|{host}")
    }

    /// The server name that members of the mesh call a service port, or a subset of it, by; also Istio's name
    /// for the cluster by which a gateway passes such calls on.
    pub fn server_name(port: u16, subset: &str, host: &Hostname) -> String {
        format!("outbound_.{port}_.{subset}_.{host}")
    }

    /// Istio's name for a port of the application.
    pub fn inbound_name(port: u16) -> String {
        format!("inbound|{port}||")
    }
}

/// The service that a cluster stands for, for telemetry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Fully qualified.
    pub host: Hostname,
    /// Short name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service port.
    pub port: u16,
    /// Subset; empty for the whole service.
    pub subset: String,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterKind {
    /// The view's assignment of the same name.
    Discovered,
    /// Always these.
    Static(Vec<SocketAddr>),
    /// The address that the caller meant (`SO_ORIGINAL_DST`).
    OriginalDestination,
    /// What these names stand for, which the proxy finds out.
    Dns(Box<Names>),
}

impl ClusterKind {
    /// Whether its endpoints are at other places than the workload's own, and can change.
    pub fn is_outward(&self) -> bool {
        matches!(self, Self::Discovered | Self::Dns(_))
    }
}

/// What is spoken to endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 for HTTP, bytes for TCP.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// What the caller spoke.
    Downstream,
    /// HTTP/2 where the peer agrees to it in its TLS handshake, else HTTP/1.1 (Envoy's
    /// `auto_config`).
    Negotiated,
}

/// mTLS from a proxy to its peers, with the workload's own certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// Server name to send, Istio's form `outbound_.9080_.v1_.reviews.default.svc.cluster.local`.
    pub sni: String,
    /// The peer must be one of these; an empty list is any identity of the trust domain.
    pub principals: Vec<SpiffeId>,
    /// Refuse endpoints that do not speak mTLS (DestinationRule `ISTIO_MUTUAL`).
    pub required: bool,
}

/// Envoy's circuit breakers; `u32::MAX` is unlimited (Istio's default).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections to all endpoints together.
    pub max_connections: u32,
    /// Requests waiting for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight.
    pub max_retries: u32,
    /// Requests on one connection before it is closed; 0 is unlimited.
    pub max_requests_per_connection: u32,
    /// Connections to one endpoint (Envoy's `per_host_thresholds`).
    #[serde(default = "unlimited", skip_serializing_if = "is_unlimited")]
    pub max_connections_per_endpoint: u32,
    /// Retries as a share of what is going on, in place of `max_retries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// For requests of priority HIGH, which are counted apart; `None` is [`Thresholds::default`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<Thresholds>,
    /// How much is left of each limit is a metric (Envoy: `track_remaining`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub track_remaining: bool,
}

fn unlimited() -> u32 {
    u32::MAX
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_unlimited(limit: &u32) -> bool {
    *limit == u32::MAX
}

/// The limits of one priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// As in [`Limits`].
    pub max_connections: u32,
    /// As in [`Limits`].
    pub max_pending_requests: u32,
    /// As in [`Limits`].
    pub max_requests: u32,
    /// As in [`Limits`].
    pub max_retries: u32,
    /// As in [`Limits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

impl Default for Thresholds {
    /// Envoy's.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
        }
    }
}

/// Retries at once, as a share of the requests that are in flight or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Thousandths of a percent. Envoy's default is 20 %.
    pub percent_milli: u32,
    /// Always allowed. Envoy's default is 3.
    pub min_concurrency: u32,
}

impl Default for RetryBudget {
    /// Envoy's.
    fn default() -> Self {
        Self {
            percent_milli: 20_000,
            min_concurrency: 3,
        }
    }
}

impl RetryBudget {
    /// Retries at once while `active` requests are in flight or wait.
    pub fn allows(&self, active: u32) -> u32 {
        let share = u64::from(active) * u64::from(self.percent_milli) / 100_000;
        u32::try_from(share)
            .unwrap_or(u32::MAX)
            .max(self.min_concurrency)
    }
}

impl Limits {
    /// The limits of priority DEFAULT.
    pub fn usual(&self) -> Thresholds {
        Thresholds {
            max_connections: self.max_connections,
            max_pending_requests: self.max_pending_requests,
            max_requests: self.max_requests,
            max_retries: self.max_retries,
            retry_budget: self.retry_budget,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            max_requests_per_connection: 0,
            max_connections_per_endpoint: u32::MAX,
            retry_budget: None,
            high: None,
            track_remaining: false,
        }
    }
}
