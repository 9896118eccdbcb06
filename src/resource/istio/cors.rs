//! What a route allows pages of other origins.

use std::sync::Arc;

use super::header_edits::header_name;
use super::http_match::text_match;
use crate::mesh::filter::Cors;
use crate::mesh::route::TextMatch;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

const METHODS: [&str; 10] = [
    "*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE",
];

pub(super) fn cors(value: &Value<'_>) -> Arc<Cors> {
    let fields = value.fields();
    let mut origins: Vec<TextMatch> = Vec::new();
    for item in fields.list("allowOrigins") {
        match text_match(&item) {
            Some(TextMatch::Present) => item.error_hint(
                "an origin needs a text",
                "exact: https://shop.example.com, or exact: \"*\" for all",
            ),
            found => origins.extend(found),
        }
    }
    if let Some(older) = fields.get("allowOrigin") {
        older.warn(
            codes::DEPRECATED,
            "\"allowOrigin\" is the old form of \"allowOrigins\"",
            "write allowOrigins: [{exact: …}]",
        );
        let texts = older.list();
        // Istio's choice: the new form wins.
        if origins.is_empty() {
            origins.extend(texts.iter().filter_map(Value::text).map(TextMatch::Exact));
        }
    }
    let named = |name| value.tree.get(name).is_some();
    if origins.is_empty() && !named("allowOrigins") && !named("allowOrigin") {
        value.warn(
            codes::SCHEMA_WARNING,
            "without allowOrigins no page of another origin may call",
            "allowOrigins: [{exact: https://shop.example.com}]",
        );
    }
    let names = |name: &'static str| {
        let named = |item: &Value<'_>| header_name(item, &item.text()?).map(|_| item.text())?;
        joined(&fields, name, named)
    };
    let methods = joined(&fields, "allowMethods", |item| {
        item.choice(&METHODS.map(|name| (name, name)))
            .map(str::to_owned)
    });
    let cors = Cors {
        origins,
        methods,
        headers: names("allowHeaders"),
        expose: names("exposeHeaders"),
        max_age: fields
            .duration("maxAge")
            .map_or_else(String::new, |age| age.as_secs().to_string()),
        credentials: fields.boolean("allowCredentials"),
        forward_unmatched: fields.get("unmatchedPreflights").and_then(|value| {
            value.choice(&[("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)])
        }),
        ..Cors::default()
    };
    fields.finish();
    Arc::new(cors)
}

/// A list as one value of a field.
fn joined(
    fields: &Fields<'_>,
    name: &'static str,
    read: impl Fn(&Value<'_>) -> Option<String>,
) -> String {
    let items: Vec<String> = fields.list(name).iter().filter_map(read).collect();
    items.join(",")
}
