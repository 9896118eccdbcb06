//! Smooth weighted choice: exact within one round, for all workers together.
//!
//! One round is worked out when tables are built; a choice is then one addition on a shared counter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Choices in a round at most; heavier weights are scaled down to fit.
const LONGEST_ROUND: u64 = 16_384;

/// A round of choices and where it stands.
#[derive(Debug, Default)]
pub(crate) struct Smooth {
    round: Box<[u16]>,
    next: AtomicU64,
}

impl Smooth {
    /// A round in which choice `i` comes up `weights[i]` times of the sum, spread out evenly.
    pub(crate) fn new(weights: &[u32]) -> Self {
        Self {
            round: round(weights).into_boxed_slice(),
            next: AtomicU64::new(0),
        }
    }

    /// The next choice; `None` when nothing has weight.
    pub(crate) fn next(&self) -> Option<usize> {
        let length = u64::try_from(self.round.len()).ok()?;
        match self.round.as_ref() {
            [] => None,
            [only] => Some(usize::from(*only)),
            round => {
                let at = self.next.fetch_add(1, Ordering::Relaxed) % length;
                round
                    .get(usize::try_from(at).ok()?)
                    .map(|choice| usize::from(*choice))
            }
        }
    }

    /// Choices in one round.
    pub(crate) fn len(&self) -> usize {
        self.round.len()
    }

    /// Goes on where `before` stood, so that a rebuild does not favour whoever comes first.
    pub(crate) fn continue_from(&self, before: &Self) {
        self.next
            .store(before.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn round(weights: &[u32]) -> Vec<u16> {
    let divisor = weights
        .iter()
        .copied()
        .fold(0, greatest_common_divisor)
        .max(1);
    let mut weights: Vec<i64> = weights.iter().map(|w| i64::from(*w / divisor)).collect();
    let sum: i64 = weights.iter().sum();
    let longest = longest(weights.len());
    if sum > longest {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = weight
                .saturating_mul(longest)
                .checked_div(sum)
                .unwrap_or(1)
                .max(1);
        }
    }
    let sum: i64 = weights.iter().sum();
    let mut credit = vec![0_i64; weights.len()];
    let mut round = Vec::with_capacity(usize::try_from(sum).unwrap_or(0));
    for _ in 0..sum {
        let mut best: Option<(usize, i64)> = None;
        for (at, (credit, weight)) in credit.iter_mut().zip(&weights).enumerate() {
            *credit += weight;
            if *weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                best = Some((at, *credit));
            }
        }
        let Some((at, _)) = best else { break };
        if let Some(credit) = credit.get_mut(at) {
            *credit -= sum;
        }
        let Ok(choice) = u16::try_from(at) else { break };
        round.push(choice);
    }
    round
}

/// Working a round out costs its length times the number of choices, so many choices get a shorter one.
fn longest(choices: usize) -> i64 {
    let choices = u64::try_from(choices).unwrap_or(u64::MAX);
    let longest = if choices <= 64 {
        LONGEST_ROUND
    } else {
        4_096.max(choices.saturating_mul(2))
    };
    i64::try_from(longest).unwrap_or(i64::MAX)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heavy_choices_are_spread_out() {
        assert_eq!(round(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(round(&[50, 50]), [0, 1]);
        assert_eq!(round(&[0, 7]), [1]);
        assert!(round(&[0, 0]).is_empty());
    }

    proptest! {
        #[test]
        fn every_round_is_exact(weights in proptest::collection::vec(0_u32..200, 1..12), rounds in 1_usize..4) {
            let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
            let smooth = Smooth::new(&weights);
            let mut counts = vec![0_usize; weights.len()];
            for _ in 0..smooth.len() * rounds {
                counts[smooth.next().unwrap()] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, usize::try_from(weight / divisor).unwrap() * rounds);
            }
        }

        #[test]
        fn any_prefix_is_within_one_of_its_share(weights in proptest::collection::vec(1_u32..50, 2..5)) {
            let round = round(&weights);
            let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
            let sum: u32 = weights.iter().map(|w| w / divisor).sum();
            let mut seen = 0_i64;
            for (at, choice) in round.iter().enumerate() {
                seen += i64::from(*choice == 0);
                let drawn = i64::try_from(at + 1).unwrap();
                let ideal = drawn * i64::from(weights[0] / divisor);
                let distance = (seen * i64::from(sum) - ideal).abs();
                prop_assert!(distance <= i64::from(sum) * 2, "{weights:?} at {at}");
            }
        }
    }

    #[test]
    fn enormous_weights_keep_their_shares_nearly() {
        let round = round(&[1_000_003, 9_000_001]);
        let first = round.iter().filter(|choice| **choice == 0).count();
        let percent = first * 10_000 / round.len();
        assert!((995..=1005).contains(&percent), "{percent}");
    }
}
