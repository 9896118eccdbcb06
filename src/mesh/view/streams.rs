//! Bytes to services: the chains that carry them, told apart by address and server name.

use std::sync::Arc;

use ipnet::IpNet;

use super::outbound::{goes_anywhere, is_for, target_cluster, whole};
use super::{TCP_IDLE, tcp_chain};
use crate::mesh::listener::{Chain, ChainAction, ChainMatch, TcpOptions, Transport};
use crate::mesh::route::{
    Action, Forward, HeaderEdits, HeaderMatch, Match, Respond, TextMatch, WeightedCluster,
};
use crate::mesh::world::{Config, StreamRule};
use crate::mesh::{Cluster, Hostname, Node, Origin, Protocol, Route, Service, ServicePort};

/// Clusters with their weights.
pub(super) type Clusters = Vec<(String, u32)>;

/// Where bytes go.
#[derive(Debug, Clone)]
pub(super) struct Course {
    pub(super) clusters: Clusters,
    /// What the endpoints there, forward proxies, are asked for.
    pub(super) tunnel: Option<Arc<str>>,
}

impl Course {
    /// Nobody gets through.
    fn closed() -> Self {
        Self {
            clusters: vec![(Cluster::BLACK_HOLE.to_owned(), 1)],
            tunnel: None,
        }
    }

    /// To `cluster`, as bytes are.
    pub(super) fn whole(cluster: String) -> Self {
        Self {
            clusters: vec![(cluster, 1)],
            tunnel: None,
        }
    }

    /// To a port of a service, as `node` calls it.
    fn to(config: &Config, node: &Node, host: &Hostname, port: u16) -> Self {
        Self {
            clusters: vec![(Cluster::outbound_name(port, "", host), 1)],
            tunnel: config.tunnel(host, "", node.into()).cloned(),
        }
    }

    /// By a rule. One connection cannot be asked for in two ways: where targets differ in that, nobody
    /// gets through, as some would go around the proxy that they are to go through.
    pub(super) fn by(config: &Config, node: &Node, rule: &StreamRule, port: u16) -> Self {
        match config.tunnels(rule, node.into()) {
            Ok(tunnel) => Self {
                clusters: clusters(config, rule, port),
                tunnel: tunnel.cloned(),
            },
            Err(_) => Self::closed(),
        }
    }

    /// Where nothing has a share, nobody gets through.
    pub(super) fn or_closed(self) -> Self {
        if self.clusters.is_empty() {
            Self::closed()
        } else {
            self
        }
    }
}

/// What carries the bytes to a port of a service.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// By rules, which may speak for any address.
    pub(super) ruled: Vec<Chain>,
    /// To the addresses of the service.
    pub(super) own: Option<Chain>,
    /// For whatever address callers mean.
    pub(super) open: Option<Course>,
}

impl Streams {
    /// Adds the chains to those of their port, which begin at `from`. Of two for the same
    /// connections the first stays.
    pub(super) fn add_to(self, chains: &mut Vec<Chain>, from: usize, ruled: &mut Vec<ChainMatch>) {
        for chain in self.ruled {
            let own = chains.get(from..).unwrap_or_default();
            if own.iter().all(|other| other.matches != chain.matches) {
                ruled.push(chain.matches.clone());
                chains.push(chain);
            }
        }
        // Addresses are of one service: only rules can be in the way.
        chains.extend(self.own.filter(|own| !ruled.contains(&own.matches)));
    }
}

/// The rules for bytes that `node` sends to `port` of `service`.
pub(super) fn rules<'a>(
    config: &'a Config,
    node: &'a Node,
    service: &Service,
    service_port: &ServicePort,
) -> impl Iterator<Item = &'a StreamRule> {
    let tls = service_port.protocol == Protocol::Tls;
    let port = service_port.port;
    config
        .routes(&service.host, &node.namespace)
        .into_iter()
        .flat_map(|routes| &routes.streams)
        .filter(move |rule| rule.server_names.is_empty() != tls)
        .filter(move |rule| is_for(rule.port, &rule.source, node, port))
}

/// A rule for bytes as a caller has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Conditions in words; empty is everything.
    pub matches: Vec<String>,
    /// Clusters with their weights.
    pub clusters: Clusters,
    /// Where it was written.
    pub origin: Origin,
}

/// The rules for bytes to a port of `service`, in order; none where they go to the service itself.
pub(super) fn described(
    config: &Config,
    node: &Node,
    service: &Service,
    service_port: &ServicePort,
) -> Vec<Stream> {
    let words = |what: &str, of: Vec<String>| match of.as_slice() {
        [] => None,
        of => Some(format!("{what} {}", of.join(" or "))),
    };
    rules(config, node, service, service_port)
        .map(|rule| Stream {
            matches: [
                words("server name is", rule.server_names.clone()),
                words(
                    "destination is in",
                    rule.destinations.iter().map(IpNet::to_string).collect(),
                ),
            ]
            .into_iter()
            .flatten()
            .collect(),
            clusters: clusters(config, rule, service_port.port),
            origin: rule.origin.clone(),
        })
        .collect()
}

/// The chains for bytes to `port` of `service`, which is no HTTP.
pub(super) fn chains(
    config: &Config,
    node: &Node,
    service: &Service,
    service_port: &ServicePort,
) -> Streams {
    let port = service_port.port;
    if service_port.protocol == Protocol::Tls {
        return by_server_name(config, node, service, service_port);
    }
    let mut streams = Streams::default();
    let mut rest = Course::to(config, node, &service.host, port);
    for (at, rule) in rules(config, node, service, service_port).enumerate() {
        let course = Course::by(config, node, rule, port);
        if rule.destinations.is_empty() {
            rest = course;
            break;
        }
        let name = format!("{}_{port}_{at}", service.host);
        let place = at_networks(port, rule.destinations.clone());
        streams.ruled.push(carry(&name, place, course));
    }
    if !service.addresses.is_empty() {
        let name = format!("{}_{port}", service.host);
        let place = at_networks(port, addresses(service));
        streams.own = Some(carry(&name, place, rest));
    } else if goes_anywhere(service) {
        streams.open = Some(rest);
    }
    // Without an address of its own nothing tells its connections from others.
    streams
}

/// TLS of the application's own, which says whom it is for wherever it goes.
fn by_server_name(
    config: &Config,
    node: &Node,
    service: &Service,
    service_port: &ServicePort,
) -> Streams {
    let port = service_port.port;
    let mut streams = Streams::default();
    let mut ruled = false;
    // Who is outside may be called by addresses that nobody here knows.
    let anywhere = service.external.is_some() || service.addresses.is_empty();
    for (at, rule) in rules(config, node, service, service_port).enumerate() {
        ruled = true;
        let mut places = Vec::new();
        if rule.destinations.is_empty() {
            if !service.addresses.is_empty() {
                places.push(addresses(service));
            }
            if anywhere {
                places.push(Vec::new());
            }
        } else {
            places.push(rule.destinations.clone());
        }
        // Any name is no condition.
        let any = rule.server_names.iter().any(|name| name == "*");
        for (place, networks) in places.into_iter().enumerate() {
            let matches = ChainMatch {
                server_names: if any {
                    Vec::new()
                } else {
                    rule.server_names.clone()
                },
                transport: Some(Transport::Tls),
                ..at_networks(port, networks)
            };
            let name = match place {
                0 => format!("{}_{port}_tls_{at}", service.host),
                _ => format!("{}_{port}_tls_{at}_anywhere", service.host),
            };
            let course = Course::by(config, node, rule, port);
            streams.ruled.push(carry(&name, matches, course));
        }
    }
    let own = Course::to(config, node, &service.host, port);
    if !ruled && service.external.is_some() {
        let matches = ChainMatch {
            server_names: vec![service.host.to_string()],
            transport: Some(Transport::Tls),
            ..at_networks(port, Vec::new())
        };
        let name = format!("{}_{port}_tls", service.host);
        streams.ruled.push(carry(&name, matches, own.clone()));
    }
    if !service.addresses.is_empty() {
        // Where rules name what they are for, nothing else goes there (Istio).
        let to = if ruled { Course::closed() } else { own };
        let name = format!("{}_{port}", service.host);
        let matches = at_networks(port, addresses(service));
        streams.own = Some(carry(&name, matches, to));
    }
    streams
}

/// The route of bytes to `service` through an explicit proxy: nothing tells them apart, so the first rule
/// counts that is for the service as such. None where they go to the service itself.
pub(super) fn route(
    config: &Config,
    node: &Node,
    service: &Service,
    service_port: &ServicePort,
) -> Option<Route> {
    let named = |rule: &&StreamRule| {
        let covers = |name: &String| {
            let name = name.parse::<Hostname>();
            name.is_ok_and(|name| name.covers(&service.host))
        };
        rule.server_names.is_empty() || rule.server_names.iter().any(covers)
    };
    let meant = |rule: &&StreamRule| {
        let inside = |net: &IpNet| service.addresses.iter().any(|own| net.contains(own));
        rule.destinations.is_empty() || rule.destinations.iter().any(inside)
    };
    let rule = rules(config, node, service, service_port)
        .filter(named)
        .find(meant);
    let course = match rule {
        Some(rule) => Course::by(config, node, rule, service_port.port),
        None => Course::to(config, node, &service.host, service_port.port),
    };
    if rule.is_none() && course.tunnel.is_none() {
        return None;
    }
    let origin = rule.map_or(&service.origin, |rule| &rule.origin).clone();
    let weight = |(cluster, weight)| WeightedCluster {
        weight,
        ..whole(cluster)
    };
    Some(Route {
        name: String::new(),
        matches: Match::default(),
        action: match &course.tunnel {
            Some(to) => refused(service, to),
            None => Action::Forward(Forward {
                clusters: course.clusters.into_iter().map(weight).collect(),
                ..Forward::default()
            }),
        },
        headers: HeaderEdits::default(),
        origin,
    })
}

/// The route that keeps bytes to a port that may carry some from going around their tunnel.
pub(super) fn untunnelled(config: &Config, node: &Node, service: &Service) -> Option<Route> {
    let to = config.tunnel(&service.host, "", node.into())?;
    let connect = HeaderMatch {
        name: ":method".to_owned(),
        value: TextMatch::Exact("CONNECT".to_owned()),
        invert: false,
    };
    Some(Route {
        name: "tunnel".to_owned(),
        matches: Match {
            headers: vec![connect],
            ..Match::default()
        },
        action: refused(service, to),
        headers: HeaderEdits::default(),
        origin: service.origin.clone(),
    })
}

/// A route cannot say whom its endpoints are to be asked for, and who went on would go around them.
fn refused(service: &Service, to: &str) -> Action {
    Action::Respond(Respond {
        status: 501,
        body: format!(
            "calls of {} go through a tunnel to {to}, which an explicit proxy does not make: have the workload's traffic redirected",
            service.host
        ),
    })
}

fn clusters(config: &Config, rule: &StreamRule, port: u16) -> Clusters {
    rule.targets
        .iter()
        .filter(|target| target.weight > 0)
        .map(|target| (target_cluster(config, target, port), target.weight))
        .collect()
}

fn addresses(service: &Service) -> Vec<IpNet> {
    service.addresses.iter().copied().map(IpNet::from).collect()
}

fn at_networks(port: u16, destinations: Vec<IpNet>) -> ChainMatch {
    ChainMatch {
        port: Some(port),
        destinations,
        ..ChainMatch::default()
    }
}

/// A chain that carries bytes on `course`.
pub(super) fn carry(name: &str, matches: ChainMatch, course: Course) -> Chain {
    Chain {
        action: ChainAction::Tcp {
            clusters: course.clusters,
            options: TcpOptions {
                tunnel: course.tunnel,
                ..TcpOptions::idle(TCP_IDLE)
            },
        },
        ..tcp_chain(name, matches, "")
    }
}
