//! The conditions of a VirtualService's HTTP route.

use std::collections::BTreeMap;

use crate::mesh::route::{
    ClaimMatch, HeaderMatch, Match, PathMatch, Pattern, QueryMatch, TextMatch,
};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Node;

/// One `match` of a route; all of its conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// For the route's name.
    pub name: String,
    /// Conditions on the request.
    pub matches: Match,
    /// Only for requests to this port.
    pub port: Option<u16>,
    /// Only for callers with these labels.
    pub source_labels: BTreeMap<String, String>,
    /// Only for callers in this namespace.
    pub source_namespace: Option<String>,
    /// Instead of the gateways of the VirtualService.
    pub gateways: Vec<String>,
}

pub(super) fn http_match(value: &Value<'_>) -> HttpMatch {
    let fields = value.fields();
    let mut matches = Match::default();
    if let Some(uri) = fields.get("uri") {
        match text_match(&uri) {
            Some(TextMatch::Exact(text)) => matches.path = PathMatch::Exact(text),
            Some(TextMatch::Prefix(text)) => matches.path = PathMatch::Prefix(text),
            Some(TextMatch::Regex(pattern)) => matches.path = PathMatch::Regex(pattern),
            Some(_) => uri.error_hint("a uri match needs a text", "uri: {prefix: /}"),
            None => {}
        }
    }
    matches.ignore_case = fields.boolean("ignoreUriCase").unwrap_or_default();
    for (field, name) in [
        ("method", ":method"),
        ("authority", ":authority"),
        ("scheme", ":scheme"),
    ] {
        if let Some(value) = fields.get(field)
            && let Some(text) = text_match(&value)
        {
            matches.headers.push(HeaderMatch {
                name: name.to_owned(),
                value: text,
                invert: false,
            });
        }
    }
    headers(&fields, "headers", false, &mut matches);
    headers(&fields, "withoutHeaders", true, &mut matches);
    if let Some(query) = fields.get("queryParams") {
        for (name, value) in query.entries() {
            if let Some(text) = text_match(&value) {
                matches.query.push(QueryMatch {
                    name: name.to_owned(),
                    value: text,
                });
            }
        }
    }
    let http_match = HttpMatch {
        name: fields.text("name").unwrap_or_default(),
        matches,
        port: fields.port("port"),
        source_labels: fields.texts("sourceLabels"),
        source_namespace: fields.text("sourceNamespace"),
        gateways: fields.text_list("gateways"),
    };
    fields.ignore(
        "statPrefix",
        "requests are counted by Istio's standard labels",
    );
    fields.finish();
    http_match
}

fn headers(fields: &Fields<'_>, field: &'static str, invert: bool, into: &mut Match) {
    let Some(value) = fields.get(field) else {
        return;
    };
    for (name, value) in value.entries() {
        let lowered = name.to_ascii_lowercase();
        if matches!(lowered.as_str(), "uri" | "method" | "authority" | "scheme") {
            value.warn(
                codes::IGNORED,
                format!("Istio leaves out {name:?} among headers, and so does meshctl"),
                format!("write it beside {field:?}: {lowered}: …"),
            );
        } else if name.starts_with('@') {
            let Some(path) = claim(name) else {
                value.error_hint(
                    format!("{name:?} names no claim of a token"),
                    "\"@request.auth.claims.sub\", or \"@request.auth.claims[realm][roles]\" for one inside another",
                );
                continue;
            };
            if let Some(text) = text_match(&value) {
                into.claims.push(ClaimMatch {
                    path,
                    value: text,
                    invert,
                });
            }
        } else if let Some(text) = text_match(&value) {
            into.headers.push(HeaderMatch {
                name: lowered,
                value: text,
                invert,
            });
        }
    }
}

/// The claim that a condition is about: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
fn claim(name: &str) -> Option<Vec<String>> {
    const CLAIMS: &str = "@request.auth.claims";
    let (start, rest) = name.split_at_checked(CLAIMS.len())?;
    if !start.eq_ignore_ascii_case(CLAIMS) {
        return None;
    }
    let inside = rest
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let path: Vec<String> = match (rest.strip_prefix('.'), inside) {
        (Some(rest), _) => rest.split('.').map(str::to_owned).collect(),
        (None, Some(inside)) => inside.split("][").map(str::to_owned).collect(),
        (None, None) => return None,
    };
    (!path.iter().any(String::is_empty)).then_some(path)
}

/// Istio's `StringMatch`; `{}` is presence.
pub(in crate::resource) fn text_match(value: &Value<'_>) -> Option<TextMatch> {
    if let Node::Text(text) = &value.tree.node {
        value.error_hint(
            format!("expected a condition, found the text {text:?}"),
            format!("write exact: {text:?}, prefix: …, or regex: …"),
        );
        return None;
    }
    let fields = value.fields();
    let exact = fields.text("exact").map(TextMatch::Exact);
    let prefix = fields.text("prefix").map(TextMatch::Prefix);
    let regex = fields
        .get("regex")
        .and_then(|value| pattern(&value))
        .map(TextMatch::Regex);
    let had_regex = value.tree.get("regex").is_some();
    fields.finish();
    let mut found = [exact, prefix, regex].into_iter().flatten();
    let first = found.next();
    if found.next().is_some() {
        value.error_hint(
            "several conditions in one",
            "write one of exact, prefix and regex",
        );
    }
    match first {
        None if had_regex => None,
        None => Some(TextMatch::Present),
        some => some,
    }
}

/// A regular expression in RE2's language.
pub(in crate::resource) fn pattern(value: &Value<'_>) -> Option<Pattern> {
    let text = value.text()?;
    match Pattern::new(&text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            value.error_hint(
                error.to_string(),
                "RE2 syntax; look-around and back-references are not in it",
            );
            None
        }
    }
}
