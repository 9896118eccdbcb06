//! Header edits of routes and destinations.

use std::collections::BTreeMap;

use crate::mesh::route::{HeaderEdits, HeaderOperations};
use crate::resource::reader::{Fields, Value};

pub(super) fn edits(value: Option<Value<'_>>) -> HeaderEdits {
    let Some(value) = value else {
        return HeaderEdits::default();
    };
    let fields = value.fields();
    let edits = HeaderEdits {
        request: operations(fields.get("request")),
        response: operations(fields.get("response")),
    };
    fields.finish();
    edits
}

fn operations(value: Option<Value<'_>>) -> HeaderOperations {
    let Some(value) = value else {
        return HeaderOperations::default();
    };
    let fields = value.fields();
    let operations = written(&fields);
    fields.finish();
    operations
}

/// What is set, added and removed by `fields`.
pub(in crate::resource) fn written(fields: &Fields<'_>) -> HeaderOperations {
    HeaderOperations {
        set: named(fields, "set"),
        add: named(fields, "add"),
        remove: fields
            .list("remove")
            .iter()
            .filter_map(|value| header_name(value, &value.text()?))
            .collect(),
        ..HeaderOperations::default()
    }
}

/// Fields by name, with their values.
pub(in crate::resource) fn named(
    fields: &Fields<'_>,
    name: &'static str,
) -> BTreeMap<String, String> {
    let written = fields.get(name).map(|value| value.entries());
    written
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, value)| {
            let text = value.text()?;
            let name = header_name(&value, name)?;
            if text.bytes().any(|byte| byte < b' ' && byte != b'\t') {
                value.error("a header has no line breaks or control characters");
            }
            Some((name, text))
        })
        .collect()
}

pub(in crate::resource) fn header_name(value: &Value<'_>, name: &str) -> Option<String> {
    let lowered = name.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if lowered == ":authority" || (!lowered.is_empty() && lowered.bytes().all(token)) {
        Some(lowered)
    } else {
        value.error(format!("{name:?} is not the name of a header"));
        None
    }
}
