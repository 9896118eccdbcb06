//! Numbers to the control plane: Envoy's MetricsService, cumulative counters and histograms.
//!
//! Every second, so that series in the control plane are of seconds; the first message of a stream has all there is and
//! the others what has changed since. What is missed while the control plane is away is in the next message's sums. Nothing here is
//! on the path of a request, and nothing that fails here is one's failure.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::metrics::v3::StreamMetricsMessage;
use envoy_types::pb::envoy::service::metrics::v3::metrics_service_client::MetricsServiceClient;
use envoy_types::pb::envoy::service::metrics::v3::stream_metrics_message::Identifier;
use envoy_types::pb::io::prometheus::client as pb;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::mesh::SpiffeId;
use crate::rt::{Backoff, DrainSignal, Reader, Wall};
use crate::telemetry::names::Kind;
use crate::telemetry::registry::to_float;
use crate::telemetry::{Family, Registry, Told, Value};
use crate::tls::Material;
use crate::xds::node::tell;

use super::control_link::Caller;
use super::replicas::Replicas;
use super::tap::{self, Taps};

/// Where numbers go, and how often.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The control plane.
    pub control_plane: Replicas,
    /// Who it must prove to be; without, it is called in plaintext.
    pub server: Option<SpiffeId>,
    /// This node, sent once on each stream.
    pub node: Node,
    /// How often.
    pub interval: Duration,
    /// Asked for, and told of, over the same connection.
    pub taps: Arc<Taps>,
}

/// Pushes what `registry` has counted, and once more when `end` says so: what was counted last is told, too.
pub async fn run(
    options: PushOptions,
    registry: Arc<Registry>,
    identities: Reader<Option<Arc<Material>>>,
    wall: Wall,
    mut end: DrainSignal,
) {
    let mut began = Began {
        started_unix_ms: wall.millis(),
        told: false,
    };
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    loop {
        let stream = stream(
            &options,
            &registry,
            (&identities, &wall),
            &mut began,
            (&mut backoff, &mut end),
        );
        match stream.await {
            Ok(()) if end.draining() => return,
            Ok(()) => {}
            Err(error) => tracing::debug!(error, "metrics are not delivered; will try again"),
        }
        // At the end there is no time for it; who waits for us sets a limit.
        let soon = end.draining();
        tokio::select! {
            () = tokio::time::sleep(backoff.next(fastrand::f64())) => {}
            () = end.wait(), if !soon => {}
        }
    }
}

/// Since when this process counts, and whether it has told anybody.
struct Began {
    started_unix_ms: u64,
    told: bool,
}

/// One stream, until it breaks or everything is told.
async fn stream(
    options: &PushOptions,
    registry: &Registry,
    (identities, wall): (&Reader<Option<Arc<Material>>>, &Wall),
    began: &mut Began,
    (backoff, end): (&mut Backoff, &mut DrainSignal),
) -> Result<(), String> {
    let channel = channel(options, identities).await?;
    let told = tap::follow(channel.clone(), &options.node, (&options.taps, registry));
    let mut client = MetricsServiceClient::new(channel);
    let (messages, sent) = mpsc::channel(1);
    let feed = async {
        // Dropped at the end, which closes the stream.
        let messages = messages;
        let mut node = options.node.clone();
        tell(&mut node, began.started_unix_ms, began.told);
        let mut identifier = Some(Identifier { node: Some(node) });
        let mut told = Told::default();
        let mut tick = tokio::time::interval(options.interval);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = end.wait() => {}
            }
            let last = end.draining();
            // Also when there is nothing new: who says nothing for long has no connections any more.
            let message = StreamMetricsMessage {
                identifier: identifier.take(),
                envoy_metrics: families(&registry.tell(&mut told), wall.millis()),
            };
            if messages.send(message).await.is_err() || last {
                return;
            }
            began.told = true;
            backoff.reset();
        }
    };
    let answer = client.stream_metrics(ReceiverStream::new(sent));
    tokio::pin!(answer);
    let answered = tokio::select! {
        answered = &mut answer => answered,
        // The answer says that all of it was taken.
        () = feed => answer.await,
        () = told => return Ok(()),
    };
    answered.map(drop).map_err(|status| status.to_string())
}

async fn channel(
    options: &PushOptions,
    identities: &Reader<Option<Arc<Material>>>,
) -> Result<Channel, String> {
    let endpoint =
        Endpoint::from_static("http://control-plane").connect_timeout(Duration::from_secs(10));
    let to = &options.control_plane;
    let channel = match &options.server {
        None => {
            let tcp = to.connect_plain().await.map_err(|e| e.to_string())?;
            once(endpoint, tcp).await
        }
        Some(server) => {
            let material = identities.load();
            let material = material.as_ref().as_ref().ok_or("no identity yet")?;
            let stream = to
                .connect(server, Caller::Member(material))
                .await
                .map_err(|error| error.to_string())?;
            once(endpoint, stream).await
        }
    };
    channel.map_err(|error| error.to_string())
}

/// A channel over one connection that exists already.
async fn once<T>(endpoint: Endpoint, io: T) -> Result<Channel, tonic::transport::Error>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = io.take();
        async move { io.ok_or_else(|| std::io::Error::other("the connection was used up")) }
    });
    endpoint.connect_with_connector(connector).await
}

/// What was gathered, in Prometheus' own messages.
pub(crate) fn families(gathered: &[Family], now_ms: u64) -> Vec<pb::MetricFamily> {
    gathered
        .iter()
        .map(|family| pb::MetricFamily {
            name: Some(family.metric.name.to_owned()),
            help: Some(family.metric.help.to_owned()),
            r#type: Some(
                match family.metric.kind {
                    Kind::Counter => pb::MetricType::Counter,
                    Kind::Gauge => pb::MetricType::Gauge,
                    Kind::Histogram => pb::MetricType::Histogram,
                }
                .into(),
            ),
            metric: family
                .samples
                .iter()
                .map(|sample| {
                    let mut metric = pb::Metric {
                        label: sample
                            .labels
                            .iter()
                            .map(|(name, value)| pb::LabelPair {
                                name: Some((*name).to_owned()),
                                value: Some(value.clone()),
                            })
                            .collect(),
                        timestamp_ms: i64::try_from(now_ms).ok(),
                        ..pb::Metric::default()
                    };
                    fill(&mut metric, &sample.value);
                    metric
                })
                .collect(),
            ..pb::MetricFamily::default()
        })
        .collect()
}

fn fill(metric: &mut pb::Metric, value: &Value) {
    match value {
        Value::Counter(count) => {
            metric.counter = Some(pb::Counter {
                value: Some(to_float(*count)),
                ..pb::Counter::default()
            });
        }
        Value::Gauge(level) => {
            metric.gauge = Some(pb::Gauge {
                value: Some(to_float(*level)),
            });
        }
        Value::Histogram {
            bounds,
            cumulative,
            count,
            sum,
            ..
        } => {
            let bucket = |(bound, count): (f64, &u64)| pb::Bucket {
                cumulative_count: Some(*count),
                upper_bound: Some(bound),
                ..pb::Bucket::default()
            };
            metric.histogram = Some(pb::Histogram {
                sample_count: Some(*count),
                sample_sum: Some(*sum),
                bucket: bounds
                    .iter()
                    .map(|bound| to_float(*bound) / 1000.0)
                    .chain([f64::INFINITY])
                    .zip(cumulative.iter().chain([count]))
                    .map(bucket)
                    .collect(),
                ..pb::Histogram::default()
            });
        }
    }
}
