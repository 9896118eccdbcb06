//! Who does worse than the others: Envoy's arithmetic, on plain numbers.

use crate::mesh::outlier::OutlierDetection;

use super::Kind;

/// The results of an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) total: u32,
    pub(super) success: u32,
}

/// What the results are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Answers.
    External,
    /// Connecting and waiting.
    Local,
}

impl Rate {
    /// In percent; none when there is nothing to tell from.
    pub(super) fn percent(self) -> Option<f64> {
        (self.total > 0).then(|| f64::from(self.success) * 100.0 / f64::from(self.total))
    }
}

/// Mean of `rates` less `factor` standard deviations: what an endpoint must be below to be ejected.
/// The standard deviation is that of all of them, not of a sample.
pub(super) fn limit(rates: &[f64], factor: f64) -> f64 {
    let count = rates.iter().fold(0.0, |count, _| count + 1.0);
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - factor * variance.sqrt()
}

/// Which of `rates` are outliers and why, in the order in which they are ejected. `None` stands for an
/// endpoint that is out already.
pub(super) fn outliers(
    policy: &OutlierDetection,
    origin: Origin,
    rates: &[Option<Rate>],
) -> Vec<(usize, Kind)> {
    let by_rate = &policy.success_rate;
    let by_share = &policy.failure_percentage;
    let (enforcing, kinds) = match origin {
        Origin::External => (
            (by_rate.enforcing, by_share.enforcing),
            (Kind::SuccessRate, Kind::FailurePercentage),
        ),
        Origin::Local => (
            (
                by_rate.enforcing_local_origin,
                by_share.enforcing_local_origin,
            ),
            (
                Kind::LocalOriginSuccessRate,
                Kind::LocalOriginFailurePercentage,
            ),
        ),
    };
    let busy = |volume: u32| -> Vec<(usize, f64)> {
        rates
            .iter()
            .enumerate()
            .filter_map(|(at, rate)| {
                let rate = rate.filter(|rate| rate.total >= volume)?;
                Some((at, rate.percent()?))
            })
            .collect()
    };
    let enough = |hosts: &[(usize, f64)], minimum: u32| {
        !hosts.is_empty() && u32::try_from(hosts.len()).unwrap_or(u32::MAX) >= minimum
    };
    let mut found = Vec::new();
    if enforcing.0 > 0 {
        let hosts = busy(by_rate.request_volume);
        if enough(&hosts, by_rate.minimum_hosts) {
            let percents: Vec<f64> = hosts.iter().map(|(_, percent)| *percent).collect();
            let limit = limit(&percents, f64::from(by_rate.stdev_factor) / 1000.0);
            let below = hosts.iter().filter(|(_, percent)| *percent < limit);
            found.extend(below.map(|(at, _)| (*at, kinds.0)));
        }
    }
    if enforcing.1 > 0 {
        let hosts = busy(by_share.request_volume);
        if enough(&hosts, by_share.minimum_hosts) {
            let over = hosts
                .iter()
                .filter(|(_, percent)| 100.0 - percent >= f64::from(by_share.threshold));
            found.extend(over.map(|(at, _)| (*at, kinds.1)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::outlier::{FailurePercentage, SuccessRate};

    /// The example in Envoy's source: {50, 100, 100, 100, 100} has mean 90 and deviation 20.
    #[test]
    fn the_limit_is_envoys() {
        assert!((limit(&[50.0, 100.0, 100.0, 100.0, 100.0], 1.9) - 52.0).abs() < 1e-9);
    }

    #[test]
    fn the_one_below_the_limit_is_found() {
        let policy = OutlierDetection {
            success_rate: SuccessRate {
                enforcing: 100,
                ..SuccessRate::default()
            },
            ..OutlierDetection::default()
        };
        let mut rates = vec![
            Some(Rate {
                total: 100,
                success: 100
            });
            5
        ];
        rates[2] = Some(Rate {
            total: 200,
            success: 100,
        });
        let external = outliers(&policy, Origin::External, &rates);
        assert_eq!(external, [(2, Kind::SuccessRate)]);
        // Four with enough requests are not five.
        rates[0] = Some(Rate {
            total: 99,
            success: 99,
        });
        assert!(outliers(&policy, Origin::External, &rates).is_empty());
        assert!(outliers(&policy, Origin::Local, &rates).is_empty());
    }

    /// Read off the documentation, one sentence a line, in whole numbers: a success rate is below
    /// `mean - factor * deviation` when its distance below the mean, squared, is more.
    fn model(policy: &OutlierDetection, rates: &[Option<Rate>]) -> Vec<(usize, Kind)> {
        let mut found = Vec::new();
        let of = |volume: u32| -> Vec<(usize, i128, i128)> {
            rates
                .iter()
                .enumerate()
                .filter_map(|(at, rate)| rate.map(|rate| (at, rate)))
                .filter(|(_, rate)| rate.total >= volume && rate.total > 0)
                .map(|(at, rate)| (at, i128::from(rate.success), i128::from(rate.total)))
                .collect()
        };
        let valid = of(policy.success_rate.request_volume);
        if valid.len() >= usize::try_from(policy.success_rate.minimum_hosts).unwrap()
            && !valid.is_empty()
            && policy.success_rate.enforcing > 0
        {
            // All rates over one denominator.
            let common: i128 = valid.iter().map(|(.., total)| total).product();
            let hosts = i128::try_from(valid.len()).unwrap();
            let rates: Vec<i128> = valid
                .iter()
                .map(|(_, success, total)| success * (common / total))
                .collect();
            let sum: i128 = rates.iter().sum();
            // Times `hosts`, so that the mean is whole.
            let squares: i128 = rates.iter().map(|rate| (rate * hosts - sum).pow(2)).sum();
            let factor = i128::from(policy.success_rate.stdev_factor);
            for ((at, ..), rate) in valid.iter().zip(&rates) {
                let below = sum - rate * hosts;
                // below > factor/1000 * sqrt(squares / hosts)
                if below > 0 && below.pow(2) * hosts * 1_000_000 > factor.pow(2) * squares {
                    found.push((*at, Kind::SuccessRate));
                }
            }
        }
        let valid = of(policy.failure_percentage.request_volume);
        if valid.len() >= usize::try_from(policy.failure_percentage.minimum_hosts).unwrap()
            && !valid.is_empty()
            && policy.failure_percentage.enforcing > 0
        {
            for (at, success, total) in valid {
                if (total - success) * 100
                    >= i128::from(policy.failure_percentage.threshold) * total
                {
                    found.push((at, Kind::FailurePercentage));
                }
            }
        }
        found
    }

    fn rates() -> impl Strategy<Value = Vec<Option<Rate>>> {
        // Totals whose shares are exact in binary, so that rounding cannot decide.
        let rate = (0_u32..5, 0.0..=1.0_f64).prop_map(|(power, _)| 4_u32 << power);
        let rate = (rate, 0_u32..=64).prop_map(|(total, part)| Rate {
            total,
            success: part.min(total),
        });
        proptest::collection::vec(
            prop_oneof![6 => rate.prop_map(Some), 1 => Just(None), 1 => Just(Some(Rate::default()))],
            0..7,
        )
    }

    proptest! {
        #[test]
        fn outliers_are_those_of_the_documentation(
            rates in rates(),
            minimum_hosts in 0_u32..5,
            request_volume in 0_u32..40,
            stdev_factor in prop_oneof![Just(500_u32), Just(1000), Just(1250), Just(1900)],
            threshold in 0_u32..=100,
            enforcing in prop_oneof![Just(0_u32), Just(100)],
        ) {
            let policy = OutlierDetection {
                success_rate: SuccessRate {
                    enforcing,
                    minimum_hosts,
                    request_volume,
                    stdev_factor,
                    ..SuccessRate::default()
                },
                failure_percentage: FailurePercentage {
                    enforcing: 100,
                    threshold,
                    minimum_hosts,
                    request_volume,
                    ..FailurePercentage::default()
                },
                ..OutlierDetection::default()
            };
            let found = outliers(&policy, Origin::External, &rates);
            let expected = model(&policy, &rates);
            let near = |(at, kind): &(usize, Kind)| {
                // On the edge, the last bit of a float may say otherwise.
                let percents: Vec<f64> = rates
                    .iter()
                    .flatten()
                    .filter(|rate| rate.total >= request_volume)
                    .filter_map(|rate| rate.percent())
                    .collect();
                let limit = limit(&percents, f64::from(stdev_factor) / 1000.0);
                let own = rates[*at].and_then(Rate::percent).unwrap_or(0.0);
                *kind == Kind::SuccessRate && (own - limit).abs() < 1e-9
            };
            for finding in &found {
                prop_assert!(expected.contains(finding) || near(finding), "{finding:?} too much");
            }
            for finding in &expected {
                prop_assert!(found.contains(finding) || near(finding), "{finding:?} missed");
            }
        }
    }
}
