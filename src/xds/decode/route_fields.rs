//! The fields of routing messages: understood, harmless, refused.

use super::fields::Fields;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[
    &TABLE,
    &HOST,
    &ROUTE,
    &CONDITION,
    &HEADER,
    &STRING,
    &ACTION,
    &WEIGHTED,
    &CLUSTER_WEIGHT,
    &RETRY,
    &HEDGE,
    &MIRROR,
    &REDIRECT,
    &RESPOND,
];

pub(super) const TABLE: Fields = Fields {
    message: "RouteConfiguration",
    understood: &[
        (1, "name"),
        (2, "virtual_hosts"),
        (7, "validate_clusters"),
        (14, "ignore_port_in_host_matching"),
        (13, "request_mirror_policies"),
        (16, "typed_per_filter_config"),
    ],
    tuning: &[
        (3, "internal_only_headers"),
        (11, "max_direct_response_body_size_bytes"),
        (17, "metadata"),
    ],
    refused: &[
        (4, "response_headers_to_add"),
        (5, "response_headers_to_remove"),
        (6, "request_headers_to_add"),
        (8, "request_headers_to_remove"),
        (9, "vhds"),
        (10, "most_specific_header_mutations_wins"),
        (12, "cluster_specifier_plugins"),
        (15, "ignore_path_parameters_in_path_matching"),
        (18, "vhost_header"),
    ],
};
pub(super) const HOST: Fields = Fields {
    message: "VirtualHost",
    understood: &[
        (1, "name"),
        (2, "domains"),
        (3, "routes"),
        (14, "include_request_attempt_count"),
        (16, "retry_policy"),
        (17, "hedge_policy"),
        (18, "per_request_buffer_limit_bytes"),
        (19, "include_attempt_count_in_response"),
        (22, "request_mirror_policies"),
        (23, "include_is_timeout_retry_header"),
        (25, "request_body_buffer_limit"),
        (6, "rate_limits"),
        (15, "typed_per_filter_config"),
    ],
    tuning: &[(5, "virtual_clusters"), (24, "metadata")],
    refused: &[
        (4, "require_tls"),
        (7, "request_headers_to_add"),
        (8, "cors"),
        (10, "response_headers_to_add"),
        (11, "response_headers_to_remove"),
        (13, "request_headers_to_remove"),
        (20, "retry_policy_typed_config"),
        (21, "matcher"),
    ],
};
pub(super) const ROUTE: Fields = Fields {
    message: "Route",
    understood: &[
        (1, "match"),
        (2, "route"),
        (3, "redirect"),
        (4, "metadata"),
        (7, "direct_response"),
        (9, "request_headers_to_add"),
        (10, "response_headers_to_add"),
        (11, "response_headers_to_remove"),
        (12, "request_headers_to_remove"),
        (14, "name"),
        (17, "filter_action"),
        (18, "non_forwarding_action"),
        (16, "per_request_buffer_limit_bytes"),
        (20, "request_body_buffer_limit"),
        (13, "typed_per_filter_config"),
    ],
    tuning: &[(5, "decorator"), (15, "tracing"), (19, "stat_prefix")],
    refused: &[(21, "route_specifiers")],
};
pub(super) const CONDITION: Fields = Fields {
    message: "RouteMatch",
    understood: &[
        (1, "prefix"),
        (2, "path"),
        (4, "case_sensitive"),
        (6, "headers"),
        (7, "query_parameters"),
        (10, "safe_regex"),
        (12, "connect_matcher"),
        (13, "dynamic_metadata"),
        (14, "path_separated_prefix"),
        (15, "path_match_policy"),
    ],
    tuning: &[],
    refused: &[
        (8, "grpc"),
        (9, "runtime_fraction"),
        (11, "tls_context"),
        (16, "filter_state"),
        (17, "cookies"),
    ],
};
pub(super) const HEADER: Fields = Fields {
    message: "HeaderMatcher",
    understood: &[
        (1, "name"),
        (4, "exact_match"),
        (6, "range_match"),
        (7, "present_match"),
        (8, "invert_match"),
        (9, "prefix_match"),
        (10, "suffix_match"),
        (11, "safe_regex_match"),
        (12, "contains_match"),
        (13, "string_match"),
        (14, "treat_missing_header_as_empty"),
    ],
    tuning: &[],
    refused: &[],
};
pub(super) const STRING: Fields = Fields {
    message: "StringMatcher",
    understood: &[
        (1, "exact"),
        (2, "prefix"),
        (3, "suffix"),
        (5, "safe_regex"),
        (7, "contains"),
        (8, "custom"),
    ],
    tuning: &[],
    refused: &[(6, "ignore_case")],
};
pub(super) const ACTION: Fields = Fields {
    message: "RouteAction",
    understood: &[
        (1, "cluster"),
        (2, "cluster_header"),
        (3, "weighted_clusters"),
        (5, "prefix_rewrite"),
        (6, "host_rewrite_literal"),
        (7, "auto_host_rewrite"),
        (8, "timeout"),
        (9, "retry_policy"),
        (15, "hash_policy"),
        (29, "host_rewrite_header"),
        (32, "regex_rewrite"),
        (35, "host_rewrite_path_regex"),
        (37, "cluster_specifier_plugin"),
        (39, "inline_cluster_specifier_plugin"),
        (44, "host_rewrite"),
        (11, "priority"),
        (23, "max_grpc_timeout"),
        (24, "idle_timeout"),
        (27, "hedge_policy"),
        (28, "grpc_timeout_offset"),
        (30, "request_mirror_policies"),
        (36, "max_stream_duration"),
        (13, "rate_limits"),
        (20, "cluster_not_found_response_code"),
    ],
    tuning: &[
        (38, "append_x_forwarded_host"),
        (40, "early_data_policy"),
        (42, "flush_timeout"),
    ],
    refused: &[
        (4, "metadata_match"),
        (14, "include_vh_rate_limits"),
        (17, "cors"),
        (25, "upgrade_configs"),
        (26, "internal_redirect_action"),
        (31, "max_internal_redirects"),
        (33, "retry_policy_typed_config"),
        (34, "internal_redirect_policy"),
        (41, "path_rewrite_policy"),
        (45, "path_rewrite"),
    ],
};
pub(super) const WEIGHTED: Fields = Fields {
    message: "WeightedCluster",
    understood: &[(1, "clusters"), (3, "total_weight")],
    tuning: &[(2, "runtime_key_prefix")],
    refused: &[(4, "header_name"), (5, "use_hash_policy")],
};
pub(super) const CLUSTER_WEIGHT: Fields = Fields {
    message: "WeightedCluster.ClusterWeight",
    understood: &[
        (1, "name"),
        (2, "weight"),
        (4, "request_headers_to_add"),
        (5, "response_headers_to_add"),
        (6, "response_headers_to_remove"),
        (9, "request_headers_to_remove"),
    ],
    tuning: &[],
    refused: &[
        (3, "metadata_match"),
        (10, "typed_per_filter_config"),
        (11, "host_rewrite_literal"),
        (12, "cluster_header"),
    ],
};
pub(super) const RETRY: Fields = Fields {
    message: "RetryPolicy",
    understood: &[
        (1, "retry_on"),
        (2, "num_retries"),
        (3, "per_try_timeout"),
        (7, "retriable_status_codes"),
        (8, "retry_back_off"),
        (5, "retry_host_predicate"),
        (6, "host_selection_retry_max_attempts"),
        (9, "retriable_headers"),
        (10, "retriable_request_headers"),
        (11, "rate_limited_retry_back_off"),
        (13, "per_try_idle_timeout"),
    ],
    tuning: &[
        (4, "retry_priority"),
        (12, "retry_options_predicates"),
        (14, "refresh_cluster_on_retry"),
    ],
    refused: &[],
};
pub(super) const HEDGE: Fields = Fields {
    message: "HedgePolicy",
    understood: &[(3, "hedge_on_per_try_timeout")],
    // Not implemented by Envoy either.
    tuning: &[(1, "initial_requests"), (2, "additional_request_chance")],
    refused: &[],
};
pub(super) const MIRROR: Fields = Fields {
    message: "RouteAction.RequestMirrorPolicy",
    understood: &[
        (1, "cluster"),
        (3, "runtime_fraction"),
        (6, "disable_shadow_host_suffix_append"),
    ],
    tuning: &[(4, "trace_sampled")],
    refused: &[
        (5, "cluster_header"),
        (7, "request_headers_mutations"),
        (8, "host_rewrite_literal"),
    ],
};
pub(super) const REDIRECT: Fields = Fields {
    message: "RedirectAction",
    understood: &[
        (1, "host_redirect"),
        (2, "path_redirect"),
        (3, "response_code"),
        (4, "https_redirect"),
        (5, "prefix_rewrite"),
        (7, "scheme_redirect"),
        (8, "port_redirect"),
        (9, "regex_rewrite"),
        (10, "path_rewrite"),
    ],
    tuning: &[],
    refused: &[(6, "strip_query")],
};
pub(super) const RESPOND: Fields = Fields {
    message: "DirectResponseAction",
    understood: &[(1, "status"), (2, "body")],
    tuning: &[],
    refused: &[(3, "body_format")],
};
