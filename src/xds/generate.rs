//! Arbitrary canonical views, for properties.

mod cluster;
mod credential;
mod ext_authz;
mod filter;
mod health;
mod http;
mod http2;
mod jwt_authn;
mod rbac;
mod origination;
mod route;
mod access_log;
mod tracing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use route::{operations, text_match};

use crate::mesh::filter::NetworkFilter;
use crate::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, Keepalive, ListenerOptions,
    ProxyProtocol, ServerTls, TcpOptions, Transport,
};
use crate::mesh::metrics::Change;
use crate::mesh::node::Application;
use crate::mesh::{Client, Listener, Locality, Node, NodeKind, RouteTable, View};

/// A sidecar of that kind.
pub(crate) fn node(client: Client) -> Node {
    let ip = IpAddr::from([127, 0, 0, 9]);
    Node {
        id: super::node::node_id(NodeKind::Sidecar, ip, "reviews-1", "prod"),
        client,
        kind: NodeKind::Sidecar,
        name: "reviews-1".to_owned(),
        namespace: "prod".to_owned(),
        service_account: "reviews".to_owned(),
        workload: "reviews-v1".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "reviews".to_owned())]),
        locality: Locality {
            region: "eu".to_owned(),
            ..Locality::default()
        },
        address: ip,
        outbound: SocketAddr::new(ip, 15001),
        inbound: SocketAddr::new(ip, 15006),
        transparent: false,
        applications: vec![Application {
            port: 9080,
            name: "http".to_owned(),
            bind: SocketAddr::new(ip, 9080),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9080),
            protocol: crate::mesh::Protocol::Auto,
        }],
    }
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,8}"
}

/// Anything a name or value may be, empty and foreign letters too.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![word(), Just(String::new()), "[ -~äß]{0,12}"]
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        any::<[u8; 16]>().prop_map(|b| IpAddr::V6(Ipv6Addr::from(b))),
    ]
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    (ip(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..100_000_u64, 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n))
}

fn positive() -> impl Strategy<Value = Duration> {
    duration().prop_map(|d| d + Duration::from_millis(1))
}

fn tcp_options() -> impl Strategy<Value = TcpOptions> {
    (
        duration(),
        any::<u32>(),
        option::of(positive()),
        any::<bool>(),
        tunnel(),
        access_log::logs(),
    )
        .prop_map(
            |(
                idle_timeout,
                max_connect_attempts,
                max_duration,
                hash_source_ip,
                tunnel,
                access_log,
            )| TcpOptions {
                idle_timeout,
                max_connect_attempts,
                max_duration,
                hash_source_ip,
                tunnel,
                access_log,
            },
        )
}

fn tunnel() -> impl Strategy<Value = Option<Arc<str>>> {
    let hosts = select(vec!["api.example.com", "192.0.2.1", "[2001:db8::1]"]);
    option::of((hosts, 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}").into()))
}

fn change() -> impl Strategy<Value = Change> {
    let names = vec(text(), 0..3);
    (option::of(text()), option::of(any::<bool>()), names).prop_map(
        |(metric, disabled, without)| Change {
            metric,
            disabled,
            without,
        },
    )
}

fn listener_options() -> impl Strategy<Value = ListenerOptions> {
    let number = || option::of(any::<u32>());
    let header = any::<[bool; 3]>().prop_map(|[optional, refuse_v1, refuse_v2]| ProxyProtocol {
        optional,
        refuse_v1,
        refuse_v2,
    });
    let keepalive = (number(), number(), number()).prop_map(|(probes, time, interval)| Keepalive {
        probes,
        time,
        interval,
    });
    (
        option::of(header),
        any::<bool>(),
        number(),
        option::of(keepalive),
        option::of(vec(change(), 0..3)),
    )
        .prop_map(
            |(proxy_protocol, close_undetected, backlog, keepalive, metrics)| ListenerOptions {
                metrics: metrics.map(Arc::new),
                proxy_protocol,
                close_undetected,
                backlog,
                keepalive,
            },
        )
}

/// What judges whoever connects.
fn guard() -> impl Strategy<Value = NetworkFilter> {
    prop_oneof![
        rbac::rbac().prop_map(|rules| NetworkFilter::Rbac(Arc::new(rules))),
        ext_authz::network().prop_map(|asks| NetworkFilter::ExtAuthz(Arc::new(asks))),
    ]
}

fn listener() -> impl Strategy<Value = Listener> {
    let net = (ip(), 0..=32_u8).prop_map(|(ip, length)| IpNet::new(ip, length).unwrap());
    let matches = (
        option::of(1..=u16::MAX),
        vec(net, 0..2),
        vec(word(), 0..2),
        option::of(select(vec![Transport::Tls, Transport::Plain])),
        vec(word(), 0..2),
    )
        .prop_map(
            |(port, destinations, server_names, transport, application_protocols)| ChainMatch {
                port,
                destinations,
                server_names,
                transport,
                application_protocols,
            },
        );
    let action = prop_oneof![
        (
            word(),
            select(vec![HttpCodec::Auto, HttpCodec::Http1, HttpCodec::Http2]),
            http::options(),
        )
            .prop_map(|(routes, codec, options)| ChainAction::Http {
                routes,
                codec,
                options: Arc::new(options),
            }),
        (word(), word(), tunnel(), http::options()).prop_map(
            |(routes, cluster, tunnel, options)| ChainAction::Detect {
                routes,
                cluster,
                tunnel,
                options: Arc::new(options),
            }
        ),
        (vec((word(), 0..100_u32), 0..3), tcp_options())
            .prop_map(|(clusters, options)| ChainAction::Tcp { clusters, options }),
    ];
    let chain = (
        text(),
        prop_oneof![Just(ChainMatch::default()), matches],
        option::of(
            (vec(word(), 0..3), option::of(credential::own())).prop_map(|(alpn, own)| ServerTls {
                alpn,
                own: own.map(Box::new),
            }),
        ),
        action,
        (
            (option::of(any::<u64>()), option::of(positive())),
            vec(filter::one(), 0..3),
            vec(guard(), 0..3),
        ),
    )
        .prop_map(
            |(name, matches, tls, action, (limits, filters, guards))| Chain {
                guards,
                name,
                matches,
                tls,
                // Bytes have none.
                filters: match action {
                    ChainAction::Tcp { .. } => Vec::new(),
                    _ => filters,
                },
                action,
                limits: ChainLimits {
                    max_connections: limits.0,
                    handshake_timeout: limits.1,
                },
            },
        )
        .boxed();
    (
        word(),
        socket(),
        select(vec![Direction::Inbound, Direction::Outbound]),
        any::<bool>(),
        vec(chain.clone(), 0..4),
        option::of(chain),
        duration(),
        listener_options(),
    )
        .prop_map(
            |(
                name,
                bind,
                direction,
                transparent,
                chains,
                default_chain,
                detect_timeout,
                options,
            )| {
                Listener {
                    name,
                    bind,
                    direction,
                    transparent,
                    chains,
                    default_chain,
                    detect_timeout,
                    options,
                }
            },
        )
}

/// Names of the secrets that listeners and clusters of `view` need.
fn named(view: &View) -> BTreeSet<String> {
    let listeners = view.listeners.values();
    let chains =
        listeners.flat_map(|listener| listener.chains.iter().chain(&listener.default_chain));
    let own = chains.filter_map(|chain| chain.tls.as_ref()?.own.as_deref());
    let clusters = view.clusters.values();
    let originations = clusters.filter_map(|cluster| cluster.origination.as_deref());
    let shown = originations.flat_map(crate::mesh::origination::Origination::secrets);
    let own = own.flat_map(crate::mesh::OwnTls::secrets);
    own.chain(shown).map(str::to_owned).collect()
}

/// Any table.
pub(crate) fn table() -> impl Strategy<Value = RouteTable> {
    route::table()
}

/// Any view that a world could give.
pub(crate) fn view() -> impl Strategy<Value = View> {
    (
        vec(listener(), 0..3),
        vec(route::table(), 0..3),
        vec(cluster::cluster(), 0..4),
        btree_map(word(), cluster::assignment(), 0..4),
        vec(credential::secret(), 1..3),
    )
        .prop_map(|(listeners, routes, clusters, endpoints, secrets)| {
            let mut view = View {
                listeners: listeners
                    .into_iter()
                    .map(|l| (l.name.clone(), Arc::new(l)))
                    .collect(),
                routes: routes
                    .into_iter()
                    .map(|r| (r.name.clone(), Arc::new(r)))
                    .collect(),
                clusters: clusters
                    .into_iter()
                    .map(|c| (c.name.clone(), Arc::new(c)))
                    .collect(),
                endpoints: endpoints
                    .into_iter()
                    .map(|(name, a)| (name, Arc::new(a)))
                    .collect(),
                ..View::default()
            };
            // Of two that have one name the last is in it. What nothing names is sent to nobody.
            let secrets = secrets.into_iter().map(Arc::new).cycle();
            view.secrets = named(&view).into_iter().zip(secrets).collect();
            view
        })
}
