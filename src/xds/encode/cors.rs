//! What pages of other origins may.

use super::super::pb::{bool_value, core, cors, matcher};
use super::route::text_match;
use super::route_policy::fraction;
use crate::mesh::Client;
use crate::mesh::filter::Cors;
use crate::mesh::route::Share;

pub(super) fn encode(from: &Cors, client: Client) -> cors::CorsPolicy {
    cors::CorsPolicy {
        allow_origin_string_match: from
            .origins
            .iter()
            // What holds for everything says so.
            .map(|origin| text_match(origin, client).unwrap_or_else(any))
            .collect(),
        allow_methods: from.methods.clone(),
        allow_headers: from.headers.clone(),
        expose_headers: from.expose.clone(),
        max_age: from.max_age.clone(),
        allow_credentials: from.credentials.and_then(bool_value),
        filter_enabled: (from.enabled != Share::default()).then(|| {
            core::RuntimeFractionalPercent {
                default_value: Some(fraction(from.enabled)),
                ..Default::default()
            }
        }),
        allow_private_network_access: from.private_network.and_then(bool_value),
        forward_not_matching_preflights: from.forward_unmatched.and_then(bool_value),
        ..Default::default()
    }
}

fn any() -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact("*".to_owned())),
        ..Default::default()
    }
}
