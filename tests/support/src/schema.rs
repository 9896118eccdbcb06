//! The schemas of custom kinds: what they drop, what they fill in, what they refuse.
//!
//! Not judged, and so refused in a definition: rules in CEL (`x-kubernetes-validations`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use regex::Regex;
use serde_json::Value;

use crate::status::Cause;

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const EITHER: &str = "x-kubernetes-int-or-string";

/// Drops fields that the schema does not know; their paths are added to `found`.
pub fn prune(schema: &Value, object: &mut Value, found: &mut Vec<String>) {
    pruned(schema, object, "", true, found);
}

fn pruned(schema: &Value, value: &mut Value, path: &str, top: bool, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let open = schema[PRESERVE] == true;
            let rest = &schema["additionalProperties"];
            let meta = top || schema[EMBEDDED] == true;
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                if meta && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let inner = match &schema["properties"][&name] {
                    Value::Null if rest.is_object() => rest,
                    other => other,
                };
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                if inner.is_object() {
                    if let Some(value) = fields.get_mut(&name) {
                        pruned(inner, value, &path, false, found);
                    }
                } else if !open && *rest != true {
                    fields.shift_remove(&name);
                    found.push(path);
                }
            }
        }
        Value::Array(items) => {
            let inner = &schema["items"];
            if inner.is_object() {
                for (i, item) in items.iter_mut().enumerate() {
                    pruned(inner, item, &format!("{path}[{i}]"), false, found);
                }
            }
        }
        _ => {}
    }
}

/// Fills in defaults, into what is there.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                let default = &inner["default"];
                if default.is_null() {
                    continue;
                }
                let slot = fields.entry(name.clone()).or_insert(Value::Null);
                if slot.is_null() && inner["nullable"] != true {
                    *slot = default.clone();
                }
            }
            for (name, value) in fields.iter_mut() {
                let inner = match &schema["properties"][name.as_str()] {
                    Value::Null => &schema["additionalProperties"],
                    known => known,
                };
                default_in(inner, value);
            }
        }
        Value::Array(items) => {
            for item in items {
                default_in(&schema["items"], item);
            }
        }
        _ => {}
    }
}

fn default_in(schema: &Value, value: &mut Value) {
    if schema.is_object() {
        default(schema, value);
    }
}

/// What an object breaks.
pub fn check(schema: &Value, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    judge(schema, object, "", &mut causes);
    causes
}

fn cause(path: &str, reason: &'static str, message: String) -> Cause {
    Cause {
        field: path.trim_start_matches('.').to_owned(),
        reason,
        message,
    }
}

fn judge(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let Some(typed) = judge_type(schema, value, path, causes) else {
        return;
    };
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let words: Vec<String> = allowed.iter().map(Value::to_string).collect();
        causes.push(cause(
            path,
            "FieldValueNotSupported",
            format!(
                "Unsupported value: {value}: supported values: {}",
                words.join(", ")
            ),
        ));
    }
    match typed {
        "object" => judge_object(schema, value, path, causes),
        "array" => judge_array(schema, value, path, causes),
        "string" => judge_text(schema, value, path, causes),
        "number" => judge_number(schema, value, path, causes),
        _ => {}
    }
    judge_logic(schema, value, path, causes);
}

/// What the value is, or nothing if that is wrong, which is then said.
fn judge_type(
    schema: &Value,
    value: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) -> Option<&'static str> {
    let (is, whole) = match value {
        Value::Null => ("null", false),
        Value::Bool(_) => ("boolean", false),
        Value::Number(number) => ("number", number.is_i64() || number.is_u64()),
        Value::String(_) => ("string", false),
        Value::Array(_) => ("array", false),
        Value::Object(_) => ("object", false),
    };
    let fits = if schema[EITHER] == true {
        whole || is == "string"
    } else {
        match schema["type"].as_str() {
            None => true,
            Some("integer") => whole,
            Some(wanted) => wanted == is,
        }
    };
    if fits {
        return Some(is);
    }
    let wanted = schema["type"].as_str().unwrap_or("integer or string");
    let is = if whole { "integer" } else { is };
    causes.push(cause(
        path,
        "FieldValueTypeInvalid",
        format!(
            "Invalid value: \"{is}\": {} in body must be of type {wanted}: \"{is}\"",
            path.trim_start_matches('.')
        ),
    ));
    None
}

fn judge_object(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(fields) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !fields.contains_key(name) {
            causes.push(Cause::required(
                format!("{path}.{name}").trim_start_matches('.'),
            ));
        }
    }
    bounds(schema, "Properties", fields.len(), path, causes);
    for (name, value) in fields {
        let inner = match &schema["properties"][name.as_str()] {
            Value::Null => &schema["additionalProperties"],
            known => known,
        };
        if inner.is_object() {
            judge(inner, value, &format!("{path}.{name}"), causes);
        }
    }
}

fn judge_array(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(items) = value.as_array() else {
        return;
    };
    bounds(schema, "Items", items.len(), path, causes);
    for (i, item) in items.iter().enumerate() {
        let inner = &schema["items"];
        if inner.is_object() {
            judge(inner, item, &format!("{path}[{i}]"), causes);
        }
        let twice = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => items[..i].contains(item),
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                let keys: Vec<&str> = keys
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let same = |other: &Value| keys.iter().all(|k| other[*k] == item[*k]);
                items[..i].iter().any(same)
            }
            _ => false,
        };
        if twice || (schema["uniqueItems"] == true && items[..i].contains(item)) {
            causes.push(cause(
                &format!("{path}[{i}]"),
                "FieldValueDuplicate",
                format!("Duplicate value: {item}"),
            ));
        }
    }
}

fn bounds(schema: &Value, what: &str, count: usize, path: &str, causes: &mut Vec<Cause>) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let field = path.trim_start_matches('.');
    let unit = what.to_lowercase();
    if let Some(least) = schema[format!("min{what}")].as_u64()
        && count < least
    {
        causes.push(cause(
            path,
            "FieldValueInvalid",
            format!("Invalid value: {count}: {field} in body should have at least {least} {unit}"),
        ));
    }
    if let Some(most) = schema[format!("max{what}")].as_u64()
        && count > most
    {
        causes.push(cause(
            path,
            "FieldValueTooMany",
            format!("Too many: {count}: must have at most {most} {unit}"),
        ));
    }
}

fn judge_text(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let text = value.as_str().unwrap_or_default();
    let field = path.trim_start_matches('.');
    let mut wrong = |why: String| {
        causes.push(cause(
            path,
            "FieldValueInvalid",
            format!("Invalid value: {value}: {field} in body {why}"),
        ));
    };
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if let Some(least) = schema["minLength"].as_u64()
        && length < least
    {
        wrong(format!("should be at least {least} chars long"));
    }
    if let Some(most) = schema["maxLength"].as_u64()
        && length > most
    {
        wrong(format!("should be at most {most} chars long"));
    }
    if let Some(wanted) = schema["pattern"].as_str()
        && pattern(wanted).is_none_or(|p| !p.is_match(text))
    {
        wrong(format!("should match '{wanted}'"));
    }
    let fits = match schema["format"].as_str() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        Some("byte") => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        _ => true,
    };
    if !fits {
        wrong(format!("must be of type {}: {value}", schema["format"]));
    }
}

/// Patterns are compiled once.
fn pattern(text: &str) -> Option<Arc<Regex>> {
    static ALL: OnceLock<Mutex<BTreeMap<String, Option<Arc<Regex>>>>> = OnceLock::new();
    let all = ALL.get_or_init(Mutex::default);
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(text.to_owned())
        .or_insert_with(|| Regex::new(text).ok().map(Arc::new))
        .clone()
}

fn judge_number(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let number = value.as_f64().unwrap_or_default();
    let field = path.trim_start_matches('.');
    let mut wrong = |why: String| {
        causes.push(cause(
            path,
            "FieldValueInvalid",
            format!("Invalid value: {value}: {field} in body {why}"),
        ));
    };
    if let Some(least) = schema["minimum"].as_f64() {
        if schema["exclusiveMinimum"] == true && number <= least {
            wrong(format!("should be greater than {least}"));
        } else if number < least {
            wrong(format!("should be greater than or equal to {least}"));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        if schema["exclusiveMaximum"] == true && number >= most {
            wrong(format!("should be less than {most}"));
        } else if number > most {
            wrong(format!("should be less than or equal to {most}"));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64()
        && (number / step).fract().abs() > 1e-9
    {
        wrong(format!("should be a multiple of {step}"));
    }
    if schema["format"] == "int32" && value.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
        wrong("should fit into int32".to_owned());
    }
}

fn judge_logic(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let list = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    for all in list("allOf") {
        judge(&all, value, path, causes);
    }
    let fits = |schema: &Value| check(schema, value).is_empty();
    let field = path.trim_start_matches('.');
    let mut wrong = |why: &str| {
        causes.push(cause(
            path,
            "FieldValueInvalid",
            format!("Invalid value: {field} in body {why}"),
        ));
    };
    let any = list("anyOf");
    if !any.is_empty() && !any.iter().any(fits) {
        wrong("must validate at least one schema (anyOf)");
    }
    let one = list("oneOf");
    if !one.is_empty() && one.iter().filter(|s| fits(s)).count() != 1 {
        wrong("must validate one and only one schema (oneOf)");
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        wrong("must not validate the schema (not)");
    }
}

/// Whether a definition's schema is structural, and can be judged here.
pub fn check_definition(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !schema.is_object() {
        causes.push(Cause::required(path));
        return;
    }
    let rules = &schema["x-kubernetes-validations"];
    if rules.as_array().is_some_and(|r| !r.is_empty()) {
        causes.push(cause(
            &format!("{path}.x-kubernetes-validations"),
            "FieldValueForbidden",
            "Forbidden: this API server in memory cannot judge rules in CEL".into(),
        ));
    }
    if schema["type"].is_null() && schema[PRESERVE] != true && schema[EITHER] != true {
        causes.push(cause(
            &format!("{path}.type"),
            "FieldValueRequired",
            "Required value: must not be empty for specified object fields".into(),
        ));
    }
    if schema["properties"].is_object() && schema["additionalProperties"].is_object() {
        causes.push(cause(
            &format!("{path}.additionalProperties"),
            "FieldValueForbidden",
            "Forbidden: additionalProperties and properties are mutual exclusive".into(),
        ));
    }
    if let Some(wanted) = schema["pattern"].as_str()
        && pattern(wanted).is_none()
    {
        causes.push(Cause::invalid(
            format!("{path}.pattern"),
            &schema["pattern"],
            "must be a valid regular expression",
        ));
    }
    if !schema["default"].is_null() {
        for broken in check(schema, &schema["default"]) {
            causes.push(cause(
                &format!("{path}.default"),
                "FieldValueInvalid",
                broken.message,
            ));
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        check_definition(inner, &format!("{path}.properties[{name}]"), causes);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            check_definition(&schema[name], &format!("{path}.{name}"), causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{check, check_definition, default, prune};

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["host"], "properties": {
            "host": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"},
            "port": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535, "default": 80},
            "mode": {"type": "string", "enum": ["A", "B"]},
            "either": {"x-kubernetes-int-or-string": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "on": {"type": "boolean", "default": true}}}},
        }}}})
    }

    #[test]
    fn what_is_unknown_goes_and_what_is_missing_comes() {
        let mut object = json!({
            "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "more": 1,
            "spec": {"host": "a", "labels": {"x": "y"}, "open": {"any": {"thing": 1}}, "items": [{"name": "a", "gone": 1}], "hots": "b"},
        });
        let mut found = Vec::new();
        prune(&schema(), &mut object, &mut found);
        default(&schema(), &mut object);
        assert_eq!(found, ["more", "spec.items[0].gone", "spec.hots"]);
        assert_eq!(
            object["spec"],
            json!({"host": "a", "labels": {"x": "y"}, "open": {"any": {"thing": 1}}, "items": [{"name": "a", "on": true}], "port": 80})
        );
    }

    #[test]
    fn each_broken_rule_is_named_with_its_place() {
        for (spec, field) in [
            (json!({}), "spec.host"),
            (json!({"host": ""}), "spec.host"),
            (json!({"host": "A"}), "spec.host"),
            (json!({"host": 1}), "spec.host"),
            (json!({"host": "a", "port": 0}), "spec.port"),
            (json!({"host": "a", "port": 65536}), "spec.port"),
            (json!({"host": "a", "port": 1.5}), "spec.port"),
            (json!({"host": "a", "mode": "C"}), "spec.mode"),
            (json!({"host": "a", "either": true}), "spec.either"),
            (json!({"host": "a", "labels": {"x": 1}}), "spec.labels.x"),
            (
                json!({"host": "a", "items": [{"name": "a"}, {"name": "a"}]}),
                "spec.items[1]",
            ),
            (json!({"host": null}), "spec.host"),
        ] {
            let causes = check(&schema(), &json!({"spec": spec}));
            assert!(
                causes.iter().any(|c| c.field == field),
                "{spec}: {causes:?}"
            );
        }
        let good =
            json!({"spec": {"host": "a", "either": "1%", "items": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(check(&schema(), &good), []);
    }

    #[test]
    fn a_definition_that_cannot_be_judged_is_refused() {
        let mut causes = Vec::new();
        check_definition(&schema(), "schema", &mut causes);
        assert_eq!(causes, []);
        let mut with_rule = schema();
        with_rule["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": "true"}]);
        with_rule["properties"]["spec"]["properties"]["host"] = json!({});
        check_definition(&with_rule, "schema", &mut causes);
        assert_eq!(causes.len(), 2, "{causes:?}");
    }
}
