//! Tokens of requests: whose are taken and which are needed.

use std::collections::BTreeMap;

use super::super::pb::{core, matcher, tokens};
use super::super::structs::{ANY, JWT_AUTHN};
use super::Fault;
use super::fields::Fields;
use super::route::{matches, text, unsupported};
use crate::mesh::jwt_authn::{
    CLOCK_SKEW, ClaimHeader, JwtAuthn, JwtHeader, JwtPlaces, JwtProvider, JwtRequirement, JwtRule,
    PAYLOAD,
};
use crate::mesh::route::{ClaimMatch, TextMatch};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[
    &AUTHENTICATION,
    &PROVIDER,
    &CLAIM_HEADER,
    &RULE,
    &REQUIREMENT,
    &METADATA,
];

const AUTHENTICATION: Fields = Fields {
    message: "JwtAuthentication",
    understood: &[
        (1, "providers"),
        (2, "rules"),
        (4, "bypass_cors_preflight"),
        (5, "requirement_map"),
        (6, "strip_failure_response"),
    ],
    tuning: &[(7, "stat_prefix")],
    refused: &[(3, "filter_state_rules")],
};
const PROVIDER: Fields = Fields {
    message: "JwtProvider",
    understood: &[
        (1, "issuer"),
        (2, "audiences"),
        (4, "local_jwks"),
        (5, "forward"),
        (6, "from_headers"),
        (7, "from_params"),
        (8, "forward_payload_header"),
        (9, "payload_in_metadata"),
        (10, "clock_skew_seconds"),
        (11, "pad_forward_payload_header"),
        (13, "from_cookies"),
        (15, "claim_to_headers"),
        (17, "clear_route_cache"),
        (18, "normalize_payload_in_metadata"),
    ],
    tuning: &[
        (12, "jwt_cache_config"),
        // For logs.
        (16, "failed_status_in_metadata"),
    ],
    refused: &[
        (3, "remote_jwks"),
        (14, "header_in_metadata"),
        (19, "subjects"),
        (20, "require_expiration"),
        (21, "max_lifetime"),
    ],
};
const CLAIM_HEADER: Fields = Fields {
    message: "JwtClaimToHeader",
    understood: &[(1, "header_name"), (2, "claim_name")],
    tuning: &[],
    refused: &[(3, "claim_path")],
};
const RULE: Fields = Fields {
    message: "RequirementRule",
    understood: &[(1, "match"), (2, "requires"), (3, "requirement_name")],
    tuning: &[],
    refused: &[],
};
const REQUIREMENT: Fields = Fields {
    message: "JwtRequirement",
    understood: &[
        (1, "provider_name"),
        (2, "provider_and_audiences"),
        (3, "requires_any"),
        (4, "requires_all"),
        (5, "allow_missing_or_failed"),
        (6, "allow_missing"),
    ],
    tuning: &[],
    refused: &[(7, "extract_only_without_validation")],
};
const METADATA: Fields = Fields {
    message: "MetadataMatcher",
    understood: &[(1, "filter"), (2, "path"), (3, "value"), (4, "invert")],
    tuning: &[],
    refused: &[],
};

/// Requirements in one another, at most.
const MAX_DEPTH: usize = 16;

pub(super) fn decode(
    from: &tokens::JwtAuthentication,
    ignored: &mut Vec<String>,
) -> Result<JwtAuthn, Fault> {
    AUTHENTICATION.audit(from, ignored)?;
    let mut providers = BTreeMap::new();
    for (name, of) in &from.providers {
        providers.insert(name.clone(), provider(of, ignored)?);
    }
    let mut rules = Vec::with_capacity(from.rules.len());
    for rule in &from.rules {
        use tokens::requirement_rule::RequirementType;
        RULE.audit(rule, ignored)?;
        let missing = || Fault::Invalid("a rule of jwt_authn has no match".to_owned());
        let requires = match &rule.requirement_type {
            None => JwtRequirement::Nothing,
            Some(RequirementType::Requires(requires)) => requirement(requires, MAX_DEPTH, ignored)?,
            Some(RequirementType::RequirementName(name)) => {
                let named = from.requirement_map.get(name);
                let named = named.ok_or_else(|| {
                    Fault::Invalid(format!("there is no requirement of the name {name:?}"))
                })?;
                requirement(named, MAX_DEPTH, ignored)?
            }
        };
        known(&requires, &providers)?;
        rules.push(JwtRule {
            matches: matches(rule.r#match.as_ref().ok_or_else(missing)?, ignored)?,
            requires,
        });
    }
    Ok(JwtAuthn {
        providers,
        rules,
        bypass_cors_preflight: from.bypass_cors_preflight,
        strip_failure_response: from.strip_failure_response,
    })
}

/// Whether all providers that are named are there.
fn known(
    requires: &JwtRequirement,
    providers: &BTreeMap<String, JwtProvider>,
) -> Result<(), Fault> {
    match requires {
        JwtRequirement::Provider { name, .. } if !providers.contains_key(name) => Err(
            Fault::Invalid(format!("required provider {name:?} is not configured")),
        ),
        JwtRequirement::Any(list) | JwtRequirement::All(list) => {
            list.iter().try_for_each(|inner| known(inner, providers))
        }
        JwtRequirement::Provider { .. }
        | JwtRequirement::Nothing
        | JwtRequirement::AllowMissing
        | JwtRequirement::AllowMissingOrFailed => Ok(()),
    }
}

fn provider(from: &tokens::JwtProvider, ignored: &mut Vec<String>) -> Result<JwtProvider, Fault> {
    use core::data_source::Specifier;
    use tokens::jwt_provider::JwksSourceSpecifier as Source;
    PROVIDER.audit(from, ignored)?;
    let keys = match &from.jwks_source_specifier {
        Some(Source::LocalJwks(source)) => match &source.specifier {
            Some(Specifier::InlineString(text)) => text.as_str().into(),
            Some(Specifier::InlineBytes(bytes)) => String::from_utf8_lossy(bytes).as_ref().into(),
            _ => return unsupported("JwtProvider", "local_jwks"),
        },
        _ => {
            return Err(Fault::Invalid(
                "a provider of jwt_authn has no keys".to_owned(),
            ));
        }
    };
    let tells = match from.payload_in_metadata.as_str() {
        "" => false,
        PAYLOAD => true,
        // Whoever reads it there would find nothing.
        _ => return unsupported("JwtProvider", "payload_in_metadata"),
    };
    let headers = from.from_headers.iter();
    let mut claim_headers = Vec::with_capacity(from.claim_to_headers.len());
    for to in &from.claim_to_headers {
        CLAIM_HEADER.audit(to, ignored)?;
        claim_headers.push(ClaimHeader {
            header: to.header_name.to_ascii_lowercase(),
            claim: to.claim_name.clone(),
        });
    }
    let spaced = from.normalize_payload_in_metadata.as_ref();
    Ok(JwtProvider {
        issuer: from.issuer.clone(),
        audiences: from.audiences.clone(),
        keys,
        from: JwtPlaces {
            headers: headers
                .map(|header| JwtHeader {
                    name: header.name.to_ascii_lowercase(),
                    prefix: header.value_prefix.clone(),
                })
                .collect(),
            params: from.from_params.clone(),
            cookies: from.from_cookies.clone(),
        },
        forward: from.forward,
        payload_header: from.forward_payload_header.to_ascii_lowercase(),
        pad_payload_header: from.pad_forward_payload_header,
        claim_headers,
        tells,
        spaced_claims: spaced
            .map(|spaced| spaced.space_delimited_claims.iter().cloned().collect())
            .unwrap_or_default(),
        clock_skew: match from.clock_skew_seconds {
            0 => CLOCK_SKEW,
            seconds => seconds,
        },
    })
}

fn requirement(
    from: &tokens::JwtRequirement,
    depth: usize,
    ignored: &mut Vec<String>,
) -> Result<JwtRequirement, Fault> {
    use tokens::jwt_requirement::RequiresType as Requires;
    REQUIREMENT.audit(from, ignored)?;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Fault::Invalid(
            "requirements of jwt_authn are nested too deep".to_owned(),
        ));
    };
    let mut all = |list: &[tokens::JwtRequirement]| -> Result<Vec<_>, Fault> {
        let inner = list.iter().map(|inner| requirement(inner, depth, ignored));
        inner.collect()
    };
    Ok(match &from.requires_type {
        None => JwtRequirement::Nothing,
        Some(Requires::ProviderName(name)) => JwtRequirement::Provider {
            name: name.clone(),
            audiences: Vec::new(),
        },
        Some(Requires::ProviderAndAudiences(of)) => JwtRequirement::Provider {
            name: of.provider_name.clone(),
            audiences: of.audiences.clone(),
        },
        Some(Requires::RequiresAny(list)) => JwtRequirement::Any(all(&list.requirements)?),
        Some(Requires::RequiresAll(list)) => JwtRequirement::All(all(&list.requirements)?),
        Some(Requires::AllowMissing(_)) => JwtRequirement::AllowMissing,
        Some(Requires::AllowMissingOrFailed(_)) => JwtRequirement::AllowMissingOrFailed,
        Some(Requires::ExtractOnlyWithoutValidation(_)) => {
            return unsupported("JwtRequirement", "extract_only_without_validation");
        }
    })
}

/// A condition on a claim, in the form that Istio writes.
pub(super) fn claim_match(
    from: &matcher::MetadataMatcher,
    ignored: &mut Vec<String>,
) -> Result<ClaimMatch, Fault> {
    use matcher::list_matcher::MatchPattern as OfList;
    use matcher::metadata_matcher::path_segment::Segment;
    use matcher::value_matcher::MatchPattern;
    METADATA.audit(from, ignored)?;
    let other = |what| unsupported("MetadataMatcher", what);
    if from.filter != JWT_AUTHN {
        return other("filter");
    }
    let mut path = Vec::with_capacity(from.path.len());
    for segment in &from.path {
        match &segment.segment {
            Some(Segment::Key(name)) => path.push(name.clone()),
            None => return other("path"),
        }
    }
    if path.len() < 2 || path.first().is_none_or(|first| first != PAYLOAD) {
        return other("path");
    }
    path.remove(0);
    let value = from
        .value
        .as_ref()
        .and_then(|value| value.match_pattern.as_ref());
    let Some(MatchPattern::OrMatch(any)) = value else {
        return other("value");
    };
    // The same text is asked for by itself and in lists.
    let (mut alone, mut listed) = (None, None);
    for one in &any.value_matchers {
        match &one.match_pattern {
            Some(MatchPattern::StringMatch(of)) if alone.is_none() => alone = Some(of),
            Some(MatchPattern::ListMatch(list)) if listed.is_none() => {
                let inside = match &list.match_pattern {
                    Some(OfList::OneOf(inside)) => inside.match_pattern.as_ref(),
                    None => None,
                };
                match inside {
                    Some(MatchPattern::StringMatch(of)) => listed = Some(of),
                    _ => return other("value"),
                }
            }
            _ => return other("value"),
        }
    }
    let (Some(alone), true) = (alone, alone == listed) else {
        return other("value");
    };
    Ok(ClaimMatch {
        path,
        value: match text(alone, ignored)? {
            TextMatch::Regex(pattern) if pattern.as_str() == ANY => TextMatch::Present,
            value => value,
        },
        invert: from.invert,
    })
}
