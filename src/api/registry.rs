//! The registry: services, instances, endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mesh::{Health, Instance};

/// `POST /registry/instances`: registers or renews an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// The instance.
    pub instance: Instance,
    /// It is a pod of a cluster. A control plane that follows clusters has it from there, with how it is, and
    /// waits for no heartbeat.
    #[serde(default)]
    pub pod: bool,
    /// How long it stays without a heartbeat, in seconds; 0 is for ever.
    #[serde(default)]
    pub ttl_seconds: u32,
}

/// Answer to a registration or heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// When the next heartbeat is due at the latest; 0 is never.
    pub expires_unix_ms: u64,
}

/// `GET /registry/instances`: one instance and its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceReport {
    /// The instance.
    pub instance: Instance,
    /// Last sign of life.
    pub seen_unix_ms: u64,
    /// When it is evicted; 0 is never.
    pub expires_unix_ms: u64,
}

/// `GET /services`: one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    /// Short name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Fully qualified.
    pub host: String,
    /// Virtual addresses.
    pub addresses: Vec<String>,
    /// Ports in the order of the manifest.
    pub ports: Vec<PortReport>,
    /// Instances that may be chosen.
    pub ready: usize,
    /// All instances.
    pub instances: usize,
    /// Version (canonical revision) → instances.
    pub versions: BTreeMap<String, usize>,
    /// `strict`, `permissive`, `disable` or `mixed`, over its instances.
    pub mtls: String,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortReport {
    /// Name; may be empty.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Container port or its name.
    pub target: String,
    /// `auto`, `http`, `http2`, `grpc`, `tls`, `tcp` or `udp`.
    pub protocol: String,
}

/// `GET /endpoints`: one endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointReport {
    /// `name.namespace`.
    pub service: String,
    /// Service port.
    pub port: u16,
    /// Where peers connect.
    pub address: String,
    /// Instance.
    pub instance: String,
    /// Version (canonical revision).
    pub version: String,
    /// Whether it may be chosen.
    pub health: Health,
    /// Whether peers speak mTLS to it.
    pub mtls: bool,
    /// Relative share.
    pub weight: u32,
    /// Proxies whose outlier detection leaves it out now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ejected_by: Vec<super::ejections::EjectedBy>,
}
