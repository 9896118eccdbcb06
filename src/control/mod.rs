//! The control plane: one writer of the world, and everything that serves it.
//!
//! ```text
//! rest ──► index ──► store            what people want, what runs
//!            │ world
//!            ▼
//!          push ──► ads ──► proxies   views, acknowledgements
//!          trust ─► ca ───► proxies   tokens, certificates
//! proxies ─► series ─► report ─► rest numbers
//! ```
//!
//! Owns the wiring: which ports are opened, in which order, and what happens at the end. All
//! administration is on a Unix socket of mode 0600, and over TLS where that is asked for; proxies come over mutual TLS; the port without
//! TLS is bound to loopback only and gives out no secrets.

pub mod access;
pub mod ads;
pub mod attest;
pub mod audit;
pub mod ca;
pub mod canary;
pub mod check;
pub mod cluster;
mod edge;
mod enrolled;
mod error;
mod faults;
mod follow;
mod history;
mod housekeeping;
mod in_memory;
pub mod index;
pub mod key_sets;
mod known;
mod metrics;
mod named;
mod own_user;
mod policies;
pub mod preview;
pub mod push;
pub mod registry;
pub mod report;
pub mod rest;
mod rollouts;
mod rotation;
pub mod series;
pub mod serve_api;
pub mod serve_tls;
pub mod signer;
mod sources;
pub mod tap;
mod throttle;
pub mod token;
pub mod traces;
pub mod trust;
pub mod views;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use envoy_types::pb::envoy::service::extension::v3::extension_config_discovery_service_server::ExtensionConfigDiscoveryServiceServer;
use envoy_types::pb::envoy::service::metrics::v3::metrics_service_server::MetricsServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::mesh::Client;
use crate::net::pages::{self, Names, OwnersOnly};
use crate::net::{BindOptions, bind, bind_unix};
use crate::rt::disk::private_dir;
use crate::rt::{DrainSignal, Tasks, Wall};

use crate::source::kubernetes::review::Reviewer;
use crate::source::store::{OpenReport, Options, Store};
use crate::source::{State, kubernetes};
use crate::tls;
pub use error::ControlError;
use index::Index;
use push::{Hub, HubOptions};
use series::Numbers;
pub use sources::Catalogue;
use trust::Trust;
use views::Views;

/// How a control plane is run.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// Directory of the mesh.
    pub home: PathBuf,
    /// Address of the TLS port; the others are on loopback.
    pub listen: IpAddr,
    /// xDS without TLS, on loopback; 0 is any free port.
    pub xds_port: u16,
    /// xDS, CA and registry over TLS; 0 is any free port.
    pub tls_port: u16,
    /// Metrics, on loopback; 0 is any free port.
    pub metrics_port: u16,
    /// `/ready`, on loopback; 0 is any free port.
    pub health_port: u16,
    /// Where the API is served over TCP; nowhere unless asked.
    pub api: Option<serve_api::ApiOptions>,
    /// The root of identities.
    pub trust_domain: String,
    /// Workloads refuse plaintext unless a policy says otherwise.
    pub strict: bool,
    /// Directories whose manifests are applied, and watched.
    pub sources: Vec<PathBuf>,
    /// A cluster whose objects are followed. Proxies are served once it is known as a whole.
    pub kubernetes: Option<kubernetes::Access>,
    /// Catalogues that are followed as such a cluster is.
    pub catalogues: Vec<Catalogue>,
    /// The installation in that cluster that this replica is of; none for one that runs elsewhere.
    pub membership: Option<cluster::Membership>,
    /// Where `/ready` and metrics are answered, besides nothing else: loopback unless asked otherwise.
    pub told_at: IpAddr,
    /// How the authority is kept, and which one it is.
    pub ca: trust::CaOptions,
    /// How long keys of token issuers stay in force that cannot be fetched any more. Default
    /// [`key_sets::GRACE`].
    pub key_grace: Duration,
    /// How long a connection to the TLS port may last on which no certificate was shown. Default
    /// [`serve_tls::STRANGERS`].
    pub strangers: Duration,
    /// Most bytes that numbers of proxies take. Default [`series::BYTES`].
    pub numbers_bytes: usize,
    /// The clock.
    pub wall: Wall,
}

impl ControlOptions {
    /// The usual ports for the mesh in `home`.
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            xds_port: 15010,
            tls_port: 15012,
            metrics_port: 15014,
            health_port: 15080,
            api: None,
            trust_domain: "cluster.local".to_owned(),
            strict: false,
            key_grace: key_sets::GRACE,
            strangers: serve_tls::STRANGERS,
            sources: Vec::new(),
            kubernetes: None,
            catalogues: Vec::new(),
            membership: None,
            told_at: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ca: trust::CaOptions::default(),
            numbers_bytes: series::BYTES,
            wall: Wall::System,
        }
    }

    /// The API's socket.
    pub fn api_socket(&self) -> PathBuf {
        api_socket(&self.home)
    }
}

/// Where the API of the mesh in `home` is.
pub fn api_socket(home: &Path) -> PathBuf {
    home.join("control").join("api.sock")
}

/// Where the store of the mesh in `home` is.
pub fn store_dir(home: &Path) -> PathBuf {
    home.join("control").join("store")
}

/// Where the authority of the mesh in `home` is.
pub fn trust_dir(home: &Path) -> PathBuf {
    home.join("control").join("ca")
}

/// The parts that answers are made from.
#[derive(Debug)]
pub struct Control {
    pub(crate) index: Arc<Index>,
    pub(crate) hub: Hub,
    pub(crate) trust: Arc<Trust>,
    pub(crate) numbers: Numbers,
    pub(crate) taps: tap::Taps,
    /// Spans that proxies sent.
    pub(crate) traces: traces::Kept,
    pub(crate) rollouts: rollouts::Rollouts,
    pub(crate) wall: Wall,
    pub(crate) opened: OpenReport,
    /// How things stand with the cluster, if there is one.
    pub(crate) kubernetes: Option<watch::Receiver<kubernetes::Status>>,
    /// How things stand with each catalogue outside.
    pub(crate) catalogues: Vec<watch::Receiver<State>>,
    /// Whether every source has said all there is.
    pub(crate) complete: watch::Receiver<bool>,
    started_unix_ms: u64,
    pub(crate) gate: serve_api::Gate,
    /// Where configuration is kept, for a replica in a cluster.
    pub(crate) cluster: Option<kubernetes::cluster::Cluster>,
    /// How other replicas are asked.
    peers: cluster::peers::Peers,
    /// The installation there that this replica is of.
    pub(crate) membership: Option<cluster::Membership>,
    xds_address: SocketAddr,
    tls_address: SocketAddr,
    api_address: Option<SocketAddr>,
}

/// Where a control plane can be reached, once it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The API.
    pub api: PathBuf,
    /// xDS without TLS.
    pub xds: SocketAddr,
    /// xDS, CA and registry over TLS.
    pub tls: SocketAddr,
    /// Health and metrics.
    pub metrics: SocketAddr,
}

/// Runs a control plane until `drain` says so. `ready` is called once everything listens.
pub async fn run(
    options: ControlOptions,
    mut drain: DrainSignal,
    ready: impl FnOnce(&Addresses) + Send,
) -> Result<(), ControlError> {
    let tasks = Tasks::new();
    let directory = options.home.join("control");
    private_dir(&directory).map_err(|source| ControlError::Home {
        path: directory.clone(),
        source,
    })?;
    let (store, opened) = open_store(&options).await?;
    if let Some(repair) = &opened.repaired {
        tracing::error!(%repair, "the store was damaged");
    }
    let failed = |source| ControlError::Store {
        path: store_dir(&options.home),
        source,
    };
    let wall = options.wall.clone();
    let index = Arc::new(Index::open(store.clone(), wall.clone()).map_err(failed)?);
    policies::start(&index, &options).await?;
    // Nobody is served what is over already.
    if let Err(problem) = index.end_faults().await {
        tracing::error!(error = %problem.message, "cannot end faults");
    }
    let alone = options.membership.is_none();
    let numbers = Numbers::open(store.clone(), wall.clone(), options.numbers_bytes, alone);
    let numbers = numbers.map_err(failed)?;

    // Pods without namespaces have loopback addresses of their own, and so has their control plane.
    let loopback = if options.listen.is_loopback() {
        options.listen
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    let (xds, xds_address) = listen(loopback, options.xds_port, "--xds-port")?;
    let (secure, tls_address) = listen(options.listen, options.tls_port, "--tls-port")?;
    let told_at = if options.told_at.is_loopback() {
        loopback
    } else {
        options.told_at
    };
    let (metrics, metrics_address) = listen(told_at, options.metrics_port, "--metrics-port")?;
    let (health, _) = listen(told_at, options.health_port, "--api-port")?;
    let api_tcp = serve_api::bind(options.api.as_ref()).map_err(|(address, source)| {
        ControlError::Listen {
            address: address.to_string(),
            option: Some("--api-address"),
            source,
        }
    })?;
    let socket = options.api_socket();
    let api = bind_unix(&socket).map_err(|source| ControlError::Listen {
        address: socket.display().to_string(),
        option: None,
        source,
    })?;

    // It may wait for the API server for long.
    let member = tokio::select! {
        member = cluster::Member::join(&options) => member?,
        () = drain.wait() => return Ok(()),
    };
    let ca = member.as_ref().map_or(&options.ca, |member| &member.ca);
    let trust = Arc::new(Trust::open(
        store.clone(),
        &trust_dir(&options.home),
        &options.trust_domain,
        ca,
        wall.clone(),
    )?);

    let sources::Followed {
        kubernetes,
        reviewer,
        catalogues,
        complete,
    } = sources::follow(&options, &index, &wall, &tasks).await?;
    let hub = Hub::start(hub_options(&index, &trust, &wall), index.reader(), &tasks);
    let control = Arc::new(Control {
        index: Arc::clone(&index),
        hub,
        trust: Arc::clone(&trust),
        numbers: numbers.clone(),
        taps: tap::Taps::default(),
        traces: traces::Kept::default(),
        rollouts: rollouts::Rollouts::open(store.clone(), &tasks).map_err(failed)?,
        started_unix_ms: wall.millis(),
        wall,
        opened,
        kubernetes,
        catalogues,
        complete,
        gate: serve_api::Gate::default(),
        cluster: member.as_ref().map(|member| member.cluster.clone()),
        peers: cluster::peers::Peers::default(),
        membership: member.as_ref().map(|member| member.membership.clone()),
        xds_address,
        tls_address,
        api_address: api_tcp.as_ref().map(|(_, options)| options.address),
    });

    let (ended, mut end) = tokio::sync::mpsc::channel::<ControlError>(4);
    let names = member.as_ref().map(|member| member.membership.names());
    let seat = match member {
        // It is large, and there is one.
        Some(member) => Some(Box::pin(member.begin(&control, &tasks)).await?),
        None => None,
    };
    serve_plain(&control, xds, &tasks, ended.clone());
    let names = (names.unwrap_or_default(), options.strangers);
    serve_secure(&control, (secure, reviewer), names, &tasks, ended.clone()).await?;
    serve_socket(&control, api, &tasks, ended.clone());
    if let Some((listener, options)) = api_tcp {
        serve_api::serve(&control, listener, &options, &tasks).await?;
        tracing::info!(address = %options.address, "the API is served over TLS");
    }
    serve_http(
        "metrics",
        metrics::metrics_routes(Arc::clone(&control)),
        metrics,
        &tasks,
        ended.clone(),
    );
    let health_routes = rest::health_routes(Arc::clone(&control));
    serve_http("health", health_routes, health, &tasks, ended);
    housekeeping::start(&control, &options, &tasks);
    ready(&Addresses {
        api: socket.clone(),
        xds: xds_address,
        tls: tls_address,
        metrics: metrics_address,
    });
    tracing::info!(api = %socket.display(), xds = %xds_address, tls = %tls_address, "the control plane serves");

    let result = tokio::select! {
        () = drain.wait() => Ok(()),
        error = end.recv() => error.map_or(Ok(()), Err),
    };
    tasks.end().await;
    if let Some(seat) = seat {
        seat.leave().await;
    }
    if let Err(error) = numbers.write() {
        tracing::warn!(%error, "the last numbers were not written");
    }
    // Another control plane may bind the path from here on, so it goes before the store is unlocked.
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "the API's socket was gone");
    }
    drop((control, index, numbers, trust));
    drop(store);
    result
}

fn hub_options(index: &Index, trust: &Arc<Trust>, wall: &Wall) -> HubOptions {
    let current = trust.current();
    let trust = Arc::clone(trust);
    let (attested, granted) = (index.attested.reader(), Arc::clone(&trust));
    HubOptions {
        views: Views::default(),
        admit: Arc::new(move |world, node, id| {
            let granted = granted.granted(id);
            attested.load().judge(world, node, id, &granted)
        }),
        // Only to those who proved who they are, and only what is theirs.
        secrets: Arc::new(move |node, proven| match proven {
            Some(id) if node.client == Client::Envoy => trust.secrets(id).unwrap_or_else(|error| {
                tracing::error!(%error, %id, "no certificate for a proxy");
                Vec::new()
            }),
            _ => Vec::new(),
        }),
        roots: Arc::new(move || Arc::clone(&current.load().roots)),
        wall: wall.clone(),
    }
}

async fn open_store(options: &ControlOptions) -> Result<(Store, OpenReport), ControlError> {
    let path = store_dir(&options.home);
    let wall = options.wall.clone();
    let directory = path.clone();
    let opened = Tasks::blocking(move || {
        Store::open(
            &directory,
            &Options {
                wall,
                ..Options::default()
            },
        )
    })
    .await;
    match opened {
        Some(Ok(opened)) => Ok(opened),
        Some(Err(source)) => Err(ControlError::Store { path, source }),
        None => Err(ControlError::Home {
            path,
            source: io::Error::other("opening it failed"),
        }),
    }
}

fn listen(
    ip: IpAddr,
    port: u16,
    option: &'static str,
) -> Result<(TcpListener, SocketAddr), ControlError> {
    let address = SocketAddr::new(ip, port);
    let failed = |source| ControlError::Listen {
        address: address.to_string(),
        option: Some(option),
        source,
    };
    let listener = bind(address, BindOptions::default()).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

type Ended = tokio::sync::mpsc::Sender<ControlError>;

/// Until every source is known, and what is known is what proxies get: pushes lag a little behind the world.
async fn known(control: &Control) {
    follow::completed(control.complete.clone()).await;
    control.hub.catch_up(control.index.reader().load());
}

fn serve_plain(control: &Arc<Control>, listener: TcpListener, tasks: &Tasks, ended: Ended) {
    let routes = Routes::new(ads::Ads::new(control.hub.clone()).into_service());
    let serving = Arc::clone(control);
    tasks.spawn("xds", async move {
        known(&serving).await;
        let served = ads::server()
            .add_routes(routes)
            .serve_with_incoming(own_user::only(listener))
            .await;
        report_end("xDS", served.map_err(io::Error::other), &ended).await;
    });
}

async fn serve_secure(
    control: &Arc<Control>,
    (listener, reviewer): (TcpListener, Option<Arc<Reviewer>>),
    (names, strangers): (Vec<String>, Duration),
    tasks: &Tasks,
    ended: Ended,
) -> Result<(), ControlError> {
    let trust = &control.trust;
    let incoming = serve_tls::incoming(
        listener,
        serve_tls::TlsOptions {
            issuer: trust.issuer(),
            keep: trust.kept_in("xds"),
            changed: trust.current().versions(),
            revoked: trust.revoked_fn(),
            lifetime: tls::issuer::DEFAULT_LIFETIME,
            names: serve_tls::ServerNames {
                dns: names,
                ips: Vec::new(),
            },
            alpn: &["h2"],
            strangers,
            wall: control.wall.clone(),
        },
        tasks,
    )
    .await?;
    let ca = ca::CaServer::new(ca::Ca {
        issuer: trust.issuer(),
        trusted: trust.trusted(),
        redeem: trust.redeem_fn(),
        reviewer,
        audit: trust.audit_fn(),
        wall: control.wall.clone(),
    });
    let reader = control.index.reader();
    let taps = tap::serve::TapServer::new(control.taps.clone(), reader, tasks.clone());
    let registry = rest::registry_routes(Arc::clone(control));
    let routes = Routes::from(registry.merge(rest::replica_routes(Arc::clone(control))))
        .add_service(ads::Ads::new(control.hub.clone()).into_service())
        .add_service(ca)
        .add_service(ExtensionConfigDiscoveryServiceServer::new(taps.clone()))
        .add_service(AccessLogServiceServer::new(taps))
        .add_service(MetricsServiceServer::new(series::Metrics::new(
            control.numbers.clone(),
            control.index.reader(),
        )))
        .add_service(traces::TraceServer::new(
            control.traces.clone(),
            control.index.reader(),
        ));
    let serving = Arc::clone(control);
    tasks.spawn("xds-tls", async move {
        known(&serving).await;
        let served = ads::server()
            .add_routes(routes)
            .serve_with_incoming(incoming)
            .await;
        report_end("TLS", served.map_err(io::Error::other), &ended).await;
    });
    Ok(())
}

fn serve_socket(
    control: &Arc<Control>,
    listener: tokio::net::UnixListener,
    tasks: &Tasks,
    ended: Ended,
) {
    let router = rest::router(Arc::clone(control));
    tasks.spawn("api", async move {
        let router = router.into_make_service_with_connect_info::<rest::peer::Peer>();
        let served = axum::serve(OwnersOnly(listener), router).await;
        report_end("API", served, &ended).await;
    });
}

fn serve_http(
    what: &'static str,
    router: axum::Router,
    listener: TcpListener,
    tasks: &Tasks,
    ended: Ended,
) {
    // Names are a guard against pages in browsers on this machine; elsewhere there is an address only.
    let local = listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
    let names = if local { Names::Local } else { Names::Any };
    tasks.spawn(what, async move {
        let served = pages::serve(listener, router, names).await;
        report_end(what, served, &ended).await;
    });
}

async fn report_end(what: &'static str, served: io::Result<()>, ended: &Ended) {
    let source = served
        .err()
        .unwrap_or_else(|| io::Error::other("it stopped"));
    // Nobody listens any more when the control plane is already ending.
    let _heard = ended.send(ControlError::Served { what, source }).await;
}
