//! Numbers from proxies: the metrics service, and the series in the store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use envoy_types::pb::envoy::service::metrics::v3::metrics_service_server::MetricsService;
use envoy_types::pb::envoy::service::metrics::v3::{StreamMetricsMessage, StreamMetricsResponse};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tonic::{Request, Response, Status, Streaming};

use crate::aggregate::edges::{Parts as Linked, parts as linked};
use crate::aggregate::report::{Parts, parts};
use crate::aggregate::sample::{Sample, samples};
use crate::aggregate::series::{decode_slot, encode_slot};
use crate::aggregate::shadows::Shadows;
use crate::aggregate::{Asked, Ingest, Query, Series, edges, report, shares};
use crate::api::edges::EdgesReport;
use crate::api::shadow::ShadowReport;
use crate::api::stats::StatsReport;
use crate::mesh::{SpiffeId, World};
use crate::rt::{Reader, Wall};
use crate::source::store::{Store, StoreError, Tree};
use crate::xds::node::id_name;

use super::Control;
use super::attest::is_anothers;
use super::push::Revised;
use super::serve_tls::PeerIdentity;

/// How often series are written down.
pub const WRITE: Duration = Duration::from_secs(5);
/// How long a proxy's counters are remembered after its last push.
const FORGET_MS: u64 = 24 * 3_600 * 1_000;

/// The series, and where each proxy's counters stand.
#[derive(Debug, Clone)]
pub struct Numbers {
    store: Store,
    wall: Wall,
    inner: Arc<Mutex<Inner>>,
    /// In memory only.
    shadows: Arc<Mutex<Shadows>>,
}

#[derive(Debug, Default)]
struct Inner {
    series: Series,
    ingest: Ingest,
    written_unix_ms: u64,
}

impl Numbers {
    /// Reads what was written down.
    pub fn open(store: Store, wall: Wall) -> Result<Self, StoreError> {
        let mut inner = Inner::default();
        for (key, bytes) in store.scan(Tree::Series, b"slot/")? {
            if let Some((coarse, number)) = parse_key(&key)
                && let Some(slot) = decode_slot(&bytes)
            {
                inner.series.restore(coarse, number, slot);
            }
        }
        if let Some(bytes) = store.get(Tree::Series, b"cursors")? {
            inner.ingest = serde_json::from_slice(&bytes).unwrap_or_default();
        }
        Ok(Self {
            store,
            wall,
            inner: Arc::new(Mutex::new(inner)),
            shadows: Arc::default(),
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic while counting leaves numbers that are a little off, which beats having none.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds one push of `node`, which has proven to be `id`: what is said of others is left out.
    pub fn push(&self, node: &str, message: &StreamMetricsMessage, id: &SpiffeId, world: &World) {
        let mut samples = samples(&message.envoy_metrics);
        let (said, mut known) = (samples.len(), BTreeMap::new());
        samples.retain(|sample| own(sample, id, world, &mut known));
        if samples.len() < said {
            tracing::warn!(node, %id, left_out = said - samples.len(), "a proxy counts for others");
        }
        let now = self.wall.millis();
        self.with(|inner| inner.ingest.push(node, &samples, now, &mut inner.series));
        let mut shadows = self.shadows.lock().unwrap_or_else(PoisonError::into_inner);
        shadows.push(node, &samples, now);
    }

    /// The signals of a window that ends now.
    pub fn report(&self, query: &Query) -> StatsReport {
        let now = self.wall.millis();
        self.with(|inner| report(&inner.series, query, now))
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
        self.with(|inner| {
            services
                .map(|service| {
                    let counts = shares(&inner.series, &service, 60_000, now);
                    (service, counts)
                })
                .filter(|(_, counts)| !counts.is_empty())
                .collect()
        })
    }

    /// Writes down what changed since the last time, and drops what is too old.
    pub fn write(&self) -> Result<(), StoreError> {
        let now = self.wall.millis();
        let (slots, dropped, cursors) = self.with(|inner| {
            let dropped = inner.series.turn(now);
            inner.ingest.forget(now.saturating_sub(FORGET_MS));
            let since = inner.written_unix_ms.saturating_sub(10_000);
            let slots: Vec<(String, Vec<u8>)> = inner
                .series
                .since(since)
                .map(|(coarse, number, slot)| (slot_key(coarse, number), encode_slot(slot)))
                .collect();
            inner.written_unix_ms = now;
            (slots, dropped, serde_json::to_vec(&inner.ingest))
        });
        for (key, bytes) in slots {
            self.store.put_soon(key, bytes)?;
        }
        if let Ok(cursors) = cursors {
            self.store.put_soon("cursors", cursors)?;
        }
        for (coarse, number) in dropped {
            self.store.remove_soon(slot_key(coarse, number))?;
        }
        Ok(())
    }
}

fn slot_key(coarse: bool, number: u64) -> String {
    let level = if coarse { "1m" } else { "5s" };
    format!("slot/{level}/{number:016x}")
}

fn parse_key(key: &[u8]) -> Option<(bool, u64)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix("slot/")?;
    let (level, number) = rest.split_once('/')?;
    Some((level == "1m", u64::from_str_radix(number, 16).ok()?))
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
        let mut node = String::new();
        while let Some(message) = stream.message().await? {
            if let Some(named) = message.identifier.as_ref().and_then(|id| id.node.as_ref()) {
                node.clone_from(&named.id);
            }
            if node.is_empty() {
                return Err(Status::invalid_argument(
                    "the first message must say which node it is from",
                ));
            }
            let world = Arc::clone(&self.world.load().world);
            if let Some(reason) = refuses(&world, &node, &proven) {
                return Err(Status::permission_denied(reason));
            }
            self.numbers.push(&node, &message, &proven, &world);
        }
        Ok(Response::new(StreamMetricsResponse {}))
    }
}

/// Which samples are the sender's own: of the side that it reports, for a workload of its namespace that is
/// not another account's.
fn own(sample: &Sample, id: &SpiffeId, world: &World, known: &mut BTreeMap<String, bool>) -> bool {
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

/// Health, and the control plane's own metrics in Prometheus' text format.
pub fn metrics_routes(control: Arc<Control>) -> Router {
    Router::new()
        .route("/ready", get(|| async { "ready\n" }))
        .route("/metrics", get(metrics))
        .with_state(control)
}

pub(super) async fn metrics(State(control): State<Arc<Control>>) -> impl IntoResponse {
    let mut registry = Registry::default();
    let proxies = control.hub.status();
    let world = control.index.world();
    let gauge = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register_collector(Box::new(OneShot(vec![
        (
            "pilot_xds",
            "Proxies connected over xDS",
            gauge(proxies.len()),
        ),
        (
            "pilot_services",
            "Services known",
            gauge(world.config.services.len()),
        ),
        (
            "pilot_virt_services",
            "Hosts with routes of their own",
            gauge(world.config.routes.len()),
        ),
        (
            "meshctl_instances",
            "Instances registered",
            gauge(world.instances.len()),
        ),
        (
            "pilot_total_xds_rejects",
            "Proxies that refused their newest configuration",
            gauge(
                proxies
                    .iter()
                    .filter(|proxy| proxy.rejected().is_some())
                    .count(),
            ),
        ),
    ])));
    // As istiod calls them.
    let fetching = &control.index.fetching;
    let count = |of: &AtomicU64| ConstCounter::new(of.load(Ordering::Relaxed));
    registry.register_collector(Box::new(OneShot(vec![
        (
            "pilot_jwks_resolver_network_fetch_success",
            "Key sets of token issuers that were fetched",
            count(&fetching.good),
        ),
        (
            "pilot_jwks_resolver_network_fetch_fail",
            "Key sets of token issuers that could not be fetched",
            count(&fetching.failed),
        ),
    ])));
    registry.register(
        "meshctl_api_refusals",
        "Requests to the API that were refused for who asked",
        control.gate.refusals(),
    );
    if let Some(signer) = control.trust.signer() {
        registry.register(
            "meshctl_signer_requests",
            "Certificates asked of the outside signer, by what came of it",
            signer.requests(),
        );
    }
    registry.register_collector(Box::new(Sources(control.sources())));
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _infallible = encode(&mut text, &registry).is_ok();
    (
        [(
            "content-type",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
}

/// Values that were read a moment ago.
#[derive(Debug)]
struct OneShot<M>(Vec<(&'static str, &'static str, M)>);

impl<M: EncodeMetric + fmt::Debug + Send + Sync + 'static> Collector for OneShot<M> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, gauge) in &self.0 {
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

/// Whether each source answers.
#[derive(Debug)]
struct Sources(Vec<(String, bool)>);

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Whether a source of configuration and services answers";
        let kind = MetricType::Gauge;
        let mut metric = encoder.encode_descriptor("meshctl_source_up", help, None, kind)?;
        for (name, up) in &self.0 {
            let labels = [("source", name.as_str())];
            let gauge = ConstGauge::new(i64::from(*up));
            gauge.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_keys_round_trip() {
        assert_eq!(parse_key(slot_key(true, 77).as_bytes()), Some((true, 77)));
        assert_eq!(parse_key(slot_key(false, 0).as_bytes()), Some((false, 0)));
        assert_eq!(parse_key(b"cursors"), None);
    }
}
