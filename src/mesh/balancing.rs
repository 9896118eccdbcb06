//! How one endpoint of a cluster is chosen: Envoy's policies with their parameters and defaults.
//!
//! Fractions are whole thousandths, so that equal configurations compare equal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::session::SessionHealth;

/// How one endpoint is chosen. All respect endpoint weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancer {
    /// Smooth weighted round robin: exact within one round.
    RoundRobin,
    /// The one of a few, drawn by weight, with the fewest requests in flight (Istio's default).
    #[default]
    LeastRequest,
    /// At random, by weight.
    Random,
    /// As least request, with requests in flight times recent latency (Finagle's Peak EWMA).
    PeakEwma,
    /// By a hash of the request on a ring of endpoints (Envoy's placement).
    RingHash,
    /// By a hash of the request in a table (Maglev's, as Envoy fills it).
    Maglev,
}

impl LoadBalancer {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::LeastRequest,
        Self::Random,
        Self::PeakEwma,
        Self::RingHash,
        Self::Maglev,
    ];

    /// Whether requests with equal hashes go to the same endpoint.
    pub fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// Parameters of a choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Balancing {
    /// Endpoints that least request compares, at least 2. Default 2.
    pub choices: u32,
    /// Least request looks at all endpoints (Envoy's `FULL_SCAN`).
    pub full_scan: bool,
    /// Thousandths of the power of requests in flight that least request divides by (Envoy's
    /// `active_request_bias`). Default 1000.
    pub request_bias: u32,
    /// In how long a latency is forgotten to a third (Peak EWMA). Default 10 s.
    pub decay: Duration,
    /// The ring of ring hash.
    pub ring: RingHash,
    /// Entries of Maglev's table, a prime. Default 65537.
    pub table_size: u32,
    /// Percent of the mean number of requests in flight that an endpoint takes before hashed
    /// requests go elsewhere, at least 100; 0 is no bound (Envoy's `hash_balance_factor`).
    pub balance_factor: u32,
    /// Endpoints that were just added get less at first.
    pub slow_start: Option<SlowStart>,
    /// How localities count.
    pub locality: LocalityBalancing,
    /// Below this percentage of endpoints that can be called all are called (Envoy's
    /// `healthy_panic_threshold`). 0 is never, and the default, as it is Istio's.
    pub panic_threshold: u32,
    /// Where sessions may go on.
    #[serde(skip_serializing_if = "SessionHealth::is_usual")]
    pub session_health: SessionHealth,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            choices: 2,
            full_scan: false,
            request_bias: 1000,
            decay: Duration::from_secs(10),
            ring: RingHash::default(),
            table_size: 65_537,
            balance_factor: 0,
            slow_start: None,
            locality: LocalityBalancing::default(),
            panic_threshold: 0,
            session_health: SessionHealth::default(),
        }
    }
}

impl Balancing {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a table of `size` entries is one that every walk goes through whole: a prime.
    pub fn is_table_size(size: u32) -> bool {
        // 65,536 squared is more than there can be.
        size >= 2
            && (2..65_536_u32)
                .take_while(|n| n * n <= size)
                .all(|n| !size.is_multiple_of(n))
    }
}

/// The ring of ring hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingHash {
    /// Points at least. Default 1024.
    pub min_size: u64,
    /// Points at most. Default 8 Mi, which is also the most.
    pub max_size: u64,
    /// What places points.
    pub function: HashFunction,
}

impl RingHash {
    /// Envoy refuses larger rings.
    pub const LARGEST: u64 = 8 * 1024 * 1024;
}

impl Default for RingHash {
    fn default() -> Self {
        Self {
            min_size: 1024,
            max_size: Self::LARGEST,
            function: HashFunction::default(),
        }
    }
}

/// A hash function of a ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashFunction {
    /// xxHash64.
    #[default]
    Xx,
    /// MurmurHash2 as libstdc++ has it.
    Murmur2,
}

/// Endpoints that were just added get less at first: `weight × max(minimum, (age / window) ^ (1 /
/// aggression))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// For how long.
    pub window: Duration,
    /// Thousandths. Default 1000: linear.
    pub aggression: u32,
    /// Percent of the weight at least. Default 10.
    pub min_weight_percent: u32,
}

/// How localities count in a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LocalityBalancing {
    /// Not at all.
    #[default]
    None,
    /// A locality is chosen first, by its weight and its health.
    Weighted,
    /// Calls stay in the caller's own locality as far as its share of endpoints goes.
    ZoneAware(ZoneAware),
}

/// Envoy's zone-aware routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneAware {
    /// Fewer endpoints than this are spread over all localities alike. Default 6.
    pub min_cluster_size: u64,
    /// In panic requests fail rather than go to endpoints that are ill.
    pub fail_on_panic: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            min_cluster_size: 6,
            fail_on_panic: false,
        }
    }
}
