//! Clusters.

use std::sync::Arc;
use std::time::Duration;

use super::super::pb::{HTTP_PROTOCOL_OPTIONS, cluster, core, is_ads, upstream};
use super::super::structs::{ISTIO, as_list, as_number, as_struct, as_text, part};
use super::fields::Fields;
use super::limits::limits;
use super::{
    Fault, Members, balancing, dns, duration_or, endpoint, health, http2, mtls, origination,
    sockets, unpack,
};
use crate::mesh::cluster::{ClientTls, ServiceRef, UpstreamProtocol};
use crate::mesh::http2::Http2Options;
use crate::mesh::origination::Origination;
use crate::mesh::{Assignment, Cluster, ClusterKind, Endpoint};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&CLUSTER, &OPTIONS];

const CLUSTER: Fields = Fields {
    message: "Cluster",
    understood: &[
        (1, "name"),
        (2, "type"),
        (3, "eds_cluster_config"),
        (4, "connect_timeout"),
        (6, "lb_policy"),
        (8, "health_checks"),
        (10, "circuit_breakers"),
        (16, "dns_refresh_rate"),
        (17, "dns_lookup_family"),
        (19, "outlier_detection"),
        (23, "ring_hash_lb_config"),
        (24, "transport_socket"),
        (25, "metadata"),
        (27, "common_lb_config"),
        (31, "close_connections_on_host_health_failure"),
        (32, "ignore_health_on_host_removal"),
        (33, "load_assignment"),
        (36, "typed_extension_protocol_options"),
        (37, "least_request_lb_config"),
        (39, "respect_dns_ttl"),
        (41, "load_balancing_policy"),
        (43, "transport_socket_matches"),
        (44, "dns_failure_refresh_rate"),
        (52, "maglev_lb_config"),
        (56, "round_robin_lb_config"),
        (58, "dns_jitter"),
    ],
    tuning: &[
        (5, "per_connection_buffer_limit_bytes"),
        (20, "cleanup_interval"),
        (28, "alt_stat_name"),
        (30, "upstream_connection_options"),
        (42, "lrs_server"),
        (47, "track_timeout_budgets"),
        (49, "track_cluster_stats"),
        (50, "preconnect_policy"),
        (54, "wait_for_warm_on_init"),
        (57, "lrs_report_endpoint_metrics"),
        (60, "per_connection_buffer_high_watermark_timeout"),
        (61, "stats_matcher"),
        (62, "queuing_policies"),
    ],
    refused: &[
        (9, "max_requests_per_connection"),
        (13, "http_protocol_options"),
        (14, "http2_protocol_options"),
        (18, "dns_resolvers"),
        (21, "upstream_bind_config"),
        (22, "lb_subset_config"),
        (26, "protocol_selection"),
        (29, "common_http_protocol_options"),
        (34, "original_dst_lb_config"),
        (38, "cluster_type"),
        (40, "filters"),
        (45, "use_tcp_for_dns_lookups"),
        (46, "upstream_http_protocol_options"),
        (48, "upstream_config"),
        (53, "dns_resolution_config"),
        (55, "typed_dns_resolver_config"),
        (51, "connection_pool_per_downstream_connection"),
        (59, "transport_socket_matcher"),
    ],
};
const OPTIONS: Fields = Fields {
    message: "HttpProtocolOptions",
    understood: &[
        (1, "common_http_protocol_options"),
        (3, "explicit_http_config"),
        (4, "use_downstream_protocol_config"),
        (5, "auto_config"),
        (2, "upstream_http_protocol_options"),
    ],
    tuning: &[(8, "outlier_detection")],
    refused: &[
        (6, "http_filters"),
        (7, "header_validation_config"),
        (9, "request_mirror_policies"),
        (10, "hash_policy"),
        (11, "retry_policy"),
    ],
};

pub(super) fn decode(
    from: &cluster::Cluster,
    ignored: &mut Vec<String>,
) -> Result<(Cluster, Members), Fault> {
    CLUSTER.audit(from, ignored)?;
    let (from, proxy_protocol) = sockets::introduced(from, ignored)?;
    let from = &*from;
    let (kind, members) = kind(from, ignored)?;
    let ((protocol, http2), max_requests_per_connection) = protocol(from, ignored)?;
    let original = kind == ClusterKind::OriginalDestination;
    let (load_balancer, balancing) = balancing::decode(from, original, ignored)?;
    let (tls, origination) = security(from, ignored)?;
    Ok((
        Cluster {
            name: from.name.clone(),
            service: service(from),
            load_balancer,
            balancing,
            protocol,
            http2,
            tls,
            origination,
            // Envoy's default; Istio always says its own.
            connect_timeout: duration_or(
                "connect_timeout",
                from.connect_timeout.as_ref(),
                Duration::from_secs(5),
            )?,
            limits: limits(from, max_requests_per_connection, ignored)?,
            outlier: health::outlier(from, ignored)?,
            health_check: health::check(from, ignored)?,
            proxy_protocol,
            kind,
        },
        members,
    ))
}

fn kind(
    from: &cluster::Cluster,
    ignored: &mut Vec<String>,
) -> Result<(ClusterKind, Members), Fault> {
    use cluster::cluster::{ClusterDiscoveryType as Specifier, DiscoveryType};
    let unsupported = |field: &str| {
        Err(Fault::Unsupported {
            message: "Cluster",
            field: field.to_owned(),
        })
    };
    let discovery = match &from.cluster_discovery_type {
        Some(Specifier::Type(kind)) => DiscoveryType::try_from(*kind).ok(),
        Some(Specifier::ClusterType(custom)) => {
            return unsupported(&format!("cluster_type {:?}", custom.name));
        }
        None => Some(DiscoveryType::Static),
    };
    match discovery {
        Some(DiscoveryType::Eds) => {
            let eds = from.eds_cluster_config.clone().unwrap_or_default();
            if !is_ads(eds.eds_config.as_ref()) {
                return unsupported("eds_config other than ADS");
            }
            let name = if eds.service_name.is_empty() {
                from.name.clone()
            } else {
                eds.service_name
            };
            Ok((ClusterKind::Discovered, Members::Named(name)))
        }
        Some(DiscoveryType::Static) => {
            let assignment = from.load_assignment.clone().unwrap_or_default();
            let order: Vec<_> = assignment
                .endpoints
                .iter()
                .flat_map(|group| &group.lb_endpoints)
                .filter_map(|member| match &member.host_identifier {
                    Some(super::super::pb::endpoint::lb_endpoint::HostIdentifier::Endpoint(at)) => {
                        super::super::pb::to_address(at.address.as_ref())
                    }
                    _ => None,
                })
                .collect();
            let full = endpoint::decode(assignment, ignored)?;
            // Where there is one locality its weight is no question.
            let plain = Assignment {
                endpoints: full.endpoints.clone(),
                locality_weights: full.locality_weights.clone(),
                ..Assignment::default()
            };
            if full == plain && full.endpoints.iter().all(is_plain) {
                Ok((ClusterKind::Static(order), Members::Own))
            } else {
                Ok((ClusterKind::Discovered, Members::Inline(Arc::new(full))))
            }
        }
        Some(DiscoveryType::OriginalDst) => Ok((ClusterKind::OriginalDestination, Members::Own)),
        Some(found @ (DiscoveryType::StrictDns | DiscoveryType::LogicalDns)) => {
            let names = dns::decode(from, found == DiscoveryType::LogicalDns, ignored)?;
            Ok((ClusterKind::Dns(Box::new(names)), Members::Own))
        }
        None => unsupported("type"),
    }
}

/// An endpoint that is nothing but an address.
fn is_plain(endpoint: &Endpoint) -> bool {
    *endpoint == Endpoint::at(endpoint.address)
}

fn protocol(
    from: &cluster::Cluster,
    ignored: &mut Vec<String>,
) -> Result<((UpstreamProtocol, Http2Options), u32), Fault> {
    use options::UpstreamProtocolOptions as Choice;
    use options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options as options;
    let extensions = from.typed_extension_protocol_options.keys();
    // The first by name: whoever is told of one at a time is to be told the same each time.
    if let Some(name) = extensions
        .filter(|name| *name != HTTP_PROTOCOL_OPTIONS)
        .min()
    {
        return Err(Fault::Unsupported {
            message: "Cluster",
            field: format!("typed_extension_protocol_options {name:?}"),
        });
    }
    let Some(config) = from
        .typed_extension_protocol_options
        .get(HTTP_PROTOCOL_OPTIONS)
    else {
        return Ok(((UpstreamProtocol::Http1, Http2Options::default()), 0));
    };
    let config: upstream::HttpProtocolOptions = unpack(config)?;
    OPTIONS.audit(&config, ignored)?;
    let mut spoken = |protocol, options: Option<&core::Http2ProtocolOptions>| {
        Ok::<_, Fault>((protocol, http2::options(options, ignored)?))
    };
    let protocol = match &config.upstream_protocol_options {
        None => spoken(UpstreamProtocol::Http1, None)?,
        Some(Choice::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            None | Some(ProtocolConfig::HttpProtocolOptions(_)) => {
                spoken(UpstreamProtocol::Http1, None)?
            }
            Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                spoken(UpstreamProtocol::Http2, Some(options))?
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(Fault::Unsupported {
                    message: "HttpProtocolOptions",
                    field: "http3_protocol_options".to_owned(),
                });
            }
        },
        Some(Choice::UseDownstreamProtocolConfig(both)) => spoken(
            UpstreamProtocol::Downstream,
            both.http2_protocol_options.as_ref(),
        )?,
        Some(Choice::AutoConfig(auto)) => {
            if auto.http3_protocol_options.is_some() {
                return Err(Fault::Unsupported {
                    message: "HttpProtocolOptions",
                    field: "auto_config.http3_protocol_options".to_owned(),
                });
            }
            let options = auto.http2_protocol_options.as_ref();
            spoken(UpstreamProtocol::Negotiated, options)?
        }
    };
    let most = config
        .common_http_protocol_options
        .and_then(|common| common.max_requests_per_connection)
        .map_or(0, |most| most.value);
    Ok((protocol, most))
}

/// The mesh's TLS, or another's.
type Secured = (Option<ClientTls>, Option<Box<Origination>>);

/// mTLS for endpoints that say so, or for all; or TLS for all that is not the mesh's. Any other
/// arrangement is refused.
fn security(from: &cluster::Cluster, ignored: &mut Vec<String>) -> Result<Secured, Fault> {
    let http = from
        .typed_extension_protocol_options
        .get(HTTP_PROTOCOL_OPTIONS);
    let http: Option<upstream::HttpProtocolOptions> = http.map(unpack).transpose()?;
    if from.transport_socket_matches.is_empty()
        && let Some(socket) = &from.transport_socket
        && !mtls::is_raw(Some(socket))
    {
        let (context, outside) = mtls::upstream(socket, ignored)?;
        if outside {
            let found = origination::decode(context, http.as_ref(), ignored)?;
            return Ok((None, Some(Box::new(found))));
        }
        ignore_names(http.as_ref(), ignored);
        let found = ClientTls {
            required: true,
            ..mtls::client(context, ignored)?
        };
        return Ok((Some(found), None));
    }
    ignore_names(http.as_ref(), ignored);
    Ok((matched(from, ignored)?, None))
}

/// Peers of the mesh are not asked for by the names of hosts.
fn ignore_names(http: Option<&upstream::HttpProtocolOptions>, ignored: &mut Vec<String>) {
    if http.is_some_and(|http| http.upstream_http_protocol_options.is_some()) {
        ignored.push(format!(
            "{}.upstream_http_protocol_options",
            OPTIONS.message
        ));
    }
}

fn matched(from: &cluster::Cluster, ignored: &mut Vec<String>) -> Result<Option<ClientTls>, Fault> {
    let unsupported = |field: String| Fault::Unsupported {
        message: "Cluster",
        field,
    };
    if from.transport_socket_matches.is_empty() {
        return Ok(None);
    }
    let mut found = None;
    let mut plain = mtls::is_raw(from.transport_socket.as_ref());
    for entry in &from.transport_socket_matches {
        let fields = entry.r#match.clone().unwrap_or_default();
        match (fields.fields.len(), as_text(&fields, "tlsMode").as_deref()) {
            (1, Some("istio")) => {
                let socket = entry
                    .transport_socket
                    .as_ref()
                    .ok_or_else(|| unsupported(format!("match {:?}", entry.name)))?;
                let (context, _) = mtls::upstream(socket, ignored)?;
                found = Some(mtls::client(context, ignored)?);
            }
            (0, None) => {
                plain = mtls::is_raw(entry.transport_socket.as_ref());
            }
            _ => {
                return Err(unsupported(format!(
                    "transport_socket_matches {:?}",
                    entry.name
                )));
            }
        }
    }
    let found = found
        .ok_or_else(|| unsupported("transport_socket_matches without tlsMode: istio".to_owned()))?;
    if !plain {
        return Err(unsupported(
            "a transport socket for endpoints without mTLS".to_owned(),
        ));
    }
    Ok(Some(found))
}

/// Istio's metadata; a name alone proves nothing.
fn service(from: &cluster::Cluster) -> Option<ServiceRef> {
    let fields = part(from.metadata.as_ref(), ISTIO)?;
    let service = as_struct(as_list(fields, "services")?.first()?)?;
    // Istio leaves the port in the name only, for clusters that it made from a service.
    let port = as_number(fields, "default_original_port")
        .or_else(|| from.name.split('|').nth(1)?.parse().ok())?;
    Some(ServiceRef {
        host: as_text(service, "host")?.parse().ok()?,
        name: as_text(service, "name").unwrap_or_default(),
        namespace: as_text(service, "namespace").unwrap_or_default(),
        port: u16::try_from(port).ok()?,
        subset: as_text(fields, "subset").unwrap_or_default(),
    })
}
