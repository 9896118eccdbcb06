//! Counters and gauges of clusters and filters, by Envoy's names, for whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::jwt::Status;
use crate::mesh::route::Priority;
use crate::telemetry::names::{Kind, Metric};
use crate::telemetry::{Family, Sample, Value};

use super::ext_authz::Provider;
use super::filter::fault::Fault;
use super::filter::rate_limit::RateLimit;
use super::filter::{Adaptive, Filter};
use super::jwt::Jwt;
use super::rbac::Guard;
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

/// Counters and gauges of filters.
pub(crate) fn filters<'f>(filters: impl Iterator<Item = &'f Filter>) -> Vec<Family> {
    let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
    let mut seen: BTreeSet<usize> = BTreeSet::new();
    for filter in filters {
        // The same filter stands in several places where routes share it.
        let (address, rows) = match filter {
            // Only a place of those of routes.
            Filter::LocalRateLimit(limit) if !limit.acts() => continue,
            Filter::LocalRateLimit(limit) => (Arc::as_ptr(limit).addr(), rate_limit(limit)),
            Filter::AdaptiveConcurrency(adaptive) => {
                (Arc::as_ptr(adaptive).addr(), concurrency(adaptive))
            }
            Filter::Rbac(guard) => (Arc::as_ptr(guard).addr(), rbac(guard)),
            Filter::JwtAuthn(tokens) => (Arc::as_ptr(&tokens.stats).addr(), jwt(tokens)),
            Filter::ExtAuthz(asked) => (Arc::as_ptr(asked).addr(), asks(asked)),
            Filter::Cors(_) | Filter::Compressor(_) | Filter::GrpcWeb => continue,
            Filter::Fault(fault) => (Arc::as_ptr(fault).addr(), faults(fault)),
        };
        if !seen.insert(address) {
            continue;
        }
        for (name, help, value, label) in rows {
            let kind = match value {
                Value::Gauge(_) => Kind::Gauge,
                _ => Kind::Counter,
            };
            let family = families.entry(name).or_insert_with(|| Family {
                metric: Metric { name, help, kind },
                samples: Vec::new(),
            });
            let labels: Vec<_> = label.into_iter().collect();
            // Two filters of one name are one to whoever reads it.
            match family.samples.iter_mut().find(|s| s.labels == labels) {
                Some(sample) => add(&mut sample.value, &value),
                None => family.samples.push(Sample { labels, value }),
            }
        }
    }
    families.into_values().collect()
}

fn add(to: &mut Value, more: &Value) {
    if let (Value::Counter(to), Value::Counter(more)) | (Value::Gauge(to), Value::Gauge(more)) =
        (to, more)
    {
        *to += more;
    }
}

/// The same of what judges connections of bytes.
pub(crate) fn guards<'f>(filters: impl Iterator<Item = &'f Filter>) -> Vec<Family> {
    let mut families = self::filters(filters);
    for family in &mut families {
        if let Some((_, name)) = OF_BYTES.iter().find(|(own, _)| *own == family.metric.name) {
            family.metric.name = name;
        }
    }
    families
}

/// Names for requests, and Envoy's for bytes.
const OF_BYTES: [(&str, &str); 12] = [
    ("envoy_http_ext_authz_invalid", "envoy_ext_authz_invalid"),
    ("envoy_http_rbac_allowed", "envoy_tcp_rbac_allowed"),
    ("envoy_http_rbac_denied", "envoy_tcp_rbac_denied"),
    (
        "envoy_http_rbac_shadow_allowed",
        "envoy_tcp_rbac_shadow_allowed",
    ),
    (
        "envoy_http_rbac_shadow_denied",
        "envoy_tcp_rbac_shadow_denied",
    ),
    (
        "envoy_http_rbac_policy_matched",
        "envoy_tcp_rbac_policy_matched",
    ),
    (
        "envoy_http_rbac_policy_shadow_matched",
        "envoy_tcp_rbac_policy_shadow_matched",
    ),
    ("envoy_http_ext_authz_ok", "envoy_ext_authz_ok"),
    ("envoy_http_ext_authz_denied", "envoy_ext_authz_denied"),
    ("envoy_http_ext_authz_error", "envoy_ext_authz_error"),
    (
        "envoy_http_ext_authz_failure_mode_allowed",
        "envoy_ext_authz_failure_mode_allowed",
    ),
    ("envoy_http_ext_authz_disabled", "envoy_ext_authz_disabled"),
];

type Row = (
    &'static str,
    &'static str,
    Value,
    Option<(&'static str, String)>,
);

fn jwt(tokens: &Jwt) -> Vec<Row> {
    let stats = &tokens.stats;
    let read = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let denied = Status::ALL.iter().zip(&stats.denied);
    let denied: Vec<(Status, u64)> = denied
        .map(|(status, count)| (*status, read(count)))
        .collect();
    let mut rows: Vec<Row> = [
        (
            "envoy_http_jwt_authn_allowed",
            "Requests that passed.",
            read(&stats.allowed),
        ),
        (
            "envoy_http_jwt_authn_denied",
            "Requests that were refused.",
            denied.iter().map(|(_, count)| count).sum(),
        ),
        (
            "envoy_http_jwt_authn_cors_preflight_bypassed",
            "Requests of browsers before others.",
            read(&stats.bypassed),
        ),
        (
            "envoy_http_jwt_authn_jwt_cache_hit",
            "Tokens whose signature was known to be good.",
            read(&stats.hits),
        ),
        (
            "envoy_http_jwt_authn_jwt_cache_miss",
            "Tokens whose signature was looked at.",
            read(&stats.misses),
        ),
    ]
    .into_iter()
    .map(|(name, help, count)| (name, help, Value::Counter(count), None))
    .collect();
    // Envoy does not tell them apart.
    rows.extend(
        denied
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(status, count)| -> Row {
                (
                    "meshctl_jwt_denied_total",
                    "Requests that were refused for their token, by reason.",
                    Value::Counter(count),
                    Some(("reason", status.to_string())),
                )
            }),
    );
    rows
}

fn rbac(guard: &Guard) -> Vec<Row> {
    let stats = &guard.stats;
    let (action, shadow) = guard.actions();
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |name, help, counter: &AtomicU64| {
        let value = Value::Counter(counter.load(Ordering::Relaxed));
        rows.push((name, help, value, None));
    };
    if action.is_some() {
        let (allowed, denied) = ("Calls that passed.", "Calls that were refused.");
        add("envoy_http_rbac_allowed", allowed, &stats.allowed);
        add("envoy_http_rbac_denied", denied, &stats.denied);
    }
    if shadow.is_some() {
        let name = "envoy_http_rbac_shadow_allowed";
        add(
            name,
            "Calls that a dry run lets pass.",
            &stats.shadow_allowed,
        );
        let name = "envoy_http_rbac_shadow_denied";
        add(name, "Calls that a dry run refuses.", &stats.shadow_denied);
    }
    let (held, shadow) = (guard.held(), guard.held_in_shadow());
    let mut policies = |name, help, all: Vec<(&str, u64)>| {
        for (policy, count) in all {
            let label = ("envoy_rbac_policy", policy.to_owned());
            rows.push((name, help, Value::Counter(count), Some(label)));
        }
    };
    let name = "envoy_http_rbac_policy_matched";
    policies(name, "Calls that a policy held for.", held);
    let name = "envoy_http_rbac_policy_shadow_matched";
    policies(name, "Calls that a policy of a dry run held for.", shadow);
    rows
}

fn asks(provider: &Provider) -> Vec<Row> {
    let stats = &provider.stats;
    let prefix = &provider.config.stat_prefix;
    let label = (!prefix.is_empty()).then(|| ("envoy_ext_authz_prefix", prefix.clone()));
    [
        (
            "envoy_http_ext_authz_ok",
            "Requests that whoever was asked lets pass.",
            &stats.ok,
        ),
        (
            "envoy_http_ext_authz_denied",
            "Requests that whoever was asked refuses.",
            &stats.denied,
        ),
        (
            "envoy_http_ext_authz_error",
            "Requests about which there was no answer.",
            &stats.error,
        ),
        (
            "envoy_http_ext_authz_failure_mode_allowed",
            "Requests that passed although there was no answer.",
            &stats.failure_mode_allowed,
        ),
        (
            "envoy_http_ext_authz_invalid",
            "Answers that cannot be honoured.",
            &stats.invalid,
        ),
        (
            "envoy_http_ext_authz_disabled",
            "Requests about which nobody is asked.",
            &stats.disabled,
        ),
    ]
    .into_iter()
    .map(|(name, help, counter)| {
        let value = Value::Counter(counter.load(Ordering::Relaxed));
        (name, help, value, label.clone())
    })
    .collect()
}

fn rate_limit(limit: &RateLimit) -> Vec<Row> {
    let label = (
        "envoy_local_http_ratelimit_prefix",
        limit.config.stat_prefix.clone(),
    );
    let stats = &limit.stats;
    [
        (
            "envoy_http_local_rate_limit_enabled",
            "Requests that were looked at.",
            &stats.enabled,
        ),
        (
            "envoy_http_local_rate_limit_enforced",
            "Requests that were refused.",
            &stats.enforced,
        ),
        (
            "envoy_http_local_rate_limit_rate_limited",
            "Requests without a token.",
            &stats.rate_limited,
        ),
        (
            "envoy_http_local_rate_limit_ok",
            "Requests with a token.",
            &stats.ok,
        ),
    ]
    .into_iter()
    .map(|(name, help, counter)| {
        let value = Value::Counter(counter.load(Ordering::Relaxed));
        (name, help, value, Some(label.clone()))
    })
    .collect()
}

fn faults(fault: &Fault) -> Vec<Row> {
    let counter = |of: &AtomicU64| Value::Counter(of.load(Ordering::Relaxed));
    vec![
        (
            "envoy_http_fault_delays_injected",
            "Requests that were held back on purpose.",
            counter(&fault.delays),
            None,
        ),
        (
            "envoy_http_fault_aborts_injected",
            "Requests that were answered with an error on purpose.",
            counter(&fault.aborts),
            None,
        ),
    ]
}

fn concurrency(adaptive: &Adaptive) -> Vec<Row> {
    let gradient = &adaptive.gradient;
    vec![
        (
            "envoy_http_adaptive_concurrency_gradient_controller_concurrency_limit",
            "Requests that may pass at once.",
            Value::Gauge(u64::from(gradient.limit())),
            None,
        ),
        (
            "envoy_http_adaptive_concurrency_gradient_controller_rq_active",
            "Requests that have passed and not ended.",
            Value::Gauge(u64::from(gradient.active())),
            None,
        ),
        (
            "envoy_http_adaptive_concurrency_gradient_controller_rq_blocked",
            "Requests that were refused.",
            Value::Counter(gradient.refused.load(Ordering::Relaxed)),
            None,
        ),
    ]
}
