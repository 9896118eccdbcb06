//! Conditions of HTTP and gRPC routes.

use super::reference::word;
use crate::mesh::route::{HeaderMatch, Match, PathMatch, Pattern, QueryMatch, TextMatch};
use crate::resource::reader::{Fields, Value};

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// The condition that holds for all requests.
pub(in crate::resource) fn any() -> Match {
    Match {
        path: PathMatch::Segments("/".to_owned()),
        ..Match::default()
    }
}

/// One of `matches` of an HTTPRoute.
pub(super) fn http_match(value: &Value<'_>) -> Match {
    let fields = value.fields();
    let mut matches = any();
    if let Some(value) = fields.get("path")
        && let Some(path) = path(&value)
    {
        matches.path = path;
    }
    if let Some(value) = fields.get("method")
        && let Some(method) = word(&value, &METHODS)
    {
        matches.headers.push(HeaderMatch {
            name: ":method".to_owned(),
            value: TextMatch::Exact(method.to_owned()),
            invert: false,
        });
    }
    headers(&fields, &mut matches.headers);
    for value in fields.list("queryParams") {
        let Some((name, text)) = named(&value) else {
            continue;
        };
        // Of several for one parameter the first counts.
        if !matches.query.iter().any(|query| query.name == name) {
            matches.query.push(QueryMatch { name, value: text });
        }
    }
    fields.finish();
    matches
}

/// `headers`, whose names know no case.
pub(super) fn headers(fields: &Fields<'_>, into: &mut Vec<HeaderMatch>) {
    for value in fields.list("headers") {
        let Some((name, text)) = named(&value) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        if into.iter().any(|header| header.name == name) {
            value.warn(
                crate::resource::codes::IGNORED,
                format!("another condition on {name} stands before this one, which has no effect"),
                "write one condition, as a RegularExpression if need be",
            );
        } else {
            into.push(HeaderMatch {
                name,
                value: text,
                invert: false,
            });
        }
    }
}

fn named(value: &Value<'_>) -> Option<(String, TextMatch)> {
    let fields = value.fields();
    let kind = fields.get("type");
    let kind = kind.and_then(|value| word(&value, &["Exact", "RegularExpression"]));
    let name = fields.require("name").and_then(|value| value.text());
    let text = fields.require("value");
    fields.finish();
    let text = text?;
    let condition = if kind == Some("RegularExpression") {
        TextMatch::Regex(pattern(&text)?)
    } else {
        TextMatch::Exact(text.text()?)
    };
    Some((name?, condition))
}

/// A regular expression in RE2's language, which is held against whole texts.
pub(super) fn pattern(value: &Value<'_>) -> Option<Pattern> {
    match Pattern::new(&value.text()?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            value.error_hint(error.to_string(), "RE2's language, without look-around");
            None
        }
    }
}

fn path(value: &Value<'_>) -> Option<PathMatch> {
    let fields = value.fields();
    let kind = fields.get("type");
    let kind = kind.and_then(|value| word(&value, &["Exact", "PathPrefix", "RegularExpression"]));
    let text = fields.get("value");
    fields.finish();
    let Some(written) = text else {
        return Some(match kind {
            Some("Exact") => PathMatch::Exact("/".to_owned()),
            Some("RegularExpression") => PathMatch::Regex(Pattern::new("/").ok()?),
            _ => PathMatch::Segments("/".to_owned()),
        });
    };
    if kind == Some("RegularExpression") {
        return pattern(&written).map(PathMatch::Regex);
    }
    let text = absolute(&written)?;
    Some(match kind {
        Some("Exact") => PathMatch::Exact(text),
        _ => PathMatch::Segments(text),
    })
}

/// A path as the API takes it: absolute, and in its plain spelling.
fn absolute(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let lowered = text.to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    let fault = if !text.starts_with('/') {
        "does not begin with /"
    } else if text.contains("//") || text.contains("/./") || text.contains("/../") {
        "has an empty segment, or one of dots"
    } else if text.ends_with("/.") || text.ends_with("/..") {
        "ends with a segment of dots"
    } else if lowered.contains("%2f") || !text.bytes().all(plain) {
        "has a character that no path has in its plain spelling"
    } else {
        return Some(text);
    };
    value.error_hint(
        format!("{text:?} is no path: it {fault}"),
        "such as /shop/cart; other paths are matched by type: RegularExpression",
    );
    None
}
