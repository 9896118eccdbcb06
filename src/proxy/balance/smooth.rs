//! Smooth weighted choice, exact within one round of every worker.
//!
//! One round is worked out when tables are built; a choice is then one step on the worker's own
//! place in it, which no other thread touches. Any run of requests as long as the round that one
//! worker serves hits every choice as often as its weight says. Workers begin at different places
//! (a van der Corput sequence), so that their deviations within a round even out: two workers
//! together stay within one request of the exact share, each further pair may add one.

use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};

/// Choices in a round at most where there are few of them; heavier weights are scaled down to fit.
const LONGEST_ROUND: u64 = 16_384;
/// Up to so many choices a round is worked out the plain way, whose cost is their number squared.
const FEW: usize = 64;

/// A round of choices.
#[derive(Debug, Default)]
pub(crate) struct Smooth {
    round: Round,
    /// Which of a worker's places is this round's; none where there is no choice.
    slot: Option<Arc<Slot>>,
}

#[derive(Debug)]
enum Round {
    /// So many, all alike.
    Alike(u32),
    /// Choices in order.
    Listed(Box<[u32]>),
}

impl Default for Round {
    fn default() -> Self {
        Self::Alike(0)
    }
}

/// A number that no other round of the process has now. Its generation tells it from whoever had
/// it before.
#[derive(Debug, PartialEq, Eq)]
struct Slot {
    at: usize,
    generation: u64,
}

#[derive(Debug)]
struct Slots {
    free: Vec<usize>,
    used: usize,
    generation: u64,
}

/// Locked when tables are built and dropped, never for a request.
static SLOTS: Mutex<Slots> = Mutex::new(Slots {
    free: Vec::new(),
    used: 0,
    generation: 0,
});

impl Slot {
    fn new() -> Arc<Self> {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        slots.generation += 1;
        let at = slots.free.pop().unwrap_or_else(|| {
            slots.used += 1;
            slots.used - 1
        });
        Arc::new(Self {
            at,
            generation: slots.generation,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        slots.free.push(self.at);
    }
}

/// Where one thread stands in every round.
#[derive(Debug)]
struct Places {
    /// Where it begins a round, as a fraction of 2^32.
    phase: u32,
    of: Vec<Place>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    generation: u64,
    next: u32,
}

thread_local! {
    static PLACES: RefCell<Places> = const { RefCell::new(Places { phase: 0, of: Vec::new() }) };
}

/// Says that this thread is worker `number`.
pub(crate) fn enter(number: usize) {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    PLACES.with_borrow_mut(|places| places.phase = number.reverse_bits());
}

impl Places {
    /// The next step in a round of `length`.
    fn step(&mut self, slot: &Slot, length: u32) -> u32 {
        if self.of.len() <= slot.at {
            self.of.resize(slot.at + 1, Place::default());
        }
        let Some(place) = self.of.get_mut(slot.at) else {
            return 0;
        };
        if place.generation != slot.generation {
            let begin = (u64::from(self.phase) * u64::from(length)) >> 32;
            *place = Place {
                generation: slot.generation,
                next: u32::try_from(begin).unwrap_or(0),
            };
        }
        let at = if place.next < length { place.next } else { 0 };
        place.next = at + 1;
        at
    }
}

impl Smooth {
    /// A round in which choice `i` comes up `weights[i]` times of the sum, spread out evenly.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let round = Round::new(weights);
        Self {
            slot: (round.len() > 1).then(Slot::new),
            round,
        }
    }

    /// As [`Smooth::new`], going on where `before` stands, so that a rebuild does not favour
    /// whoever comes first.
    pub(crate) fn after(weights: &[u32], before: Option<&Self>) -> Self {
        let round = Round::new(weights);
        let kept = before.and_then(|before| before.slot.clone());
        Self {
            slot: (round.len() > 1).then(|| kept.unwrap_or_else(Slot::new)),
            round,
        }
    }

    /// The next choice; `None` when nothing has weight.
    pub(crate) fn next(&self) -> Option<usize> {
        let at = match &self.slot {
            None => 0,
            Some(slot) => {
                let length = self.round.len();
                PLACES.with_borrow_mut(|places| places.step(slot, length))
            }
        };
        let choice = match &self.round {
            Round::Alike(0) => return None,
            Round::Alike(_) => at,
            Round::Listed(round) => *round.get(usize::try_from(at).ok()?)?,
        };
        usize::try_from(choice).ok()
    }

    /// Choices in one round.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.round.len()).unwrap_or(usize::MAX)
    }
}

impl Round {
    fn new(weights: &[u32]) -> Self {
        match weights {
            [] => Self::Alike(0),
            [first, rest @ ..] if *first > 0 && rest.iter().all(|weight| weight == first) => {
                Self::Alike(u32::try_from(weights.len()).unwrap_or(u32::MAX))
            }
            _ => Self::Listed(round(weights).into_boxed_slice()),
        }
    }

    fn len(&self) -> u32 {
        match self {
            Self::Alike(count) => *count,
            Self::Listed(round) => u32::try_from(round.len()).unwrap_or(u32::MAX),
        }
    }
}

fn round(weights: &[u32]) -> Vec<u32> {
    let divisor = weights
        .iter()
        .copied()
        .fold(0, greatest_common_divisor)
        .max(1);
    let mut weights: Vec<u64> = weights.iter().map(|w| u64::from(*w / divisor)).collect();
    let sum: u64 = weights.iter().sum();
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
    if weights.len() <= FEW {
        by_credit(&weights)
    } else {
        by_deadline(&weights)
    }
}

/// Nginx's way: everybody gains their weight at each step, and the richest pays for the choice.
fn by_credit(weights: &[u64]) -> Vec<u32> {
    let weights: Vec<i64> = weights
        .iter()
        .map(|weight| i64::try_from(*weight).unwrap_or(i64::MAX))
        .collect();
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
        let Ok(choice) = u32::try_from(at) else { break };
        round.push(choice);
    }
    round
}

/// The `times`-th choice of something of `weight`: due in the middle of its share of the round.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    times: u64,
    weight: u64,
    at: u32,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = (2 * self.times + 1).saturating_mul(other.weight);
        let theirs = (2 * other.times + 1).saturating_mul(self.weight);
        mine.cmp(&theirs).then(self.at.cmp(&other.at))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For many choices: the same shares for the logarithm of their number a step.
fn by_deadline(weights: &[u64]) -> Vec<u32> {
    let mut due: BinaryHeap<Reverse<Due>> = (0_u32..)
        .zip(weights)
        .filter(|(_, weight)| **weight > 0)
        .map(|(at, weight)| {
            Reverse(Due {
                times: 0,
                weight: *weight,
                at,
            })
        })
        .collect();
    let sum: u64 = weights.iter().sum();
    let mut round = Vec::with_capacity(usize::try_from(sum).unwrap_or(0));
    while let Some(Reverse(next)) = due.pop() {
        round.push(next.at);
        if next.times + 1 < next.weight {
            due.push(Reverse(Due {
                times: next.times + 1,
                ..next
            }));
        }
    }
    round
}

/// Many choices get a round of a few times their number, to bound its memory.
fn longest(choices: usize) -> u64 {
    let choices = u64::try_from(choices).unwrap_or(u64::MAX);
    LONGEST_ROUND.max(choices.saturating_mul(4))
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
        assert!(Smooth::new(&[0, 0]).next().is_none());
        assert!(Smooth::new(&[]).next().is_none());
    }

    #[test]
    fn every_worker_has_a_place_of_its_own_and_two_are_within_one_together() {
        let weights = [2_u32, 1, 3];
        let smooth = Smooth::new(&weights);
        // Where each of two workers would begin, and every way in which they may share requests.
        let sequences: Vec<Vec<usize>> = (0..2)
            .map(|number| {
                std::thread::scope(|scope| {
                    let drawn = scope.spawn(|| {
                        enter(number);
                        (0..100).map(|_| smooth.next().unwrap()).collect()
                    });
                    drawn.join().unwrap()
                })
            })
            .collect();
        assert_ne!(sequences[0], sequences[1]);
        for sequence in &sequences {
            for window in sequence.windows(6) {
                for (choice, weight) in weights.iter().enumerate() {
                    let hits = window.iter().filter(|hit| **hit == choice).count();
                    assert_eq!(hits, usize::try_from(*weight).unwrap(), "{window:?}");
                }
            }
        }
        for first in 0..=100 {
            for (choice, share) in [(0, 2), (1, 1), (2, 3)] {
                let hits = |sequence: &[usize]| sequence.iter().filter(|h| **h == choice).count();
                let total = hits(&sequences[0][..first]) + hits(&sequences[1][..100 - first]);
                // Six times the distance, to stay in whole numbers.
                let distance = (total * 6).abs_diff(100 * share);
                assert!(distance <= 6, "{first} {choice}: {total}");
            }
        }
    }

    #[test]
    fn a_rebuild_goes_on_where_it_stood() {
        let first = Smooth::new(&[1, 1, 1]);
        assert_eq!(first.next(), Some(0));
        let second = Smooth::after(&[1, 1, 1], Some(&first));
        assert_eq!(second.next(), Some(1));
        drop(first);
        assert_eq!(second.next(), Some(2));
        assert_eq!(Smooth::new(&[1, 1]).next(), Some(0));
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

        #[test]
        fn both_ways_give_the_same_shares(weights in proptest::collection::vec(0_u64..20, 1..20)) {
            let mut credit = by_credit(&weights);
            let mut deadline = by_deadline(&weights);
            credit.sort_unstable();
            deadline.sort_unstable();
            prop_assert_eq!(credit, deadline);
        }
    }

    #[test]
    fn enormous_weights_keep_their_shares_nearly() {
        let round = round(&[1_000_003, 9_000_001]);
        let first = round.iter().filter(|choice| **choice == 0).count();
        let percent = first * 10_000 / round.len();
        assert!((995..=1005).contains(&percent), "{percent}");
    }

    #[test]
    fn a_hundred_thousand_unequal_choices_are_worked_out() {
        let weights: Vec<u32> = (0..100_000).map(|n| 1 + n % 3).collect();
        assert_eq!(round(&weights).len(), 199_999);
    }
}
