//! Listeners and their chains.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::pb::{
    Any, HttpInspector, OriginalDst, TlsInspector, address, any, core, duration, hcm, listener,
    tcp, u32_value,
};
use super::super::structs::{MESHCTL, boolean, list, metadata, nested, object, text};
use super::{ext_authz, filter as http_filter, http, mtls, rbac, sockets, tracing};
use crate::mesh::filter::{HttpFilter, NetworkFilter};
use crate::mesh::listener::{Chain, ChainAction, ChainMatch, Direction, HttpCodec, Transport};
use crate::mesh::metrics::Change;
use crate::mesh::{Client, HttpOptions, Listener};

/// What Envoy's `http_inspector` calls HTTP in plain connections.
const PLAIN_HTTP: [&str; 3] = ["http/1.1", "http/1.0", "h2c"];
/// HTTP inside of the mesh's TLS, in Istio's names and everyone's.
const TLS_HTTP: [&str; 5] = [
    "istio-http/1.1",
    "istio-http/1.0",
    "istio-h2",
    "http/1.1",
    "h2",
];
/// Where connections end that nothing may take; there is no such cluster.
const NOWHERE: &str = "BlackHoleCluster";

pub(super) fn encode(from: &Listener, client: Client) -> listener::Listener {
    let (chains, default) = match client {
        Client::Envoy => split(from),
        Client::Meshctl | Client::Grpc => (
            from.chains.iter().map(one).collect(),
            from.default_chain.as_ref().map(one),
        ),
    };
    let mut to = listener::Listener {
        name: from.name.clone(),
        address: Some(address(from.bind)),
        traffic_direction: match from.direction {
            Direction::Inbound => core::TrafficDirection::Inbound,
            Direction::Outbound => core::TrafficDirection::Outbound,
        }
        .into(),
        listener_filters_timeout: duration(from.detect_timeout),
        ..Default::default()
    };
    sockets::listener(&from.options, &mut to);
    if client == Client::Meshctl {
        to.metadata = from.options.metrics.as_deref().and_then(|all| metrics(all));
    }
    listener::Listener {
        listener_filters: inspectors(from, &chains),
        filter_chains: chains,
        default_filter_chain: default,
        ..to
    }
}

/// What is told of metrics otherwise than usual, in our own words: no filter of Envoy's has any.
fn metrics(changes: &[Change]) -> Option<core::Metadata> {
    let one = |change: &Change| {
        let metric = change.metric.as_ref().map(|name| ("metric", text(name)));
        let off = change.disabled.map(|off| ("disabled", boolean(off)));
        let without = list(change.without.iter().map(text).collect());
        let fields = [Some(("without", without)), metric, off];
        nested(object(fields.into_iter().flatten()))
    };
    metadata([(
        MESHCTL,
        object([("metrics", list(changes.iter().map(one).collect()))]),
    )])
}

/// Filters that find out what chains ask about.
fn inspectors(from: &Listener, chains: &[listener::FilterChain]) -> Vec<listener::ListenerFilter> {
    let all = || from.chains.iter().chain(&from.default_chain);
    let asks = |question: fn(&listener::FilterChainMatch) -> bool| {
        chains
            .iter()
            .filter_map(|chain| chain.filter_chain_match.as_ref())
            .any(question)
    };
    let tls = all().any(|chain| chain.tls.is_some())
        || asks(|m| !m.server_names.is_empty() || !m.transport_protocol.is_empty());
    let http = asks(|m| !m.application_protocols.is_empty())
        || all().any(|chain| matches!(chain.action, ChainAction::Detect { .. }));
    let filter = |name: &str, config: Any| listener::ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    [
        from.options
            .proxy_protocol
            .map(|header| filter("proxy_protocol", sockets::proxy_filter(header))),
        from.transparent
            .then(|| filter("original_dst", any(&OriginalDst {}))),
        tls.then(|| filter("tls_inspector", any(&TlsInspector::default()))),
        http.then(|| filter("http_inspector", any(&HttpInspector {}))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A chain as it is; detection stands in our metadata.
fn one(chain: &Chain) -> listener::FilterChain {
    let detect = match &chain.action {
        ChainAction::Detect {
            cluster, tunnel, ..
        } => {
            let tunnel = tunnel.as_deref().map(|to| ("tunnel", text(to)));
            let fields = [("cluster", text(cluster))].into_iter().chain(tunnel);
            Some(("detect", nested(object(fields))))
        }
        ChainAction::Http { .. } | ChainAction::Tcp { .. } => None,
    };
    let mut to = listener::FilterChain {
        name: chain.name.clone(),
        filter_chain_match: (chain.matches != ChainMatch::default())
            .then(|| condition(&chain.matches)),
        transport_socket: chain.tls.as_ref().map(mtls::server),
        filters: guarded(chain, Client::Meshctl, plainly(chain, Client::Meshctl)),
        metadata: metadata([(MESHCTL, object(detect))]),
        ..Default::default()
    };
    sockets::chain(&chain.limits, &mut to, Client::Meshctl);
    to
}

/// What a connection goes through: who may connect, then `last`.
fn guarded(chain: &Chain, client: Client, last: listener::Filter) -> Vec<listener::Filter> {
    let guards = chain.guards.iter();
    let guards = guards.map(|guard| match guard {
        NetworkFilter::Rbac(rules) => filter("rbac", rbac::network(rules, client)),
        NetworkFilter::ExtAuthz(asks) => filter("ext_authz", ext_authz::network(asks, client)),
    });
    guards.chain([last]).collect()
}

/// One of Envoy's chains in the making.
struct Part<'a> {
    chain: &'a Chain,
    suffix: &'static str,
    matches: ChainMatch,
    filter: listener::Filter,
    /// What arrives is judged as bytes.
    guarded: bool,
}

impl Part<'_> {
    fn build(self) -> listener::FilterChain {
        let mut to = listener::FilterChain {
            name: format!("{}{}", self.chain.name, self.suffix),
            filter_chain_match: (self.matches != ChainMatch::default())
                .then(|| condition(&self.matches)),
            transport_socket: self.chain.tls.as_ref().map(mtls::server),
            filters: if self.guarded {
                guarded(self.chain, Client::Envoy, self.filter)
            } else {
                vec![self.filter]
            },
            ..Default::default()
        };
        sockets::chain(&self.chain.limits, &mut to, Client::Envoy);
        to
    }
}

/// Chains in Envoy's terms: detection becomes a chain for HTTP and one for the rest. Envoy never
/// goes back to a less specific transport, so the rest stands once for each.
fn split(from: &Listener) -> (Vec<listener::FilterChain>, Option<listener::FilterChain>) {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut derived: Vec<Part<'_>> = Vec::new();
    for chain in &from.chains {
        let (routes, options, rest) = match &chain.action {
            ChainAction::Detect {
                routes,
                cluster,
                tunnel,
                options,
            } => (routes, options, (cluster.as_str(), tunnel.as_deref())),
            ChainAction::Http { .. } | ChainAction::Tcp { .. } => {
                parts.push(Part {
                    chain,
                    suffix: "",
                    matches: chain.matches.clone(),
                    filter: plainly(chain, Client::Envoy),
                    guarded: true,
                });
                continue;
            }
        };
        derived.push(detected(chain, routes, options));
        let mut other = |transport, suffix| {
            derived.push(Part {
                chain,
                suffix,
                matches: ChainMatch {
                    transport,
                    ..chain.matches.clone()
                },
                filter: undetected(chain, rest, options),
                guarded: true,
            });
        };
        match (chain.matches.transport, &chain.tls) {
            (None, None) => {
                other(Some(Transport::Plain), "-bytes");
                other(Some(Transport::Tls), "-tls");
            }
            (transport, _) => other(transport, "-bytes"),
        }
    }
    let default = from.default_chain.as_ref().map(|chain| {
        let (suffix, filter) = match &chain.action {
            ChainAction::Detect {
                routes,
                cluster,
                tunnel,
                options,
            } => {
                derived.push(detected(chain, routes, options));
                let rest = (cluster.as_str(), tunnel.as_deref());
                ("-bytes", undetected(chain, rest, options))
            }
            ChainAction::Http { .. } | ChainAction::Tcp { .. } => {
                ("", plainly(chain, Client::Envoy))
            }
        };
        let matches = ChainMatch::default();
        Part {
            chain,
            suffix,
            matches,
            filter,
            guarded: true,
        }
        .build()
    });
    // Envoy refuses a listener whose chains overlap; what was asked for wins over what follows.
    parts.extend(derived);
    let mut kept: Vec<Part<'_>> = Vec::with_capacity(parts.len());
    for mut part in parts {
        if kept
            .iter()
            .all(|other| set_apart(&mut part.matches, &other.matches))
        {
            kept.push(part);
        }
    }
    (kept.into_iter().map(Part::build).collect(), default)
}

/// Takes out of `later` what `earlier` has already; false when nothing is left.
fn set_apart(later: &mut ChainMatch, earlier: &ChainMatch) -> bool {
    let nets = |matches: &ChainMatch| -> Vec<IpNet> {
        matches.destinations.iter().map(IpNet::trunc).collect()
    };
    let (mine, theirs) = (nets(later), nets(earlier));
    let apart = later.port != earlier.port
        || later.transport != earlier.transport
        || !overlap(&mine, &theirs)
        || !overlap(&later.server_names, &earlier.server_names)
        || !overlap(&later.application_protocols, &earlier.application_protocols);
    if apart {
        return true;
    }
    let protocols = &earlier.application_protocols;
    if later
        .application_protocols
        .iter()
        .any(|p| !protocols.contains(p))
    {
        later
            .application_protocols
            .retain(|p| !protocols.contains(p));
    } else if mine.iter().any(|net| !theirs.contains(net)) {
        later
            .destinations
            .retain(|net| !theirs.contains(&net.trunc()));
    } else if later
        .server_names
        .iter()
        .any(|n| !earlier.server_names.contains(n))
    {
        later
            .server_names
            .retain(|n| !earlier.server_names.contains(n));
    } else {
        return false;
    }
    true
}

/// Whether two conditions have a value in common; none is a value of its own to Envoy.
fn overlap<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    match (one, other) {
        ([], []) => true,
        _ => one.iter().any(|value| other.contains(value)),
    }
}

/// The filter of a chain, as far as one filter can say it: what a kind of client understands of it.
fn plainly(chain: &Chain, client: Client) -> listener::Filter {
    match &chain.action {
        ChainAction::Http {
            routes,
            codec,
            options,
        } => http(chain, routes, (*codec, options), client),
        ChainAction::Detect {
            routes, options, ..
        } => http(chain, routes, (HttpCodec::Auto, options), client),
        ChainAction::Tcp { clusters, options } => {
            let mut proxy = bytes(&chain.name, clusters, client);
            sockets::tcp(options, &mut proxy, client);
            filter("tcp_proxy", any(&proxy))
        }
    }
}

/// The filter for what turns out not to be HTTP.
fn undetected(
    chain: &Chain,
    (cluster, tunnel): (&str, Option<&str>),
    options: &HttpOptions,
) -> listener::Filter {
    let clusters = [(cluster.to_owned(), 1)];
    let mut proxy = bytes(&chain.name, &clusters, Client::Envoy);
    proxy.tunneling_config = tunnel.map(sockets::tunnel);
    proxy.access_log = sockets::logs(options.access_log.as_deref(), Client::Envoy);
    filter("tcp_proxy", any(&proxy))
}

/// The chain that takes what the first bytes (or ALPN, within TLS) show to be HTTP.
fn detected<'a>(chain: &'a Chain, routes: &str, options: &HttpOptions) -> Part<'a> {
    let names: &[&str] = if chain.tls.is_some() {
        &TLS_HTTP
    } else {
        &PLAIN_HTTP
    };
    Part {
        chain,
        suffix: "",
        matches: ChainMatch {
            // A client hello that offers `http/1.1` is not plain HTTP.
            transport: chain
                .matches
                .transport
                .or(chain.tls.is_none().then_some(Transport::Plain)),
            application_protocols: names.iter().map(|name| (*name).to_owned()).collect(),
            ..chain.matches.clone()
        },
        filter: http(chain, routes, (HttpCodec::Auto, options), Client::Envoy),
        guarded: false,
    }
}

fn condition(from: &ChainMatch) -> listener::FilterChainMatch {
    listener::FilterChainMatch {
        destination_port: from.port.and_then(|port| u32_value(u32::from(port))),
        prefix_ranges: from.destinations.iter().map(range).collect(),
        server_names: from.server_names.clone(),
        transport_protocol: match from.transport {
            Some(Transport::Tls) => "tls",
            Some(Transport::Plain) => "raw_buffer",
            None => "",
        }
        .to_owned(),
        application_protocols: from.application_protocols.clone(),
        ..Default::default()
    }
}

pub(super) fn range(net: &IpNet) -> core::CidrRange {
    let address: IpAddr = net.addr();
    core::CidrRange {
        address_prefix: address.to_string(),
        prefix_len: u32_value(u32::from(net.prefix_len())),
    }
}

fn http(
    chain: &Chain,
    routes: &str,
    (codec, options): (HttpCodec, &HttpOptions),
    client: Client,
) -> listener::Filter {
    let mut manager = http::manager(prefix(&chain.name), routes, codec, options);
    let filters = chain.filters.iter().map(|filter| of(filter, client));
    manager.http_filters.splice(0..0, filters);
    manager.tracing = options
        .tracing
        .as_deref()
        .and_then(|from| tracing::encode(from, client));
    manager.access_log = sockets::logs(options.access_log.as_deref(), client);
    filter("http_connection_manager", any(&manager))
}

fn of(from: &HttpFilter, client: Client) -> hcm::HttpFilter {
    let (name, config) = http_filter::encode(from, client);
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn bytes(name: &str, clusters: &[(String, u32)], client: Client) -> tcp::TcpProxy {
    use tcp::tcp_proxy as options;
    let weighted: Vec<_> = clusters
        .iter()
        .filter(|(_, weight)| client == Client::Meshctl || *weight > 0)
        .map(|(name, weight)| options::weighted_cluster::ClusterWeight {
            name: name.clone(),
            weight: *weight,
            ..Default::default()
        })
        .collect();
    let specifier = match (client, &*weighted) {
        (Client::Envoy, []) => options::ClusterSpecifier::Cluster(NOWHERE.to_owned()),
        (Client::Envoy, [only]) => options::ClusterSpecifier::Cluster(only.name.clone()),
        _ => options::ClusterSpecifier::WeightedClusters(options::WeightedCluster {
            clusters: weighted,
        }),
    };
    tcp::TcpProxy {
        stat_prefix: prefix(name),
        cluster_specifier: Some(specifier),
        ..Default::default()
    }
}

pub(super) fn filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: format!("envoy.filters.network.{name}"),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

/// Envoy wants one that is not empty.
pub(super) fn prefix(name: &str) -> String {
    if name.is_empty() { "chain" } else { name }.to_owned()
}
