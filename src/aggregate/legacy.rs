//! Reads numbers as they were written down at first: slots of 5 s and of a minute, and counters of proxies, as JSON.
//! Once only, as they are written anew at once.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::cell::Cell;
use super::edge::{Class, Edge};
use super::ingest::{Ingest, Process};
use super::series::Series;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Labels {
    by_source: bool,
    source: String,
    service: String,
    version: String,
    route: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OldCell {
    requests: u64,
    failures: u64,
    mtls: u64,
    retries: u64,
    timeouts: u64,
    overflows: u64,
    latency: BTreeMap<u64, u64>,
    tcp_opened: u64,
    tcp_mtls: u64,
    tcp_to: u64,
    tcp_from: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OldCursors {
    nodes: BTreeMap<String, OldCursor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OldCursor {
    seen_unix_ms: u64,
    counters: BTreeMap<String, u64>,
    histograms: BTreeMap<String, Vec<(u64, u64)>>,
}

/// Puts the counters of proxies back into `ingest`, so that those go on where they were.
pub fn read_cursors(bytes: &[u8], ingest: &mut Ingest) -> Option<()> {
    let old: OldCursors = serde_json::from_slice(bytes).ok()?;
    for (node, cursor) in old.nodes {
        let process = Process {
            node,
            started_unix_ms: 0,
        };
        let totals = cursor
            .counters
            .into_iter()
            .map(|(key, count)| (key, Err(count)));
        let buckets = cursor
            .histograms
            .into_iter()
            .map(|(key, all)| (key, Ok(all)));
        ingest.restore_old(process, cursor.seen_unix_ms, totals.chain(buckets));
    }
    Some(())
}

/// Adds a slot to `series`, under the key that it had in the store. Nothing is added when it is something else.
/// Classes of answers were not told apart, so those that failed are of `5xx` and the others of `2xx`.
pub fn read(key: &[u8], bytes: &[u8], series: &mut Series) -> Option<()> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix("slot/")?;
    let (level, number) = rest.split_once('/')?;
    let number = u64::from_str_radix(number, 16).ok()?;
    let at = match level {
        "5s" => number.checked_mul(5_000)?,
        "1m" => number.checked_mul(60_000)?,
        _ => return None,
    };
    let cells: Vec<(Labels, OldCell)> = serde_json::from_slice(bytes).ok()?;
    for (labels, old) in cells {
        let class = Class::of(if old.requests > 0 && old.failures >= old.requests {
            500
        } else {
            200
        });
        let edge = Edge {
            by_source: labels.by_source,
            source: labels.source,
            service: labels.service,
            version: labels.version,
            route: labels.route,
            class,
        };
        let mut cell = Cell {
            requests: old.requests,
            failures: old.failures,
            mtls: old.mtls,
            retries: old.retries,
            timeouts: old.timeouts,
            overflows: old.overflows,
            tcp_opened: old.tcp_opened,
            tcp_mtls: old.tcp_mtls,
            tcp_to: old.tcp_to,
            tcp_from: old.tcp_from,
            ..Cell::default()
        };
        for (bound, count) in old.latency {
            cell.latency.add(bound, count);
        }
        series.cell(at, edge).merge(&cell);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Sample, Value};
    use super::*;

    #[test]
    fn old_slots_and_counters_go_on() {
        let (mut series, mut ingest) = (Series::default(), Ingest::default());
        let slot = r#"[[{"bySource":true,"service":"a.b","version":"v1"},{"requests":7,"latency":{"5000":7}}]]"#;
        assert_eq!(
            read(b"slot/5s/0000000000000002", slot.as_bytes(), &mut series),
            Some(())
        );
        assert_eq!(
            read(b"slot/1m/0000000000000002", slot.as_bytes(), &mut series),
            Some(())
        );
        assert_eq!(read(b"slot/1m/0000000000000003", b"{", &mut series), None);
        let old = "{\"nodes\":{\"n\":{\"seen_unix_ms\":5,\"counters\":{\"istio_requests_total\\u0001destination_service_name=a\\u0001reporter=source\":40},\"histograms\":{}}}}";
        assert_eq!(read_cursors(old.as_bytes(), &mut ingest), Some(()));
        let sample = Sample {
            name: "istio_requests_total",
            labels: vec![("destination_service_name", "a"), ("reporter", "source")],
            value: Value::Counter(42),
        };
        let process = Process {
            node: "n".to_owned(),
            started_unix_ms: 0,
        };
        ingest.push((&process, false), true, &[sample], 130_000, &mut series);
        let mut counted = Vec::new();
        series.each(0, u64::MAX, |span, _, cell| {
            counted.push((span.from, cell.requests));
        });
        assert_eq!(counted, [(10_000, 7), (120_000, 7), (130_000, 2)]);
    }
}
