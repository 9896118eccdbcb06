//! Ejection of endpoints that fail in a row (Envoy's consecutive 5xx and gateway errors).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::mesh::cluster::OutlierDetection;

use super::super::tables::EndpointSet;

/// An endpoint is out for at most this long, in milliseconds (Envoy's `max_ejection_time`).
const LONGEST_EJECTION: u64 = 300_000;

/// What an endpoint did lately. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Milliseconds since the process began; 0 is not ejected.
    ejected_until: AtomicU64,
    ejections: AtomicU32,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// No answer: not reached, broken off, or too slow.
    Failed,
}

impl Outlier {
    pub(crate) fn is_ejected(&self, now: u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > now
    }

    /// How often it was ejected.
    pub(crate) fn ejections(&self) -> u32 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Counts `outcome` of the endpoint at `index` of `set`, and ejects it when it has failed too
    /// often in a row and not too many others are out.
    pub(crate) fn record(
        &self,
        policy: &OutlierDetection,
        set: &EndpointSet,
        outcome: Outcome,
        now: u64,
    ) {
        let (error, gateway) = match outcome {
            Outcome::Status(status) => (status >= 500, matches!(status, 502..=504)),
            Outcome::Failed => (true, true),
        };
        let over = count(&self.errors, error, policy.consecutive_5xx)
            | count(&self.gateway_errors, gateway, policy.consecutive_gateway);
        if over && !self.is_ejected(now) && may_eject(policy, set, now) {
            let times = self.ejections.fetch_add(1, Ordering::Relaxed) + 1;
            let base = u64::try_from(policy.base_ejection.as_millis()).unwrap_or(u64::MAX);
            let span = base
                .saturating_mul(u64::from(times))
                .min(LONGEST_EJECTION.max(base));
            self.ejected_until
                .store(now.saturating_add(span), Ordering::Relaxed);
            self.errors.store(0, Ordering::Relaxed);
            self.gateway_errors.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether the row of failures has reached `limit`; 0 is off.
fn count(counter: &AtomicU32, failed: bool, limit: u32) -> bool {
    if failed {
        let row = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        return limit > 0 && row >= limit;
    }
    // Written only when needed: the cache line is shared by all workers.
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
    false
}

/// Envoy always allows one ejection, whatever the share.
fn may_eject(policy: &OutlierDetection, set: &EndpointSet, now: u64) -> bool {
    let out = set
        .entries
        .iter()
        .filter(|entry| entry.state.outlier.is_ejected(now))
        .count();
    let allowed = set
        .entries
        .len()
        .saturating_mul(usize::try_from(policy.max_ejection_percent.min(100)).unwrap_or(100))
        / 100;
    out < allowed.max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::tables::testing::endpoints;
    use super::*;

    #[test]
    fn five_errors_in_a_row_eject_and_a_success_starts_over() {
        let set = endpoints(&[1, 1]);
        let policy = OutlierDetection {
            base_ejection: Duration::from_secs(1),
            ..OutlierDetection::default()
        };
        let outlier = &set.entries[0].state.outlier;
        let send = |status| outlier.record(&policy, &set, Outcome::Status(status), 100);
        (0..4).for_each(|_| send(503));
        send(200);
        (0..4).for_each(|_| send(500));
        assert!(!outlier.is_ejected(100));
        send(500);
        assert!(outlier.is_ejected(1_000) && !outlier.is_ejected(1_100));
    }

    #[test]
    fn not_everybody_is_ejected() {
        let set = endpoints(&[1, 1, 1]);
        let policy = OutlierDetection {
            consecutive_5xx: 1,
            ..OutlierDetection::default()
        };
        for entry in &set.entries {
            entry
                .state
                .outlier
                .record(&policy, &set, Outcome::Failed, 0);
        }
        let out = set
            .entries
            .iter()
            .filter(|e| e.state.outlier.is_ejected(1))
            .count();
        assert_eq!(out, 1);
    }
}
