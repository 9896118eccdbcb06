//! Outlier detection: endpoints that fail, are slow, or do worse than the others are left out for a
//! while (Envoy's arithmetic, and a kind of our own: mean response time).
//!
//! Workers count results into atomics of the endpoint; a row of failures ejects at once, on the
//! worker that saw the last of them. Rates are judged, and ejections ended, by [`sweep`] on the
//! control thread. One try is one result: an endpoint that begins an answer and breaks off has
//! failed.

mod rates;
pub(crate) mod stats;
pub(crate) mod sweep;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::mesh::outlier::OutlierDetection;

use super::super::health::flags::Why;
use super::super::tables::{ClusterTable, EndpointEntry};
use rates::Rate;
use stats::OutlierStats;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// A connection, where nothing more is known of what goes over it.
    Connected,
    /// No answer: not reached, or broken off.
    Failed,
    /// No answer in time.
    TooLate,
}

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
    ResponseTime,
}

/// An ejection that goes on; times are in milliseconds since the proxy began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ejection {
    pub(crate) kind: Kind,
    pub(crate) since: u64,
    pub(crate) until: u64,
}

/// The outlier detection of a cluster.
#[derive(Debug)]
pub(crate) struct Detector {
    pub(crate) policy: OutlierDetection,
    /// Successes and failures are counted.
    rates: bool,
    /// The same, of connecting.
    local_rates: bool,
    /// Times are added up.
    times: bool,
    pub(crate) stats: Arc<OutlierStats>,
}

/// What an endpoint did lately. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Counts,
    local: Counts,
    /// Microseconds, and how many answers they are of.
    time: AtomicU64,
    timed: AtomicU32,
    ejections: AtomicU32,
    /// What the next ejection's time is multiplied by, less one.
    backoff: AtomicU32,
    /// Milliseconds since the proxy began; 0 is not ejected, or only just.
    ejected_until: AtomicU64,
    /// When that began, likewise, and for which of [`Kind::ALL`].
    ejected_since: AtomicU64,
    ejected_for: AtomicU8,
    /// As `ejected_until`, plus one; 0 is never.
    returned: AtomicU64,
    /// Of the last interval, in hundredths of a percent, plus one; 0 is unknown.
    success_rate: AtomicU32,
    /// Times of past intervals, the latest last. Only sweeps touch it.
    window: Mutex<VecDeque<(u64, u32)>>,
}

/// Results in the upper half, successes in the lower: one addition counts both.
#[derive(Debug, Default)]
struct Counts(AtomicU64);

impl Counts {
    fn count(&self, success: bool) {
        let one = 1 << 32 | u64::from(success);
        self.0.fetch_add(one, Ordering::Relaxed);
    }

    /// What was counted since this was last called.
    fn take(&self) -> Rate {
        let both = self.0.swap(0, Ordering::Relaxed);
        let half = |half: u64| u32::try_from(half).unwrap_or(u32::MAX);
        Rate {
            total: half(both >> 32),
            success: half(both & u64::from(u32::MAX)),
        }
    }
}

impl Detector {
    /// A detector by `policy`; `before` itself when that says the same.
    pub(crate) fn build(policy: &OutlierDetection, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(before) = before.filter(|before| before.policy == *policy) {
            return Arc::clone(before);
        }
        let split = policy.split_external_local_origin_errors;
        let rate = &policy.success_rate;
        let failed = &policy.failure_percentage;
        Arc::new(Self {
            rates: rate.enforcing > 0 || failed.enforcing > 0,
            local_rates: split
                && (rate.enforcing_local_origin > 0 || failed.enforcing_local_origin > 0),
            times: policy.response_time.is_some(),
            policy: policy.clone(),
            stats: before.map_or_else(Arc::default, |before| Arc::clone(&before.stats)),
        })
    }

    /// Whether results are to come with their time.
    pub(crate) fn wants_times(&self) -> bool {
        self.times
    }

    fn enforcing(&self, kind: Kind) -> u32 {
        let policy = &self.policy;
        match kind {
            Kind::Consecutive5xx => policy.enforcing_consecutive_5xx,
            Kind::ConsecutiveGatewayFailure => policy.enforcing_consecutive_gateway,
            Kind::ConsecutiveLocalOriginFailure => policy.enforcing_consecutive_local_origin,
            Kind::SuccessRate => policy.success_rate.enforcing,
            Kind::LocalOriginSuccessRate => policy.success_rate.enforcing_local_origin,
            Kind::FailurePercentage => policy.failure_percentage.enforcing,
            Kind::LocalOriginFailurePercentage => policy.failure_percentage.enforcing_local_origin,
            Kind::ResponseTime => policy
                .response_time
                .as_ref()
                .map_or(0, |time| time.enforcing),
        }
    }
}

/// An endpoint of a cluster, with what is known of it.
#[derive(Clone, Copy)]
struct Watched<'t> {
    cluster: &'t ClusterTable,
    entry: &'t EndpointEntry,
    detector: &'t Detector,
    monitor: &'t Monitor,
}

/// Counts how a try at `entry` ended, and ejects it when it has failed too often in a row and not
/// too many others are out. `took` is the time to the answer's head; `now` gives milliseconds since
/// the proxy began.
pub(crate) fn record(
    cluster: &ClusterTable,
    entry: &EndpointEntry,
    (outcome, took): (Outcome, Option<Duration>),
    now: impl Fn() -> u64,
) {
    let (Some(detector), Some(monitor)) = (cluster.outlier.as_deref(), entry.state.monitor())
    else {
        return;
    };
    let watched = Watched {
        cluster,
        entry,
        detector,
        monitor,
    };
    for kind in monitor.count(detector, outcome, took).into_iter().flatten() {
        if !entry.state.health.holds(Why::Outlier) {
            watched.found(kind, now(), &mut |below| fastrand::u64(0..below.max(1)));
            monitor.row(kind).store(0, Ordering::Relaxed);
        }
    }
}

impl Monitor {
    /// Why it is out, since when and until when, if it is.
    pub(crate) fn ejection(&self) -> Option<Ejection> {
        let until = self.ejected_until.load(Ordering::Relaxed);
        let at = usize::from(self.ejected_for.load(Ordering::Relaxed));
        (until != 0).then_some(Ejection {
            kind: *Kind::ALL.get(at)?,
            since: self.ejected_since.load(Ordering::Relaxed),
            until,
        })
    }

    /// How often it was ejected.
    pub(crate) fn ejections(&self) -> u32 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Share of successes in the last interval, in percent, where it had enough requests.
    pub(crate) fn success_rate(&self) -> Option<f64> {
        let rate = self.success_rate.load(Ordering::Relaxed).checked_sub(1)?;
        Some(f64::from(rate) / 100.0)
    }

    fn row(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::ConsecutiveGatewayFailure => &self.consecutive_gateway,
            Kind::ConsecutiveLocalOriginFailure => &self.consecutive_local,
            _ => &self.consecutive_5xx,
        }
    }

    /// Counts a result, and says which rows of failures are full with it.
    fn count(
        &self,
        detector: &Detector,
        outcome: Outcome,
        took: Option<Duration>,
    ) -> [Option<Kind>; 2] {
        if let (true, Some(took)) = (detector.times, took) {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.time.fetch_add(micros, Ordering::Relaxed);
            self.timed.fetch_add(1, Ordering::Relaxed);
        }
        let split = detector.policy.split_external_local_origin_errors;
        match outcome {
            Outcome::Status(status) => {
                if split {
                    self.connected(detector);
                }
                self.answered(detector, status)
            }
            Outcome::Connected if split => {
                self.connected(detector);
                [None; 2]
            }
            Outcome::Failed | Outcome::TooLate if split => {
                if detector.local_rates {
                    self.local.count(false);
                }
                let limit = detector.policy.consecutive_local_origin;
                let full = add(&self.consecutive_local, limit);
                [full.then_some(Kind::ConsecutiveLocalOriginFailure), None]
            }
            Outcome::Connected => self.answered(detector, 200),
            Outcome::Failed => self.answered(detector, 503),
            Outcome::TooLate => self.answered(detector, 504),
        }
    }

    fn connected(&self, detector: &Detector) {
        if detector.local_rates {
            self.local.count(true);
        }
        clear(&self.consecutive_local);
    }

    fn answered(&self, detector: &Detector, status: u16) -> [Option<Kind>; 2] {
        let failed = (500..600).contains(&status);
        if detector.rates {
            self.external.count(!failed);
        }
        if !failed {
            clear(&self.consecutive_5xx);
            clear(&self.consecutive_gateway);
            return [None; 2];
        }
        let policy = &detector.policy;
        let gateway = if matches!(status, 502..=504) {
            add(&self.consecutive_gateway, policy.consecutive_gateway)
        } else {
            clear(&self.consecutive_gateway);
            false
        };
        let any = add(&self.consecutive_5xx, policy.consecutive_5xx);
        [
            gateway.then_some(Kind::ConsecutiveGatewayFailure),
            any.then_some(Kind::Consecutive5xx),
        ]
    }
}

/// Adds one to a row. True for the one that fills it; a limit of 0 is never reached.
fn add(row: &AtomicU32, limit: u32) -> bool {
    row.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == limit && limit > 0
}

fn clear(row: &AtomicU32) {
    // Written only when needed: the cache line is shared by all workers.
    if row.load(Ordering::Relaxed) != 0 {
        row.store(0, Ordering::Relaxed);
    }
}

/// Whether one more may be out when `active` of `hosts` are.
fn may_eject(policy: &OutlierDetection, active: u32, hosts: usize) -> bool {
    let hosts = u64::try_from(hosts).unwrap_or(u64::MAX);
    let percent = u64::from(policy.max_ejection_percent.min(100));
    (u64::from(active) + 1).saturating_mul(100) <= percent.saturating_mul(hosts)
        || (policy.always_eject_one_host && active == 0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Watched<'_> {
    /// Ejects for `kind`, if the policy lets it. `chance` draws a number below its argument.
    fn found(&self, kind: Kind, now: u64, chance: &mut impl FnMut(u64) -> u64) {
        let Self {
            cluster,
            entry,
            detector,
            monitor,
        } = self;
        let policy = &detector.policy;
        let stats = &detector.stats;
        let hosts = cluster.endpoints.entries.len();
        let endpoint = entry.address;
        stats.detected(kind);
        if !may_eject(policy, stats.active(), hosts) {
            stats.overflowed();
            return;
        }
        if chance(100) >= u64::from(detector.enforcing(kind)) {
            tracing::info!(
                cluster = cluster.config.name,
                %endpoint,
                kind = kind.name(),
                "outlier found and not ejected"
            );
            return;
        }
        // Others may be ejecting at the same time.
        if !stats.enter(|active| may_eject(policy, active, hosts)) {
            stats.overflowed();
            return;
        }
        if !cluster.mark(entry, Why::Outlier, true) {
            stats.leave();
            return;
        }
        stats.enforced(kind);
        let base = millis(policy.base_ejection);
        let longest = millis(policy.longest_ejection());
        let jitter = chance(millis(policy.max_ejection_jitter).saturating_add(1));
        let mut times = monitor.backoff.load(Ordering::Relaxed);
        if base.saturating_mul(u64::from(times)) < longest.saturating_add(base) {
            times = times.saturating_add(1);
            monitor.backoff.store(times, Ordering::Relaxed);
        }
        let span = base.saturating_mul(u64::from(times)).min(longest);
        let until = now.saturating_add(span).saturating_add(jitter).max(1);
        let at = Kind::ALL.iter().position(|other| *other == kind);
        let at = at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default();
        monitor.ejected_for.store(at, Ordering::Relaxed);
        monitor.ejected_since.store(now, Ordering::Relaxed);
        monitor.ejected_until.store(until, Ordering::Relaxed);
        let ejections = monitor.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(
            cluster = cluster.config.name,
            %endpoint,
            kind = kind.name(),
            ejections,
            for_ms = span.saturating_add(jitter),
            "endpoint ejected"
        );
    }

    /// Lets it in again.
    fn uneject(&self, now: u64) {
        let Self {
            cluster,
            entry,
            detector,
            monitor,
        } = self;
        monitor.ejected_until.store(0, Ordering::Relaxed);
        for row in [
            &monitor.consecutive_5xx,
            &monitor.consecutive_gateway,
            &monitor.consecutive_local,
        ] {
            clear(row);
        }
        monitor
            .returned
            .store(now.saturating_add(1), Ordering::Relaxed);
        detector.stats.leave();
        cluster.mark(entry, Why::Outlier, false);
        tracing::info!(
            cluster = cluster.config.name,
            endpoint = %entry.address,
            "endpoint no longer ejected"
        );
    }
}

/// Ends the ejection of `entry` because it passed an active health check.
pub(crate) fn passed_check(cluster: &ClusterTable, entry: &EndpointEntry, now: u64) {
    if let (Some(detector), Some(monitor)) = (cluster.outlier.as_deref(), entry.state.monitor())
        && detector.policy.uneject_on_health_check
        && entry.state.health.holds(Why::Outlier)
    {
        let watched = Watched {
            cluster,
            entry,
            detector,
            monitor,
        };
        watched.uneject(now);
        // "Unejection also clears all the outlier detection counters."
        monitor.external.take();
        monitor.local.take();
    }
}

#[cfg(test)]
mod tests;
