//! What came of requests, as far as rollouts judge it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts of one version. They only grow, so that two of them make a window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Requests answered.
    pub requests: u64,
    /// Those that failed: 5xx, no answer, or a gRPC status other than 0.
    pub failures: u64,
    /// Further counts by name, such as `retries`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub named: BTreeMap<String, u64>,
    /// Requests by the upper bound of their duration, in microseconds; `u64::MAX` is the open bucket.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub durations: BTreeMap<u64, u64>,
}

impl Counts {
    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        for (name, count) in &other.named {
            *self.named.entry(name.clone()).or_default() += count;
        }
        for (bound, count) in &other.durations {
            *self.durations.entry(*bound).or_default() += count;
        }
    }

    /// What is in these that was not in `earlier`; nothing where counts fell, which is a restart of the counter.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            named: more(&self.named, &earlier.named),
            durations: more(&self.durations, &earlier.durations),
        }
    }

    /// Requests whose duration is known.
    pub fn timed(&self) -> u64 {
        self.durations.values().sum()
    }

    /// The duration below which `share` (0 to 1) of the requests lie, in milliseconds, interpolated inside its
    /// bucket as Prometheus does; none without requests.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let total = float(self.timed());
        if total <= 0.0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in &self.durations {
            let count = float(*count);
            if below + count >= rank {
                if *bound == u64::MAX {
                    return Some(lower);
                }
                let upper = float(*bound) / 1_000.0;
                return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            lower = float(*bound) / 1_000.0;
        }
        Some(lower)
    }

    /// Requests that took longer than `limit_ms`, interpolated inside the bucket that the limit falls into: the
    /// same line as [`Self::quantile_ms`] draws, so the two never disagree.
    pub fn slower_than(&self, limit_ms: f64) -> f64 {
        let (mut slower, mut lower) = (0.0, 0.0);
        for (bound, count) in &self.durations {
            let upper = if *bound == u64::MAX {
                f64::INFINITY
            } else {
                float(*bound) / 1_000.0
            };
            if lower >= limit_ms {
                slower += float(*count);
            } else if upper.is_finite() && upper > limit_ms {
                slower += float(*count) * (upper - limit_ms) / (upper - lower);
            }
            lower = upper;
        }
        slower
    }

    /// The smallest bound of a bucket that is at least `ms`; none above the last one.
    pub fn edge_ms(&self, ms: f64) -> Option<f64> {
        self.durations
            .keys()
            .filter(|bound| **bound != u64::MAX)
            .map(|bound| float(*bound) / 1_000.0)
            .find(|bound| *bound >= ms)
    }
}

/// What came of holding answers to copies against those that callers got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Copies {
    /// Pairs that were compared.
    pub compared: u64,
    /// Those in which something differed.
    pub different: u64,
    /// Copies that got no answer where the caller got one.
    pub unanswered: u64,
    /// Pairs by where they differed, such as `body $.price`; for people.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, u64>,
}

impl Copies {
    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.different += other.different;
        self.unanswered += other.unanswered;
        for (place, count) in &other.places {
            *self.places.entry(place.clone()).or_default() += count;
        }
    }

    /// What is in these that was not in `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            compared: self.compared.saturating_sub(earlier.compared),
            different: self.different.saturating_sub(earlier.different),
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
            places: more(&self.places, &earlier.places),
        }
    }

    /// Pairs that were not the same, and all of them: a copy without an answer is one that differs.
    pub fn bad(&self) -> (u64, u64) {
        let all = self.compared + self.unanswered;
        (self.different.min(self.compared) + self.unanswered, all)
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What counts grew by, where they did.
fn more<K: Ord + Clone>(now: &BTreeMap<K, u64>, then: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let grown = now.iter().map(|(key, count)| {
        let before = then.get(key).copied().unwrap_or(0);
        (key.clone(), count.saturating_sub(before))
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

/// The two versions of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sides {
    /// The one that serves.
    pub stable: Counts,
    /// The one that is tried.
    pub canary: Counts,
    /// Of requests to the stable one that the canary got a copy of.
    #[serde(skip_serializing_if = "Copies::is_empty")]
    pub copies: Copies,
}

impl Sides {
    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.stable.add(&other.stable);
        self.canary.add(&other.canary);
        self.copies.add(&other.copies);
    }

    /// What is in these that was not in `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            stable: self.stable.since(&earlier.stable),
            canary: self.canary.since(&earlier.canary),
            copies: self.copies.since(&earlier.copies),
        }
    }
}

/// A count as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "exact up to 2^53, which no window reaches"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
