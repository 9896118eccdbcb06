//! Circuit breakers: counts that all workers share, so that a limit is one of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::tables::EndpointState;
use crate::mesh::cluster::Thresholds;
use crate::mesh::route::Priority;

/// What is going on in a cluster. Kept while the cluster stays, whatever else changes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    usual: Counts,
    high: Counts,
    /// What happened so far.
    pub(crate) stats: ClusterStats,
}

/// What is going on at one priority.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections to all endpoints together.
    pub(crate) connections: AtomicU32,
    /// Requests that wait for a connection.
    pub(crate) pending: AtomicU32,
    /// Requests in flight, and those that wait.
    pub(crate) requests: AtomicU32,
    /// Retries in flight.
    pub(crate) retries: AtomicU32,
}

macro_rules! cluster_stats {
    ($($field:ident $help:literal),* $(,)?) => {
        /// Counters of a cluster, by Envoy's names. All of them are off the path of a request that
        /// goes well.
        #[derive(Debug, Default)]
        pub(crate) struct ClusterStats {
            $(#[doc = $help] pub(crate) $field: AtomicU64,)*
        }

        impl ClusterStats {
            /// Name, help and value of each.
            pub(crate) fn each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
                $(visit(
                    concat!("envoy_cluster_", stringify!($field)),
                    $help,
                    self.$field.load(Ordering::Relaxed),
                );)*
            }
        }
    };
}

cluster_stats! {
    upstream_cx_overflow "Times that the limit of connections was reached.",
    upstream_rq_pending_overflow "Requests refused by the limits of requests, in flight or waiting.",
    upstream_rq_retry "Tries after the first.",
    upstream_rq_retry_success "Requests that a later try answered.",
    upstream_rq_retry_overflow "Tries not made because of the limit or budget of retries.",
    upstream_rq_retry_limit_exceeded "Tries not made because the policy's number was used up.",
    upstream_rq_retry_backoff_exponential "Waits before a try, by the policy.",
    upstream_rq_retry_backoff_ratelimited "Waits before a try, as the answer asked for.",
    upstream_rq_timeout "Requests that took longer than their route allows.",
    upstream_rq_per_try_timeout "Tries that took longer than the policy allows.",
    upstream_rq_per_try_idle_timeout "Tries during which nothing came for longer than the policy allows.",
    upstream_rq_max_duration_reached "Requests that lived longer than their route allows.",
    upstream_rq_hedged "Tries begun beside one that took too long.",
    upstream_rq_mirrored "Copies of requests sent to the cluster.",
    upstream_rq_mirror_dropped "Copies given up: too large, too slow, or over a limit.",
}

/// Counts one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Connections of both priorities.
    pub(crate) fn connections(&self) -> u32 {
        let of = |counts: &Counts| counts.connections.load(Ordering::Relaxed);
        of(&self.usual).saturating_add(of(&self.high))
    }

    /// Requests in flight of both priorities.
    pub(crate) fn requests(&self) -> u32 {
        let of = |counts: &Counts| counts.requests.load(Ordering::Relaxed);
        of(&self.usual).saturating_add(of(&self.high))
    }

    /// What is going on at `priority`.
    pub(crate) fn at(&self, priority: Priority) -> &Counts {
        match priority {
            Priority::Default => &self.usual,
            Priority::High => &self.high,
        }
    }
}

/// The limits of a cluster for requests of one priority.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate<'c> {
    pub(crate) priority: Priority,
    pub(crate) counters: &'c Arc<Counters>,
    pub(crate) limits: &'c Thresholds,
}

impl<'c> Gate<'c> {
    /// Takes the place of a request.
    pub(crate) fn request(&self) -> Option<Held<'c>> {
        let held = hold(&self.counts().requests, self.limits.max_requests);
        if held.is_none() {
            count(&self.counters.stats.upstream_rq_pending_overflow);
        }
        held
    }

    /// Takes a place in the line for a connection.
    pub(crate) fn pending(&self) -> Option<Held<'c>> {
        let held = hold(&self.counts().pending, self.limits.max_pending_requests);
        if held.is_none() {
            count(&self.counters.stats.upstream_rq_pending_overflow);
        }
        held
    }

    /// Takes one connection.
    pub(crate) fn connection(&self) -> Option<ConnectionSlot> {
        let slot = self.connection_again();
        if slot.is_none() {
            count(&self.counters.stats.upstream_cx_overflow);
        }
        slot
    }

    /// Takes one connection, after a first attempt that was counted.
    pub(crate) fn connection_again(&self) -> Option<ConnectionSlot> {
        enter(&self.counts().connections, self.limits.max_connections)
            .then(|| ConnectionSlot(Arc::clone(self.counters), self.priority, None))
    }

    /// Takes the place of a retry.
    pub(crate) fn retry(&self) -> Option<Held<'c>> {
        let limit = match &self.limits.retry_budget {
            Some(budget) => budget.allows(self.counts().requests.load(Ordering::Relaxed)),
            None => self.limits.max_retries,
        };
        let held = hold(&self.counts().retries, limit);
        if held.is_none() {
            count(&self.counters.stats.upstream_rq_retry_overflow);
        }
        held
    }

    fn counts(&self) -> &'c Counts {
        self.counters.at(self.priority)
    }
}

/// One unit of a counter, given back on drop.
#[derive(Debug)]
pub(crate) struct Held<'c>(&'c AtomicU32);

/// One connection, for a holder that outlives the tables.
#[derive(Debug)]
pub(crate) struct ConnectionSlot(Arc<Counters>, Priority, Option<Arc<EndpointState>>);

/// Takes one unit unless `limit` are taken; `u32::MAX` is unlimited.
pub(crate) fn hold(counter: &AtomicU32, limit: u32) -> Option<Held<'_>> {
    enter(counter, limit).then(|| Held(counter))
}

impl ConnectionSlot {
    /// Takes a place among the connections of an endpoint, too.
    pub(crate) fn at(mut self, state: &Arc<EndpointState>, limit: u32) -> Option<Self> {
        if !enter(&state.connections, limit) {
            return None;
        }
        self.2 = Some(Arc::clone(state));
        Some(self)
    }
}

fn enter(counter: &AtomicU32, limit: u32) -> bool {
    if counter.fetch_add(1, Ordering::Relaxed) < limit {
        return true;
    }
    counter.fetch_sub(1, Ordering::Relaxed);
    false
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0
            .at(self.1)
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(endpoint) = &self.2 {
            endpoint.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::cluster::RetryBudget;

    use super::*;

    #[test]
    fn a_unit_comes_back_when_dropped() {
        let counter = AtomicU32::new(0);
        let first = hold(&counter, 1);
        assert!(first.is_some() && hold(&counter, 1).is_none());
        drop(first);
        assert!(hold(&counter, 1).is_some());
        assert!(hold(&counter, 0).is_none());
        assert_eq!(counter.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn priorities_are_counted_apart() {
        let counters = Arc::new(Counters::default());
        let limits = Thresholds {
            max_connections: 1,
            ..Thresholds::default()
        };
        let gate = |priority| Gate {
            priority,
            counters: &counters,
            limits: &limits,
        };
        let usual = gate(Priority::Default).connection();
        assert!(usual.is_some() && gate(Priority::Default).connection().is_none());
        assert!(gate(Priority::High).connection().is_some());
        drop(usual);
        assert!(gate(Priority::Default).connection().is_some());
        let overflow = &counters.stats.upstream_cx_overflow;
        assert_eq!(overflow.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_retry_budget_follows_what_is_going_on() {
        let counters = Arc::new(Counters::default());
        let limits = Thresholds {
            max_requests: u32::MAX,
            max_retries: 0,
            retry_budget: Some(RetryBudget {
                percent_milli: 25_000,
                min_concurrency: 1,
            }),
            ..Thresholds::default()
        };
        let gate = Gate {
            priority: Priority::Default,
            counters: &counters,
            limits: &limits,
        };
        let first = gate.retry();
        assert!(first.is_some() && gate.retry().is_none());
        let requests: Vec<_> = (0..8).map(|_| gate.request()).collect();
        let second = gate.retry();
        assert!(second.is_some() && gate.retry().is_none());
        drop(requests);
        drop(second);
        assert!(gate.retry().is_none());
        let overflow = &counters.stats.upstream_rq_retry_overflow;
        assert_eq!(overflow.load(Ordering::Relaxed), 3);
    }
}
