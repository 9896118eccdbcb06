//! The fields of routing messages: understood, harmless, refused.

use super::fields::Fields;

pub(super) const TABLE: Fields = Fields {
    message: "RouteConfiguration",
    understood: &[1, 2, 7, 14],
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
        (13, "request_mirror_policies"),
        (15, "ignore_path_parameters_in_path_matching"),
        (16, "typed_per_filter_config"),
        (18, "vhost_header"),
    ],
};
pub(super) const HOST: Fields = Fields {
    message: "VirtualHost",
    understood: &[1, 2, 3],
    tuning: &[
        (5, "virtual_clusters"),
        (14, "include_request_attempt_count"),
        (18, "per_request_buffer_limit_bytes"),
        (19, "include_attempt_count_in_response"),
        (23, "include_is_timeout_retry_header"),
        (24, "metadata"),
        (25, "request_body_buffer_limit"),
    ],
    refused: &[
        (4, "require_tls"),
        (6, "rate_limits"),
        (7, "request_headers_to_add"),
        (8, "cors"),
        (10, "response_headers_to_add"),
        (11, "response_headers_to_remove"),
        (13, "request_headers_to_remove"),
        (15, "typed_per_filter_config"),
        (16, "retry_policy"),
        (17, "hedge_policy"),
        (20, "retry_policy_typed_config"),
        (21, "matcher"),
        (22, "request_mirror_policies"),
    ],
};
pub(super) const ROUTE: Fields = Fields {
    message: "Route",
    understood: &[1, 2, 3, 4, 7, 9, 10, 11, 12, 14, 17, 18],
    tuning: &[
        (5, "decorator"),
        (15, "tracing"),
        (16, "per_request_buffer_limit_bytes"),
        (19, "stat_prefix"),
        (20, "request_body_buffer_limit"),
    ],
    refused: &[(13, "typed_per_filter_config"), (21, "route_specifiers")],
};
pub(super) const CONDITION: Fields = Fields {
    message: "RouteMatch",
    understood: &[1, 2, 4, 6, 7, 10, 12, 14, 15],
    tuning: &[],
    refused: &[
        (8, "grpc"),
        (9, "runtime_fraction"),
        (11, "tls_context"),
        (13, "dynamic_metadata"),
        (16, "filter_state"),
        (17, "cookies"),
    ],
};
pub(super) const HEADER: Fields = Fields {
    message: "HeaderMatcher",
    understood: &[1, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    tuning: &[],
    refused: &[],
};
pub(super) const STRING: Fields = Fields {
    message: "StringMatcher",
    understood: &[1, 2, 3, 5, 7, 8],
    tuning: &[],
    refused: &[(6, "ignore_case")],
};
pub(super) const ACTION: Fields = Fields {
    message: "RouteAction",
    understood: &[1, 2, 3, 5, 6, 7, 8, 9, 29, 32, 35, 37, 39, 44],
    tuning: &[
        (11, "priority"),
        (23, "max_grpc_timeout"),
        (24, "idle_timeout"),
        (28, "grpc_timeout_offset"),
        (36, "max_stream_duration"),
        (38, "append_x_forwarded_host"),
        (40, "early_data_policy"),
        (42, "flush_timeout"),
    ],
    refused: &[
        (4, "metadata_match"),
        (13, "rate_limits"),
        (14, "include_vh_rate_limits"),
        (15, "hash_policy"),
        (17, "cors"),
        (20, "cluster_not_found_response_code"),
        (25, "upgrade_configs"),
        (26, "internal_redirect_action"),
        (27, "hedge_policy"),
        (30, "request_mirror_policies"),
        (31, "max_internal_redirects"),
        (33, "retry_policy_typed_config"),
        (34, "internal_redirect_policy"),
        (41, "path_rewrite_policy"),
        (45, "path_rewrite"),
    ],
};
pub(super) const WEIGHTED: Fields = Fields {
    message: "WeightedCluster",
    understood: &[1, 3],
    tuning: &[(2, "runtime_key_prefix")],
    refused: &[(4, "header_name"), (5, "use_hash_policy")],
};
pub(super) const CLUSTER_WEIGHT: Fields = Fields {
    message: "WeightedCluster.ClusterWeight",
    understood: &[1, 2, 4, 5, 6, 9],
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
    understood: &[1, 2, 3, 7, 8],
    tuning: &[
        (4, "retry_priority"),
        (5, "retry_host_predicate"),
        (6, "host_selection_retry_max_attempts"),
        (9, "retriable_headers"),
        (10, "retriable_request_headers"),
        (11, "rate_limited_retry_back_off"),
        (12, "retry_options_predicates"),
        (13, "per_try_idle_timeout"),
        (14, "refresh_cluster_on_retry"),
    ],
    refused: &[],
};
pub(super) const REDIRECT: Fields = Fields {
    message: "RedirectAction",
    understood: &[1, 2, 3, 4, 5, 7, 8, 9, 10],
    tuning: &[],
    refused: &[(6, "strip_query")],
};
pub(super) const RESPOND: Fields = Fields {
    message: "DirectResponseAction",
    understood: &[1, 2],
    tuning: &[],
    refused: &[(3, "body_format")],
};
