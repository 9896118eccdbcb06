//! The two services that proxies call: which taps there are, and calls.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::extension::v3::extension_config_discovery_service_server::ExtensionConfigDiscoveryService;
use envoy_types::pb::google::protobuf::Any;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::mesh::{Node, SpiffeId};
use crate::rt::{self, Reader, Tasks};
use crate::xds::node_from_proto;
use crate::xds::tap::{TYPE_URL, resources};

use super::super::push::Revised;
use super::super::series::refuses;
use super::super::serve_tls::PeerIdentity;
use super::Taps;
use super::call::call;

/// How long a stream may stay silent at its beginning.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Serves both.
#[derive(Debug, Clone)]
pub struct TapServer {
    taps: Taps,
    world: Reader<Revised>,
    tasks: Tasks,
}

impl TapServer {
    /// Serves `taps` to proxies of the world.
    pub fn new(taps: Taps, world: Reader<Revised>, tasks: Tasks) -> Self {
        Self { taps, world, tasks }
    }

    /// The node that says so, if the other end may speak for it.
    fn node(
        &self,
        said: Option<&envoy_types::pb::envoy::config::core::v3::Node>,
        id: &SpiffeId,
    ) -> Result<Node, Status> {
        let node =
            node_from_proto(said).map_err(|error| Status::invalid_argument(error.to_string()))?;
        match refuses(&self.world.load().world, &node.id, id) {
            Some(reason) => Err(Status::permission_denied(reason)),
            None => Ok(node),
        }
    }

    /// What the proxy of `node` is to have now.
    fn wanted(&self, node: &Node) -> BTreeMap<String, Any> {
        let world = &self.world.load().world;
        let open = self.taps.all();
        let taps = open
            .iter()
            .filter_map(|(name, open)| open.asked.tap(name, node, world));
        taps.flat_map(|tap| resources(&tap)).collect()
    }
}

fn proven<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let peer = request.extensions().get::<PeerIdentity>();
    peer.and_then(|peer| peer.id.clone())
        .ok_or_else(|| Status::unauthenticated("a client certificate of the mesh is needed"))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ExtensionConfigDiscoveryService for TapServer {
    type StreamExtensionConfigsStream = Answers<DiscoveryResponse>;
    type DeltaExtensionConfigsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_extension_configs(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamExtensionConfigsStream>, Status> {
        Err(Status::unimplemented("only by differences"))
    }

    async fn delta_extension_configs(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaExtensionConfigsStream>, Status> {
        let id = proven(&request)?;
        let (out, answers) = mpsc::channel(1);
        let (server, asks) = (self.clone(), request.into_inner());
        self.tasks.spawn("taps", async move {
            if let Err(status) = hand_out(&server, &id, asks, &out).await {
                // A proxy that is gone needs no reason.
                let _told = out.send(Err(status)).await.is_ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn fetch_extension_configs(
        &self,
        _request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("only by differences"))
    }
}

/// Counts a proxy while it would be told of taps.
struct Listening<'t>(&'t Taps);

impl<'t> Listening<'t> {
    fn new(taps: &'t Taps) -> Self {
        taps.listening.fetch_add(1, Ordering::Relaxed);
        Self(taps)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listening.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn hand_out(
    server: &TapServer,
    id: &SpiffeId,
    mut asks: Streaming<DeltaDiscoveryRequest>,
    out: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(INTRODUCTION, asks.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request came"))??;
    let first = first.ok_or_else(|| Status::invalid_argument("no request came"))?;
    if first.type_url != TYPE_URL {
        let message = format!("{} is not served here, only {TYPE_URL}", first.type_url);
        return Err(Status::invalid_argument(message));
    }
    let node = server.node(first.node.as_ref(), id)?;
    let mut changed = server.taps.changed.subscribe();
    let _listening = Listening::new(&server.taps);
    let mut sent: BTreeMap<String, Any> = BTreeMap::new();
    let mut nonce: u64 = 0;
    loop {
        changed.mark_unchanged();
        let wanted = server.wanted(&node);
        let removed: Vec<String> = sent
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        let added: Vec<Resource> = wanted
            .iter()
            .filter(|(name, body)| sent.get(*name) != Some(body))
            .map(|(name, body)| Resource {
                name: name.clone(),
                version: nonce.to_string(),
                resource: Some(body.clone()),
                ..Resource::default()
            })
            .collect();
        if !removed.is_empty() || !added.is_empty() {
            nonce += 1;
            let answer = DeltaDiscoveryResponse {
                type_url: TYPE_URL.to_owned(),
                nonce: nonce.to_string(),
                resources: added,
                removed_resources: removed,
                ..DeltaDiscoveryResponse::default()
            };
            if out.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
            sent = wanted;
        }
        loop {
            tokio::select! {
                ask = asks.message() => match ask? {
                    Some(ask) => if let Some(fault) = ask.error_detail {
                        tracing::warn!(node = node.id, reason = fault.message, "a proxy refuses a tap");
                    },
                    None => return Ok(()),
                },
                told = changed.changed() => match told {
                    Ok(()) => break,
                    Err(_) => return Ok(()),
                },
                () = out.closed() => return Ok(()),
            }
        }
    }
}

#[tonic::async_trait]
impl AccessLogService for TapServer {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let id = proven(&request)?;
        let mut stream = request.into_inner();
        let Some(mut message) = stream.message().await? else {
            return Ok(Response::new(StreamAccessLogsResponse {}));
        };
        let Some(identifier) = message.identifier.take() else {
            return Err(Status::invalid_argument(
                "the first message must say which node and which log it is of",
            ));
        };
        let node = self.node(identifier.node.as_ref(), &id)?;
        let gone = || Status::not_found("nobody reads this log any more");
        let open = self.taps.get(&identifier.log_name).ok_or_else(gone)?;
        loop {
            let entries = match message.log_entries {
                Some(LogEntries::HttpLogs(http)) => http.log_entry,
                _ => Vec::new(),
            };
            let world = std::sync::Arc::clone(&self.world.load().world);
            // An instance may have become another's meanwhile.
            if let Some(reason) = refuses(&world, &node.id, &id) {
                return Err(Status::permission_denied(reason));
            }
            for entry in entries {
                open.take(call(entry, &node, &world, &open.asked), rt::now());
            }
            message = tokio::select! {
                next = stream.message() => match next? {
                    Some(next) => next,
                    None => return Ok(Response::new(StreamAccessLogsResponse {})),
                },
                () = open.calls.closed() => return Err(gone()),
            };
        }
    }
}
