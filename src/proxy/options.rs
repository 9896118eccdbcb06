//! How a proxy is started, and a view for one without a control plane.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::cluster::{Limits, UpstreamProtocol};
use crate::mesh::listener::{ChainMatch, Direction, HttpCodec};
use crate::mesh::route::{Action, Forward, HeaderEdits, Match, Route, WeightedCluster};
use crate::mesh::{
    Chain, ChainAction, Cluster, ClusterKind, Listener, LoadBalancer, Origin, RouteTable, View,
    VirtualHost, WorkloadRef,
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
    /// HTTP/2 in and out.
    Http2,
    /// Bytes.
    Tcp,
}

/// The view of a proxy that carries everything from `listen` to `upstream`, without TLS.
pub fn static_view(listen: SocketAddr, upstream: SocketAddr, codec: StaticCodec) -> View {
    const NAME: &str = "static";
    let http = |codec| ChainAction::Http {
        routes: NAME.to_owned(),
        codec,
    };
    let action = match codec {
        StaticCodec::Tcp => ChainAction::Tcp {
            clusters: vec![(NAME.to_owned(), 1)],
            idle_timeout: Duration::from_hours(1),
        },
        StaticCodec::Http1 => http(HttpCodec::Http1),
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
            tls: None,
            action,
        }],
        default_chain: None,
        detect_timeout: Duration::ZERO,
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
        kind: ClusterKind::Static(vec![upstream]),
        service: None,
        load_balancer: LoadBalancer::RoundRobin,
        protocol: match codec {
            StaticCodec::Http2 => UpstreamProtocol::Http2,
            _ => UpstreamProtocol::Http1,
        },
        tls: None,
        connect_timeout: Duration::from_secs(10),
        limits: Limits::default(),
        outlier: None,
        health_check: None,
    };
    let mut view = View::default();
    view.listeners.insert(NAME.to_owned(), Arc::new(listener));
    view.routes.insert(NAME.to_owned(), Arc::new(routes));
    view.clusters.insert(NAME.to_owned(), Arc::new(cluster));
    view
}
