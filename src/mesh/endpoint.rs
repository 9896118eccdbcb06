//! Endpoints: where a cluster's requests can go. They change far more often than anything else,
//! so a view holds them apart.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::health_check::EndpointCheck;
use super::{Locality, WorkloadRef};

/// Whether an endpoint may be chosen.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Passes its checks, or has none.
    #[default]
    Healthy,
    /// Fails its checks; chosen only in panic.
    Unhealthy,
    /// Going away: keeps its connections, gets no new ones.
    Draining,
}

/// One address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// 0 is used first; higher ones take what lower ones cannot.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Where to connect.
    pub address: SocketAddr,
    /// Relative share, at least 1.
    pub weight: u32,
    /// Whether it may be chosen.
    pub health: Health,
    /// Speaks the mesh's mTLS.
    pub mtls: bool,
    /// For telemetry.
    pub workload: WorkloadRef,
    /// What is different when it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<EndpointCheck>>,
}

/// The endpoints of one cluster, sorted (priority, locality, address) and without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// In canonical order.
    pub endpoints: Vec<Endpoint>,
}

impl Assignment {
    /// Puts `endpoints` into canonical order.
    pub fn new(mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort();
        endpoints.dedup_by(|a, b| {
            (a.priority, &a.locality, a.address) == (b.priority, &b.locality, b.address)
        });
        Self { endpoints }
    }
}
