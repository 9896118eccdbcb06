//! Circuit breakers: counts that all workers share, so that a limit is one of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is going on in a cluster. Kept while the cluster stays, whatever else changes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections to all endpoints together.
    pub(crate) connections: AtomicU32,
    /// Requests that wait for a connection.
    pub(crate) pending: AtomicU32,
    /// Requests in flight.
    pub(crate) requests: AtomicU32,
    /// Retries in flight.
    pub(crate) retries: AtomicU32,
    /// Requests that a limit refused.
    pub(crate) overflowed: AtomicU64,
}

/// One unit of a counter, given back on drop.
#[derive(Debug)]
pub(crate) struct Held<'c>(&'c AtomicU32);

/// As [`Held`], for a holder that outlives the tables.
#[derive(Debug)]
pub(crate) struct ConnectionSlot(Arc<Counters>);

/// Takes one unit unless `limit` are taken; `u32::MAX` is unlimited.
pub(crate) fn hold(counter: &AtomicU32, limit: u32) -> Option<Held<'_>> {
    enter(counter, limit).then(|| Held(counter))
}

/// Takes one connection of a cluster.
pub(crate) fn connection(counters: &Arc<Counters>, limit: u32) -> Option<ConnectionSlot> {
    enter(&counters.connections, limit).then(|| ConnectionSlot(Arc::clone(counters)))
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
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
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
}
