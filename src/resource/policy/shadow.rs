//! ShadowDiff: answers to copies of a service's calls are held against those that callers get.

use std::sync::Arc;

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
    spec.finish();
    diff.how = Arc::new(how);
    diff
}

fn place(value: &Value<'_>) -> Option<JsonPath> {
    let read = value.text()?.parse();
    if let Err(why) = &read {
        let hint = "$.servedBy, $.items[*].at, or $..id for any depth";
        value.error_hint(String::clone(why), hint);
    }
    read.ok()
}
