//! Listeners: where connections arrive, and what happens to each.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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

/// TLS that a listener terminates with the workload's own certificate. The caller must show a
/// certificate of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTls {
    /// ALPN names offered, in order.
    pub alpn: Vec<String>,
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
    },
    /// HTTP by `routes` when the first bytes are HTTP, else bytes to `cluster`.
    Detect {
        /// Name of a route table in the view.
        routes: String,
        /// Where bytes go that are not HTTP.
        cluster: String,
    },
    /// Bytes, to one of these by weight.
    Tcp {
        /// Cluster and weight.
        clusters: Vec<(String, u32)>,
        /// Closes a connection on which nothing moves; zero is never. Istio's default is 1 h.
        idle_timeout: Duration,
    },
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
