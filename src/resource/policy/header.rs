//! HeaderPolicy: what is changed in the heads of requests and answers.

use std::collections::BTreeMap;

use super::HeaderPolicy;
use super::target::targets;
use crate::mesh::route::{HeaderEdits, HeaderOperations};
use crate::resource::istio::{header_name, named, written};
use crate::resource::reader::{Fields, Value};

/// Fields that say how a message is framed, where it goes or who sent it: the proxy's own business.
const OWN: [&str; 11] = [
    ":authority",
    "host",
    "connection",
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-meshctl-peer",
];

/// What browsers are told where an application says nothing of it. Not `strict-transport-security`,
/// which is right over TLS only (RFC 6797, section 7.2).
const BASIC: [(&str, &str); 3] = [
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
];
const STRICT: [(&str, &str); 5] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

pub(in crate::resource) fn header_policy(fields: &Fields<'_>) -> HeaderPolicy {
    let Some(value) = fields.require("spec") else {
        return HeaderPolicy::default();
    };
    let spec = value.fields();
    let mut policy = HeaderPolicy {
        targets: targets(&spec),
        edits: HeaderEdits {
            request: operations(spec.get("request")),
            response: operations(spec.get("response")),
        },
    };
    let preset = spec.get("securityHeaders").and_then(|value| {
        value.choice(&[
            ("Off", &[][..]),
            ("Basic", &BASIC[..]),
            ("Strict", &STRICT[..]),
        ])
    });
    let asked = preset.is_some();
    let answers = &mut policy.edits.response;
    for (name, value) in preset.into_iter().flatten() {
        let said = |of: &BTreeMap<String, String>| of.contains_key(*name);
        let removed = answers.remove.iter().any(|removed| removed == name);
        if !said(&answers.set) && !said(&answers.add) && !removed {
            let usual = answers.add_if_absent.entry((*name).to_owned());
            usual.or_insert_with(|| (*value).to_owned());
        }
    }
    spec.finish();
    let edits = &policy.edits;
    if !asked && edits.request.is_empty() && edits.response.is_empty() {
        value.error_hint(
            "the policy changes nothing",
            "response: {set: {x-frame-options: DENY}}, or securityHeaders: Basic",
        );
    }
    policy
}

fn operations(value: Option<Value<'_>>) -> HeaderOperations {
    let Some(value) = value else {
        return HeaderOperations::default();
    };
    let fields = value.fields();
    let mut operations = written(&fields);
    operations.add_if_absent = named(&fields, "addIfAbsent");
    for field in ["set", "add", "addIfAbsent"] {
        let entries = fields.get(field).map(|value| value.entries());
        for (name, value) in entries.unwrap_or_default() {
            proxys_own(&value, name);
            if name.eq_ignore_ascii_case("set-cookie") {
                value.refuse(
                    "a cookie for every answer is not honoured by meshctl",
                    "let the application set it, or write it in the headers of a VirtualService's route",
                );
            }
        }
    }
    for value in fields.list("remove") {
        if let Some(name) = value.text() {
            proxys_own(&value, &name);
        }
    }
    fields.finish();
    operations
}

fn proxys_own(value: &Value<'_>, name: &str) {
    let name = name.to_ascii_lowercase();
    if OWN.contains(&name.as_str())
        || (name.starts_with(':') && header_name(value, &name).is_some())
    {
        let hint = if matches!(name.as_str(), "host" | ":authority") {
            "write `rewrite: {authority: …}` in a VirtualService"
        } else {
            "remove it: the proxy writes this field itself"
        };
        value.refuse(format!("{name:?} is not changed by policies"), hint);
    }
}
