//! Whether another try may be made.
//!
//! The conditions are Envoy's. Beyond them, a request that was delivered and whose fate is unknown
//! is delivered again only when that is harmless.

use std::time::Duration;

use crate::mesh::route::{Request, ResetFormat, RetryOn};

use super::super::super::context::Worker;
use super::super::super::limit::{Gate, Held, count};
use super::super::super::tables::RetryTable;
use super::super::fields::{Fields, Scan, decimal};
use super::super::respond::Failure;

/// The chance of another try after the present one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chance<'t> {
    worker: &'t Worker,
    policy: &'t RetryTable,
    gate: Gate<'t>,
    /// Tries that may follow.
    left: u32,
    /// Tries before, after the first.
    retries: u32,
    /// Another try is on its way already.
    under_way: bool,
}

/// Leave for another try.
#[derive(Debug)]
pub(crate) struct Again<'t> {
    /// Counts as a retry while the try lasts.
    pub(crate) held: Held<'t>,
    /// To be waited before it.
    pub(crate) wait: Duration,
}

/// Why there is no other try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum No {
    /// The policy does not ask for one.
    NotMeant,
    /// Its number is used up.
    Spent,
    /// Too many retries are going on.
    Overflow,
    /// It is on its way already.
    UnderWay,
}

impl<'t> Chance<'t> {
    pub(super) fn new(
        worker: &'t Worker,
        policy: &'t RetryTable,
        gate: Gate<'t>,
        (left, retries): (u32, u32),
    ) -> Self {
        Self {
            worker,
            policy,
            gate,
            left,
            retries,
            under_way: false,
        }
    }

    /// For a try beside which another is on its way: its failure needs no more.
    pub(super) fn beside(self, under_way: bool) -> Self {
        Self { under_way, ..self }
    }

    /// Leave for a try beside one that takes too long, whatever the conditions (Envoy).
    pub(super) fn hedge(&self) -> Result<Again<'t>, No> {
        let held = self.take()?;
        count(&self.gate.counters.stats.upstream_rq_hedged);
        Ok(Again {
            held,
            wait: self.jitter(),
        })
    }

    /// Judges an answer. `whole` says that the request could be sent again.
    pub(crate) fn answer(
        &self,
        status: u16,
        scan: &Scan<'_>,
        fields: Fields<'_>,
        whole: bool,
    ) -> Result<Again<'t>, No> {
        if !whole || !self.names(status, scan, fields) {
            return Err(No::NotMeant);
        }
        if self.under_way {
            return Err(No::UnderWay);
        }
        let stats = &self.gate.counters.stats;
        let held = self.take()?;
        let wait = match self.asked(fields) {
            Some(asked) => {
                count(&stats.upstream_rq_retry_backoff_ratelimited);
                // Nobody comes back sooner than asked, and not all at once.
                asked
                    .mul_f64(1.0 + 0.5 * fastrand::f64())
                    .max(self.policy.min)
            }
            None => self.jitter(),
        };
        Ok(Again { held, wait })
    }

    /// Whether the policy is for a try that ended so without an answer. `delivered` says that the
    /// endpoint may have begun to process it, `harmless` that this could be done twice.
    pub(super) fn means(
        &self,
        failure: &Failure,
        (delivered, harmless, whole): (bool, bool, bool),
    ) -> bool {
        let named = failure.reply().retry.iter().any(|on| self.policy.on(*on))
            || (!delivered
                && !failure.reply().retry.is_empty()
                && self.policy.on(RetryOn::ResetBeforeRequest));
        let unknown =
            delivered && !matches!(failure, Failure::RefusedStream | Failure::Undelivered);
        named && whole && (!unknown || harmless)
    }

    /// Judges a try without an answer: see [`Chance::means`].
    pub(super) fn failure(
        &self,
        failure: &Failure,
        facts: (bool, bool, bool),
    ) -> Result<Again<'t>, No> {
        if !self.means(failure, facts) {
            return Err(No::NotMeant);
        }
        let held = self.take()?;
        Ok(Again {
            held,
            wait: self.jitter(),
        })
    }

    fn take(&self) -> Result<Held<'t>, No> {
        let stats = &self.gate.counters.stats;
        if self.left == 0 {
            count(&stats.upstream_rq_retry_limit_exceeded);
            return Err(No::Spent);
        }
        let held = self.gate.retry().ok_or(No::Overflow)?;
        count(&stats.upstream_rq_retry);
        Ok(held)
    }

    fn jitter(&self) -> Duration {
        count(
            &self
                .gate
                .counters
                .stats
                .upstream_rq_retry_backoff_exponential,
        );
        self.policy.wait(self.retries, fastrand::f64())
    }

    fn names(&self, status: u16, scan: &Scan<'_>, fields: Fields<'_>) -> bool {
        let policy = self.policy;
        let by_status = policy.on_answer(status, scan.grpc_status);
        let by_fields = || {
            policy.on(RetryOn::RetriableHeaders)
                && policy
                    .headers
                    .iter()
                    .any(|header| header.holds(&Answered(fields)))
        };
        if !by_status && !policy.looks_at_fields() {
            return false;
        }
        if says(fields, "x-envoy-overloaded") {
            return false;
        }
        if says(fields, "x-envoy-ratelimited") {
            return policy.on(RetryOn::RateLimited);
        }
        by_status || by_fields()
    }

    /// The wait that an answer asks for.
    fn asked(&self, fields: Fields<'_>) -> Option<Duration> {
        let policy = self.policy.rate_limited.as_ref()?;
        policy.reset_headers.iter().find_map(|header| {
            let number = decimal(fields.first(&header.name)?.trim_ascii())?;
            let wait = match header.format {
                ResetFormat::Seconds => Duration::from_secs(number),
                ResetFormat::UnixTimestamp => {
                    let now = self.worker.shared.wall.millis() / 1000;
                    Duration::from_secs(number.checked_sub(now)?)
                }
            };
            (!wait.is_zero() && wait <= policy.max_interval).then_some(wait)
        })
    }
}

fn says(fields: Fields<'_>, name: &str) -> bool {
    fields.first(name).is_some()
}

/// An answer's fields, for conditions on headers.
struct Answered<'m>(Fields<'m>);

impl Request for Answered<'_> {
    fn method(&self) -> &[u8] {
        b""
    }

    fn authority(&self) -> &[u8] {
        b""
    }

    fn scheme(&self) -> &[u8] {
        b""
    }

    fn path_and_query(&self) -> &[u8] {
        b""
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        let mut go_on = true;
        self.0.each(|field, value| {
            if go_on && field.eq_ignore_ascii_case(name.as_bytes()) {
                go_on = visit(value);
            }
        });
    }
}
