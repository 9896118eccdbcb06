//! A control plane that serves hand-made views: the library's own ADS on a loopback port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshctl::control::ads::{self, Ads};
use meshctl::control::push::{Hub, HubOptions, Revised, SecretsFn};
use meshctl::control::serve_tls::PeerIdentity;
use meshctl::control::views::Views;
use meshctl::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions,
};
use meshctl::mesh::route::{Action, Forward, HeaderEdits, Match, WeightedCluster};
use meshctl::mesh::{
    Assignment, Cluster, Endpoint, Listener, LoadBalancer, Origin, Route, RouteTable, View,
    VirtualHost, World,
};
use meshctl::net::{BindOptions, bind};
use meshctl::rt::{Published, Tasks, Wall};
use tokio_stream::wrappers::TcpListenerStream;

/// A running control plane.
pub(crate) struct Stand {
    pub(crate) hub: Hub,
    pub(crate) address: SocketAddr,
    view: Arc<Mutex<View>>,
    world: Published<Revised>,
    tasks: Tasks,
    /// Serves connections until it is told to stop; connections outlive a server that is dropped.
    server: Tasks,
    stop: tokio_util::sync::CancellationToken,
}

impl Stand {
    /// Serves `view` on `address`; `peer` is what the TLS port would have proved.
    pub(crate) fn start(view: View, address: SocketAddr, peer: Option<PeerIdentity>) -> Self {
        Self::with_secrets(view, address, peer, Arc::new(|_, _| Vec::new()))
    }

    /// The same with certificates for clients that get theirs over SDS.
    pub(crate) fn with_secrets(
        view: View,
        address: SocketAddr,
        peer: Option<PeerIdentity>,
        secrets: SecretsFn,
    ) -> Self {
        let tasks = Tasks::new();
        let view = Arc::new(Mutex::new(view));
        let served = Arc::clone(&view);
        let world = Published::new(revised(1));
        let options = HubOptions {
            views: Views::by(move |_, _| served.lock().unwrap().clone()),
            secrets,
            admit: Arc::new(|_, _, _| meshctl::control::attest::Verdict::Everything),
            roots: Arc::new(Arc::default),
            wall: Wall::default(),
        };
        let hub = Hub::start(options, world.reader(), &tasks);
        let listener = bind(address, BindOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let service = Ads::new(hub.clone()).into_service();
        let service = tonic::service::interceptor::InterceptedService::new(
            service,
            move |mut request: tonic::Request<()>| {
                if let Some(peer) = peer.clone() {
                    request.extensions_mut().insert(peer);
                }
                Ok(request)
            },
        );
        let (server, stop) = (Tasks::new(), tokio_util::sync::CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        server.spawn("ads", async move {
            let incoming = TcpListenerStream::new(listener);
            ads::server()
                .serve_with_incoming_shutdown(service, incoming, stopped)
                .await
                .unwrap();
        });
        Self {
            hub,
            address,
            view,
            world,
            tasks,
            server,
            stop,
        }
    }

    /// Changes what is served; gives its revision.
    pub(crate) fn change(&self, change: impl FnOnce(&mut View)) -> u64 {
        change(&mut self.view.lock().unwrap());
        let revision = self.world.load().revision + 1;
        self.world.publish(revised(revision));
        revision
    }

    /// Stops it and all its streams.
    pub(crate) async fn stop(self) -> View {
        self.stop.cancel();
        self.tasks.end().await;
        self.server.end().await;
        self.view.lock().unwrap().clone()
    }
}

fn revised(revision: u64) -> Revised {
    Revised {
        revision,
        world: Arc::new(World::default()),
    }
}

/// Polls until `done`, at most `seconds`.
pub(crate) async fn until<T>(what: &str, seconds: u64, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = meshctl::rt::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(
            meshctl::rt::now() < deadline,
            "waited {seconds} s for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cluster whose endpoints are the assignment of its name.
pub(crate) fn cluster(name: &str) -> Arc<Cluster> {
    Arc::new(Cluster {
        name: name.to_owned(),
        load_balancer: LoadBalancer::RoundRobin,
        connect_timeout: Duration::from_secs(1),
        ..Cluster::default()
    })
}

/// Plain endpoints at `addresses`.
pub(crate) fn endpoints(addresses: &[SocketAddr]) -> Arc<Assignment> {
    Arc::new(Assignment::new(
        addresses.iter().copied().map(Endpoint::at).collect(),
    ))
}

/// Table `9080` with one host that spreads requests over clusters by weight.
pub(crate) fn table(shares: &[(&str, u32)]) -> Arc<RouteTable> {
    let route = Route {
        name: "all".to_owned(),
        matches: Match::default(),
        action: Action::Forward(Forward {
            clusters: shares
                .iter()
                .map(|(cluster, weight)| WeightedCluster {
                    cluster: (*cluster).to_owned(),
                    weight: *weight,
                    headers: HeaderEdits::default(),
                })
                .collect(),
            ..Forward::default()
        }),
        headers: HeaderEdits::default(),
        origin: Origin::default(),
    };
    Arc::new(RouteTable {
        name: "9080".to_owned(),
        ignore_port: true,
        hosts: vec![VirtualHost {
            name: "reviews.default.svc.cluster.local:9080".to_owned(),
            domains: [
                "reviews.default.svc.cluster.local",
                "reviews.default.svc.cluster.local:9080",
                "reviews.default",
                "reviews.default:9080",
                "reviews",
                "reviews:9080",
            ]
            .map(str::to_owned)
            .to_vec(),
            routes: vec![route],
            ..VirtualHost::default()
        }],
    })
}

/// A listener at `bind` that routes by table `9080`, over these clusters.
pub(crate) fn view(bind: SocketAddr, backends: &[(&str, u32, &[SocketAddr])]) -> View {
    let listener = Listener {
        name: "virtualOutbound".to_owned(),
        bind,
        direction: Direction::Outbound,
        transparent: false,
        chains: vec![Chain {
            name: "http".to_owned(),
            matches: ChainMatch::default(),
            tls: None,
            action: ChainAction::Http {
                routes: "9080".to_owned(),
                codec: HttpCodec::Auto,
                options: Arc::default(),
            },
            filters: Vec::new(),
            guards: Vec::new(),
            limits: ChainLimits::default(),
        }],
        default_chain: None,
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    };
    let shares: Vec<_> = backends
        .iter()
        .map(|(name, weight, _)| (*name, *weight))
        .collect();
    View {
        listeners: BTreeMap::from([(listener.name.clone(), Arc::new(listener))]),
        routes: BTreeMap::from([("9080".to_owned(), table(&shares))]),
        clusters: backends
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), cluster(name)))
            .collect(),
        endpoints: backends
            .iter()
            .map(|(name, _, at)| ((*name).to_owned(), endpoints(at)))
            .collect(),
        ..View::default()
    }
}
