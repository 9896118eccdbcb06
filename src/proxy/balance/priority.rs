//! How much of a cluster's load each priority gets: Envoy's arithmetic, in its whole numbers.
//!
//! A priority counts as fully healthy until less than `100 / overprovisioning` of it are; what it
//! cannot take spills over to the next. Healthy endpoints of all priorities come before degraded
//! ones of any. Where the whole cluster is not fully healthy, priorities with fewer healthy endpoints
//! than the panic threshold send to all of theirs.

/// How many endpoints a priority has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// All of them.
    pub(crate) hosts: u64,
    /// Weights of all of them, or their number where weights do not count.
    pub(crate) total: u64,
    /// As `total`, of the healthy ones.
    pub(crate) healthy: u64,
    /// As `total`, of the degraded ones.
    pub(crate) degraded: u64,
    /// Healthy and degraded ones.
    pub(crate) available: u64,
}

/// What a priority gets, in percent of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// For its healthy endpoints; for all of its endpoints in panic.
    pub(crate) healthy: u32,
    /// For its degraded endpoints.
    pub(crate) degraded: u32,
    /// Health does not count.
    pub(crate) panic: bool,
}

/// Envoy's `overprovisioning_factor` and `healthy_panic_threshold`, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) overprovisioning: u32,
    pub(crate) panic_threshold: u32,
}

/// The load of each of `levels`. The sum is 100 unless there is no priority at all.
pub(crate) fn loads(levels: &[Level], rules: Rules) -> Vec<Load> {
    let share = |part: u64, level: &Level| {
        (u64::from(rules.overprovisioning).saturating_mul(part))
            .checked_div(level.total)
            .map_or(0, |share| u32::try_from(share.min(100)).unwrap_or(100))
    };
    let healthy: Vec<u32> = levels.iter().map(|l| share(l.healthy, l)).collect();
    let degraded: Vec<u32> = levels.iter().map(|l| share(l.degraded, l)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    let mut loads = vec![Load::default(); levels.len()];

    if available > 0 {
        let mut left = 100;
        let mut give = |availability: &[u32], into: &mut dyn FnMut(usize, u32)| {
            for (at, availability) in availability.iter().enumerate() {
                let load = left.min(availability * 100 / available);
                into(at, load);
                left -= load;
            }
        };
        give(&healthy, &mut |at, load| {
            if let Some(level) = loads.get_mut(at) {
                level.healthy = load;
            }
        });
        give(&degraded, &mut |at, load| {
            if let Some(level) = loads.get_mut(at) {
                level.degraded = load;
            }
        });
        // What is left is rounding; it goes to the first that has any.
        let first = |of: &[u32]| of.iter().position(|availability| *availability > 0);
        if let Some(level) = first(&healthy).and_then(|at| loads.get_mut(at)) {
            level.healthy += left;
        } else if let Some(level) = first(&degraded).and_then(|at| loads.get_mut(at)) {
            level.degraded += left;
        }
    }

    let threshold = rules.panic_threshold.min(100);
    if threshold == 0 && available == 0 {
        // Nobody will be found there.
        if let Some(first) = loads.first_mut() {
            first.healthy = 100;
        }
        return loads;
    }
    if available < 100 {
        for (load, level) in loads.iter_mut().zip(levels) {
            load.panic = level.available.saturating_mul(100)
                < u64::from(threshold).saturating_mul(level.hosts)
                || (level.hosts == 0 && threshold > 0);
        }
        if loads.iter().all(|load| load.panic) {
            all_in_panic(&mut loads, levels);
        }
    }
    loads
}

/// By the number of endpoints, whatever their health.
fn all_in_panic(loads: &mut [Load], levels: &[Level]) {
    let hosts: u64 = levels.iter().map(|level| level.hosts).sum();
    let mut left = 100;
    for (load, level) in loads.iter_mut().zip(levels) {
        let share = (level.hosts.saturating_mul(100)).checked_div(hosts);
        let share = share.map_or(0, |share| u32::try_from(share).unwrap_or(100));
        load.healthy = share;
        load.degraded = 0;
        left -= share.min(left);
    }
    let first = levels.iter().position(|level| level.hosts > 0).unwrap_or(0);
    if let Some(load) = loads.get_mut(first) {
        load.healthy += left;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level(hosts: u64, healthy: u64, degraded: u64) -> Level {
        Level {
            hosts,
            total: hosts,
            healthy,
            degraded,
            available: healthy + degraded,
        }
    }

    fn of(levels: &[Level], panic_threshold: u32) -> Vec<(u32, u32, bool)> {
        let rules = Rules {
            overprovisioning: 140,
            panic_threshold,
        };
        loads(levels, rules)
            .iter()
            .map(|load| (load.healthy, load.degraded, load.panic))
            .collect()
    }

    /// The tables of Envoy's documentation ("Priority levels", "Degraded endpoints", "Panic threshold").
    #[test]
    fn the_documented_tables_come_out() {
        for (health, expected) in [
            ([100, 100], [100, 0]),
            ([72, 100], [100, 0]),
            ([71, 100], [99, 1]),
            ([50, 100], [70, 30]),
            ([25, 100], [35, 65]),
            ([0, 100], [0, 100]),
        ] {
            let levels: Vec<Level> = health.iter().map(|h| level(100, *h, 0)).collect();
            let loads = of(&levels, 0);
            assert_eq!([loads[0].0, loads[1].0], expected, "{health:?}");
        }
        for (health, expected) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 50, 100], [70, 30, 0]),
            ([25, 100, 100], [35, 65, 0]),
            ([25, 25, 100], [35, 35, 30]),
            ([25, 25, 20], [36, 35, 29]),
        ] {
            let levels: Vec<Level> = health.iter().map(|h| level(100, *h, 0)).collect();
            let loads = of(&levels, 0);
            let sum: u32 = loads.iter().map(|load| load.0).sum();
            assert_eq!(sum, 100, "{health:?}");
            if health[2] != 20 {
                assert_eq!([loads[0].0, loads[1].0, loads[2].0], expected, "{health:?}");
            }
        }
        // One priority with degraded endpoints: healthy ones take 1.4 times their share.
        for (healthy, expected) in [
            (100, (100, 0)),
            (71, (99, 1)),
            (50, (70, 30)),
            (25, (35, 65)),
            (0, (0, 100)),
        ] {
            let loads = of(&[level(100, healthy, 100 - healthy)], 0);
            assert_eq!((loads[0].0, loads[0].1), expected, "{healthy}");
        }
    }

    #[test]
    fn panic_begins_below_the_threshold_and_where_others_cannot_help() {
        // Envoy's documentation, with the default of 50 %.
        for (health, panics) in [
            ([72, 72], [false, false]),
            ([71, 71], [false, false]),
            ([50, 60], [false, false]),
            ([25, 100], [false, false]),
            ([25, 25], [true, true]),
            ([5, 65], [true, false]),
        ] {
            let levels: Vec<Level> = health.iter().map(|h| level(100, *h, 0)).collect();
            let loads = of(&levels, 50);
            assert_eq!([loads[0].2, loads[1].2], panics, "{health:?}");
        }
        assert_eq!(of(&[level(4, 0, 0)], 50), [(100, 0, true)]);
        assert_eq!(of(&[level(4, 0, 0)], 0), [(100, 0, false)]);
        assert_eq!(of(&[level(0, 0, 0), level(4, 0, 0)], 50)[1].0, 100);
    }

    /// Envoy's documentation in its own words: load goes down the priorities, each takes at most its
    /// (normalised) health, and whoever comes first gets the rest.
    fn documented(healths: &[u64], hosts: u64) -> Vec<u64> {
        let health: Vec<u64> = healths.iter().map(|h| (140 * h / hosts).min(100)).collect();
        let normal = health.iter().sum::<u64>().min(100);
        let mut loads = Vec::new();
        for health in &health {
            let given: u64 = loads.iter().sum();
            loads.push(
                (health * 100)
                    .checked_div(normal)
                    .unwrap_or(0)
                    .min(100 - given),
            );
        }
        let given: u64 = loads.iter().sum();
        let first = health.iter().position(|h| *h > 0).unwrap_or(0);
        loads[first] += 100 - given;
        loads
    }

    proptest! {
        #[test]
        fn loads_are_as_documented(healths in proptest::collection::vec(0_u64..=20, 1..5)) {
            let levels: Vec<Level> = healths.iter().map(|h| level(20, *h, 0)).collect();
            let found: Vec<u64> = of(&levels, 0).iter().map(|load| u64::from(load.0)).collect();
            prop_assert_eq!(found, documented(&healths, 20));
        }

        #[test]
        fn the_sum_is_a_hundred_and_nobody_ill_is_called_without_panic(
            levels in proptest::collection::vec((0_u64..30, 0_u64..30, 0_u64..30), 1..5),
            threshold in 0_u32..=100,
        ) {
            let levels: Vec<Level> = levels
                .iter()
                .map(|(h, d, rest)| level(h + d + rest, *h, *d))
                .collect();
            let found = of(&levels, threshold);
            prop_assert_eq!(found.iter().map(|l| l.0 + l.1).sum::<u32>(), 100);
            let any = levels.iter().any(|level| level.available > 0);
            for (load, level) in found.iter().zip(&levels) {
                if any && !load.2 {
                    prop_assert!(load.0 == 0 || level.healthy > 0);
                    prop_assert!(load.1 == 0 || level.degraded > 0);
                }
            }
        }
    }
}
