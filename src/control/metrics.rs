//! What the control plane says of itself to Prometheus, by istiod's names where istiod has one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::mesh::Health;
use crate::rt::usage;

use super::Control;
use super::push::figures::{Figures, OfKind};
use super::series::Size;

/// Health, and the control plane's own metrics in Prometheus' text format.
pub(super) fn metrics_routes(control: Arc<Control>) -> Router {
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
    let whole = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
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
            "pilot_endpoint_not_ready",
            "Instances that are not called because they are not healthy",
            gauge(
                world
                    .instances
                    .values()
                    .filter(|instance| instance.health != Health::Healthy)
                    .count(),
            ),
        ),
        (
            "istiod_uptime_seconds",
            "Seconds since the control plane started",
            whole(
                control
                    .wall
                    .millis()
                    .saturating_sub(control.started_unix_ms)
                    / 1_000,
            ),
        ),
        (
            "citadel_server_root_cert_expiry_seconds",
            "Seconds until the root certificate ends",
            whole(
                control
                    .trust
                    .authority()
                    .not_after()
                    .saturating_sub(control.wall.millis())
                    / 1_000,
            ),
        ),
        (
            "process_resident_memory_bytes",
            "Memory of this process",
            whole(usage::resident().unwrap_or(0)),
        ),
    ])));
    pushes(&mut registry, control.hub.figures());
    numbers(&mut registry, &control.numbers.size());
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

/// What pushing takes. istiod's counters have no `_total` in their names, and OpenMetrics would add one: so they are
/// said to be of no known kind, and its dashboards find them.
fn pushes(registry: &mut Registry, figures: &Figures) {
    registry.register(
        "pilot_xds_push_time",
        "Seconds to compute what a proxy is sent",
        figures.push_time.clone(),
    );
    registry.register(
        "pilot_proxy_convergence_time",
        "Seconds between a change and a proxy having it",
        figures.convergence.clone(),
    );
    let kinds = figures.kinds();
    let version = ("tag", env!("CARGO_PKG_VERSION").to_owned());
    let by_kind = |read: fn(&OfKind) -> u64| -> Vec<(Labels, u64)> {
        let of = |kind: &OfKind| {
            let kind = kind.kind.short().to_ascii_lowercase();
            vec![("type", kind)]
        };
        kinds.iter().map(|kind| (of(kind), read(kind))).collect()
    };
    registry.register_collector(Box::new(Labelled(vec![
        (
            "pilot_xds_pushes",
            "Responses sent to proxies, by kind",
            MetricType::Unknown,
            by_kind(|kind| kind.sent),
        ),
        (
            "pilot_total_xds_rejects",
            "Responses that proxies refused",
            MetricType::Unknown,
            vec![(Vec::new(), kinds.iter().map(|kind| kind.rejected).sum())],
        ),
        (
            "meshctl_xds_rejects",
            "Responses that proxies refused, by kind",
            MetricType::Unknown,
            by_kind(|kind| kind.rejected),
        ),
        (
            "istio_build",
            "Version of this program",
            MetricType::Gauge,
            vec![(vec![("component", "pilot".to_owned()), version], 1)],
        ),
    ])));
}

/// How much the numbers of proxies take, and what was not told apart.
fn numbers(registry: &mut Registry, size: &Size) {
    let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let (kept, followed) = (&size.kept, &size.followed);
    let all = [
        (
            "meshctl_numbers_bytes",
            "Bytes of series and of where counters stand",
            MetricType::Gauge,
            wide(size.bytes()),
        ),
        (
            "meshctl_numbers_limit_bytes",
            "Most bytes that numbers take, in memory and on disk each",
            MetricType::Gauge,
            wide(size.most_bytes),
        ),
        (
            "meshctl_numbers_edges",
            "Edges that are told apart",
            MetricType::Gauge,
            wide(kept.edges),
        ),
        (
            "meshctl_numbers_label_sets",
            "Label sets of proxies that are followed",
            MetricType::Gauge,
            wide(followed.label_sets),
        ),
        (
            "meshctl_numbers_folded",
            "Increments counted under (other), as there are too many edges",
            MetricType::Counter,
            kept.folded.increments,
        ),
        (
            "meshctl_numbers_retired",
            "Edges at rest that were put together to make room",
            MetricType::Counter,
            kept.folded.idle,
        ),
        (
            "meshctl_numbers_unfollowed",
            "Times a label set was told that there was no room for",
            MetricType::Counter,
            followed.unfollowed,
        ),
    ];
    let all = all.map(|(name, help, kind, value)| (name, help, kind, vec![(Vec::new(), value)]));
    registry.register_collector(Box::new(Labelled(all.into())));
}

type Labels = Vec<(&'static str, String)>;

/// Name, help, kind, and a value for each label set.
type Row = (&'static str, &'static str, MetricType, Vec<(Labels, u64)>);

/// Values with labels that were read a moment ago.
#[derive(Debug)]
struct Labelled(Vec<Row>);

impl Collector for Labelled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, kind, values) in &self.0 {
            let mut metric = encoder.encode_descriptor(name, help, None, *kind)?;
            for (labels, value) in values {
                let metric = metric.encode_family(labels)?;
                if matches!(kind, MetricType::Counter) {
                    ConstCounter::new(*value).encode(metric)?;
                } else {
                    ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(metric)?;
                }
            }
        }
        Ok(())
    }
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
