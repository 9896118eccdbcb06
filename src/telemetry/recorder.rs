//! Counting on the data path: cells that one worker writes and anybody may read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::rt::HashMap;

use super::names::{BOUNDS_MILLI, LATENCY_MICROS};
use super::registry::MAX_SERIES;
use super::{HttpKey, LinkKey, Linked, Registry, TcpKey};

/// A number that one thread writes: a load and a store instead of a locked addition (0.6 ns
/// against 5).
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds; only the owning worker may.
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram that one thread writes. Values are in thousandths of the unit.
#[derive(Debug, Default)]
pub struct HistogramCells {
    /// By bucket, not cumulative; the last one is what exceeds every bound.
    pub buckets: [Cell; BOUNDS_MILLI.len() + 1],
    /// Sum of values.
    pub sum_milli: Cell,
}

impl HistogramCells {
    /// Counts one value.
    pub fn record(&self, milli: u64) {
        let at = BOUNDS_MILLI.partition_point(|bound| *bound < milli);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
        }
        self.sum_milli.add(milli);
    }
}

/// Durations that one thread writes, by bounds that are fine enough for percentiles. In microseconds.
#[derive(Debug)]
pub struct DurationCells {
    /// By bucket, not cumulative; the last one is what exceeds every bound.
    pub buckets: [Cell; LATENCY_MICROS.len() + 1],
    /// Sum of durations.
    pub sum_micros: Cell,
}

impl Default for DurationCells {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Cell::default()),
            sum_micros: Cell::default(),
        }
    }
}

impl DurationCells {
    /// Counts one duration.
    pub fn record(&self, micros: u64) {
        let at = LATENCY_MICROS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
        }
        self.sum_micros.add(micros);
    }
}

/// A request that is an example of those in its bucket, and whose trace was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemplar {
    /// The id of its trace.
    pub trace: u128,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// When it ended, in milliseconds since the epoch.
    pub at_unix_ms: u64,
}

/// The last example of each of Istio's buckets, by its place. Empty, and never looked at, while nothing is sampled.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<BTreeMap<usize, Exemplar>>);

impl Exemplars {
    fn put(&self, exemplar: Exemplar) {
        let at = BOUNDS_MILLI.partition_point(|bound| *bound < exemplar.micros);
        // Nothing panics while it is held.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(at, exemplar);
    }

    /// Those that there are, by the place of their bucket.
    pub fn get(&self) -> Vec<(usize, Exemplar)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(at, exemplar)| (*at, *exemplar)).collect()
    }
}

/// The cells of one HTTP label set on one worker.
#[derive(Debug, Default)]
pub struct HttpCells {
    /// Requests.
    pub requests: Cell,
    /// Tries after the first.
    pub retries: Cell,
    /// From the first byte of the request to the last of the response.
    pub duration: DurationCells,
    /// Requests whose traces were kept.
    pub exemplars: Exemplars,
    /// In thousandths of a byte.
    pub request_bytes: HistogramCells,
    /// In thousandths of a byte.
    pub response_bytes: HistogramCells,
}

/// The cells of one TCP label set on one worker.
#[derive(Debug, Default)]
pub struct TcpCells {
    /// Connections that began.
    pub opened: Cell,
    /// Connections that ended.
    pub closed: Cell,
    /// Bytes to the caller.
    pub sent: Cell,
    /// Bytes from the caller.
    pub received: Cell,
}

/// The cells of connections that are protected alike, on one worker.
#[derive(Debug, Default)]
pub struct LinkCells {
    /// Connections that began.
    pub opened: Cell,
    /// Connections that ended.
    pub closed: Cell,
    /// Requests on them.
    pub requests: Cell,
    /// Bytes to the caller, where no requests are told apart.
    pub sent: Cell,
    /// Bytes from the caller, likewise.
    pub received: Cell,
}

/// One worker's way to count. Not shared between threads.
#[derive(Debug)]
pub struct Recorder {
    registry: Arc<Registry>,
    http: RefCell<HashMap<HttpKey, Arc<HttpCells>>>,
    tcp: RefCell<HashMap<TcpKey, Arc<TcpCells>>>,
    links: RefCell<HashMap<LinkKey, Arc<LinkCells>>>,
}

impl Recorder {
    /// A recorder whose cells `registry` adds up.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            http: RefCell::default(),
            tcp: RefCell::default(),
            links: RefCell::default(),
        }
    }

    /// The registry behind it.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Counts one finished request, which took `retries` tries after the first.
    pub fn http(
        &self,
        key: HttpKey,
        (duration, retries): (Duration, u32),
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let mut known = self.http.borrow_mut();
        let key = self.bounded(&known, key, HttpKey::folded);
        let cells = known
            .entry(key)
            .or_insert_with(|| self.registry.http_cells(key));
        cells.requests.add(1);
        if retries > 0 {
            cells.retries.add(u64::from(retries));
        }
        cells
            .duration
            .record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        cells
            .request_bytes
            .record(request_bytes.saturating_mul(1000));
        cells
            .response_bytes
            .record(response_bytes.saturating_mul(1000));
    }

    /// Keeps a request that was counted under `key` as an example of its bucket: for those alone whose trace is
    /// kept, which are few, as it takes a lock.
    pub fn exemplar(&self, key: HttpKey, exemplar: Exemplar) {
        let known = self.http.borrow();
        if let Some(cells) = known.get(&key).or_else(|| known.get(&key.folded())) {
            cells.exemplars.put(exemplar);
        }
    }

    /// The cells of a TCP label set, to be kept for a connection.
    pub fn tcp(&self, key: TcpKey) -> Arc<TcpCells> {
        let mut known = self.tcp.borrow_mut();
        let key = self.bounded(&known, key, TcpKey::folded);
        let cells = known
            .entry(key)
            .or_insert_with(|| self.registry.tcp_cells(key));
        Arc::clone(cells)
    }

    /// Counts a connection that carries requests until the answer is dropped.
    pub fn link(&self, key: LinkKey) -> Linked {
        let mut known = self.links.borrow_mut();
        let key = self.bounded(&known, key, LinkKey::folded);
        let cells = known
            .entry(key)
            .or_insert_with(|| self.registry.link_cells(key));
        Linked::new(Arc::clone(cells))
    }

    /// `key`, or what stands for it when there is no room for another: what one worker remembers is
    /// bounded like what the registry holds.
    fn bounded<K: Eq + std::hash::Hash, V>(
        &self,
        known: &HashMap<K, V>,
        key: K,
        folded: impl FnOnce(K) -> K,
    ) -> K {
        if known.len() < MAX_SERIES || known.contains_key(&key) {
            return key;
        }
        self.registry.overflowed();
        folded(key)
    }
}
