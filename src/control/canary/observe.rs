//! What came of requests to the versions of a service: the one place where rollouts read series.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Cell, Class, Series};
use crate::api::shadow::ShadowReport;
use crate::mesh::rollout::{Copies, Counts, SERIES};

/// Counts of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seen {
    /// As callers saw it, and callers from outside the mesh as the service saw them.
    pub called: Counts,
    /// As the service saw it, with copies that were mirrored to it.
    pub arrived: Counts,
}

/// Counts of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Observed {
    /// By version.
    pub versions: BTreeMap<String, Seen>,
    /// What came of comparing answers to copies.
    pub copies: Copies,
}

impl Observed {
    /// Adds what another control plane's proxies told.
    pub fn add(&mut self, other: &Self) {
        for (version, seen) in &other.versions {
            let own = self.versions.entry(version.clone()).or_default();
            own.called.add(&seen.called);
            own.arrived.add(&seen.arrived);
        }
        self.copies.add(&other.copies);
    }

    /// Says where answers to copies differed.
    #[must_use]
    pub fn with_places(mut self, report: &ShadowReport) -> Self {
        for row in &report.services {
            for place in row.differences.iter().take(MOST_PLACES) {
                let at = format!("{} {}", place.part, place.at).trim_end().to_owned();
                *self.copies.places.entry(at).or_default() += place.count;
            }
        }
        self
    }
}

/// Places that are kept in the state of a run.
const MOST_PLACES: usize = 20;

/// Slots of every length begin with an hour.
const HOUR_MS: u64 = 3_600_000;

/// Counts by version of `service` (`name.namespace`) from the hour of `since` on, so what a window brought is the difference
/// of two of these with the same `since`: fine slots become coarse ones meanwhile, none of which begins in two hours.
pub fn observe(series: &Series, service: &str, since_unix_ms: u64, now_unix_ms: u64) -> Observed {
    let mut found = Observed::default();
    let from = since_unix_ms / HOUR_MS * HOUR_MS;
    series.each(from, now_unix_ms, |_, id, cell| {
        let Some(edge) = series.edge(id).filter(|edge| edge.service == service) else {
            return;
        };
        found.copies.compared += cell.compared;
        found.copies.different += cell.different;
        found.copies.unanswered += cell.unanswered;
        if cell.compared + cell.unanswered > 0 {
            return;
        }
        let seen = found.versions.entry(edge.version.clone()).or_default();
        if edge.by_source || edge.source.is_empty() {
            add(&mut seen.called, edge.class, cell);
        }
        if !edge.by_source {
            add(&mut seen.arrived, edge.class, cell);
        }
    });
    found
}

fn add(counts: &mut Counts, class: Class, cell: &Cell) {
    counts.requests += cell.requests;
    counts.failures += cell.failures;
    let named = [cell.failures, cell.retries, cell.timeouts, cell.overflows];
    let mut add = |name: &str, count: u64| {
        if count > 0 {
            *counts.named.entry(name.to_owned()).or_default() += count;
        }
    };
    for (name, count) in SERIES.iter().zip(named) {
        add(name, count);
    }
    add(class.name(), cell.requests);
    for (code, count) in cell.codes.each() {
        add(&code.name(), count);
    }
    for (bound, count) in cell.latency.buckets() {
        *counts.durations.entry(*bound).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Code, Edge};

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
        let v2 = &seen.versions["v2"];
        assert_eq!((v2.called.requests, v2.arrived.requests), (12, 32));
        assert_eq!(v2.called.durations[&5_000], 12);
        assert_eq!(v2.called.named["retries"], 2);
        let other = observe(&series, "cart.default", 60_000, 61_000);
        assert_eq!(other, Observed::default());
    }

    #[test]
    fn what_is_bounded_is_counted_by_name() {
        let mut series = Series::default();
        let edge = Edge {
            by_source: true,
            source: "client.default".to_owned(),
            service: "shop.default".to_owned(),
            version: "v2".to_owned(),
            class: Class::of(404),
            ..Edge::default()
        };
        let cell = series.cell(60_000, edge);
        cell.requests += 5;
        cell.codes.add(Code::Http(404), 3);
        cell.codes.add(Code::Http(429), 2);
        let copies = Edge {
            by_source: true,
            service: "shop.default".to_owned(),
            ..Edge::default()
        };
        let cell = series.cell(60_000, copies);
        (cell.compared, cell.different, cell.unanswered) = (10, 2, 1);
        let seen = observe(&series, "shop.default", 60_000, 61_000);
        let named = &seen.versions["v2"].called.named;
        assert_eq!((named["4xx"], named["404"], named["429"]), (5, 3, 2));
        assert_eq!(seen.copies.bad(), (3, 11));
        assert_eq!(seen.versions.len(), 1, "{seen:?}");
        // Of two control planes all is added.
        let mut sum = seen.clone();
        sum.add(&seen);
        assert_eq!(sum.versions["v2"].called.named["404"], 6);
        assert_eq!(sum.copies.bad(), (6, 22));
    }
}
