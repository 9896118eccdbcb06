//! A view for a proxy without a control plane: everything from one address to another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::cluster::{ClientTls, UpstreamProtocol};
use crate::mesh::listener::{
    ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions, ServerTls, TcpOptions,
};
use crate::mesh::route::{Action, Forward, HeaderEdits, Match, Route, WeightedCluster};
use crate::mesh::{
    Assignment, Chain, ChainAction, Cluster, Endpoint, Listener, LoadBalancer, Origin, RouteTable,
    View, VirtualHost,
};

/// What is spoken on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Inside of TLS, where there is any.
    pub protocol: SideProtocol,
    /// With the proxy's identity, and with one of its trust domain at the other end.
    pub mtls: bool,
}

/// What a side carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes; on both sides or on none.
    Tcp,
}

/// The view of a proxy that carries everything from `listen` to `upstream`.
pub fn static_view(
    (listen, inside): (SocketAddr, Side),
    (upstream, outside): (SocketAddr, Side),
) -> View {
    const NAME: &str = "static";
    let http = |codec| ChainAction::Http {
        routes: NAME.to_owned(),
        codec,
        options: Arc::default(),
    };
    let (action, alpn) = match inside.protocol {
        SideProtocol::Tcp => (
            ChainAction::Tcp {
                clusters: vec![(NAME.to_owned(), 1)],
                options: TcpOptions::default(),
            },
            Vec::new(),
        ),
        SideProtocol::Http1 => (http(HttpCodec::Http1), vec!["http/1.1".to_owned()]),
        SideProtocol::Http2 => (http(HttpCodec::Http2), vec!["h2".to_owned()]),
    };
    let listener = Listener {
        name: NAME.to_owned(),
        bind: listen,
        direction: if inside.mtls {
            Direction::Inbound
        } else {
            Direction::Outbound
        },
        transparent: false,
        chains: vec![Chain {
            name: NAME.to_owned(),
            matches: ChainMatch::default(),
            tls: inside.mtls.then_some(ServerTls { alpn, own: None }),
            action,
            filters: Vec::new(),
            guards: Vec::new(),
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
            ..VirtualHost::default()
        }],
    };
    let cluster = Cluster {
        name: NAME.to_owned(),
        load_balancer: LoadBalancer::RoundRobin,
        protocol: match outside.protocol {
            SideProtocol::Http2 => UpstreamProtocol::Http2,
            SideProtocol::Http1 | SideProtocol::Tcp => UpstreamProtocol::Http1,
        },
        tls: outside.mtls.then(|| ClientTls {
            sni: String::new(),
            principals: Vec::new(),
            required: true,
        }),
        ..Cluster::default()
    };
    let endpoint = Endpoint {
        mtls: outside.mtls,
        ..Endpoint::at(upstream)
    };
    let mut view = View::default();
    view.listeners.insert(NAME.to_owned(), Arc::new(listener));
    view.routes.insert(NAME.to_owned(), Arc::new(routes));
    view.clusters.insert(NAME.to_owned(), Arc::new(cluster));
    view.endpoints
        .insert(NAME.to_owned(), Arc::new(Assignment::new(vec![endpoint])));
    view
}
