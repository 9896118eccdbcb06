//! Retries, deadlines and mirrors of routes.

use std::time::Duration;

use super::super::pb::{Any, FractionalPercent, core, duration, percent, route, u32_value};
use super::route::header_match;
use crate::mesh::Client;
use crate::mesh::route::{
    Deadlines, HeaderMatch, Mirror, RateLimitedBackOff, ResetFormat, Retry, Share,
};

/// Conditions that gRPC knows; it refuses a policy without any, or without tries.
const GRPC_RETRIES: [&str; 5] = [
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn again(from: &Retry, client: Client) -> Option<route::RetryPolicy> {
    let names: Vec<_> = from
        .on
        .iter()
        .map(|condition| condition.name())
        .filter(|name| client != Client::Grpc || GRPC_RETRIES.contains(name))
        .collect();
    if client == Client::Grpc && (names.is_empty() || from.attempts == 0) {
        return None;
    }
    let base = match client {
        Client::Meshctl => from.base_interval,
        Client::Envoy | Client::Grpc => from.base_interval.max(Duration::from_millis(1)),
    };
    let previous_hosts = route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(
            route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(
                Any {
                    type_url: "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                        .to_owned(),
                    value: Vec::new(),
                },
            ),
        ),
    };
    // Another try goes to another endpoint (Istio's choice); ours does so anyway.
    let elsewhere = client == Client::Envoy;
    Some(route::RetryPolicy {
        retry_on: names.join(","),
        num_retries: u32_value(from.attempts),
        per_try_timeout: from
            .per_try_timeout
            .filter(|_| client != Client::Grpc)
            .and_then(duration),
        per_try_idle_timeout: from
            .per_try_idle_timeout
            .filter(|_| client != Client::Grpc)
            .and_then(duration),
        retriable_headers: conditions(&from.headers, client),
        retriable_request_headers: conditions(&from.request_headers, client),
        rate_limited_retry_back_off: from
            .rate_limited
            .as_ref()
            .filter(|_| client != Client::Grpc)
            .map(rate_limited),
        retriable_status_codes: from.status_codes.iter().copied().map(u32::from).collect(),
        retry_back_off: Some(route::retry_policy::RetryBackOff {
            base_interval: duration(base),
            max_interval: from
                .max_interval
                // Envoy refuses one that is shorter than the first wait.
                .map(|max| if client == Client::Meshctl { max } else { max.max(base) })
                .or_else(|| (client != Client::Meshctl).then(|| base.saturating_mul(10)))
                .and_then(duration),
        }),
        retry_host_predicate: elsewhere.then_some(previous_hosts).into_iter().collect(),
        host_selection_retry_max_attempts: if elsewhere { 5 } else { 0 },
        ..Default::default()
    })
}

/// gRPC has no conditions on headers here.
fn conditions(from: &[HeaderMatch], client: Client) -> Vec<route::HeaderMatcher> {
    from.iter()
        .filter(|_| client != Client::Grpc)
        .map(|header| header_match(header, client))
        .collect()
}

fn rate_limited(from: &RateLimitedBackOff) -> route::retry_policy::RateLimitedRetryBackOff {
    use route::retry_policy as options;
    options::RateLimitedRetryBackOff {
        reset_headers: from
            .reset_headers
            .iter()
            .map(|header| options::ResetHeader {
                name: header.name.clone(),
                format: match header.format {
                    ResetFormat::Seconds => options::ResetHeaderFormat::Seconds,
                    ResetFormat::UnixTimestamp => options::ResetHeaderFormat::UnixTimestamp,
                }
                .into(),
            })
            .collect(),
        max_interval: duration(from.max_interval),
    }
}

#[expect(
    deprecated,
    reason = "max_stream_duration does not say the same, and Istio sends these"
)]
pub(super) fn bound(from: &Deadlines, to: &mut route::RouteAction) {
    to.idle_timeout = from.idle.and_then(duration);
    if from.max_stream.is_some() || from.grpc_stream.is_some() {
        to.max_stream_duration = Some(route::route_action::MaxStreamDuration {
            max_stream_duration: from.max_stream.and_then(duration),
            grpc_timeout_header_max: from.grpc_stream.and_then(|grpc| duration(grpc.max)),
            grpc_timeout_header_offset: from
                .grpc_stream
                .and_then(|grpc| grpc.offset)
                .and_then(duration),
        });
    }
    if let Some(grpc) = from.grpc {
        to.max_grpc_timeout = duration(grpc.max);
        to.grpc_timeout_offset = grpc.offset.and_then(duration);
    }
}

pub(super) fn mirror(from: &Mirror) -> route::route_action::RequestMirrorPolicy {
    route::route_action::RequestMirrorPolicy {
        cluster: from.cluster.clone(),
        runtime_fraction: (from.share != Share::default()).then(|| {
            core::RuntimeFractionalPercent {
                default_value: Some(fraction(from.share)),
                ..Default::default()
            }
        }),
        disable_shadow_host_suffix_append: from.plain_host,
        ..Default::default()
    }
}

/// In one of Envoy's three denominators.
pub(super) fn fraction(share: Share) -> FractionalPercent {
    use percent::DenominatorType as Of;
    let (numerator, of) = match share.of {
        100 => (share.parts, Of::Hundred),
        10_000 => (share.parts, Of::TenThousand),
        1_000_000 => (share.parts, Of::Million),
        of => {
            let parts = u64::from(share.parts) * 1_000_000 / u64::from(of.max(1));
            (u32::try_from(parts).unwrap_or(1_000_000), Of::Million)
        }
    };
    FractionalPercent {
        numerator,
        denominator: of.into(),
    }
}
