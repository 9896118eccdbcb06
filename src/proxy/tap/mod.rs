//! Calls that somebody looks at while they happen.
//!
//! [`Taps`] is what workers ask: one load where nobody looks. A request whose head rules it out for every tap costs
//! what its conditions cost, and is forgotten; of another a record is made, judged at its end by the whole condition,
//! and let pass by the tap's bucket into a bounded queue. [`stream`] asks the control plane which taps there are and
//! tells it of the calls; [`seen`] is how conditions look at a call, [`entry`] how it is written in Envoy's message.

mod entry;
mod seen;
mod stream;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::mesh::expression::Attributes;
use crate::mesh::tap::Tap;
use crate::telemetry::{AccessRecord, Registry};

use super::filter::bucket::Bucket;
pub(crate) use seen::{Head, Seen};
pub(crate) use stream::follow;

/// Calls of a tap that wait to be told, at most.
const QUEUE: usize = 256;

/// Who looks at this proxy's calls.
#[derive(Debug, Default)]
pub struct Taps {
    on: AtomicBool,
    running: ArcSwap<Vec<Arc<Running>>>,
    /// Calls that found a queue full.
    dropped: AtomicU64,
}

/// A tap that is told of calls.
#[derive(Debug)]
struct Running {
    tap: Tap,
    bucket: Bucket,
    queue: mpsc::Sender<Arc<AccessRecord>>,
}

impl Running {
    fn new(tap: Tap) -> (Arc<Self>, mpsc::Receiver<Arc<AccessRecord>>) {
        let (queue, told) = mpsc::channel(QUEUE);
        let running = Self {
            bucket: Bucket::new(&tap.rate, 0),
            tap,
            queue,
        };
        (Arc::new(running), told)
    }
}

impl Taps {
    /// Whether anybody looks.
    pub(crate) fn on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Whether some tap may want a request with this head that begins `now`, in milliseconds since the proxy began.
    /// One that has been told all that it may be told does not: a busy proxy would make records to forget them.
    pub(crate) fn may_want(&self, head: &dyn Attributes, now: u64) -> bool {
        let running = self.running.load();
        let mut running = running.iter();
        running.any(|one| one.bucket.has(now) && one.tap.condition.holds(head) != Some(false))
    }

    /// Names of the fields of requests that taps tell of or ask about.
    pub(crate) fn headers(&self) -> BTreeSet<String> {
        let running = self.running.load();
        running
            .iter()
            .flat_map(|one| {
                let asked = one.tap.condition.request_fields();
                let told = one.tap.headers.iter().map(String::as_str);
                told.chain(asked).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Tells of a call whoever wants it. `now` is in milliseconds since the proxy began.
    pub(crate) fn offer(&self, record: &Arc<AccessRecord>, now: u64, registry: &Registry) {
        for one in self.running.load().iter() {
            let seen = Seen { record, registry };
            let wanted = one.tap.condition.holds(&seen) == Some(true);
            if wanted
                && one.bucket.draw(now).allowed
                && one.queue.try_send(Arc::clone(record)).is_err()
            {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Calls that were not told as too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many look.
    pub(crate) fn count(&self) -> usize {
        self.running.load().len()
    }

    fn set(&self, running: Vec<Arc<Running>>) {
        let on = !running.is_empty();
        self.running.store(Arc::new(running));
        self.on.store(on, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::expression::Expression;
    use crate::mesh::tap::rate;

    fn tap(condition: &str, per_second: u32) -> Tap {
        Tap {
            name: "tap/1".to_owned(),
            condition: Expression::new(condition).unwrap(),
            headers: vec![],
            rate: rate(per_second),
        }
    }

    fn call(code: u16) -> Arc<AccessRecord> {
        Arc::new(AccessRecord {
            code,
            ..AccessRecord::default()
        })
    }

    #[test]
    fn a_tap_is_told_of_what_it_asks_for_and_of_no_more_than_its_rate() {
        let (taps, registry) = (Taps::default(), Registry::default());
        assert!(!taps.on());
        let (running, mut told) = Running::new(tap("response.code >= 500", 10));
        taps.set(vec![running]);
        assert!(taps.on());
        for _ in 0..30 {
            taps.offer(&call(200), 0, &registry);
            taps.offer(&call(503), 0, &registry);
        }
        let mut count = 0;
        while let Ok(record) = told.try_recv() {
            assert_eq!(record.code, 503);
            count += 1;
        }
        assert_eq!(count, 10);
        let record = &call(503);
        let head = Seen {
            record,
            registry: &registry,
        };
        assert!(!taps.may_want(&head, 0) && taps.may_want(&head, 1_000));
        taps.offer(&call(500), 1_000, &registry);
        assert_eq!(told.try_recv().unwrap().code, 500);
        taps.set(vec![]);
        assert!(!taps.on());
        assert!(matches!(
            told.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
    }

    #[test]
    fn a_tap_that_does_not_read_loses_calls_and_holds_up_nobody() {
        let (taps, registry) = (Taps::default(), Registry::default());
        let (running, _told) = Running::new(tap("response.code >= 0", 100_000));
        taps.set(vec![running]);
        for _ in 0..QUEUE + 7 {
            taps.offer(&call(200), 0, &registry);
        }
        assert_eq!(taps.dropped(), 7);
    }
}
