//! Circuit breakers.

use super::super::pb::{UInt32Value, cluster, core};
use super::Fault;
use super::fields::Fields;
use super::filter::milli;
use crate::mesh::cluster::{Limits, RetryBudget, Thresholds};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&THRESHOLDS, &PER_HOST, &BUDGET];

const THRESHOLDS: Fields = Fields {
    message: "CircuitBreakers.Thresholds",
    understood: &[
        (1, "priority"),
        (2, "max_connections"),
        (3, "max_pending_requests"),
        (4, "max_requests"),
        (5, "max_retries"),
        (6, "track_remaining"),
        (8, "retry_budget"),
    ],
    tuning: &[(7, "max_connection_pools")],
    refused: &[],
};
/// Envoy looks at nothing else there either.
const PER_HOST: Fields = Fields {
    message: "CircuitBreakers.per_host_thresholds",
    understood: &[(1, "priority"), (2, "max_connections")],
    tuning: &[
        (3, "max_pending_requests"),
        (4, "max_requests"),
        (5, "max_retries"),
        (6, "track_remaining"),
        (7, "max_connection_pools"),
        (8, "retry_budget"),
    ],
    refused: &[],
};
const BUDGET: Fields = Fields {
    message: "CircuitBreakers.Thresholds.RetryBudget",
    understood: &[(1, "budget_percent"), (2, "min_retry_concurrency")],
    tuning: &[(3, "budget_interval")],
    refused: &[],
};

pub(super) fn limits(
    from: &cluster::Cluster,
    max_requests_per_connection: u32,
    ignored: &mut Vec<String>,
) -> Result<Limits, Fault> {
    let breakers = from.circuit_breakers.as_ref();
    let of = |priority: core::RoutingPriority| {
        breakers
            .into_iter()
            .flat_map(|breakers| &breakers.thresholds)
            .find(|thresholds| thresholds.priority == i32::from(priority))
    };
    let usual = of(core::RoutingPriority::Default);
    let high = of(core::RoutingPriority::High);
    let track_remaining = usual.is_some_and(|thresholds| thresholds.track_remaining)
        || high.is_some_and(|thresholds| thresholds.track_remaining);
    let Thresholds {
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
    } = match usual {
        Some(from) => thresholds(from, ignored)?,
        None => Thresholds::default(),
    };
    let mut most = u32::MAX;
    let per_host = breakers
        .into_iter()
        .flat_map(|breakers| &breakers.per_host_thresholds)
        .find(|one| one.priority == i32::from(core::RoutingPriority::Default));
    if let Some(per_host) = per_host {
        PER_HOST.audit(per_host, ignored)?;
        most = per_host.max_connections.map_or(most, |most| most.value);
    }
    Ok(Limits {
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        max_requests_per_connection,
        max_connections_per_endpoint: most,
        high: high.map(|from| thresholds(from, ignored)).transpose()?,
        track_remaining,
    })
}

fn thresholds(
    from: &cluster::circuit_breakers::Thresholds,
    ignored: &mut Vec<String>,
) -> Result<Thresholds, Fault> {
    THRESHOLDS.audit(from, ignored)?;
    let value = |value: Option<UInt32Value>, default| value.map_or(default, |value| value.value);
    let default = Thresholds::default();
    Ok(Thresholds {
        max_connections: value(from.max_connections, default.max_connections),
        max_pending_requests: value(from.max_pending_requests, default.max_pending_requests),
        max_requests: value(from.max_requests, default.max_requests),
        max_retries: value(from.max_retries, default.max_retries),
        retry_budget: from
            .retry_budget
            .as_ref()
            .map(|budget| {
                BUDGET.audit(budget, ignored)?;
                let default = RetryBudget::default();
                Ok(RetryBudget {
                    percent_milli: milli(budget.budget_percent, default.percent_milli)?,
                    min_concurrency: value(budget.min_retry_concurrency, default.min_concurrency),
                })
            })
            .transpose()?,
    })
}
