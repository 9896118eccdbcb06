//! The connection manager: what is routed where, and how HTTP is spoken with callers. What is as
//! Envoy has it by default is left out.

use std::time::Duration;

use super::super::pb::fault::HttpFault;
use super::super::pb::{Any, Buffer, Router, ads, any, bool_value, core, duration, hcm, u32_value};
use super::listener::range;
use crate::mesh::http::{
    ClientCertDetails, EscapedSlashes, ForwardClientCert, Http1Options, HttpOptions, HttpTimeouts,
    ServerHeader, ServerOptions, StripPort, Underscores, Upgrades,
};
use crate::mesh::http2::Http2Options;
use crate::mesh::listener::HttpCodec;

/// A manager of connections that routes by the table `routes`.
pub(super) fn manager(
    stat_prefix: String,
    routes: &str,
    codec: HttpCodec,
    options: &HttpOptions,
) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager as values;
    let HttpOptions {
        path,
        host,
        limits,
        timeouts,
        remote,
        client_cert,
        request_id,
        server,
        http1,
        http2,
        upgrades,
        // What is said of it depends on the client.
        tracing: _,
        access_log: _,
    } = options;
    hcm::HttpConnectionManager {
        stat_prefix,
        codec_type: match codec {
            HttpCodec::Auto => values::CodecType::Auto,
            HttpCodec::Http1 => values::CodecType::Http1,
            HttpCodec::Http2 => values::CodecType::Http2,
        }
        .into(),
        route_specifier: Some(values::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: limits
            .max_request_bytes
            .map(buffer)
            .into_iter()
            .chain([router()])
            .collect(),
        normalize_path: bool_value(path.normalize),
        merge_slashes: path.merge_slashes,
        path_with_escaped_slashes_action: {
            use values::PathWithEscapedSlashesAction as To;
            match path.escaped_slashes {
                EscapedSlashes::KeepUnchanged => To::ImplementationSpecificDefault,
                EscapedSlashes::RejectRequest => To::RejectRequest,
                EscapedSlashes::UnescapeAndRedirect => To::UnescapeAndRedirect,
                EscapedSlashes::UnescapeAndForward => To::UnescapeAndForward,
            }
        }
        .into(),
        strip_matching_host_port: host.strip_port == StripPort::Matching,
        strip_port_mode: (host.strip_port == StripPort::Any)
            .then_some(values::StripPortMode::StripAnyHostPort(true)),
        strip_trailing_host_dot: host.strip_trailing_dot,
        max_request_headers_kb: other(limits.max_request_headers_kb, 60),
        common_http_protocol_options: common(options),
        request_headers_timeout: timeouts.request_headers.and_then(duration),
        request_timeout: timeouts.request.and_then(duration),
        // Zero is none; absent would be Envoy's 5 min.
        stream_idle_timeout: duration(timeouts.stream_idle.unwrap_or(Duration::ZERO)),
        drain_timeout: (timeouts.drain != HttpTimeouts::default().drain)
            .then(|| duration(timeouts.drain))
            .flatten(),
        use_remote_address: remote
            .use_remote_address
            .then_some(true)
            .and_then(bool_value),
        xff_num_trusted_hops: remote.xff_num_trusted_hops,
        skip_xff_append: remote.skip_xff_append,
        internal_address_config: (!remote.internal.is_empty()).then(|| {
            values::InternalAddressConfig {
                cidr_ranges: remote.internal.iter().map(range).collect(),
                ..Default::default()
            }
        }),
        forward_client_cert_details: {
            use values::ForwardClientCertDetails as To;
            match client_cert.forward {
                ForwardClientCert::Sanitize => To::Sanitize,
                ForwardClientCert::ForwardOnly => To::ForwardOnly,
                ForwardClientCert::AppendForward => To::AppendForward,
                ForwardClientCert::SanitizeSet => To::SanitizeSet,
                ForwardClientCert::AlwaysForwardOnly => To::AlwaysForwardOnly,
            }
        }
        .into(),
        set_current_client_cert_details: details(client_cert.details),
        generate_request_id: (!request_id.generate).then_some(false).and_then(bool_value),
        preserve_external_request_id: request_id.preserve_external,
        always_set_request_id_in_response: request_id.in_response,
        server_name: match server.name.as_str() {
            ServerOptions::NAME => String::new(),
            name => name.to_owned(),
        },
        server_header_transformation: {
            use values::ServerHeaderTransformation as To;
            match server.transformation {
                ServerHeader::Overwrite => To::Overwrite,
                ServerHeader::AppendIfAbsent => To::AppendIfAbsent,
                ServerHeader::PassThrough => To::PassThrough,
            }
        }
        .into(),
        via: server.via.clone(),
        http_protocol_options: text(http1),
        http2_protocol_options: (*http2 != Http2Options::default())
            .then(|| super::http2::options(http2)),
        upgrade_configs: upgrades.0.iter().map(|name| upgrade(name)).collect(),
        ..Default::default()
    }
}

/// `value`, unless that is what its absence means.
fn other(value: u32, usual: u32) -> Option<super::super::pb::UInt32Value> {
    (value != usual).then_some(value).and_then(u32_value)
}

fn common(options: &HttpOptions) -> Option<core::HttpProtocolOptions> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as To;
    let HttpOptions {
        limits, timeouts, ..
    } = options;
    let idle = timeouts.idle.unwrap_or(Duration::ZERO);
    let common = core::HttpProtocolOptions {
        idle_timeout: (idle != Duration::from_hours(1))
            .then(|| duration(idle))
            .flatten(),
        max_connection_duration: timeouts.max_connection.and_then(duration),
        max_stream_duration: timeouts.max_stream.and_then(duration),
        max_headers_count: other(limits.max_headers_count, 100),
        max_requests_per_connection: other(limits.max_requests_per_connection, 0),
        headers_with_underscores_action: match limits.underscores {
            Underscores::Allow => To::Allow,
            Underscores::RejectRequest => To::RejectRequest,
            Underscores::DropHeader => To::DropHeader,
        }
        .into(),
        ..Default::default()
    };
    (common != core::HttpProtocolOptions::default()).then_some(common)
}

fn details(
    from: ClientCertDetails,
) -> Option<hcm::http_connection_manager::SetCurrentClientCertDetails> {
    (from != ClientCertDetails::default()).then(|| {
        hcm::http_connection_manager::SetCurrentClientCertDetails {
            subject: from.subject.then_some(true).and_then(bool_value),
            cert: from.cert,
            chain: from.chain,
            dns: from.dns,
            uri: from.uri,
            ..Default::default()
        }
    })
}

fn text(from: &Http1Options) -> Option<core::Http1ProtocolOptions> {
    let to = core::Http1ProtocolOptions {
        allow_absolute_url: (!from.allow_absolute_url)
            .then_some(false)
            .and_then(bool_value),
        accept_http_10: from.accept_http_10,
        default_host_for_http_10: from.default_host_for_http_10.clone(),
        override_stream_error_on_invalid_http_message: from
            .keep_after_error
            .then_some(true)
            .and_then(bool_value),
        ..Default::default()
    };
    (to != core::Http1ProtocolOptions::default()).then_some(to)
}

fn upgrade(name: &str) -> hcm::http_connection_manager::UpgradeConfig {
    hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: match name {
            Upgrades::CONNECT => "CONNECT".to_owned(),
            name => name.to_owned(),
        },
        ..Default::default()
    }
}

fn buffer(most: u32) -> hcm::HttpFilter {
    filter(
        "buffer",
        any(&Buffer {
            max_request_bytes: u32_value(most),
        }),
    )
}

/// The place where faults of routes act.
pub(super) fn fault() -> hcm::HttpFilter {
    filter("fault", any(&HttpFault::default()))
}

pub(super) fn router() -> hcm::HttpFilter {
    filter("router", any(&Router::default()))
}

fn filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: format!("envoy.filters.http.{name}"),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
