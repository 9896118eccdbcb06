//! What of a request is hashed.

use super::super::pb::{duration, matcher, route};
use crate::mesh::route::{HashCookie, HashOf, HashPolicy};
use route::route_action as of;
use route::route_action::hash_policy as part;

pub(super) fn encode(from: &HashPolicy) -> of::HashPolicy {
    use part::PolicySpecifier as Specifier;
    of::HashPolicy {
        terminal: from.terminal,
        policy_specifier: Some(match &from.of {
            HashOf::Header { name, rewrite } => Specifier::Header(part::Header {
                header_name: name.clone(),
                regex_rewrite: rewrite.as_ref().map(|(pattern, substitution)| {
                    matcher::RegexMatchAndSubstitute {
                        pattern: Some(matcher::RegexMatcher {
                            regex: pattern.as_str().to_owned(),
                            ..Default::default()
                        }),
                        substitution: substitution.clone(),
                    }
                }),
            }),
            HashOf::Cookie(HashCookie {
                name,
                ttl,
                path,
                attributes,
            }) => Specifier::Cookie(part::Cookie {
                name: name.clone(),
                ttl: ttl.and_then(duration),
                path: path.clone(),
                attributes: attributes
                    .iter()
                    .map(|(name, value)| part::CookieAttribute {
                        name: name.clone(),
                        value: value.clone(),
                    })
                    .collect(),
            }),
            HashOf::SourceIp => {
                Specifier::ConnectionProperties(part::ConnectionProperties { source_ip: true })
            }
            HashOf::Query(name) => {
                Specifier::QueryParameter(part::QueryParameter { name: name.clone() })
            }
        }),
    }
}
