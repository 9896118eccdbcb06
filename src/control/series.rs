//! Numbers from proxies: the metrics service, and the series in the store.
//!
//! What is written down at a time (slots, edges, where counters stand) reaches the store as one, so what is read after
//! a crash is all of one moment. A proxy tells sums: what it counted since that moment is the difference, and nothing
//! is lost or counted twice. Without the moment that would not hold: a counter that is ahead of its slots loses, and
//! one behind counts again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::metrics::v3::metrics_service_server::MetricsService;
use envoy_types::pb::envoy::service::metrics::v3::{StreamMetricsMessage, StreamMetricsResponse};
use tonic::{Request, Response, Status, Streaming};

use crate::aggregate::edges::{Parts as Linked, parts as linked};
use crate::aggregate::ingest::{Followed, is_wanted};
use crate::aggregate::query::{Parts, parts};
use crate::aggregate::sample::{Sample, samples};
use crate::aggregate::series::{Kept, Key};
use crate::aggregate::shadows::Shadows;
use crate::aggregate::{
    Asked, Ejections, Ingest, Limits, Process, Query, Series, edges, legacy, links, report, shares,
};
use crate::api::edges::EdgesReport;
use crate::api::ejections::EjectionReport;
use crate::api::series::SeriesReport;
use crate::api::shadow::ShadowReport;
use crate::api::stats::StatsReport;
use crate::mesh::{Service, SpiffeId, World};
use crate::rt::{Reader, Wall};
use crate::source::store::{Store, StoreError, Tree};
use crate::xds::node::{Teller, id_name, teller};

use super::attest::is_anothers;
use super::push::Revised;
use super::report::ejections::ejected;
use super::serve_tls::PeerIdentity;

/// How often series are written down, at least when there is little.
pub const WRITE: Duration = Duration::from_secs(5);
/// Bytes a second that are written down, on the whole.
const WRITE_BYTES: u64 = 1 << 20;
/// How long a proxy's counters are remembered after its last push.
const FORGET_MS: u64 = 24 * 3_600 * 1_000;
/// Where numbers are in the store; what was there before was written otherwise.
const PREFIX: &str = "n2/";

/// Most bytes that numbers take, unless it is said otherwise: 128 MiB.
pub const BYTES: usize = 128 << 20;

/// The series, and where each proxy's counters stand.
#[derive(Debug, Clone)]
pub struct Numbers {
    store: Store,
    wall: Wall,
    /// Whether nobody else is told numbers.
    alone: bool,
    inner: Arc<Mutex<Inner>>,
    /// In memory only.
    shadows: Arc<Mutex<Shadows>>,
    /// Likewise.
    ejections: Arc<Mutex<Ejections>>,
}

#[derive(Debug, Default)]
struct Inner {
    series: Series,
    ingest: Ingest,
    /// Once a fold has been told in the log.
    told: bool,
}

/// How much numbers take, and what was not told apart for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) kept: Kept,
    pub(crate) followed: Followed,
    /// All of it at most, in bytes.
    pub(crate) most_bytes: usize,
}

impl Size {
    /// All of it now, in bytes, but for what protects connections, which has a bound of its own.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.bytes + self.followed.bytes
    }
}

/// The same in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Bytes now.
    pub bytes: u64,
    /// At most.
    pub most_bytes: u64,
    /// Edges that are told apart.
    pub edges: u64,
    /// Label sets that are followed.
    pub label_sets: u64,
    /// Increments that were counted under `(other)`.
    pub folded: u64,
    /// Times that a label set was told of which nothing is counted.
    pub unfollowed: u64,
}

impl Numbers {
    /// Reads what was written down, and keeps to `bytes` from then on: [`links::MOST_BYTES`] for what protects
    /// connections, and of the rest five parts for slots and edges, and two for where counters stand.
    pub fn open(store: Store, wall: Wall, bytes: usize, alone: bool) -> Result<Self, StoreError> {
        let rest = bytes.max(links::MOST_BYTES * 2) - links::MOST_BYTES;
        let mut inner = Inner {
            series: Series::new(Limits::of(rest / 7 * 5)),
            ingest: Ingest::new(rest / 7 * 2),
            told: false,
        };
        if let Some(head) = store.get(Tree::Series, format!("{PREFIX}head").as_bytes())?
            && let Some(floors) = read_head(&head)
        {
            inner.series.restore_floors(floors);
        }
        let mut left_out = 0_usize;
        let mut each = |prefix: &str, take: &mut dyn FnMut(&str, &[u8]) -> bool| {
            for (key, bytes) in store.scan(Tree::Series, format!("{PREFIX}{prefix}").as_bytes())? {
                let name = key.get(PREFIX.len()..).unwrap_or_default();
                let took = std::str::from_utf8(name).is_ok_and(|name| take(name, &bytes));
                if !took {
                    left_out += 1;
                    store.remove_soon(key)?;
                }
            }
            Ok::<(), StoreError>(())
        };
        let Inner { series, ingest, .. } = &mut inner;
        each("edge/", &mut |name, bytes| {
            Key::parse(name).is_some_and(|key| series.restore(key, bytes))
        })?;
        series.restored();
        each("slot/", &mut |name, bytes| {
            Key::parse(name).is_some_and(|key| series.restore(key, bytes))
        })?;
        each("cursor/", &mut |name, bytes| {
            name.strip_prefix("cursor/")
                .and_then(Process::parse)
                .is_some_and(|process| ingest.restore(process, bytes))
        })?;
        if left_out > 0 {
            tracing::warn!(left_out, "numbers that were written down make no sense");
        }
        let numbers = Self {
            store,
            wall,
            alone,
            inner: Arc::new(Mutex::new(inner)),
            shadows: Arc::default(),
            ejections: Arc::default(),
        };
        numbers.read_old()?;
        Ok(numbers)
    }

    /// Takes over what was written down as JSON, by one write with its removal.
    fn read_old(&self) -> Result<(), StoreError> {
        let old = self.store.scan(Tree::Series, b"slot/")?;
        let cursors = self.store.get(Tree::Series, b"cursors")?;
        if old.is_empty() && cursors.is_none() {
            return Ok(());
        }
        let now = self.wall.millis();
        self.with(|inner| {
            for (key, bytes) in &old {
                let _sense = legacy::read(key, bytes, &mut inner.series);
            }
            if let Some(bytes) = &cursors {
                let _sense = legacy::read_cursors(bytes, &mut inner.ingest);
            }
            inner.series.turn(now);
        });
        let mut gone: Vec<Vec<u8>> = old.into_iter().map(|(key, _)| key).collect();
        gone.push(b"cursors".to_vec());
        tracing::info!(slots = gone.len() - 1, "numbers are written down anew");
        self.write_with(gone).map(drop)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic while counting leaves numbers that are a little off, which beats having none.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds one push of a node, which has proven to be `id`: what is said of others is left out.
    pub fn push(&self, of: &Teller, message: &StreamMetricsMessage, id: &SpiffeId, world: &World) {
        let mut samples = samples(&message.envoy_metrics, is_wanted);
        let (said, mut known) = (samples.len(), BTreeMap::new());
        samples.retain(|sample| own(sample, id, world, &mut known));
        if samples.len() < said {
            let node = &of.node;
            tracing::warn!(node, %id, left_out = said - samples.len(), "a proxy counts for others");
        }
        let process = Process {
            node: of.node.clone(),
            started_unix_ms: of.started_unix_ms,
        };
        let now = self.wall.millis();
        self.with(|inner| {
            let Inner { series, ingest, .. } = inner;
            ingest.push((&process, of.told), self.alone, &samples, now, series);
        });
        let mut shadows = self.shadows.lock().unwrap_or_else(PoisonError::into_inner);
        shadows.push(&of.node, &samples, now);
        drop(shadows);
        let mut ejections = self
            .ejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ejections.hear(&process, &message.envoy_metrics, now);
    }

    /// The endpoints that proxies have ejected, in the words of `world`: of one service, or of all.
    pub(super) fn ejected(&self, world: &World, only: Option<&Service>) -> Vec<EjectionReport> {
        let ejections = self
            .ejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ejected(world, ejections.at(self.wall.millis()), only)
    }

    /// The signals of a window.
    pub fn report(&self, query: &Query) -> StatsReport {
        let now = self.wall.millis();
        self.with(|inner| report(&inner.series, query, now))
    }

    /// The same point by point.
    pub fn points(&self, query: &Query) -> SeriesReport {
        self.parts(query).points()
    }

    /// The same, still to be added to those of other replicas.
    pub fn parts(&self, query: &Query) -> Parts {
        let now = self.wall.millis();
        self.with(|inner| parts(&inner.series, query, now))
    }

    /// What came of comparing answers to copies, in a window that ends now.
    pub fn shadows(&self, service: Option<&str>, window_ms: u64) -> ShadowReport {
        let shadows = self.shadows.lock().unwrap_or_else(PoisonError::into_inner);
        shadows.report(service, window_ms, self.wall.millis())
    }

    /// [`Self::edges`], still to be held against what other replicas were told.
    pub fn linked(&self, asked: &Asked) -> Linked {
        let now = self.wall.millis();
        self.with(|inner| linked(&inner.series.links, asked, now))
    }

    /// Who called whom, and what protected that.
    pub fn edges(&self, asked: &Asked) -> EdgesReport {
        let now = self.wall.millis();
        self.with(|inner| edges(&inner.series.links, asked, now))
    }

    /// What `read` makes of all series, as of now.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Series, u64) -> T) -> T {
        let now = self.wall.millis();
        self.with(|inner| read(&inner.series, now))
    }

    /// Requests of the last minute by version, for each of `services` (`name.namespace`).
    pub fn measured(
        &self,
        services: impl Iterator<Item = String>,
    ) -> super::report::routes::Measured {
        let now = self.wall.millis();
        let mut counts = self.with(|inner| shares(&inner.series, 60_000, now));
        services
            .filter_map(|service| {
                let counts = counts.remove(&service)?;
                Some((service, counts))
            })
            .collect()
    }

    /// How much is kept, in short.
    pub fn kept(&self) -> Report {
        let size = self.size();
        let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        Report {
            bytes: wide(size.bytes()),
            most_bytes: wide(size.most_bytes),
            edges: wide(size.kept.edges),
            label_sets: wide(size.followed.label_sets),
            folded: size.kept.folded.increments,
            unfollowed: size.followed.unfollowed,
        }
    }

    /// How much is kept.
    pub(crate) fn size(&self) -> Size {
        self.with(|inner| {
            let (kept, followed) = (inner.series.kept(), inner.ingest.followed());
            Size {
                most_bytes: kept.most_bytes + followed.most_bytes + links::MOST_BYTES,
                kept,
                followed,
            }
        })
    }

    /// Writes down what changed since the last time, and drops what is too old. Gives how long to wait until it is
    /// worth doing again.
    pub fn write(&self) -> Result<Duration, StoreError> {
        let now = self.wall.millis();
        let told = self.with(|inner| {
            inner.series.turn(now);
            inner.ingest.forget(now.saturating_sub(FORGET_MS), now);
            let (folded, followed) = (inner.series.kept().folded, inner.ingest.followed());
            let folds = folded.increments > 0 || folded.idle > 0 || followed.unfollowed > 0;
            let first = folds && !std::mem::replace(&mut inner.told, folds);
            first.then_some((folded, followed))
        });
        if let Some((folded, followed)) = told {
            tracing::warn!(
                folded = folded.increments,
                idle = folded.idle,
                services = ?folded.by_service.keys().take(5).collect::<Vec<_>>(),
                unfollowed = followed.unfollowed,
                "there are more label sets than numbers have room for; `meshctl check` says how many"
            );
        }
        let bytes = self.write_with(Vec::new())?;
        let seconds = u64::try_from(bytes).unwrap_or(u64::MAX) / WRITE_BYTES;
        Ok(WRITE.max(Duration::from_secs(seconds)))
    }

    /// Writes down what changed, and removes `gone` with it. Gives how many bytes that were.
    fn write_with(&self, gone: Vec<Vec<u8>>) -> Result<usize, StoreError> {
        let (head, changed, cursors) = self.with(|inner| {
            let head = write_head(inner.series.floors());
            (head, inner.series.changes(), inner.ingest.changes())
        });
        let keys: Vec<Key> = changed.iter().map(|(key, _)| *key).collect();
        let processes: Vec<Process> = cursors.iter().map(|(process, _)| process.clone()).collect();
        let name = |name: &str| format!("{PREFIX}{name}").into_bytes();
        let mut records = vec![(name("head"), Some(head))];
        records.extend(
            changed
                .into_iter()
                .map(|(key, bytes)| (name(&key.name()), bytes)),
        );
        records.extend(
            cursors
                .into_iter()
                .map(|(process, bytes)| (name(&format!("cursor/{}", process.name())), bytes)),
        );
        records.extend(gone.into_iter().map(|key| (key, None)));
        let bytes = records
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        if let Err(error) = self.store.put_all_soon(records) {
            self.with(|inner| {
                inner.series.unwritten(keys.into_iter());
                inner.ingest.unwritten(processes.into_iter());
            });
            return Err(error);
        }
        Ok(bytes)
    }
}

/// Where levels begin.
fn write_head(floors: [u64; 4]) -> Vec<u8> {
    floors
        .iter()
        .flat_map(|floor| floor.to_le_bytes())
        .collect()
}

fn read_head(bytes: &[u8]) -> Option<[u64; 4]> {
    let mut floors = [0; 4];
    if bytes.len() != 32 {
        return None;
    }
    for (floor, bytes) in floors.iter_mut().zip(bytes.chunks_exact(8)) {
        *floor = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(floors)
}

/// The metrics service: takes numbers of a proxy from that proxy alone.
#[derive(Debug)]
pub struct Metrics {
    numbers: Numbers,
    world: Reader<Revised>,
}

impl Metrics {
    /// Adds to `numbers` what proxies of the world say of themselves.
    pub fn new(numbers: Numbers, world: Reader<Revised>) -> Self {
        Self { numbers, world }
    }
}

/// Why `id` may not speak for `node`.
pub(super) fn refuses(world: &World, node: &str, id: &SpiffeId) -> Option<String> {
    let SpiffeId {
        namespace,
        service_account,
        ..
    } = id;
    let Some((name, of)) = id_name(node).filter(|(_, of)| of == namespace) else {
        return Some(format!(
            "{node} is not of namespace {namespace}, which the certificate is for"
        ));
    };
    let key = (of.to_owned(), name.to_owned());
    let owner = &world.instances.get(&key)?.service_account;
    (owner != service_account).then(|| {
        format!("{node} is of account {owner}, and the certificate is for {service_account}")
    })
}

#[tonic::async_trait]
impl MetricsService for Metrics {
    async fn stream_metrics(
        &self,
        request: Request<Streaming<StreamMetricsMessage>>,
    ) -> Result<Response<StreamMetricsResponse>, Status> {
        let proven = request
            .extensions()
            .get::<PeerIdentity>()
            .and_then(|peer| peer.id.clone())
            .ok_or_else(|| Status::unauthenticated("a client certificate of the mesh is needed"))?;
        let mut stream = request.into_inner();
        let mut from = Teller::default();
        while let Some(message) = stream.message().await? {
            let named = message.identifier.as_ref().and_then(|id| id.node.as_ref());
            if let Some(named) = named {
                from = teller(named);
            }
            if from.node.is_empty() {
                return Err(Status::invalid_argument(
                    "the first message must say which node it is from",
                ));
            }
            let world = Arc::clone(&self.world.load().world);
            if let Some(reason) = refuses(&world, &from.node, &proven) {
                return Err(Status::permission_denied(reason));
            }
            self.numbers.push(&from, &message, &proven, &world);
        }
        Ok(Response::new(StreamMetricsResponse {}))
    }
}

/// Which samples are the sender's own: of the side that it reports, for a workload of its namespace that is
/// not another account's.
fn own(
    sample: &Sample<'_>,
    id: &SpiffeId,
    world: &World,
    known: &mut BTreeMap<String, bool>,
) -> bool {
    let (workload, namespace) = match sample.label("reporter") {
        "source" => ("source_workload", "source_workload_namespace"),
        "destination" => ("destination_workload", "destination_workload_namespace"),
        // Says of no side that it is its own.
        _ => return true,
    };
    let (workload, namespace) = (sample.label(workload), sample.label(namespace));
    if namespace != id.namespace && namespace != "unknown" {
        return false;
    }
    if let Some(found) = known.get(workload) {
        return *found;
    }
    let own = !is_anothers(world, id, workload);
    known.insert(workload.to_owned(), own);
    own
}

#[cfg(test)]
mod tests;
