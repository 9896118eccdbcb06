//! The proxy's side of configuration: a delta ADS stream that is made again for ever, and the last
//! good configuration on disk.
//!
//! Owns when to connect and when a view is whole enough to run. How connections are made and
//! secured comes in as [`Dial`]; the protocol is `xds::subscription`; tables are built by whoever
//! reads the view.

pub mod saved;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, info, warn};

use crate::mesh::{Node, Revision, View};
use crate::rt::{self, Backoff, Published, Reader, Tasks, UnixMillis, Wall};
use crate::xds::subscription::DeltaClient;
use crate::xds::{Rejected, Snapshot};

/// First wait before another attempt; doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest wait (Envoy's).
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long a view that still lacks something it names is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an acknowledgement waits for workers to go by what it is of.
const LONGEST_TAKING: Duration = Duration::from_secs(1);
/// Changes are saved this long after the first, with all that came meanwhile.
const SETTLED: Duration = Duration::from_millis(200);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest response: everything of a large mesh in one message.
const MOST_RESPONSE_BYTES: usize = 256 << 20;
/// Requests that wait to be sent.
const WAITING: usize = 64;
/// The authority of requests; who answers is proven by [`Dial`].
const AUTHORITY: &str = "http://meshctl.meshctl-system.svc";

/// A connection to the control plane.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to the control plane: plain on loopback, else with the workload's identity.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync>;

/// How a proxy gets its configuration.
#[derive(Clone)]
pub struct ClientOptions {
    /// Who asks.
    pub node: Node,
    /// How it connects.
    pub dial: Dial,
    /// Where the last good configuration is kept (`config.bin`); `None` keeps none.
    pub dir: Option<PathBuf>,
    /// The clock, for reports.
    pub wall: Wall,
    /// Says which revision of the view is in force; `None` when nobody can say.
    pub in_force: Option<watch::Receiver<u64>>,
    /// Changes when `dial` would prove another root's certificate: then the stream is made again, so that
    /// the control plane sees it. `None` when it proves nothing; nobody is told the mesh's roots then.
    pub proofs: Option<watch::Receiver<u64>>,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("node", &self.node.id)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// How the link to the control plane stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkState {
    /// A stream stands.
    pub connected: bool,
    /// Since when it does, or does not.
    pub since_unix_ms: UnixMillis,
    /// The view is the control plane's and not the one from disk.
    pub synced: bool,
    /// Why there is no stream.
    pub last_error: Option<String>,
    /// What is refused at present.
    pub rejected: Vec<Rejected>,
    /// Fields without effect here.
    pub ignored: Vec<String>,
}

/// What [`start`] hands out.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// What to run. The saved one at first, or nothing.
    pub view: Reader<View>,
    /// How the link stands.
    pub link: Reader<LinkState>,
}

/// Loads what was saved, publishes it, and follows the control plane until `tasks` end.
pub async fn start(options: ClientOptions, tasks: &Tasks) -> Configuration {
    let saved = match options.dir.clone() {
        None => Snapshot::default(),
        Some(dir) => Tasks::blocking(move || saved::load(&dir))
            .await
            .unwrap_or_default(),
    };
    let mut client = DeltaClient::new(&options.node, &saved);
    if options.proofs.is_some() {
        client = client.following_roots();
    }
    let view = Published::new(client.view());
    let link = Published::new(LinkState {
        since_unix_ms: options.wall.millis(),
        last_error: Some("not connected yet".to_owned()),
        ..LinkState::default()
    });
    let configuration = Configuration {
        view: view.reader(),
        link: link.reader(),
    };
    let (save, changes) = watch::channel(saved);
    if let Some(dir) = options.dir.clone() {
        tasks.spawn("config-saver", keep_saved(dir, changes));
    }
    let follower = Follower {
        options,
        save,
        client,
        view,
        link,
        revision: 0,
        publish_by: None,
    };
    tasks.spawn("ads-client", follower.follow());
    configuration
}

/// How a stream ended that did not fail.
enum End {
    /// The control plane closed it.
    Closed,
    /// There is another certificate to prove.
    Renewed,
}

/// Waits for the next certificate of another root.
async fn renewed(proofs: &mut Option<watch::Receiver<u64>>) {
    if let Some(proofs) = proofs
        && proofs.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

struct Follower {
    options: ClientOptions,
    client: DeltaClient,
    view: Published<View>,
    link: Published<LinkState>,
    /// Of the view that was published last.
    revision: u64,
    /// There is something new, and this is how long it may be held back.
    publish_by: Option<Instant>,
    save: watch::Sender<Snapshot>,
}

/// Saves apart from the stream, so that a slow disk delays no acknowledgement.
async fn keep_saved(dir: PathBuf, mut changes: watch::Receiver<Snapshot>) {
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SETTLED).await;
        let snapshot = changes.borrow_and_update().clone();
        let into = dir.clone();
        match Tasks::blocking(move || saved::save(&into, &snapshot)).await {
            Some(Ok(())) | None => {}
            Some(Err(error)) => {
                warn!(%error, dir = %dir.display(), "cannot save the configuration");
            }
        }
    }
}

impl Follower {
    async fn follow(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let reason = match self.stream(&mut backoff).await {
                Ok(End::Renewed) => {
                    info!("linking again, by the new certificate");
                    continue;
                }
                Ok(End::Closed) => "the control plane closed the stream".to_owned(),
                Err(reason) => reason,
            };
            let wait = backoff.next(fastrand::f64());
            if self.link.load().connected || backoff.attempts() == 1 {
                warn!(%reason, "no link to the control plane; keeping the last configuration");
            } else {
                debug!(%reason, attempt = backoff.attempts(), "still no link to the control plane");
            }
            self.note(false, Some(reason));
            // What came before the stream broke is as whole as it will be for now.
            self.publish_by = self.publish_by.map(|_| crate::rt::now());
            self.publish();
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream, from connecting to its end.
    async fn stream(&mut self, backoff: &mut Backoff) -> Result<End, String> {
        let mut proofs = self.options.proofs.clone();
        if let Some(proofs) = &mut proofs {
            proofs.mark_unchanged();
        }
        let channel = connect(&self.options.dial).await?;
        let mut service = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MOST_RESPONSE_BYTES);
        let (requests, outgoing) = mpsc::channel::<DeltaDiscoveryRequest>(WAITING);
        for request in self.client.connect() {
            requests.try_send(request).map_err(|e| e.to_string())?;
        }
        let mut responses = service
            .delta_aggregated_resources(ReceiverStream::new(outgoing))
            .await
            .map_err(|status| explain(&status))?
            .into_inner();
        self.note(true, None);
        info!("linked to the control plane");
        loop {
            let due = self.publish_by;
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response.map_err(|status| explain(&status))? else {
                        return Ok(End::Closed);
                    };
                    backoff.reset();
                    let step = self.client.response(response);
                    for rejected in &step.rejected {
                        warn!(type_url = %rejected.type_url, name = %rejected.name, reason = %rejected.reason, "refused part of the configuration");
                    }
                    if step.changed {
                        self.publish_by.get_or_insert(crate::rt::now() + PATIENCE);
                    }
                    // What is acknowledged is in force.
                    if self.publish() {
                        self.wait_in_force().await;
                    }
                    for request in step.requests {
                        if requests.send(request).await.is_err() {
                            return Ok(End::Closed);
                        }
                    }
                    self.note(true, None);
                }
                () = renewed(&mut proofs) => return Ok(End::Renewed),
                () = tokio::time::sleep_until(due.unwrap_or_else(crate::rt::now)), if due.is_some() => {
                    self.publish();
                }
            }
        }
    }

    /// Publishes what is new, once it is whole or was held back for long enough. Whether it did.
    fn publish(&mut self) -> bool {
        let due = self
            .publish_by
            .is_some_and(|by| by <= crate::rt::now() || self.client.complete());
        if due {
            self.publish_by = None;
            // Until it is known what to serve, nothing is, and nobody is to wait for it.
            self.revision += u64::from(self.client.knows_listeners());
            let mut view = self.client.view();
            view.revision = Revision(self.revision);
            self.view.publish(view);
            self.save.send_replace(self.client.snapshot());
        }
        due
    }

    /// Waits until workers go by what was published last.
    async fn wait_in_force(&mut self) {
        let revision = self.revision;
        if let Some(in_force) = &mut self.options.in_force {
            let waiting = in_force.wait_for(|told| *told >= revision);
            // Names that nobody answers hold a view back: its arrival is acknowledged all the same.
            let _told = tokio::time::timeout(LONGEST_TAKING, waiting).await.is_ok();
        }
    }

    fn note(&self, connected: bool, error: Option<String>) {
        let before = self.link.load();
        let state = LinkState {
            connected,
            since_unix_ms: if before.connected == connected {
                before.since_unix_ms
            } else {
                self.options.wall.millis()
            },
            synced: before.synced
                || (connected && self.client.complete() && self.publish_by.is_none()),
            last_error: error,
            rejected: self.client.rejected(),
            ignored: self.client.ignored(),
        };
        if *before != state {
            self.link.publish(state);
        }
    }
}

async fn connect(dial: &Dial) -> Result<Channel, String> {
    let dial = Arc::clone(dial);
    let connector = tower::service_fn(move |_: http::Uri| {
        let connecting = dial();
        async move {
            connecting
                .await
                .map(|io| hyper_util::rt::TokioIo::new(Boxed(io)))
        }
    });
    Endpoint::from_static(AUTHORITY)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector(connector)
        .await
        .map_err(|error| rt::chain(&error))
}

/// A boxed connection as one type.
struct Boxed(Box<dyn Io>);

impl AsyncRead for Boxed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Boxed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn explain(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
