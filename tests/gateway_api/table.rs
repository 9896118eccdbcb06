//! Every test of the official suite, with the features that it is for and what becomes of it here.

use crate::stand::{Outcome, Stand};
use crate::{
    gateway, grpc, http_backends, http_filters, http_matching, http_references, mesh, policy, tcp,
    tls,
};

/// One test of the official suite.
pub(crate) struct Test {
    /// Its short name there.
    pub(crate) name: &'static str,
    pub(crate) features: &'static [&'static str],
    pub(crate) how: How,
}

/// What becomes of a test.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// It passes.
    Runs(fn(&Stand) -> Outcome),
    /// It does not pass, because of this; when it does, the table is wrong.
    #[allow(dead_code, reason = "none at present")]
    Fails(fn(&Stand) -> Outcome, &'static str),
    /// It is for what we do not do, because of this.
    Left(&'static str),
}

const fn runs(
    name: &'static str,
    features: &'static [&'static str],
    test: fn(&Stand) -> Outcome,
) -> Test {
    Test {
        name,
        features,
        how: How::Runs(test),
    }
}

#[allow(dead_code, reason = "for the next that does not pass yet")]
const fn fails(
    name: &'static str,
    features: &'static [&'static str],
    test: fn(&Stand) -> Outcome,
    why: &'static str,
) -> Test {
    Test {
        name,
        features,
        how: How::Fails(test, why),
    }
}

const fn left(name: &'static str, features: &'static [&'static str], why: &'static str) -> Test {
    Test {
        name,
        features,
        how: How::Left(why),
    }
}

/// By the module that holds them.
pub(crate) const GROUPS: &[(&str, &[Test])] = &[
    (
        "gateway",
        &[
            runs(
                "GatewayFrontendInvalidDefaultClientCertificateValidation",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "GatewayFrontendClientCertificateValidation",
                ],
                gateway::gateway_frontend_invalid_default_client_certificate_validation,
            ),
            runs(
                "GatewayListenerUnsupportedProtocol",
                &["Gateway"],
                gateway::gateway_listener_unsupported_protocol,
            ),
            runs(
                "GatewayInvalidParametersRef",
                &["Gateway"],
                gateway::gateway_invalid_parameters_ref,
            ),
            runs(
                "GatewayInvalidRouteKind",
                &["Gateway"],
                gateway::gateway_invalid_route_kind,
            ),
            runs(
                "GatewayInvalidTLSBackendConfiguration",
                &[
                    "Gateway",
                    "GatewayBackendClientCertificate",
                    "HTTPRoute",
                    "BackendTLSPolicy",
                ],
                gateway::gateway_invalid_tls_backend_configuration,
            ),
            runs(
                "GatewayInvalidTLSConfiguration",
                &["Gateway"],
                gateway::gateway_invalid_tls_configuration,
            ),
            runs(
                "GatewayModifyListeners",
                &["Gateway"],
                gateway::gateway_modify_listeners,
            ),
            runs(
                "GatewayNameMaximumLength",
                &["Gateway"],
                gateway::gateway_name_maximum_length,
            ),
            runs(
                "GatewayObservedGenerationBump",
                &["Gateway"],
                gateway::gateway_observed_generation_bump,
            ),
            runs(
                "GatewayOptionalAddressValue",
                &["Gateway", "GatewayAddressEmpty"],
                gateway::gateway_optional_address_value,
            ),
            runs(
                "GatewaySecretInvalidReferenceGrant",
                &["Gateway", "ReferenceGrant"],
                gateway::gateway_secret_invalid_reference_grant,
            ),
            runs(
                "GatewaySecretMissingReferenceGrant",
                &["Gateway", "ReferenceGrant"],
                gateway::gateway_secret_missing_reference_grant,
            ),
            runs(
                "GatewaySecretReferenceGrantAllInNamespace",
                &["Gateway", "ReferenceGrant"],
                gateway::gateway_secret_reference_grant_all_in_namespace,
            ),
            runs(
                "GatewaySecretReferenceGrantSpecific",
                &["Gateway", "ReferenceGrant"],
                gateway::gateway_secret_reference_grant_specific,
            ),
            runs(
                "GatewayStaticAddresses",
                &["Gateway", "GatewayStaticAddresses"],
                gateway::gateway_static_addresses,
            ),
            runs(
                "GatewayTLSBackendClientCertificate",
                &[
                    "Gateway",
                    "GatewayBackendClientCertificate",
                    "HTTPRoute",
                    "BackendTLSPolicy",
                ],
                gateway::gateway_tls_backend_client_certificate,
            ),
            runs(
                "GatewayWithAttachedRoutes",
                &["Gateway", "HTTPRoute"],
                gateway::gateway_with_attached_routes,
            ),
            runs(
                "GatewayWithAttachedRoutesWithPort8080",
                &["Gateway", "GatewayPort8080", "HTTPRoute"],
                gateway::gateway_with_attached_routes_with_port_8080,
            ),
            runs(
                "GatewayFrontendClientCertificateValidationInsecureFallback",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "GatewayFrontendClientCertificateValidation",
                    "GatewayFrontendClientCertificateValidationInsecureFallback",
                ],
                gateway::gateway_frontend_client_certificate_validation_insecure_fallback,
            ),
            runs(
                "GatewayFrontendClientCertificateValidation",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "GatewayFrontendClientCertificateValidation",
                ],
                gateway::gateway_frontend_client_certificate_validation,
            ),
            runs(
                "GatewayInvalidFrontendClientCertificateValidation",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "ReferenceGrant",
                    "GatewayFrontendClientCertificateValidation",
                ],
                gateway::gateway_invalid_frontend_client_certificate_validation,
            ),
            runs(
                "GatewayClassObservedGenerationBump",
                &["Gateway"],
                gateway::gateway_class_observed_generation_bump,
            ),
        ],
    ),
    (
        "http_matching",
        &[
            runs(
                "GatewayHTTPListenerIsolation",
                &["Gateway", "GatewayHTTPListenerIsolation", "HTTPRoute"],
                http_matching::gateway_http_listener_isolation,
            ),
            runs(
                "HTTPRouteCrossNamespace",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_cross_namespace,
            ),
            runs(
                "HTTPRouteExactPathMatching",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_exact_path_matching,
            ),
            runs(
                "HTTPRouteHeaderMatching",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_header_matching,
            ),
            runs(
                "HTTPRouteHostnameIntersection",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_hostname_intersection,
            ),
            runs(
                "HTTPRouteHTTPSListenerDetectMisdirectedRequests",
                &[
                    "Gateway",
                    "GatewayHTTPSListenerDetectMisdirectedRequests",
                    "HTTPRoute",
                ],
                http_matching::http_route_https_listener_detect_misdirected_requests,
            ),
            runs(
                "HTTPRouteHTTPSListener",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_https_listener,
            ),
            runs(
                "HTTPRouteListenerHostnameMatching",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_listener_hostname_matching,
            ),
            runs(
                "HTTPRouteListenerPortMatching",
                &["Gateway", "HTTPRoute", "HTTPRouteParentRefPort"],
                http_matching::http_route_listener_port_matching,
            ),
            runs(
                "HTTPRouteMatchingAcrossRoutes",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_matching_across_routes,
            ),
            runs(
                "HTTPRouteMatching",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_matching,
            ),
            runs(
                "HTTPRouteMethodMatching",
                &["Gateway", "HTTPRoute", "HTTPRouteMethodMatching"],
                http_matching::http_route_method_matching,
            ),
            runs(
                "HTTPRouteMultipleGateways",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_multiple_gateways,
            ),
            runs(
                "HTTPRouteNamedRule",
                &["Gateway", "HTTPRoute", "HTTPRouteNamedRouteRule"],
                http_matching::http_route_named_rule,
            ),
            runs(
                "HTTPRoutePathMatchOrder",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_path_match_order,
            ),
            runs(
                "HTTPRouteQueryParamMatching",
                &["Gateway", "HTTPRoute", "HTTPRouteQueryParamMatching"],
                http_matching::http_route_query_param_matching,
            ),
            runs(
                "HTTPRouteSimpleSameNamespace",
                &["Gateway", "HTTPRoute"],
                http_matching::http_route_simple_same_namespace,
            ),
        ],
    ),
    (
        "http_filters",
        &[
            runs(
                "HTTPRoute303Redirect",
                &["Gateway", "HTTPRoute", "HTTPRoute303RedirectStatusCode"],
                http_filters::http_route_303_redirect,
            ),
            runs(
                "HTTPRoute307Redirect",
                &["Gateway", "HTTPRoute", "HTTPRoute307RedirectStatusCode"],
                http_filters::http_route_307_redirect,
            ),
            runs(
                "HTTPRoute308Redirect",
                &["Gateway", "HTTPRoute", "HTTPRoute308RedirectStatusCode"],
                http_filters::http_route_308_redirect,
            ),
            runs(
                "HTTPRouteBackendRequestRedirect",
                &["Gateway", "HTTPRoute", "HTTPRouteBackendRequestRedirect"],
                http_filters::http_route_backend_request_redirect,
            ),
            runs(
                "HTTPRouteBackendURLRewrite",
                &["Gateway", "HTTPRoute", "HTTPRouteBackendURLRewrite"],
                http_filters::http_route_backend_url_rewrite,
            ),
            runs(
                "HTTPRouteCORS",
                &["Gateway", "HTTPRoute", "HTTPRouteCORS"],
                http_filters::http_route_cors,
            ),
            runs(
                "HTTPRouteRedirectHostAndStatus",
                &["Gateway", "HTTPRoute"],
                http_filters::http_route_redirect_host_and_status,
            ),
            runs(
                "HTTPRouteRedirectPath",
                &["Gateway", "HTTPRoute", "HTTPRoutePathRedirect"],
                http_filters::http_route_redirect_path,
            ),
            runs(
                "HTTPRouteRedirectPortAndScheme",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "HTTPRoutePortRedirect",
                    "GatewayPort8080",
                ],
                http_filters::http_route_redirect_port_and_scheme,
            ),
            runs(
                "HTTPRouteRedirectPort",
                &["Gateway", "HTTPRoute", "HTTPRoutePortRedirect"],
                http_filters::http_route_redirect_port,
            ),
            runs(
                "HTTPRouteRedirectScheme",
                &["Gateway", "HTTPRoute", "HTTPRouteSchemeRedirect"],
                http_filters::http_route_redirect_scheme,
            ),
            runs(
                "HTTPRouteRequestHeaderModifierBackendWeights",
                &[
                    "Gateway",
                    "HTTPRouteBackendRequestHeaderModification",
                    "HTTPRoute",
                ],
                http_filters::http_route_request_header_modifier_backend_weights,
            ),
            runs(
                "HTTPRouteBackendRequestHeaderModifier",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "HTTPRouteBackendRequestHeaderModification",
                ],
                http_filters::http_route_backend_request_header_modifier,
            ),
            runs(
                "HTTPRouteRequestHeaderModifier",
                &["Gateway", "HTTPRoute"],
                http_filters::http_route_request_header_modifier,
            ),
            runs(
                "HTTPRouteRequestMirror",
                &["Gateway", "HTTPRoute", "HTTPRouteRequestMirror"],
                http_filters::http_route_request_mirror,
            ),
            runs(
                "HTTPRouteRequestMultipleMirrors",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "HTTPRouteRequestMirror",
                    "HTTPRouteRequestMultipleMirrors",
                ],
                http_filters::http_route_request_multiple_mirrors,
            ),
            runs(
                "HTTPRouteRequestPercentageMirror",
                &["Gateway", "HTTPRoute", "HTTPRouteRequestPercentageMirror"],
                http_filters::http_route_request_percentage_mirror,
            ),
            runs(
                "HTTPRouteResponseHeaderModifier",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "HTTPRouteResponseHeaderModification",
                ],
                http_filters::http_route_response_header_modifier,
            ),
            runs(
                "HTTPRouteRewriteHost",
                &["Gateway", "HTTPRoute", "HTTPRouteHostRewrite"],
                http_filters::http_route_rewrite_host,
            ),
            runs(
                "HTTPRouteRewritePath",
                &["Gateway", "HTTPRoute", "HTTPRoutePathRewrite"],
                http_filters::http_route_rewrite_path,
            ),
        ],
    ),
    (
        "http_backends",
        &[
            runs(
                "HTTPRouteBackendProtocolH2C",
                &["Gateway", "HTTPRoute", "HTTPRouteBackendProtocolH2C"],
                http_backends::http_route_backend_protocol_h2c,
            ),
            runs(
                "HTTPRouteBackendProtocolWebSocket",
                &["Gateway", "HTTPRoute", "HTTPRouteBackendProtocolWebSocket"],
                http_backends::http_route_backend_protocol_web_socket,
            ),
            runs(
                "HTTPRouteNoBackendRefs",
                &["Gateway", "HTTPRoute"],
                http_backends::http_route_no_backend_refs,
            ),
            runs(
                "HTTPRouteRetryConnectionError",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "HTTPRouteRetry",
                    "HTTPRouteRetryConnectionError",
                ],
                http_backends::http_route_retry_connection_error,
            ),
            runs(
                "HTTPRouteRetryWithTimeouts",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "HTTPRouteRetry",
                    "HTTPRouteRetryBackendTimeout",
                    "HTTPRouteRequestTimeout",
                    "HTTPRouteBackendTimeout",
                ],
                http_backends::http_route_retry_with_timeouts,
            ),
            runs(
                "HTTPRouteRetry",
                &["Gateway", "HTTPRoute", "HTTPRouteRetry"],
                http_backends::http_route_retry,
            ),
            runs(
                "HTTPRouteServiceTypes",
                &["Gateway", "HTTPRoute"],
                http_backends::http_route_service_types,
            ),
            runs(
                "HTTPRouteTimeoutBackendRequest",
                &["Gateway", "HTTPRoute", "HTTPRouteBackendTimeout"],
                http_backends::http_route_timeout_backend_request,
            ),
            runs(
                "HTTPRouteTimeoutRequest",
                &["Gateway", "HTTPRoute", "HTTPRouteRequestTimeout"],
                http_backends::http_route_timeout_request,
            ),
            runs(
                "HTTPRouteWeight",
                &["Gateway", "HTTPRoute"],
                http_backends::http_route_weight,
            ),
        ],
    ),
    (
        "http_references",
        &[
            runs(
                "HTTPRouteDisallowedKind",
                &["Gateway", "HTTPRoute", "TLSRoute"],
                http_references::http_route_disallowed_kind,
            ),
            runs(
                "HTTPRouteInvalidBackendRefUnknownKind",
                &["Gateway", "HTTPRoute"],
                http_references::http_route_invalid_backend_ref_unknown_kind,
            ),
            runs(
                "HTTPRouteInvalidCrossNamespaceBackendRef",
                &["Gateway", "HTTPRoute", "ReferenceGrant"],
                http_references::http_route_invalid_cross_namespace_backend_ref,
            ),
            runs(
                "HTTPRouteInvalidCrossNamespaceParentRef",
                &["Gateway", "HTTPRoute"],
                http_references::http_route_invalid_cross_namespace_parent_ref,
            ),
            runs(
                "HTTPRouteInvalidNonExistentBackendRef",
                &["Gateway", "HTTPRoute"],
                http_references::http_route_invalid_non_existent_backend_ref,
            ),
            runs(
                "HTTPRouteInvalidParentRefNotMatchingListenerPort",
                &["Gateway", "HTTPRoute", "HTTPRouteDestinationPortMatching"],
                http_references::http_route_invalid_parent_ref_not_matching_listener_port,
            ),
            runs(
                "HTTPRouteInvalidParentRefNotMatchingSectionName",
                &["Gateway", "HTTPRoute"],
                http_references::http_route_invalid_parent_ref_not_matching_section_name,
            ),
            runs(
                "HTTPRouteInvalidParentRefSectionNameNotMatchingPort",
                &["Gateway", "HTTPRoute", "HTTPRouteParentRefPort"],
                http_references::http_route_invalid_parent_ref_section_name_not_matching_port,
            ),
            runs(
                "HTTPRouteInvalidReferenceGrant",
                &["Gateway", "HTTPRoute", "ReferenceGrant"],
                http_references::http_route_invalid_reference_grant,
            ),
            runs(
                "HTTPRouteObservedGenerationBump",
                &["Gateway", "HTTPRoute"],
                http_references::http_route_observed_generation_bump,
            ),
            runs(
                "HTTPRoutePartiallyInvalidViaInvalidReferenceGrant",
                &["Gateway", "HTTPRoute", "ReferenceGrant"],
                http_references::http_route_partially_invalid_via_invalid_reference_grant,
            ),
            runs(
                "HTTPRouteReferenceGrant",
                &["Gateway", "HTTPRoute", "ReferenceGrant"],
                http_references::http_route_reference_grant,
            ),
        ],
    ),
    (
        "grpc",
        &[
            runs(
                "GRPCExactMethodMatching",
                &["Gateway", "GRPCRoute"],
                grpc::grpc_exact_method_matching,
            ),
            runs(
                "GRPCRouteHeaderMatching",
                &["Gateway", "GRPCRoute"],
                grpc::grpc_route_header_matching,
            ),
            runs(
                "GRPCRouteListenerHostnameMatching",
                &["Gateway", "GRPCRoute"],
                grpc::grpc_route_listener_hostname_matching,
            ),
            runs(
                "GRPCRouteNamedRule",
                &["Gateway", "GRPCRoute", "GRPCRouteNamedRouteRule"],
                grpc::grpc_route_named_rule,
            ),
            runs(
                "GRPCRouteRequestHeaderModifier",
                &["Gateway", "GRPCRoute", "GRPCRouteRequestHeaderModifier"],
                grpc::grpc_route_request_header_modifier,
            ),
            runs(
                "GRPCRouteWeight",
                &["Gateway", "GRPCRoute"],
                grpc::grpc_route_weight,
            ),
        ],
    ),
    (
        "tls",
        &[
            runs(
                "TLSRouteHostnameIntersection",
                &["Gateway", "TLSRoute"],
                tls::tls_route_hostname_intersection,
            ),
            runs(
                "TLSRouteInvalidBackendRefNonexistent",
                &["Gateway", "TLSRoute"],
                tls::tls_route_invalid_backend_ref_nonexistent,
            ),
            runs(
                "TLSRouteInvalidBackendRefUnknownKind",
                &["Gateway", "TLSRoute"],
                tls::tls_route_invalid_backend_ref_unknown_kind,
            ),
            runs(
                "TLSRouteInvalidNoMatchingListenerHostname",
                &["Gateway", "TLSRoute"],
                tls::tls_route_invalid_no_matching_listener_hostname,
            ),
            runs(
                "TLSRouteInvalidNoMatchingListener",
                &["Gateway", "TLSRoute"],
                tls::tls_route_invalid_no_matching_listener,
            ),
            runs(
                "TLSRouteInvalidReferenceGrant",
                &["Gateway", "TLSRoute", "ReferenceGrant"],
                tls::tls_route_invalid_reference_grant,
            ),
            runs(
                "TLSRouteListenerPassthroughSupportedKinds",
                &["Gateway", "TLSRoute"],
                tls::tls_route_listener_passthrough_supported_kinds,
            ),
            runs(
                "TLSRouteListenerTerminateSupportedKinds",
                &["Gateway", "TLSRoute", "TLSRouteModeTerminate"],
                tls::tls_route_listener_terminate_supported_kinds,
            ),
            runs(
                "TLSRouteMixedTerminationSameNamespace",
                &[
                    "Gateway",
                    "TLSRoute",
                    "TLSRouteModeTerminate",
                    "TLSRouteModeMixed",
                ],
                tls::tls_route_mixed_termination_same_namespace,
            ),
            runs(
                "TLSRouteSimpleSameNamespace",
                &["Gateway", "TLSRoute"],
                tls::tls_route_simple_same_namespace,
            ),
            runs(
                "TLSRouteTerminateSimpleSameNamespace",
                &["Gateway", "TLSRoute", "TLSRouteModeTerminate"],
                tls::tls_route_terminate_simple_same_namespace,
            ),
        ],
    ),
    (
        "tcp",
        &[
            runs(
                "TCPRouteInvalidBackendRefNonexistent",
                &["Gateway", "TCPRoute"],
                tcp::tcp_route_invalid_backend_ref_nonexistent,
            ),
            runs(
                "TCPRouteInvalidCrossNamespaceBackendRef",
                &["Gateway", "TCPRoute", "ReferenceGrant"],
                tcp::tcp_route_invalid_cross_namespace_backend_ref,
            ),
            runs(
                "TCPRouteInvalidNonTCPListener",
                &["Gateway", "TCPRoute"],
                tcp::tcp_route_invalid_non_tcp_listener,
            ),
            runs(
                "TCPRouteMultipleRoutesAttachment",
                &["Gateway", "TCPRoute"],
                tcp::tcp_route_multiple_routes_attachment,
            ),
            runs(
                "TCPRouteParentRefAttachAll",
                &["Gateway", "TCPRoute"],
                tcp::tcp_route_parent_ref_attach_all,
            ),
            runs(
                "TCPRouteParentRefPortAndSectionName",
                &["Gateway", "TCPRoute"],
                tcp::tcp_route_parent_ref_port_and_section_name,
            ),
            runs(
                "TCPRouteReferenceGrant",
                &["Gateway", "TCPRoute", "ReferenceGrant"],
                tcp::tcp_route_reference_grant,
            ),
            runs(
                "TCPRouteWeightedRouting",
                &["Gateway", "TCPRoute"],
                tcp::tcp_route_weighted_routing,
            ),
        ],
    ),
    (
        "policy",
        &[
            runs(
                "BackendTLSPolicyConflictResolution",
                &["Gateway", "HTTPRoute", "BackendTLSPolicy"],
                policy::backend_tls_policy_conflict_resolution,
            ),
            runs(
                "BackendTLSPolicyGRPCRoute",
                &["Gateway", "GRPCRoute", "BackendTLSPolicy"],
                policy::backend_tls_policy_grpc_route,
            ),
            runs(
                "BackendTLSPolicyInvalidCACertificateRef",
                &["Gateway", "HTTPRoute", "BackendTLSPolicy"],
                policy::backend_tls_policy_invalid_ca_certificate_ref,
            ),
            runs(
                "BackendTLSPolicyInvalidKind",
                &["Gateway", "HTTPRoute", "BackendTLSPolicy"],
                policy::backend_tls_policy_invalid_kind,
            ),
            runs(
                "BackendTLSPolicyObservedGenerationBump",
                &["Gateway", "HTTPRoute", "BackendTLSPolicy"],
                policy::backend_tls_policy_observed_generation_bump,
            ),
            runs(
                "BackendTLSPolicySANValidation",
                &[
                    "Gateway",
                    "HTTPRoute",
                    "BackendTLSPolicy",
                    "BackendTLSPolicySANValidation",
                ],
                policy::backend_tls_policy_san_validation,
            ),
            runs(
                "BackendTLSPolicyTLSRouteTerminate",
                &[
                    "Gateway",
                    "TLSRoute",
                    "TLSRouteModeTerminate",
                    "BackendTLSPolicy",
                ],
                policy::backend_tls_policy_tls_route_terminate,
            ),
            runs(
                "BackendTLSPolicy",
                &["Gateway", "HTTPRoute", "BackendTLSPolicy"],
                policy::backend_tls_policy,
            ),
        ],
    ),
    (
        "mesh",
        &[
            runs(
                "MeshGRPCRouteRequestHeaderModifier",
                &["Mesh", "GRPCRoute"],
                mesh::mesh_grpc_route_request_header_modifier,
            ),
            runs(
                "MeshGRPCRouteWeight",
                &["Mesh", "GRPCRoute"],
                mesh::mesh_grpc_route_weight,
            ),
            runs(
                "MeshHTTPRoute303Redirect",
                &["Mesh", "HTTPRoute", "HTTPRoute303RedirectStatusCode"],
                mesh::mesh_http_route_303_redirect,
            ),
            runs(
                "MeshHTTPRoute307Redirect",
                &["Mesh", "HTTPRoute", "HTTPRoute307RedirectStatusCode"],
                mesh::mesh_http_route_307_redirect,
            ),
            runs(
                "MeshHTTPRoute308Redirect",
                &["Mesh", "HTTPRoute", "HTTPRoute308RedirectStatusCode"],
                mesh::mesh_http_route_308_redirect,
            ),
            runs(
                "MeshHTTPRouteMatching",
                &["Mesh", "HTTPRoute"],
                mesh::mesh_http_route_matching,
            ),
            runs(
                "MeshHTTPRouteNamedRule",
                &["Mesh", "HTTPRoute", "MeshHTTPRouteNamedRouteRule"],
                mesh::mesh_http_route_named_rule,
            ),
            runs(
                "MeshHTTPRouteQueryParamMatching",
                &["Mesh", "HTTPRoute", "MeshHTTPRouteQueryParamMatching"],
                mesh::mesh_http_route_query_param_matching,
            ),
            runs(
                "MeshHTTPRouteRedirectHostAndStatus",
                &["Mesh", "HTTPRoute"],
                mesh::mesh_http_route_redirect_host_and_status,
            ),
            runs(
                "MeshHTTPRouteRedirectPath",
                &["Mesh", "HTTPRoute", "MeshHTTPRouteRedirectPath"],
                mesh::mesh_http_route_redirect_path,
            ),
            runs(
                "MeshHTTPRouteRedirectPort",
                &["Mesh", "HTTPRoute", "MeshHTTPRouteRedirectPort"],
                mesh::mesh_http_route_redirect_port,
            ),
            runs(
                "MeshHTTPRouteSchemeRedirect",
                &["Mesh", "HTTPRoute", "MeshHTTPRouteSchemeRedirect"],
                mesh::mesh_http_route_scheme_redirect,
            ),
            runs(
                "MeshHTTPRouteBackendRequestHeaderModifier",
                &[
                    "Mesh",
                    "HTTPRoute",
                    "MeshHTTPRouteBackendRequestHeaderModification",
                ],
                mesh::mesh_http_route_backend_request_header_modifier,
            ),
            runs(
                "MeshHTTPRouteRequestHeaderModifier",
                &["Mesh", "HTTPRoute"],
                mesh::mesh_http_route_request_header_modifier,
            ),
            runs(
                "MeshHTTPRouteRewritePath",
                &["Mesh", "HTTPRoute", "MeshHTTPRouteRewritePath"],
                mesh::mesh_http_route_rewrite_path,
            ),
            runs(
                "MeshHTTPRouteSimpleSameNamespace",
                &["Mesh", "HTTPRoute"],
                mesh::mesh_http_route_simple_same_namespace,
            ),
            runs(
                "MeshHTTPRouteWeight",
                &["Mesh", "HTTPRoute"],
                mesh::mesh_http_route_weight,
            ),
            runs("MeshBasic", &["Mesh"], mesh::mesh_basic),
            runs(
                "MeshConsumerRoute",
                &[
                    "Mesh",
                    "MeshConsumerRoute",
                    "HTTPRoute",
                    "HTTPRouteResponseHeaderModification",
                ],
                mesh::mesh_consumer_route,
            ),
            runs(
                "MeshFrontend",
                &["Mesh", "HTTPRoute", "HTTPRouteResponseHeaderModification"],
                mesh::mesh_frontend,
            ),
            runs(
                "MeshPorts",
                &[
                    "Mesh",
                    "HTTPRoute",
                    "HTTPRouteParentRefPort",
                    "HTTPRouteResponseHeaderModification",
                ],
                mesh::mesh_ports,
            ),
            runs(
                "MeshTrafficSplit",
                &["Mesh", "HTTPRoute"],
                mesh::mesh_traffic_split,
            ),
        ],
    ),
    (
        "left",
        &[
            left(
                "GatewayInfrastructure",
                &["Gateway", "GatewayInfrastructurePropagation"],
                "meshctl starts no processes for a Gateway that could carry its labels and annotations; a gateway is `meshctl proxy --gateway`",
            ),
            left(
                "ListenerSetAllowedNamespaceNone",
                &["Gateway", "ListenerSet"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetAllowedNamespaceSame",
                &["Gateway", "ListenerSet"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetAllowedNamespaceSelector",
                &["Gateway", "ListenerSet"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetAllowedRoutesNamespaces",
                &["Gateway", "ListenerSet", "HTTPRoute", "ReferenceGrant"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetAllowedRoutesSupportedKinds",
                &["Gateway", "ListenerSet", "TLSRoute"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetDefaultNotAllowed",
                &["Gateway", "ListenerSet"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetDualParentRefIndependence",
                &["Gateway", "ListenerSet", "HTTPRoute"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetGatewayParentSectionNameNotFound",
                &["Gateway", "ListenerSet", "HTTPRoute"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetHostnameConflict",
                &["Gateway", "ListenerSet"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetHTTPRouting",
                &["Gateway", "ListenerSet", "HTTPRoute"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetProtocolConflict",
                &["Gateway", "ListenerSet"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetReferenceGrant",
                &["Gateway", "ListenerSet", "ReferenceGrant"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "ListenerSetRouteStatusScopedToParentRef",
                &["Gateway", "ListenerSet", "HTTPRoute"],
                "ListenerSet is not supported: list the listeners in their Gateway",
            ),
            left(
                "TLSRouteListenerMixedTerminationNotSupported",
                &["Gateway", "TLSRoute", "TLSRouteModeTerminate"],
                "for implementations without `TLSRouteModeMixed`",
            ),
            left(
                "TLSRouteListenerTerminateNotSupported",
                &["Gateway", "TLSRoute"],
                "for implementations without `TLSRouteModeTerminate`",
            ),
            left(
                "UDPRouteInvalidBackendRefNonexistent",
                &["Gateway", "UDPRoute"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteInvalidCrossNamespaceBackendRef",
                &["Gateway", "UDPRoute", "ReferenceGrant"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteMultipleRoutesAttachment",
                &["Gateway", "UDPRoute"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteNotAllowedByListeners",
                &["Gateway", "UDPRoute"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteParentRefAttachAllListeners",
                &["Gateway", "UDPRoute"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteParentRefPortAndSectionName",
                &["Gateway", "UDPRoute"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteReferenceGrant",
                &["Gateway", "UDPRoute", "ReferenceGrant"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRoute",
                &["UDPRoute", "Gateway"],
                "the proxy carries no UDP",
            ),
            left(
                "UDPRouteWeightedRouting",
                &["Gateway", "UDPRoute"],
                "the proxy carries no UDP",
            ),
            left(
                "MeshFrontendHostname",
                &[
                    "Mesh",
                    "MeshClusterIPMatching",
                    "HTTPRoute",
                    "HTTPRouteResponseHeaderModification",
                ],
                "requests are routed by their Host, as in Istio; this wants the address of the Service to decide",
            ),
        ],
    ),
];
