//! Outlier detection: when an endpoint that serves badly is left out for a while.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Ejection of endpoints that fail, are slow, or do worse than the others (Envoy's fields). Shares
/// are percent; above 100 is 100. Defaults are Istio's: failures in a row only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// 5xx answers or failures in a row; 0 is off. Default 5.
    pub consecutive_5xx: u32,
    /// How many of 100 such findings eject. Default 100.
    pub enforcing_consecutive_5xx: u32,
    /// 502, 503, 504 or connection failures in a row; 0 is off. Default 0.
    pub consecutive_gateway: u32,
    /// How many of 100 such findings eject. Default 100 (Envoy: 0).
    pub enforcing_consecutive_gateway: u32,
    /// Failures to connect, resets and timeouts are counted apart from answers. Default false.
    pub split_external_local_origin_errors: bool,
    /// Failures without an answer in a row; 0 is off. Only when split. Default 5.
    pub consecutive_local_origin: u32,
    /// How many of 100 such findings eject. Only when split. Default 100.
    pub enforcing_consecutive_local_origin: u32,
    /// Ejection of those that succeed far less often than the others.
    pub success_rate: SuccessRate,
    /// Ejection of those that fail too large a share.
    pub failure_percentage: FailurePercentage,
    /// Ejection of those that answer too slowly; off when absent.
    pub response_time: Option<ResponseTime>,
    /// How often rates are judged and ejections reviewed. Default 10 s.
    pub interval: Duration,
    /// First time out; grows with each ejection. Default 30 s.
    pub base_ejection: Duration,
    /// Longest time out; absent is 300 s, or `base_ejection` when that is more.
    pub max_ejection: Option<Duration>,
    /// At most this much is added to each time out, by chance. Default 0.
    pub max_ejection_jitter: Duration,
    /// At most this share of endpoints is out. Default 10.
    pub max_ejection_percent: u32,
    /// One endpoint may be out whatever its share is. Default true, because Istio's 10 % would protect
    /// no service of fewer than ten (Envoy: false).
    pub always_eject_one_host: bool,
    /// A passed active health check ends an ejection. Default true.
    pub uneject_on_health_check: bool,
}

/// Ejection of endpoints whose share of successes is below the mean of all by more than some
/// standard deviations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRate {
    /// How many of 100 findings eject. Default 0 (Istio; Envoy: 100).
    pub enforcing: u32,
    /// The same for failures without an answer. Only when split. Default 0 (Istio; Envoy: 100).
    pub enforcing_local_origin: u32,
    /// At least this many endpoints must have had enough requests. Default 5.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough. Default 100.
    pub request_volume: u32,
    /// Standard deviations, in thousandths. Default 1900.
    pub stdev_factor: u32,
}

/// Ejection of endpoints that fail this share of their requests or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailurePercentage {
    /// How many of 100 findings eject. Default 0.
    pub enforcing: u32,
    /// The same for failures without an answer. Only when split. Default 0.
    pub enforcing_local_origin: u32,
    /// Percent. Default 85.
    pub threshold: u32,
    /// At least this many endpoints must have had enough requests. Default 5.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough. Default 50.
    pub request_volume: u32,
}

/// Ejection of endpoints whose mean time to answer is above a threshold. Not Envoy's: it travels in
/// the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResponseTime {
    /// From sending a request to the head of its answer. Default 1 s.
    pub threshold: Duration,
    /// The mean is that of this long, in whole intervals. Default 60 s.
    pub window: Duration,
    /// Answers in the window that are enough. Default 20.
    pub request_volume: u32,
    /// How many of 100 findings eject. Default 100.
    pub enforcing: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway: 0,
            enforcing_consecutive_gateway: 100,
            split_external_local_origin_errors: false,
            consecutive_local_origin: 5,
            enforcing_consecutive_local_origin: 100,
            success_rate: SuccessRate::default(),
            failure_percentage: FailurePercentage::default(),
            response_time: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: None,
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: true,
            uneject_on_health_check: true,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            enforcing: 0,
            enforcing_local_origin: 0,
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor: 1900,
        }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self {
            enforcing: 0,
            enforcing_local_origin: 0,
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}

impl Default for ResponseTime {
    fn default() -> Self {
        Self {
            threshold: Duration::from_secs(1),
            window: Duration::from_mins(1),
            request_volume: 20,
            enforcing: 100,
        }
    }
}

impl OutlierDetection {
    /// Envoy's `max_ejection_time` when none is given.
    pub const LONGEST_EJECTION: Duration = Duration::from_mins(5);

    /// The longest time out, before jitter.
    pub fn longest_ejection(&self) -> Duration {
        self.max_ejection
            .unwrap_or(Self::LONGEST_EJECTION.max(self.base_ejection))
    }
}
