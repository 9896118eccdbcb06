//! Labels of what proxies tell of endpoints that they have ejected.

/// The cluster, by Envoy's name for this label.
pub const CLUSTER: &str = "envoy_cluster_name";
/// Where the endpoint is, `ADDRESS:PORT`.
pub const ENDPOINT: &str = "endpoint";
/// Why, by Envoy's name for this kind of ejection.
pub const REASON: &str = "reason";
