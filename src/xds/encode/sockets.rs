//! What sockets and connections are like before and beside their protocol: PROXY headers,
//! keep-alive, limits.

use super::super::pb::{
    Any, ConnectionLimit, HashPolicy, ProxyFilter, ProxySocket, UInt64Value, any, cluster, core,
    duration, hash_policy, listener, tcp, u32_value,
};
use super::{access_log, mtls};
use crate::mesh::Client;
use crate::mesh::access_log::Logger;
use crate::mesh::listener::{
    ChainLimits, Keepalive, ListenerOptions, ProxyProtocol, ProxyVersion, TcpOptions,
};

pub(super) fn listener(from: &ListenerOptions, to: &mut listener::Listener) {
    to.continue_on_listener_filters_timeout = !from.close_undetected;
    to.tcp_backlog_size = from.backlog.and_then(u32_value);
    to.tcp_keepalive = from.keepalive.map(
        |Keepalive {
             probes,
             time,
             interval,
         }| core::TcpKeepalive {
            keepalive_probes: probes.and_then(u32_value),
            keepalive_time: time.and_then(u32_value),
            keepalive_interval: interval.and_then(u32_value),
        },
    );
}

/// Where the application is called from, which capture leaves alone; see `net::capture`.
pub(super) fn inward() -> core::BindConfig {
    let at = |ip: std::net::IpAddr| core::SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    core::BindConfig {
        source_address: Some(at([127, 0, 0, 6].into())),
        extra_source_addresses: vec![core::ExtraSourceAddress {
            address: Some(at([0, 0, 0, 0, 0, 0, 0, 6_u16].into())),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The listener filter that reads a PROXY header.
pub(super) fn proxy_filter(from: ProxyProtocol) -> Any {
    let refused = [
        (from.refuse_v1, ProxyVersion::V1),
        (from.refuse_v2, ProxyVersion::V2),
    ];
    any(&ProxyFilter {
        allow_requests_without_proxy_protocol: from.optional,
        disallowed_versions: refused
            .into_iter()
            .filter(|(refused, _)| *refused)
            .map(|(_, form)| version(form))
            .collect(),
        ..Default::default()
    })
}

fn version(version: ProxyVersion) -> i32 {
    use core::proxy_protocol_config::Version;
    match version {
        ProxyVersion::V1 => Version::V1,
        ProxyVersion::V2 => Version::V2,
    }
    .into()
}

pub(super) fn chain(from: &ChainLimits, to: &mut listener::FilterChain, client: Client) {
    to.transport_socket_connect_timeout = from.handshake_timeout.and_then(duration);
    if let Some(most) = from.max_connections {
        // Envoy wants at least one.
        let value = if client == Client::Envoy {
            most.max(1)
        } else {
            most
        };
        let limit = ConnectionLimit {
            stat_prefix: super::listener::prefix(&to.name),
            max_connections: Some(UInt64Value { value }),
            ..Default::default()
        };
        to.filters
            .insert(0, super::listener::filter("connection_limit", any(&limit)));
    }
}

pub(super) fn tcp(from: &TcpOptions, to: &mut tcp::TcpProxy, client: Client) {
    to.access_log = logs(from.access_log.as_deref(), client);
    to.idle_timeout = duration(from.idle_timeout);
    to.max_connect_attempts = (from.max_connect_attempts != 1)
        .then_some(from.max_connect_attempts)
        .and_then(u32_value);
    to.max_downstream_connection_duration = from.max_duration.and_then(duration);
    to.hash_policy = from
        .hash_source_ip
        .then_some(HashPolicy {
            policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(
                hash_policy::SourceIp {},
            )),
        })
        .into_iter()
        .collect();
    to.tunneling_config = from.tunnel.as_deref().map(tunnel);
}

/// Logs of connections.
pub(super) fn logs(
    from: Option<&Vec<Logger>>,
    client: Client,
) -> Vec<super::super::pb::access_log::AccessLog> {
    let logs = from.into_iter().flatten();
    logs.map(|log| access_log::encode(log, client)).collect()
}

/// Asks the endpoint, a forward proxy, for `host` and port. Envoy reads commands behind a `%`, which is
/// in no name.
pub(super) fn tunnel(to: &str) -> tcp::tcp_proxy::TunnelingConfig {
    tcp::tcp_proxy::TunnelingConfig {
        hostname: to.to_owned(),
        ..Default::default()
    }
}

/// Puts a PROXY header in front of whatever a cluster's connections speak.
pub(super) fn introduce(form: ProxyVersion, to: &mut cluster::Cluster) {
    let wrap = |inner: Option<core::TransportSocket>| core::TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(
            &ProxySocket {
                config: Some(core::ProxyProtocolConfig {
                    version: version(form),
                    ..Default::default()
                }),
                transport_socket: Some(inner.unwrap_or_else(mtls::raw)),
                ..Default::default()
            },
        ))),
    };
    to.transport_socket = Some(wrap(to.transport_socket.take()));
    for choice in &mut to.transport_socket_matches {
        choice.transport_socket = Some(wrap(choice.transport_socket.take()));
    }
}
