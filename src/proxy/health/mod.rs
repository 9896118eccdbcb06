//! Whether endpoints are well: active health checks, and the reviews of outlier detection.
//!
//! Runs beside the data path, on the control thread's runtime. What it finds are flags of endpoints
//! ([`flags`]), which choices read. What a result means ([`check`]) is a function of it; asking
//! ([`probe`]) knows nothing of what for; [`checks`] brings both together.

pub(crate) mod check;
pub(crate) mod checks;
pub(crate) mod flags;
pub(crate) mod numbers;
pub(crate) mod probe;
pub(crate) mod review;

use std::time::Duration;

use super::tables::Tables;
use flags::Why;

/// What a first result may be late by.
const GRACE: Duration = Duration::from_secs(1);

/// How long first results may take at most; none when nobody waits for one.
pub(crate) fn first_round(tables: &Tables) -> Option<Duration> {
    let pending = tables.clusters.iter().filter_map(|cluster| {
        let policy = cluster.config.health_check.as_ref()?;
        let entries = &cluster.endpoints.entries;
        let waits = |entry: &super::tables::EndpointEntry| {
            entry.state.health.holds(Why::Pending) && entry.state.health.is_out()
        };
        entries.iter().any(waits).then(|| {
            policy
                .timeout
                .saturating_add(policy.initial_jitter)
                .saturating_add(GRACE)
        })
    });
    pending.max()
}

/// Whether some cluster wants connections closed that lead to endpoints which fail their checks.
pub(crate) fn closes_connections(tables: &Tables) -> bool {
    tables.clusters.iter().any(|cluster| {
        let check = cluster.config.health_check.as_ref();
        check.is_some_and(|check| check.policy.close_connections_on_failure)
    })
}
