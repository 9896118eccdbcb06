//! Retries, deadlines and mirrors of routes, and what routes inherit of them.

use std::sync::Arc;
use std::time::Duration;

use super::super::pb::{FractionalPercent, percent, route, to_duration};
use super::filter::{overrides, rules};
use super::route::header_match;
use super::route_fields::{HEADER, HEDGE, MIRROR, RETRY};
use super::{Fault, duration_or};
use crate::mesh::filter::{HttpFilter, RateLimitRule};
use crate::mesh::route::{
    Deadlines, Forward, GrpcTimeout, HeaderMatch, Mirror, RateLimitedBackOff, ResetFormat,
    ResetHeader, Retry, RetryOn, Share,
};

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";

/// What a virtual host and its table say for routes that do not say it themselves.
#[derive(Debug)]
pub(super) struct Inherited {
    retry: Option<Retry>,
    hedge: Option<bool>,
    mirrors: Vec<Mirror>,
    replay_limit: Option<u64>,
    filters: Vec<HttpFilter>,
    rate_limits: Vec<RateLimitRule>,
}

impl Inherited {
    pub(super) fn new(
        table: &route::RouteConfiguration,
        host: &route::VirtualHost,
        outer: &[HttpFilter],
        ignored: &mut Vec<String>,
    ) -> Result<Self, Fault> {
        let policies = match &*host.request_mirror_policies {
            [] => &table.request_mirror_policies,
            _ => &host.request_mirror_policies,
        };
        let retry = host.retry_policy.as_ref();
        let hedge_policy = host.hedge_policy.as_ref();
        #[expect(deprecated, reason = "older control planes still send it")]
        let older = host.per_request_buffer_limit_bytes.as_ref();
        Ok(Self {
            retry: retry
                .map(|policy| self::retry(policy, ignored))
                .transpose()?,
            hedge: hedge_policy
                .map(|policy| hedge(policy, ignored))
                .transpose()?,
            mirrors: mirrors(policies, ignored)?,
            filters: {
                let own = &host.typed_per_filter_config;
                let mut filters = overrides("VirtualHost", own, ignored)?;
                inherit(&mut filters, outer);
                filters
            },
            rate_limits: rules(&host.rate_limits, ignored)?,
            replay_limit: limit(
                host.request_body_buffer_limit.map(|limit| limit.value),
                older,
            ),
        })
    }

    /// Completes a route whose own limit is `replay_limit`.
    pub(super) fn apply(&self, forward: &mut Forward, replay_limit: Option<u64>) {
        if forward.retry.is_none() {
            forward.retry.clone_from(&self.retry);
        }
        forward.hedge |= self.hedge.unwrap_or_default();
        if forward.mirrors.is_empty() {
            forward.mirrors.clone_from(&self.mirrors);
        }
        inherit(&mut forward.filters, &self.filters);
        if forward.rate_limits.is_empty() {
            forward.rate_limits.clone_from(&self.rate_limits);
        }
        forward.replay_limit = replay_limit.or(self.replay_limit);
    }
}

/// Adds to `own` what only `outer` says. The most specific word counts alone, but for CORS, whose
/// parts are each asked for (Envoy).
fn inherit(own: &mut Vec<HttpFilter>, outer: &[HttpFilter]) {
    for outer in outer {
        match (own.iter_mut().find(|own| own.is_like(outer)), outer) {
            (None, outer) => outer.clone().put_into(own),
            (Some(HttpFilter::Cors(own)), HttpFilter::Cors(outer)) => {
                *own = Arc::new(own.within(outer));
            }
            (Some(_), _) => {}
        }
    }
}

/// Most bytes of a body that are kept for another try.
pub(super) fn replay_limit(from: &route::Route) -> Option<u64> {
    #[expect(deprecated, reason = "older control planes still send it")]
    let older = from.per_request_buffer_limit_bytes.as_ref();
    limit(
        from.request_body_buffer_limit.map(|limit| limit.value),
        older,
    )
}

fn limit(newer: Option<u64>, older: Option<&super::super::pb::UInt32Value>) -> Option<u64> {
    newer.or(older.map(|older| u64::from(older.value)))
}

pub(super) fn retry(from: &route::RetryPolicy, ignored: &mut Vec<String>) -> Result<Retry, Fault> {
    RETRY.audit(from, ignored)?;
    let mut on = Vec::new();
    for name in from.retry_on.split(',').map(str::trim) {
        match RetryOn::parse(name) {
            Some(condition) => on.push(condition),
            None if name.is_empty() => {}
            None if name.starts_with("http3-") => {
                return Err(Fault::Unsupported {
                    message: "RetryPolicy",
                    field: format!("retry_on {name:?}"),
                });
            }
            None => ignored.push(format!("RetryPolicy.retry_on {name:?}")),
        }
    }
    let per_try = duration_or(
        "per_try_timeout",
        from.per_try_timeout.as_ref(),
        Duration::ZERO,
    )?;
    let per_try_idle = duration_or(
        "per_try_idle_timeout",
        from.per_try_idle_timeout.as_ref(),
        Duration::ZERO,
    )?;
    for predicate in &from.retry_host_predicate {
        use route::retry_policy::retry_host_predicate::ConfigType;
        let known = match &predicate.config_type {
            Some(ConfigType::TypedConfig(any)) => {
                any.type_url.rsplit('/').next() == Some(PREVIOUS_HOSTS)
            }
            None => predicate.name == "envoy.retry_host_predicates.previous_hosts",
        };
        if !known {
            return Err(Fault::Unsupported {
                message: "RetryPolicy",
                field: format!("retry_host_predicate {:?}", predicate.name),
            });
        }
    }
    let back_off = from.retry_back_off.as_ref();
    let base = back_off.and_then(|back_off| back_off.base_interval.as_ref());
    let max = back_off.and_then(|back_off| back_off.max_interval.as_ref());
    Ok(Retry {
        // Envoy's default.
        attempts: from.num_retries.as_ref().map_or(1, |tries| tries.value),
        per_try_timeout: (!per_try.is_zero()).then_some(per_try),
        per_try_idle_timeout: (!per_try_idle.is_zero()).then_some(per_try_idle),
        headers: conditions(&from.retriable_headers, ignored)?,
        request_headers: conditions(&from.retriable_request_headers, ignored)?,
        max_interval: optional("max_interval", max)?,
        rate_limited: from
            .rate_limited_retry_back_off
            .as_ref()
            .map(rate_limited)
            .transpose()?,
        on,
        status_codes: from
            .retriable_status_codes
            .iter()
            .map(|code| u16::try_from(*code))
            .collect::<Result<_, _>>()
            .map_err(|_| Fault::Invalid("retriable_status_codes has no status".to_owned()))?,
        // The route's metadata may say more.
        min_interval: std::time::Duration::ZERO,
        base_interval: base.map_or(Ok(Duration::from_millis(25)), |base| {
            to_duration(base)
                .ok_or_else(|| Fault::Invalid("base_interval is not a duration".to_owned()))
        })?,
    })
}

fn optional(
    field: &str,
    from: Option<&super::super::pb::PbDuration>,
) -> Result<Option<Duration>, Fault> {
    from.map(|from| duration_or(field, Some(from), Duration::ZERO))
        .transpose()
}

fn conditions(
    from: &[route::HeaderMatcher],
    ignored: &mut Vec<String>,
) -> Result<Vec<HeaderMatch>, Fault> {
    let mut all = Vec::with_capacity(from.len());
    for header in from {
        HEADER.audit(header, ignored)?;
        let before = all.len();
        header_match(header, &mut all, ignored)?;
        if all.len() != before + 1 {
            // These are alternatives: what takes two conditions cannot stand among them.
            return Err(Fault::Unsupported {
                message: "RetryPolicy",
                field: "an inverted header matcher without treat_missing_header_as_empty"
                    .to_owned(),
            });
        }
    }
    Ok(all)
}

fn rate_limited(
    from: &route::retry_policy::RateLimitedRetryBackOff,
) -> Result<RateLimitedBackOff, Fault> {
    use route::retry_policy::ResetHeaderFormat as Format;
    Ok(RateLimitedBackOff {
        reset_headers: from
            .reset_headers
            .iter()
            .map(|header| ResetHeader {
                name: header.name.to_ascii_lowercase(),
                format: match Format::try_from(header.format) {
                    Ok(Format::UnixTimestamp) => ResetFormat::UnixTimestamp,
                    Ok(Format::Seconds) | Err(_) => ResetFormat::Seconds,
                },
            })
            .collect(),
        max_interval: duration_or(
            "rate_limited_retry_back_off.max_interval",
            from.max_interval.as_ref(),
            RateLimitedBackOff::MAX_INTERVAL,
        )?,
    })
}

pub(super) fn hedge(from: &route::HedgePolicy, ignored: &mut Vec<String>) -> Result<bool, Fault> {
    HEDGE.audit(from, ignored)?;
    Ok(from.hedge_on_per_try_timeout)
}

pub(super) fn mirrors(
    from: &[route::route_action::RequestMirrorPolicy],
    ignored: &mut Vec<String>,
) -> Result<Vec<Mirror>, Fault> {
    from.iter()
        .map(|policy| {
            MIRROR.audit(policy, ignored)?;
            Ok(Mirror {
                cluster: policy.cluster.clone(),
                share: policy
                    .runtime_fraction
                    .as_ref()
                    .and_then(|fraction| fraction.default_value)
                    .map_or_else(Share::default, share),
                plain_host: policy.disable_shadow_host_suffix_append,
            })
        })
        .collect()
}

/// One of Envoy's fractions.
pub(super) fn share(from: FractionalPercent) -> Share {
    use percent::DenominatorType as Of;
    Share {
        of: match Of::try_from(from.denominator) {
            Ok(Of::TenThousand) => 10_000,
            Ok(Of::Million) => 1_000_000,
            Ok(Of::Hundred) | Err(_) => 100,
        },
        parts: from.numerator,
    }
}

#[expect(deprecated, reason = "Istio sends them")]
pub(super) fn deadlines(
    from: &route::RouteAction,
    ignored: &mut Vec<String>,
) -> Result<Deadlines, Fault> {
    let stream = from.max_stream_duration.unwrap_or_default();
    let grpc = |max: Option<Duration>, offset: Option<Duration>, ignored: &mut Vec<String>| {
        if max.is_none() && offset.is_some() {
            ignored.push("RouteAction.grpc_timeout_offset".to_owned());
        }
        max.map(|max| GrpcTimeout { max, offset })
    };
    Ok(Deadlines {
        idle: optional("idle_timeout", from.idle_timeout.as_ref())?,
        max_stream: optional("max_stream_duration", stream.max_stream_duration.as_ref())?,
        grpc_stream: grpc(
            optional(
                "grpc_timeout_header_max",
                stream.grpc_timeout_header_max.as_ref(),
            )?,
            optional(
                "grpc_timeout_header_offset",
                stream.grpc_timeout_header_offset.as_ref(),
            )?,
            ignored,
        ),
        grpc: grpc(
            optional("max_grpc_timeout", from.max_grpc_timeout.as_ref())?,
            optional("grpc_timeout_offset", from.grpc_timeout_offset.as_ref())?,
            ignored,
        ),
    })
}
