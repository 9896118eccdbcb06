//! Taps: which calls somebody looks at while they happen.

use std::time::Duration;

use super::expression::Expression;
use super::filter::TokenBucket;

/// Calls that a proxy is to tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// By which it ends again.
    pub name: String,
    /// Which calls.
    pub condition: Expression,
    /// Fields of requests that are told, in lower case.
    pub headers: Vec<String>,
    /// How many, at most.
    pub rate: TokenBucket,
}

/// The bucket that lets `per_second` calls pass, and as many at once.
pub fn rate(per_second: u32) -> TokenBucket {
    let per_second = per_second.max(1);
    // Ten steps a second are as fine as one can see.
    let steps = per_second.min(10);
    TokenBucket {
        max_tokens: per_second,
        tokens_per_fill: per_second.div_ceil(steps),
        fill_interval: Duration::from_millis(u64::from(1000 / steps)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_at_its_rate() {
        for per_second in [1, 2, 7, 10, 100, 5_000] {
            let bucket = rate(per_second);
            let steps = 1000 / u32::try_from(bucket.fill_interval.as_millis()).unwrap();
            let in_a_second = steps * bucket.tokens_per_fill;
            assert!(
                (per_second..per_second + 10).contains(&in_a_second),
                "{per_second}: {in_a_second}"
            );
        }
        assert_eq!(rate(0).max_tokens, 1);
    }
}
