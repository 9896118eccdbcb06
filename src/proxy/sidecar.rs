//! A sidecar or gateway from its command line: identity, configuration, registration and the data path.
//!
//! Owns the order in which they start and end. The data path runs on threads of its own; all else
//! is on this runtime. Without a control plane it serves from what it has on disk.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::Problem;
use crate::mesh::node::Application;
use crate::mesh::route::Share;
use crate::mesh::{
    self, Client, Health, Instance, Locality, Node, NodeKind, Protocol, SpiffeId, WorkloadRef,
};
use crate::net::capture;
use crate::rt::disk::private_dir;
use crate::rt::{Drain, DrainSignal, Tasks, Wall};
use crate::telemetry::{Place, Registry};
use crate::tls;
use crate::xds::node::node_id;
use crate::xds::node_to_proto;

use super::access_log::Writers;
use super::application::AppPages;
use super::believed;
use super::client::{self, ClientOptions};
use super::control_link::Caller;
use super::dns;
use super::handover::{self, Restart};
use super::identity::{IdentityClient, IdentityError, IdentityOptions, TokenSource};
use super::options::{AccessLog, Options};
use super::push::{self, PushOptions};
use super::registration::{self, RegistrationOptions};
use super::replicas::Replicas;
use super::run::{ProxyError, run_after};
use super::tap::Taps;
use super::trace::{Collector, TraceOptions};

/// How often numbers are told: live views show them as they come.
const PUSH: Duration = Duration::from_secs(1);
/// How long the last numbers have to be told.
const TELL: Duration = Duration::from_secs(1);
/// How long the instance has to leave the registry before the data path drains.
const LEAVE: Duration = Duration::from_millis(500);

/// Where the next process asks for the sockets, in the proxy's directory.
const RESTART_SOCKET: &str = "restart.sock";

/// What the command line says.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own, as people set them"
)]
pub struct SidecarOptions {
    /// Directory for identity and configuration, of mode 0700.
    pub dir: PathBuf,
    /// Unique in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// The account whose identity it carries.
    pub service_account: String,
    /// Such as `reviews-v1`.
    pub workload: String,
    /// Labels, which selectors and subsets read.
    pub labels: BTreeMap<String, String>,
    /// Where it runs; parts may be unknown.
    pub locality: Locality,
    /// Where peers reach it.
    pub address: IpAddr,
    /// More of its addresses, such as that of the other family.
    pub more_addresses: Vec<IpAddr>,
    /// It is a pod of a cluster, which says itself whether it may be called.
    pub pod: bool,
    /// It serves Gateways, for no application: `applications` are their ports that it serves, and where it
    /// listens for them; all ports when there are none.
    pub gateway: bool,
    /// Container port and where the application listens for it; where callers meant, when that is no address
    /// in particular and connections are redirected.
    pub applications: Vec<(u16, SocketAddr)>,
    /// Names of container ports, for services that target a name.
    pub port_names: BTreeMap<String, u16>,
    /// What the application speaks, where no service in front of it says.
    pub protocol: Protocol,
    /// Connections are redirected to it.
    pub transparent: bool,
    /// For redirected connections to the application.
    pub inbound_port: u16,
    /// For connections of the application.
    pub outbound_port: u16,
    /// Administration; on loopback or the pod's own loopback address.
    pub admin_port: u16,
    /// Metrics, and what is asked for the application; beside Istio's ports for health and metrics.
    pub status_port: u16,
    /// For the first certificate.
    pub token: Option<TokenSource>,
    /// The mesh's roots as PEM, for tokens that do not name them.
    pub root_file: Option<PathBuf>,
    /// The control plane's TLS port.
    pub control_plane: Replicas,
    /// The root of identities.
    pub trust_domain: String,
    /// Life of certificates to ask for; zero leaves it to the CA.
    pub certificate_lifetime: Duration,
    /// Worker threads; 0 is one a core.
    pub workers: usize,
    /// What is asked of the proxy and answered by the application.
    pub pages: AppPages,
    /// Off when absent.
    pub access_log: Option<AccessLog>,
    /// Of traces that begin here, whatever the configuration says.
    pub trace_sampling: Option<Share>,
    /// The environment, for tags of spans that come from it.
    pub variables: Arc<BTreeMap<String, String>>,
    /// How long a drain may take.
    pub drain: Duration,
    /// How long it takes connections while it says already that it is not ready.
    pub drain_delay: Duration,
    /// Take over from the process that runs with this directory, if there is one.
    pub hot_restart: bool,
}

/// Why a sidecar does not run.
#[derive(Debug, Error)]
pub enum SidecarError {
    /// Its directory.
    #[error("{}: {source}", path.display())]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has no identity and gets none.
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    /// The data path.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The process before it does not hand over.
    #[error("cannot take over from the process at {}", socket.display())]
    TakeOver {
        /// Where it was asked.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry will not have the instance.
    #[error("the registry refuses instance {name}: {}", problem.message)]
    Refused {
        /// The instance.
        name: String,
        /// In its words.
        problem: Box<Problem>,
    },
}

impl SidecarError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dir { .. } => Some("give another home with --home".to_owned()),
            Self::Identity(error) => error.hint(),
            Self::Proxy(error) => error.hint(),
            Self::Refused { problem, .. } => problem.hint.clone(),
            Self::TakeOver { .. } => {
                Some("it goes on as before; start without --hot-restart after it ended".to_owned())
            }
        }
    }
}

/// Runs until `shutdown`, then leaves the registry, drains, and returns.
pub async fn run(options: SidecarOptions, mut shutdown: DrainSignal) -> Result<(), SidecarError> {
    private_dir(&options.dir).map_err(|source| SidecarError::Dir {
        path: options.dir.clone(),
        source,
    })?;
    let socket = options.dir.join(RESTART_SOCKET);
    let mut taken = None;
    if options.hot_restart {
        taken = handover::take(&socket)
            .await
            .map_err(|source| SidecarError::TakeOver {
                socket: socket.clone(),
                source,
            })?;
    }
    let tasks = Tasks::new();
    let id = SpiffeId::new(
        &options.trust_domain,
        &options.namespace,
        &options.service_account,
    );
    let server = tls::control_plane_id(&options.trust_domain);

    let (tell_roots, roots) = watch::channel(None);
    let mut identity = IdentityClient::new(IdentityOptions {
        roots: Some(roots),
        token: options.token.clone(),
        root_file: options.root_file.clone(),
        lifetime: options.certificate_lifetime,
        ..IdentityOptions::new(options.control_plane.clone(), id, &options.dir)
    });
    let (material, proofs) = (identity.reader(), identity.proofs());
    match identity.start().await {
        Ok(_) => {}
        // The control plane may come; a refusal will not change by itself.
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, "no identity yet; trying again");
        }
        Err(error) => return Err(Box::new(error).into()),
    }
    tasks.spawn("identity", identity.run());

    let dial = {
        let (material, server) = (material.clone(), server.clone());
        let to = options.control_plane.clone();
        Arc::new(move || {
            let (material, server, to) = (material.load(), server.clone(), to.clone());
            let dialling: futures_util::future::BoxFuture<
                'static,
                io::Result<Box<dyn client::Io>>,
            > = Box::pin(async move {
                let Some(material) = material.as_ref() else {
                    return Err(io::Error::other("there is no certificate yet"));
                };
                let stream = to.connect(&server, Caller::Member(material)).await?;
                let stream: Box<dyn client::Io> = Box::new(stream);
                Ok(stream)
            });
            dialling
        })
    };
    let node = node(&options);
    let node_name = node.id.clone();
    let in_force = watch::Sender::new(0);
    let configuration = client::start(
        ClientOptions {
            node: node.clone(),
            dial,
            dir: Some(options.dir.clone()),
            wall: Wall::System,
            in_force: Some(in_force.subscribe()),
            proofs: Some(proofs),
        },
        &tasks,
    )
    .await;
    let views = configuration.view.clone();
    tasks.spawn("roots", believed::follow(views, tell_roots));

    let registry = Arc::new(Registry::new("Kubernetes"));
    let taps = Arc::<Taps>::default();
    let numbers = PushOptions {
        control_plane: options.control_plane.clone(),
        server: Some(server.clone()),
        node: node_to_proto(&node),
        interval: PUSH,
        taps: Arc::clone(&taps),
    };
    // Beside the others: it outlasts the data path, as that counts until it ends.
    let (telling, (tell, told)) = (Tasks::new(), Drain::new());
    telling.spawn(
        "metrics-push",
        push::run(
            numbers,
            Arc::clone(&registry),
            material.clone(),
            Wall::System,
            told,
        ),
    );
    let mut more = Vec::new();
    if options.transparent {
        let mut places = Vec::new();
        for ip in loopbacks() {
            let bind = SocketAddr::new(ip, dns::PORT);
            match dns::open(bind, taken.as_mut()) {
                Ok(sockets) => {
                    more.extend(sockets.passed(bind));
                    places.push(sockets);
                }
                Err(error) => {
                    tracing::error!(%error, address = %bind, "names of the mesh are not answered");
                }
            }
        }
        if !places.is_empty() {
            let view = configuration.view.clone();
            tasks.spawn("dns", dns::run(places, view, tasks.clone()));
        }
    }

    // The registry first, so that peers stop calling; then the data path.
    let (refused, mut refusal) = mpsc::channel(1);
    let (leave, leaving) = Drain::new();
    let (drain, draining) = Drain::new();
    tasks.spawn(
        "registration",
        registration::run(
            RegistrationOptions {
                control_plane: options.control_plane.clone(),
                server,
                instance: instance(&options),
                captured: options.transparent,
                pod: options.pod,
                // A gateway is well as soon as it serves.
                applications: options
                    .applications
                    .iter()
                    .filter(|_| !options.gateway)
                    .map(|(port, at)| {
                        let meant = options.transparent && mesh::node::as_meant(*port, *at);
                        let own = SocketAddr::new(options.address, *port);
                        if meant { own } else { *at }
                    })
                    .collect(),
                refused,
            },
            material.clone(),
            leaving,
        ),
    );
    let replaced = CancellationToken::new();
    let restart = Restart {
        socket,
        taken,
        more,
        replaced: replaced.clone(),
    };
    let serving = run_after(
        Options {
            in_force,
            taps,
            ..data_path(&options, node_name)
        },
        registry,
        (configuration.view, material),
        draining,
        Some(restart),
    );
    tokio::pin!(serving);
    let mut refused = None;
    let served = tokio::select! {
        served = &mut serving => served,
        Some(problem) = refusal.recv() => {
            refused = Some(problem);
            drain.start();
            serving.await
        }
        () = shutdown.wait() => {
            leave.finish(LEAVE).await;
            drain.start();
            serving.await
        }
        () = replaced.cancelled() => {
            // The instance lives on in the other process, which speaks for it from now on.
            tasks.end().await;
            serving.await
        }
    };
    tell.finish(TELL).await;
    telling.end().await;
    tasks.end().await;
    match refused {
        None => Ok(served?),
        Some(problem) => Err(SidecarError::Refused {
            name: options.name.clone(),
            problem: Box::new(problem),
        }),
    }
}

/// The pod's loopback addresses. That of IPv6 is not there where the kernel or the node has none.
fn loopbacks() -> impl Iterator<Item = IpAddr> {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let there = std::net::UdpSocket::bind((v6, 0)).is_ok();
    std::iter::once(Ipv4Addr::LOCALHOST.into()).chain(there.then_some(v6))
}

/// Where its own endpoints are: beside the pod's other loopback addresses, or on loopback.
fn own_address(options: &SidecarOptions) -> IpAddr {
    if options.address.is_loopback() {
        options.address
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }
}

fn node(options: &SidecarOptions) -> Node {
    let anywhere = if options.transparent && capture::knows_ipv6() {
        // IPv4 too.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else if options.transparent {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        own_address(options)
    };
    let address = options.address;
    let kind = if options.gateway {
        NodeKind::Gateway
    } else {
        NodeKind::Sidecar
    };
    Node {
        id: node_id(kind, address, &options.name, &options.namespace),
        client: Client::Meshctl,
        kind,
        name: options.name.clone(),
        namespace: options.namespace.clone(),
        service_account: options.service_account.clone(),
        workload: options.workload.clone(),
        labels: options.labels.clone(),
        locality: options.locality.clone(),
        address,
        outbound: SocketAddr::new(anywhere, options.outbound_port),
        inbound: SocketAddr::new(anywhere, options.inbound_port),
        transparent: options.transparent,
        applications: options
            .applications
            .iter()
            .map(|(port, application)| Application {
                port: *port,
                name: port_name(options, *port),
                bind: reach(options, *port, *application),
                address: *application,
                protocol: options.protocol,
            })
            .collect(),
    }
}

fn port_name(options: &SidecarOptions, port: u16) -> String {
    let named = options.port_names.iter().find(|(_, named)| **named == port);
    named.map(|(name, _)| name.clone()).unwrap_or_default()
}

/// Where peers connect for `port`: at its own number where the application leaves that free, else
/// at the inbound port.
fn reach(options: &SidecarOptions, port: u16, application: SocketAddr) -> SocketAddr {
    if options.gateway {
        return application;
    }
    let own = SocketAddr::new(options.address, port);
    if own == application {
        SocketAddr::new(options.address, options.inbound_port)
    } else {
        own
    }
}

fn instance(options: &SidecarOptions) -> Instance {
    let ports = if options.transparent {
        BTreeMap::new()
    } else {
        options
            .applications
            .iter()
            .map(|(port, application)| {
                let mut at = reach(options, *port, *application);
                if at.ip().is_unspecified() {
                    at.set_ip(options.address);
                }
                (*port, at)
            })
            .collect()
    };
    Instance {
        name: options.name.clone(),
        namespace: options.namespace.clone(),
        workload: options.workload.clone(),
        service_account: options.service_account.clone(),
        labels: options.labels.clone(),
        locality: options.locality.clone(),
        address: options.address,
        also_at: options.more_addresses.clone(),
        ports,
        port_names: options.port_names.clone(),
        service_ports: BTreeMap::new(),
        weight: 1,
        health: Health::Unhealthy,
        // What a gateway speaks at a port is for its Gateways to say.
        mtls: !options.gateway,
    }
}

fn data_path(options: &SidecarOptions, node: String) -> Options {
    let own = own_address(options);
    let instance = instance(options);
    // Health and metrics are asked for from outside the pod.
    let status = std::iter::once(&options.address)
        .chain(&options.more_addresses)
        .flat_map(|ip| [options.status_port, 15021, 15090].map(|port| SocketAddr::new(*ip, port)))
        .collect();
    // A pod has loopback for itself; elsewhere other proxies may be there.
    let local = loopbacks()
        .filter(|_| options.transparent && !options.address.is_loopback())
        .map(|ip| SocketAddr::new(ip, options.status_port))
        .collect();
    let mut pages = options.pages.clone();
    if options.transparent && !options.address.is_loopback() {
        pages.ask_at(options.address);
    }
    Options {
        node,
        workload: WorkloadRef {
            instance: options.name.clone(),
            workload: options.workload.clone(),
            namespace: options.namespace.clone(),
            service: instance.canonical_service().to_owned(),
            version: instance.canonical_revision().to_owned(),
        },
        workers: options.workers,
        locality: options.locality.clone(),
        address: Some(options.address),
        more_addresses: options.more_addresses.clone(),
        captured: options.transparent,
        admin: Some(SocketAddr::new(own, options.admin_port)),
        status,
        local,
        application: pages,
        access_log: options.access_log.clone(),
        logs: Arc::new(Writers::new(Place {
            hostname: hostname(),
            environment: Arc::clone(&options.variables),
        })),
        tracing: TraceOptions {
            control_plane: Some(Collector {
                at: options.control_plane.clone(),
                server: tls::control_plane_id(&options.trust_domain),
            }),
            sampling: options.trace_sampling,
            variables: Arc::clone(&options.variables),
        },
        drain: options.drain,
        drain_delay: options.drain_delay,
        ..Options::default()
    }
}

/// The machine's name, for logs.
fn hostname() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}
