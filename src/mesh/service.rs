//! Services: what callers name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Hostname, Origin};

/// What is spoken on a port, by declaration (Istio's protocol selection).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// Not declared: detected from the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC, which is HTTP/2 with statuses of its own.
    Grpc,
    /// TLS of the application's own; routed by server name.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// Not carried by the mesh.
    Udp,
}

impl Protocol {
    /// Whether requests are seen (and so routed, retried and counted one by one).
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name in the manifest; empty when there is one port only.
    pub name: String,
    /// The port that callers use.
    pub port: u16,
    /// The container's port.
    pub target: TargetPort,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Where a service port leads in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum TargetPort {
    /// A container port.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// A service: a host name and ports, backed by the instances that its selector chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The fully qualified name.
    pub host: Hostname,
    /// Short name, such as `reviews`.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// In the order of the manifest.
    pub ports: Vec<ServicePort>,
    /// Labels that an instance must carry; an empty selector chooses nothing.
    pub selector: BTreeMap<String, String>,
    /// Virtual addresses; empty when headless or not yet given.
    pub addresses: Vec<IpAddr>,
    /// `clusterIP: None`: callers are given the instances themselves.
    pub headless: bool,
    /// Where it was written.
    pub origin: Origin,
}
