//! How much of a priority's load each locality gets: Envoy's arithmetic for weighted localities and
//! for zone-aware routing.

use super::{float, floor};

/// Endpoints of a locality.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// All of them.
    pub(crate) hosts: u64,
    /// Those that may be called.
    pub(crate) eligible: u64,
}

/// Thousandths of `weight` that a locality gets: in full until less than `100 / overprovisioning` of
/// its endpoints may be called.
pub(crate) fn effective(weight: u32, members: Members, overprovisioning: u32) -> u64 {
    if members.hosts == 0 {
        return 0;
    }
    let available = float(members.eligible) / float(members.hosts);
    let health = (available * f64::from(overprovisioning) / 100.0).min(1.0);
    floor(f64::from(weight) * health * 1000.0)
}

/// Where callers of one locality send their requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Zones {
    /// Localities do not count.
    Alike,
    /// All stay at home.
    Home,
    /// By locality, home first: shares of 10,000.
    Split(Vec<u64>),
}

/// Envoy's zone-aware routing. `local` and `upstream` are the callers' and the endpoints' numbers by
/// locality, in the same order, that of the caller first.
pub(crate) fn zones(local: &[u64], upstream: &[u64], min_cluster_size: u64) -> Zones {
    let percentage = |of: &[u64]| -> Vec<u64> {
        let total: u64 = of.iter().sum();
        of.iter()
            .map(|part| part.saturating_mul(10_000).checked_div(total).unwrap_or(0))
            .collect()
    };
    let total: u64 = upstream.iter().sum();
    if total < min_cluster_size || local.iter().sum::<u64>() == 0 {
        return Zones::Alike;
    }
    if upstream.first().is_none_or(|here| *here == 0) {
        return Zones::Alike;
    }
    let (local, upstream) = (percentage(local), percentage(upstream));
    let (Some(mine), Some(theirs)) = (local.first(), upstream.first()) else {
        return Zones::Alike;
    };
    if theirs >= mine {
        return Zones::Home;
    }
    let home = theirs
        .saturating_mul(10_000)
        .checked_div(*mine)
        .unwrap_or(10_000);
    // What others have left beyond their own callers' share.
    let residual: Vec<u64> = upstream
        .iter()
        .zip(&local)
        .skip(1)
        .map(|(upstream, local)| upstream.saturating_sub(*local))
        .collect();
    let sum: u64 = residual.iter().sum();
    let away = 10_000 - home.min(10_000);
    let mut split = vec![home];
    if sum == 0 {
        // Rounding ate what is left: everybody else alike.
        let others = u64::try_from(upstream.len().saturating_sub(1)).unwrap_or(1);
        split.extend(
            residual
                .iter()
                .map(|_| away.checked_div(others).unwrap_or(0)),
        );
    } else {
        split.extend(
            residual
                .iter()
                .map(|part| away.saturating_mul(*part).checked_div(sum).unwrap_or(0)),
        );
    }
    Zones::Split(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_keeps_its_weight_until_too_many_are_ill() {
        let of = |eligible, hosts| effective(10, Members { hosts, eligible }, 140);
        assert_eq!(of(100, 100), 10_000);
        assert_eq!(of(72, 100), 10_000);
        assert_eq!(of(50, 100), 7_000);
        assert_eq!((of(0, 100), of(0, 0)), (0, 0));
    }

    /// The cases of Envoy's documentation ("Zone aware routing").
    #[test]
    fn calls_stay_at_home_as_far_as_its_share_goes() {
        // At least as large a share upstream as here.
        assert_eq!(zones(&[2, 2], &[5, 5], 6), Zones::Home);
        // Half of the callers, a quarter of the endpoints: half stays.
        assert_eq!(zones(&[2, 2], &[2, 6], 6), Zones::Split(vec![5_000, 5_000]));
        // The rest goes where endpoints are left over: twice as many in the second.
        assert_eq!(
            zones(&[4, 4, 2], &[2, 10, 8], 6),
            Zones::Split(vec![2_500, 2_500, 5_000])
        );
        // Too few to care, or none at home.
        assert_eq!(zones(&[2, 2], &[2, 2], 6), Zones::Alike);
        assert_eq!(zones(&[2, 2], &[0, 8], 6), Zones::Alike);
    }
}
