//! A call as Envoy's access log service has it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::data::accesslog::v3 as accesslog;
use envoy_types::pb::google::protobuf;

use crate::telemetry::{AccessRecord, Flag, Shown};

/// Tags of an entry, by name.
pub(crate) type Tags = Vec<(String, String)>;

/// Names of the fields that an entry has besides the usual ones, in lower case.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Besides<'n> {
    pub(crate) request: &'n [String],
    pub(crate) response: &'n [String],
    pub(crate) trailers: &'n [String],
}

/// The entry of a call; of a connection that carries bytes it says little.
pub(crate) fn http(
    record: &AccessRecord,
    besides: Besides<'_>,
    tags: Tags,
) -> accesslog::HttpAccessLogEntry {
    let version = match record.protocol {
        "HTTP/1.0" => accesslog::http_access_log_entry::HttpVersion::Http10,
        "HTTP/1.1" => accesslog::http_access_log_entry::HttpVersion::Http11,
        "HTTP/2" => accesslog::http_access_log_entry::HttpVersion::Http2,
        _ => accesslog::http_access_log_entry::HttpVersion::ProtocolUnspecified,
    };
    let field = |name: &str| record.request_field(name).unwrap_or_default().to_owned();
    accesslog::HttpAccessLogEntry {
        common_properties: Some(common(record, tags)),
        protocol_version: version.into(),
        request: Some(accesslog::HttpRequestProperties {
            request_method: core::RequestMethod::from_str_name(&record.method)
                .unwrap_or_default()
                .into(),
            scheme: field(":scheme"),
            authority: record.authority.clone(),
            path: record.path.clone(),
            user_agent: record.user_agent.clone(),
            referer: field("referer"),
            forwarded_for: record.forwarded_for.clone(),
            request_id: record.request_id.clone(),
            original_path: field("x-envoy-original-path"),
            request_body_bytes: record.received,
            request_headers: chosen(besides.request, |name| {
                record.request_field(name).map(str::to_owned)
            })
            .collect(),
            ..accesslog::HttpRequestProperties::default()
        }),
        response: Some(accesslog::HttpResponseProperties {
            response_code: (record.code != 0).then(|| protobuf::UInt32Value {
                value: record.code.into(),
            }),
            response_body_bytes: record.sent,
            response_code_details: record.details().into_owned(),
            response_headers: chosen(besides.response, |name| {
                record.response_field(name).map(Into::into)
            })
            .collect(),
            response_trailers: chosen(besides.trailers, |name| {
                record.trailer(name).map(Into::into)
            })
            .collect(),
            ..accesslog::HttpResponseProperties::default()
        }),
    }
}

/// The entry of a connection; of a call it says little.
pub(crate) fn tcp(record: &AccessRecord, tags: Tags) -> accesslog::TcpAccessLogEntry {
    accesslog::TcpAccessLogEntry {
        common_properties: Some(common(record, tags)),
        connection_properties: Some(accesslog::ConnectionProperties {
            received_bytes: record.received,
            sent_bytes: record.sent,
        }),
    }
}

/// Those of `names` that there are.
fn chosen(
    names: &[String],
    get: impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = (String, String)> {
    let names = names.iter();
    names.filter_map(move |name| Some((name.clone(), get(name)?)))
}

fn common(record: &AccessRecord, tags: Tags) -> accesslog::AccessLogCommon {
    let kind = if record.protocol.is_empty() {
        accesslog::AccessLogType::TcpConnectionEnd
    } else {
        accesslog::AccessLogType::DownstreamEnd
    };
    accesslog::AccessLogCommon {
        downstream_remote_address: address(&record.downstream_remote),
        downstream_local_address: address(&record.downstream_local),
        downstream_direct_remote_address: address(&record.direct_remote),
        tls_properties: tls(record),
        upstream_remote_address: address(&record.upstream_host),
        upstream_local_address: address(&record.upstream_local),
        start_time: Some(protobuf::Timestamp {
            seconds: i64::try_from(record.start / 1_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(record.start % 1_000 * 1_000_000).unwrap_or_default(),
        }),
        duration: Some(time(record.duration)),
        time_to_last_rx_byte: record.request_time.map(time),
        time_to_first_upstream_tx_byte: record.connected_time.map(time),
        time_to_last_upstream_tx_byte: record.sent_time.map(time),
        time_to_first_upstream_rx_byte: record.upstream_time.map(time),
        time_to_last_upstream_rx_byte: record.upstream_time.map(|_| time(record.duration)),
        // What comes is passed on at once; what the proxy answers itself, when it is done.
        time_to_first_downstream_tx_byte: Some(time(
            record.upstream_time.unwrap_or(record.duration),
        )),
        time_to_last_downstream_tx_byte: Some(time(record.duration)),
        upstream_cluster: record.upstream_cluster.clone(),
        upstream_request_attempt_count: record.attempts,
        response_flags: flags(record),
        upstream_transport_failure_reason: record.upstream_failure.clone(),
        route_name: record.route.clone(),
        connection_termination_details: record.termination().into_owned(),
        stream_id: record.request_id.clone(),
        custom_tags: tags.into_iter().collect(),
        access_log_type: kind.into(),
        ..accesslog::AccessLogCommon::default()
    }
}

/// What its handshake said, where this proxy ended TLS.
fn tls(record: &AccessRecord) -> Option<accesslog::TlsProperties> {
    use accesslog::tls_properties::{CertificateProperties, TlsVersion, certificate_properties};
    use certificate_properties::subject_alt_name::San;
    let link = record.link.filter(|_| record.tls)?;
    let named = |shown: Option<&Arc<Shown>>| {
        let shown = shown?;
        let names = |names: &str, san: fn(String) -> San| -> Vec<_> {
            let names = names.split(',').filter(|name| !name.is_empty());
            names
                .map(|name| certificate_properties::SubjectAltName {
                    san: Some(san(name.to_owned())),
                })
                .collect()
        };
        let mut subject_alt_name = names(&shown.uris, San::Uri);
        subject_alt_name.extend(names(&shown.dns, San::Dns));
        Some(CertificateProperties {
            subject_alt_name,
            subject: shown.subject.clone(),
            issuer: shown.issuer.clone(),
        })
    };
    Some(accesslog::TlsProperties {
        tls_version: match link.version {
            0x0303 => TlsVersion::TlSv12,
            0x0304 => TlsVersion::TlSv13,
            _ => TlsVersion::VersionUnspecified,
        }
        .into(),
        tls_cipher_suite: Some(protobuf::UInt32Value {
            value: link.cipher.into(),
        }),
        tls_sni_hostname: record.server_name.clone(),
        local_certificate_properties: named(record.own_shown.as_ref()),
        peer_certificate_properties: named(record.shown.as_ref()),
        ..accesslog::TlsProperties::default()
    })
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

fn flags(record: &AccessRecord) -> Option<accesslog::ResponseFlags> {
    let mut flags = accesslog::ResponseFlags {
        upstream_retry_limit_exceeded: record.is_unreached(),
        ..accesslog::ResponseFlags::default()
    };
    match record.flag {
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
