//! What pages of other origins may.

use super::super::pb::{BoolValue, cors};
use super::Fault;
use super::fields::Fields;
use super::route::text;
use super::route_policy::share;
use crate::mesh::filter::Cors;
use crate::mesh::route::Share;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&CORS];

const CORS: Fields = Fields {
    message: "CorsPolicy",
    understood: &[
        (1, "allow_origin_string_match"),
        (2, "allow_methods"),
        (3, "allow_headers"),
        (4, "expose_headers"),
        (5, "max_age"),
        (6, "allow_credentials"),
        (7, "filter_enabled"),
        (9, "allow_private_network_access"),
        (10, "forward_not_matching_preflights"),
    ],
    // It only counts.
    tuning: &[(8, "shadow_enabled")],
    refused: &[],
};

pub(super) fn decode(from: &cors::CorsPolicy, ignored: &mut Vec<String>) -> Result<Cors, Fault> {
    CORS.audit(from, ignored)?;
    let said = |value: Option<BoolValue>| value.map(|value| value.value);
    let value = |field: &str, value: &String| {
        if value.chars().any(char::is_control) {
            return Err(Fault::Invalid(format!("{field} has a control character")));
        }
        Ok(value.clone())
    };
    Ok(Cors {
        origins: from
            .allow_origin_string_match
            .iter()
            .map(|origin| text(origin, ignored))
            .collect::<Result<_, _>>()?,
        methods: value("allow_methods", &from.allow_methods)?,
        headers: value("allow_headers", &from.allow_headers)?,
        expose: value("expose_headers", &from.expose_headers)?,
        max_age: value("max_age", &from.max_age)?,
        credentials: said(from.allow_credentials),
        forward_unmatched: said(from.forward_not_matching_preflights),
        private_network: said(from.allow_private_network_access),
        // Absent is all (Envoy).
        enabled: from
            .filter_enabled
            .as_ref()
            .map_or_else(Share::default, |enabled| {
                enabled.default_value.map_or(Share::NONE, share)
            }),
    })
}
