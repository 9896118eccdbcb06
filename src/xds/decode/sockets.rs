//! What sockets and connections are like before and beside their protocol: PROXY headers,
//! keep-alive, limits.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use super::super::pb::{
    Any, ConnectionLimit, ProxyFilter, ProxySocket, cluster, core, hash_policy, is, listener, tcp,
};
use super::fields::Fields;
use super::{Fault, access_log, duration_or, unpack};
use crate::mesh::listener::{
    ChainLimits, Keepalive, ListenerOptions, ProxyProtocol, ProxyVersion, TcpOptions,
};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] =
    &[&TUNNEL, &PROXY_FILTER, &LIMIT, &PROXY_SOCKET, &PROXY_CONFIG];

const TUNNEL: Fields = Fields {
    message: "TcpProxy.TunnelingConfig",
    understood: &[(1, "hostname")],
    // Nothing here reads what they would be kept for.
    tuning: &[
        (4, "propagate_response_headers"),
        (6, "propagate_response_trailers"),
    ],
    refused: &[
        (2, "use_post"),
        (3, "headers_to_add"),
        (5, "post_path"),
        (7, "request_id_extension"),
        (8, "request_id_header"),
        (9, "request_id_metadata_key"),
        (10, "formatters"),
    ],
};
const PROXY_FILTER: Fields = Fields {
    message: "ProxyProtocol",
    understood: &[
        (2, "allow_requests_without_proxy_protocol"),
        (4, "disallowed_versions"),
    ],
    // What becomes of type-length-values: they have no effect here.
    tuning: &[
        (1, "rules"),
        (3, "pass_through_tlvs"),
        (5, "stat_prefix"),
        (6, "tlv_location"),
    ],
    refused: &[],
};
const LIMIT: Fields = Fields {
    message: "ConnectionLimit",
    understood: &[(1, "stat_prefix"), (2, "max_connections")],
    tuning: &[(3, "delay")],
    refused: &[(4, "runtime_enabled")],
};
const PROXY_SOCKET: Fields = Fields {
    message: "ProxyProtocolUpstreamTransport",
    understood: &[(1, "config"), (2, "transport_socket")],
    tuning: &[(3, "allow_unspecified_address"), (4, "tlv_as_pool_key")],
    refused: &[],
};
const PROXY_CONFIG: Fields = Fields {
    message: "ProxyProtocolConfig",
    understood: &[(1, "version")],
    tuning: &[(2, "pass_through_tlvs")],
    refused: &[(3, "added_tlvs")],
};

pub(super) fn listener(
    from: &listener::Listener,
    ignored: &mut Vec<String>,
) -> Result<ListenerOptions, Fault> {
    let mut options = ListenerOptions {
        proxy_protocol: None,
        close_undetected: !from.continue_on_listener_filters_timeout,
        backlog: from.tcp_backlog_size.as_ref().map(|size| size.value),
        keepalive: from.tcp_keepalive.as_ref().map(|keepalive| Keepalive {
            probes: keepalive.keepalive_probes.as_ref().map(|v| v.value),
            time: keepalive.keepalive_time.as_ref().map(|v| v.value),
            interval: keepalive.keepalive_interval.as_ref().map(|v| v.value),
        }),
        metrics: None,
    };
    for option in &from.socket_options {
        socket_option(option, &mut options)?;
    }
    for filter in &from.listener_filters {
        if let Some(listener::listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type
            && is::<ProxyFilter>(any)
        {
            options.proxy_protocol = Some(proxy_filter(any, ignored)?);
        }
    }
    Ok(options)
}

/// Linux's numbers, as everyone writes them in patches of Istio's listeners: those of keep-alive
/// are understood, any other may mean anything.
fn socket_option(from: &core::SocketOption, to: &mut ListenerOptions) -> Result<(), Fault> {
    let value = match from.value {
        Some(core::socket_option::Value::IntValue(value)) => u32::try_from(value).ok(),
        _ => None,
    };
    let keepalive = to.keepalive.get_or_insert_default();
    match (from.level, from.name, value) {
        // SO_KEEPALIVE
        (1, 9, Some(1)) => {}
        (1, 9, Some(0)) => to.keepalive = None,
        // TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT
        (6, 4, Some(seconds)) => keepalive.time = Some(seconds),
        (6, 5, Some(seconds)) => keepalive.interval = Some(seconds),
        (6, 6, Some(probes)) => keepalive.probes = Some(probes),
        (level, name, _) => {
            return Err(Fault::Unsupported {
                message: "Listener",
                field: format!("socket_options level {level} name {name}"),
            });
        }
    }
    Ok(())
}

fn proxy_filter(from: &Any, ignored: &mut Vec<String>) -> Result<ProxyProtocol, Fault> {
    let from: ProxyFilter = unpack(from)?;
    PROXY_FILTER.audit(&from, ignored)?;
    let mut to = ProxyProtocol {
        optional: from.allow_requests_without_proxy_protocol,
        ..ProxyProtocol::default()
    };
    for refused in from.disallowed_versions {
        match version(refused)? {
            ProxyVersion::V1 => to.refuse_v1 = true,
            ProxyVersion::V2 => to.refuse_v2 = true,
        }
    }
    Ok(to)
}

fn version(from: i32) -> Result<ProxyVersion, Fault> {
    use core::proxy_protocol_config::Version;
    match Version::try_from(from) {
        Ok(Version::V1) => Ok(ProxyVersion::V1),
        Ok(Version::V2) => Ok(ProxyVersion::V2),
        Err(_) => Err(Fault::Invalid(format!(
            "there is no version {from} of the PROXY protocol"
        ))),
    }
}

/// The limits of a chain, and the filters that are left.
pub(super) fn chain<'f>(
    from: &'f listener::FilterChain,
    ignored: &mut Vec<String>,
) -> Result<(ChainLimits, &'f [listener::Filter]), Fault> {
    let timeout = duration_or(
        "transport_socket_connect_timeout",
        from.transport_socket_connect_timeout.as_ref(),
        Duration::ZERO,
    )?;
    let mut limits = ChainLimits {
        max_connections: None,
        handshake_timeout: (!timeout.is_zero()).then_some(timeout),
    };
    let mut filters = &*from.filters;
    while let [first, rest @ ..] = filters
        && let Some(listener::filter::ConfigType::TypedConfig(any)) = &first.config_type
        && is::<ConnectionLimit>(any)
    {
        let limit: ConnectionLimit = unpack(any)?;
        LIMIT.audit(&limit, ignored)?;
        let most = limit.max_connections.map_or(0, |most| most.value);
        limits.max_connections = Some(limits.max_connections.map_or(most, |own| own.min(most)));
        filters = rest;
    }
    Ok((limits, filters))
}

pub(super) fn tcp(from: &tcp::TcpProxy, ignored: &mut Vec<String>) -> Result<TcpOptions, Fault> {
    use hash_policy::PolicySpecifier;
    let default = TcpOptions::default();
    let mut hash_source_ip = false;
    for policy in &from.hash_policy {
        match &policy.policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => hash_source_ip = true,
            Some(PolicySpecifier::FilterState(_)) | None => {
                return Err(Fault::Unsupported {
                    message: "TcpProxy",
                    field: "hash_policy other than source_ip".to_owned(),
                });
            }
        }
    }
    Ok(TcpOptions {
        idle_timeout: duration_or(
            "idle_timeout",
            from.idle_timeout.as_ref(),
            default.idle_timeout,
        )?,
        max_connect_attempts: from
            .max_connect_attempts
            .as_ref()
            .map_or(default.max_connect_attempts, |attempts| attempts.value),
        max_duration: from
            .max_downstream_connection_duration
            .as_ref()
            .map(|most| {
                duration_or(
                    "max_downstream_connection_duration",
                    Some(most),
                    Duration::ZERO,
                )
            })
            .transpose()?,
        hash_source_ip,
        tunnel: from
            .tunneling_config
            .as_ref()
            .map(|from| {
                TUNNEL.audit(from, ignored)?;
                authority(&from.hostname)
            })
            .transpose()?,
        access_log: (!from.access_log.is_empty())
            .then(|| access_log::decode(&from.access_log, ignored))
            .map(Arc::new),
    })
}

/// A host and a port, as CONNECT asks for them. What Envoy would put together of the connection is
/// refused, as is what would be more than that on the wire.
pub(super) fn authority(text: &str) -> Result<Arc<str>, Fault> {
    if text.contains('%') {
        return Err(Fault::Unsupported {
            message: TUNNEL.message,
            field: format!("command in hostname {text:?}"),
        });
    }
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let named = !host.is_empty() && host.chars().all(plain);
    let known = named || (host.starts_with('[') && bare.parse::<Ipv6Addr>().is_ok());
    match port.parse::<u16>() {
        Ok(1..) if known => Ok(text.into()),
        _ => Err(Fault::Invalid(format!(
            "tunneling_config asks for {text:?}, which is no host and port"
        ))),
    }
}

/// `from` without the PROXY headers that its sockets put in front, and which those are. All must
/// say the same.
pub(super) fn introduced<'c>(
    from: &'c cluster::Cluster,
    ignored: &mut Vec<String>,
) -> Result<(Cow<'c, cluster::Cluster>, Option<ProxyVersion>), Fault> {
    let sockets = || {
        from.transport_socket.iter().chain(
            from.transport_socket_matches
                .iter()
                .filter_map(|choice| choice.transport_socket.as_ref()),
        )
    };
    if !sockets().any(|socket| wrapped(socket).is_some()) {
        return Ok((Cow::Borrowed(from), None));
    }
    let mut to = from.clone();
    let mut found = None;
    let choices = to
        .transport_socket_matches
        .iter_mut()
        .filter_map(|choice| choice.transport_socket.as_mut());
    for socket in to.transport_socket.iter_mut().chain(choices) {
        let unlike = || Fault::Unsupported {
            message: "Cluster",
            field: "transport sockets with and without the PROXY protocol".to_owned(),
        };
        let outer: ProxySocket = unpack(wrapped(socket).ok_or_else(unlike)?)?;
        PROXY_SOCKET.audit(&outer, ignored)?;
        let config = outer.config.unwrap_or_default();
        PROXY_CONFIG.audit(&config, ignored)?;
        let version = version(config.version)?;
        if found.is_some_and(|other| other != version) {
            return Err(unlike());
        }
        found = Some(version);
        *socket = outer.transport_socket.unwrap_or_default();
    }
    Ok((Cow::Owned(to), found))
}

fn wrapped(socket: &core::TransportSocket) -> Option<&Any> {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) if is::<ProxySocket>(any) => {
            Some(any)
        }
        _ => None,
    }
}
