//! Token buckets that all workers share, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mesh::filter::TokenBucket as Config;

/// Tokens, filled up in steps.
#[derive(Debug)]
pub(crate) struct Bucket {
    max: u32,
    per_fill: u32,
    /// Milliseconds between steps.
    interval: u64,
    /// When it began, in milliseconds since the proxy did.
    began: u64,
    /// The last step that was added (upper half) and tokens (lower half).
    state: AtomicU64,
}

/// What a bucket says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// There was a token, and it is taken.
    pub(crate) allowed: bool,
    pub(crate) limit: u32,
    /// Tokens left.
    pub(crate) left: u32,
    /// Milliseconds until the next step.
    pub(crate) next: u64,
}

impl Bucket {
    /// A full one. `now` is in milliseconds since the proxy began.
    pub(crate) fn new(config: &Config, now: u64) -> Self {
        let interval = u64::try_from(config.fill_interval.as_millis()).unwrap_or(u64::MAX);
        Self {
            max: config.max_tokens,
            per_fill: config.tokens_per_fill,
            interval: interval.max(1),
            began: now,
            state: AtomicU64::new(u64::from(config.max_tokens)),
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn draw(&self, now: u64) -> Drawn {
        let since = now.saturating_sub(self.began);
        let step = u32::try_from(since / self.interval).unwrap_or(u32::MAX);
        let next = self.interval - since % self.interval;
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            let (last, tokens) = unpack(seen);
            let steps = step.saturating_sub(last);
            let tokens = tokens
                .saturating_add(steps.saturating_mul(self.per_fill))
                .min(self.max);
            let allowed = tokens > 0;
            let left = tokens.saturating_sub(1);
            let changed = pack(last.max(step), left);
            if changed == seen {
                return self.drawn(allowed, left, next);
            }
            // Nothing else depends on the order of draws.
            match self.state.compare_exchange_weak(
                seen,
                changed,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return self.drawn(allowed, left, next),
                Err(now) => seen = now,
            }
        }
    }

    /// Whether there is a token, which stays.
    pub(crate) fn has(&self, now: u64) -> bool {
        let (last, tokens) = unpack(self.state.load(Ordering::Relaxed));
        let step = u32::try_from(now.saturating_sub(self.began) / self.interval);
        let fills = step.unwrap_or(u32::MAX) > last && self.per_fill > 0;
        tokens > 0 || (fills && self.max > 0)
    }

    fn drawn(&self, allowed: bool, left: u32, next: u64) -> Drawn {
        Drawn {
            allowed,
            limit: self.max,
            left,
            next,
        }
    }
}

fn unpack(state: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
    (half(state >> 32), half(state))
}

fn pack(step: u32, tokens: u32) -> u64 {
    (u64::from(step) << 32) | u64::from(tokens)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn config(max_tokens: u32, tokens_per_fill: u32, millis: u64) -> Config {
        Config {
            max_tokens,
            tokens_per_fill,
            fill_interval: Duration::from_millis(millis),
        }
    }

    #[test]
    fn fills_up_in_steps_and_never_over() {
        let bucket = Bucket::new(&config(3, 2, 100), 1_000);
        let draw = |now| bucket.draw(now).allowed;
        assert!(draw(1_000) && draw(1_010) && draw(1_099));
        assert!(!draw(1_099) && !bucket.has(1_099) && bucket.has(1_100));
        assert_eq!(bucket.draw(1_099).next, 1);
        assert!(draw(1_100) && draw(1_100) && !draw(1_199));
        // A long rest fills it, and no more.
        assert!((0..3).all(|_| bucket.has(9_000) && draw(9_000)));
        assert!(!draw(9_000));
    }

    #[test]
    fn threads_together_get_no_more_than_there_is() {
        let bucket = Bucket::new(&config(1_000, 1, 1_000_000), 0);
        let got: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).filter(|_| bucket.draw(0).allowed).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(got, 1_000);
    }

    proptest! {
        /// Against a plain model: tokens as a number, filled when time passes a multiple.
        #[test]
        fn draws_are_those_of_a_plain_bucket(
            max in 0..5_u32,
            per_fill in 0..4_u32,
            gaps in proptest::collection::vec(0..250_u64, 1..60),
        ) {
            let bucket = Bucket::new(&config(max, per_fill, 100), 0);
            let (mut tokens, mut step, mut now) = (max, 0, 0);
            for gap in gaps {
                now += gap;
                while step < now / 100 {
                    step += 1;
                    tokens = (tokens + per_fill).min(max);
                }
                let expected = tokens > 0;
                tokens = tokens.saturating_sub(1);
                let drawn = bucket.draw(now);
                prop_assert_eq!(drawn.allowed, expected);
                prop_assert_eq!(drawn.left, tokens);
            }
        }
    }
}
