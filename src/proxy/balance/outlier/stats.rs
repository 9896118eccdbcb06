//! How often endpoints were found to be outliers and ejected, by Envoy's names.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Kind;

/// The counts of a cluster. Kept while a cluster of its name stays.
#[derive(Debug, Default)]
pub(crate) struct OutlierStats {
    detected: [AtomicU64; Kind::ALL.len()],
    enforced: [AtomicU64; Kind::ALL.len()],
    overflow: AtomicU64,
    active: AtomicU32,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
        Self::SuccessRate,
        Self::LocalOriginSuccessRate,
        Self::FailurePercentage,
        Self::LocalOriginFailurePercentage,
        Self::ResponseTime,
    ];

    /// As Envoy's statistics have it; the last is ours.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalOriginSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalOriginFailurePercentage => "local_origin_failure_percentage",
            Self::ResponseTime => "response_time",
        }
    }
}

impl OutlierStats {
    pub(super) fn detected(&self, kind: Kind) {
        count(&self.detected, kind);
    }

    pub(super) fn enforced(&self, kind: Kind) {
        count(&self.enforced, kind);
    }

    pub(super) fn overflowed(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    /// Endpoints that are out now.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Puts one more out if `may` allows it beside those that are.
    pub(super) fn enter(&self, may: impl Fn(u32) -> bool) -> bool {
        self.active
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |active| {
                may(active).then(|| active.saturating_add(1))
            })
            .is_ok()
    }

    pub(super) fn leave(&self) {
        // Fails when endpoints were counted anew meanwhile, which is as good.
        let _left = self
            .active
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |active| {
                active.checked_sub(1)
            });
    }

    /// Says how many are out, after a change of who there is.
    pub(crate) fn recount(&self, active: usize) {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        self.active.store(active, Ordering::Relaxed);
    }

    /// Findings that could not eject because enough were out.
    pub(crate) fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    /// For each kind: how often it was found, and how often it ejected.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (Kind, u64, u64)> {
        Kind::ALL
            .into_iter()
            .zip(&self.detected)
            .zip(&self.enforced)
            .map(|((kind, detected), enforced)| {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                (kind, read(detected), read(enforced))
            })
    }
}

fn count(counters: &[AtomicU64], kind: Kind) {
    let at = Kind::ALL.iter().position(|other| *other == kind);
    if let Some(counter) = at.and_then(|at| counters.get(at)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
