//! `GET /proxies`: which proxies are connected, and whether each has what it should have.

use serde::{Deserialize, Serialize};

/// One connected client of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxySync {
    /// Its node id, `sidecar~IP~INSTANCE.NAMESPACE~…`.
    pub proxy: String,
    /// Instance (pod) name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Workload, such as `reviews-v1`.
    pub workload: String,
    /// The SPIFFE id that its certificate proved; none on the loopback port without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `meshctl`, `envoy` or `grpc`.
    pub client: String,
    /// Of that program, as it says; empty where it says none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// `delta` or `sotw`.
    pub protocol: String,
    /// Since when this stream stands.
    pub connected_since_unix_ms: u64,
    /// Everything up to this revision of the world is with it; the world changes with the
    /// configuration and with who runs.
    pub revision_acked: u64,
    /// It has everything, and refused nothing.
    pub synced: bool,
    /// By type, for those it subscribed to.
    pub types: Vec<TypeSync>,
}

/// One type of resource on one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeSync {
    /// `CDS`, `EDS`, `LDS`, `RDS`, `SDS`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many resources it has.
    pub resources: usize,
    /// The newest revision of which something was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_sent: Option<u64>,
    /// Everything up to this revision is with it.
    pub revision_acked: u64,
    /// It has not answered the last response yet.
    pub waiting: bool,
    /// When the last response was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_unix_ms: Option<u64>,
    /// When a response was last accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked_unix_ms: Option<u64>,
    /// Why it refused the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejection>,
}

/// A response that a client refused, wholly or in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// In the client's words.
    pub reason: String,
    /// Those of the resources sent that the reason names.
    pub resources: Vec<String>,
    /// When.
    pub at_unix_ms: u64,
    /// The revision that was refused.
    pub revision: u64,
}

/// A client that was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The node id that it gave.
    pub proxy: String,
    /// The identity that it proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Why it was turned away.
    pub reason: String,
    /// When.
    pub at_unix_ms: u64,
}

/// How one client took a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// Its node id.
    pub proxy: String,
    /// Instance (pod) name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// From the change to its acknowledgement; none unless it was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a revision at one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It runs it.
    Acknowledged,
    /// It refused (part of) it.
    Rejected,
    /// It has not answered yet.
    Pending,
    /// It went away before it answered.
    Disconnected,
}

impl ProxySync {
    /// Why it refused what it was last sent, if it did.
    pub fn rejected(&self) -> Option<&str> {
        self.types
            .iter()
            .find_map(|kind| kind.rejected.as_ref())
            .map(|rejection| rejection.reason.as_str())
    }
}
