//! HTTP filters, and what routes say of them.

use std::sync::Arc;
use std::time::Duration;

use super::super::pb::compressor as pb_compressor;
use super::super::pb::ext_authz as pb_ext_authz;
use super::super::pb::fault::HttpFault;
use super::super::pb::{
    Any, GrpcWeb, HttpStatus, PbTokenBucket, Percent, UInt32Value, adaptive, core, cors,
    descriptor_expr, is, local_ratelimit, ratelimit, rbac, route, session as pb_session,
    tokens as pb_tokens,
};
use super::super::structs::{SOURCE_NAMESPACE, SOURCE_PRINCIPAL};
use super::fields::Fields;
use super::route::header_match;
use super::route_fields::HEADER;
use super::route_policy::share;
use super::{Fault, compressor, duration_or, fault, session, unpack};
use crate::mesh::filter::{
    AdaptiveConcurrency, DescriptorLimit, HttpFilter, LocalRateLimit, RateLimitAction,
    RateLimitRule, TokenBucket,
};
use crate::mesh::route::Share;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[
    &RATE_LIMIT,
    &DESCRIPTOR,
    &RULE,
    &ACTION,
    &CONCURRENCY,
    &GRADIENT,
    &LIMIT,
];

const RATE_LIMIT: Fields = Fields {
    message: "LocalRateLimit",
    understood: &[
        (1, "stat_prefix"),
        (2, "status"),
        (3, "token_bucket"),
        (4, "filter_enabled"),
        (5, "filter_enforced"),
        (6, "response_headers_to_add"),
        (8, "descriptors"),
        (9, "stage"),
        (10, "request_headers_to_add_when_not_enforced"),
        (11, "local_rate_limit_per_downstream_connection"),
        (12, "enable_x_ratelimit_headers"),
        (14, "always_consume_default_token_bucket"),
        (15, "rate_limited_as_resource_exhausted"),
        (17, "rate_limits"),
        (18, "max_dynamic_descriptors"),
        (19, "enable_retry_after_header"),
    ],
    tuning: &[],
    refused: &[(13, "vh_rate_limits"), (16, "local_cluster_rate_limit")],
};
const DESCRIPTOR: Fields = Fields {
    message: "LocalRateLimitDescriptor",
    understood: &[(1, "entries"), (2, "token_bucket")],
    tuning: &[],
    refused: &[(3, "shadow_mode")],
};
const RULE: Fields = Fields {
    message: "RateLimit",
    understood: &[(1, "stage"), (3, "actions")],
    // A key of Envoy's runtime, which there is not.
    tuning: &[(2, "disable_key")],
    refused: &[
        (4, "limit"),
        (5, "hits_addend"),
        (6, "apply_on_stream_done"),
        (7, "x_ratelimit_option"),
    ],
};
const ACTION: Fields = Fields {
    message: "RateLimit.Action",
    understood: &[
        (2, "destination_cluster"),
        (3, "request_headers"),
        (4, "remote_address"),
        (5, "generic_key"),
        (6, "header_value_match"),
        (9, "extension"),
        (10, "masked_remote_address"),
    ],
    tuning: &[],
    refused: &[
        (1, "source_cluster"),
        (7, "dynamic_metadata"),
        (8, "metadata"),
        (11, "query_parameter_value_match"),
        (12, "query_parameters"),
        (13, "remote_address_match"),
    ],
};
const CONCURRENCY: Fields = Fields {
    message: "AdaptiveConcurrency",
    understood: &[
        (1, "gradient_controller_config"),
        (2, "enabled"),
        (3, "concurrency_limit_exceeded_status"),
    ],
    tuning: &[],
    refused: &[],
};
const GRADIENT: Fields = Fields {
    message: "GradientControllerConfig",
    understood: &[
        (1, "sample_aggregate_percentile"),
        (2, "concurrency_limit_params"),
        (3, "min_rtt_calc_params"),
    ],
    tuning: &[],
    refused: &[],
};
const LIMIT: Fields = Fields {
    message: "GradientControllerConfig.ConcurrencyLimitCalculationParams",
    understood: &[
        (2, "max_concurrency_limit"),
        (3, "concurrency_update_interval"),
    ],
    tuning: &[],
    refused: &[(4, "min_concurrency_limit")],
};

/// The filter in `config`, if it is one of these.
pub(super) fn decode(config: &Any, ignored: &mut Vec<String>) -> Result<Option<HttpFilter>, Fault> {
    if is::<local_ratelimit::LocalRateLimit>(config) {
        let limit = local_rate_limit(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::LocalRateLimit(Arc::new(limit))));
    }
    if is::<adaptive::AdaptiveConcurrency>(config) {
        let adaptive = concurrency(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::AdaptiveConcurrency(adaptive)));
    }
    if is::<cors::Cors>(config) {
        return Ok(Some(HttpFilter::Cors(Arc::default())));
    }
    if is::<pb_compressor::Compressor>(config) {
        let how = compressor::decode(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::Compressor(Arc::new(how))));
    }
    if is::<GrpcWeb>(config) {
        return Ok(Some(HttpFilter::GrpcWeb));
    }
    if is::<HttpFault>(config) {
        let fault = fault::decode(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::Fault(Arc::new(fault))));
    }
    if is::<pb_session::StatefulSession>(config) {
        let session = session::decode(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::StatefulSession(Arc::new(session))));
    }
    if is::<rbac::http::Rbac>(config) {
        let rbac = super::rbac::http(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::Rbac(Arc::new(rbac))));
    }
    if is::<pb_ext_authz::ExtAuthz>(config) {
        let asks = super::ext_authz::decode(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::ExtAuthz(Arc::new(asks))));
    }
    if is::<pb_tokens::JwtAuthentication>(config) {
        let tokens = super::jwt_authn::decode(&unpack(config)?, ignored)?;
        return Ok(Some(HttpFilter::JwtAuthn(Arc::new(tokens))));
    }
    Ok(None)
}

/// What a route says of filters, by their names.
pub(super) fn overrides<'a>(
    message: &'static str,
    from: impl IntoIterator<Item = (&'a String, &'a Any)>,
    ignored: &mut Vec<String>,
) -> Result<Vec<HttpFilter>, Fault> {
    let mut names: Vec<_> = from.into_iter().collect();
    names.sort_by_key(|(name, _)| *name);
    names
        .into_iter()
        .map(|(name, config)| {
            if is::<cors::CorsPolicy>(config) {
                let policy = super::cors::decode(&unpack(config)?, ignored)?;
                return Ok(HttpFilter::Cors(Arc::new(policy)));
            }
            if is::<pb_compressor::CompressorPerRoute>(config) {
                let how = compressor::of_route(&unpack(config)?, ignored)?;
                return Ok(HttpFilter::Compressor(Arc::new(how)));
            }
            if is::<pb_session::StatefulSessionPerRoute>(config) {
                let session = session::of_route(&unpack(config)?, ignored)?;
                return Ok(HttpFilter::StatefulSession(Arc::new(session)));
            }
            // The other filter has no configuration by route in Envoy either.
            if let Some(filter @ (HttpFilter::LocalRateLimit(_) | HttpFilter::Fault(_))) =
                decode(config, ignored)?
            {
                return Ok(filter);
            }
            Err(Fault::Unsupported {
                message,
                field: format!("typed_per_filter_config {name:?}"),
            })
        })
        .collect()
}

fn value(from: Option<UInt32Value>, default: u32) -> u32 {
    from.map_or(default, |from| from.value)
}

fn status(from: Option<&HttpStatus>, default: u16) -> Result<u16, Fault> {
    let code = from.map_or(i32::from(default), |status| status.code);
    match u16::try_from(code) {
        // Envoy's rule for rate limits.
        Ok(code) if code < 400 => Ok(default),
        Ok(code) if code < 600 => Ok(code),
        _ => Err(Fault::Invalid(format!("{code} is not an HTTP status"))),
    }
}

fn fraction(from: Option<&core::RuntimeFractionalPercent>) -> Share {
    from.and_then(|from| from.default_value)
        .map_or(Share::NONE, share)
}

fn bucket(from: &PbTokenBucket) -> Result<TokenBucket, Fault> {
    let fill_interval = duration_or("fill_interval", from.fill_interval.as_ref(), Duration::ZERO)?;
    if fill_interval < Duration::from_millis(50) {
        return Err(Fault::Invalid(
            "fill_interval of a token bucket is below 50 ms".to_owned(),
        ));
    }
    Ok(TokenBucket {
        max_tokens: from.max_tokens,
        tokens_per_fill: value(from.tokens_per_fill, 1),
        fill_interval,
    })
}

fn local_rate_limit(
    from: &local_ratelimit::LocalRateLimit,
    ignored: &mut Vec<String>,
) -> Result<LocalRateLimit, Fault> {
    RATE_LIMIT.audit(from, ignored)?;
    let usual = LocalRateLimit::default();
    Ok(LocalRateLimit {
        stat_prefix: from.stat_prefix.clone(),
        status: status(from.status.as_ref(), usual.status)?,
        bucket: from.token_bucket.as_ref().map(bucket).transpose()?,
        enabled: fraction(from.filter_enabled.as_ref()),
        enforced: fraction(from.filter_enforced.as_ref()),
        request_headers: added(&from.request_headers_to_add_when_not_enforced)?,
        response_headers: added(&from.response_headers_to_add)?,
        descriptors: from
            .descriptors
            .iter()
            .map(|limit| descriptor(limit, ignored))
            .collect::<Result<_, _>>()?,
        stage: from.stage,
        per_connection: from.local_rate_limit_per_downstream_connection,
        rate_limit_headers: from.enable_x_ratelimit_headers
            == i32::from(ratelimit::XRateLimitHeadersRfcVersion::DraftVersion03),
        always_default: from
            .always_consume_default_token_bucket
            .is_none_or(|always| always.value),
        resource_exhausted: from.rate_limited_as_resource_exhausted,
        rules: rules(&from.rate_limits, ignored)?,
        max_dynamic: value(from.max_dynamic_descriptors, usual.max_dynamic),
        retry_after: from.enable_retry_after_header,
    })
}

fn descriptor(
    from: &ratelimit::LocalRateLimitDescriptor,
    ignored: &mut Vec<String>,
) -> Result<DescriptorLimit, Fault> {
    DESCRIPTOR.audit(from, ignored)?;
    Ok(DescriptorLimit {
        entries: from
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), entry.value.clone()))
            .collect(),
        bucket: bucket(&from.token_bucket.unwrap_or_default())?,
    })
}

fn added(from: &[core::HeaderValueOption]) -> Result<Vec<(String, String)>, Fault> {
    use core::header_value_option::HeaderAppendAction as Append;
    from.iter()
        .map(|option| {
            let header = option.header.clone().unwrap_or_default();
            // There is no such field before.
            match Append::try_from(option.append_action) {
                Ok(Append::AppendIfExistsOrAdd | Append::OverwriteIfExistsOrAdd) => {
                    Ok((header.key, header.value))
                }
                _ => Err(Fault::Unsupported {
                    message: "HeaderValueOption",
                    field: "append_action".to_owned(),
                }),
            }
        })
        .collect()
}

/// How requests get their values.
pub(super) fn rules(
    from: &[route::RateLimit],
    ignored: &mut Vec<String>,
) -> Result<Vec<RateLimitRule>, Fault> {
    from.iter()
        .map(|rule| {
            RULE.audit(rule, ignored)?;
            Ok(RateLimitRule {
                stage: value(rule.stage, 0),
                actions: rule
                    .actions
                    .iter()
                    .map(|found| action(found, ignored))
                    .collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn action(
    from: &route::rate_limit::Action,
    ignored: &mut Vec<String>,
) -> Result<RateLimitAction, Fault> {
    use route::rate_limit::action::ActionSpecifier as Specifier;
    ACTION.audit(from, ignored)?;
    let unsupported = |field: &str| {
        Err(Fault::Unsupported {
            message: "RateLimit.Action",
            field: field.to_owned(),
        })
    };
    let or = |key: &str, usual: &str| if key.is_empty() { usual } else { key }.to_owned();
    let bits =
        |from: Option<UInt32Value>, most: u8| match u8::try_from(value(from, u32::from(most))) {
            Ok(bits) if bits <= most => Ok(bits),
            _ => Err(Fault::Invalid(
                "a prefix is longer than the address".to_owned(),
            )),
        };
    match &from.action_specifier {
        Some(Specifier::DestinationCluster(_)) => Ok(RateLimitAction::DestinationCluster),
        Some(Specifier::RequestHeaders(header)) => Ok(RateLimitAction::RequestHeader {
            header: header.header_name.to_ascii_lowercase(),
            key: header.descriptor_key.clone(),
            skip_if_absent: header.skip_if_absent,
        }),
        Some(Specifier::RemoteAddress(_)) => Ok(RateLimitAction::RemoteAddress),
        Some(Specifier::Extension(extension)) => match computed(extension)? {
            Some(action) => Ok(action),
            None => unsupported(&format!("extension {:?}", extension.name)),
        },
        Some(Specifier::MaskedRemoteAddress(masked)) => Ok(RateLimitAction::MaskedRemoteAddress {
            v4: bits(masked.v4_prefix_mask_len, 32)?,
            v6: bits(masked.v6_prefix_mask_len, 128)?,
        }),
        Some(Specifier::GenericKey(generic)) if generic.default_value.is_empty() => {
            Ok(RateLimitAction::GenericKey {
                key: or(&generic.descriptor_key, "generic_key"),
                value: generic.descriptor_value.clone(),
            })
        }
        Some(Specifier::HeaderValueMatch(matched)) if matched.default_value.is_empty() => {
            let mut headers = Vec::with_capacity(matched.headers.len());
            for header in &matched.headers {
                HEADER.audit(header, ignored)?;
                header_match(header, &mut headers, ignored)?;
            }
            Ok(RateLimitAction::HeaderValueMatch {
                key: or(&matched.descriptor_key, "header_match"),
                value: matched.descriptor_value.clone(),
                expect: matched.expect_match.is_none_or(|expect| expect.value),
                headers,
            })
        }
        _ => unsupported("default_value"),
    }
}

/// The expressions that are understood; `None` is another, or another kind of extension.
fn computed(from: &core::TypedExtensionConfig) -> Result<Option<RateLimitAction>, Fault> {
    use descriptor_expr::descriptor::ExprSpecifier;
    let config = from.typed_config.as_ref();
    let Some(config) = config.filter(|config| is::<descriptor_expr::Descriptor>(config)) else {
        return Ok(None);
    };
    let from: descriptor_expr::Descriptor = unpack(config)?;
    let Some(ExprSpecifier::Text(text)) = &from.expr_specifier else {
        return Ok(None);
    };
    // What cannot be worked out leaves no descriptor, which is what ours do.
    let found = (from.descriptor_key.as_str(), text.as_str());
    Ok(match found {
        _ if from.skip_if_error => None,
        SOURCE_PRINCIPAL => Some(RateLimitAction::SourcePrincipal),
        SOURCE_NAMESPACE => Some(RateLimitAction::SourceNamespace),
        _ => None,
    })
}

fn concurrency(
    from: &adaptive::AdaptiveConcurrency,
    ignored: &mut Vec<String>,
) -> Result<AdaptiveConcurrency, Fault> {
    use adaptive::adaptive_concurrency::ConcurrencyControllerConfig as Controller;
    CONCURRENCY.audit(from, ignored)?;
    let Some(Controller::GradientControllerConfig(gradient)) = &from.concurrency_controller_config
    else {
        return Err(Fault::Invalid(
            "adaptive concurrency has no gradient_controller_config".to_owned(),
        ));
    };
    GRADIENT.audit(gradient, ignored)?;
    let limit = gradient.concurrency_limit_params.unwrap_or_default();
    LIMIT.audit(&limit, ignored)?;
    let best = gradient.min_rtt_calc_params.unwrap_or_default();
    let usual = AdaptiveConcurrency::default();
    let optional = |field, from: Option<&_>| {
        from.map(|from| duration_or(field, Some(from), Duration::ZERO))
            .transpose()
    };
    let update_interval = duration_or(
        "concurrency_update_interval",
        limit.concurrency_update_interval.as_ref(),
        Duration::ZERO,
    )?;
    if update_interval.is_zero() {
        return Err(Fault::Invalid(
            "concurrency_update_interval is not above zero".to_owned(),
        ));
    }
    Ok(AdaptiveConcurrency {
        enabled: from
            .enabled
            .as_ref()
            .and_then(|flag| flag.default_value)
            .is_none_or(|on| on.value),
        status: status(
            from.concurrency_limit_exceeded_status.as_ref(),
            usual.status,
        )?,
        percentile_milli: milli(gradient.sample_aggregate_percentile, usual.percentile_milli)?,
        max_limit: value(limit.max_concurrency_limit, usual.max_limit),
        update_interval,
        min_rtt_interval: optional("interval", best.interval.as_ref())?,
        min_rtt_fixed: optional("fixed_value", best.fixed_value.as_ref())?,
        min_rtt_requests: value(best.request_count, usual.min_rtt_requests),
        jitter_milli: milli(best.jitter, usual.jitter_milli)?,
        min_concurrency: value(best.min_concurrency, usual.min_concurrency),
        buffer_milli: milli(best.buffer, usual.buffer_milli)?,
    })
}

/// Thousandths of a percent.
pub(super) fn milli(percent: Option<Percent>, default: u32) -> Result<u32, Fault> {
    let Some(percent) = percent else {
        return Ok(default);
    };
    let invalid = || Fault::Invalid(format!("{} is not a percentage", percent.value));
    if !(0.0..=100.0).contains(&percent.value) {
        return Err(invalid());
    }
    // By text, as there is no conversion from floats that cannot go wrong.
    format!("{:.0}", percent.value * 1000.0)
        .parse()
        .map_err(|_| invalid())
}
