//! What proxies tell of Istio's metrics where that is otherwise than usual.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::listener::is_default;
use super::told::Told;

/// What is otherwise with some metrics. Of several the last that says something counts, and labels add up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Change {
    /// The metric's name, such as `istio_requests_total`; all of Istio's without one.
    #[serde(skip_serializing_if = "is_default")]
    pub metric: Option<String>,
    /// Whether it is not told.
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: Option<bool>,
    /// Labels that it is told without: series that differ in these alone are one.
    #[serde(skip_serializing_if = "is_default")]
    pub without: Vec<String>,
}

/// What is said of metrics in the mesh: by Telemetries, the oldest first.
pub type Rules = Vec<Arc<Told<Rule>>>;

/// One thing that is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Of what the side of callers tells, and gateways.
    pub client: bool,
    /// Of what the side of applications tells.
    pub server: bool,
    /// What it is.
    pub change: Change,
}
