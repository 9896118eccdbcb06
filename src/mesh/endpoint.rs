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
    /// Works worse than it should; chosen when too few others are there.
    Degraded,
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
    /// Further addresses of the same endpoint, raced when connecting (RFC 8305).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional: Vec<SocketAddr>,
    /// For telemetry.
    pub workload: WorkloadRef,
    /// What is different when it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<EndpointCheck>>,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 that is nothing but an address.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            priority: 0,
            locality: Locality::default(),
            address,
            weight: 1,
            health: Health::Healthy,
            mtls: false,
            additional: Vec::new(),
            workload: WorkloadRef::default(),
            health_check: None,
        }
    }
}

/// The endpoints of one cluster, sorted (priority, locality, address) and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// In canonical order.
    pub endpoints: Vec<Endpoint>,
    /// Percent of its share that a priority with ill endpoints is believed to carry (Envoy's
    /// `overprovisioning_factor`). Default 140.
    #[serde(
        default = "overprovisioning",
        skip_serializing_if = "is_overprovisioning"
    )]
    pub overprovisioning: u32,
    /// Health of a priority is told by weights rather than by numbers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weighted_health: bool,
    /// Weights of localities that differ from the sum of their endpoints' weights, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locality_weights: Vec<LocalityWeight>,
    /// Shares of requests that are refused, each with the category that counts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drops: Vec<DropOverload>,
}

fn overprovisioning() -> u32 {
    140
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_overprovisioning(factor: &u32) -> bool {
    *factor == overprovisioning()
}

/// The weight of a locality within its priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityWeight {
    /// Priority.
    pub priority: u32,
    /// Locality.
    pub locality: Locality,
    /// 0 gets nothing.
    pub weight: u32,
}

/// A share of requests that is refused (Envoy's `drop_overloads`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropOverload {
    /// Why.
    pub category: String,
    /// Of a million.
    pub per_million: u32,
}

impl Default for Assignment {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            overprovisioning: overprovisioning(),
            weighted_health: false,
            locality_weights: Vec::new(),
            drops: Vec::new(),
        }
    }
}

impl Assignment {
    /// Puts `endpoints` into canonical order.
    pub fn new(mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort();
        endpoints.dedup_by(|a, b| {
            (a.priority, &a.locality, a.address) == (b.priority, &b.locality, b.address)
        });
        Self {
            endpoints,
            ..Self::default()
        }
    }
}
