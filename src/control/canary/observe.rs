//! What came of requests to the versions of a service: the one place where rollouts read series.

use std::collections::BTreeMap;

use crate::aggregate::{Cell, Series};
use crate::mesh::rollout::Counts;

/// Counts of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// As callers saw it, and callers from outside the mesh as the service saw them.
    pub called: Counts,
    /// As the service saw it, with copies that were mirrored to it.
    pub arrived: Counts,
}

/// Series whose rates can be judged, besides success and durations.
pub const NAMED: [&str; 4] = ["failures", "retries", "timeouts", "overflows"];

/// Slots of every length begin with an hour.
const HOUR_MS: u64 = 3_600_000;

/// Counts by version of `service` (`name.namespace`) from the hour of `since` on, so what a window brought is the difference
/// of two of these with the same `since`: fine slots become coarse ones meanwhile, none of which begins in two hours.
pub fn observe(
    series: &Series,
    service: &str,
    since_unix_ms: u64,
    now_unix_ms: u64,
) -> BTreeMap<String, Seen> {
    let mut found: BTreeMap<String, Seen> = BTreeMap::new();
    let from = since_unix_ms / HOUR_MS * HOUR_MS;
    series.each(from, now_unix_ms, |_, id, cell| {
        let Some(edge) = series.edge(id).filter(|edge| edge.service == service) else {
            return;
        };
        let seen = found.entry(edge.version.clone()).or_default();
        if edge.by_source || edge.source.is_empty() {
            add(&mut seen.called, cell);
        }
        if !edge.by_source {
            add(&mut seen.arrived, cell);
        }
    });
    found
}

fn add(counts: &mut Counts, cell: &Cell) {
    counts.requests += cell.requests;
    counts.failures += cell.failures;
    let named = [cell.failures, cell.retries, cell.timeouts, cell.overflows];
    for (name, count) in NAMED.iter().zip(named) {
        *counts.named.entry((*name).to_owned()).or_default() += count;
    }
    for (bound, count) in cell.latency.buckets() {
        *counts.durations.entry(*bound).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Edge;

    #[test]
    fn what_callers_and_services_saw_is_told_apart() {
        let mut series = Series::default();
        let mut add = |by_source: bool, source: &str, requests: u64| {
            let edge = Edge {
                by_source,
                source: source.to_owned(),
                service: "shop.default".to_owned(),
                version: "v2".to_owned(),
                ..Edge::default()
            };
            let cell = series.cell(60_000, edge);
            cell.requests += requests;
            cell.retries += 1;
            cell.latency.add(5_000, requests);
        };
        add(true, "client.default", 10);
        // Copies arrive, and their caller does not count them.
        add(false, "client.default", 30);
        add(false, "", 2);
        let seen = observe(&series, "shop.default", 60_000, 61_000);
        let v2 = &seen["v2"];
        assert_eq!((v2.called.requests, v2.arrived.requests), (12, 32));
        assert_eq!(v2.called.durations[&5_000], 12);
        assert_eq!(v2.called.named["retries"], 2);
        assert!(observe(&series, "cart.default", 60_000, 61_000).is_empty());
    }
}
