//! The connection manager: what is routed where, and how HTTP is spoken with callers.

use std::sync::Arc;
use std::time::Duration;

use super::super::pb::{Any, Buffer, PbDuration, Router, UInt32Value, core, hcm, is, is_ads};
use super::fields::Fields;
use super::listener::range;
use super::{Fault, access_log, duration_or, filter, http2, route, tracing, unpack};
use crate::mesh::RouteTable;
use crate::mesh::filter::HttpFilter;
use crate::mesh::http::{
    ClientCertDetails, ClientCertOptions, EscapedSlashes, ForwardClientCert, HostOptions,
    Http1Options, HttpLimits, HttpOptions, HttpTimeouts, PathOptions, RemoteOptions,
    RequestIdOptions, ServerHeader, ServerOptions, StripPort, Underscores, Upgrades,
};
use crate::mesh::listener::HttpCodec;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] =
    &[&MANAGER, &COMMON, &HTTP1, &UPGRADE, &CERTIFICATE, &INTERNAL];

const MANAGER: Fields = Fields {
    message: "HttpConnectionManager",
    // 18, `proxy_100_continue`: whoever asks is answered by the application either way.
    understood: &[
        (1, "codec_type"),
        (2, "stat_prefix"),
        (3, "rds"),
        (4, "route_config"),
        (5, "http_filters"),
        (7, "tracing"),
        (8, "http_protocol_options"),
        (9, "http2_protocol_options"),
        (10, "server_name"),
        (12, "drain_timeout"),
        (13, "access_log"),
        (14, "use_remote_address"),
        (15, "generate_request_id"),
        (16, "forward_client_cert_details"),
        (17, "set_current_client_cert_details"),
        (18, "proxy_100_continue"),
        (19, "xff_num_trusted_hops"),
        (21, "skip_xff_append"),
        (22, "via"),
        (23, "upgrade_configs"),
        (24, "stream_idle_timeout"),
        (25, "internal_address_config"),
        (28, "request_timeout"),
        (29, "max_request_headers_kb"),
        (30, "normalize_path"),
        (32, "preserve_external_request_id"),
        (33, "merge_slashes"),
        (34, "server_header_transformation"),
        (35, "common_http_protocol_options"),
        (37, "always_set_request_id_in_response"),
        (39, "strip_matching_host_port"),
        (40, "stream_error_on_invalid_http_message"),
        (41, "request_headers_timeout"),
        (42, "strip_any_host_port"),
        (45, "path_with_escaped_slashes_action"),
        (47, "strip_trailing_host_dot"),
    ],
    tuning: &[
        (6, "add_user_agent"),
        (26, "delayed_close_timeout"),
        (36, "request_id_extension"),
        (44, "http3_protocol_options"),
        (48, "scheme_header_transformation"),
        (49, "proxy_status_config"),
        (51, "append_x_forwarded_port"),
        (54, "access_log_flush_interval"),
        (55, "flush_access_log_on_new_request"),
        (56, "access_log_options"),
        (57, "append_local_overload"),
        (58, "http1_safe_max_connection_duration"),
        (59, "stream_flush_timeout"),
        (62, "drain_timeout_jitter"),
    ],
    refused: &[
        (20, "represent_ipv4_remote_address_as_ipv4_mapped_ipv6"),
        (31, "scoped_routes"),
        (38, "local_reply_config"),
        (43, "path_normalization_options"),
        (46, "original_ip_detection_extensions"),
        (50, "typed_header_validation_config"),
        (52, "early_header_mutation_extensions"),
        (53, "add_proxy_protocol_connection_state"),
        (60, "forward_client_cert_matcher"),
        (61, "forward_proto_config"),
    ],
};
const COMMON: Fields = Fields {
    message: "HttpProtocolOptions",
    understood: &[
        (1, "idle_timeout"),
        (2, "max_headers_count"),
        (3, "max_connection_duration"),
        (4, "max_stream_duration"),
        (5, "headers_with_underscores_action"),
        (6, "max_requests_per_connection"),
    ],
    tuning: &[
        (7, "max_response_headers_kb"),
        (8, "max_connection_duration_jitter"),
    ],
    refused: &[],
};
const HTTP1: Fields = Fields {
    message: "Http1ProtocolOptions",
    understood: &[
        (1, "allow_absolute_url"),
        (2, "accept_http_10"),
        (3, "default_host_for_http_10"),
        (7, "override_stream_error_on_invalid_http_message"),
    ],
    // Trailers and methods of any name always pass, and names keep their case.
    tuning: &[
        (4, "header_key_format"),
        (5, "enable_trailers"),
        (9, "use_balsa_parser"),
        (10, "allow_custom_methods"),
    ],
    refused: &[
        (6, "allow_chunked_length"),
        (8, "send_fully_qualified_url"),
        (11, "ignore_http_11_upgrade"),
    ],
};
const UPGRADE: Fields = Fields {
    message: "HttpConnectionManager.UpgradeConfig",
    understood: &[(1, "upgrade_type"), (3, "enabled")],
    tuning: &[],
    refused: &[(2, "filters")],
};
const CERTIFICATE: Fields = Fields {
    message: "HttpConnectionManager.SetCurrentClientCertDetails",
    understood: &[
        (1, "subject"),
        (3, "cert"),
        (4, "dns"),
        (5, "uri"),
        (6, "chain"),
    ],
    tuning: &[],
    refused: &[(7, "format"), (8, "issuer")],
};
const INTERNAL: Fields = Fields {
    message: "HttpConnectionManager.InternalAddressConfig",
    understood: &[(2, "cidr_ranges")],
    // There are no listeners on such.
    tuning: &[(1, "unix_sockets")],
    refused: &[],
};

/// What a connection manager says.
pub(super) struct Http {
    /// Name of a route table.
    pub(super) routes: String,
    pub(super) codec: HttpCodec,
    pub(super) options: HttpOptions,
    pub(super) filters: Vec<HttpFilter>,
}

pub(super) fn decode(
    config: &Any,
    tables: &mut Vec<Arc<RouteTable>>,
    ignored: &mut Vec<String>,
) -> Result<Http, Fault> {
    use hcm::http_connection_manager::{CodecType, RouteSpecifier};
    let manager: hcm::HttpConnectionManager = unpack(config)?;
    MANAGER.audit(&manager, ignored)?;
    let codec = match CodecType::try_from(manager.codec_type) {
        Ok(CodecType::Auto) => HttpCodec::Auto,
        Ok(CodecType::Http1) => HttpCodec::Http1,
        Ok(CodecType::Http2) => HttpCodec::Http2,
        Ok(CodecType::Http3) | Err(_) => return unsupported("codec_type"),
    };
    let mut options = options(&manager, ignored)?;
    let filters;
    (options.limits.max_request_bytes, filters) = self::filters(&manager.http_filters, ignored)?;
    let routes = match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) if is_ads(rds.config_source.as_ref()) => {
            rds.route_config_name
        }
        Some(RouteSpecifier::Rds(_)) => return unsupported("rds other than ADS"),
        Some(RouteSpecifier::RouteConfig(inline)) => {
            let table = route::decode(&inline, ignored)?;
            let name = table.name.clone();
            tables.push(Arc::new(table));
            name
        }
        Some(RouteSpecifier::ScopedRoutes(_)) | None => return unsupported("routes by scope"),
    };
    Ok(Http {
        routes,
        codec,
        options,
        filters,
    })
}

fn unsupported<T>(field: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Unsupported {
        message: "HttpConnectionManager",
        field: field.into(),
    })
}

/// The limit of a `buffer` filter, and the filters that are run.
fn filters(
    from: &[hcm::HttpFilter],
    ignored: &mut Vec<String>,
) -> Result<(Option<u32>, Vec<HttpFilter>), Fault> {
    let mut limit = None;
    let mut run = Vec::new();
    for filter in from {
        if let Some(hcm::http_filter::ConfigType::TypedConfig(any)) = &filter.config_type
            && !filter.disabled
            && let Some(own) = filter::decode(any, ignored)?
        {
            run.push(own);
            continue;
        }
        match &filter.config_type {
            Some(hcm::http_filter::ConfigType::TypedConfig(any)) if is::<Router>(any) => {}
            Some(hcm::http_filter::ConfigType::TypedConfig(any))
                if is::<Buffer>(any) && !filter.disabled && limit.is_none() =>
            {
                let buffer: Buffer = unpack(any)?;
                limit = buffer.max_request_bytes.map(|bytes| bytes.value);
                if limit.unwrap_or(0) == 0 {
                    return Err(Fault::Invalid(
                        "max_request_bytes is not above 0".to_owned(),
                    ));
                }
            }
            _ if filter.is_optional || filter.disabled => {
                ignored.push(format!(
                    "HttpConnectionManager.http_filters {:?}",
                    filter.name
                ));
            }
            _ => return unsupported(format!("http filter {:?}", filter.name)),
        }
    }
    Ok((limit, run))
}

fn options(
    from: &hcm::HttpConnectionManager,
    ignored: &mut Vec<String>,
) -> Result<HttpOptions, Fault> {
    use hcm::http_connection_manager as values;
    let common = from.common_http_protocol_options.unwrap_or_default();
    COMMON.audit(&common, ignored)?;
    let strips_any = matches!(
        from.strip_port_mode,
        Some(values::StripPortMode::StripAnyHostPort(true))
    );
    Ok(HttpOptions {
        path: PathOptions {
            // Envoy's default.
            normalize: from.normalize_path.is_some_and(|on| on.value),
            merge_slashes: from.merge_slashes,
            escaped_slashes: escaped_slashes(from.path_with_escaped_slashes_action)?,
        },
        host: HostOptions {
            strip_port: match (strips_any, from.strip_matching_host_port) {
                (true, _) => StripPort::Any,
                (false, true) => StripPort::Matching,
                (false, false) => StripPort::Keep,
            },
            strip_trailing_dot: from.strip_trailing_host_dot,
        },
        limits: limits(from, &common)?,
        timeouts: timeouts(from, &common)?,
        remote: remote(from, ignored)?,
        client_cert: client_cert(from, ignored)?,
        request_id: RequestIdOptions {
            generate: from.generate_request_id.is_none_or(|on| on.value),
            preserve_external: from.preserve_external_request_id,
            in_response: from.always_set_request_id_in_response,
        },
        server: ServerOptions {
            name: match from.server_name.as_str() {
                "" => ServerOptions::NAME.to_owned(),
                name => header_value("server_name", name)?,
            },
            transformation: {
                use values::ServerHeaderTransformation as From;
                match From::try_from(from.server_header_transformation) {
                    Ok(From::Overwrite) => ServerHeader::Overwrite,
                    Ok(From::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
                    Ok(From::PassThrough) => ServerHeader::PassThrough,
                    Err(_) => return unsupported("server_header_transformation"),
                }
            },
            via: header_value("via", &from.via)?,
        },
        http1: http1(from, ignored)?,
        http2: http2::options(from.http2_protocol_options.as_ref(), ignored)?,
        upgrades: upgrades(&from.upgrade_configs, ignored)?,
        tracing: from
            .tracing
            .as_ref()
            .map(|from| Arc::new(tracing::decode(from, ignored))),
        access_log: (!from.access_log.is_empty())
            .then(|| access_log::decode(&from.access_log, ignored))
            .filter(|logs| !logs.is_empty())
            .map(Arc::new),
    })
}

/// What may stand in a field of a head.
fn header_value(field: &str, value: &str) -> Result<String, Fault> {
    if value.chars().any(char::is_control) {
        return Err(Fault::Invalid(format!("{field} has a control character")));
    }
    Ok(value.to_owned())
}

fn escaped_slashes(action: i32) -> Result<EscapedSlashes, Fault> {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as From;
    Ok(match From::try_from(action) {
        // What the default is may be set in Envoy's runtime, and is this unless it is.
        Ok(From::ImplementationSpecificDefault | From::KeepUnchanged) => {
            EscapedSlashes::KeepUnchanged
        }
        Ok(From::RejectRequest) => EscapedSlashes::RejectRequest,
        Ok(From::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(From::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => return unsupported("path_with_escaped_slashes_action"),
    })
}

fn limits(
    from: &hcm::HttpConnectionManager,
    common: &core::HttpProtocolOptions,
) -> Result<HttpLimits, Fault> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    let usual = HttpLimits::default();
    let positive = |field: &str, value: Option<UInt32Value>, usual: u32| match value {
        None => Ok(usual),
        Some(UInt32Value { value: 1.. }) => Ok(value.map_or(usual, |value| value.value)),
        Some(_) => Err(Fault::Invalid(format!("{field} is not above 0"))),
    };
    let max_request_headers_kb = positive(
        "max_request_headers_kb",
        from.max_request_headers_kb,
        usual.max_request_headers_kb,
    )?;
    if max_request_headers_kb > 8192 {
        return Err(Fault::Invalid(
            "max_request_headers_kb is above 8192".to_owned(),
        ));
    }
    Ok(HttpLimits {
        max_request_headers_kb,
        max_headers_count: positive(
            "max_headers_count",
            common.max_headers_count,
            usual.max_headers_count,
        )?,
        max_requests_per_connection: common
            .max_requests_per_connection
            .map_or(0, |count| count.value),
        max_request_bytes: None,
        underscores: match Action::try_from(common.headers_with_underscores_action) {
            Ok(Action::Allow) => Underscores::Allow,
            Ok(Action::RejectRequest) => Underscores::RejectRequest,
            Ok(Action::DropHeader) => Underscores::DropHeader,
            Err(_) => return unsupported("headers_with_underscores_action"),
        },
    })
}

fn timeouts(
    from: &hcm::HttpConnectionManager,
    common: &core::HttpProtocolOptions,
) -> Result<HttpTimeouts, Fault> {
    // Absent is Envoy's default, zero is none.
    let limit = |field: &str, value: Option<&PbDuration>, usual: Duration| {
        duration_or(field, value, usual).map(|time| (!time.is_zero()).then_some(time))
    };
    let none = Duration::ZERO;
    Ok(HttpTimeouts {
        idle: limit(
            "idle_timeout",
            common.idle_timeout.as_ref(),
            Duration::from_hours(1),
        )?,
        request_headers: limit(
            "request_headers_timeout",
            from.request_headers_timeout.as_ref(),
            none,
        )?,
        request: limit("request_timeout", from.request_timeout.as_ref(), none)?,
        stream_idle: limit(
            "stream_idle_timeout",
            from.stream_idle_timeout.as_ref(),
            Duration::from_mins(5),
        )?,
        max_connection: limit(
            "max_connection_duration",
            common.max_connection_duration.as_ref(),
            none,
        )?,
        max_stream: limit(
            "max_stream_duration",
            common.max_stream_duration.as_ref(),
            none,
        )?,
        drain: duration_or(
            "drain_timeout",
            from.drain_timeout.as_ref(),
            HttpTimeouts::default().drain,
        )?,
    })
}

fn remote(
    from: &hcm::HttpConnectionManager,
    ignored: &mut Vec<String>,
) -> Result<RemoteOptions, Fault> {
    let internal = match &from.internal_address_config {
        None => Vec::new(),
        Some(config) => {
            INTERNAL.audit(config, ignored)?;
            config
                .cidr_ranges
                .iter()
                .map(range)
                .collect::<Option<_>>()
                .ok_or_else(|| Fault::Invalid("cidr_ranges has no IP network".to_owned()))?
        }
    };
    Ok(RemoteOptions {
        use_remote_address: from.use_remote_address.is_some_and(|on| on.value),
        xff_num_trusted_hops: from.xff_num_trusted_hops,
        skip_xff_append: from.skip_xff_append,
        internal,
    })
}

fn client_cert(
    from: &hcm::HttpConnectionManager,
    ignored: &mut Vec<String>,
) -> Result<ClientCertOptions, Fault> {
    use hcm::http_connection_manager::ForwardClientCertDetails as From;
    let forward = match From::try_from(from.forward_client_cert_details) {
        Ok(From::Sanitize) => ForwardClientCert::Sanitize,
        Ok(From::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(From::AppendForward) => ForwardClientCert::AppendForward,
        Ok(From::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Ok(From::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Err(_) => return unsupported("forward_client_cert_details"),
    };
    let details = match &from.set_current_client_cert_details {
        None => ClientCertDetails::default(),
        Some(details) => {
            CERTIFICATE.audit(details, ignored)?;
            ClientCertDetails {
                subject: details.subject.is_some_and(|on| on.value),
                cert: details.cert,
                chain: details.chain,
                dns: details.dns,
                uri: details.uri,
            }
        }
    };
    Ok(ClientCertOptions { forward, details })
}

fn http1(
    from: &hcm::HttpConnectionManager,
    ignored: &mut Vec<String>,
) -> Result<Http1Options, Fault> {
    let own = from.http_protocol_options.clone().unwrap_or_default();
    HTTP1.audit(&own, ignored)?;
    Ok(Http1Options {
        accept_http_10: own.accept_http_10,
        default_host_for_http_10: header_value(
            "default_host_for_http_10",
            &own.default_host_for_http_10,
        )?,
        allow_absolute_url: own.allow_absolute_url.is_none_or(|on| on.value),
        keep_after_error: own
            .override_stream_error_on_invalid_http_message
            .or(from.stream_error_on_invalid_http_message)
            .is_some_and(|on| on.value),
    })
}

fn upgrades(
    from: &[hcm::http_connection_manager::UpgradeConfig],
    ignored: &mut Vec<String>,
) -> Result<Upgrades, Fault> {
    let mut names = Vec::with_capacity(from.len());
    for config in from {
        UPGRADE.audit(config, ignored)?;
        let name = config.upgrade_type.to_ascii_lowercase();
        if name == "connect-udp" {
            return unsupported("upgrade_configs CONNECT-UDP");
        }
        if config.enabled.is_none_or(|on| on.value) {
            names.push(name);
        }
    }
    Ok(Upgrades(names))
}
