//! Who calls whom, and what protects that.

use serde::{Deserialize, Serialize};

/// `GET /edges?window=60&service=&from=&to=&namespace=&only=&insecure=true`: names without a namespace are of
/// `namespace`, and `only` leaves edges with an end in that one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgesReport {
    /// Length of the window.
    pub window_seconds: u64,
    /// End of the window.
    pub at_unix_ms: u64,
    /// One for each pair of ends and way of being protected.
    pub edges: Vec<EdgeRow>,
}

/// Calls between two ends over connections that are protected alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeRow {
    /// Calling workload, `name.namespace`; empty when it is not known.
    pub source: String,
    /// Called service, `name.namespace`.
    pub destination: String,
    /// The workload that answered, `name.namespace`; empty when it is not of the mesh.
    pub destination_workload: String,
    /// `http` or `tcp`.
    pub protocol: String,
    /// The caller's SPIFFE id, as it was proven; empty when it was not.
    pub client_id: String,
    /// The called one's SPIFFE id, likewise.
    pub server_id: String,
    /// Whether the bytes are encrypted, by the mesh or by others.
    pub encrypted: bool,
    /// What protects it.
    pub security: EdgeSecurity,
    /// Why there is no mTLS: a stable word, empty where there is.
    pub reason: String,
    /// Such as `TLSv1.3`; empty where the mesh knows of no TLS.
    pub tls_version: String,
    /// The cipher suite by IANA's name.
    pub cipher: String,
    /// The group of the key exchange; empty for resumed sessions of TLS 1.2.
    pub key_exchange: String,
    /// Who says so.
    pub reported_by: ReportedBy,
    /// What the ends say differently.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<EdgeDifference>,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Requests in the window.
    pub requests: u64,
    /// Connections that were opened in the window.
    pub connections_opened: u64,
    /// Connections that are open now.
    pub connections_open: u64,
    /// Bytes to the service; of TCP only.
    pub tcp_sent_bytes: u64,
    /// Bytes from the service; of TCP only.
    pub tcp_received_bytes: u64,
}

/// What protects an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EdgeSecurity {
    /// mTLS with certificates of the mesh.
    MutualTls,
    /// TLS that a proxy speaks with somebody outside the mesh.
    Tls,
    /// TLS of the applications; proxies do not look into it.
    ApplicationTls,
    /// Nothing.
    #[default]
    Plaintext,
}

/// Which ends told of an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReportedBy {
    /// Both, and the same unless there are differences.
    Both,
    /// The caller's proxy alone.
    #[default]
    Source,
    /// The called one's alone.
    Destination,
}

/// One thing that the ends say differently.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeDifference {
    /// The key of the row.
    pub key: String,
    /// As the caller's proxy says.
    pub source: String,
    /// As the called one's says.
    pub destination: String,
}
