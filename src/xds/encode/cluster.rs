//! Clusters.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::pb::{
    HTTP_PROTOCOL_OPTIONS, Percent, address, ads, any, cluster, core, duration, endpoint,
    u32_value, upstream,
};
use super::super::structs::{ISTIO, MESHCTL, list, metadata, nested, number, object, text};
use super::{balancing, dns, health, http2, mtls, origination, sockets};
use crate::mesh::cluster::{ClientTls, Limits, ServiceRef, Thresholds, UpstreamProtocol};
use crate::mesh::{Client, Cluster, ClusterKind, LoadBalancer};

/// `bytes_only`: no route leads here, so the peer must not expect requests.
pub(super) fn encode(from: &Cluster, client: Client, bytes_only: bool) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let mut to = cluster::Cluster {
        name: from.name.clone(),
        connect_timeout: duration(match client {
            Client::Meshctl => from.connect_timeout,
            Client::Envoy | Client::Grpc => from.connect_timeout.max(Duration::from_millis(1)),
        }),
        circuit_breakers: Some(limits(&from.limits)),
        outlier_detection: from
            .outlier
            .as_ref()
            .map(|outlier| health::outlier(outlier, client)),
        health_checks: from
            .health_check
            .iter()
            .map(|check| health::check(check, client))
            .collect(),
        // One entry, so its order is no question.
        typed_extension_protocol_options: [(
            HTTP_PROTOCOL_OPTIONS.to_owned(),
            any(&protocol(from, client, bytes_only)),
        )]
        .into(),
        metadata: about(from, client),
        ..Default::default()
    };
    let kind = match &from.kind {
        ClusterKind::Discovered => {
            to.eds_cluster_config = Some(cluster::cluster::EdsClusterConfig {
                eds_config: Some(ads()),
                ..Default::default()
            });
            DiscoveryType::Eds
        }
        ClusterKind::Static(addresses) => {
            to.load_assignment = Some(fixed(&from.name, addresses, client));
            DiscoveryType::Static
        }
        ClusterKind::OriginalDestination => DiscoveryType::OriginalDst,
        ClusterKind::Dns(names) => dns::add(names, client, &mut to),
    };
    balancing::add(from, client, &mut to);
    if let Some(check) = &from.health_check {
        to.ignore_health_on_host_removal = check.policy.ignore_health_on_host_removal;
        to.close_connections_on_host_health_failure = check.policy.close_connections_on_failure;
        if check.policy.ignore_new_hosts_until_first_hc {
            to.common_lb_config
                .get_or_insert_default()
                .ignore_new_hosts_until_first_hc = true;
        }
    }
    if client == Client::Envoy && from.kind == ClusterKind::OriginalDestination && from.is_inward()
    {
        to.upstream_bind_config = Some(sockets::inward());
    }
    to.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
    if let Some(mtls) = &from.tls {
        secure(&mut to, mtls, alpn(from.protocol, bytes_only, client));
    }
    if let Some(how) = origination::of(from, client, bytes_only) {
        to.transport_socket = Some(origination::socket(&how, from.protocol, bytes_only));
    }
    if let Some(version) = from.proxy_protocol {
        sockets::introduce(version, &mut to);
    }
    to
}

/// Endpoints that carry `tlsMode: istio` get mTLS and others plaintext, unless mTLS is required.
fn secure(to: &mut cluster::Cluster, mtls: &ClientTls, alpn: Vec<String>) {
    let socket = mtls::client(mtls, alpn);
    if mtls.required {
        to.transport_socket = Some(socket);
        return;
    }
    let of = |name: &str, wanted, socket| cluster::cluster::TransportSocketMatch {
        name: name.to_owned(),
        r#match: Some(wanted),
        transport_socket: Some(socket),
    };
    to.transport_socket_matches = vec![
        of(
            "tlsMode-istio",
            object([("tlsMode", text("istio"))]),
            socket,
        ),
        of("tlsMode-disabled", object::<&str>([]), mtls::raw()),
    ];
}

/// Istio's names; what is offered must be what this cluster's pools speak.
fn alpn(protocol: UpstreamProtocol, bytes_only: bool, client: Client) -> Vec<String> {
    let names: &[&str] = match protocol {
        _ if bytes_only => &["istio-peer-exchange", "istio"],
        UpstreamProtocol::Negotiated if client == Client::Meshctl => {
            &["istio-h2", "istio-http/1.1", "istio"]
        }
        UpstreamProtocol::Http1 | UpstreamProtocol::Negotiated => {
            &["istio-http/1.1", "istio-http/1.0", "istio"]
        }
        UpstreamProtocol::Http2 => &["istio-h2", "istio"],
        UpstreamProtocol::Downstream => &["istio"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn fixed(name: &str, addresses: &[SocketAddr], client: Client) -> endpoint::ClusterLoadAssignment {
    // Envoy refuses an address that comes twice.
    let mut seen = BTreeSet::new();
    let kept = |at: &&SocketAddr| client == Client::Meshctl || seen.insert(**at);
    let endpoints: Vec<_> = addresses
        .iter()
        .filter(kept)
        .map(|at| endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                endpoint::Endpoint {
                    address: Some(address(*at)),
                    ..Default::default()
                },
            )),
            ..Default::default()
        })
        .collect();
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: (!endpoints.is_empty())
            .then(|| endpoint::LocalityLbEndpoints {
                lb_endpoints: endpoints,
                ..Default::default()
            })
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

fn limits(limits: &Limits) -> cluster::CircuitBreakers {
    let high = limits
        .high
        .as_ref()
        .map(|high| thresholds(high, core::RoutingPriority::High, limits.track_remaining));
    cluster::CircuitBreakers {
        thresholds: std::iter::once(thresholds(
            &limits.usual(),
            core::RoutingPriority::Default,
            limits.track_remaining,
        ))
        .chain(high)
        .collect(),
        per_host_thresholds: (limits.max_connections_per_endpoint < u32::MAX)
            .then(|| cluster::circuit_breakers::Thresholds {
                max_connections: u32_value(limits.max_connections_per_endpoint),
                ..Default::default()
            })
            .into_iter()
            .collect(),
    }
}

fn thresholds(
    from: &Thresholds,
    priority: core::RoutingPriority,
    track_remaining: bool,
) -> cluster::circuit_breakers::Thresholds {
    cluster::circuit_breakers::Thresholds {
        priority: priority.into(),
        max_connections: u32_value(from.max_connections),
        max_pending_requests: u32_value(from.max_pending_requests),
        max_requests: u32_value(from.max_requests),
        max_retries: u32_value(from.max_retries),
        retry_budget: from.retry_budget.map(|budget| {
            cluster::circuit_breakers::thresholds::RetryBudget {
                budget_percent: Some(Percent {
                    value: f64::from(budget.percent_milli) / 1000.0,
                }),
                min_retry_concurrency: u32_value(budget.min_concurrency),
                ..Default::default()
            }
        }),
        track_remaining,
        ..Default::default()
    }
}

fn protocol(from: &Cluster, client: Client, bytes_only: bool) -> upstream::HttpProtocolOptions {
    use options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options as options;
    let explicit = |config| {
        options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    let two = http2::options(&from.http2);
    let most = from.limits.max_requests_per_connection;
    upstream::HttpProtocolOptions {
        upstream_http_protocol_options: origination::of(from, client, bytes_only)
            .as_deref()
            .and_then(origination::by_request),
        common_http_protocol_options: (most > 0).then(|| core::HttpProtocolOptions {
            max_requests_per_connection: u32_value(most),
            ..Default::default()
        }),
        upstream_protocol_options: Some(match from.protocol {
            UpstreamProtocol::Http1 => explicit(ProtocolConfig::HttpProtocolOptions(
                core::Http1ProtocolOptions::default(),
            )),
            UpstreamProtocol::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(two)),
            // Others would have to be given its ALPN names too; they call as Istio has them call.
            UpstreamProtocol::Negotiated if client != Client::Meshctl => explicit(
                ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
            ),
            UpstreamProtocol::Negotiated => {
                options::UpstreamProtocolOptions::AutoConfig(options::AutoHttpConfig {
                    http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                    http2_protocol_options: Some(two),
                    ..Default::default()
                })
            }
            UpstreamProtocol::Downstream => {
                options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                    options::UseDownstreamHttpConfig {
                        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                        http2_protocol_options: Some(two),
                        ..Default::default()
                    },
                )
            }
        }),
        ..Default::default()
    }
}

/// The service in Istio's form.
fn about(from: &Cluster, client: Client) -> Option<core::Metadata> {
    let service = from.service.as_ref().map(
        |ServiceRef {
             host,
             name,
             namespace,
             port,
             subset,
         }| {
            let service = object([
                ("host", text(host.as_str())),
                ("name", text(name)),
                ("namespace", text(namespace)),
            ]);
            let subset = (!subset.is_empty()).then(|| ("subset", text(subset)));
            object(
                [
                    ("services", list(vec![nested(service)])),
                    ("default_original_port", number(u32::from(*port))),
                ]
                .into_iter()
                .chain(subset),
            )
        },
    );
    // Envoy has no load balancer to name where the caller chooses the endpoint.
    let balancer = (client == Client::Meshctl
        && from.kind == ClusterKind::OriginalDestination
        && from.load_balancer != LoadBalancer::default())
    .then(|| {
        let name = match from.load_balancer {
            LoadBalancer::RoundRobin => "roundRobin",
            LoadBalancer::LeastRequest => "leastRequest",
            LoadBalancer::Random => "random",
            LoadBalancer::PeakEwma => "peakEwma",
            LoadBalancer::RingHash => "ringHash",
            LoadBalancer::Maglev => "maglev",
        };
        ("loadBalancer", text(name))
    });
    let slow = from
        .outlier
        .as_ref()
        .filter(|_| client == Client::Meshctl)
        .and_then(health::response_time);
    metadata([
        (ISTIO, service.unwrap_or_default()),
        (MESHCTL, object(balancer.into_iter().chain(slow))),
    ])
}
