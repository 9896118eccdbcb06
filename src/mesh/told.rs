//! What Telemetries say of one thing that proxies tell: of spans, logs or metrics.

use super::finding::Origin;
use super::policy::Whom;

/// What one object says, in rules `R`.
#[derive(Debug, Clone, PartialEq)]
pub struct Told<R> {
    /// Where it was written.
    pub namespace: String,
    /// For whom.
    pub whom: Whom,
    /// In order: what comes later goes over what came before.
    pub rules: Vec<R>,
    /// The object.
    pub origin: Origin,
}
