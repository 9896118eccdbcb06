//! Calls to the application: who may make them, and where they are handed over.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::outbound::{unresolved, whole};
use super::{TCP_IDLE, View, authorization, policies, tcp_chain, tokens};
use crate::mesh::cluster::{ServiceRef, UpstreamProtocol};
use crate::mesh::filter::{HttpFilter, NetworkFilter};
use crate::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions, ServerTls,
    TcpOptions, Transport,
};
use crate::mesh::node::{Application, as_meant};
use crate::mesh::policy::{self, Place, Policy};
use crate::mesh::route::{Action, Forward, HeaderEdits, Match, Retry, RetryOn};
use crate::mesh::service::TargetPort;
use crate::mesh::world::{Authentication, MtlsMode, selects};
use crate::mesh::{
    Cluster, ClusterKind, Hostname, Instance, Listener, Node, Origin, Protocol, Route, RouteTable,
    Service, VirtualHost,
};

/// What a caller of the mesh says in its client hello; anything else is the application's own TLS.
pub(super) const MESH_ALPN: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];

/// What is agreed to, in order. Not `istio-peer-exchange`: who agrees to that must send metadata first.
const HTTP_ALPN: [&str; 6] = [
    "istio-h2",
    "istio-http/1.1",
    "istio-http/1.0",
    "istio",
    "h2",
    "http/1.1",
];
/// Where nobody says what the application speaks: HTTP/2 only of callers who speak nothing else, as it is called by
/// what its callers speak.
const DETECT_ALPN: [&str; 6] = [
    "istio-http/1.1",
    "istio-http/1.0",
    "istio-h2",
    "istio",
    "http/1.1",
    "h2",
];
const TCP_ALPN: [&str; 1] = ["istio"];

/// All of a world that calls to a workload depend on.
pub(super) struct Facts<'a> {
    pub(super) authentication: &'a Authentication,
    pub(super) policies: &'a [Arc<Policy>],
    pub(super) trust_domain: &'a str,
    /// Those that choose the workload, by name.
    pub(super) services: Vec<&'a Service>,
    /// What is known of it.
    pub(super) instance: Option<&'a Instance>,
}

/// `declared`: the node's ports say what is spoken, whatever services in front of them say.
pub(super) fn add(facts: &Facts<'_>, node: &Node, declared: bool, view: &mut View) {
    let ports = ports(facts, node);
    let protocol = |application: &Application| {
        ports
            .get(&application.port)
            .map(|front| front.protocol)
            .filter(|protocol| *protocol != Protocol::Auto)
            .filter(|_| !declared || application.protocol == Protocol::Auto)
            .unwrap_or(application.protocol)
    };
    // Each with the port that all of it is for, where that is known.
    let own = |application: Option<&Application>, port: Option<u16>| {
        let port = application.map_or(port, |application| Some(application.port));
        let front = application.map_or(&[][..], |application| front(&ports, application));
        let force = policy::in_force(facts.policies, node.into(), Place::Port(front));
        let web = application.is_some_and(|at| protocol(at) == Protocol::GrpcWeb);
        let own = policies::filters(web, force.compression.as_ref());
        let callers = authorization::filters(&force, facts.trust_domain, port);
        let judged = tokens::guard(&force).into_iter().chain(callers);
        Own {
            filters: judged.chain(own).collect(),
            guards: authorization::guards(&force, facts.trust_domain, port),
        }
    };
    let undeclared = undeclared(&ports, node);
    let declared_ones = node.applications.iter();
    let mut applications: Vec<&Application> = declared_ones.chain(&undeclared).collect();
    // Stable, so what is declared stays.
    applications.sort_by_key(|application| application.port);
    applications.dedup_by_key(|application| application.port);
    for application in &applications {
        let protocol = protocol(application);
        if protocol == Protocol::Udp {
            continue;
        }
        let name = Cluster::inbound_name(application.port);
        view.add_routes(table(
            facts,
            node,
            (&name, application.port),
            front(&ports, application),
        ));
        let meant = node.transparent && as_meant(application.port, application.address);
        let kind = if meant {
            ClusterKind::OriginalDestination
        } else {
            ClusterKind::Static(vec![application.address])
        };
        let mut cluster = unresolved(&name, kind);
        cluster.protocol = match protocol {
            Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => UpstreamProtocol::Http2,
            Protocol::Auto => UpstreamProtocol::Downstream,
            _ => UpstreamProtocol::Http1,
        };
        cluster.service = ports
            .get(&application.port)
            .map(|front| front.service.clone());
        view.add_cluster(cluster);
    }
    let of = |port: u16| {
        facts
            .authentication
            .mode(&node.namespace, &node.labels, port)
    };
    if node.transparent {
        let about: (&dyn Fn(u16) -> MtlsMode, Owning<'_>) = (&of, &own);
        transparent(facts, node, &applications, about, &protocol, view);
        return;
    }
    for application in applications {
        let protocol = protocol(application);
        if protocol == Protocol::Udp {
            continue;
        }
        let port = application.port;
        let hand_over = action(protocol, &Cluster::inbound_name(port));
        view.add_listener(Listener {
            name: format!("inbound|{port}|{}", application.bind.ip()),
            bind: application.bind,
            direction: Direction::Inbound,
            transparent: false,
            chains: chains(
                None,
                of(port),
                (&hand_over, &own(Some(application), None)),
                &Cluster::inbound_name(port),
            ),
            default_chain: None,
            detect_timeout: Duration::ZERO,
            options: ListenerOptions::default(),
        });
    }
}

/// Ports that services lead to though the pod does not say that it has them, which it need not. Where nothing is
/// redirected nobody listens for them.
fn undeclared(ports: &BTreeMap<u16, Front>, node: &Node) -> Vec<Application> {
    let ports = ports.keys().filter(|_| node.transparent);
    ports
        .map(|port| {
            let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), *port);
            Application {
                port: *port,
                name: String::new(),
                bind: at,
                address: at,
                protocol: Protocol::Auto,
            }
        })
        .collect()
}

/// What calls go through.
struct Own {
    /// Requests.
    filters: Vec<HttpFilter>,
    /// Bytes.
    guards: Vec<NetworkFilter>,
}

/// That of the calls to an application, or of those to a port that nobody declared: this one, if it is known.
type Owning<'f> = &'f dyn Fn(Option<&Application>, Option<u16>) -> Own;

fn transparent(
    facts: &Facts<'_>,
    node: &Node,
    applications: &[&Application],
    (of, owning): (&dyn Fn(u16) -> MtlsMode, Owning<'_>),
    protocol: &dyn Fn(&Application) -> Protocol,
    view: &mut View,
) {
    let passthrough = Cluster::INBOUND_PASSTHROUGH;
    view.add_cluster(unresolved(passthrough, ClusterKind::OriginalDestination));
    view.add_routes(table(facts, node, (passthrough, 0), &[]));
    let undeclared = action(Protocol::Auto, passthrough);
    // A redirected connection to the proxy itself would be sent to itself for ever.
    let mut all = vec![tcp_chain(
        "virtualInbound-blackhole",
        ChainMatch {
            port: Some(node.inbound.port()),
            ..ChainMatch::default()
        },
        Cluster::BLACK_HOLE,
    )];
    for application in applications {
        let protocol = protocol(application);
        if protocol == Protocol::Udp || application.port == node.inbound.port() {
            continue;
        }
        let port = application.port;
        let cluster = Cluster::inbound_name(port);
        let hand_over = action(protocol, &cluster);
        let own = owning(Some(application), None);
        all.extend(chains(Some(port), of(port), (&hand_over, &own), &cluster));
    }
    // Ports that a policy names are guarded though nobody declared them.
    for port in guarded(facts, node) {
        if applications
            .iter()
            .all(|application| application.port != port)
        {
            let own = owning(None, Some(port));
            all.extend(chains(
                Some(port),
                of(port),
                (&undeclared, &own),
                passthrough,
            ));
        }
    }
    // Port 0 is no port, so no exception by port holds for it.
    let own = owning(None, None);
    all.extend(chains(None, of(0), (&undeclared, &own), passthrough));
    view.add_listener(Listener {
        name: "virtualInbound".to_owned(),
        bind: node.inbound,
        direction: Direction::Inbound,
        transparent: true,
        chains: all,
        default_chain: None,
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    });
}

fn guarded(facts: &Facts<'_>, node: &Node) -> Vec<u16> {
    let rules = &facts.authentication.workloads;
    rules
        .iter()
        .find(|rule| rule.namespace == node.namespace && selects(&rule.selector, &node.labels))
        .map(|rule| rule.ports.keys().copied().collect())
        .unwrap_or_default()
}

/// What stands in front of a container port.
struct Front {
    protocol: Protocol,
    service: ServiceRef,
    /// All services that lead there.
    hosts: Vec<Hostname>,
}

/// The services that lead to the port of `application`.
fn front<'a>(ports: &'a BTreeMap<u16, Front>, application: &Application) -> &'a [Hostname] {
    let front = ports.get(&application.port);
    front
        .map(|front| front.hosts.as_slice())
        .unwrap_or_default()
}

/// The services in front of each container port: what is spoken there (HTTP wins over guesses), and
/// the service that calls are counted for, the first by name.
fn ports(facts: &Facts<'_>, node: &Node) -> BTreeMap<u16, Front> {
    let mut ports: BTreeMap<u16, Front> = BTreeMap::new();
    for service in &facts.services {
        for port in &service.ports {
            let target = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => node
                    .applications
                    .iter()
                    .find(|application| application.name == *name)
                    .map(|application| application.port)
                    .or_else(|| facts.instance?.port_names.get(name).copied()),
            };
            let Some(target) = target else { continue };
            let known = ports.entry(target).or_insert_with(|| Front {
                protocol: port.protocol,
                service: ServiceRef {
                    host: service.host.clone(),
                    name: service.name.clone(),
                    namespace: service.namespace.clone(),
                    port: port.port,
                    subset: String::new(),
                },
                hosts: Vec::new(),
            });
            if !known.hosts.contains(&service.host) {
                known.hosts.push(service.host.clone());
            }
            if matches!(known.protocol, Protocol::Auto | Protocol::Udp)
                && port.protocol != Protocol::Udp
            {
                known.protocol = port.protocol;
            }
        }
    }
    ports
}

fn action(protocol: Protocol, cluster: &str) -> ChainAction {
    let routes = cluster.to_owned();
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
            ChainAction::Http {
                routes,
                codec: HttpCodec::Auto,
                options: Arc::default(),
            }
        }
        Protocol::Auto => ChainAction::Detect {
            routes,
            cluster: cluster.to_owned(),
            tunnel: None,
            options: Arc::default(),
        },
        Protocol::Tls | Protocol::Tcp | Protocol::Udp => ChainAction::Tcp {
            clusters: vec![(cluster.to_owned(), 1)],
            options: TcpOptions::idle(TCP_IDLE),
        },
    }
}

fn chains(
    port: Option<u16>,
    mode: MtlsMode,
    (action, own): (&ChainAction, &Own),
    cluster: &str,
) -> Vec<Chain> {
    let filters = || match action {
        ChainAction::Tcp { .. } => Vec::new(),
        ChainAction::Http { .. } | ChainAction::Detect { .. } => own.filters.clone(),
    };
    // Where only HTTP is taken, nothing else gets through.
    let guards = || match action {
        ChainAction::Http { .. } => Vec::new(),
        ChainAction::Tcp { .. } | ChainAction::Detect { .. } => own.guards.clone(),
    };
    let named = |what: &str| match port {
        Some(port) => format!("{port}_{what}"),
        None => what.to_owned(),
    };
    let on = |transport: Option<Transport>, alpn: &[&str]| ChainMatch {
        port,
        transport,
        application_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        ..ChainMatch::default()
    };
    let offered: &[&str] = match action {
        ChainAction::Tcp { .. } => &TCP_ALPN,
        ChainAction::Http { .. } => &HTTP_ALPN,
        ChainAction::Detect { .. } => &DETECT_ALPN,
    };
    let mutual = |alpn: &[&str]| Chain {
        name: named("mtls"),
        matches: on(Some(Transport::Tls), alpn),
        tls: Some(ServerTls {
            alpn: offered.iter().map(|name| (*name).to_owned()).collect(),
            own: None,
        }),
        action: action.clone(),
        filters: filters(),
        guards: guards(),
        limits: ChainLimits::default(),
    };
    let plain = |transport| Chain {
        name: named("plaintext"),
        matches: on(transport, &[]),
        tls: None,
        action: action.clone(),
        filters: filters(),
        guards: guards(),
        limits: ChainLimits::default(),
    };
    match mode {
        // Whoever speaks TLS must show a certificate of the mesh, whatever else the hello says: a
        // foreign caller gets an alert rather than a closed connection.
        MtlsMode::Strict => vec![mutual(&[])],
        MtlsMode::Permissive => vec![
            mutual(&MESH_ALPN),
            plain(Some(Transport::Plain)),
            Chain {
                guards: own.guards.clone(),
                ..tcp_chain(
                    &named("tls-passthrough"),
                    on(Some(Transport::Tls), &[]),
                    cluster,
                )
            },
        ],
        MtlsMode::Disable => vec![plain(None)],
    }
}

fn table(
    facts: &Facts<'_>,
    node: &Node,
    (name, port): (&str, u16),
    front: &[Hostname],
) -> RouteTable {
    let mut route = Route {
        name: "default".to_owned(),
        matches: Match::default(),
        action: Action::Forward(Forward {
            clusters: vec![whole(name.to_owned())],
            // The application may have closed a kept connection just now; nothing was sent on it.
            retry: Some(Retry {
                on: vec![RetryOn::ResetBeforeRequest],
                ..Retry::default()
            }),
            ..Forward::default()
        }),
        headers: HeaderEdits::default(),
        origin: Origin::default(),
    };
    let force = policy::in_force(facts.policies, node.into(), Place::Port(front));
    policies::apply(&force, force.compression.is_some(), &mut route);
    RouteTable {
        name: name.to_owned(),
        ignore_port: false,
        hosts: vec![VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..VirtualHost::default()
        }],
    }
}
