//! Arbitrary route tables.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{duration, filter, positive, text, word};
use crate::mesh::route::{
    Action, AttemptHeaders, ClaimMatch, Deadlines, Forward, GrpcTimeout, HashCookie, HashOf,
    HashPolicy, HeaderEdits, HeaderMatch, HeaderOperations, Match, Mirror, Missing, PathMatch,
    PathRewrite, Pattern, Priority, QueryMatch, RateLimitedBackOff, Redirect, ResetFormat,
    ResetHeader, Respond, Retry, RetryOn, Rewrite, Route, Share, TextMatch, VirtualHost,
    WeightedCluster,
};
use crate::mesh::shadow::Comparison;
use crate::mesh::{Origin, RouteTable};

fn pattern() -> impl Strategy<Value = Pattern> {
    select(vec!["a.*b", "[0-9]+", "^/x(/.*)?$", "(a|b){1,3}"])
        .prop_map(|source| Pattern::new(source).unwrap())
}

pub(super) fn text_match() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        text().prop_map(TextMatch::Exact),
        text().prop_map(TextMatch::Prefix),
        text().prop_map(TextMatch::Suffix),
        pattern().prop_map(TextMatch::Regex),
        Just(TextMatch::Present),
    ]
}

pub(super) fn operations() -> impl Strategy<Value = HeaderOperations> {
    (
        btree_map(word(), text(), 0..3),
        btree_map(word(), text(), 0..3),
        btree_map(word(), text(), 0..3),
        vec(word(), 0..3),
    )
        .prop_map(|(set, add, add_if_absent, remove)| HeaderOperations {
            set,
            add,
            add_if_absent,
            remove,
        })
}

fn edits() -> impl Strategy<Value = HeaderEdits> {
    (operations(), operations()).prop_map(|(request, response)| HeaderEdits { request, response })
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::default()),
        (
            prop_oneof![Just("VirtualService".to_owned()), text()],
            word(),
            word(),
            option::of(text()),
            any::<u32>(),
            any::<u32>()
        )
            .prop_map(|(kind, namespace, name, file, line, column)| Origin {
                kind,
                namespace,
                name,
                file: file.map(|file| Arc::from(file.as_str())),
                line,
                column,
            }),
    ]
}

pub(super) fn matches() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Prefix),
        text().prop_map(|t| PathMatch::Segments(format!("/{t}"))),
        text().prop_map(PathMatch::Exact),
        pattern().prop_map(PathMatch::Regex),
    ];
    let header =
        (word(), text_match(), any::<bool>()).prop_map(|(name, value, invert)| HeaderMatch {
            name,
            value,
            invert,
        });
    let query = (word(), text_match()).prop_map(|(name, value)| QueryMatch { name, value });
    let lists = (vec(header, 0..3), vec(query, 0..2), vec(claim(), 0..2));
    (path, any::<bool>(), lists).prop_map(|(path, ignore_case, (headers, query, claims))| Match {
        path,
        ignore_case,
        headers,
        query,
        claims,
    })
}

/// A condition on a claim.
pub(super) fn claim() -> impl Strategy<Value = ClaimMatch> {
    let parts = (vec(word(), 1..3), text_match(), any::<bool>());
    parts.prop_map(|(path, value, invert)| ClaimMatch {
        path,
        value,
        invert,
    })
}

/// As decoding gives them: an inverted one does not ask for the header to be there.
pub(super) fn header_matches() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let header =
        (word(), text_match(), any::<bool>()).prop_map(|(name, value, invert)| HeaderMatch {
            name,
            value,
            invert,
        });
    vec(header, 0..2)
}

fn rate_limited() -> impl Strategy<Value = RateLimitedBackOff> {
    let header = (
        word(),
        select(vec![ResetFormat::Seconds, ResetFormat::UnixTimestamp]),
    )
        .prop_map(|(name, format)| ResetHeader { name, format });
    (vec(header, 0..3), duration()).prop_map(|(reset_headers, max_interval)| RateLimitedBackOff {
        reset_headers,
        max_interval,
    })
}

fn retry() -> impl Strategy<Value = Retry> {
    (
        (any::<u32>(), option::of(positive()), option::of(positive())),
        vec(select(RetryOn::ALL), 0..5),
        vec(100..600_u16, 0..3),
        (header_matches(), header_matches()),
        (
            (duration(), duration()),
            option::of(duration()),
            option::of(rate_limited()),
        ),
    )
        .prop_map(
            |(
                (attempts, per_try_timeout, per_try_idle_timeout),
                on,
                status_codes,
                (headers, request_headers),
                ((base_interval, min_interval), max_interval, rate_limited),
            )| Retry {
                attempts,
                per_try_timeout,
                per_try_idle_timeout,
                on,
                status_codes,
                headers,
                request_headers,
                base_interval,
                min_interval,
                max_interval,
                rate_limited,
            },
        )
}

pub(super) fn share() -> impl Strategy<Value = Share> {
    select(vec![100_u32, 10_000, 1_000_000])
        .prop_flat_map(|of| (0..=of).prop_map(move |parts| Share { of, parts }))
}

fn mirror() -> impl Strategy<Value = Mirror> {
    (word(), share(), any::<bool>()).prop_map(|(cluster, share, plain_host)| Mirror {
        cluster,
        share,
        plain_host,
    })
}

fn deadlines() -> impl Strategy<Value = Deadlines> {
    let grpc = || {
        option::of(
            (duration(), option::of(duration()))
                .prop_map(|(max, offset)| GrpcTimeout { max, offset }),
        )
    };
    (
        option::of(duration()),
        option::of(duration()),
        grpc(),
        grpc(),
    )
        .prop_map(|(idle, max_stream, grpc_stream, grpc)| Deadlines {
            idle,
            max_stream,
            grpc_stream,
            grpc,
        })
}

fn forward() -> impl Strategy<Value = Forward> {
    let to = (word(), 0..200_u32, edits()).prop_map(|(cluster, weight, headers)| WeightedCluster {
        cluster,
        weight,
        headers,
    });
    let path = prop_oneof![
        text().prop_map(PathRewrite::Prefix),
        text().prop_map(PathRewrite::Full),
        (pattern(), text()).prop_map(|(pattern, substitution)| PathRewrite::Regex {
            pattern,
            substitution
        }),
    ];
    (
        vec(to, 0..3),
        option::of(positive()),
        option::of(retry()),
        (option::of(path), option::of(text())),
        (deadlines(), any::<bool>(), option::of(any::<u64>())),
        (vec(mirror(), 0..2), option::of(comparison())),
        (
            select(vec![Priority::Default, Priority::High]),
            vec(hash_policy(), 0..3),
            select(vec![
                Missing::Unavailable,
                Missing::NotFound,
                Missing::Internal,
            ]),
        ),
        (filter::overrides(), filter::rules()),
    )
        .prop_map(
            |(
                clusters,
                timeout,
                retry,
                (path, authority),
                (deadlines, hedge, replay_limit),
                (mirrors, compare),
                (priority, hash, missing),
                (filters, rate_limits),
            )| Forward {
                filters,
                rate_limits,
                hash,
                missing,
                clusters,
                timeout,
                retry,
                deadlines,
                hedge,
                mirrors,
                compare,
                priority,
                replay_limit,
                rewrite: Rewrite { path, authority },
            },
        )
}

fn comparison() -> impl Strategy<Value = Arc<Comparison>> {
    let ignored = select(vec!["$.at", "$..id", "$.items[*]['a b']"]);
    let ignore = vec(ignored.prop_map(|path| path.parse().unwrap()), 0..3);
    (
        word(),
        share(),
        vec(word(), 0..2),
        ignore,
        any::<bool>(),
        any::<u32>(),
    )
        .prop_map(|(service, share, headers, ignore, body, body_limit)| {
            Arc::new(Comparison {
                version: None,
                service,
                share,
                headers,
                ignore,
                body,
                body_limit,
            })
        })
}

fn hash_policy() -> impl Strategy<Value = HashPolicy> {
    let cookie = (
        word(),
        option::of(duration()),
        text(),
        vec((word(), text()), 0..2),
    )
        .prop_map(|(name, ttl, path, attributes)| {
            HashOf::Cookie(HashCookie {
                name,
                ttl,
                path,
                attributes,
            })
        });
    let of = prop_oneof![
        (word(), option::of((pattern(), text())))
            .prop_map(|(name, rewrite)| HashOf::Header { name, rewrite }),
        cookie,
        Just(HashOf::SourceIp),
        word().prop_map(HashOf::Query),
    ];
    (of, any::<bool>()).prop_map(|(of, terminal)| HashPolicy { of, terminal })
}

fn action() -> impl Strategy<Value = Action> {
    let redirect = (
        select(vec![301_u16, 302, 303, 307, 308]),
        option::of(select(vec!["http".to_owned(), "https".to_owned()])),
        option::of(word()),
        option::of(1..=u16::MAX),
        // One of them at most.
        option::of((any::<bool>(), text())),
    )
        .prop_map(|(status, scheme, authority, port, path)| {
            let (path, prefix) = match path {
                None => (None, None),
                Some((true, path)) => (Some(path), None),
                Some((false, prefix)) => (None, Some(prefix)),
            };
            Redirect {
                status,
                scheme,
                authority,
                port,
                path,
                prefix,
            }
        });
    prop_oneof![
        3 => forward().prop_map(Action::Forward),
        1 => redirect.prop_map(Action::Redirect),
        1 => (200..600_u16, text()).prop_map(|(status, body)| Action::Respond(Respond { status, body })),
    ]
}

pub(super) fn table() -> impl Strategy<Value = RouteTable> {
    let route = (text(), matches(), action(), edits(), origin()).prop_map(
        |(name, matches, action, headers, origin)| Route {
            name,
            matches,
            action,
            headers,
            origin,
        },
    );
    let attempts =
        any::<[bool; 3]>().prop_map(|[request, response, timeout_retry]| AttemptHeaders {
            request,
            response,
            timeout_retry,
        });
    let host = (text(), vec(text(), 0..3), vec(route, 0..3), attempts).prop_map(
        |(name, domains, routes, attempts)| VirtualHost {
            name,
            domains,
            routes,
            attempts,
        },
    );
    (
        prop_oneof![word(), (1..9000_u16).prop_map(|port| port.to_string())],
        any::<bool>(),
        vec(host, 0..3),
    )
        .prop_map(|(name, ignore_port, hosts)| RouteTable {
            name,
            ignore_port,
            hosts,
        })
}
