//! Asking somebody outside whether a request may be made.

use super::super::pb::{
    Any, HttpStatus, any, core, duration, ext_authz as pb, matcher, network_ext_authz as network_pb,
};
use super::super::structs::{NOTED_BY, NOTED_OF_BYTES_BY, NOTED_POLICY};
use super::rbac::words;
use crate::mesh::Client;
use crate::mesh::ext_authz::{Asks, AsksHttp, ExtAuthz, STATUS_ON_ERROR, WhenNoted};
use crate::mesh::route::TextMatch;

pub(super) fn encode(from: &ExtAuthz, client: Client) -> Any {
    let services = match &from.asks {
        Asks::Grpc {
            cluster,
            authority,
            metadata,
        } => pb::ext_authz::Services::GrpcService(grpc(from, cluster, authority, metadata)),
        Asks::Http(http) => pb::ext_authz::Services::HttpService(self::http(from, http, client)),
    };
    let status = from.status_on_error;
    let body = from.body.map(|body| pb::BufferSettings {
        max_request_bytes: body.max_bytes,
        allow_partial_message: body.partial,
        pack_as_bytes: body.as_bytes,
    });
    any(&pb::ExtAuthz {
        transport_api_version: core::ApiVersion::V3.into(),
        services: Some(services),
        failure_mode_allow: from.fail_open,
        failure_mode_allow_header_add: from.tells_fail_open,
        with_request_body: body,
        clear_route_cache: from.clear_route_cache,
        status_on_error: (status != STATUS_ON_ERROR).then(|| HttpStatus {
            code: i32::from(status),
        }),
        filter_enabled_metadata: from.when.as_ref().map(|when| noted(when, NOTED_BY, client)),
        include_peer_certificate: from.peer_certificate,
        include_tls_session: from.tls_session,
        stat_prefix: from.stat_prefix.clone(),
        allowed_headers: names(&from.allowed_headers, client),
        disallowed_headers: names(&from.disallowed_headers, client),
        ..Default::default()
    })
}

/// For bytes; nobody is asked about those by HTTP.
pub(super) fn network(from: &ExtAuthz, client: Client) -> Any {
    let service = match &from.asks {
        Asks::Grpc {
            cluster,
            authority,
            metadata,
        } => Some(grpc(from, cluster, authority, metadata)),
        Asks::Http(_) => None,
    };
    let when = from.when.as_ref();
    any(&network_pb::ExtAuthz {
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_service: service,
        failure_mode_allow: from.fail_open,
        filter_enabled_metadata: when.map(|when| noted(when, NOTED_OF_BYTES_BY, client)),
        include_peer_certificate: from.peer_certificate,
        include_tls_session: from.tls_session,
        stat_prefix: super::rbac::prefix_of_bytes(&from.stat_prefix, client),
        ..Default::default()
    })
}

fn grpc(
    from: &ExtAuthz,
    cluster: &str,
    authority: &str,
    metadata: &[(String, String)],
) -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            authority: authority.to_owned(),
            ..Default::default()
        })),
        timeout: duration(from.timeout),
        initial_metadata: headers(metadata),
        ..Default::default()
    }
}

fn http(from: &ExtAuthz, http: &AsksHttp, client: Client) -> pb::HttpService {
    let request = pb::AuthorizationRequest {
        headers_to_add: headers(&http.headers_to_add),
        ..Default::default()
    };
    let response = pb::AuthorizationResponse {
        allowed_upstream_headers: names(&http.upstream, client),
        allowed_upstream_headers_to_append: names(&http.upstream_append, client),
        allowed_client_headers: names(&http.denied, client),
        allowed_client_headers_on_success: names(&http.allowed, client),
        ..Default::default()
    };
    pb::HttpService {
        server_uri: Some(core::HttpUri {
            uri: http.uri.clone(),
            timeout: duration(from.timeout),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
                http.cluster.clone(),
            )),
        }),
        path_prefix: http.path_prefix.clone(),
        path_override: http.path_override.clone(),
        authorization_request: (request != pb::AuthorizationRequest::default()).then_some(request),
        authorization_response: (response != pb::AuthorizationResponse::default())
            .then_some(response),
        ..Default::default()
    }
}

fn headers(from: &[(String, String)]) -> Vec<core::HeaderValue> {
    let headers = from.iter().map(|(key, value)| core::HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..Default::default()
    });
    headers.collect()
}

fn names(from: &[TextMatch], client: Client) -> Option<matcher::ListStringMatcher> {
    let patterns = from.iter().map(|of| words(of, client));
    (!from.is_empty()).then(|| matcher::ListStringMatcher {
        patterns: patterns.collect(),
    })
}

/// Rules that are only counted tell Envoy's filters by metadata which policy held.
fn noted(from: &WhenNoted, by: &str, client: Client) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    use matcher::value_matcher::MatchPattern;
    matcher::MetadataMatcher {
        filter: by.to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(format!("{}{NOTED_POLICY}", from.prefix))),
        }],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(MatchPattern::StringMatch(words(&from.policy, client))),
        }),
        invert: false,
    }
}
