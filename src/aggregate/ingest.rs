//! Cumulative values in, increments out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::telemetry::names::{REQUEST_DURATION, RETRIES};

use super::histogram::Histogram;
use super::links::{Counted, Link};
use super::sample::{Sample, Value};
use super::series::{Cell, Edge, Series};

/// Where each proxy's counters stood when they were last seen. A proxy that was never seen starts at
/// zero, so nothing that it did is lost; one whose counters fell has restarted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ingest {
    nodes: BTreeMap<String, Cursor>,
}

/// The last values of one proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Cursor {
    seen_unix_ms: u64,
    counters: BTreeMap<String, u64>,
    histograms: BTreeMap<String, Vec<(u64, u64)>>,
}

/// Series of one proxy that are followed; more are folded into what is known.
const MAX_SERIES_PER_NODE: usize = 20_000;

impl Ingest {
    /// Adds what `node` did since its last push to `series` at `now`.
    pub fn push(&mut self, node: &str, samples: &[Sample], now_unix_ms: u64, series: &mut Series) {
        let cursor = self.nodes.entry(node.to_owned()).or_default();
        cursor.seen_unix_ms = now_unix_ms;
        series.links.hear(node, now_unix_ms);
        for sample in samples {
            let Some(edge) = Edge::of(sample) else {
                continue;
            };
            let key = key(sample);
            match &sample.value {
                Value::Counter(total) => {
                    let full = cursor.counters.len() >= MAX_SERIES_PER_NODE
                        && !cursor.counters.contains_key(&key);
                    if full {
                        continue;
                    }
                    let last = cursor.counters.insert(key, *total).unwrap_or(0);
                    let more = total.checked_sub(last).unwrap_or(*total);
                    if let Some(what) = Counted::of(&sample.name) {
                        let link = Link::of(sample, edge);
                        series
                            .links
                            .add((node, now_unix_ms), link, what, (*total, more));
                    } else if more > 0 {
                        count(series.cell(now_unix_ms, edge), sample, more);
                    }
                }
                // Sizes are pushed as histograms too; among durations they would be nonsense.
                Value::Histogram(buckets) if sample.name == REQUEST_DURATION.name => {
                    let last = cursor
                        .histograms
                        .insert(key, buckets.clone())
                        .unwrap_or_default();
                    let added = difference(&last, buckets);
                    if added.count() > 0 {
                        series.cell(now_unix_ms, edge).latency.merge(&added);
                    }
                }
                Value::Histogram(_) => {}
            }
        }
    }

    /// Forgets proxies that have not pushed since `before_unix_ms`.
    pub fn forget(&mut self, before_unix_ms: u64) {
        self.nodes
            .retain(|_, cursor| cursor.seen_unix_ms >= before_unix_ms);
    }
}

/// Which counters matter to the golden signals, and how.
fn count(cell: &mut Cell, sample: &Sample, more: u64) {
    match sample.name.as_str() {
        "istio_requests_total" => {
            cell.requests += more;
            let grpc = sample.label("grpc_response_status");
            let failed = sample.label("response_code").starts_with('5')
                || sample.label("response_code") == "0"
                || (sample.label("request_protocol") == "grpc"
                    && !matches!(grpc, "0" | "" | "unknown"));
            if failed {
                cell.failures += more;
            }
            if sample.label("connection_security_policy") == "mutual_tls" {
                cell.mtls += more;
            }
            match sample.label("response_flags") {
                "UT" => cell.timeouts += more,
                "UO" => cell.overflows += more,
                _ => {}
            }
        }
        name if name == RETRIES.name => cell.retries += more,
        "istio_tcp_connections_opened_total" => {
            cell.tcp_opened += more;
            if sample.label("connection_security_policy") == "mutual_tls" {
                cell.tcp_mtls += more;
            }
        }
        // Istio names these from the destination's side: it receives what callers send.
        "istio_tcp_received_bytes_total" => cell.tcp_to += more,
        "istio_tcp_sent_bytes_total" => cell.tcp_from += more,
        _ => {}
    }
}

fn key(sample: &Sample) -> String {
    let mut key = sample.name.clone();
    for (name, value) in &sample.labels {
        key.push('\u{1}');
        key.push_str(name);
        key.push('=');
        key.push_str(value);
    }
    key
}

/// Observations by bucket that `now` has and `last` had not; both cumulative over bounds.
fn difference(last: &[(u64, u64)], now: &[(u64, u64)]) -> Histogram {
    let total = |buckets: &[(u64, u64)]| buckets.last().map_or(0, |(_, count)| *count);
    let restarted = total(now) < total(last);
    let at = |bound: u64| {
        if restarted {
            return 0;
        }
        last.iter()
            .take_while(|(upper, _)| *upper <= bound)
            .last()
            .map_or(0, |(_, count)| *count)
    };
    let mut added = Histogram::default();
    let mut below = 0;
    for (bound, count) in now {
        let since = count.saturating_sub(at(*bound));
        added.add(*bound, since.saturating_sub(below));
        below = below.max(since);
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(total: u64, code: &str) -> Sample {
        Sample {
            name: "istio_requests_total".to_owned(),
            labels: [
                ("reporter", "source"),
                ("source_workload", "productpage-v1"),
                ("source_workload_namespace", "default"),
                ("destination_service_name", "reviews"),
                ("destination_service_namespace", "default"),
                ("destination_canonical_revision", "v1"),
                ("response_code", code),
            ]
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
            value: Value::Counter(total),
        }
    }

    fn totals(series: &Series) -> (u64, u64) {
        series
            .window(0, u64::MAX)
            .fold((0, 0), |(requests, failures), (_, cell)| {
                (requests + cell.requests, failures + cell.failures)
            })
    }

    #[test]
    fn increments_are_counted_once_and_restarts_are_seen() {
        let (mut ingest, mut series) = (Ingest::default(), Series::default());
        ingest.push("a", &[requests(10, "200")], 1_000, &mut series);
        ingest.push("a", &[requests(10, "200")], 2_000, &mut series);
        ingest.push(
            "a",
            &[requests(15, "200"), requests(2, "503")],
            3_000,
            &mut series,
        );
        assert_eq!(totals(&series), (17, 2));
        ingest.push("a", &[requests(4, "200")], 4_000, &mut series);
        assert_eq!(totals(&series), (21, 2));
    }

    #[test]
    fn cursors_survive_a_restart_of_the_reader() {
        let (mut ingest, mut series) = (Ingest::default(), Series::default());
        ingest.push("a", &[requests(10, "200")], 1_000, &mut series);
        let kept = serde_json::to_vec(&ingest).unwrap();
        let mut ingest: Ingest = serde_json::from_slice(&kept).unwrap();
        ingest.push("a", &[requests(12, "200")], 2_000, &mut series);
        assert_eq!(totals(&series), (12, 0));
    }

    #[test]
    fn only_durations_are_latencies() {
        let (mut ingest, mut series) = (Ingest::default(), Series::default());
        for (name, bound) in [
            ("istio_request_duration_milliseconds", 5_000),
            ("istio_request_bytes", 500_000),
            ("istio_response_bytes", 2_500_000),
        ] {
            let sample = Sample {
                name: name.to_owned(),
                value: Value::Histogram(vec![(bound, 10), (u64::MAX, 10)]),
                ..requests(0, "200")
            };
            ingest.push("a", &[sample], 1_000, &mut series);
        }
        let (_, cell) = series.window(0, u64::MAX).next().unwrap();
        assert_eq!(cell.latency.count(), 10);
        assert_eq!(cell.latency.quantile(1.0), Some(5.0));
    }

    #[test]
    fn histograms_differ_bucket_by_bucket() {
        let added = difference(
            &[(1_000, 5), (5_000, 8), (u64::MAX, 8)],
            &[(1_000, 6), (5_000, 10), (u64::MAX, 11)],
        );
        let mut expected = Histogram::default();
        for (bound, count) in [(1_000, 1), (5_000, 1), (u64::MAX, 1)] {
            expected.add(bound, count);
        }
        assert_eq!(added, expected);
        assert_eq!(difference(&[(1_000, 9)], &[(1_000, 3)]).count(), 3);
    }
}
