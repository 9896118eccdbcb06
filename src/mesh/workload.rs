//! Workloads: what runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Health, Locality, SpiffeId};

/// One running instance of a workload (a pod, a process, a machine).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Unique in its namespace, such as `reviews-v1-6b7c-x2x1z`.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// The workload that it is one of, such as deployment `reviews-v1`.
    pub workload: String,
    /// The account whose identity it may use.
    pub service_account: String,
    /// Labels, which selectors and subsets read.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    #[serde(default)]
    pub locality: Locality,
    /// Its address.
    pub address: IpAddr,
    /// More of its addresses, such as that of the other family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_at: Vec<IpAddr>,
    /// Container port → where peers connect for it. A port that is missing here is reached at
    /// `address` under its own number (transparent capture).
    #[serde(default)]
    pub ports: BTreeMap<u16, SocketAddr>,
    /// Names of container ports, for services that target a name.
    #[serde(default)]
    pub port_names: BTreeMap<String, u16>,
    /// Ports by the name of a service's port, where they are others than the service says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_ports: BTreeMap<String, u16>,
    /// Relative share of requests; 1 where nothing else is said.
    #[serde(default = "one")]
    pub weight: u32,
    /// Whether it may be chosen.
    pub health: Health,
    /// Whether a proxy of the mesh terminates mTLS in front of it.
    #[serde(default)]
    pub mtls: bool,
}

fn first<'l>(labels: &'l BTreeMap<String, String>, of: [&str; 3]) -> Option<&'l str> {
    let found = of.iter().find_map(|label| labels.get(*label));
    found.map(String::as_str)
}

/// Istio's canonical service, where labels say it.
pub(super) fn canonical_service(labels: &BTreeMap<String, String>) -> Option<&str> {
    let names = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    first(labels, names)
}

/// Istio's canonical revision, where labels say it.
pub(super) fn canonical_revision(labels: &BTreeMap<String, String>) -> Option<&str> {
    let names = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    first(labels, names)
}

fn one() -> u32 {
    1
}

impl Instance {
    /// Where peers connect for `container_port`.
    pub fn reach(&self, container_port: u16) -> SocketAddr {
        self.ports
            .get(&container_port)
            .copied()
            .unwrap_or_else(|| SocketAddr::new(self.address, container_port))
    }

    /// More places where peers reach `container_port`, as good as [`reach`](Self::reach).
    pub fn also_reach(&self, container_port: u16) -> Vec<SocketAddr> {
        if self.ports.contains_key(&container_port) {
            return Vec::new();
        }
        let at = |ip: &IpAddr| SocketAddr::new(*ip, container_port);
        self.also_at.iter().map(at).collect()
    }

    /// Istio's canonical service name: its label, else `app`, else the workload.
    pub fn canonical_service(&self) -> &str {
        canonical_service(&self.labels).unwrap_or(&self.workload)
    }

    /// Istio's canonical revision: its label, else `version`, else `latest`.
    pub fn canonical_revision(&self) -> &str {
        canonical_revision(&self.labels).unwrap_or("latest")
    }

    /// Its identity under `trust_domain`.
    pub fn identity(&self, trust_domain: &str) -> SpiffeId {
        SpiffeId::new(trust_domain, &self.namespace, &self.service_account)
    }
}

/// What telemetry says about a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadRef {
    /// The instance (pod).
    pub instance: String,
    /// The workload, such as `reviews-v1`.
    pub workload: String,
    /// Namespace.
    pub namespace: String,
    /// Canonical service (`app`).
    pub service: String,
    /// Canonical revision (`version`).
    pub version: String,
}
