//! Counters and gauges of clusters, by Envoy's names, for whoever asks.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::mesh::route::Priority;
use crate::telemetry::names::{Kind, Metric};
use crate::telemetry::{Family, Sample, Value};

use super::tables::{ClusterTable, Tables};

/// What the circuit breakers of a priority are called.
struct Names {
    open: [&'static str; 4],
    remaining: [&'static str; 4],
}

const USUAL: Names = Names {
    open: [
        "envoy_cluster_circuit_breakers_default_cx_open",
        "envoy_cluster_circuit_breakers_default_rq_pending_open",
        "envoy_cluster_circuit_breakers_default_rq_open",
        "envoy_cluster_circuit_breakers_default_rq_retry_open",
    ],
    remaining: [
        "envoy_cluster_circuit_breakers_default_remaining_cx",
        "envoy_cluster_circuit_breakers_default_remaining_pending",
        "envoy_cluster_circuit_breakers_default_remaining_rq",
        "envoy_cluster_circuit_breakers_default_remaining_retries",
    ],
};
const HIGH: Names = Names {
    open: [
        "envoy_cluster_circuit_breakers_high_cx_open",
        "envoy_cluster_circuit_breakers_high_rq_pending_open",
        "envoy_cluster_circuit_breakers_high_rq_open",
        "envoy_cluster_circuit_breakers_high_rq_retry_open",
    ],
    remaining: [
        "envoy_cluster_circuit_breakers_high_remaining_cx",
        "envoy_cluster_circuit_breakers_high_remaining_pending",
        "envoy_cluster_circuit_breakers_high_remaining_rq",
        "envoy_cluster_circuit_breakers_high_remaining_retries",
    ],
};

/// By name; what was never counted and what has no limit is left out.
pub(crate) fn clusters(tables: &Tables) -> Vec<Family> {
    let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
    for cluster in &tables.clusters {
        let mut add = |name, help, kind, value| {
            families
                .entry(name)
                .or_insert_with(|| Family {
                    metric: Metric { name, help, kind },
                    samples: Vec::new(),
                })
                .samples
                .push(Sample {
                    labels: vec![("envoy_cluster_name", cluster.config.name.clone())],
                    value,
                });
        };
        cluster.counters.stats.each(|name, help, value| {
            if value > 0 {
                add(name, help, Kind::Counter, Value::Counter(value));
            }
        });
        for (priority, names) in [(Priority::Default, USUAL), (Priority::High, HIGH)] {
            breakers(cluster, priority, &names, &mut add);
        }
    }
    families.into_values().collect()
}

fn breakers(
    cluster: &ClusterTable,
    priority: Priority,
    names: &Names,
    add: &mut impl FnMut(&'static str, &'static str, Kind, Value),
) {
    if priority == Priority::High && cluster.config.limits.high.is_none() {
        return;
    }
    let limits = cluster.gate(priority).limits;
    let counts = cluster.counters.at(priority);
    let pairs = [
        (limits.max_connections, &counts.connections),
        (limits.max_pending_requests, &counts.pending),
        (limits.max_requests, &counts.requests),
        (limits.max_retries, &counts.retries),
    ];
    let track = cluster.config.limits.track_remaining;
    for ((limit, count), (open, remaining)) in pairs
        .into_iter()
        .zip(names.open.iter().zip(names.remaining))
    {
        if limit == u32::MAX {
            continue;
        }
        let left = limit.saturating_sub(count.load(Ordering::Relaxed));
        let is_open = Value::Gauge(u64::from(left == 0));
        add(open, "Whether the limit is reached.", Kind::Gauge, is_open);
        if track {
            let left = Value::Gauge(u64::from(left));
            add(remaining, "What is left of the limit.", Kind::Gauge, left);
        }
    }
}
