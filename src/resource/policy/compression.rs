//! CompressionPolicy: which answers are compressed on their way.

use std::sync::Arc;

use super::CompressionPolicy;
use super::target::targets;
use crate::mesh::filter::Compressor;
use crate::resource::reader::{Fields, Value};

pub(in crate::resource) fn compression_policy(fields: &Fields<'_>) -> CompressionPolicy {
    let Some(value) = fields.require("spec") else {
        return CompressionPolicy::default();
    };
    let spec = value.fields();
    let targets = targets(&spec);
    let usual = Compressor::default();
    let mut how = Compressor {
        // Part of a whole cannot be read as one when it is compressed by itself.
        except_statuses: [206].into(),
        weaken_etag: true,
        ..usual
    };
    if let Some(on) = spec.boolean("enabled") {
        how.enabled = on;
    }
    if let Some(least) = spec.count("minLength", u32::MAX) {
        how.min_length = least;
    }
    how.content_types = spec
        .list("contentTypes")
        .iter()
        .filter_map(content_type)
        .collect();
    if let Some(level) = spec.get("level").and_then(|value| value.integer(1, 9)) {
        how.level = u8::try_from(level).unwrap_or_default();
    }
    if let Some(value) = spec.get("algorithms") {
        for value in value.list() {
            let Some(text) = value.text() else { continue };
            if text != "gzip" {
                value.refuse(
                    format!("answers compressed by {text:?} are not honoured by meshctl yet"),
                    "algorithms: [gzip], which every browser takes, or leave it out",
                );
            }
        }
    }
    if let Some(how_tags) = spec.get("etag").and_then(|value| {
        value.choice(&[
            ("Weaken", (true, false)),
            ("Remove", (false, false)),
            ("Skip", (true, true)),
        ])
    }) {
        (how.weaken_etag, how.except_etag) = how_tags;
    }
    how.hide_accept_encoding = spec.boolean("hideAcceptEncoding").unwrap_or_default();
    spec.finish();
    CompressionPolicy {
        targets,
        how: Arc::new(how),
    }
}

/// `type/subtype`, without parameters.
fn content_type(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let name = |part: &str| {
        let mut bytes = part.bytes();
        !part.is_empty()
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let good = text
        .split_once('/')
        .is_some_and(|(kind, of)| name(kind) && name(of));
    if !good {
        value.error_hint(
            format!("{text:?} is not the name of a kind of content"),
            "write it without parameters and wildcards, such as text/html",
        );
    }
    good.then(|| text.to_ascii_lowercase())
}
