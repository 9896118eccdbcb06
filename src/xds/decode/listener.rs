//! Listeners and their chains.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::super::pb::{
    Any, HttpInspector, OriginalDst, ProxyFilter, TlsInspector, core, hcm, is, listener,
    network_ext_authz, rbac as pb_rbac, tcp, value,
};
use super::super::structs::{MESHCTL, as_bool, as_list, as_object, as_struct, as_text, part};
use super::fields::Fields;
use super::{Fault, duration_or, ext_authz, http, mtls, rbac, sockets, unpack};
use crate::mesh::filter::NetworkFilter;
use crate::mesh::listener::{
    Chain, ChainAction, ChainMatch, Direction, ListenerOptions, Transport,
};
use crate::mesh::metrics::Change;
use crate::mesh::{Listener, RouteTable};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&LISTENER, &CHAIN, &MATCH, &TCP];

const LISTENER: Fields = Fields {
    message: "Listener",
    understood: &[
        (1, "name"),
        (2, "address"),
        (3, "filter_chains"),
        (6, "metadata"),
        (9, "listener_filters"),
        (13, "socket_options"),
        (15, "listener_filters_timeout"),
        (16, "traffic_direction"),
        (17, "continue_on_listener_filters_timeout"),
        (24, "tcp_backlog_size"),
        (25, "default_filter_chain"),
        (37, "tcp_keepalive"),
    ],
    tuning: &[
        (5, "per_connection_buffer_limit_bytes"),
        (8, "drain_type"),
        (12, "tcp_fast_open_queue_length"),
        (20, "connection_balance_config"),
        (21, "reuse_port"),
        (22, "access_log"),
        (28, "stat_prefix"),
        (29, "enable_reuse_port"),
        (30, "enable_mptcp"),
        (31, "ignore_global_conn_limit"),
        (34, "max_connections_to_accept_per_socket_event"),
        (35, "bypass_overload_manager"),
        (38, "per_connection_buffer_high_watermark_timeout"),
        (39, "stats_matcher"),
    ],
    refused: &[
        (4, "use_original_dst"),
        (10, "transparent"),
        (11, "freebind"),
        (18, "udp_listener_config"),
        (19, "api_listener"),
        (26, "bind_to_port"),
        (27, "internal_listener"),
        (32, "filter_chain_matcher"),
        (33, "additional_addresses"),
        (36, "fcds_config"),
    ],
};
const CHAIN: Fields = Fields {
    message: "FilterChain",
    understood: &[
        (1, "filter_chain_match"),
        (3, "filters"),
        (5, "metadata"),
        (6, "transport_socket"),
        (7, "name"),
        (9, "transport_socket_connect_timeout"),
    ],
    tuning: &[],
    refused: &[(4, "use_proxy_proto")],
};
const MATCH: Fields = Fields {
    message: "FilterChainMatch",
    understood: &[
        (3, "prefix_ranges"),
        (8, "destination_port"),
        (9, "transport_protocol"),
        (10, "application_protocols"),
        (11, "server_names"),
    ],
    tuning: &[],
    refused: &[
        (4, "address_suffix"),
        (5, "suffix_len"),
        (6, "source_prefix_ranges"),
        (7, "source_ports"),
        (12, "source_type"),
        (13, "direct_source_prefix_ranges"),
    ],
};
const TCP: Fields = Fields {
    message: "TcpProxy",
    understood: &[
        (1, "stat_prefix"),
        (2, "cluster"),
        (5, "access_log"),
        (7, "max_connect_attempts"),
        (8, "idle_timeout"),
        (10, "weighted_clusters"),
        (11, "hash_policy"),
        (12, "tunneling_config"),
        (13, "max_downstream_connection_duration"),
    ],
    tuning: &[
        (3, "downstream_idle_timeout"),
        (4, "upstream_idle_timeout"),
        (15, "access_log_flush_interval"),
        (16, "flush_access_log_on_connected"),
        (17, "access_log_options"),
        (18, "backoff_options"),
        (20, "max_downstream_connection_duration_jitter_percentage"),
        (24, "check_drain_close"),
    ],
    refused: &[
        (9, "metadata_match"),
        (14, "on_demand"),
        (19, "proxy_protocol_tlvs"),
        (21, "upstream_connect_mode"),
    ],
};

pub(super) fn decode(
    from: &listener::Listener,
    ignored: &mut Vec<String>,
) -> Result<(Listener, Vec<Arc<RouteTable>>), Fault> {
    LISTENER.audit(from, ignored)?;
    let mut tables = Vec::new();
    let bind = super::super::pb::to_address(from.address.as_ref())
        .ok_or_else(|| Fault::Invalid("address is not an IP address and a port".to_owned()))?;
    let direction = match core::TrafficDirection::try_from(from.traffic_direction) {
        Ok(core::TrafficDirection::Inbound) => Direction::Inbound,
        _ => Direction::Outbound,
    };
    let mut one = |chain| chain_of(chain, &mut tables, ignored);
    let chains = from
        .filter_chains
        .iter()
        .map(&mut one)
        .collect::<Result<_, _>>()?;
    let default_chain = from
        .default_filter_chain
        .as_ref()
        .map(&mut one)
        .transpose()?;
    let listener = Listener {
        name: from.name.clone(),
        bind,
        direction,
        transparent: inspected(from)?,
        chains,
        default_chain,
        // Envoy's default.
        detect_timeout: duration_or(
            "listener_filters_timeout",
            from.listener_filters_timeout.as_ref(),
            Duration::from_secs(15),
        )?,
        options: ListenerOptions {
            metrics: metrics(from),
            ..sockets::listener(from, ignored)?
        },
    };
    Ok((listener, tables))
}

/// What is told of metrics otherwise than usual. What others write there is for themselves.
fn metrics(from: &listener::Listener) -> Option<Arc<Vec<Change>>> {
    let fields = part(from.metadata.as_ref(), MESHCTL)?;
    let changes = as_list(fields, "metrics")?.iter().filter_map(as_struct);
    let changes = changes.map(|change| Change {
        metric: as_text(change, "metric"),
        disabled: as_bool(change, "disabled"),
        without: as_list(change, "without")
            .unwrap_or_default()
            .iter()
            .filter_map(|value| match &value.kind {
                Some(value::Kind::StringValue(text)) => Some(text.clone()),
                _ => None,
            })
            .collect(),
    });
    Some(Arc::new(changes.collect()))
}

/// Whether connections are redirected here. A filter that is not known may change who the caller
/// seems to be, so it is refused.
fn inspected(from: &listener::Listener) -> Result<bool, Fault> {
    let mut transparent = false;
    for filter in &from.listener_filters {
        match &filter.config_type {
            Some(listener::listener_filter::ConfigType::TypedConfig(any))
                if is::<OriginalDst>(any) =>
            {
                transparent = true;
            }
            Some(listener::listener_filter::ConfigType::TypedConfig(any))
                if is::<TlsInspector>(any)
                    || is::<HttpInspector>(any)
                    || is::<ProxyFilter>(any) => {}
            _ => {
                return Err(Fault::Unsupported {
                    message: "Listener",
                    field: format!("listener filter {:?}", filter.name),
                });
            }
        }
    }
    Ok(transparent)
}

fn chain_of(
    from: &listener::FilterChain,
    tables: &mut Vec<Arc<RouteTable>>,
    ignored: &mut Vec<String>,
) -> Result<Chain, Fault> {
    CHAIN.audit(from, ignored)?;
    let tls = match &from.transport_socket {
        Some(socket) if !mtls::is_raw(Some(socket)) => Some(mtls::server(socket, ignored)?),
        _ => None,
    };
    let (limits, filters) = sockets::chain(from, ignored)?;
    let (guards, filters) = guards(filters, ignored)?;
    let [filter] = filters else {
        return Err(Fault::Unsupported {
            message: "FilterChain",
            field: format!(
                "filters {:?}",
                filters.iter().map(|f| &f.name).collect::<Vec<_>>()
            ),
        });
    };
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
        return Err(unknown(filter));
    };
    let detect = part(from.metadata.as_ref(), MESHCTL)
        .and_then(|fields| as_object(fields, "detect"))
        .and_then(|fields| Some((as_text(fields, "cluster")?, as_text(fields, "tunnel"))));
    let mut filters = Vec::new();
    let action = if is::<hcm::HttpConnectionManager>(config) {
        let http = http::decode(config, tables, ignored)?;
        let (routes, codec) = (http.routes, http.codec);
        let options = Arc::new(http.options);
        filters = http.filters;
        match detect {
            Some((cluster, tunnel)) => ChainAction::Detect {
                routes,
                cluster,
                tunnel: tunnel.as_deref().map(sockets::authority).transpose()?,
                options,
            },
            None => ChainAction::Http {
                routes,
                codec,
                options,
            },
        }
    } else if is::<tcp::TcpProxy>(config) {
        bytes(config, ignored)?
    } else {
        return Err(unknown(filter));
    };
    Ok(Chain {
        name: from.name.clone(),
        matches: from
            .filter_chain_match
            .as_ref()
            .map(|from| condition(from, ignored))
            .transpose()?
            .unwrap_or_default(),
        tls,
        action,
        limits,
        filters,
        guards,
    })
}

/// Who may connect, and what is behind that.
fn guards<'f>(
    mut filters: &'f [listener::Filter],
    ignored: &mut Vec<String>,
) -> Result<(Vec<NetworkFilter>, &'f [listener::Filter]), Fault> {
    let mut guards = Vec::new();
    while let [first, rest @ ..] = filters
        && let Some(listener::filter::ConfigType::TypedConfig(any)) = &first.config_type
    {
        guards.push(if is::<pb_rbac::network::Rbac>(any) {
            NetworkFilter::Rbac(Arc::new(rbac::network(&unpack(any)?, ignored)?))
        } else if is::<network_ext_authz::ExtAuthz>(any) {
            NetworkFilter::ExtAuthz(Arc::new(ext_authz::network(&unpack(any)?, ignored)?))
        } else {
            break;
        });
        filters = rest;
    }
    Ok((guards, filters))
}

fn unknown(filter: &listener::Filter) -> Fault {
    Fault::Unsupported {
        message: "FilterChain",
        field: format!("filter {:?}", filter.name),
    }
}

fn condition(
    from: &listener::FilterChainMatch,
    ignored: &mut Vec<String>,
) -> Result<ChainMatch, Fault> {
    MATCH.audit(from, ignored)?;
    let port = from
        .destination_port
        .as_ref()
        .map(|port| u16::try_from(port.value))
        .transpose()
        .map_err(|_| Fault::Invalid("destination_port is not a port".to_owned()))?;
    Ok(ChainMatch {
        port,
        destinations: from
            .prefix_ranges
            .iter()
            .map(range)
            .collect::<Option<_>>()
            .ok_or_else(|| Fault::Invalid("prefix_ranges has no IP network".to_owned()))?,
        server_names: from.server_names.clone(),
        transport: match from.transport_protocol.as_str() {
            "" => None,
            "tls" => Some(Transport::Tls),
            "raw_buffer" => Some(Transport::Plain),
            other => {
                return Err(Fault::Unsupported {
                    message: "FilterChainMatch",
                    field: format!("transport_protocol {other:?}"),
                });
            }
        },
        application_protocols: from.application_protocols.clone(),
    })
}

pub(super) fn range(from: &core::CidrRange) -> Option<IpNet> {
    let length = from.prefix_len.as_ref().map_or(0, |length| length.value);
    IpNet::new(
        from.address_prefix.parse().ok()?,
        u8::try_from(length).ok()?,
    )
    .ok()
}

fn bytes(config: &Any, ignored: &mut Vec<String>) -> Result<ChainAction, Fault> {
    use tcp::tcp_proxy::ClusterSpecifier;
    let proxy: tcp::TcpProxy = unpack(config)?;
    TCP.audit(&proxy, ignored)?;
    let options = sockets::tcp(&proxy, ignored)?;
    let clusters = match proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name, 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .into_iter()
            .map(|to| match to.metadata_match {
                None => Ok((to.name, to.weight)),
                Some(_) => Err(Fault::Unsupported {
                    message: "TcpProxy.WeightedCluster",
                    field: "metadata_match".to_owned(),
                }),
            })
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(ChainAction::Tcp { clusters, options })
}
