//! What pushing takes, by the names that istiod has for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use crate::xds::Kind;

/// Istio's bounds for how long a push is computed, in seconds.
const PUSH_TIME: [f64; 8] = [0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
/// Istio's bounds for how long it takes until a proxy has a change, in seconds.
const CONVERGENCE: [f64; 8] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// Counts since the control plane started.
#[derive(Debug)]
pub(crate) struct Figures {
    /// How long a client's snapshot was computed.
    pub(crate) push_time: Histogram,
    /// From a change to its acknowledgement by a client that had everything before.
    pub(crate) convergence: Histogram,
    inner: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// By kind: responses that were sent, and those that clients refused.
    by_kind: BTreeMap<Kind, (u64, u64)>,
    /// The newest revision, and when it was made.
    newest: (u64, Instant),
}

/// Responses of a kind, and what came of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OfKind {
    pub(crate) kind: Kind,
    pub(crate) sent: u64,
    pub(crate) rejected: u64,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            push_time: Histogram::new(PUSH_TIME),
            convergence: Histogram::new(CONVERGENCE),
            inner: Mutex::new(Counts {
                by_kind: BTreeMap::new(),
                newest: (0, crate::rt::now()),
            }),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A revision is served that was made at `since`.
    pub(super) fn revised(&self, revision: u64, since: Instant) {
        self.with(|counts| counts.newest = (revision, since));
    }

    /// A snapshot was computed.
    pub(super) fn computed(&self, took: Duration) {
        self.push_time.observe(took.as_secs_f64());
    }

    pub(super) fn sent(&self, kind: Kind) {
        self.with(|counts| counts.by_kind.entry(kind).or_default().0 += 1);
    }

    pub(super) fn rejected(&self, kind: Kind) {
        self.with(|counts| counts.by_kind.entry(kind).or_default().1 += 1);
    }

    /// A client that had `before` has now acknowledged `acked`. Its first acknowledgement says how long it took to
    /// connect, which is something else.
    pub(super) fn acked(&self, before: u64, acked: u64) {
        let (newest, since) = self.with(|counts| counts.newest);
        if before > 0 && before < newest && acked >= newest {
            let took = crate::rt::now().duration_since(since);
            self.convergence.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn kinds(&self) -> Vec<OfKind> {
        self.with(|counts| {
            let kinds = counts.by_kind.iter();
            kinds
                .map(|(kind, (sent, rejected))| OfKind {
                    kind: *kind,
                    sent: *sent,
                    rejected: *rejected,
                })
                .collect()
        })
    }
}
