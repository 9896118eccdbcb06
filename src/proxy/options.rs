//! How a proxy is started, and a view for one without a control plane.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::cluster::{ClientTls, Limits, UpstreamProtocol};
use crate::mesh::listener::{
    ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions, ServerTls, TcpOptions,
};
use crate::mesh::route::{Action, Forward, HeaderEdits, Match, Route, WeightedCluster};
use crate::mesh::{
    Assignment, Chain, ChainAction, Cluster, ClusterKind, Endpoint, Health, Listener, LoadBalancer,
    Locality, Origin, RouteTable, View, VirtualHost, WorkloadRef,
};
use crate::telemetry::LogFormat;

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node id, such as `sidecar~10.0.0.7~reviews-v1-x.default~default.svc.cluster.local`.
    pub node: String,
    /// The cluster that metrics say we are in; Istio's default is `Kubernetes`.
    pub cluster_id: String,
    /// This workload, for telemetry.
    pub workload: WorkloadRef,
    /// Worker threads; 0 is one for each core.
    pub workers: usize,
    /// The address to call other workloads from; the system chooses when absent.
    pub address: Option<IpAddr>,
    /// Where the administration endpoints listen. They can end the proxy: loopback only.
    pub admin: Option<SocketAddr>,
    /// Where only health and metrics are answered, such as ports 15020, 15021 and 15090.
    pub status: Vec<SocketAddr>,
    /// Access log; off when absent.
    pub access_log: Option<AccessLog>,
    /// How long requests may take to end once the proxy is told to. Default 45 s (Istio's).
    pub drain: Duration,
    /// Once told to end, it says that it is not ready, and still takes connections for this long, so
    /// that whoever balances load notices first. Default none.
    pub drain_delay: Duration,
}

/// Where an access log goes.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Its form.
    pub format: LogFormat,
    /// A file to append to; standard output when absent.
    pub path: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster_id: "Kubernetes".to_owned(),
            workload: WorkloadRef::default(),
            workers: 0,
            address: None,
            admin: None,
            status: Vec::new(),
            access_log: None,
            drain: Duration::from_secs(45),
            drain_delay: Duration::ZERO,
        }
    }
}

/// Whether [`static_view`] carries requests or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaticCodec {
    /// HTTP/1.1 in and out.
    Http1,
    /// HTTP/2 in, HTTP/1.1 out.
    Http2ToHttp1,
    /// HTTP/1.1 in, HTTP/2 out.
    Http1ToHttp2,
    /// HTTP/2 in and out.
    Http2,
    /// Bytes.
    Tcp,
}

/// Where [`static_view`] has mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaticTls {
    /// Nowhere.
    None,
    /// Towards callers.
    In,
    /// Towards the endpoint.
    Out,
}

/// The view of a proxy that carries everything from `listen` to `upstream`.
pub fn static_view(
    listen: SocketAddr,
    upstream: SocketAddr,
    codec: StaticCodec,
    tls: StaticTls,
) -> View {
    const NAME: &str = "static";
    let http = |codec| ChainAction::Http {
        routes: NAME.to_owned(),
        codec,
    };
    let action = match codec {
        StaticCodec::Tcp => ChainAction::Tcp {
            clusters: vec![(NAME.to_owned(), 1)],
            options: TcpOptions::default(),
        },
        StaticCodec::Http1 | StaticCodec::Http1ToHttp2 => http(HttpCodec::Http1),
        StaticCodec::Http2ToHttp1 | StaticCodec::Http2 => http(HttpCodec::Http2),
    };
    let listener = Listener {
        name: NAME.to_owned(),
        bind: listen,
        direction: Direction::Outbound,
        transparent: false,
        chains: vec![Chain {
            name: NAME.to_owned(),
            matches: ChainMatch::default(),
            tls: (tls == StaticTls::In).then(|| ServerTls {
                alpn: ["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"]
                    .map(str::to_owned)
                    .to_vec(),
            }),
            action,
            limits: ChainLimits::default(),
        }],
        default_chain: None,
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    };
    let route = Route {
        name: String::new(),
        matches: Match::default(),
        action: Action::Forward(Forward {
            clusters: vec![WeightedCluster {
                cluster: NAME.to_owned(),
                weight: 1,
                headers: HeaderEdits::default(),
            }],
            ..Forward::default()
        }),
        headers: HeaderEdits::default(),
        origin: Origin::default(),
    };
    let routes = RouteTable {
        name: NAME.to_owned(),
        ignore_port: false,
        hosts: vec![VirtualHost {
            name: NAME.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
        }],
    };
    let cluster = Cluster {
        name: NAME.to_owned(),
        kind: ClusterKind::Discovered,
        service: None,
        load_balancer: LoadBalancer::RoundRobin,
        protocol: match codec {
            StaticCodec::Http2 | StaticCodec::Http1ToHttp2 => UpstreamProtocol::Http2,
            _ => UpstreamProtocol::Http1,
        },
        tls: (tls == StaticTls::Out).then(|| ClientTls {
            sni: "server.static".to_owned(),
            principals: Vec::new(),
            required: true,
        }),
        connect_timeout: Duration::from_secs(10),
        limits: Limits::default(),
        outlier: None,
        proxy_protocol: None,
    };
    let endpoint = Endpoint {
        priority: 0,
        locality: Locality::default(),
        address: upstream,
        weight: 1,
        health: Health::Healthy,
        mtls: tls == StaticTls::Out,
        workload: WorkloadRef::default(),
    };
    let mut view = View::default();
    view.endpoints
        .insert(NAME.to_owned(), Arc::new(Assignment::new(vec![endpoint])));
    view.listeners.insert(NAME.to_owned(), Arc::new(listener));
    view.routes.insert(NAME.to_owned(), Arc::new(routes));
    view.clusters.insert(NAME.to_owned(), Arc::new(cluster));
    view
}
