//! Services: what callers name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::session::StatefulSession;
use super::{Hostname, Locality, Origin};

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
    /// gRPC, which browsers call too, in their form of it.
    GrpcWeb,
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
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
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
    /// Namespaces whose workloads see it; empty is all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub export: BTreeSet<String>,
    /// Which of its endpoints are preferred, where no rule says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    /// How requests of one caller stay together, where no rule says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<StatefulSession>>,
    /// Its instances are not the mesh's (ServiceEntry).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Box<External>>,
    /// Where it was written.
    pub origin: Origin,
}

impl Service {
    /// Whether workloads of `namespace` know it.
    pub fn is_seen_from(&self, namespace: &str) -> bool {
        self.export.is_empty() || self.export.contains(namespace)
    }
}

/// Which endpoints a service's callers prefer (Kubernetes' `trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Distribution {
    /// Those of their zone, then of their region.
    SameZone,
    /// Those of their subzone, then as [`Distribution::SameZone`].
    SameNode,
}

/// Istio's label of endpoints that speak the mesh's mTLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Whether an endpoint that somebody wrote down speaks the mesh's mTLS: as its label says, else where it
/// has an account (Istio's rule).
pub fn speaks_mtls(labels: &BTreeMap<String, String>, account: &str) -> bool {
    labels
        .get(TLS_MODE)
        .map_or(!account.is_empty(), |mode| mode == "istio")
}

/// What stands behind a host that the mesh does not run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// It is part of the mesh all the same (`MESH_INTERNAL`).
    pub internal: bool,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Its endpoints; none where the host itself is asked for.
    pub endpoints: Vec<Entry>,
    /// Names that its certificate must have one of.
    pub names: Vec<String>,
}

/// How the endpoints of a host outside the mesh are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Resolution {
    /// Calls go to the address that the caller meant.
    #[default]
    None,
    /// They are addresses.
    Static,
    /// They are names, and each address of each is an endpoint.
    Dns,
    /// There is one name, all of whose addresses are one endpoint.
    DnsRoundRobin,
}

/// An endpoint of a host outside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// An address, or a name.
    pub address: String,
    /// Ports by the name of the service's port, where they are others than the service says.
    pub ports: BTreeMap<String, u16>,
    /// For subsets.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub locality: Locality,
    /// Share of the sum of weights.
    pub weight: u32,
    /// Who it is, where it speaks the mesh's mTLS.
    pub account: String,
}
