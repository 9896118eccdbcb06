//! Arbitrary filters.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::route::{header_matches, share};
use super::{positive, text, word};
use crate::mesh::filter::{
    Abort, AbortWith, AdaptiveConcurrency, Compressor, Cors, Delay, DescriptorLimit, Fault,
    HttpFilter, LocalRateLimit, RateLimitAction, RateLimitRule, TokenBucket,
};
use crate::mesh::route::TextMatch;
use crate::mesh::session::{SessionBy, SessionCookie, StatefulSession};

fn bucket() -> impl Strategy<Value = TokenBucket> {
    (any::<u32>(), any::<u32>(), positive()).prop_map(|(max_tokens, tokens_per_fill, interval)| {
        TokenBucket {
            max_tokens,
            tokens_per_fill,
            fill_interval: interval + std::time::Duration::from_millis(50),
        }
    })
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((word(), text()), 0..3)
}

/// How requests get their values.
pub(super) fn rules() -> impl Strategy<Value = Vec<RateLimitRule>> {
    let action = prop_oneof![
        Just(RateLimitAction::DestinationCluster),
        (word(), word(), any::<bool>()).prop_map(|(header, key, skip_if_absent)| {
            RateLimitAction::RequestHeader {
                header,
                key,
                skip_if_absent,
            }
        }),
        Just(RateLimitAction::RemoteAddress),
        Just(RateLimitAction::SourcePrincipal),
        Just(RateLimitAction::SourceNamespace),
        (0..=32_u8, 0..=128_u8)
            .prop_map(|(v4, v6)| RateLimitAction::MaskedRemoteAddress { v4, v6 }),
        (prop_oneof![word(), Just("generic_key".to_owned())], text())
            .prop_map(|(key, value)| RateLimitAction::GenericKey { key, value }),
        (
            prop_oneof![word(), Just("header_match".to_owned())],
            text(),
            any::<bool>(),
            header_matches()
        )
            .prop_map(|(key, value, expect, headers)| {
                RateLimitAction::HeaderValueMatch {
                    key,
                    value,
                    expect,
                    headers,
                }
            }),
    ];
    let rule =
        (0..3_u32, vec(action, 0..3)).prop_map(|(stage, actions)| RateLimitRule { stage, actions });
    vec(rule, 0..2)
}

fn local_rate_limit() -> impl Strategy<Value = LocalRateLimit> {
    let descriptor =
        (pairs(), bucket()).prop_map(|(entries, bucket)| DescriptorLimit { entries, bucket });
    (
        (text(), 400..600_u16, option::of(bucket())),
        (share(), share()),
        (pairs(), pairs()),
        (vec(descriptor, 0..3), rules()),
        any::<[bool; 5]>(),
        (0..11_u32, any::<u32>()),
    )
        .prop_map(
            |(
                (stat_prefix, status, bucket),
                (enabled, enforced),
                (request_headers, response_headers),
                (descriptors, rules),
                [
                    per_connection,
                    rate_limit_headers,
                    always_default,
                    resource_exhausted,
                    retry_after,
                ],
                (stage, max_dynamic),
            )| LocalRateLimit {
                stat_prefix,
                status,
                bucket,
                enabled,
                enforced,
                request_headers,
                response_headers,
                descriptors,
                stage,
                per_connection,
                rate_limit_headers,
                always_default,
                resource_exhausted,
                rules,
                max_dynamic,
                retry_after,
            },
        )
}

/// Any filter.
pub(super) fn one() -> impl Strategy<Value = HttpFilter> {
    prop_oneof![
        local_rate_limit().prop_map(|limit| HttpFilter::LocalRateLimit(Arc::new(limit))),
        adaptive_concurrency().prop_map(HttpFilter::AdaptiveConcurrency),
        fault().prop_map(|fault| HttpFilter::Fault(Arc::new(fault))),
        Just(HttpFilter::Cors(Arc::default())),
        compressor().prop_map(|how| HttpFilter::Compressor(Arc::new(how))),
        Just(HttpFilter::GrpcWeb),
        session().prop_map(|session| HttpFilter::StatefulSession(Arc::new(session))),
        super::rbac::rbac().prop_map(|how| HttpFilter::Rbac(Arc::new(how))),
        super::ext_authz::ext_authz().prop_map(|how| HttpFilter::ExtAuthz(Arc::new(how))),
        super::jwt_authn::tokens().prop_map(|how| HttpFilter::JwtAuthn(Arc::new(how))),
    ]
    .boxed()
}

/// What a route says: at most one of each kind, by name. Boxed, as all in one fills a stack.
pub(super) fn overrides() -> impl Strategy<Value = Vec<HttpFilter>> {
    let all = (
        option::of(any::<bool>()),
        option::of(cors().boxed()),
        option::of(fault().boxed()),
        option::of(local_rate_limit().boxed()),
        option::of(session().boxed()),
    );
    all.prop_map(|(compresses, cors, fault, limit, session)| {
        let compressor = compresses.map(|on| {
            let how = if on {
                Compressor::default()
            } else {
                Compressor::off()
            };
            HttpFilter::Compressor(Arc::new(how))
        });
        let cors = cors.map(|cors| HttpFilter::Cors(Arc::new(cors)));
        let fault = fault.map(|fault| HttpFilter::Fault(Arc::new(fault)));
        let limit = limit.map(|limit| HttpFilter::LocalRateLimit(Arc::new(limit)));
        let first = compressor.into_iter().chain(cors);
        let session = session.map(|session| HttpFilter::StatefulSession(Arc::new(session)));
        let rest = fault.into_iter().chain(limit).chain(session);
        first.chain(rest).collect()
    })
    .boxed()
}

fn session() -> impl Strategy<Value = StatefulSession> {
    let cookie = (word(), option::of(positive()), text(), pairs()).prop_map(
        |(name, ttl, path, attributes)| {
            SessionBy::Cookie(SessionCookie {
                name,
                ttl: ttl.unwrap_or_default(),
                path,
                attributes,
            })
        },
    );
    let by = prop_oneof![cookie, word().prop_map(SessionBy::Header)];
    (option::of(by), any::<bool>(), 200..600_u16).prop_map(|(by, strict, status)| {
        let strict = strict && by.is_some();
        let usual = StatefulSession::UNAVAILABLE;
        StatefulSession {
            by,
            strict,
            gone_status: if strict { status } else { usual },
        }
    })
}

fn compressor() -> impl Strategy<Value = Compressor> {
    (
        any::<[bool; 4]>(),
        any::<u32>(),
        vec(word(), 0..3),
        proptest::collection::btree_set(any::<u16>(), 0..3),
        0..10_u8,
    )
        .prop_map(
            |(
                [enabled, except_etag, weaken_etag, hide_accept_encoding],
                min_length,
                content_types,
                except_statuses,
                level,
            )| Compressor {
                enabled,
                min_length,
                content_types,
                except_statuses,
                except_etag,
                weaken_etag,
                hide_accept_encoding,
                level,
            },
        )
}

fn cors() -> impl Strategy<Value = Cors> {
    let some = |found: &TextMatch| *found != TextMatch::Present;
    (
        vec(super::route::text_match().prop_filter("a text", some), 0..3),
        (text(), text(), text(), text()),
        any::<[Option<bool>; 3]>(),
        share(),
    )
        .prop_map(
            |(origins, (methods, headers, expose, max_age), said, enabled)| {
                let [credentials, forward_unmatched, private_network] = said;
                Cors {
                    origins,
                    methods,
                    headers,
                    expose,
                    max_age,
                    credentials,
                    forward_unmatched,
                    private_network,
                    enabled,
                }
            },
        )
}

fn fault() -> impl Strategy<Value = Fault> {
    let delay = (super::duration(), share()).prop_map(|(time, share)| Delay { time, share });
    let with = prop_oneof![
        (200..600_u16).prop_map(AbortWith::Http),
        any::<u8>().prop_map(AbortWith::Grpc),
    ];
    let abort = (with, share()).prop_map(|(with, share)| Abort { with, share });
    (
        option::of(delay),
        option::of(abort),
        text(),
        header_matches(),
    )
        .prop_map(|(delay, abort, cluster, headers)| Fault {
            delay,
            abort,
            cluster,
            headers,
        })
}

fn adaptive_concurrency() -> impl Strategy<Value = AdaptiveConcurrency> {
    let share = || 0..=100_000_u32;
    (
        (any::<bool>(), 400..600_u16),
        (share(), share(), share()),
        any::<[u32; 3]>(),
        (
            positive(),
            option::of(super::duration()),
            option::of(super::duration()),
        ),
    )
        .prop_map(
            |(
                (enabled, status),
                (percentile_milli, jitter_milli, buffer_milli),
                [max_limit, min_rtt_requests, min_concurrency],
                (update_interval, min_rtt_interval, min_rtt_fixed),
            )| AdaptiveConcurrency {
                enabled,
                status,
                percentile_milli,
                max_limit,
                update_interval,
                min_rtt_interval,
                min_rtt_fixed,
                min_rtt_requests,
                jitter_milli,
                min_concurrency,
                buffer_milli,
            },
        )
}
