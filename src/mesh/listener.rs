//! Listeners: where connections arrive, and what happens to each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::HttpOptions;
use super::access_log::Logger;
use super::credential::OwnTls;
use super::filter::{HttpFilter, NetworkFilter};
use super::metrics::Change;

/// A bound address and the chains that its connections are sorted into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Unique in a view, such as `virtualOutbound`.
    pub name: String,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Which way its traffic goes.
    pub direction: Direction,
    /// Connections are redirected here; chains match what the caller meant (`SO_ORIGINAL_DST`).
    pub transparent: bool,
    /// Looked at in Envoy's order (port, address, server name, transport, application protocol);
    /// the most specific chain takes the connection.
    pub chains: Vec<Chain>,
    /// For connections that no chain takes; without it they are closed.
    pub default_chain: Option<Chain>,
    /// How long the first bytes are awaited for detection before the connection is taken as plain
    /// bytes. Zero waits for ever (Istio's default).
    pub detect_timeout: Duration,
    /// What its socket and its connections are like before any chain.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: ListenerOptions,
}

/// What a listening socket and its connections are like before any chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerOptions {
    /// Connections begin with a PROXY header. Only where this is set is one believed.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Closes a connection whose first bytes do not come in time, instead of taking it as plain
    /// bytes (Envoy: `continue_on_listener_filters_timeout: false`).
    pub close_undetected: bool,
    /// Connections that the kernel keeps before they are accepted. Default 4096.
    pub backlog: Option<u32>,
    /// TCP keep-alive of accepted connections; off when absent.
    pub keepalive: Option<Keepalive>,
    /// What is told otherwise than usual of the metrics of its side of calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Arc<Vec<Change>>>,
}

/// TCP keep-alive; what is absent is as the system has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Seconds without traffic before the first probe.
    pub time: Option<u32>,
    /// Seconds between probes.
    pub interval: Option<u32>,
}

/// A PROXY header in front of the bytes of a connection, by which a load balancer says who calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Connections without one are served too, under their own address. Whoever can connect can
    /// then also lie about who it is.
    pub optional: bool,
    /// The text form is not accepted.
    pub refuse_v1: bool,
    /// The binary form is not accepted.
    pub refuse_v2: bool,
}

/// The two forms of a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Which way traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From the application to others.
    Outbound,
    /// From others to the application.
    Inbound,
}

/// What is done with a kind of connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// Unique in its listener.
    pub name: String,
    /// Which connections; all conditions must hold.
    pub matches: ChainMatch,
    /// TLS to terminate.
    pub tls: Option<ServerTls>,
    /// What happens to the bytes.
    pub action: ChainAction,
    /// How many connections it takes, and how long they have to begin.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ChainLimits,
    /// What happens to requests before they are sent on, in this order; nothing to bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// Who may connect: judged before bytes are carried. Requests have filters for that, so where what
    /// arrives may be either, they are not judged by these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<NetworkFilter>,
}

/// Limits on the connections of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChainLimits {
    /// Connections at once in the whole process; more are closed. Unlimited when absent.
    pub max_connections: Option<u64>,
    /// A TLS handshake must be complete within this. Default 15 s (Istio's at gateways).
    pub handshake_timeout: Option<Duration>,
}

/// Conditions on a connection; an empty list or `None` is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChainMatch {
    /// The port that the caller meant.
    pub port: Option<u16>,
    /// The address that the caller meant.
    pub destinations: Vec<IpNet>,
    /// TLS server names, exact or `*.suffix`.
    pub server_names: Vec<String>,
    /// Whether the first bytes are a TLS client hello.
    pub transport: Option<Transport>,
    /// ALPN names (TLS), or detected `http/1.1` and `h2c` (plain).
    pub application_protocols: Vec<String>,
}

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// A TLS client hello.
    Tls,
    /// Anything else.
    Plain,
}

/// TLS that a listener terminates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTls {
    /// ALPN names offered, in order.
    pub alpn: Vec<String>,
    /// With what; when absent with the workload's certificate of the mesh, and the caller must show
    /// one of the mesh too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Box<OwnTls>>,
}

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChainAction {
    /// Requests, routed by this table.
    Http {
        /// Name of a route table in the view.
        routes: String,
        /// What is spoken; [`HttpCodec::Auto`] tells by ALPN or the first bytes.
        codec: HttpCodec,
        /// How it is spoken.
        #[serde(default, skip_serializing_if = "is_default")]
        options: Arc<HttpOptions>,
    },
    /// HTTP by `routes` when the first bytes are HTTP, else bytes to `cluster`.
    Detect {
        /// Name of a route table in the view.
        routes: String,
        /// Where bytes go that are not HTTP.
        cluster: String,
        /// As [`TcpOptions::tunnel`], for those.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tunnel: Option<Arc<str>>,
        /// How HTTP is spoken.
        #[serde(default, skip_serializing_if = "is_default")]
        options: Arc<HttpOptions>,
    },
    /// Bytes, to one of these by weight.
    Tcp {
        /// Cluster and weight.
        clusters: Vec<(String, u32)>,
        /// How they are carried.
        #[serde(flatten)]
        options: TcpOptions,
    },
}

/// How the bytes of a connection are carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpOptions {
    /// Closes a connection on which nothing moves; zero is never. Default 1 h (Envoy's).
    pub idle_timeout: Duration,
    /// Endpoints that are tried, one after the other, until one can be connected to. Default 1
    /// (Envoy's); 0 is 1.
    #[serde(skip_serializing_if = "is_one")]
    pub max_connect_attempts: u32,
    /// Closes a connection that has lasted this long; never when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub max_duration: Option<Duration>,
    /// Clusters that choose by a hash take that of the caller's address.
    #[serde(skip_serializing_if = "is_default")]
    pub hash_source_ip: bool,
    /// The endpoint is a forward proxy, and is asked by CONNECT for this host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Arc<str>>,
    /// Connections are logged at their end, by these.
    #[serde(rename = "accessLog", skip_serializing_if = "Option::is_none")]
    pub access_log: Option<Arc<Vec<Logger>>>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_hours(1),
            max_connect_attempts: 1,
            max_duration: None,
            hash_source_ip: false,
            tunnel: None,
            access_log: None,
        }
    }
}

impl TcpOptions {
    /// The default but for the idle timeout.
    pub fn idle(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            ..Self::default()
        }
    }
}

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpCodec {
    /// By ALPN, else by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What says nothing is not written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(value: &u32) -> bool {
    *value == 1
}
