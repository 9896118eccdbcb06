//! Questions about a window.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::stats::{StatsReport, StatsRow};

use super::series::{Cell, Series};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Length of the window, in milliseconds.
    pub window_ms: u64,
    /// Only calls to this service, `name.namespace`.
    pub service: Option<String>,
    /// Only calls of this workload, `name.namespace`.
    pub from: Option<String>,
    /// One row for each.
    pub by: GroupBy,
}

/// How rows are told apart, besides by service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// Not at all.
    #[default]
    Service,
    /// By version of the service.
    Version,
    /// By calling workload.
    Source,
    /// By the caller's route. Calls that arrive from outside the mesh have none.
    Route,
}

/// The signals of the window that ends at `now`. Calls of the mesh's own workloads are counted as
/// the callers saw them (with what never arrived), calls from outside as the services saw them.
pub fn report(series: &Series, query: &Query, now_unix_ms: u64) -> StatsReport {
    parts(series, query, now_unix_ms).report()
}

/// Counts of a window before anything is worked out of them, so that those of several control planes can be added.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    window_ms: u64,
    at_unix_ms: u64,
    groups: Vec<Group>,
}

/// Counts of one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    /// Service, version, source, route.
    key: [String; 4],
    signals: Cell,
    /// Requests and connections as the called side saw them, and those over mTLS.
    arrived: u64,
    secured: u64,
}

/// The counts of the window that ends at `now`.
pub fn parts(series: &Series, query: &Query, now_unix_ms: u64) -> Parts {
    let mut groups: BTreeMap<[String; 4], (Cell, u64, u64)> = BTreeMap::new();
    let from = now_unix_ms.saturating_sub(query.window_ms);
    for (edge, cell) in series.window(from, now_unix_ms) {
        if query
            .service
            .as_ref()
            .is_some_and(|service| *service != edge.service)
            || query
                .from
                .as_ref()
                .is_some_and(|source| *source != edge.source)
        {
            continue;
        }
        // What the called side tells of a call inside the mesh would be a row without a route.
        if query.by == GroupBy::Route && !edge.by_source && !edge.source.is_empty() {
            continue;
        }
        let only = |by: GroupBy, name: &String| {
            if query.by == by {
                name.clone()
            } else {
                String::new()
            }
        };
        let key = [
            edge.service.clone(),
            only(GroupBy::Version, &edge.version),
            only(GroupBy::Source, &edge.source),
            only(GroupBy::Route, &edge.route),
        ];
        let (signals, arrived, secured) = groups.entry(key).or_default();
        if !edge.by_source {
            *arrived += cell.requests + cell.tcp_opened;
            *secured += cell.mtls + cell.tcp_mtls;
        }
        if edge.by_source || edge.source.is_empty() {
            signals.merge(cell);
        }
    }
    let groups = groups
        .into_iter()
        .map(|(key, (signals, arrived, secured))| Group {
            key,
            signals,
            arrived,
            secured,
        });
    Parts {
        window_ms: query.window_ms,
        at_unix_ms: now_unix_ms,
        groups: groups.collect(),
    }
}

impl Parts {
    /// All of them as one.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        let mut groups: BTreeMap<[String; 4], Group> = BTreeMap::new();
        for parts in all {
            sum.window_ms = sum.window_ms.max(parts.window_ms);
            sum.at_unix_ms = sum.at_unix_ms.max(parts.at_unix_ms);
            for group in parts.groups {
                let of = groups.entry(group.key.clone()).or_insert_with(|| Group {
                    key: group.key.clone(),
                    ..Group::default()
                });
                of.signals.merge(&group.signals);
                of.arrived += group.arrived;
                of.secured += group.secured;
            }
        }
        sum.groups = groups.into_values().collect();
        sum
    }

    /// Leaves those of the services for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.groups.retain(|group| keep(&group.key[0]));
    }

    /// What they come to.
    pub fn report(self) -> StatsReport {
        let seconds = ratio(self.window_ms.max(1), 1_000);
        let rows = self.groups.into_iter().map(|group| {
            let Group {
                key: [service, version, source, route],
                signals: cell,
                arrived,
                secured,
            } = group;
            StatsRow {
                service,
                version,
                source,
                route,
                requests_per_second: ratio(cell.requests, 1) / seconds,
                requests: cell.requests,
                success_percent: percent(
                    cell.requests - cell.failures.min(cell.requests),
                    cell.requests,
                ),
                latency_p50_ms: cell.latency.quantile(0.50),
                latency_p95_ms: cell.latency.quantile(0.95),
                latency_p99_ms: cell.latency.quantile(0.99),
                mtls_percent: percent(secured, arrived),
                retries: cell.retries,
                timeouts: cell.timeouts,
                overflows: cell.overflows,
                tcp_opened: cell.tcp_opened,
                tcp_sent_bytes: cell.tcp_to,
                tcp_received_bytes: cell.tcp_from,
            }
        });
        StatsReport {
            window_seconds: self.window_ms / 1_000,
            at_unix_ms: self.at_unix_ms,
            rows: rows.collect(),
        }
    }
}

/// Requests by version of `service` (`name.namespace`) over the window: for measured shares.
pub fn shares(
    series: &Series,
    service: &str,
    window_ms: u64,
    now_unix_ms: u64,
) -> BTreeMap<String, u64> {
    let query = Query {
        window_ms,
        service: Some(service.to_owned()),
        from: None,
        by: GroupBy::Version,
    };
    report(series, &query, now_unix_ms)
        .rows
        .into_iter()
        .filter(|row| row.requests > 0)
        .map(|row| (row.version, row.requests))
        .collect()
}

/// `part` of `whole` in percent; none of nothing.
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * ratio(part, whole))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a rate is an estimate"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::super::series::Edge;
    use super::*;

    #[test]
    fn calls_inside_the_mesh_are_counted_once_and_outside_ones_at_the_service() {
        let mut series = Series::default();
        let mut add = |by_source: bool, source: &str, requests: u64, mtls: u64| {
            let cell = series.cell(
                60_000,
                Edge {
                    by_source,
                    source: source.to_owned(),
                    service: "reviews.default".to_owned(),
                    version: "v1".to_owned(),
                    ..Edge::default()
                },
            );
            cell.requests += requests;
            cell.mtls += mtls;
        };
        add(true, "productpage-v1.default", 10, 0);
        add(false, "productpage-v1.default", 9, 9);
        add(false, "", 3, 0);
        let query = Query {
            window_ms: 60_000,
            ..Query::default()
        };
        let report = report(&series, &query, 90_000);
        assert_eq!(report.rows.len(), 1);
        assert_eq!(report.rows[0].requests, 13);
        assert_eq!(report.rows[0].mtls_percent, Some(75.0));
        assert_eq!(shares(&series, "reviews.default", 60_000, 90_000)["v1"], 13);
    }

    #[test]
    fn routes_are_told_apart_by_the_callers_alone() {
        let mut series = Series::default();
        let mut add = |by_source: bool, source: &str, route: &str, requests: u64| {
            let edge = Edge {
                by_source,
                source: source.to_owned(),
                service: "reviews.default".to_owned(),
                route: route.to_owned(),
                ..Edge::default()
            };
            series.cell(60_000, edge).requests += requests;
        };
        add(true, "productpage-v1.default", "jason", 3);
        add(true, "productpage-v1.default", "everything", 7);
        add(false, "productpage-v1.default", "", 10);
        add(false, "", "", 2);
        let query = Query {
            window_ms: 60_000,
            by: GroupBy::Route,
            ..Query::default()
        };
        let rows: Vec<(String, u64)> = report(&series, &query, 90_000)
            .rows
            .into_iter()
            .map(|row| (row.route, row.requests))
            .collect();
        let row = |route: &str, requests| (route.to_owned(), requests);
        assert_eq!(rows, [row("", 2), row("everything", 7), row("jason", 3)]);
    }
}
