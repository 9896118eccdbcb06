//! Counts by upper bound; merging is exact whatever bounds the parts have.

use serde::{Deserialize, Serialize};

/// Observations by the upper bound of their bucket, in thousandths of the unit, so that bounds are
/// whole numbers and compare exactly. `u64::MAX` is the open bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    /// Ascending by bound; no count is 0.
    counts: Vec<(u64, u64)>,
}

/// A bound in the histogram's own unit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "saturates, and negative bounds are clamped first"
)]
pub fn bound(upper: f64) -> u64 {
    if upper.is_finite() {
        (upper.max(0.0) * 1000.0).round() as u64
    } else {
        u64::MAX
    }
}

impl Histogram {
    /// Adds `count` observations at most as large as `bound`.
    pub fn add(&mut self, bound: u64, count: u64) {
        if count == 0 {
            return;
        }
        match self
            .counts
            .binary_search_by_key(&bound, |(bound, _)| *bound)
        {
            Ok(at) => {
                if let Some((_, known)) = self.counts.get_mut(at) {
                    *known = known.saturating_add(count);
                }
            }
            Err(at) => self.counts.insert(at, (bound, count)),
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
            return;
        }
        for (bound, count) in &other.counts {
            self.add(*bound, *count);
        }
    }

    /// All observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Bounds and what is in their buckets, ascending.
    pub fn buckets(&self) -> &[(u64, u64)] {
        &self.counts
    }

    /// The value below which `share` (0 to 1) of the observations lie, interpolated inside its
    /// bucket as Prometheus does; `None` without observations. It is in the same bucket as the true one, so
    /// with [`LATENCY_MICROS`](crate::telemetry::names::LATENCY_MICROS) it is off by at most 14.3 % up to 10 s.
    #[expect(
        clippy::cast_precision_loss,
        clippy::as_conversions,
        reason = "a percentile is an estimate"
    )]
    pub fn quantile(&self, share: f64, bounds: &[u64]) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        let mut last = 0;
        for (bound, count) in &self.counts {
            let count = *count as f64;
            // Empty buckets are left out, and yet they are where this one begins.
            let lower = bounds
                .partition_point(|known| known < bound)
                .checked_sub(1)
                .and_then(|at| bounds.get(at))
                .map_or(last, |known| last.max(*known)) as f64
                / 1000.0;
            if below + count >= rank {
                if *bound == u64::MAX {
                    return Some(lower);
                }
                let upper = *bound as f64 / 1000.0;
                return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            last = *bound;
        }
        Some(last as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_and_merging_is_addition() {
        let mut one = Histogram::default();
        one.add(bound(10.0), 50);
        let mut two = Histogram::default();
        two.add(bound(20.0), 50);
        one.merge(&two);
        assert_eq!(one.count(), 100);
        assert_eq!(one.quantile(0.25, &[]), Some(5.0));
        assert_eq!(one.quantile(0.75, &[]), Some(15.0));
        assert_eq!(Histogram::default().quantile(0.5, &[]), None);
    }

    #[test]
    fn a_bucket_begins_where_the_one_below_ends_though_that_is_empty() {
        let mut lonely = Histogram::default();
        lonely.add(bound(100.0), 10);
        let bounds = [bound(50.0), bound(90.0), bound(100.0)];
        assert_eq!(lonely.quantile(0.5, &bounds), Some(95.0));
    }

    #[test]
    fn the_open_bucket_answers_its_lower_bound() {
        let mut open = Histogram::default();
        open.add(bound(5.0), 1);
        open.add(bound(f64::INFINITY), 9);
        assert_eq!(open.quantile(0.99, &[]), Some(5.0));
    }
}
