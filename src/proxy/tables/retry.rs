//! A retry policy, ready to judge answers.

use std::time::Duration;

use crate::mesh::route::{HeaderMatch, RateLimitedBackOff, Retry, RetryOn};

/// A retry policy as a set of conditions.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryTable {
    conditions: u32,
    /// Tries after the first.
    pub(crate) attempts: u32,
    /// For each try.
    pub(crate) per_try: Option<Duration>,
    /// For each try, without anything from the endpoint.
    pub(crate) per_try_idle: Option<Duration>,
    /// Statuses that are tried again.
    codes: Vec<u16>,
    /// Answers are judged by more than their status.
    looks_at_fields: bool,
    /// Fields of an answer by which it is tried again.
    pub(crate) headers: Vec<HeaderMatch>,
    /// Only requests for which any of these holds are tried again; all when empty.
    pub(crate) request_headers: Vec<HeaderMatch>,
    /// First wait is below this.
    base: Duration,
    /// No random wait is longer.
    max: Duration,
    /// No wait is shorter.
    pub(crate) min: Duration,
    /// Waits that answers ask for.
    pub(crate) rate_limited: Option<RateLimitedBackOff>,
}

impl RetryTable {
    pub(crate) fn new(retry: &Retry) -> Self {
        let limited = retry.on.contains(&RetryOn::RateLimited);
        Self {
            looks_at_fields: limited || !retry.headers.is_empty(),
            conditions: retry.on.iter().fold(0, |set, on| set | bit(*on)),
            attempts: retry.attempts,
            per_try: retry.per_try_timeout,
            per_try_idle: retry.per_try_idle_timeout,
            codes: retry.status_codes.clone(),
            headers: retry.headers.clone(),
            request_headers: retry.request_headers.clone(),
            base: retry.base_interval,
            max: retry.max_interval.unwrap_or(retry.base_interval * 10),
            min: retry.min_interval,
            rate_limited: retry.rate_limited.clone(),
        }
    }

    /// For a request that brings its own policy to a route without one (Envoy's defaults).
    pub(crate) fn bare() -> Self {
        Self::new(&Retry {
            attempts: 1,
            on: Vec::new(),
            ..Retry::default()
        })
    }

    /// Adds what a request asks for itself.
    pub(crate) fn extend(&mut self, on: &[RetryOn], codes: &[u16], headers: Vec<HeaderMatch>) {
        self.headers.extend(headers);
        self.looks_at_fields |= on.contains(&RetryOn::RateLimited) || !self.headers.is_empty();
        self.conditions = on.iter().fold(self.conditions, |set, on| set | bit(*on));
        self.codes.extend_from_slice(codes);
    }

    /// Whether answers are judged by more than their status.
    pub(crate) fn looks_at_fields(&self) -> bool {
        self.looks_at_fields
    }

    /// Whether it names no condition at all.
    pub(crate) fn is_off(&self) -> bool {
        self.conditions == 0
    }

    /// Whether the policy names `condition`.
    pub(crate) fn on(&self, condition: RetryOn) -> bool {
        self.conditions & bit(condition) != 0
    }

    /// Whether an answer is to be tried again, by its status alone.
    pub(crate) fn on_answer(&self, status: u16, grpc_status: Option<u8>) -> bool {
        let http = match status {
            502..=504 => self.on(RetryOn::ServerError) || self.on(RetryOn::GatewayError),
            500.. => self.on(RetryOn::ServerError),
            409 => self.on(RetryOn::Retriable4xx),
            _ => false,
        };
        let grpc = match grpc_status {
            Some(1) => self.on(RetryOn::Cancelled),
            Some(4) => self.on(RetryOn::DeadlineExceeded),
            Some(8) => self.on(RetryOn::ResourceExhausted),
            Some(13) => self.on(RetryOn::Internal),
            Some(14) => self.on(RetryOn::Unavailable),
            _ => false,
        };
        http || grpc
            || (!self.codes.is_empty()
                && self.on(RetryOn::RetriableStatusCodes)
                && self.codes.contains(&status))
    }

    /// The wait before the try after `retries` others: the least, and on top of it a fully random one, as
    /// in Envoy, below `(2^n - 1)` times the base and the longest wait. `chance` is uniform in 0..1.
    pub(crate) fn wait(&self, retries: u32, chance: f64) -> Duration {
        let factor = 2_u32
            .saturating_pow(retries.saturating_add(1).min(31))
            .saturating_sub(1);
        let ceiling = self.base.saturating_mul(factor).min(self.max);
        self.min + ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }
}

fn bit(on: RetryOn) -> u32 {
    RetryOn::ALL
        .iter()
        .position(|known| *known == on)
        .and_then(|at| u32::try_from(at).ok())
        .map_or(0, |at| 1 << at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_envoys() {
        let retry = RetryTable::new(&Retry {
            on: vec![RetryOn::GatewayError, RetryOn::Unavailable],
            ..Retry::default()
        });
        assert!(retry.on_answer(503, None) && !retry.on_answer(500, None));
        assert!(retry.on_answer(200, Some(14)) && !retry.on_answer(200, Some(13)));
    }

    #[test]
    fn waits_are_fully_random_below_a_growing_ceiling() {
        let retry = RetryTable::new(&Retry::default());
        let ceilings: Vec<_> = (0..6).map(|n| retry.wait(n, 1.0).as_millis()).collect();
        assert_eq!(ceilings, [25, 75, 175, 250, 250, 250]);
        assert_eq!(retry.wait(3, 0.0), Duration::ZERO);
        let capped = RetryTable::new(&Retry {
            max_interval: Some(Duration::from_millis(60)),
            ..Retry::default()
        });
        assert_eq!(capped.wait(40, 1.0), Duration::from_millis(60));
        let patient = RetryTable::new(&Retry {
            min_interval: Duration::from_millis(40),
            ..Retry::default()
        });
        let bounds = |n| [patient.wait(n, 0.0), patient.wait(n, 1.0)].map(|wait| wait.as_millis());
        assert_eq!([bounds(0), bounds(1)], [[40, 65], [40, 115]]);
    }
}
