//! The filter `CORS`.

use super::reference::word;
use crate::mesh::filter::Cors;
use crate::mesh::route::{Pattern, TextMatch};
use crate::resource::reader::{Fields, Value};

const METHODS: [&str; 10] = [
    "*", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

pub(super) fn cors(value: &Value<'_>) -> Cors {
    let fields = value.fields();
    let written = fields.list("allowOrigins");
    let origins: Vec<TextMatch> = written.iter().filter_map(origin).collect();
    alone(&written);
    let methods = fields.list("allowMethods");
    alone(&methods);
    let methods: Vec<&str> = methods
        .iter()
        .filter_map(|value| word(value, &METHODS))
        .collect();
    let headers = names(&fields, "allowHeaders");
    let exposed = fields.get("exposeHeaders");
    let expose = names(&fields, "exposeHeaders");
    let credentials = fields.boolean("allowCredentials").unwrap_or_default();
    if let (true, true, Some(value)) = (credentials, expose == "*", exposed) {
        value.error_hint(
            "with credentials browsers take \"*\" for a name",
            "name the headers, or write allowCredentials: false",
        );
    }
    let max_age = fields.get("maxAge");
    let max_age = max_age.and_then(|value| value.integer(1, i64::from(i32::MAX)));
    fields.finish();
    Cors {
        origins,
        methods: methods.join(", "),
        headers,
        expose,
        max_age: max_age.unwrap_or(5).to_string(),
        credentials: credentials.then_some(true),
        // What is asked for an origin that is not allowed is answered, without leave.
        forward_unmatched: Some(false),
        ..Cors::default()
    }
}

fn names(fields: &Fields<'_>, field: &'static str) -> String {
    let written = fields.list(field);
    alone(&written);
    let names: Vec<String> = written.iter().filter_map(Value::text).collect();
    names.join(", ")
}

/// `*` stands for everything, so nothing stands beside it.
fn alone(written: &[Value<'_>]) {
    let any = written.iter().find(|value| value.tree.text() == Some("*"));
    if let (Some(any), true) = (any, written.len() > 1) {
        any.error_hint("\"*\" stands alone", "remove the others, or \"*\"");
    }
}

/// `*` in the host stands for any text, dots included.
fn origin(value: &Value<'_>) -> Option<TextMatch> {
    let text = value.text()?;
    let host = text.split_once("://").map(|(_, host)| host);
    if text != "*" && host.is_none_or(|host| host.is_empty() || host.contains('/')) {
        value.error_hint(
            format!("{text:?} is no origin"),
            "SCHEME://HOST[:PORT], such as https://shop.example.com, or \"*\"",
        );
        return None;
    }
    // Browsers leave out the port that a scheme has.
    let usual = match text.split_once("://") {
        Some(("http", _)) => text.strip_suffix(":80"),
        Some(("https", _)) => text.strip_suffix(":443"),
        _ => None,
    };
    let text = usual.map_or_else(|| text.clone(), str::to_owned);
    if text == "*" || !text.contains('*') {
        return Some(TextMatch::Exact(text));
    }
    let parts: Vec<String> = text.split('*').map(regex::escape).collect();
    // A port that is not written is the scheme's own.
    let pattern = Pattern::new(&parts.join("[^/:]+")).ok()?;
    Some(TextMatch::Regex(pattern))
}
