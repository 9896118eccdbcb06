//! What the counts of a window come to.

use std::collections::BTreeMap;

use crate::api::series::{SeriesPoint, SeriesReport, SeriesRow};
use crate::api::stats::{CodeCount, StatsReport, StatsRow};
use crate::telemetry::names::LATENCY_MICROS;

use super::query::{Group, GroupBy, Parts, Query, Signals, parts};
use super::series::Series;

/// The signals of the window that ends at `now`.
pub fn report(series: &Series, query: &Query, now_unix_ms: u64) -> StatsReport {
    parts(series, query, now_unix_ms).report()
}

impl Parts {
    /// What they come to over all of the window.
    pub fn report(self) -> StatsReport {
        let seconds = ratio(self.window_ms.max(1), 1_000);
        let rows = self.groups.into_iter().map(|group| {
            let mut all = Signals::default();
            for signals in group.points.values() {
                all.merge(signals);
            }
            let Group {
                key: [service, version, source, route, code_class],
                ..
            } = group;
            let cell = all.cell;
            let good = cell.requests - cell.failures.min(cell.requests);
            let quantile = |share| cell.latency.quantile(share, &LATENCY_MICROS);
            StatsRow {
                service,
                version,
                source,
                route,
                code_class,
                requests_per_second: ratio(cell.requests, 1) / seconds,
                requests: cell.requests,
                success_percent: percent(good, cell.requests),
                // A request is tried again because the try before failed, so tries that failed are the failures
                // and the retries.
                try_success_percent: percent(good, cell.requests + cell.retries),
                latency_p50_ms: quantile(0.50),
                latency_p95_ms: quantile(0.95),
                latency_p99_ms: quantile(0.99),
                mtls_percent: percent(all.secured, all.arrived),
                retries: cell.retries,
                timeouts: cell.timeouts,
                ejected: 0,
                overflows: cell.overflows,
                codes: all
                    .classes
                    .into_iter()
                    .map(|(class, requests)| CodeCount { class, requests })
                    .collect(),
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

    /// What they come to point by point.
    pub fn points(self) -> SeriesReport {
        let rows = self.groups.into_iter().map(|group| {
            let Group {
                key: [service, version, source, route, code_class],
                points,
            } = group;
            let points = points.into_iter().map(|(at_unix_ms, signals)| {
                let cell = signals.cell;
                let quantile = |share| cell.latency.quantile(share, &LATENCY_MICROS);
                SeriesPoint {
                    at_unix_ms,
                    requests: cell.requests,
                    failures: cell.failures,
                    latency_p50_ms: quantile(0.50),
                    latency_p95_ms: quantile(0.95),
                    latency_p99_ms: quantile(0.99),
                    retries: cell.retries,
                    timeouts: cell.timeouts,
                    overflows: cell.overflows,
                    tcp_opened: cell.tcp_opened,
                    tcp_sent_bytes: cell.tcp_to,
                    tcp_received_bytes: cell.tcp_from,
                }
            });
            SeriesRow {
                service,
                version,
                source,
                route,
                code_class,
                points: points.collect(),
            }
        });
        SeriesReport {
            step_seconds: self.step_ms / 1_000,
            from_unix_ms: self.from_unix_ms,
            to_unix_ms: self.at_unix_ms,
            rows: rows.collect(),
        }
    }
}

/// Requests by service and version over the window: for measured shares.
pub fn shares(
    series: &Series,
    window_ms: u64,
    now_unix_ms: u64,
) -> BTreeMap<String, BTreeMap<String, u64>> {
    let query = Query {
        window_ms,
        by: vec![GroupBy::Version],
        ..Query::default()
    };
    let mut all: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let rows = report(series, &query, now_unix_ms).rows;
    for row in rows.into_iter().filter(|row| row.requests > 0) {
        let of = all.entry(row.service).or_default();
        of.insert(row.version, row.requests);
    }
    all
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
