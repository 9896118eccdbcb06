//! What ejections and checks have come to, by Envoy's names.

use std::sync::Arc;

use crate::rt::{self, Reader};
use crate::telemetry::ejected::{CLUSTER, ENDPOINT, REASON};
use crate::telemetry::names::{EJECTED_SINCE, EJECTED_UNTIL, Kind as Shape, Metric};
use crate::telemetry::{Family, Sample, Value};

use super::super::balance::outlier::Kind;
use super::super::context::Shared;
use super::super::tables::{ClusterTable, Tables};
use super::flags::Why;

/// One metric of clusters, and how it is read.
struct Read {
    metric: Metric,
    read: fn(&ClusterTable) -> Option<u64>,
}

const fn counter(
    name: &'static str,
    help: &'static str,
    read: fn(&ClusterTable) -> Option<u64>,
) -> Read {
    let kind = Shape::Counter;
    Read {
        metric: Metric { name, help, kind },
        read,
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    read: fn(&ClusterTable) -> Option<u64>,
) -> Read {
    let kind = Shape::Gauge;
    Read {
        metric: Metric { name, help, kind },
        read,
    }
}

fn outlier(cluster: &ClusterTable, kind: Kind) -> Option<(u64, u64)> {
    let stats = &cluster.outlier.as_ref()?.stats;
    stats
        .kinds()
        .find(|(other, ..)| *other == kind)
        .map(|(_, detected, enforced)| (detected, enforced))
}

/// Two counters of a kind of ejection.
macro_rules! ejections {
    ($kind:ident, $name:literal) => {
        [
            counter(
                concat!("envoy_cluster_outlier_detection_ejections_detected_", $name),
                "Outliers found, ejected or not.",
                |cluster| outlier(cluster, Kind::$kind).map(|(detected, _)| detected),
            ),
            counter(
                concat!("envoy_cluster_outlier_detection_ejections_enforced_", $name),
                "Outliers ejected.",
                |cluster| outlier(cluster, Kind::$kind).map(|(_, enforced)| enforced),
            ),
        ]
    };
}

const EJECTIONS: [[Read; 2]; 8] = [
    ejections!(Consecutive5xx, "consecutive_5xx"),
    ejections!(ConsecutiveGatewayFailure, "consecutive_gateway_failure"),
    ejections!(
        ConsecutiveLocalOriginFailure,
        "consecutive_local_origin_failure"
    ),
    ejections!(SuccessRate, "success_rate"),
    ejections!(LocalOriginSuccessRate, "local_origin_success_rate"),
    ejections!(FailurePercentage, "failure_percentage"),
    ejections!(
        LocalOriginFailurePercentage,
        "local_origin_failure_percentage"
    ),
    ejections!(ResponseTime, "response_time"),
];

fn checks(cluster: &ClusterTable) -> Option<super::check::CheckCounts> {
    Some(cluster.checks.as_ref()?.counts())
}

const OTHERS: [Read; 8] = [
    counter(
        "envoy_cluster_health_check_attempt",
        "Health checks begun.",
        |cluster| Some(checks(cluster)?.attempt),
    ),
    counter(
        "envoy_cluster_health_check_success",
        "Health checks passed.",
        |cluster| Some(checks(cluster)?.success),
    ),
    counter(
        "envoy_cluster_health_check_failure",
        "Health checks failed, for whatever reason.",
        |cluster| Some(checks(cluster)?.failure),
    ),
    counter(
        "envoy_cluster_health_check_network_failure",
        "Health checks that were not answered.",
        |cluster| Some(checks(cluster)?.network_failure),
    ),
    gauge(
        "envoy_cluster_health_check_healthy",
        "Endpoints that pass their health checks.",
        |cluster| {
            cluster.checks.as_ref()?;
            let well = cluster.endpoints.entries.iter().filter(|entry| {
                let health = &entry.state.health;
                health.holds(Why::Watched) && !health.holds(Why::FailedCheck)
            });
            u64::try_from(well.count()).ok()
        },
    ),
    counter(
        "envoy_cluster_outlier_detection_ejections_enforced_total",
        "Outliers ejected, for whatever reason.",
        |cluster| {
            let stats = &cluster.outlier.as_ref()?.stats;
            Some(stats.kinds().map(|(.., enforced)| enforced).sum())
        },
    ),
    gauge(
        "envoy_cluster_outlier_detection_ejections_active",
        "Endpoints that are ejected now.",
        |cluster| Some(u64::from(cluster.outlier.as_ref()?.stats.active())),
    ),
    counter(
        "envoy_cluster_outlier_detection_ejections_overflow",
        "Outliers not ejected because enough were.",
        |cluster| Some(cluster.outlier.as_ref()?.stats.overflow()),
    ),
];

/// The families of clusters that have something to tell.
pub(crate) fn families(tables: &Tables) -> Vec<Family> {
    EJECTIONS
        .iter()
        .flatten()
        .chain(&OTHERS)
        .filter_map(|metric| {
            let samples: Vec<Sample> = tables
                .clusters
                .iter()
                .filter_map(|cluster| {
                    let value = (metric.read)(cluster)?;
                    Some(Sample {
                        labels: vec![(CLUSTER, cluster.config.name.clone())],
                        value: match metric.metric.kind {
                            Shape::Counter => Value::Counter(value),
                            Shape::Gauge | Shape::Histogram => Value::Gauge(value),
                        },
                    })
                })
                .collect();
            (!samples.is_empty()).then_some(Family {
                metric: metric.metric,
                samples,
            })
        })
        .collect()
}

/// Most ejected endpoints that are told of one by one.
const MOST_EJECTED: usize = 256;

/// The endpoints that are ejected now: since when, and until when.
pub(crate) fn ejected(tables: &Tables, shared: &Shared) -> Vec<Family> {
    let (now, wall) = (shared.millis(rt::now()), shared.wall.millis());
    // To the second: nobody looks closer, and seconds are what such metrics are in.
    let at = |millis: u64| wall.saturating_add(millis).saturating_sub(now) / 1_000;
    let (mut since, mut until) = (Vec::new(), Vec::new());
    let out = tables
        .clusters
        .iter()
        .filter(|cluster| {
            cluster
                .outlier
                .as_ref()
                .is_some_and(|of| of.stats.active() > 0)
        })
        .flat_map(|cluster| {
            cluster
                .endpoints
                .entries
                .iter()
                .map(move |entry| (cluster, entry))
        })
        .filter(|(_, entry)| entry.state.health.holds(Why::Outlier))
        .filter_map(|(cluster, entry)| Some((cluster, entry, entry.state.monitor()?.ejection()?)));
    for (cluster, entry, ejection) in out.take(MOST_EJECTED) {
        let labels = vec![
            (CLUSTER, cluster.config.name.clone()),
            (ENDPOINT, entry.address.to_string()),
            (REASON, ejection.kind.name().to_owned()),
        ];
        for (samples, millis) in [(&mut since, ejection.since), (&mut until, ejection.until)] {
            samples.push(Sample {
                labels: labels.clone(),
                value: Value::Gauge(at(millis)),
            });
        }
    }
    [(EJECTED_SINCE, since), (EJECTED_UNTIL, until)]
        .into_iter()
        .filter(|(_, samples)| !samples.is_empty())
        .map(|(metric, samples)| Family { metric, samples })
        .collect()
}

/// Has the control plane told of them with the numbers.
pub(crate) fn tell(shared: &Arc<Shared>, tables: Reader<Tables>) {
    // The registry is a part of what is shared, which would keep itself.
    let of = Arc::downgrade(shared);
    shared.registry.also(move || {
        let shared = of.upgrade();
        shared.map_or_else(Vec::new, |shared| ejected(&tables.load(), &shared))
    });
}
