//! EnvoyFilter: not honoured, as the proxy is not Envoy. What it patches says what it is for, and that has
//! a native way.

use crate::resource::tree::{Node, Tree};

/// What one patch is for.
pub(in crate::resource) struct Patch<'a> {
    /// The patch.
    pub(in crate::resource) tree: &'a Tree,
    /// Where it is.
    pub(in crate::resource) path: String,
    /// What it sets, in words; empty when that is not known.
    pub(in crate::resource) sets: String,
    /// What to do instead.
    pub(in crate::resource) hint: String,
}

const CALLERS: &str = "write an AuthorizationPolicy (security.istio.io/v1) for the same workloads";

/// Words of a patch (a part of one after `*`), what they are for, and the native way.
const USES: &[(&[&str], &str, &str)] = &[
    (
        &["*local_ratelimit", "*localratelimit"],
        "local rate limits",
        "write a RateLimitPolicy (policy.meshctl.dev/v1alpha1) for the same workloads",
    ),
    (
        &[
            "*filters.http.ratelimit",
            "*filters.network.ratelimit",
            "rate_limit_service",
            "rate_limits",
        ],
        "rate limits of a service for all",
        "write a RateLimitPolicy (policy.meshctl.dev/v1alpha1); its limits are each proxy's own",
    ),
    (
        &[
            "*filters.http.compressor",
            "*filters.http.gzip",
            "*compression.gzip",
            "*compression.brotli",
            "*compression.zstd",
            "compressor_library",
        ],
        "compression of answers",
        "write a CompressionPolicy (policy.meshctl.dev/v1alpha1) for the same workloads",
    ),
    (
        &[
            "*filters.http.lua",
            "inline_code",
            "inlinecode",
            "source_codes",
        ],
        "a Lua program",
        "no programs run in the proxy; edits of headers are in a HeaderPolicy (policy.meshctl.dev/v1alpha1), rewrites, redirects and answers in a VirtualService",
    ),
    (
        &["*filters.http.wasm", "*filters.network.wasm"],
        "a Wasm program",
        "no programs run in the proxy; edits of headers are in a HeaderPolicy (policy.meshctl.dev/v1alpha1), rewrites, redirects and answers in a VirtualService",
    ),
    (
        &[
            "*header_mutation",
            "request_headers_to_add",
            "response_headers_to_add",
            "request_headers_to_remove",
            "response_headers_to_remove",
            "*header_to_metadata",
        ],
        "edits of headers",
        "write a HeaderPolicy (policy.meshctl.dev/v1alpha1) for the same workloads, or headers in the routes of a VirtualService",
    ),
    (&["*ext_authz"], "an outside authority", CALLERS),
    (
        &["*jwt_authn"],
        "tokens of callers",
        "write a RequestAuthentication (security.istio.io/v1) for the same workloads",
    ),
    (&["*filters.http.oauth2"], "a login", CALLERS),
    (
        &["*filters.http.rbac", "*filters.network.rbac"],
        "who may call",
        CALLERS,
    ),
    (
        &["access_log"],
        "access logs",
        "run the proxy with `--access-log json`, or `--access-log text`",
    ),
    (
        &[
            "stream_idle_timeout",
            "request_timeout",
            "request_headers_timeout",
        ],
        "how long requests may take",
        "write timeout in the routes of a VirtualService",
    ),
    (
        &["idle_timeout", "max_connection_duration", "drain_timeout"],
        "how long connections stay idle",
        "nothing needs to be done: idle connections are closed after an hour, and a retry hides it from callers",
    ),
    (
        &[
            "tcp_keepalive",
            "socket_options",
            "upstream_connection_options",
        ],
        "keep-alive of connections",
        "nothing needs to be done: connections that are idle are closed after an hour, and what is dead is found by the next request, which is tried again elsewhere",
    ),
    (
        &["connection_keepalive"],
        "keep-alive of HTTP/2",
        "nothing needs to be done: a connection that does not answer is given up by the next request, which is tried again elsewhere",
    ),
    (
        &["max_request_headers_kb", "max_headers_count"],
        "how large heads may be",
        "a head may have 60 KiB; send what is larger in the body",
    ),
    (
        &[
            "*filters.http.buffer",
            "max_request_bytes",
            "per_connection_buffer_limit_bytes",
        ],
        "how much is kept of a body",
        "nothing needs to be done: bodies of any size are carried, and none is kept whole",
    ),
    (
        &[
            "max_concurrent_streams",
            "initial_stream_window_size",
            "initial_connection_window_size",
            "http2_protocol_options",
        ],
        "how HTTP/2 is spoken",
        "nothing needs to be done: the proxy's own windows and limits are Envoy's recommended ones",
    ),
    (
        &[
            "merge_slashes",
            "normalize_path",
            "path_with_escaped_slashes_action",
        ],
        "the spelling of paths",
        "write pathNormalization in the MeshConfig, which is the key mesh of ConfigMap istio in the root namespace",
    ),
    (
        &["*filters.http.fault"],
        "faults",
        "write fault in the routes of a VirtualService",
    ),
    (
        &["*filters.http.cors"],
        "what pages of other origins may",
        "write corsPolicy in the routes of a VirtualService",
    ),
    (
        &["retry_policy", "retry_on"],
        "retries",
        "write retries in the routes of a VirtualService, or defaultHttpRetryPolicy in the MeshConfig",
    ),
    (
        &["hash_policy"],
        "what chooses an endpoint",
        "write loadBalancer.consistentHash in trafficPolicy of a DestinationRule",
    ),
    (
        &["outlier_detection"],
        "ejection of endpoints",
        "write outlierDetection in trafficPolicy of a DestinationRule",
    ),
    (
        &["circuit_breakers"],
        "limits of a service",
        "write connectionPool in trafficPolicy of a DestinationRule",
    ),
    (
        &["connect_timeout"],
        "how long connecting may take",
        "write connectionPool.tcp.connectTimeout in trafficPolicy of a DestinationRule, or connectTimeout in the MeshConfig",
    ),
    (
        &["lb_policy", "common_lb_config", "slow_start_config"],
        "how endpoints are chosen",
        "write loadBalancer in trafficPolicy of a DestinationRule",
    ),
    (
        &["health_checks"],
        "checks of endpoints",
        "write outlierDetection in trafficPolicy of a DestinationRule: endpoints are judged by their answers",
    ),
    (
        &["*proxy_protocol", "*proxyprotocol"],
        "a PROXY header",
        "write proxyProtocol in trafficPolicy of a DestinationRule",
    ),
    (
        &[
            "*downstreamtlscontext",
            "tls_params",
            "tls_minimum_protocol_version",
        ],
        "TLS towards callers",
        "write minProtocolVersion, cipherSuites and mode in the tls of a Gateway",
    ),
    (
        &["*upstreamtlscontext"],
        "TLS towards endpoints",
        "write tls in trafficPolicy of a DestinationRule",
    ),
    (
        &["request_mirror_policies"],
        "copies of requests",
        "write mirrors in the routes of a VirtualService",
    ),
    (
        &["direct_response"],
        "answers of the proxy's own",
        "write directResponse in the routes of a VirtualService",
    ),
    (
        &["prefix_rewrite", "regex_rewrite", "host_rewrite_literal"],
        "rewrites",
        "write rewrite in the routes of a VirtualService",
    ),
    (
        &["tracing", "random_sampling"],
        "tracing",
        "nothing needs to be done: proxies make no spans, and pass on what applications send",
    ),
    (
        &[
            "xff_num_trusted_hops",
            "use_remote_address",
            "original_ip_detection",
        ],
        "who a caller is taken for",
        "nothing needs to be done: a gateway believes no caller about who called it",
    ),
];

/// What each patch of an EnvoyFilter is for.
pub(in crate::resource) fn native(tree: &Tree) -> Vec<Patch<'_>> {
    let patches = tree.get("spec").and_then(|spec| spec.get("configPatches"));
    let Some(Node::List(patches)) = patches.map(|patches| &patches.node) else {
        return Vec::new();
    };
    patches
        .iter()
        .enumerate()
        .map(|(index, patch)| {
            let mut words = Vec::new();
            let value = patch.get("patch").and_then(|patch| patch.get("value"));
            // What is removed is named by what it matches.
            gather(value.unwrap_or(patch), &mut words);
            let named = |name: &&&str| {
                words.iter().any(|word| match name.strip_prefix('*') {
                    Some(part) => word.contains(part),
                    None => word == **name,
                })
            };
            let used = |(names, ..): &&(&[&str], &str, &str)| names.iter().any(|name| named(&name));
            let found: Vec<_> = USES.iter().filter(used).collect();
            let mut hints: Vec<&str> = Vec::new();
            for (.., hint) in &found {
                if !hints.contains(hint) {
                    hints.push(hint);
                }
            }
            let sets: Vec<&str> = found.iter().map(|(_, sets, _)| *sets).collect();
            Patch {
                tree: patch,
                path: format!("spec.configPatches[{index}]"),
                sets: sets.join(" and "),
                hint: hints.join("; "),
            }
        })
        .collect()
}

/// Every key and text below `tree`, in lower case.
fn gather(tree: &Tree, words: &mut Vec<String>) {
    match &tree.node {
        Node::List(items) => items.iter().for_each(|item| gather(item, words)),
        Node::Map(entries) => {
            for (key, value) in entries {
                words.push(key.text.to_lowercase());
                gather(value, words);
            }
        }
        Node::Text(text) => words.push(text.to_lowercase()),
        _ => {}
    }
}
