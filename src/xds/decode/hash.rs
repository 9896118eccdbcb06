//! What of a request is hashed.

use super::super::pb::{route, to_duration};
use super::Fault;
use super::route::pattern;
use crate::mesh::route::{HashCookie, HashOf, HashPolicy};

/// `None` for a part that says nothing.
pub(super) fn decode(from: &route::route_action::HashPolicy) -> Result<Option<HashPolicy>, Fault> {
    use route::route_action::hash_policy::PolicySpecifier as Specifier;
    let of = match &from.policy_specifier {
        Some(Specifier::Header(header)) => HashOf::Header {
            name: header.header_name.to_ascii_lowercase(),
            rewrite: header
                .regex_rewrite
                .as_ref()
                .map(|rewrite| {
                    let pattern = pattern(&rewrite.pattern.clone().unwrap_or_default())?;
                    Ok((pattern, rewrite.substitution.clone()))
                })
                .transpose()?,
        },
        Some(Specifier::Cookie(cookie)) => HashOf::Cookie(HashCookie {
            name: cookie.name.clone(),
            ttl: cookie
                .ttl
                .as_ref()
                .map(|ttl| {
                    to_duration(ttl).ok_or_else(|| {
                        Fault::Invalid("ttl is not a duration of at least zero".to_owned())
                    })
                })
                .transpose()?,
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| (attribute.name.clone(), attribute.value.clone()))
                .collect(),
        }),
        Some(Specifier::ConnectionProperties(properties)) if properties.source_ip => {
            HashOf::SourceIp
        }
        Some(Specifier::QueryParameter(query)) => HashOf::Query(query.name.clone()),
        Some(Specifier::ConnectionProperties(_)) => return Ok(None),
        Some(Specifier::FilterState(_)) | None => {
            return Err(Fault::Unsupported {
                message: "RouteAction.HashPolicy",
                field: "filter_state".to_owned(),
            });
        }
    };
    Ok(Some(HashPolicy {
        of,
        terminal: from.terminal,
    }))
}
