//! Choosing one endpoint of a cluster.
//!
//! Endpoints that are out (unhealthy, draining, ejected, tried before) are passed over by drawing
//! again, which keeps the shares of the others. There is no panic mode: when nothing is left, the
//! request fails (Istio's threshold of 0).

pub(crate) mod outlier;
pub(crate) mod smooth;

use std::sync::atomic::Ordering;

use crate::mesh::cluster::LoadBalancer;

use super::tables::{EndpointEntry, EndpointSet};

/// Draws an endpoint that `refused` does not name.
pub(crate) fn pick<'s>(
    set: &'s EndpointSet,
    balancer: LoadBalancer,
    refused: &[u64],
) -> Option<&'s EndpointEntry> {
    let usable =
        |entry: &EndpointEntry| !refused.contains(&entry.state.id) && !entry.state.health.is_out();
    if let [only] = set.usable.as_slice() {
        return set.entries.get(*only).filter(|entry| usable(entry));
    }
    match balancer {
        LoadBalancer::RoundRobin => round_robin(set, usable),
        LoadBalancer::LeastRequest => {
            let first = weighted(set, &usable)?;
            let second = weighted(set, &usable)?;
            Some(lighter(first, second))
        }
        LoadBalancer::Random => weighted(set, &usable),
    }
}

fn round_robin(
    set: &EndpointSet,
    usable: impl Fn(&EndpointEntry) -> bool,
) -> Option<&EndpointEntry> {
    (0..set.smooth.len().max(1)).find_map(|_| {
        let entry = set.entries.get(*set.usable.get(set.smooth.next()?)?)?;
        usable(entry).then_some(entry)
    })
}

/// By weight, at random; the next ones in order when the drawn one is out.
fn weighted<'s>(
    set: &'s EndpointSet,
    usable: &impl Fn(&EndpointEntry) -> bool,
) -> Option<&'s EndpointEntry> {
    let total = *set.cumulative.last()?;
    let drawn = fastrand::u64(0..total.max(1));
    let at = set.cumulative.partition_point(|sum| *sum <= drawn);
    let (before, after) = set.usable.split_at_checked(at)?;
    after
        .iter()
        .chain(before)
        .filter_map(|index| set.entries.get(*index))
        .find(|entry| usable(entry))
}

fn lighter<'s>(first: &'s EndpointEntry, second: &'s EndpointEntry) -> &'s EndpointEntry {
    let load = |entry: &EndpointEntry, other: &EndpointEntry| {
        u64::from(entry.state.active.load(Ordering::Relaxed))
            .saturating_mul(u64::from(other.endpoint.weight))
    };
    if load(second, first) < load(first, second) {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::testing::endpoints;
    use super::*;

    #[test]
    fn round_robin_is_exact_in_a_round_and_fair_without_the_refused() {
        let set = endpoints(&[1, 1, 2]);
        let mut counts = [0; 3];
        for _ in 0..400 {
            let entry = pick(&set, LoadBalancer::RoundRobin, &[]).unwrap();
            counts[usize::from(entry.endpoint.address.port())] += 1;
        }
        assert_eq!(counts, [100, 100, 200]);
        let refused = [set.entries[2].state.id];
        let mut counts = [0; 3];
        for _ in 0..400 {
            let entry = pick(&set, LoadBalancer::RoundRobin, &refused).unwrap();
            counts[usize::from(entry.endpoint.address.port())] += 1;
        }
        assert_eq!(counts, [200, 200, 0]);
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let set = endpoints(&[1, 1]);
        set.entries[0].state.active.store(10, Ordering::Relaxed);
        let idle = (0..1000)
            .filter(|_| {
                pick(&set, LoadBalancer::LeastRequest, &[])
                    .unwrap()
                    .endpoint
                    .address
                    .port()
                    == 1
            })
            .count();
        assert!((650..850).contains(&idle), "{idle}");
    }

    #[test]
    fn nothing_left_is_nothing() {
        let set = endpoints(&[1, 1]);
        let all = [set.entries[0].state.id, set.entries[1].state.id];
        for balancer in [
            LoadBalancer::RoundRobin,
            LoadBalancer::LeastRequest,
            LoadBalancer::Random,
        ] {
            assert!(pick(&set, balancer, &all).is_none());
            assert!(pick(&endpoints(&[]), balancer, &[]).is_none());
        }
    }
}
