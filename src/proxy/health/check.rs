//! What the results of active health checks make of an endpoint, and when it is asked again.
//!
//! Envoy's rules, on plain values: the very first result counts at once; a wrong answer is a
//! failure at once, one that is missing or retriable is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mesh::HealthCheck;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be.
    Passed,
    /// The same, but it works worse than it should.
    Degraded,
    /// Answered, and not as it should be.
    Wrong,
    /// Answered with a status that may pass by itself.
    Retriable,
    /// Not reached, or broken off.
    Unreachable,
    /// Not answered in time.
    TooLate,
}

impl Verdict {
    /// Whether it is one for the endpoint.
    pub(crate) fn passed(self) -> bool {
        matches!(self, Self::Passed | Self::Degraded)
    }
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Nothing yet; more of the same will.
    Pending,
    /// It is well now, or no longer.
    Done,
}

/// What is known of an endpoint from asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) well: bool,
    first: bool,
    passed: u32,
    failed: u32,
}

impl Session {
    /// Nobody has asked yet. `well` is what it is taken for meanwhile.
    pub(crate) fn new(well: bool) -> Self {
        Self {
            well,
            first: true,
            passed: 0,
            failed: 0,
        }
    }

    /// Whether no result has come yet.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// Takes a result in.
    pub(crate) fn take(&mut self, verdict: Verdict, policy: &HealthCheck) -> Change {
        let first = std::mem::replace(&mut self.first, false);
        if verdict.passed() {
            self.failed = 0;
            if self.well {
                return Change::None;
            }
            self.passed = self.passed.saturating_add(1);
            if !first && self.passed < policy.healthy_threshold {
                return Change::Pending;
            }
            self.well = true;
            self.passed = 0;
            return Change::Done;
        }
        self.passed = 0;
        if !self.well {
            return Change::None;
        }
        self.failed = self.failed.saturating_add(1);
        let at_once = verdict == Verdict::Wrong;
        if !at_once && self.failed < policy.unhealthy_threshold {
            return Change::Pending;
        }
        self.well = false;
        self.failed = 0;
        Change::Done
    }
}

/// How long to wait after a result. `traffic`: something was sent to the cluster at some time.
/// `chance` draws a number below its argument.
pub(crate) fn wait(
    policy: &HealthCheck,
    (verdict, change): (Verdict, Change),
    traffic: bool,
    chance: &mut impl FnMut(u64) -> u64,
) -> Duration {
    let passed = verdict.passed();
    let pending = change == Change::Pending;
    let unhealthy = policy.unhealthy_interval.unwrap_or(policy.interval);
    let base = match (traffic, passed, pending) {
        (true, true, true) => policy.healthy_edge_interval.unwrap_or(policy.interval),
        (true, true, false) => policy.interval,
        (true, false, true) => policy.unhealthy_edge_interval.unwrap_or(unhealthy),
        (true, false, false) => unhealthy,
        (false, true, false) => policy
            .no_traffic_healthy_interval
            .unwrap_or(policy.no_traffic_interval),
        (false, ..) => policy.no_traffic_interval,
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let percent = u64::from(policy.interval_jitter_percent);
    let mut more = 0;
    for most in [
        millis(base).saturating_mul(percent) / 100,
        millis(policy.interval_jitter),
    ] {
        if most > 0 {
            more += chance(most);
        }
    }
    base.saturating_add(Duration::from_millis(more))
}

/// The counts of a cluster. Kept while a cluster of its name stays.
#[derive(Debug, Default)]
pub(crate) struct CheckStats {
    attempt: AtomicU64,
    success: AtomicU64,
    failure: AtomicU64,
    network_failure: AtomicU64,
}

/// What [`CheckStats`] have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckCounts {
    pub(crate) attempt: u64,
    pub(crate) success: u64,
    pub(crate) failure: u64,
    pub(crate) network_failure: u64,
}

impl CheckStats {
    pub(crate) fn attempted(&self) {
        self.attempt.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, verdict: Verdict) {
        let mut counters = vec![match verdict {
            Verdict::Passed | Verdict::Degraded => &self.success,
            _ => &self.failure,
        }];
        if matches!(verdict, Verdict::Unreachable | Verdict::TooLate) {
            counters.push(&self.network_failure);
        }
        for counter in counters {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> CheckCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CheckCounts {
            attempt: read(&self.attempt),
            success: read(&self.success),
            failure: read(&self.failure),
            network_failure: read(&self.network_failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::health_check::{Check, TcpCheck};

    fn policy(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        let second = Duration::from_secs(1);
        HealthCheck {
            unhealthy_threshold,
            healthy_threshold,
            ..HealthCheck::new(Check::Tcp(TcpCheck::default()), second * 10, second)
        }
    }

    #[test]
    fn the_first_result_counts_at_once_and_later_ones_are_counted() {
        let policy = policy(2, 3);
        let mut session = Session::new(false);
        let mut told = String::new();
        for verdict in [
            Verdict::Passed,
            Verdict::TooLate,
            Verdict::Passed,
            Verdict::Unreachable,
            Verdict::Retriable,
            Verdict::Passed,
            Verdict::Passed,
            Verdict::TooLate,
            Verdict::Passed,
            Verdict::Passed,
            Verdict::Passed,
            Verdict::Wrong,
        ] {
            session.take(verdict, &policy);
            told.push(if session.well { '+' } else { '-' });
        }
        assert_eq!(told, "++++------+-");
    }

    #[test]
    fn waits_follow_the_state_the_traffic_and_chance() {
        let second = Duration::from_secs(1);
        let mut policy = policy(2, 2);
        policy.unhealthy_interval = Some(second * 4);
        policy.unhealthy_edge_interval = Some(second * 3);
        policy.healthy_edge_interval = Some(second * 2);
        policy.no_traffic_healthy_interval = Some(second * 90);
        let of = |verdict, change, traffic| {
            wait(&policy, (verdict, change), traffic, &mut |_| 0).as_secs()
        };
        for (verdict, change, traffic, expected) in [
            (Verdict::Passed, Change::None, true, 10),
            (Verdict::Passed, Change::Done, true, 10),
            (Verdict::Passed, Change::Pending, true, 2),
            (Verdict::Wrong, Change::None, true, 4),
            (Verdict::Wrong, Change::Done, true, 4),
            (Verdict::TooLate, Change::Pending, true, 3),
            (Verdict::Passed, Change::None, false, 90),
            (Verdict::Passed, Change::Pending, false, 60),
            (Verdict::TooLate, Change::None, false, 60),
        ] {
            assert_eq!(
                of(verdict, change, traffic),
                expected,
                "{verdict:?} {change:?}"
            );
        }
        policy.interval_jitter = second;
        policy.interval_jitter_percent = 50;
        let end = (Verdict::Passed, Change::None);
        let longest = wait(&policy, end, true, &mut |below| below - 1);
        assert_eq!(longest.as_millis(), 10_000 + 4_999 + 999);
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            3 => Just(Verdict::Passed),
            1 => Just(Verdict::Degraded),
            1 => Just(Verdict::Wrong),
            2 => Just(Verdict::Retriable),
            2 => Just(Verdict::Unreachable),
            2 => Just(Verdict::TooLate),
        ]
    }

    proptest! {
        /// What the documentation says, looked up in the whole history instead of kept in counters.
        #[test]
        fn an_endpoint_is_what_its_history_says(
            history in proptest::collection::vec(verdict(), 1..40),
            unhealthy in 1_u32..4,
            healthy in 1_u32..4,
            taken_for in any::<bool>(),
        ) {
            let policy = policy(unhealthy, healthy);
            let mut session = Session::new(taken_for);
            let mut well = taken_for;
            let mut since = 0;
            for (at, verdict) in history.iter().enumerate() {
                session.take(*verdict, &policy);
                let passed = verdict.passed();
                let row = history[since..=at]
                    .iter()
                    .rev()
                    .take_while(|other| other.passed() == passed)
                    .count();
                let row = u32::try_from(row).unwrap();
                let turns = match (well, passed) {
                    (true, true) | (false, false) => false,
                    (false, true) => at == 0 || row >= healthy,
                    (true, false) => *verdict == Verdict::Wrong || row >= unhealthy,
                };
                if turns {
                    well = !well;
                    since = at + 1;
                }
                prop_assert_eq!(session.well, well, "at {} of {:?}", at, history);
            }
        }
    }
}
