//! The aggregated discovery service: one task a stream, delta or state of the world.
//!
//! Owns streams and who may open one. The protocol itself is `xds::subscription`, what is served is
//! [`super::push`]'s. A stream that does not read fills its own channel and nobody else's.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node as ProtoNode;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::push::{Hub, Session};
use super::serve_tls::PeerIdentity;
use crate::mesh::{Node, SpiffeId};
use crate::xds::Kind;
use crate::xds::encode::ROOTS;
use crate::xds::node::{claims, version_of};
use crate::xds::node_from_proto;
use crate::xds::subscription::{DeltaServer, Server, SotwServer};

/// Responses that wait for a slow reader. Of each type one at most is on its way, so this suffices.
const WAITING: usize = 8;
/// A stream that says nothing for this long after it was opened is closed.
const INTRODUCTION: Duration = Duration::from_secs(30);
/// Largest request: a client that reconnects names everything it has.
const MOST_REQUEST_BYTES: usize = 64 << 20;
/// Largest response.
const MOST_RESPONSE_BYTES: usize = 256 << 20;
/// Requests that are taken in one go before anything is answered: Envoy may send one for each name.
const MOST_AT_ONCE: usize = 256;

/// The service; serve it with tonic, on any number of ports.
#[derive(Debug, Clone)]
pub struct Ads {
    hub: Hub,
}

impl Ads {
    /// The service of `hub`'s clients.
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// With limits, ready to be added to a server.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MOST_REQUEST_BYTES)
            .max_encoding_message_size(MOST_RESPONSE_BYTES)
    }
}

/// Calls at once on one connection: a proxy has three that last, and a few that do not.
const MOST_STREAMS: u32 = 128;
/// The largest head of a call, in bytes.
const MOST_HEAD: u32 = 16 << 10;

/// A server for [`Ads`] and other services of the control plane: notices dead connections, and lets
/// large configurations flow.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .tcp_keepalive(Some(Duration::from_mins(1)))
        .tcp_nodelay(true)
        .max_concurrent_streams(Some(MOST_STREAMS))
        .http2_max_header_list_size(Some(MOST_HEAD))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<SotwServer>(request, "sotw", |request| request.node.as_ref())
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<DeltaServer>(request, "delta", |request| request.node.as_ref())
    }
}

impl Ads {
    fn open<S>(
        &self,
        request: Request<Streaming<S::Request>>,
        protocol: &'static str,
        node: fn(&S::Request) -> Option<&ProtoNode>,
    ) -> Result<Response<Responses<S::Response>>, Status>
    where
        S: Server + 'static,
        S::Request: Send + 'static,
        S::Response: Send + 'static,
    {
        let peer = match request.extensions().get::<PeerIdentity>() {
            // The port without TLS, on loopback only.
            None => None,
            Some(peer) if peer.id.is_some() => Some(peer.clone()),
            Some(_) => {
                self.hub
                    .refuse("unknown", None, "no client certificate on the TLS port");
                return Err(Status::unauthenticated(
                    "a client certificate of the mesh is required",
                ));
            }
        };
        let (out, responses) = mpsc::channel(WAITING);
        let hub = self.hub.clone();
        let requests = request.into_inner();
        self.hub.tasks().spawn("ads-stream", async move {
            let failed = out.clone();
            if let Err(status) = run::<S>(hub, requests, peer, protocol, node, out).await {
                // A client that is gone needs no reason.
                let _told = failed.send(Err(status)).await.is_ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

async fn run<S>(
    hub: Hub,
    mut requests: Streaming<S::Request>,
    peer: Option<PeerIdentity>,
    protocol: &'static str,
    node: fn(&S::Request) -> Option<&ProtoNode>,
    out: mpsc::Sender<Result<S::Response, Status>>,
) -> Result<(), Status>
where
    S: Server,
{
    let first = tokio::time::timeout(INTRODUCTION, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no request came"))??;
    let Some(first) = first else {
        return Ok(());
    };
    let proven = peer.as_ref().and_then(|peer| peer.id.as_ref());
    let version = node(&first).map(version_of).unwrap_or_default();
    let node = introduce(&hub, node(&first), proven)?;
    let mut session = hub.connect(node, peer, protocol);
    session.is_version(&version);
    let revised = Arc::clone(&session.pushed.borrow_and_update());
    let mut revision = revised.revision;
    let first_view = session.snapshot(&revised);
    let mut server = S::new(first_view.map_err(Status::permission_denied)?, revision);
    server.owe(std::mem::take(&mut session.owed));
    let mut events = server.request(first);
    let outcome = loop {
        // One subscription for each name is common: take what is there before answering.
        let mut ended = None;
        for _ in 0..MOST_AT_ONCE {
            match requests.next().now_or_never() {
                Some(Some(Ok(request))) => events.extend(server.request(request)),
                Some(Some(Err(status))) => ended = Some(Err(status)),
                Some(None) => ended = Some(Ok(())),
                None => break,
            }
            if ended.is_some() {
                break;
            }
        }
        note(&session, &server, std::mem::take(&mut events), revision);
        if let Some(outcome) = ended {
            break outcome;
        }
        // A full channel stops this stream only; requests and changes are still taken.
        let mut closed = false;
        while out.capacity() > 0 {
            let Some((kind, response)) = server.next() else {
                break;
            };
            session.sent(kind);
            match out.try_send(Ok(response)) {
                Ok(()) => {}
                Err(_) => closed = true,
            }
        }
        if closed {
            break Ok(());
        }
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => events = server.request(request),
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            },
            changed = session.pushed.changed() => {
                if changed.is_err() {
                    break Err(Status::unavailable("the control plane is stopping"));
                }
                let revised = Arc::clone(&session.pushed.borrow_and_update());
                revision = revised.revision;
                match session.snapshot(&revised) {
                    Ok(snapshot) => server.publish(snapshot, revision),
                    // What it says of itself does not hold any more.
                    Err(reason) => break Err(Status::permission_denied(reason)),
                }
            }
            _room = out.reserve(), if out.capacity() == 0 => {}
        }
    };
    session.leave(server.unfinished());
    outcome
}

fn note(
    session: &Session,
    server: &impl Server,
    events: Vec<crate::xds::subscription::Event>,
    revision: u64,
) {
    let roots = server.holds(Kind::Secret, ROOTS);
    session.said(events, server.standing(), revision, roots);
}

/// Who opened the stream. What it claims must agree with what it proved.
fn introduce(
    hub: &Hub,
    proto: Option<&ProtoNode>,
    proven: Option<&SpiffeId>,
) -> Result<Node, Status> {
    let mut node =
        node_from_proto(proto).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let Some(proven) = proven else {
        return Ok(node);
    };
    let claims = claims(proto);
    let agrees = |claim: Option<&String>, proven: &str| claim.is_none_or(|claim| claim == proven);
    if agrees(claims.namespace.as_ref(), &proven.namespace)
        // The id is what it is known by, so it must not be of another namespace either.
        && agrees(claims.id_namespace.as_ref(), &proven.namespace)
        && agrees(claims.service_account.as_ref(), &proven.service_account)
    {
        node.namespace.clone_from(&proven.namespace);
        node.service_account.clone_from(&proven.service_account);
        return Ok(node);
    }
    let reason = format!(
        "node {:?} claims {}/{} but its certificate says {proven}",
        node.id, node.namespace, node.service_account
    );
    hub.refuse(&node.id, Some(proven), &reason);
    Err(Status::permission_denied(reason))
}
