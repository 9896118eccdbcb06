//! Endpoints that proxies have ejected, as each of them said last.

use std::collections::BTreeMap;

use envoy_types::pb::io::prometheus::client::{Gauge, MetricFamily};

use crate::telemetry::ejected::{CLUSTER, ENDPOINT, REASON};
use crate::telemetry::names::{EJECTED_SINCE, EJECTED_UNTIL};

use super::Process;

/// Who has said nothing for so long is gone, and what it did with it; proxies speak every second.
const SILENT_MS: u64 = 15_000;
/// Ejections of one proxy that are kept.
const MOST_OF_PROCESS: usize = 256;
/// Ejections of all of them.
const MOST: usize = 50_000;

/// One endpoint that one proxy leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// The port of the service.
    pub port: u16,
    /// The subset; empty for all of the service.
    pub subset: String,
    /// Host name of the service.
    pub host: String,
    /// `ADDRESS:PORT`.
    pub endpoint: String,
    /// Envoy's name for this kind of ejection.
    pub reason: String,
    /// When it began.
    pub since_unix_ms: u64,
    /// When it ends, unless a check that is passed ends it before.
    pub until_unix_ms: u64,
}

/// Those of all proxies. In memory only: they are told again within a second.
#[derive(Debug, Default)]
pub struct Ejections {
    processes: BTreeMap<Process, (u64, Vec<Ejection>)>,
}

impl Ejections {
    /// Takes what `process` says at `now`: all that it has ejected, so that what is missing is no longer.
    pub fn hear(&mut self, process: &Process, families: &[MetricFamily], now_unix_ms: u64) {
        let list = read(families);
        if list.is_empty() {
            self.processes.remove(process);
            return;
        }
        let silent = now_unix_ms.saturating_sub(SILENT_MS);
        self.processes.retain(|_, (heard, _)| *heard >= silent);
        let others = self.processes.iter().filter(|(other, _)| *other != process);
        let kept: usize = others.map(|(_, (_, list))| list.len()).sum();
        if kept + list.len() <= MOST {
            self.processes.insert(process.clone(), (now_unix_ms, list));
        }
    }

    /// What is ejected at `now`, and by whom.
    pub fn at(&self, now_unix_ms: u64) -> impl Iterator<Item = (&str, &Ejection)> {
        let silent = now_unix_ms.saturating_sub(SILENT_MS);
        self.processes
            .iter()
            .filter(move |(_, (heard, _))| *heard >= silent)
            .flat_map(|(process, (_, list))| list.iter().map(|one| (process.node.as_str(), one)))
    }
}

/// What a message says of ejections; what makes no sense is left out.
fn read(families: &[MetricFamily]) -> Vec<Ejection> {
    let mut found: BTreeMap<[&str; 3], (u64, u64)> = BTreeMap::new();
    for family in families {
        let is_since = match family.name() {
            name if name == EJECTED_SINCE.name => true,
            name if name == EJECTED_UNTIL.name => false,
            _ => continue,
        };
        for metric in family.metric.iter().take(MOST_OF_PROCESS) {
            let label = |name: &str| {
                let found = metric.label.iter().find(|pair| pair.name() == name);
                found.map_or("", |pair| pair.value())
            };
            let key = [label(CLUSTER), label(ENDPOINT), label(REASON)];
            let seconds = metric.gauge.as_ref().map_or(0.0, Gauge::value);
            let (since, until) = found.entry(key).or_default();
            *(if is_since { since } else { until }) = millis(seconds);
        }
    }
    let ejections = found.into_iter().filter_map(|(key, (since, until))| {
        let [cluster, endpoint, reason] = key;
        let (port, subset, host) = parts(cluster)?;
        // What strangers say is passed on to people, so it is short.
        let fits = endpoint.len() <= 64 && reason.len() <= 64 && cluster.len() <= 512;
        (fits && since > 0 && until > 0).then(|| Ejection {
            port,
            subset: subset.to_owned(),
            host: host.to_owned(),
            endpoint: endpoint.to_owned(),
            reason: reason.to_owned(),
            since_unix_ms: since,
            until_unix_ms: until,
        })
    });
    ejections.collect()
}

/// Port, subset and host of `outbound|PORT|SUBSET|HOST`.
fn parts(cluster: &str) -> Option<(u16, &str, &str)> {
    let mut parts = cluster.strip_prefix("outbound|")?.splitn(3, '|');
    let port = parts.next()?.parse().ok()?;
    Some((port, parts.next()?, parts.next()?))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "seconds since the epoch in a float; it saturates"
)]
fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1_000.0) as u64
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::io::prometheus::client as pb;

    use super::*;

    fn family(name: &str, cluster: &str, endpoint: &str, seconds: f64) -> MetricFamily {
        let label = |name: &str, value: &str| pb::LabelPair {
            name: Some(name.to_owned()),
            value: Some(value.to_owned()),
        };
        MetricFamily {
            name: Some(name.to_owned()),
            metric: vec![pb::Metric {
                label: vec![
                    label(CLUSTER, cluster),
                    label(ENDPOINT, endpoint),
                    label(REASON, "consecutive_5xx"),
                ],
                gauge: Some(pb::Gauge {
                    value: Some(seconds),
                }),
                ..pb::Metric::default()
            }],
            ..MetricFamily::default()
        }
    }

    fn said(cluster: &str) -> Vec<MetricFamily> {
        vec![
            family(EJECTED_SINCE.name, cluster, "10.0.0.7:9080", 100.0),
            family(EJECTED_UNTIL.name, cluster, "10.0.0.7:9080", 130.0),
        ]
    }

    fn process(node: &str) -> Process {
        Process {
            node: node.to_owned(),
            started_unix_ms: 1,
        }
    }

    const CLUSTER_OF: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";

    #[test]
    fn what_is_said_no_more_is_ejected_no_more() {
        let mut all = Ejections::default();
        all.hear(&process("a"), &said(CLUSTER_OF), 101_000);
        all.hear(&process("b"), &said(CLUSTER_OF), 101_000);
        let found: Vec<_> = all.at(101_000).collect();
        assert_eq!(found.len(), 2);
        let (node, one) = found[0];
        assert_eq!((node, one.port, one.subset.as_str()), ("a", 9080, "v1"));
        assert_eq!((one.since_unix_ms, one.until_unix_ms), (100_000, 130_000));
        all.hear(&process("a"), &[], 102_000);
        assert_eq!(all.at(102_000).count(), 1);
    }

    #[test]
    fn what_a_silent_proxy_said_counts_no_more() {
        let mut all = Ejections::default();
        all.hear(&process("a"), &said(CLUSTER_OF), 101_000);
        assert_eq!(all.at(101_000 + SILENT_MS).count(), 1);
        assert_eq!(all.at(101_001 + SILENT_MS).count(), 0);
        all.hear(&process("b"), &said(CLUSTER_OF), 200_000);
        assert_eq!(all.processes.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        for cluster in [
            "",
            "PassthroughCluster",
            "outbound|x|v1|h",
            "outbound|80|h",
            "inbound|80||",
        ] {
            assert_eq!(read(&said(cluster)), [], "{cluster}");
        }
        let endless = "outbound|80||".to_owned() + &"h".repeat(600);
        assert_eq!(read(&said(&endless)), []);
        assert_eq!(read(&said(CLUSTER_OF)[..1]), [], "without an end");
    }

    #[test]
    fn there_is_a_bound() {
        let mut all = Ejections::default();
        let mut many = said(CLUSTER_OF);
        for family in &mut many {
            let one = family.metric.remove(0);
            for at in 0..MOST_OF_PROCESS + 9 {
                let mut one = one.clone();
                one.label[1].value = Some(format!("10.0.0.7:{at}"));
                family.metric.push(one);
            }
        }
        for node in 0..300 {
            all.hear(&process(&format!("n{node}")), &many, 101_000);
        }
        let kept = all.at(101_000).count();
        assert!(kept <= MOST && kept > MOST - MOST_OF_PROCESS, "{kept}");
    }
}
