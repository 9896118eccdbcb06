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

use super::Control;

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
