//! Calls of the application: the listener that takes them, and the tables that route them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::cluster::{CONNECT_TIMEOUT, effective};
use super::routing::{Held, Kept};
use super::{View, sessions, streams, tcp_chain};
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::filter::HttpFilter;
use crate::mesh::http::Upgrades;
use crate::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions,
};
use crate::mesh::route::{
    Action, Forward, HashPolicy, HeaderEdits, Match, Mirror, Respond, WeightedCluster,
};
use crate::mesh::service::Resolution;
use crate::mesh::world::{Config, OutboundPolicy, RouteTarget, Rule, SourceMatch, selects};
use crate::mesh::{
    Cluster, ClusterKind, Hostname, HttpOptions, Listener, Node, Origin, Protocol, Route,
    RouteTable, Service, ServicePort, VirtualHost,
};

/// Routes for calls through an explicit proxy, by host and port.
const HTTP_PROXY: &str = "http_proxy";
/// Hosts outside the registry are routed where plain HTTP is spoken.
pub(super) const HTTP_PORT: u16 = 80;

/// Adds what is made anew to `view`, and to `kept` what stays.
pub(super) fn add(
    config: &Config,
    node: &Node,
    held: Option<&Held<'_>>,
    (view, kept): (&mut View, &mut Kept),
) {
    view.add_cluster(unresolved(
        Cluster::PASSTHROUGH,
        ClusterKind::OriginalDestination,
    ));
    view.add_cluster(unresolved(
        Cluster::BLACK_HOLE,
        ClusterKind::Static(Vec::new()),
    ));
    let beyond = match config.outbound {
        OutboundPolicy::AllowAny => Cluster::PASSTHROUGH,
        OutboundPolicy::RegistryOnly => Cluster::BLACK_HOLE,
    };
    // The tables by port are made for explicit proxies too: gRPC clients and reports ask for them.
    let chains = by_port(config, node, held, (view, kept));
    let (chains, default_chain) = if node.transparent {
        (chains, tcp_chain(beyond, ChainMatch::default(), beyond))
    } else {
        view.add_routes(proxy_table(config, node));
        let chain = Chain {
            name: HTTP_PROXY.to_owned(),
            matches: ChainMatch::default(),
            tls: None,
            action: ChainAction::Http {
                routes: HTTP_PROXY.to_owned(),
                codec: HttpCodec::Auto,
                options: Arc::new(explicit()),
            },
            filters: places(),
            guards: Vec::new(),
            limits: ChainLimits::default(),
        };
        (Vec::new(), chain)
    };
    view.add_listener(Listener {
        name: "virtualOutbound".to_owned(),
        bind: node.outbound,
        direction: Direction::Outbound,
        transparent: node.transparent,
        chains,
        default_chain: Some(default_chain),
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    });
}

/// An explicit proxy is asked for tunnels too.
fn explicit() -> HttpOptions {
    let mut options = HttpOptions::default();
    options.upgrades.0.push(Upgrades::CONNECT.to_owned());
    options
}

/// Where the filters of routes act. Every chain has them (as Istio's do), so that a rule is in force
/// on connections that were there before it; without a rule they cost nothing.
pub(super) fn places() -> Vec<HttpFilter> {
    vec![
        HttpFilter::Cors(Arc::default()),
        HttpFilter::Fault(Arc::default()),
        HttpFilter::StatefulSession(Arc::default()),
    ]
}

/// A cluster that stands for no service.
pub(super) fn unresolved(name: &str, kind: ClusterKind) -> Cluster {
    Cluster {
        name: name.to_owned(),
        kind,
        protocol: UpstreamProtocol::Downstream,
        connect_timeout: CONNECT_TIMEOUT,
        ..Cluster::default()
    }
}

/// One chain a port for HTTP, one an address and port for the rest.
fn by_port(
    config: &Config,
    node: &Node,
    held: Option<&Held<'_>>,
    (view, kept): (&mut View, &mut Kept),
) -> Vec<Chain> {
    let mut ports: BTreeMap<u16, Vec<(&Service, &ServicePort)>> = BTreeMap::new();
    for service in seen(config, node) {
        for port in &service.ports {
            if port.protocol != Protocol::Udp {
                ports.entry(port.port).or_default().push((service, port));
            }
        }
    }
    // A rule for a host outside the registry needs a port where it is looked at.
    if !foreign_hosts(config, node).is_empty() {
        ports.entry(HTTP_PORT).or_default();
    }
    // A redirected connection to the proxy itself would be sent to itself for ever.
    let mut chains = vec![tcp_chain(
        "virtualOutbound-blackhole",
        ChainMatch {
            port: Some(node.outbound.port()),
            ..ChainMatch::default()
        },
        Cluster::BLACK_HOLE,
    )];
    for (port, services) in ports {
        if port == node.outbound.port() {
            continue;
        }
        let table = port.to_string();
        let mut http = services.is_empty();
        let mut guess = false;
        // Bytes for whatever address callers mean.
        let mut open = None;
        let (from, mut ruled) = (chains.len(), Vec::new());
        for (service, service_port) in &services {
            match service_port.protocol {
                Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
                    http = true;
                }
                Protocol::Auto if service.addresses.is_empty() => guess = true,
                // Whoever splits bytes means bytes, unless requests have rules too.
                Protocol::Auto if splits(config, node, service, service_port) => {
                    let streams = streams::chains(config, node, service, service_port);
                    streams.add_to(&mut chains, from, &mut ruled);
                }
                Protocol::Auto => {
                    let cluster = Cluster::outbound_name(port, "", &service.host);
                    chains.push(at_addresses(
                        service,
                        port,
                        ChainAction::Detect {
                            routes: table.clone(),
                            cluster,
                            tunnel: config.tunnel(&service.host, "", node.into()).cloned(),
                            options: Arc::default(),
                        },
                    ));
                }
                Protocol::Tcp | Protocol::Tls | Protocol::Udp => {
                    let mut streams = streams::chains(config, node, service, service_port);
                    open = open.or(streams.open.take());
                    streams.add_to(&mut chains, from, &mut ruled);
                }
            }
        }
        if http || guess {
            let action = if http {
                ChainAction::Http {
                    routes: table.clone(),
                    codec: HttpCodec::Auto,
                    options: Arc::default(),
                }
            } else {
                ChainAction::Detect {
                    routes: table.clone(),
                    cluster: Cluster::PASSTHROUGH.to_owned(),
                    tunnel: None,
                    options: Arc::default(),
                }
            };
            chains.push(Chain {
                name: format!("0.0.0.0_{port}"),
                matches: ChainMatch {
                    port: Some(port),
                    ..ChainMatch::default()
                },
                tls: None,
                action,
                filters: places(),
                guards: Vec::new(),
                limits: ChainLimits::default(),
            });
        }
        if let Some(course) = open.filter(|_| !http && !guess) {
            let matches = ChainMatch {
                port: Some(port),
                ..ChainMatch::default()
            };
            let name = format!("0.0.0.0_{port}");
            chains.push(streams::carry(&name, matches, course));
        }
        if services.iter().any(|(_, port)| routed(port)) || http {
            let rerouted = held.and_then(|held| {
                let routed = services.iter().filter(|(_, own)| routed(own)).copied();
                held.rerouted((port, &table), config, routed, |config, service, own| {
                    routes(config, node, &service.host, Some(own), port)
                })
            });
            match rerouted {
                Some(hosts) => {
                    kept.insert(table, hosts);
                }
                None => view.add_routes(port_table(config, node, port, &services)),
            }
        }
    }
    chains
}

fn routed(port: &ServicePort) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Auto
}

/// The services that a workload of the node's namespace knows.
fn seen<'a>(config: &'a Config, node: &Node) -> impl Iterator<Item = &'a Service> {
    let services = config.services.values().map(|service| &**service);
    services.filter(|service| service.is_seen_from(&node.namespace))
}

/// Whether calls go to the address that their caller means, and no address tells them from others.
pub(super) fn goes_anywhere(service: &Service) -> bool {
    let external = service.external.as_ref();
    service.addresses.is_empty()
        && external.is_some_and(|external| external.resolution == Resolution::None)
}

/// Whether rules split the bytes to a port whose protocol nobody names, and none is for requests.
fn splits(config: &Config, node: &Node, service: &Service, port: &ServicePort) -> bool {
    let requests = config
        .routes(&service.host, &node.namespace)
        .is_some_and(|routes| {
            let mut rules = routes.rules.iter();
            rules.any(|rule| is_for(rule.port, &rule.source, node, port.port))
        });
    !requests && streams::rules(config, node, service, port).next().is_some()
}

fn at_addresses(service: &Service, port: u16, action: ChainAction) -> Chain {
    Chain {
        name: format!("{}_{port}", service.host),
        matches: ChainMatch {
            port: Some(port),
            destinations: service.addresses.iter().copied().map(IpNet::from).collect(),
            ..ChainMatch::default()
        },
        tls: None,
        filters: match action {
            ChainAction::Tcp { .. } => Vec::new(),
            ChainAction::Http { .. } | ChainAction::Detect { .. } => places(),
        },
        action,
        guards: Vec::new(),
        limits: ChainLimits::default(),
    }
}

/// The table of one port: its services, then hosts outside the registry, then everything else.
fn port_table(
    config: &Config,
    node: &Node,
    port: u16,
    services: &[(&Service, &ServicePort)],
) -> RouteTable {
    let mut table = Table::new(&port.to_string(), true);
    for (service, service_port) in services {
        if routed(service_port) {
            let names = names(service, node);
            let domains = with_port(&names, port)
                .chain(names.iter().cloned())
                .collect();
            let routes = routes(config, node, &service.host, Some(service_port), port);
            table.add(host_name(service, port), domains, routes);
        }
    }
    if port == HTTP_PORT {
        for host in foreign_hosts(config, node) {
            table.add_foreign(config, node, host);
        }
    }
    table.finish(config)
}

/// What a service is called in the table of a port.
pub(super) fn host_name(service: &Service, port: u16) -> String {
    format!("{}:{port}", service.host)
}

/// The table of an explicit proxy: every port of every service.
fn proxy_table(config: &Config, node: &Node) -> RouteTable {
    let mut table = Table::new(HTTP_PROXY, false);
    for service in seen(config, node) {
        let ports = || {
            let carried = |port: &&ServicePort| port.protocol != Protocol::Udp;
            service.ports.iter().filter(carried)
        };
        // A bare host is port 80 where the service has it, else its only port.
        let bare = ports()
            .find(|port| port.port == HTTP_PORT)
            .or_else(|| ports().next().filter(|_| ports().count() == 1));
        let names = names(service, node);
        for port in ports() {
            let mut domains: Vec<String> = with_port(&names, port.port).collect();
            if bare.is_some_and(|bare| bare.port == port.port) {
                domains.extend(names.iter().cloned());
            }
            let mut routes = routes(config, node, &service.host, Some(port), port.port);
            if port.protocol == Protocol::Auto {
                routes.splice(0..0, streams::untunnelled(config, node, service));
            }
            table.add(format!("{}:{}", service.host, port.port), domains, routes);
        }
    }
    for host in foreign_hosts(config, node) {
        table.add_foreign(config, node, host);
    }
    table.finish(config)
}

struct Table {
    name: String,
    ignore_port: bool,
    hosts: Vec<VirtualHost>,
    taken: BTreeSet<String>,
}

impl Table {
    fn new(name: &str, ignore_port: bool) -> Self {
        Self {
            name: name.to_owned(),
            ignore_port,
            hosts: Vec::new(),
            taken: BTreeSet::new(),
        }
    }

    /// Of two hosts that claim one name the first keeps it; Envoy refuses tables where both do.
    fn add(&mut self, name: String, domains: Vec<String>, routes: Vec<Route>) {
        let domains: Vec<String> = domains
            .into_iter()
            .filter(|domain| self.taken.insert(domain.clone()))
            .collect();
        if !domains.is_empty() {
            self.hosts.push(VirtualHost {
                name,
                domains,
                routes,
                ..VirtualHost::default()
            });
        }
    }

    fn add_foreign(&mut self, config: &Config, node: &Node, host: &Hostname) {
        let mut domains = vec![host.to_string()];
        if host.as_str() != "*" {
            domains.push(format!("{host}:{HTTP_PORT}"));
        }
        let routes = routes(config, node, host, None, HTTP_PORT);
        if !routes.is_empty() {
            self.add(format!("{host}:{HTTP_PORT}"), domains, routes);
        }
    }

    fn finish(mut self, config: &Config) -> RouteTable {
        let (name, action) = match config.outbound {
            OutboundPolicy::AllowAny => (
                "allow_any",
                Action::Forward(Forward {
                    clusters: vec![whole(Cluster::PASSTHROUGH.to_owned())],
                    ..Forward::default()
                }),
            ),
            OutboundPolicy::RegistryOnly => (
                "block_all",
                Action::Respond(Respond {
                    status: 502,
                    body: String::new(),
                }),
            ),
        };
        let route = Route {
            name: name.to_owned(),
            matches: Match::default(),
            action,
            headers: HeaderEdits::default(),
            origin: Origin::default(),
        };
        self.add(name.to_owned(), vec!["*".to_owned()], vec![route]);
        RouteTable {
            name: self.name,
            ignore_port: self.ignore_port,
            hosts: self.hosts,
        }
    }
}

/// Hosts of rules for requests that are no services, nor stand for any.
fn foreign_hosts<'a>(config: &'a Config, node: &Node) -> Vec<&'a Hostname> {
    config
        .routes
        .iter()
        .filter(|(_, routes)| !routes.rules.is_empty())
        .filter(|(_, routes)| routes.export.is_empty() || routes.export.contains(&node.namespace))
        .map(|(host, _)| host)
        .filter(|host| !host.covers_any(&config.services))
        .collect()
}

/// Every name that a caller in the node's namespace may use for `service`, without port.
fn names(service: &Service, node: &Node) -> Vec<String> {
    let mut names = vec![service.host.to_string()];
    if let Some((name, namespace)) = service.host.kubernetes() {
        names.push(format!("{name}.{namespace}.svc"));
        names.push(format!("{name}.{namespace}"));
        if namespace == node.namespace {
            names.push(name.to_owned());
        }
    }
    names.extend(service.addresses.iter().map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }));
    names
}

fn with_port(names: &[String], port: u16) -> impl Iterator<Item = String> {
    names.iter().map(move |name| format!("{name}:{port}"))
}

/// The routes of `host` for calls to `port`: its rules for this caller, else the service itself.
fn routes(
    config: &Config,
    node: &Node,
    host: &Hostname,
    service_port: Option<&ServicePort>,
    port: u16,
) -> Vec<Route> {
    let requests = service_port.is_none_or(routed);
    let rules = config
        .routes(host, &node.namespace)
        .filter(|_| requests)
        .map(|routes| routes.rules.as_slice())
        .unwrap_or_default();
    let found: Vec<Route> = rules
        .iter()
        .filter(|rule| is_for(rule.port, &rule.source, node, port))
        .map(|rule| resolve(config, node, rule, port))
        .collect();
    if !found.is_empty() || service_port.is_none() {
        return found;
    }
    let service = config.services.get(host);
    if let (false, Some(service), Some(service_port)) = (requests, service, service_port)
        && let Some(route) = streams::route(config, node, service, service_port)
    {
        return vec![route];
    }
    let mut forward = Forward {
        clusters: vec![whole(Cluster::outbound_name(port, "", host))],
        retry: config.baseline.retry.clone().filter(|_| requests),
        hash: hash(config, node, (host, ""), port),
        ..Forward::default()
    };
    sessions::of_services(config, [host], &mut forward);
    vec![Route {
        name: "default".to_owned(),
        matches: Match::default(),
        action: Action::Forward(forward),
        headers: HeaderEdits::default(),
        origin: service
            .map(|service| service.origin.clone())
            .unwrap_or_default(),
    }]
}

pub(super) fn whole(cluster: String) -> WeightedCluster {
    WeightedCluster {
        cluster,
        weight: 1,
        headers: HeaderEdits::default(),
    }
}

/// Whether a rule for a port and for callers is for calls of `node` to `port`.
pub(super) fn is_for(wanted: Option<u16>, source: &SourceMatch, node: &Node, port: u16) -> bool {
    wanted.is_none_or(|wanted| wanted == port)
        && (source.namespaces.is_empty() || source.namespaces.contains(&node.namespace))
        && source
            .namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == node.namespace)
        && selects(&source.labels, &node.labels)
}

pub(super) fn resolve(config: &Config, node: &Node, rule: &Rule, port: u16) -> Route {
    let mut route = rule.route.clone();
    if let Action::Redirect(redirect) = &mut route.action
        && rule.redirect_to_port
    {
        redirect.port = Some(port);
    }
    if let Action::Forward(forward) = &mut route.action
        && !rule.targets.is_empty()
    {
        let targets = rule.targets.iter().map(|target| &target.host);
        sessions::of_services(config, targets, forward);
        // Sessions go on where nobody new is sent (GEP-1619).
        let lasting = sessions::session(forward).is_some();
        forward.clusters = rule
            .targets
            .iter()
            .filter(|target| target.weight > 0 || lasting)
            .map(|target| WeightedCluster {
                cluster: target_cluster(config, target, port),
                weight: target.weight,
                headers: target.headers.clone(),
            })
            .collect();
        // Of several destinations each brings what its own policy hashes (Istio's choice).
        for target in rule.targets.iter().filter(|target| target.weight > 0) {
            let port = target_port(config, target, port);
            for part in hash(config, node, (&target.host, &target.subset), port) {
                if !forward.hash.contains(&part) {
                    forward.hash.push(part);
                }
            }
        }
        forward.mirrors = rule
            .mirrors
            .iter()
            .map(|mirror| Mirror {
                cluster: target_cluster(config, &mirror.target, port),
                share: mirror.share,
                // Istio's choice, since 1.28.
                plain_host: true,
            })
            .collect();
    }
    route
}

/// What is hashed of the node's requests to a service.
fn hash(
    config: &Config,
    node: &Node,
    (host, subset): (&Hostname, &str),
    port: u16,
) -> Vec<HashPolicy> {
    config
        .destination(host, node.into())
        .map(|destination| effective(destination, destination.subsets.get(subset), port))
        .and_then(|policy| policy.load_balancer)
        .map(|balancer| balancer.hash)
        .unwrap_or_default()
}

/// A broken reference keeps its name: the view does not hold it, so requests there answer 503.
pub(super) fn target_cluster(config: &Config, target: &RouteTarget, port: u16) -> String {
    let port = target_port(config, target, port);
    Cluster::outbound_name(port, &target.subset, &target.host)
}

fn target_port(config: &Config, target: &RouteTarget, port: u16) -> u16 {
    let only = || {
        let service: &Arc<Service> = config.services.get(&target.host)?;
        let mut carried = service
            .ports
            .iter()
            .filter(|port| port.protocol != Protocol::Udp);
        let first = carried.next()?;
        carried.next().is_none().then_some(first.port)
    };
    target.port.or_else(only).unwrap_or(port)
}
