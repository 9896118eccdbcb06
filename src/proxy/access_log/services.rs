//! Queues of calls for services that are told of them.
//!
//! Whoever logs puts a record into the queue of its service, and never waits; what finds it full is dropped and counted.
//! A queue is bounded by bytes as well, since what callers send is as long as they please. The other end is
//! [`deliver`](super::deliver)'s.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::mpsc;

use crate::mesh::access_log::service::LogService;
use crate::telemetry::AccessRecord;

/// Records in a queue at most.
const QUEUE: usize = 16 * 1024;
/// Bytes of records in a queue at most.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// Services at once; configuration that changes often leaves no more behind.
const SERVICES: usize = 16;

/// All services that are told.
#[derive(Debug, Default)]
pub(crate) struct Services {
    known: Mutex<Vec<Known>>,
    desk: OnceLock<mpsc::UnboundedSender<Opened>>,
    pub(crate) counts: Arc<Counts>,
}

/// One of them, for as long as somebody has its lane.
#[derive(Debug)]
struct Known {
    service: Arc<LogService>,
    queue: mpsc::WeakSender<Waiting>,
    bytes: Arc<AtomicUsize>,
}

/// What became of records.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Handed over, or taken where each message is answered.
    pub(crate) sent: AtomicU64,
    /// Found a queue full.
    pub(crate) dropped: AtomicU64,
    /// Refused, or given up after several tries.
    pub(crate) failed: AtomicU64,
}

impl Counts {
    pub(super) fn add(to: &AtomicU64, count: usize) {
        to.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
}

/// A record, and its bytes.
#[derive(Debug)]
struct Waiting(Arc<AccessRecord>, usize);

/// Where records for one service are put.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<AtomicUsize>,
    counts: Arc<Counts>,
}

/// Where they are taken.
#[derive(Debug)]
pub(super) struct Queue {
    queue: mpsc::Receiver<Waiting>,
    bytes: Arc<AtomicUsize>,
}

/// A service that is told from now on.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) service: Arc<LogService>,
    pub(super) queue: Queue,
}

impl Services {
    /// From now on services are told by whoever gets them from the other end of `desk`.
    pub(super) fn served_by(&self, desk: mpsc::UnboundedSender<Opened>) {
        // There is one for each proxy, which comes once.
        let _first = self.desk.set(desk).is_ok();
    }

    /// The lane of `service`; none where there are too many, or nobody tells them.
    pub(crate) fn open(&self, service: &Arc<LogService>) -> Option<Lane> {
        let desk = self.desk.get()?;
        // Nothing panics while it is held; if something did, what is known is still right.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = |queue, bytes: &Arc<AtomicUsize>| Lane {
            queue,
            bytes: Arc::clone(bytes),
            counts: Arc::clone(&self.counts),
        };
        known.retain(|known| known.queue.strong_count() > 0);
        let same = known.iter().find(|known| known.service == *service);
        if let Some(known) = same
            && let Some(queue) = known.queue.upgrade()
        {
            return Some(lane(queue, &known.bytes));
        }
        if known.len() >= SERVICES {
            tracing::warn!(
                log = service.name,
                "too many services of logs: it is told nothing"
            );
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicUsize::new(0));
        let opened = Opened {
            service: Arc::clone(service),
            queue: Queue {
                queue: receiver,
                bytes: Arc::clone(&bytes),
            },
        };
        desk.send(opened).ok()?;
        known.push(Known {
            service: Arc::clone(service),
            queue: sender.downgrade(),
            bytes: Arc::clone(&bytes),
        });
        Some(lane(sender, &bytes))
    }
}

impl Lane {
    /// Puts a record into the queue, or counts it as dropped.
    pub(crate) fn put(&self, record: &Arc<AccessRecord>) {
        let size = record.bytes();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let waiting = Waiting(Arc::clone(record), size);
        if before.saturating_add(size) > QUEUE_BYTES || self.queue.try_send(waiting).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Queue {
    fn taken(&self, waiting: Waiting) -> Arc<AccessRecord> {
        self.bytes.fetch_sub(waiting.1, Ordering::Relaxed);
        waiting.0
    }

    /// Waits for the next; none when nobody will put any more.
    pub(super) async fn next(&mut self) -> Option<Arc<AccessRecord>> {
        let next = self.queue.recv().await?;
        Some(self.taken(next))
    }

    /// The next that is there.
    pub(super) fn now(&mut self) -> Option<Arc<AccessRecord>> {
        let next = self.queue.try_recv().ok()?;
        Some(self.taken(next))
    }

    /// Nobody can put any more.
    pub(super) fn close(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Arc<LogService> {
        Arc::new(LogService {
            name: name.to_owned(),
            ..LogService::default()
        })
    }

    fn record(path: usize) -> Arc<AccessRecord> {
        Arc::new(AccessRecord {
            path: "x".repeat(path),
            ..AccessRecord::default()
        })
    }

    fn served() -> (Services, mpsc::UnboundedReceiver<Opened>) {
        let (services, (desk, opened)) = (Services::default(), mpsc::unbounded_channel());
        services.served_by(desk);
        (services, opened)
    }

    #[test]
    fn a_queue_that_nobody_empties_is_bounded_and_what_is_lost_is_counted() {
        for (size, most) in [(0, QUEUE), (64 * 1024, QUEUE_BYTES / (64 * 1024))] {
            let (services, mut opened) = served();
            let lane = services.open(&service("a")).unwrap();
            let record = record(size);
            for _ in 0..2 * QUEUE {
                lane.put(&record);
            }
            let mut queue = opened.try_recv().unwrap().queue;
            let kept = std::iter::from_fn(|| queue.now()).count();
            assert!(kept <= most && kept >= most - 8, "{kept} of {most}");
            let dropped = services.counts.dropped.load(Ordering::Relaxed);
            assert_eq!(dropped, u64::try_from(2 * QUEUE - kept).unwrap());
            // And there is room again.
            lane.put(&record);
            assert!(queue.now().is_some());
        }
    }

    #[test]
    fn a_service_has_one_queue_for_as_long_as_somebody_logs_to_it() {
        let (services, mut opened) = served();
        let first = services.open(&service("a"));
        let second = services.open(&service("a"));
        assert!(opened.try_recv().is_ok() && opened.try_recv().is_err());
        drop((first, second));
        assert!(services.open(&service("a")).is_some());
        assert!(opened.try_recv().is_ok());
    }

    #[test]
    fn there_are_so_many_services_and_no_more() {
        let (services, _opened) = served();
        let number = |number: usize| service(&number.to_string());
        let mut lanes: Vec<_> = (0..SERVICES).map(|at| services.open(&number(at))).collect();
        assert!(lanes.iter().all(Option::is_some));
        assert!(services.open(&number(SERVICES)).is_none());
        lanes.pop();
        assert!(services.open(&number(SERVICES)).is_some());
    }

    #[test]
    fn where_nobody_tells_there_is_no_queue() {
        assert!(Services::default().open(&service("a")).is_none());
    }
}
