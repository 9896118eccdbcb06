//! Arbitrary filters of tokens.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::route::matches;
use super::{text, word};
use crate::mesh::jwt_authn::{
    ClaimHeader, JwtAuthn, JwtHeader, JwtPlaces, JwtProvider, JwtRequirement, JwtRule,
};
use crate::mesh::route::PathMatch;

pub(super) fn tokens() -> impl Strategy<Value = JwtAuthn> {
    let providers = btree_map("[ab]", provider(), 1..3);
    let parts = (providers, any::<bool>(), any::<bool>());
    let whole = parts.prop_flat_map(|(providers, bypass, strip)| {
        let names: Vec<String> = providers.keys().cloned().collect();
        let rule = (matches(), requirement(names)).prop_map(|(mut matches, requires)| {
            // Some of these are carried as other kinds, which tables of routes are put to rights for.
            if let PathMatch::Segments(_) = matches.path {
                matches.path = PathMatch::default();
            }
            JwtRule { matches, requires }
        });
        vec(rule, 0..3).prop_map(move |rules| JwtAuthn {
            providers: providers.clone(),
            rules,
            bypass_cors_preflight: bypass,
            strip_failure_response: strip,
        })
    });
    whole.boxed()
}

fn provider() -> impl Strategy<Value = JwtProvider> {
    let header = (word(), text()).prop_map(|(name, prefix)| JwtHeader { name, prefix });
    let places = (vec(header, 0..2), vec(text(), 0..2), vec(text(), 0..2)).prop_map(
        |(headers, params, cookies)| JwtPlaces {
            headers,
            params,
            cookies,
        },
    );
    let claim = (word(), word()).prop_map(|(header, claim)| ClaimHeader { header, claim });
    let told = (
        prop_oneof![Just(String::new()), word()],
        any::<bool>(),
        vec(claim, 0..2),
        any::<bool>(),
        btree_set(word(), 0..2),
    );
    (
        (text(), vec(text(), 0..2), text()),
        places,
        any::<bool>(),
        told,
        1..200_u32,
    )
        .prop_map(
            |((issuer, audiences, keys), from, forward, told, clock_skew)| {
                let (payload_header, pad_payload_header, claim_headers, tells, spaced) = told;
                JwtProvider {
                    issuer,
                    audiences,
                    keys: keys.into(),
                    from,
                    forward,
                    payload_header,
                    pad_payload_header,
                    claim_headers,
                    tells,
                    spaced_claims: spaced,
                    clock_skew,
                }
            },
        )
}

fn requirement(names: Vec<String>) -> impl Strategy<Value = JwtRequirement> {
    let provider = (proptest::sample::select(names), vec(word(), 0..2))
        .prop_map(|(name, audiences)| JwtRequirement::Provider { name, audiences });
    let leaf = prop_oneof![
        provider,
        Just(JwtRequirement::Nothing),
        Just(JwtRequirement::AllowMissing),
        Just(JwtRequirement::AllowMissingOrFailed),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(JwtRequirement::Any),
            vec(inner, 1..3).prop_map(JwtRequirement::All),
        ]
    })
}
