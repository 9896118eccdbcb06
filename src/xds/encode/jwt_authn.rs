//! Tokens of requests: whose are taken and which are needed.

use prost::Name as _;

use super::super::canonical;
use super::super::pb::{Any, Empty, core, matcher, tokens};
use super::super::structs::{ANY, JWT_AUTHN};
use super::route::{condition, regex, text_match};
use crate::mesh::Client;
use crate::mesh::jwt_authn::{CLOCK_SKEW, JwtAuthn, JwtProvider, JwtRequirement, JwtRule, PAYLOAD};
use crate::mesh::route::ClaimMatch;

pub(super) fn encode(from: &JwtAuthn, client: Client) -> Any {
    let providers = from.providers.iter();
    let message = tokens::JwtAuthentication {
        providers: providers
            .map(|(name, of)| (name.clone(), provider(of)))
            .collect(),
        rules: from.rules.iter().map(|of| rule(of, client)).collect(),
        bypass_cors_preflight: from.bypass_cors_preflight,
        strip_failure_response: from.strip_failure_response,
        ..Default::default()
    };
    Any {
        type_url: tokens::JwtAuthentication::type_url(),
        value: canonical::encode(&message, &canonical::JWT_AUTHN),
    }
}

fn provider(from: &JwtProvider) -> tokens::JwtProvider {
    use core::data_source::Specifier;
    use tokens::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
    let headers = from.from.headers.iter();
    let claims = from.claim_headers.iter();
    tokens::JwtProvider {
        issuer: from.issuer.clone(),
        audiences: from.audiences.clone(),
        forward: from.forward,
        from_headers: headers
            .map(|header| tokens::JwtHeader {
                name: header.name.clone(),
                value_prefix: header.prefix.clone(),
            })
            .collect(),
        from_params: from.from.params.clone(),
        from_cookies: from.from.cookies.clone(),
        forward_payload_header: from.payload_header.clone(),
        pad_forward_payload_header: from.pad_payload_header,
        payload_in_metadata: if from.tells { PAYLOAD } else { "" }.to_owned(),
        normalize_payload_in_metadata: (!from.spaced_claims.is_empty()).then(|| NormalizePayload {
            space_delimited_claims: from.spaced_claims.iter().cloned().collect(),
        }),
        clock_skew_seconds: if from.clock_skew == CLOCK_SKEW {
            0
        } else {
            from.clock_skew
        },
        claim_to_headers: claims
            .map(|to| tokens::JwtClaimToHeader {
                header_name: to.header.clone(),
                claim_name: to.claim.clone(),
                ..Default::default()
            })
            .collect(),
        // Routes may go by what the token says.
        clear_route_cache: true,
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(core::DataSource {
            specifier: Some(Specifier::InlineString(from.keys.to_string())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn rule(from: &JwtRule, client: Client) -> tokens::RequirementRule {
    use tokens::requirement_rule::RequirementType;
    tokens::RequirementRule {
        r#match: condition(&from.matches, client),
        requirement_type: match &from.requires {
            JwtRequirement::Nothing => None,
            requires => Some(RequirementType::Requires(requirement(requires))),
        },
    }
}

fn requirement(from: &JwtRequirement) -> tokens::JwtRequirement {
    use tokens::jwt_requirement::RequiresType as Requires;
    let all = |list: &[JwtRequirement]| list.iter().map(requirement).collect();
    tokens::JwtRequirement {
        requires_type: match from {
            JwtRequirement::Nothing => None,
            JwtRequirement::Provider { name, audiences } if audiences.is_empty() => {
                Some(Requires::ProviderName(name.clone()))
            }
            JwtRequirement::Provider { name, audiences } => Some(Requires::ProviderAndAudiences(
                tokens::ProviderWithAudiences {
                    provider_name: name.clone(),
                    audiences: audiences.clone(),
                },
            )),
            JwtRequirement::Any(list) => {
                Some(Requires::RequiresAny(tokens::JwtRequirementOrList {
                    requirements: all(list),
                }))
            }
            JwtRequirement::All(list) => {
                Some(Requires::RequiresAll(tokens::JwtRequirementAndList {
                    requirements: all(list),
                }))
            }
            JwtRequirement::AllowMissing => Some(Requires::AllowMissing(Empty::default())),
            JwtRequirement::AllowMissingOrFailed => {
                Some(Requires::AllowMissingOrFailed(Empty::default()))
            }
        },
    }
}

/// A condition on a claim, as Istio writes it: the text itself, or one of a list.
pub(super) fn claim_match(from: &ClaimMatch, client: Client) -> matcher::MetadataMatcher {
    use matcher::list_matcher::MatchPattern as OfList;
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    use matcher::value_matcher::MatchPattern;
    let any = || matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(ANY))),
        ..Default::default()
    };
    let text = matcher::ValueMatcher {
        match_pattern: Some(MatchPattern::StringMatch(
            text_match(&from.value, client).unwrap_or_else(any),
        )),
    };
    let list = matcher::ValueMatcher {
        match_pattern: Some(MatchPattern::ListMatch(Box::new(matcher::ListMatcher {
            match_pattern: Some(OfList::OneOf(Box::new(text.clone()))),
        }))),
    };
    let path = std::iter::once(PAYLOAD).chain(from.path.iter().map(String::as_str));
    matcher::MetadataMatcher {
        filter: JWT_AUTHN.to_owned(),
        path: path
            .map(|name| PathSegment {
                segment: Some(Segment::Key(name.to_owned())),
            })
            .collect(),
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(MatchPattern::OrMatch(matcher::OrMatcher {
                value_matchers: vec![list, text],
            })),
        }),
        invert: from.invert,
    }
}
