//! What a gateway proxy takes: listeners, chains and tables from the Gateways that its labels choose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::View;
use super::authorization;
use super::outbound::{is_for, places, resolve};
use super::policies;
use super::relay;
use super::sessions;
use super::streams::{Course, carry};
use super::termination::terminated;
use super::tokens;
use crate::mesh::cluster::Cluster;
use crate::mesh::cluster::ClusterKind;
use crate::mesh::credential::Secret;
use crate::mesh::filter::{Compressor, HttpFilter, NetworkFilter};
use crate::mesh::gateway::{Bound, Gateway, Server, Serves};
use crate::mesh::http::{ClientCertDetails, ClientCertOptions, ForwardClientCert, RemoteOptions};
use crate::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions, Transport,
};
use crate::mesh::policy::{self, InForce, Place};
use crate::mesh::route::{Action, HeaderEdits, Match, Redirect, Respond};
use crate::mesh::world::{Config, StreamRule};
use crate::mesh::{Hostname, HttpOptions, Listener, Node, Route, RouteTable, VirtualHost, World};

/// A server with the gateway that it is of.
#[derive(Clone, Copy)]
struct Served<'a> {
    gateway: &'a Gateway,
    server: &'a Server,
}

impl Served<'_> {
    /// What policies say of what arrives here.
    fn force(&self, config: &Config, node: &Node) -> InForce {
        self.force_on(config, node, None)
    }

    /// The same for what has `route`.
    fn force_on(&self, config: &Config, node: &Node, route: Option<&Route>) -> InForce {
        let own = (self.gateway.namespace.clone(), self.gateway.name.clone());
        let place = match self.server.attached {
            None => Place::Gateway(&own),
            Some(_) => Place::Listener {
                gateway: &own,
                listener: &self.server.name,
                route,
            },
        };
        policy::in_force(&config.policies, node.into(), place)
    }

    /// Who may send bytes here.
    fn guards(&self, config: &Config, node: &Node) -> Vec<NetworkFilter> {
        let force = self.force(config, node);
        authorization::guards(&force, &config.trust_domain, Some(self.server.port))
    }

    /// How answers are compressed: as is said for the server, else for the first of its routes of which
    /// something is said.
    fn compression(&self, config: &Config, node: &Node) -> Option<Arc<Compressor>> {
        self.force(config, node).compression.or_else(|| {
            let attached = self.server.attached.as_ref()?;
            let mut rules = attached.hosts.values().flatten();
            rules.find_map(|rule| self.force_on(config, node, Some(&rule.route)).compression)
        })
    }
}

pub(super) fn add(world: &World, node: &Node, view: &mut View) {
    let config = &*world.config;
    view.add_cluster(super::outbound::unresolved(
        Cluster::BLACK_HOLE,
        ClusterKind::Static(Vec::new()),
    ));
    let mut ports: BTreeMap<SocketAddr, Vec<Served<'_>>> = BTreeMap::new();
    for gateway in config.gateways.values().chain(config.listening.values()) {
        if !gateway.is_served_by(&node.namespace, &node.labels) {
            continue;
        }
        for server in &gateway.servers {
            let Some(bind) = bind(node, server) else {
                continue;
            };
            let here = ports.entry(bind).or_default();
            // A listener at several addresses is one where the proxy was told of its own.
            let same = |other: &Served<'_>| {
                std::ptr::eq(other.gateway, Arc::as_ptr(gateway))
                    && other.server.attached.is_some()
                    && other.server.name == server.name
            };
            if !here.iter().any(same) {
                here.push(Served { gateway, server });
            }
        }
    }
    for (bind, servers) in ports {
        let listener = listener(config, node, bind, &servers, view);
        if listener.chains.is_empty() && listener.default_chain.is_none() {
            continue;
        }
        view.add_listener(listener);
    }
    secrets(config, view);
}

/// Where `server` listens: where the proxy was told to for its port, and nowhere when it was told of
/// other ports only.
fn bind(node: &Node, server: &Server) -> Option<SocketAddr> {
    let mut told = node.applications.iter();
    match told.find(|port| port.port == server.port) {
        Some(told) => Some(told.bind),
        None if node.applications.is_empty() => Some(SocketAddr::new(
            server.bind.unwrap_or(node.address),
            server.port,
        )),
        None => None,
    }
}

fn listener(
    config: &Config,
    node: &Node,
    bind: SocketAddr,
    servers: &[Served<'_>],
    view: &mut View,
) -> Listener {
    let mut chains: Vec<Chain> = Vec::new();
    let mut plain: Vec<Served<'_>> = Vec::new();
    let mut taken = BTreeSet::new();
    let mut bytes = None;
    for served in servers {
        let server = served.server;
        let name = format!(
            "{}.{}.{}.{}",
            server.port, server.name, served.gateway.name, served.gateway.namespace
        );
        match &server.serves {
            Serves::Http { .. } => plain.push(*served),
            Serves::Https(security) => {
                let Some(matches) = by_name(hosts(server), &mut taken) else {
                    continue;
                };
                let table = format!("https.{name}");
                let compression = served.compression(config, node);
                let compresses = compression.is_some();
                let mut routes = table_of(config, node, (&table, compresses), &[*served]);
                misdirected(&mut routes, served.server, servers);
                view.add_routes(routes);
                chains.push(Chain {
                    name: name.clone(),
                    matches,
                    tls: Some(terminated(security, node, (server, true))),
                    ..requests(
                        &table,
                        judged(&served.force(config, node), config, server.port),
                        policies::filters(server.grpc_web, compression.as_ref()),
                    )
                });
            }
            Serves::Tls(security) => {
                let found = match &server.attached {
                    Some(_) => passed(config, node, *served),
                    None => stream(config, node, *served)
                        .map(|found| (hosts(server), found))
                        .into_iter()
                        .collect(),
                };
                for (at, (names, found)) in found.into_iter().enumerate() {
                    if let Some(matches) = by_name(names, &mut taken) {
                        let name = match at {
                            0 => name.clone(),
                            _ => format!("{name}_{at}"),
                        };
                        chains.push(Chain {
                            tls: Some(terminated(security, node, (server, false))),
                            guards: served.guards(config, node),
                            ..carry(&name, matches, found)
                        });
                    }
                }
            }
            Serves::Passthrough => {
                for (at, (names, found)) in passed(config, node, *served).into_iter().enumerate() {
                    if let Some(matches) = by_name(names, &mut taken) {
                        chains.push(Chain {
                            guards: served.guards(config, node),
                            ..carry(&format!("{name}_{at}"), matches, found)
                        });
                    }
                }
            }
            Serves::MeshPassthrough => {
                for to in relay::reached(config, node, (served.gateway, server)) {
                    let matches = relay::calls(&to);
                    if !matches
                        .server_names
                        .iter()
                        .all(|name| taken.insert(name.clone()))
                    {
                        continue;
                    }
                    chains.push(Chain {
                        guards: served.guards(config, node),
                        ..carry(&format!("{name}_{to}"), matches, Course::whole(to))
                    });
                }
            }
            Serves::Tcp => {
                if bytes.is_none()
                    && let Some(found) = stream(config, node, *served)
                {
                    bytes = Some(Chain {
                        guards: served.guards(config, node),
                        ..carry(&name, ChainMatch::default(), found)
                    });
                }
            }
        }
    }
    if let (Some(first), true) = (plain.first(), bytes.is_none()) {
        let table = format!("http.{}", first.server.port);
        // Of gateways that share the port, the first that has a policy says how.
        let mut all = plain.iter();
        let compression = all.find_map(|served| served.compression(config, node));
        let compresses = (table.as_str(), compression.is_some());
        view.add_routes(table_of(config, node, compresses, &plain));
        let web = plain.iter().any(|served| served.server.grpc_web);
        let guards: Vec<_> = plain
            .iter()
            .map(|served| {
                let hosts = served.server.hosts.iter();
                let hosts = hosts.map(|of| of.host.clone()).collect();
                (hosts, served.force(config, node))
            })
            .collect();
        let token = tokens::guard_of_hosts(&guards);
        let port = Some(first.server.port);
        let callers = authorization::filters_of_hosts(&guards, &config.trust_domain, port);
        bytes = Some(Chain {
            name: table.clone(),
            ..requests(
                &table,
                token.into_iter().chain(callers).collect(),
                policies::filters(web, compression.as_ref()),
            )
        });
    }
    Listener {
        name: format!("{}_{}", bind.ip(), bind.port()),
        bind,
        // As Istio's gateways: what they do is call others.
        direction: Direction::Outbound,
        transparent: false,
        chains,
        default_chain: bytes,
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    }
}

fn hosts(server: &Server) -> Vec<String> {
    let names = server.hosts.iter().map(|host| host.host.to_string());
    names.collect()
}

/// TLS for these names, as far as nobody before has them; `*` is every name, and callers that name none.
fn by_name(names: Vec<String>, taken: &mut BTreeSet<String>) -> Option<ChainMatch> {
    let names: Vec<String> = names
        .into_iter()
        .filter(|name| taken.insert(name.clone()))
        .collect();
    if names.is_empty() {
        return None;
    }
    let any = names.iter().any(|name| name == "*");
    Some(ChainMatch {
        transport: Some(Transport::Tls),
        server_names: if any { Vec::new() } else { names },
        ..ChainMatch::default()
    })
}

/// What stands before everything: whose tokens are taken, and who may call.
fn judged(force: &InForce, config: &Config, port: u16) -> Vec<HttpFilter> {
    let callers = authorization::filters(force, &config.trust_domain, Some(port));
    tokens::guard(force).into_iter().chain(callers).collect()
}

/// A chain of requests, without a name, whose policies act in `filters`; `guards` stand before all.
fn requests(table: &str, guards: Vec<HttpFilter>, filters: Vec<HttpFilter>) -> Chain {
    Chain {
        name: String::new(),
        matches: ChainMatch::default(),
        tls: None,
        action: ChainAction::Http {
            routes: table.to_owned(),
            codec: HttpCodec::Auto,
            options: Arc::new(edge()),
        },
        guards: Vec::new(),
        filters: guards.into_iter().chain(places()).chain(filters).collect(),
        limits: ChainLimits::default(),
    }
}

/// Callers are strangers: what they say of themselves is not believed.
fn edge() -> HttpOptions {
    HttpOptions {
        remote: RemoteOptions {
            use_remote_address: true,
            ..RemoteOptions::default()
        },
        client_cert: ClientCertOptions {
            forward: ForwardClientCert::SanitizeSet,
            details: ClientCertDetails {
                subject: true,
                cert: true,
                dns: true,
                uri: true,
                ..ClientCertDetails::default()
            },
        },
        ..HttpOptions::default()
    }
}

/// What is bound to the gateway of a server and seen by the node.
fn bound<'a>(
    config: &'a Config,
    node: &'a Node,
    gateway: &Gateway,
) -> impl Iterator<Item = &'a Bound> {
    config
        .bound
        .get(&(gateway.namespace.clone(), gateway.name.clone()))
        .into_iter()
        .flatten()
        .map(|bound| &**bound)
        .filter(|bound| bound.export.is_empty() || bound.export.contains(&node.namespace))
}

/// The routes of some servers of one port, whose chain `compresses` answers or not: by host, the oldest object's first.
fn table_of(
    config: &Config,
    node: &Node,
    (name, compresses): (&str, bool),
    servers: &[Served<'_>],
) -> RouteTable {
    let mut hosts: BTreeMap<Hostname, VirtualHost> = BTreeMap::new();
    let virtual_host = |host: &Hostname, port: u16| VirtualHost {
        name: format!("{host}:{port}"),
        domains: vec![host.to_string()],
        ..VirtualHost::default()
    };
    for served in servers {
        let Served { gateway, server } = *served;
        let port = server.port;
        let force = served.force(config, node);
        let guard = |mut route: Route| {
            policies::apply(&force, compresses, &mut route);
            route
        };
        if matches!(server.serves, Serves::Http { redirect: true }) {
            for of in &server.hosts {
                let host = hosts
                    .entry(of.host.clone())
                    .or_insert_with(|| virtual_host(&of.host, port));
                host.routes.push(guard(redirected(server)));
            }
            continue;
        }
        if let Some(attached) = &server.attached {
            let sharing = servers.iter().map(|served| served.server);
            let sharing = sharing.filter(|server| server.attached.is_some());
            for (host, rules) in &attached.hosts {
                if !server.owns(host, sharing.clone()) {
                    continue;
                }
                let rules = rules
                    .iter()
                    .filter(|rule| is_for(rule.port, &rule.source, node, port))
                    .map(|rule| {
                        let mut route = resolve(config, node, rule, port);
                        if matches!(server.serves, Serves::Https(_)) {
                            sessions::secure(&mut route);
                        }
                        let force = served.force_on(config, node, Some(&route));
                        policies::apply(&force, compresses, &mut route);
                        route
                    });
                hosts
                    .entry(host.clone())
                    .or_insert_with(|| virtual_host(host, port))
                    .routes
                    .extend(rules);
            }
            continue;
        }
        for bound in bound(config, node, gateway) {
            let rules: Vec<Route> = bound
                .rules
                .iter()
                .filter(|rule| is_for(rule.port, &rule.source, node, port))
                .map(|rule| guard(resolve(config, node, rule, port)))
                .collect();
            if rules.is_empty() {
                continue;
            }
            let meets = |host: &Hostname| -> Vec<Hostname> {
                let own = &gateway.namespace;
                let of = server.hosts.iter();
                of.filter_map(|of| of.meets(host, &bound.namespace, own))
                    .collect()
            };
            let at: BTreeSet<Hostname> = bound.hosts.iter().flat_map(meets).collect();
            for host in at {
                let routes = rules.iter().cloned();
                hosts
                    .entry(host.clone())
                    .or_insert_with(|| virtual_host(&host, port))
                    .routes
                    .extend(routes);
            }
        }
    }
    RouteTable {
        name: name.to_owned(),
        ignore_port: true,
        hosts: hosts.into_values().collect(),
    }
}

/// What another server of the port is for by a narrower name is not served by this one, though requests
/// for it may come on connections to this one: the other may ask more of its callers. They are told to
/// make a connection of their own (RFC 9110, section 15.5.20), at a listener of the Gateway API also for
/// names that are not its own.
fn misdirected(table: &mut RouteTable, own: &Server, servers: &[Served<'_>]) {
    let secure = servers.iter().map(|served| served.server).filter(|server| {
        !matches!(
            server.serves,
            Serves::Http { .. } | Serves::MeshPassthrough | Serves::Tcp
        )
    });
    let all: Vec<(&Hostname, &Server)> = secure
        .flat_map(|server| server.hosts.iter().map(move |of| (&of.host, server)))
        .collect();
    let elsewhere = |host: &Hostname| {
        let mut of = all.iter().filter(|(of, _)| *of == host || of.covers(host));
        let longest = of.clone().map(|(of, _)| of.as_str().len()).max();
        // Of two servers for one name the first has it.
        of.find(|(of, _)| Some(of.as_str().len()) == longest)
            .is_some_and(|(_, server)| !std::ptr::eq(*server, own))
    };
    table.hosts.retain(|host| {
        let mut domains = host.domains.iter().filter_map(|domain| domain.parse().ok());
        !domains.any(|domain| elsewhere(&domain))
    });
    let others: BTreeSet<&Hostname> = all.iter().map(|(host, _)| *host).collect();
    for host in others {
        let covered = own.hosts.iter().any(|of| of.host.covers(host));
        if (covered || own.attached.is_some()) && elsewhere(host) {
            table.hosts.push(VirtualHost {
                name: format!("{host}:{}", own.port),
                domains: vec![host.to_string()],
                routes: vec![Route {
                    name: "misdirected".to_owned(),
                    matches: Match::default(),
                    action: Action::Respond(Respond {
                        status: 421,
                        body: String::new(),
                    }),
                    headers: HeaderEdits::default(),
                    origin: own.origin.clone(),
                }],
                ..VirtualHost::default()
            });
        }
    }
}

fn redirected(server: &Server) -> Route {
    Route {
        name: "https-redirect".to_owned(),
        matches: Match::default(),
        action: Action::Redirect(Redirect {
            status: 301,
            scheme: Some("https".to_owned()),
            ..Redirect::default()
        }),
        headers: HeaderEdits::default(),
        origin: server.origin.clone(),
    }
}

/// Where the bytes of a server go: by the first rule for them.
fn stream(config: &Config, node: &Node, served: Served<'_>) -> Option<Course> {
    let Served { gateway, server } = served;
    let is_for = |rule: &&StreamRule| {
        rule.server_names.is_empty() && is_for(rule.port, &rule.source, node, server.port)
    };
    if let Some(attached) = &server.attached {
        let rule = attached.streams.iter().find(is_for)?;
        return Some(Course::by(config, node, rule, server.port).or_closed());
    }
    bound(config, node, gateway)
        .filter(|bound| {
            let mut pairs = server.hosts.iter().flat_map(|of| {
                let hosts = bound.hosts.iter();
                hosts.map(move |host| of.meets(host, &bound.namespace, &gateway.namespace))
            });
            pairs.any(|meets| meets.is_some())
        })
        .flat_map(|bound| &bound.streams)
        .find(is_for)
        .map(|rule| Course::by(config, node, rule, server.port))
}

/// Where TLS goes by its server names.
fn passed(config: &Config, node: &Node, served: Served<'_>) -> Vec<(Vec<String>, Course)> {
    let Served { gateway, server } = served;
    let own = &gateway.namespace;
    let is_for = |rule: &&StreamRule| {
        !rule.server_names.is_empty() && is_for(rule.port, &rule.source, node, server.port)
    };
    if let Some(attached) = &server.attached {
        let rules = attached.streams.iter().filter(is_for);
        return rules
            .map(|rule| {
                let course = Course::by(config, node, rule, server.port);
                (rule.server_names.clone(), course.or_closed())
            })
            .collect();
    }
    let mut found = Vec::new();
    for bound in bound(config, node, gateway) {
        for rule in bound.streams.iter().filter(is_for) {
            let names: Vec<String> = rule
                .server_names
                .iter()
                .filter_map(|name| name.parse::<Hostname>().ok())
                .flat_map(|name| {
                    let of = server.hosts.iter();
                    let met = of.filter_map(|of| of.meets(&name, &bound.namespace, own));
                    met.collect::<Vec<_>>()
                })
                .map(|name| name.to_string())
                .collect();
            if !names.is_empty() {
                found.push((names, Course::by(config, node, rule, server.port)));
            }
        }
    }
    found
}

/// The texts of the credentials that listeners name.
fn secrets(config: &Config, view: &mut View) {
    let mut texts = BTreeMap::new();
    for ((namespace, name), credential) in &config.credentials {
        if let Some(certificate) = &credential.certificate {
            texts.insert(Secret::name_of(namespace, name), Arc::clone(certificate));
        }
        if let Some(roots) = &credential.roots {
            // Those in a Secret of their own come before those beside a certificate.
            if let Some(of) = name.strip_suffix("-cacert") {
                texts.insert(Secret::roots_of(namespace, of), Arc::clone(roots));
            }
            texts
                .entry(Secret::roots_of(namespace, name))
                .or_insert_with(|| Arc::clone(roots));
        }
    }
    let wanted: BTreeSet<String> = view
        .listeners
        .values()
        .flat_map(|listener| &listener.chains)
        .filter_map(|chain| chain.tls.as_ref()?.own.as_deref())
        .flat_map(|own| own.secrets().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for name in wanted {
        if let Some(text) = texts.get(&name) {
            view.secrets.insert(name, Arc::clone(text));
        }
    }
}
