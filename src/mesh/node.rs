//! Who a view is for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::workload::{canonical_revision, canonical_service};
use super::{Locality, Protocol};

/// A client of the control plane, as it describes itself. The control plane holds what it says
/// about namespace and account against its certificate before it believes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Istio's form: `sidecar~IP~INSTANCE.NAMESPACE~NAMESPACE.svc.cluster.local`.
    pub id: String,
    /// Which program.
    pub client: Client,
    /// What it is for.
    pub kind: NodeKind,
    /// Instance (pod) name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// The account whose identity it carries.
    pub service_account: String,
    /// Workload, such as `reviews-v1`.
    pub workload: String,
    /// Labels of the workload.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    pub locality: Locality,
    /// Its address.
    pub address: IpAddr,
    /// Where it takes calls of its application.
    pub outbound: SocketAddr,
    /// Where it takes calls to its application when they are redirected to it.
    pub inbound: SocketAddr,
    /// Connections are redirected to it; otherwise it binds every port of its own.
    pub transparent: bool,
    /// Ports of its application.
    pub applications: Vec<Application>,
}

impl Node {
    /// Istio's canonical service, of its labels; else the workload.
    pub fn canonical_service(&self) -> &str {
        canonical_service(&self.labels).unwrap_or(&self.workload)
    }

    /// Istio's canonical revision, of its labels; else `latest`.
    pub fn canonical_revision(&self) -> &str {
        canonical_revision(&self.labels).unwrap_or("latest")
    }
}

/// One port of the application behind a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// The container port, as services target it.
    pub port: u16,
    /// Its name, for services that target a name; empty when it has none.
    #[serde(default)]
    pub name: String,
    /// Where the sidecar listens for it when nothing is redirected.
    pub bind: SocketAddr,
    /// Where the application itself listens; see [`as_meant`].
    pub address: SocketAddr,
    /// What it speaks, where no service in front of it says.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Whether an application at `address` for `port` is called where its callers meant to, which is known where
/// connections are redirected: it may listen on some of its addresses, or on one family, only.
pub fn as_meant(port: u16, address: SocketAddr) -> bool {
    address.ip().is_unspecified() && address.port() == port
}

/// Which program a client is; clients disagree about xDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Client {
    /// Our proxy.
    Meshctl,
    /// Envoy.
    Envoy,
    /// A gRPC library.
    Grpc,
}

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeKind {
    /// Beside one application.
    Sidecar,
    /// At the edge.
    Gateway,
}
