//! All label sets of a process, and their sums over workers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::mesh::cluster::ServiceRef;

use super::event::ServiceLabels;
use super::names::{self, Metric};
use super::recorder::{Exemplar, HttpCells, LinkCells, TcpCells};
use super::shadow::Shadows;
use super::told::Told;
use super::{
    HttpKey, Link, LinkKey, PeerId, PeerLabels, Protocol, Reporter, RouteId, ServiceId, TcpKey,
};

use sums::{fine, merged, standard};

/// Distinct label sets of a kind; what comes after is counted under `unknown`.
pub const MAX_SERIES: usize = 4096;
/// Distinct peers, services and routes; what comes after is `unknown`.
pub const MAX_NAMES: usize = 4096;

/// The label sets and cells of a process.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    /// Events counted under a folded key.
    overflow: AtomicU64,
    state: OnceLock<State>,
}

/// What holds now, and is read whenever somebody is told.
struct State(Box<dyn Fn() -> Vec<Family> + Send + Sync>);

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

#[derive(Debug, Default)]
struct Inner {
    peers: Interned<PeerLabels>,
    services: Interned<ServiceLabels>,
    routes: Interned<String>,
    http: BTreeMap<HttpKey, Vec<Arc<HttpCells>>>,
    tcp: BTreeMap<TcpKey, Vec<Arc<TcpCells>>>,
    links: BTreeMap<LinkKey, Vec<Arc<LinkCells>>>,
    /// By kind: label sets that there was no room for.
    folded: BTreeMap<&'static str, u64>,
    /// By side and fault.
    http2_ended: BTreeMap<(&'static str, &'static str), u64>,
    shadows: Shadows,
    cluster_id: String,
}

#[derive(Debug)]
struct Interned<T> {
    ids: BTreeMap<T, u32>,
    values: Vec<T>,
}

impl<T: Default> Default for Interned<T> {
    fn default() -> Self {
        Self {
            ids: BTreeMap::new(),
            values: vec![T::default()],
        }
    }
}

impl<T: Ord + Clone + Default> Interned<T> {
    fn id(&mut self, value: T) -> u32 {
        if value == T::default() {
            return 0;
        }
        if let Some(id) = self.ids.get(&value) {
            return *id;
        }
        let Ok(id) = u32::try_from(self.values.len()) else {
            return 0;
        };
        if self.values.len() >= MAX_NAMES {
            return 0;
        }
        self.values.push(value.clone());
        self.ids.insert(value, id);
        id
    }

    fn get(&self, id: u32) -> T {
        usize::try_from(id)
            .ok()
            .and_then(|at| self.values.get(at))
            .cloned()
            .unwrap_or_default()
    }
}

/// One metric with its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Name, help and kind.
    pub metric: Metric,
    /// One for each label set.
    pub samples: Vec<Sample>,
}

/// One label set and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A metric's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A counter.
    Counter(u64),
    /// A gauge.
    Gauge(u64),
    /// A histogram: cumulative counts by bound, the count of all, the sum.
    Histogram {
        /// Upper bounds in thousandths of the unit, ascending.
        bounds: Cow<'static, [u64]>,
        /// Cumulative, one for each bound.
        cumulative: Vec<u64>,
        /// All values.
        count: u64,
        /// Sum of values, in the metric's unit.
        sum: f64,
        /// Examples of what is in a bucket, by its place.
        exemplars: Vec<(usize, Exemplar)>,
    },
}

/// A gauge that somebody else keeps, for [`Registry::gather`]'s callers to append.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    /// Name and help.
    pub metric: Metric,
    /// Value now.
    pub value: u64,
}

impl From<Gauge> for Family {
    fn from(gauge: Gauge) -> Self {
        Self {
            metric: gauge.metric,
            samples: vec![Sample {
                labels: Vec::new(),
                value: Value::Gauge(gauge.value),
            }],
        }
    }
}

impl Registry {
    /// A registry for a proxy in `cluster_id` (the label `source_cluster`).
    pub fn new(cluster_id: &str) -> Self {
        let registry = Self::default();
        cluster_id.clone_into(&mut registry.lock().cluster_id);
        registry
    }

    /// Says that an event was counted under a folded key.
    pub(crate) fn overflowed(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that an HTTP/2 connection on `side` (`downstream` or `upstream`) was ended over `fault`.
    pub fn http2_ended(&self, side: &'static str, fault: &'static str) {
        *self.lock().http2_ended.entry((side, fault)).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something did, the numbers are still usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what came of comparing answers.
    pub fn shadows<T>(&self, work: impl FnOnce(&mut Shadows) -> T) -> T {
        work(&mut self.lock().shadows)
    }

    /// Interns a peer.
    pub fn peer(&self, labels: PeerLabels) -> PeerId {
        PeerId(self.lock().peers.id(labels))
    }

    /// The labels of an interned peer.
    pub fn peer_labels(&self, id: PeerId) -> PeerLabels {
        self.lock().peers.get(id.0)
    }

    /// The labels of an interned service.
    pub fn service_labels(&self, id: ServiceId) -> ServiceLabels {
        self.lock().services.get(id.0)
    }

    /// Interns a service.
    pub fn service(&self, service: &ServiceRef) -> ServiceId {
        self.named_service(service.host.as_str(), &service.name, &service.namespace)
    }

    /// Interns a service that is only a name, such as `PassthroughCluster`.
    pub fn named_service(&self, host: &str, name: &str, namespace: &str) -> ServiceId {
        ServiceId(self.lock().services.id(ServiceLabels {
            host: host.to_owned(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        }))
    }

    /// Interns the label of a route.
    pub fn route(&self, label: &str) -> RouteId {
        RouteId(self.lock().routes.id(label.to_owned()))
    }

    /// New cells for one worker under `key`, or under `unknown` when there are too many.
    pub fn http_cells(&self, key: HttpKey) -> Arc<HttpCells> {
        let mut inner = self.lock();
        let key = if inner.http.len() >= MAX_SERIES && !inner.http.contains_key(&key) {
            inner.folds("http");
            key.folded()
        } else {
            key
        };
        let cells = Arc::new(HttpCells::default());
        inner.http.entry(key).or_default().push(Arc::clone(&cells));
        cells
    }

    /// New cells for one worker under `key`, or under `unknown` when there are too many.
    pub fn tcp_cells(&self, key: TcpKey) -> Arc<TcpCells> {
        let mut inner = self.lock();
        let key = if inner.tcp.len() >= MAX_SERIES && !inner.tcp.contains_key(&key) {
            inner.folds("tcp");
            key.folded()
        } else {
            key
        };
        let cells = Arc::new(TcpCells::default());
        inner.tcp.entry(key).or_default().push(Arc::clone(&cells));
        cells
    }

    /// New cells for one worker under `key`, or under `unknown` when there are too many.
    pub fn link_cells(&self, key: LinkKey) -> Arc<LinkCells> {
        let mut inner = self.lock();
        let key = if inner.links.len() >= MAX_SERIES && !inner.links.contains_key(&key) {
            inner.folds("edge");
            key.folded()
        } else {
            key
        };
        let cells = Arc::new(LinkCells::default());
        inner.links.entry(key).or_default().push(Arc::clone(&cells));
        cells
    }

    /// Everything counted so far, added up over workers.
    pub fn gather(&self) -> Vec<Family> {
        self.collect(None)
    }

    /// What has changed since it was last told, or all of it to a [`Told`] that is new, with durations by
    /// [`names::LATENCY_MICROS`] and without sizes, of which the control plane keeps nothing.
    pub fn tell(&self, told: &mut Told) -> Vec<Family> {
        let mut families = self.collect(Some(told));
        // All of it each time: who is told sees by what is missing that something holds no more.
        families.extend(self.state.get().into_iter().flat_map(|state| (state.0)()));
        families
    }

    /// Has whoever is told hear of `state` as well, whole each time. The first to say so is heeded.
    pub fn also(&self, state: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        let _first = self.state.set(State(Box::new(state))).is_ok();
    }

    fn collect(&self, mut told: Option<&mut Told>) -> Vec<Family> {
        let inner = self.lock();
        let mut requests = Vec::new();
        let mut retries = Vec::new();
        let mut duration = Vec::new();
        let mut request_bytes = Vec::new();
        let mut response_bytes = Vec::new();
        for (key, cells) in &inner.http {
            let sum = |read: fn(&HttpCells) -> u64| cells.iter().map(|cells| read(cells)).sum();
            // Before the counts: what is missing in them changes this the next time.
            let micros = sum(|cells| cells.duration.sum_micros.get());
            let (count, again) = (
                sum(|cells| cells.requests.get()),
                sum(|cells| cells.retries.get()),
            );
            if let Some(told) = &mut told
                && !told.http.is_news(*key, [count, again, micros, 0, 0])
            {
                continue;
            }
            let labels = inner.http_labels(key);
            let sample = |value| Sample {
                labels: labels.clone(),
                value,
            };
            requests.push(sample(Value::Counter(count)));
            if again > 0 {
                retries.push(sample(Value::Counter(again)));
            }
            let durations = cells.iter().map(|cells| &cells.duration);
            if told.is_some() {
                duration.push(sample(fine(durations)));
                continue;
            }
            let exemplars = cells.iter().flat_map(|cells| cells.exemplars.get());
            duration.push(sample(standard(durations, exemplars)));
            request_bytes.push(sample(merged(
                cells.iter().map(|cells| &cells.request_bytes),
            )));
            response_bytes.push(sample(merged(
                cells.iter().map(|cells| &cells.response_bytes),
            )));
        }
        let mut connections = inner.connections();
        let mut edges = inner.edges();
        if let Some(told) = &mut told {
            connections.retain(|(key, cells)| {
                let sum = |read: fn(&TcpCells) -> u64| cells.iter().map(|cells| read(cells)).sum();
                let counts = [
                    sum(|cells| cells.opened.get()),
                    sum(|cells| cells.closed.get()),
                    sum(|cells| cells.sent.get()),
                    sum(|cells| cells.received.get()),
                    0,
                ];
                told.tcp.is_news(*key, counts)
            });
            edges.retain(|edge| told.links.is_news(edge.key, edge.counts()));
        }
        let tcp = |read: fn(&TcpCells) -> u64| {
            connections
                .iter()
                .map(|(key, cells)| Sample {
                    labels: inner.tcp_labels(key),
                    value: Value::Counter(cells.iter().map(|cells| read(cells)).sum()),
                })
                .collect::<Vec<_>>()
        };
        let edge = |read: fn(&Edge) -> u64| {
            let counted = edges.iter().map(|edge| (edge, read(edge)));
            counted
                .filter(|(_, count)| *count > 0)
                .map(|(edge, count)| Sample {
                    labels: inner.link_labels(edge.key),
                    value: Value::Counter(count),
                })
                .collect::<Vec<_>>()
        };
        let ended = inner
            .http2_ended
            .iter()
            .map(|((side, fault), count)| Sample {
                labels: vec![("side", (*side).to_owned()), ("fault", (*fault).to_owned())],
                value: Value::Counter(*count),
            });
        let folded = inner.folded.iter().map(|(kind, count)| Sample {
            labels: vec![("kind", (*kind).to_owned())],
            value: Value::Counter(*count),
        });
        let families = [
            (names::REQUESTS, requests),
            (names::REQUEST_DURATION, duration),
            (names::REQUEST_BYTES, request_bytes),
            (names::RESPONSE_BYTES, response_bytes),
            (names::RETRIES, retries),
            (names::TCP_OPENED, tcp(|cells| cells.opened.get())),
            (names::TCP_CLOSED, tcp(|cells| cells.closed.get())),
            (names::TCP_SENT, tcp(|cells| cells.sent.get())),
            (names::TCP_RECEIVED, tcp(|cells| cells.received.get())),
            (names::EDGE_OPENED, edge(|edge| edge.opened)),
            (names::EDGE_CLOSED, edge(|edge| edge.closed)),
            (names::EDGE_REQUESTS, edge(|edge| edge.requests)),
            (names::EDGE_RECEIVED, edge(|edge| edge.received)),
            (names::EDGE_SENT, edge(|edge| edge.sent)),
            (names::HTTP2_ENDED, ended.collect()),
            (names::FOLDED, folded.collect()),
            (
                names::OVERFLOW,
                vec![Sample {
                    labels: Vec::new(),
                    value: Value::Counter(self.overflow.load(Ordering::Relaxed)),
                }],
            ),
        ];
        families
            .into_iter()
            .filter(|(_, samples)| !samples.is_empty())
            .map(|(metric, samples)| Family { metric, samples })
            .chain(inner.shadows.families())
            .collect()
    }
}

/// A count as a float; exact up to 2^53.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "there is no lossless conversion, and 2^53 thousandths are 285 years of milliseconds"
)]
pub fn to_float(number: u64) -> f64 {
    number as f64
}

fn known(text: &str) -> String {
    if text.is_empty() { "unknown" } else { text }.to_owned()
}

/// What is counted of connections that are protected alike.
struct Edge {
    key: LinkKey,
    opened: u64,
    closed: u64,
    requests: u64,
    received: u64,
    sent: u64,
}

impl Edge {
    fn counts(&self) -> [u64; 5] {
        [
            self.opened,
            self.closed,
            self.requests,
            self.received,
            self.sent,
        ]
    }
}

impl Inner {
    fn folds(&mut self, kind: &'static str) {
        *self.folded.entry(kind).or_default() += 1;
    }

    /// The cells of TCP label sets as Istio has them: it does not tell how connections are protected.
    fn connections(&self) -> Vec<(TcpKey, Vec<&TcpCells>)> {
        let mut all: Vec<(TcpKey, Vec<&TcpCells>)> = Vec::new();
        for (key, cells) in &self.tcp {
            let plain = TcpKey { link: None, ..*key };
            let cells = cells.iter().map(|cells| &**cells);
            match all.last_mut().filter(|(last, _)| *last == plain) {
                Some((_, same)) => same.extend(cells),
                None => all.push((plain, cells.collect())),
            }
        }
        all
    }

    fn edges(&self) -> Vec<Edge> {
        let http = self.links.iter().map(|(key, cells)| {
            let sum = |read: fn(&LinkCells) -> u64| cells.iter().map(|cells| read(cells)).sum();
            Edge {
                key: *key,
                opened: sum(|cells| cells.opened.get()),
                closed: sum(|cells| cells.closed.get()),
                requests: sum(|cells| cells.requests.get()),
                received: sum(|cells| cells.received.get()),
                sent: sum(|cells| cells.sent.get()),
            }
        });
        // How they ended is told apart there and not here.
        let mut bytes: BTreeMap<LinkKey, Edge> = BTreeMap::new();
        for (key, cells) in &self.tcp {
            let Some(link) = key.link else { continue };
            let as_link = LinkKey {
                reporter: key.reporter,
                source: key.source,
                destination: key.destination,
                service: key.service,
                protocol: Protocol::Tcp,
                link,
            };
            let edge = bytes.entry(as_link).or_insert_with(|| Edge {
                key: as_link,
                opened: 0,
                closed: 0,
                requests: 0,
                received: 0,
                sent: 0,
            });
            for cells in cells {
                edge.opened += cells.opened.get();
                edge.closed += cells.closed.get();
                edge.received += cells.received.get();
                edge.sent += cells.sent.get();
            }
        }
        http.chain(bytes.into_values()).collect()
    }

    fn link_labels(&self, key: LinkKey) -> Vec<(&'static str, String)> {
        let Link { protection, .. } = key.link;
        let mut labels = self.labels(
            key.reporter,
            (key.source, key.destination, key.service),
            protection.name(),
        );
        labels.push(("request_protocol", key.protocol.name().to_owned()));
        labels.extend(key.link.labels());
        labels
    }

    fn http_labels(&self, key: &HttpKey) -> Vec<(&'static str, String)> {
        let mut labels = self.labels(
            key.reporter,
            (key.source, key.destination, key.service),
            key.security.name(),
        );
        labels.push(("request_protocol", key.protocol.name().to_owned()));
        labels.push(("response_code", key.code.to_string()));
        labels.push((
            "grpc_response_status",
            key.grpc_status
                .map_or_else(String::new, |status| status.to_string()),
        ));
        labels.push(("response_flags", key.flag.name().to_owned()));
        if key.route != RouteId::default() {
            labels.push((names::ROUTE, self.routes.get(key.route.0)));
        }
        labels
    }

    fn tcp_labels(&self, key: &TcpKey) -> Vec<(&'static str, String)> {
        let mut labels = self.labels(
            key.reporter,
            (key.source, key.destination, key.service),
            key.security.name(),
        );
        labels.push(("request_protocol", Protocol::Tcp.name().to_owned()));
        labels.push(("response_flags", key.flag.name().to_owned()));
        labels
    }

    fn labels(
        &self,
        reporter: Reporter,
        (source, destination, service): (PeerId, PeerId, ServiceId),
        security: &str,
    ) -> Vec<(&'static str, String)> {
        let source = self.peers.get(source.0);
        let destination = self.peers.get(destination.0);
        let service = self.services.get(service.0);
        let reporter = match reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        };
        let values = [
            reporter.to_owned(),
            known(&source.workload),
            known(&source.namespace),
            known(&source.principal),
            known(&source.service),
            known(&source.version),
            known(&self.cluster_id),
            known(&source.service),
            known(&source.version),
            known(&destination.workload),
            known(&destination.namespace),
            known(&destination.principal),
            known(&destination.service),
            known(&destination.version),
            known(&self.cluster_id),
            known(&destination.service),
            known(&destination.version),
            known(&service.host),
            known(&service.name),
            known(&service.namespace),
            security.to_owned(),
        ];
        names::LABELS.into_iter().zip(values).collect()
    }
}

mod sums;
#[cfg(test)]
mod tests;
