//! HTTP filters, and what routes say of them.

use super::super::pb::{
    Any, GrpcWeb, HttpStatus, PbTokenBucket, Percent, adaptive, any, bool_value, core, cors,
    descriptor_expr, duration, local_ratelimit, ratelimit, route, u32_value,
};
use super::super::structs::{SOURCE_NAMESPACE, SOURCE_PRINCIPAL};
use super::route::header_match;
use super::route_policy::fraction;
use super::{fault, session};
use crate::mesh::Client;
use crate::mesh::filter::{
    AdaptiveConcurrency, HttpFilter, LocalRateLimit, RateLimitAction, RateLimitRule, TokenBucket,
};
use crate::mesh::route::Share;

/// Whether clients of a kind know the filter.
pub(super) fn is_known(filter: &HttpFilter, client: Client) -> bool {
    client != Client::Grpc || matches!(filter, HttpFilter::Fault(_))
}

/// Envoy's name of a filter, and its configuration.
pub(super) fn encode(from: &HttpFilter, client: Client) -> (&'static str, Any) {
    let config = match from {
        HttpFilter::LocalRateLimit(limit) => any(&local_rate_limit(limit, client)),
        HttpFilter::AdaptiveConcurrency(adaptive) => any(&concurrency(adaptive)),
        HttpFilter::Cors(_) => any(&cors::Cors {}),
        HttpFilter::Compressor(how) => super::compressor::encode(how),
        HttpFilter::GrpcWeb => any(&GrpcWeb {}),
        HttpFilter::Fault(fault) => any(&fault::encode(fault, client)),
        HttpFilter::StatefulSession(session) => session::encode(session),
        HttpFilter::Rbac(rbac) => super::rbac::http(rbac, client),
        HttpFilter::ExtAuthz(asks) => super::ext_authz::encode(asks, client),
        HttpFilter::JwtAuthn(tokens) => super::jwt_authn::encode(tokens, client),
    };
    (from.name(), config)
}

/// The same for what a route says of a filter.
pub(super) fn of_route(from: &HttpFilter, client: Client) -> (&'static str, Any) {
    let config = match from {
        HttpFilter::Cors(policy) => any(&super::cors::encode(policy, client)),
        HttpFilter::Compressor(how) => super::compressor::of_route(how),
        HttpFilter::StatefulSession(session) => session::of_route(session),
        other => return encode(other, client),
    };
    (from.name(), config)
}

fn local_rate_limit(from: &LocalRateLimit, client: Client) -> local_ratelimit::LocalRateLimit {
    let usual = LocalRateLimit::default();
    let share = |share: Share| {
        (share != Share::NONE).then(|| core::RuntimeFractionalPercent {
            default_value: Some(fraction(share)),
            ..Default::default()
        })
    };
    local_ratelimit::LocalRateLimit {
        // Envoy wants one that is not empty.
        stat_prefix: match (from.stat_prefix.as_str(), client) {
            ("", Client::Envoy) => "http_local_rate_limiter".to_owned(),
            (prefix, _) => prefix.to_owned(),
        },
        status: (from.status != usual.status).then(|| http_status(from.status)),
        token_bucket: from.bucket.or_else(|| endless(from, client)).map(bucket),
        filter_enabled: share(from.enabled),
        filter_enforced: share(from.enforced),
        request_headers_to_add_when_not_enforced: added(&from.request_headers),
        response_headers_to_add: added(&from.response_headers),
        descriptors: from
            .descriptors
            .iter()
            .map(|limit| ratelimit::LocalRateLimitDescriptor {
                entries: limit
                    .entries
                    .iter()
                    .map(|(key, value)| ratelimit::rate_limit_descriptor::Entry {
                        key: key.clone(),
                        value: value.clone(),
                    })
                    .collect(),
                token_bucket: Some(bucket(limit.bucket)),
                ..Default::default()
            })
            .collect(),
        stage: from.stage,
        local_rate_limit_per_downstream_connection: from.per_connection,
        enable_x_ratelimit_headers: if from.rate_limit_headers {
            ratelimit::XRateLimitHeadersRfcVersion::DraftVersion03
        } else {
            ratelimit::XRateLimitHeadersRfcVersion::Off
        }
        .into(),
        always_consume_default_token_bucket: (!from.always_default)
            .then(|| bool_value(false))
            .flatten(),
        rate_limited_as_resource_exhausted: from.resource_exhausted,
        rate_limits: rules(&from.rules, client),
        max_dynamic_descriptors: (from.max_dynamic != usual.max_dynamic)
            .then(|| u32_value(from.max_dynamic))
            .flatten(),
        enable_retry_after_header: from.retry_after,
        ..Default::default()
    }
}

/// Envoy wants a bucket for what no descriptor takes, even where that is not limited.
fn endless(from: &LocalRateLimit, client: Client) -> Option<TokenBucket> {
    let first = from
        .descriptors
        .first()
        .filter(|_| client == Client::Envoy)?;
    Some(TokenBucket {
        max_tokens: u32::MAX,
        tokens_per_fill: u32::MAX,
        ..first.bucket
    })
}

fn http_status(status: u16) -> HttpStatus {
    HttpStatus {
        code: i32::from(status),
    }
}

fn bucket(from: TokenBucket) -> PbTokenBucket {
    PbTokenBucket {
        max_tokens: from.max_tokens,
        tokens_per_fill: u32_value(from.tokens_per_fill),
        fill_interval: duration(from.fill_interval),
    }
}

fn added(from: &[(String, String)]) -> Vec<core::HeaderValueOption> {
    from.iter()
        .map(|(key, value)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: key.clone(),
                value: value.clone(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .collect()
}

/// How requests get their values.
pub(super) fn rules(from: &[RateLimitRule], client: Client) -> Vec<route::RateLimit> {
    use route::rate_limit::Action;
    from.iter()
        .map(|rule| route::RateLimit {
            stage: (rule.stage > 0).then(|| u32_value(rule.stage)).flatten(),
            actions: rule
                .actions
                .iter()
                .map(|action| Action {
                    action_specifier: Some(specifier(action, client)),
                })
                .collect(),
            ..Default::default()
        })
        .collect()
}

fn specifier(from: &RateLimitAction, client: Client) -> route::rate_limit::action::ActionSpecifier {
    use route::rate_limit::action::{self as pb, ActionSpecifier as Specifier};
    // What is usual is left out.
    let unless = |key: &str, usual: &str| if key == usual { "" } else { key }.to_owned();
    match from {
        RateLimitAction::DestinationCluster => {
            Specifier::DestinationCluster(pb::DestinationCluster {})
        }
        RateLimitAction::RequestHeader {
            header,
            key,
            skip_if_absent,
        } => Specifier::RequestHeaders(pb::RequestHeaders {
            header_name: header.clone(),
            descriptor_key: key.clone(),
            skip_if_absent: *skip_if_absent,
        }),
        RateLimitAction::RemoteAddress => Specifier::RemoteAddress(pb::RemoteAddress {}),
        RateLimitAction::SourcePrincipal => computed(SOURCE_PRINCIPAL),
        RateLimitAction::SourceNamespace => computed(SOURCE_NAMESPACE),
        RateLimitAction::MaskedRemoteAddress { v4, v6 } => {
            Specifier::MaskedRemoteAddress(pb::MaskedRemoteAddress {
                v4_prefix_mask_len: u32_value(u32::from(*v4)),
                v6_prefix_mask_len: u32_value(u32::from(*v6)),
            })
        }
        RateLimitAction::GenericKey { key, value } => Specifier::GenericKey(pb::GenericKey {
            descriptor_key: unless(key, "generic_key"),
            descriptor_value: value.clone(),
            ..Default::default()
        }),
        RateLimitAction::HeaderValueMatch {
            key,
            value,
            expect,
            headers,
        } => Specifier::HeaderValueMatch(pb::HeaderValueMatch {
            descriptor_key: unless(key, "header_match"),
            descriptor_value: value.clone(),
            expect_match: (!expect).then(|| bool_value(false)).flatten(),
            headers: headers
                .iter()
                .map(|header| header_match(header, client))
                .collect(),
            ..Default::default()
        }),
    }
}

/// A value that Envoy's expressions find.
fn computed((key, text): (&str, &str)) -> route::rate_limit::action::ActionSpecifier {
    use descriptor_expr::descriptor::ExprSpecifier;
    let expression = descriptor_expr::Descriptor {
        descriptor_key: key.to_owned(),
        expr_specifier: Some(ExprSpecifier::Text(text.to_owned())),
        ..Default::default()
    };
    route::rate_limit::action::ActionSpecifier::Extension(core::TypedExtensionConfig {
        name: "envoy.rate_limit_descriptors.expr".to_owned(),
        typed_config: Some(any(&expression)),
    })
}

fn concurrency(from: &AdaptiveConcurrency) -> adaptive::AdaptiveConcurrency {
    use adaptive::adaptive_concurrency::ConcurrencyControllerConfig;
    use adaptive::gradient_controller_config as pb;
    let percent = |milli: u32| {
        Some(Percent {
            value: f64::from(milli) / 1000.0,
        })
    };
    let controller = adaptive::GradientControllerConfig {
        sample_aggregate_percentile: percent(from.percentile_milli),
        concurrency_limit_params: Some(pb::ConcurrencyLimitCalculationParams {
            max_concurrency_limit: u32_value(from.max_limit),
            concurrency_update_interval: duration(from.update_interval),
            ..Default::default()
        }),
        min_rtt_calc_params: Some(pb::MinimumRttCalculationParams {
            interval: from.min_rtt_interval.and_then(duration),
            fixed_value: from.min_rtt_fixed.and_then(duration),
            request_count: u32_value(from.min_rtt_requests),
            jitter: percent(from.jitter_milli),
            min_concurrency: u32_value(from.min_concurrency),
            buffer: percent(from.buffer_milli),
        }),
    };
    adaptive::AdaptiveConcurrency {
        enabled: (!from.enabled).then(|| core::RuntimeFeatureFlag {
            default_value: bool_value(false),
            ..Default::default()
        }),
        concurrency_limit_exceeded_status: (from.status != 503).then(|| http_status(from.status)),
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(
            controller,
        )),
    }
}
