//! What is counted of one edge in one slot.

use serde::{Deserialize, Serialize};

use super::codes::Codes;
use super::histogram::Histogram;

/// What happened on one edge in one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cell {
    /// Requests answered.
    pub requests: u64,
    /// Those answered 5xx, not at all, or with a gRPC status other than 0.
    pub failures: u64,
    /// Those over mTLS, as the destination saw it.
    pub mtls: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Requests that ran out of time.
    pub timeouts: u64,
    /// Requests refused by a circuit breaker.
    pub overflows: u64,
    /// Duration of requests, in milliseconds.
    pub latency: Histogram,
    /// TCP connections.
    pub tcp_opened: u64,
    /// Those over mTLS.
    pub tcp_mtls: u64,
    /// Bytes to the service.
    pub tcp_to: u64,
    /// Bytes from the service.
    pub tcp_from: u64,
    /// Answers to copies that were held against those that callers got.
    pub compared: u64,
    /// Those that differed.
    pub different: u64,
    /// Copies that got no answer where the caller got one.
    pub unanswered: u64,
    /// Requests by how they were answered, those apart that nobody asks about.
    pub codes: Codes,
}

/// Counters of a cell.
pub(super) const COUNTERS: usize = 13;

impl Cell {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (own, more) in self.counters_mut().into_iter().zip(other.counters()) {
            // A count that a foreign proxy made up ends at the most there is, in whatever order it is added.
            *own = own.saturating_add(more);
        }
        self.latency.merge(&other.latency);
        self.codes.merge(&other.codes);
    }

    /// Whether it tells of answers to copies, which are no calls of anybody.
    pub(super) fn is_of_copies(&self) -> bool {
        self.compared + self.unanswered > 0 && self.requests + self.tcp_opened == 0
    }

    /// Every counter, in the order in which they are written down.
    pub(super) fn counters(&self) -> [u64; COUNTERS] {
        [
            self.requests,
            self.failures,
            self.mtls,
            self.retries,
            self.timeouts,
            self.overflows,
            self.tcp_opened,
            self.tcp_mtls,
            self.tcp_to,
            self.tcp_from,
            self.compared,
            self.different,
            self.unanswered,
        ]
    }

    /// The same, to be changed.
    pub(super) fn counters_mut(&mut self) -> [&mut u64; COUNTERS] {
        [
            &mut self.requests,
            &mut self.failures,
            &mut self.mtls,
            &mut self.retries,
            &mut self.timeouts,
            &mut self.overflows,
            &mut self.tcp_opened,
            &mut self.tcp_mtls,
            &mut self.tcp_to,
            &mut self.tcp_from,
            &mut self.compared,
            &mut self.different,
            &mut self.unanswered,
        ]
    }

    /// Bytes that an open one takes in a map.
    pub(super) fn bytes(&self) -> usize {
        // Maps are about two thirds full.
        size_of::<Self>() * 3 / 2
            + size_of_val(self.latency.buckets()) * 2
            + size_of_val(self.codes.all()) * 2
            + 32
    }
}
