//! ShadowDiff: answers to copies of a service's calls are held against those that callers get.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::ShadowDiff;
use crate::mesh::shadow::{BODY_LIMIT, Comparison, JsonPath};
use crate::resource::istio::header_name;
use crate::resource::reader::{Fields, Value};

/// Most of a body that may be kept, in bytes.
const MOST: u32 = 1 << 20;

pub(in crate::resource) fn shadow_diff(fields: &Fields<'_>) -> ShadowDiff {
    let mut diff = ShadowDiff::default();
    let Some(value) = fields.require("spec") else {
        return diff;
    };
    let spec = value.fields();
    if let Some(service) = spec.get("service") {
        diff.service = service.text().unwrap_or_default();
    } else {
        value.error_hint("field \"service\" is missing", "service: reviews");
    }
    let how = Comparison {
        version: spec.text("version"),
        ..comparison(&spec)
    };
    spec.finish();
    diff.how = Arc::new(how);
    diff
}

/// What is compared, and how.
pub(super) fn comparison(spec: &Fields<'_>) -> Comparison {
    let mut how = Comparison::default();
    if let Some(percent) = spec.get("percent") {
        how.share = percent.percent().unwrap_or_default();
    }
    let headers = spec.list("headers");
    how.headers = headers
        .iter()
        .filter_map(|value| header_name(value, &value.text()?))
        .collect();
    how.ignore = spec.list("ignore").iter().filter_map(place).collect();
    if let Some(body) = spec.get("body") {
        let fields = body.fields();
        how.body = fields.boolean("compare").unwrap_or(true);
        how.body_limit = match fields.get("maxBytes") {
            Some(bytes) => bytes.count(MOST).unwrap_or(BODY_LIMIT),
            None => BODY_LIMIT,
        };
        fields.finish();
    }
    how
}

/// Writes what [`comparison`] reads.
pub(super) fn write(how: &Comparison) -> serde_json::Map<String, Json> {
    let mut written = serde_json::Map::new();
    let mut say = |field: &str, value: Json| written.insert(field.to_owned(), value);
    if let Some(version) = &how.version {
        say("version", json!(version));
    }
    if how.share != Comparison::default().share {
        let percent = 100.0 * f64::from(how.share.parts) / f64::from(how.share.of);
        say("percent", json!(percent));
    }
    if !how.headers.is_empty() {
        say("headers", json!(how.headers));
    }
    if !how.ignore.is_empty() {
        say("ignore", json!(how.ignore));
    }
    if !how.body || how.body_limit != BODY_LIMIT {
        say(
            "body",
            json!({ "compare": how.body, "maxBytes": how.body_limit }),
        );
    }
    written
}

/// The object that has answers to copies of a Service's calls compared while a canary of it runs.
pub fn shadow_object(namespace: &str, service: &str, how: &Comparison) -> Json {
    let mut spec = write(how);
    spec.insert("service".to_owned(), json!(service));
    json!({
        "apiVersion": "policy.meshctl.dev/v1alpha1",
        "kind": "ShadowDiff",
        "metadata": { "name": shadow_name(service), "namespace": namespace },
        "spec": spec,
    })
}

/// The name of that object.
pub fn shadow_name(service: &str) -> String {
    format!("meshctl-canary-{service}")
}

fn place(value: &Value<'_>) -> Option<JsonPath> {
    let read = value.text()?.parse();
    if let Err(why) = &read {
        let hint = "$.servedBy, $.items[*].at, or $..id for any depth";
        value.error_hint(String::clone(why), hint);
    }
    read.ok()
}
