//! Arbitrary ways to ask whether a request may be made.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::route::text_match;
use super::{duration, text, word};
use crate::mesh::ext_authz::{Asks, AsksHttp, CheckedBody, ExtAuthz, WhenNoted};
use crate::mesh::route::TextMatch;

fn names() -> impl Strategy<Value = Vec<TextMatch>> {
    vec(text_match(), 0..3)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((word(), text()), 0..3)
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        word().prop_map(|word| format!("/{word}"))
    ]
}

fn asks() -> impl Strategy<Value = Asks> {
    let grpc = (word(), text(), pairs()).prop_map(|(cluster, authority, metadata)| Asks::Grpc {
        cluster,
        authority,
        metadata,
    });
    let http = (
        (word(), text(), path(), path(), pairs()),
        (names(), names(), names(), names()),
    );
    let http = http.prop_map(
        |(
            (cluster, uri, path_prefix, path_override, headers_to_add),
            (upstream, upstream_append, denied, allowed),
        )| {
            Asks::Http(Box::new(AsksHttp {
                cluster,
                uri,
                path_prefix,
                path_override,
                headers_to_add,
                upstream,
                upstream_append,
                denied,
                allowed,
            }))
        },
    );
    prop_oneof![grpc, http]
}

/// About bytes: by gRPC alone, and nothing of requests.
pub(super) fn network() -> impl Strategy<Value = ExtAuthz> {
    let whom = (word(), text(), pairs());
    (ext_authz(), whom).prop_map(|(from, (cluster, authority, metadata))| ExtAuthz {
        asks: Asks::Grpc {
            cluster,
            authority,
            metadata,
        },
        stat_prefix: from.stat_prefix,
        timeout: from.timeout,
        fail_open: from.fail_open,
        peer_certificate: from.peer_certificate,
        tls_session: from.tls_session,
        when: from.when,
        ..ExtAuthz::default()
    })
}

pub(super) fn ext_authz() -> impl Strategy<Value = ExtAuthz> {
    let body = (1..u32::MAX, any::<[bool; 2]>()).prop_map(|(max_bytes, [partial, as_bytes])| {
        CheckedBody {
            max_bytes,
            partial,
            as_bytes,
        }
    });
    let when = (text(), text_match()).prop_map(|(prefix, policy)| WhenNoted { prefix, policy });
    (
        (text(), asks(), duration(), 400_u16..600),
        (option::of(body), names(), names(), option::of(when)),
        any::<[bool; 5]>(),
    )
        .prop_map(
            |(
                (stat_prefix, asks, timeout, status_on_error),
                (body, allowed_headers, disallowed_headers, when),
                [
                    fail_open,
                    tells_fail_open,
                    clear_route_cache,
                    peer_certificate,
                    tls_session,
                ],
            )| ExtAuthz {
                stat_prefix,
                asks,
                timeout,
                fail_open,
                tells_fail_open,
                status_on_error,
                body,
                clear_route_cache,
                allowed_headers,
                disallowed_headers,
                peer_certificate,
                tls_session,
                when,
            },
        )
        .boxed()
}
