//! Which taps there are, from the control plane, and calls to it: both on streams of one connection.
//!
//! Taps come as extension configurations ([`crate::xds::tap`]); calls go by Envoy's access log service, a stream a
//! tap. When the connection or the control plane goes, so do all taps: nothing of them is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::envoy::service::extension::v3::extension_config_discovery_service_client::ExtensionConfigDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status as Fault;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::rt::Backoff;
use crate::telemetry::{AccessRecord, Registry};
use crate::xds::tap::{TYPE_URL, read};

use super::entry::entry;
use super::{Running, Taps};

/// Calls in one message at most.
const BATCH: usize = 64;
/// How long until a control plane that knows of no taps is asked again.
const NOT_KNOWN: Duration = Duration::from_mins(5);

/// Takes taps away when the stream that they came by has ended.
struct Following<'t>(&'t Taps);

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.set(Vec::new());
    }
}

/// Does as the control plane at the other end of `channel` says; never ends.
pub(crate) async fn follow(channel: Channel, node: &Node, (taps, registry): (&Taps, &Registry)) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let ended = once(channel.clone(), node, (taps, registry), &mut backoff).await;
        match ended {
            Err(status) if status.code() == Code::Unimplemented => {
                tokio::time::sleep(NOT_KNOWN).await;
            }
            ended => {
                tracing::debug!(?ended, "taps are not told; will ask again");
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
        }
    }
}

async fn once(
    channel: Channel,
    node: &Node,
    (taps, registry): (&Taps, &Registry),
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let (asks, asked) = mpsc::channel(4);
    let first = DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: TYPE_URL.to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let gone = |_| Status::unavailable("the stream has ended");
    asks.send(first).await.map_err(gone)?;
    let mut client = ExtensionConfigDiscoveryServiceClient::new(channel.clone());
    let answers = client
        .delta_extension_configs(ReceiverStream::new(asked))
        .await?;
    let mut answers = answers.into_inner();
    let _following = Following(taps);
    let mut known = BTreeMap::new();
    let mut running: BTreeMap<String, Arc<Running>> = BTreeMap::new();
    let mut telling: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?,
            Some(()) = telling.next() => continue,
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        backoff.reset();
        let nonce = answer.nonce.clone();
        apply(&mut known, answer);
        let (wanted, bad) = read(&known);
        running.retain(|_, one| wanted.contains(&one.tap));
        for tap in wanted {
            if !running.contains_key(&tap.name) {
                let (one, told) = Running::new(tap);
                let tap = (one.tap.name.clone(), one.tap.headers.clone());
                running.insert(tap.0.clone(), one);
                telling.push(Box::pin(tell(channel.clone(), node, registry, tap, told)));
            }
        }
        taps.set(running.values().cloned().collect());
        let fault = bad.first().map(|bad| Fault {
            code: i32::from(Code::InvalidArgument),
            message: bad.to_string(),
            ..Fault::default()
        });
        let acknowledged = DeltaDiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            response_nonce: nonce,
            error_detail: fault,
            ..DeltaDiscoveryRequest::default()
        };
        asks.send(acknowledged).await.map_err(gone)?;
    }
}

fn apply(known: &mut BTreeMap<String, Any>, answer: DeltaDiscoveryResponse) {
    for name in &answer.removed_resources {
        known.remove(name);
    }
    for resource in answer.resources {
        if let Some(body) = resource.resource {
            known.insert(resource.name, body);
        }
    }
}

/// Tells of the calls of one tap until it is taken away.
async fn tell(
    channel: Channel,
    node: &Node,
    registry: &Registry,
    (name, headers): (String, Vec<String>),
    mut told: mpsc::Receiver<Arc<AccessRecord>>,
) {
    let (messages, sent) = mpsc::channel(1);
    let feed = async {
        let mut identifier = Some(Identifier {
            node: Some(node.clone()),
            log_name: name.clone(),
        });
        let mut batch = Vec::with_capacity(BATCH);
        while told.recv_many(&mut batch, BATCH).await > 0 {
            let entries = batch
                .drain(..)
                .map(|record| entry(&record, &headers, registry));
            let message = StreamAccessLogsMessage {
                identifier: identifier.take(),
                log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries {
                    log_entry: entries.collect(),
                })),
            };
            if messages.send(message).await.is_err() {
                return;
            }
        }
        // The end of what is sent is the end of the stream.
        drop(messages);
    };
    let mut client = AccessLogServiceClient::new(channel);
    let (answer, ()) = tokio::join!(client.stream_access_logs(ReceiverStream::new(sent)), feed);
    if let Err(status) = answer {
        tracing::debug!(tap = name, %status, "calls are not taken");
    }
}
