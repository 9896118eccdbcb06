//! Asking somebody outside whether a request may be made.

use std::time::Duration;

use super::super::pb::{
    HttpStatus, core, ext_authz as pb, matcher, network_ext_authz as network_pb,
};
use super::super::structs::{NOTED_BY, NOTED_OF_BYTES_BY, NOTED_POLICY};
use super::fields::Fields;
use super::rbac::words;
use super::route::unsupported;
use super::{Fault, duration_or};
use crate::mesh::ext_authz::{
    Asks, AsksHttp, CheckedBody, ExtAuthz, STATUS_ON_ERROR, TIMEOUT, WhenNoted,
};
use crate::mesh::route::TextMatch;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[
    &EXT_AUTHZ,
    &NETWORK,
    &GRPC,
    &ENVOY_GRPC,
    &HTTP,
    &REQUEST,
    &RESPONSE,
    &METADATA,
];

const EXT_AUTHZ: Fields = Fields {
    message: "ExtAuthz",
    understood: &[
        (1, "grpc_service"),
        (2, "failure_mode_allow"),
        (3, "http_service"),
        (5, "with_request_body"),
        (6, "clear_route_cache"),
        (7, "status_on_error"),
        (10, "include_peer_certificate"),
        (12, "transport_api_version"),
        (13, "stat_prefix"),
        (14, "filter_enabled_metadata"),
        (17, "allowed_headers"),
        (18, "include_tls_session"),
        (19, "failure_mode_allow_header_add"),
        (25, "disallowed_headers"),
    ],
    tuning: &[
        // Metadata that is not kept is not told either.
        (8, "metadata_context_namespaces"),
        (16, "typed_metadata_context_namespaces"),
        (20, "charge_cluster_response_stats"),
        (21, "route_metadata_context_namespaces"),
        (22, "route_typed_metadata_context_namespaces"),
        // Answers that cannot be honoured are errors always.
        (24, "validate_mutations"),
        (27, "enable_dynamic_metadata_ingestion"),
        (28, "filter_metadata"),
        (29, "emit_filter_state_stats"),
        (31, "enforce_response_header_limits"),
        (33, "emit_client_span"),
    ],
    refused: &[
        (9, "filter_enabled"),
        (11, "deny_at_disable"),
        (15, "bootstrap_metadata_labels_key"),
        (23, "encode_raw_headers"),
        (26, "decoder_header_mutation_rules"),
        (30, "max_denied_response_body_bytes"),
        (32, "shadow_mode"),
    ],
};
const NETWORK: Fields = Fields {
    message: "network.ExtAuthz",
    understood: &[
        (1, "stat_prefix"),
        (2, "grpc_service"),
        (3, "failure_mode_allow"),
        (4, "include_peer_certificate"),
        (5, "transport_api_version"),
        (6, "filter_enabled_metadata"),
        (8, "include_tls_session"),
    ],
    tuning: &[
        // Metadata that is not kept is not told either.
        (10, "metadata_context_namespaces"),
        (11, "typed_metadata_context_namespaces"),
        // Who is refused is cut off, by TLS too.
        (9, "send_tls_alert_on_denial"),
    ],
    refused: &[(7, "bootstrap_metadata_labels_key"), (12, "shadow_mode")],
};
const GRPC: Fields = Fields {
    message: "GrpcService",
    understood: &[(1, "envoy_grpc"), (3, "timeout"), (5, "initial_metadata")],
    tuning: &[],
    refused: &[(2, "google_grpc"), (6, "retry_policy")],
};
const ENVOY_GRPC: Fields = Fields {
    message: "GrpcService.EnvoyGrpc",
    understood: &[(1, "cluster_name"), (2, "authority")],
    // Answers have a limit of their own.
    tuning: &[(4, "max_receive_message_length")],
    refused: &[(3, "retry_policy"), (5, "skip_envoy_headers")],
};
const HTTP: Fields = Fields {
    message: "ExtAuthz.HttpService",
    understood: &[
        (1, "server_uri"),
        (2, "path_prefix"),
        (7, "authorization_request"),
        (8, "authorization_response"),
        (10, "path_override"),
    ],
    tuning: &[],
    refused: &[(9, "retry_policy")],
};
const REQUEST: Fields = Fields {
    message: "ExtAuthz.AuthorizationRequest",
    understood: &[(1, "allowed_headers"), (2, "headers_to_add")],
    tuning: &[],
    refused: &[],
};
const RESPONSE: Fields = Fields {
    message: "ExtAuthz.AuthorizationResponse",
    understood: &[
        (1, "allowed_upstream_headers"),
        (2, "allowed_client_headers"),
        (3, "allowed_upstream_headers_to_append"),
        (4, "allowed_client_headers_on_success"),
    ],
    // Nobody asks for it.
    tuning: &[(5, "dynamic_metadata_from_headers")],
    refused: &[],
};
const METADATA: Fields = Fields {
    message: "MetadataMatcher",
    understood: &[(1, "filter"), (2, "path"), (3, "value")],
    tuning: &[],
    refused: &[(4, "invert")],
};

pub(super) fn decode(from: &pb::ExtAuthz, ignored: &mut Vec<String>) -> Result<ExtAuthz, Fault> {
    use pb::ext_authz::Services;
    EXT_AUTHZ.audit(from, ignored)?;
    match core::ApiVersion::try_from(from.transport_api_version) {
        Ok(core::ApiVersion::V3 | core::ApiVersion::Auto) => {}
        _ => return unsupported("ExtAuthz", "transport_api_version"),
    }
    let mut allowed_headers = names(from.allowed_headers.as_ref(), ignored)?;
    let (asks, timeout) = match &from.services {
        Some(Services::GrpcService(service)) => grpc(service, ignored)?,
        Some(Services::HttpService(service)) => {
            let (asks, timeout, older) = http(service, ignored)?;
            if allowed_headers.is_empty() {
                allowed_headers = older;
            }
            (asks, timeout)
        }
        None => {
            return Err(Fault::Invalid(
                "ext_authz has no service that is asked".to_owned(),
            ));
        }
    };
    if asks.cluster().is_empty() {
        return Err(Fault::Invalid("ext_authz names no cluster".to_owned()));
    }
    Ok(ExtAuthz {
        stat_prefix: from.stat_prefix.clone(),
        asks,
        timeout,
        fail_open: from.failure_mode_allow,
        tells_fail_open: from.failure_mode_allow_header_add,
        status_on_error: status(from.status_on_error.as_ref())?,
        body: from.with_request_body.map(body).transpose()?,
        clear_route_cache: from.clear_route_cache,
        allowed_headers,
        disallowed_headers: names(from.disallowed_headers.as_ref(), ignored)?,
        peer_certificate: from.include_peer_certificate,
        tls_session: from.include_tls_session,
        when: from
            .filter_enabled_metadata
            .as_ref()
            .map(|when| noted(when, NOTED_BY, ignored))
            .transpose()?,
    })
}

pub(super) fn network(
    from: &network_pb::ExtAuthz,
    ignored: &mut Vec<String>,
) -> Result<ExtAuthz, Fault> {
    NETWORK.audit(from, ignored)?;
    match core::ApiVersion::try_from(from.transport_api_version) {
        Ok(core::ApiVersion::V3 | core::ApiVersion::Auto) => {}
        _ => return unsupported("network.ExtAuthz", "transport_api_version"),
    }
    let service = from
        .grpc_service
        .as_ref()
        .ok_or_else(|| Fault::Invalid("ext_authz has no service that is asked".to_owned()))?;
    let (asks, timeout) = grpc(service, ignored)?;
    if asks.cluster().is_empty() {
        return Err(Fault::Invalid("ext_authz names no cluster".to_owned()));
    }
    let when = from.filter_enabled_metadata.as_ref();
    Ok(ExtAuthz {
        stat_prefix: from.stat_prefix.clone(),
        asks,
        timeout,
        fail_open: from.failure_mode_allow,
        peer_certificate: from.include_peer_certificate,
        tls_session: from.include_tls_session,
        when: when
            .map(|when| noted(when, NOTED_OF_BYTES_BY, ignored))
            .transpose()?,
        ..ExtAuthz::default()
    })
}

fn status(from: Option<&HttpStatus>) -> Result<u16, Fault> {
    let code = from.map_or(i32::from(STATUS_ON_ERROR), |status| status.code);
    match u16::try_from(code) {
        Ok(code @ 400..=599) => Ok(code),
        _ => Err(Fault::Invalid(format!(
            "status_on_error {code} is not the status of an error"
        ))),
    }
}

fn body(from: pb::BufferSettings) -> Result<CheckedBody, Fault> {
    if from.max_request_bytes == 0 {
        return Err(Fault::Invalid(
            "max_request_bytes is not above zero".to_owned(),
        ));
    }
    Ok(CheckedBody {
        max_bytes: from.max_request_bytes,
        partial: from.allow_partial_message,
        as_bytes: from.pack_as_bytes,
    })
}

fn grpc(from: &core::GrpcService, ignored: &mut Vec<String>) -> Result<(Asks, Duration), Fault> {
    use core::grpc_service::TargetSpecifier;
    GRPC.audit(from, ignored)?;
    let Some(TargetSpecifier::EnvoyGrpc(to)) = &from.target_specifier else {
        return unsupported("GrpcService", "google_grpc");
    };
    ENVOY_GRPC.audit(to, ignored)?;
    let asks = Asks::Grpc {
        cluster: to.cluster_name.clone(),
        authority: to.authority.clone(),
        metadata: headers(&from.initial_metadata),
    };
    let timeout = duration_or("timeout", from.timeout.as_ref(), TIMEOUT)?;
    Ok((asks, timeout))
}

/// With the names of headers where they used to stand.
fn http(
    from: &pb::HttpService,
    ignored: &mut Vec<String>,
) -> Result<(Asks, Duration, Vec<TextMatch>), Fault> {
    use core::http_uri::HttpUpstreamType;
    HTTP.audit(from, ignored)?;
    let uri = from.server_uri.clone().unwrap_or_default();
    let timeout = duration_or("timeout", uri.timeout.as_ref(), TIMEOUT)?;
    let cluster = match uri.http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) => name,
        None => String::new(),
    };
    if [&from.path_prefix, &from.path_override]
        .into_iter()
        .any(|path| !path.is_empty() && !path.starts_with('/'))
    {
        return Err(Fault::Invalid("a path begins with /".to_owned()));
    }
    let request = from.authorization_request.clone().unwrap_or_default();
    REQUEST.audit(&request, ignored)?;
    let response = from.authorization_response.clone().unwrap_or_default();
    RESPONSE.audit(&response, ignored)?;
    #[expect(deprecated, reason = "control planes still send it")]
    let older = names(request.allowed_headers.as_ref(), ignored)?;
    let asks = AsksHttp {
        cluster,
        uri: uri.uri,
        path_prefix: from.path_prefix.clone(),
        path_override: from.path_override.clone(),
        headers_to_add: headers(&request.headers_to_add),
        upstream: names(response.allowed_upstream_headers.as_ref(), ignored)?,
        upstream_append: names(
            response.allowed_upstream_headers_to_append.as_ref(),
            ignored,
        )?,
        denied: names(response.allowed_client_headers.as_ref(), ignored)?,
        allowed: names(response.allowed_client_headers_on_success.as_ref(), ignored)?,
    };
    Ok((Asks::Http(Box::new(asks)), timeout, older))
}

fn headers(from: &[core::HeaderValue]) -> Vec<(String, String)> {
    let headers = from.iter();
    headers
        .map(|header| (header.key.to_ascii_lowercase(), header.value.clone()))
        .collect()
}

fn names(
    from: Option<&matcher::ListStringMatcher>,
    ignored: &mut Vec<String>,
) -> Result<Vec<TextMatch>, Fault> {
    let patterns = from.map_or(&[][..], |from| from.patterns.as_slice());
    patterns.iter().map(|of| words(of, ignored)).collect()
}

/// Which policy of rules that are only counted must have held. Other metadata is not kept.
fn noted(
    from: &matcher::MetadataMatcher,
    by: &str,
    ignored: &mut Vec<String>,
) -> Result<WhenNoted, Fault> {
    use matcher::metadata_matcher::path_segment::Segment;
    use matcher::value_matcher::MatchPattern;
    METADATA.audit(from, ignored)?;
    let key = match from.path.as_slice() {
        [only] => only.segment.as_ref().map(|Segment::Key(key)| key.as_str()),
        _ => None,
    };
    let prefix = key.and_then(|key| key.strip_suffix(NOTED_POLICY));
    let value = from.value.as_ref().and_then(|of| of.match_pattern.as_ref());
    match (from.filter.as_str(), prefix, value) {
        (noted_by, Some(prefix), Some(MatchPattern::StringMatch(value))) if noted_by == by => {
            Ok(WhenNoted {
                prefix: prefix.to_owned(),
                policy: words(value, ignored)?,
            })
        }
        _ => unsupported("ExtAuthz", "filter_enabled_metadata"),
    }
}
