//! A call as Envoy's access log service has it.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::data::accesslog::v3 as accesslog;
use envoy_types::pb::google::protobuf;

use crate::telemetry::{AccessRecord, Flag, Registry};

/// The message. Fields of the request are those of `headers`.
pub(super) fn entry(
    record: &AccessRecord,
    headers: &[String],
    registry: &Registry,
) -> accesslog::HttpAccessLogEntry {
    let fields = record.request_headers.iter();
    let fields = fields.filter(|(name, _)| headers.contains(name)).cloned();
    let grpc = record
        .grpc_status
        .map(|status| ("grpc-status".to_owned(), status.to_string()));
    let version = match record.protocol {
        "HTTP/1.0" => accesslog::http_access_log_entry::HttpVersion::Http10,
        "HTTP/1.1" => accesslog::http_access_log_entry::HttpVersion::Http11,
        "HTTP/2" => accesslog::http_access_log_entry::HttpVersion::Http2,
        _ => accesslog::http_access_log_entry::HttpVersion::ProtocolUnspecified,
    };
    accesslog::HttpAccessLogEntry {
        common_properties: Some(common(record, registry)),
        protocol_version: version.into(),
        request: Some(accesslog::HttpRequestProperties {
            request_method: core::RequestMethod::from_str_name(&record.method)
                .unwrap_or_default()
                .into(),
            authority: record.authority.clone(),
            path: record.path.clone(),
            user_agent: record.user_agent.clone(),
            forwarded_for: record.forwarded_for.clone(),
            request_id: record.request_id.clone(),
            request_body_bytes: record.received,
            request_headers: fields.collect(),
            ..accesslog::HttpRequestProperties::default()
        }),
        response: Some(accesslog::HttpResponseProperties {
            response_code: (record.code != 0).then(|| protobuf::UInt32Value {
                value: record.code.into(),
            }),
            response_body_bytes: record.sent,
            response_code_details: record.details.to_owned(),
            response_trailers: grpc.into_iter().collect(),
            ..accesslog::HttpResponseProperties::default()
        }),
    }
}

fn common(record: &AccessRecord, registry: &Registry) -> accesslog::AccessLogCommon {
    let source = registry.peer_labels(record.source);
    let destination = registry.peer_labels(record.destination);
    let service = registry.service_labels(record.service);
    // As Istio's metrics call these.
    let tags = [
        (
            "reporter",
            if record.inbound {
                "destination"
            } else {
                "source"
            },
        ),
        ("source_workload", source.workload.as_str()),
        ("source_workload_namespace", &source.namespace),
        ("destination_workload", &destination.workload),
        ("destination_workload_namespace", &destination.namespace),
        ("destination_version", &destination.version),
        ("destination_service_name", &service.name),
        ("destination_service_namespace", &service.namespace),
        (
            "request_protocol",
            if record.grpc { "grpc" } else { "http" },
        ),
        (
            "connection_security_policy",
            if record.mtls { "mutual_tls" } else { "none" },
        ),
        // The message has methods of a closed list only.
        ("request_method", record.method.as_str()),
    ];
    accesslog::AccessLogCommon {
        sample_rate: 1.0,
        downstream_remote_address: address(&record.downstream_remote),
        downstream_local_address: address(&record.downstream_local),
        upstream_remote_address: address(&record.upstream_host),
        upstream_local_address: address(&record.upstream_local),
        start_time: Some(protobuf::Timestamp {
            seconds: i64::try_from(record.start / 1_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(record.start % 1_000 * 1_000_000).unwrap_or_default(),
        }),
        duration: Some(time(record.duration)),
        time_to_last_downstream_tx_byte: Some(time(record.duration)),
        time_to_first_upstream_rx_byte: record.upstream_time.map(time),
        upstream_cluster: record.upstream_cluster.clone(),
        response_flags: flags(record.flag),
        upstream_transport_failure_reason: record.upstream_failure.clone(),
        route_name: record.route.clone(),
        custom_tags: tags
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        access_log_type: accesslog::AccessLogType::DownstreamEnd.into(),
        ..accesslog::AccessLogCommon::default()
    }
}

fn time(time: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

fn address(text: &str) -> Option<core::Address> {
    let address: SocketAddr = text.parse().ok()?;
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                address.port().into(),
            )),
            ..core::SocketAddress::default()
        })),
    })
}

fn flags(flag: Flag) -> Option<accesslog::ResponseFlags> {
    let mut flags = accesslog::ResponseFlags::default();
    match flag {
        Flag::None => return None,
        Flag::Nr => flags.no_route_found = true,
        Flag::Nc => flags.no_cluster_found = true,
        Flag::Uh => flags.no_healthy_upstream = true,
        Flag::Uf => flags.upstream_connection_failure = true,
        Flag::Uo => flags.upstream_overflow = true,
        Flag::Ut => flags.upstream_request_timeout = true,
        Flag::Uc => flags.upstream_connection_termination = true,
        Flag::Ur => flags.upstream_remote_reset = true,
        Flag::Upe => flags.upstream_protocol_error = true,
        Flag::Urx => flags.upstream_retry_limit_exceeded = true,
        Flag::Dpe => flags.downstream_protocol_error = true,
        Flag::Dc => flags.downstream_connection_termination = true,
        Flag::Si => flags.stream_idle_timeout = true,
        Flag::Dt => flags.duration_timeout = true,
        // The message has none for dropped requests; what drops them is an overload, too.
        Flag::Om | Flag::Do => flags.overload_manager = true,
        Flag::Di => flags.delay_injected = true,
        Flag::Fi => flags.fault_injected = true,
        Flag::Rl => flags.rate_limited = true,
        Flag::Uaex => {
            flags.unauthorized_details = Some(accesslog::response_flags::Unauthorized {
                reason: accesslog::response_flags::unauthorized::Reason::ExternalService.into(),
            });
        }
    }
    Some(flags)
}
