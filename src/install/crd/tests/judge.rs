//! What an API server does with a schema: it judges objects, and drops what it does not know.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::{Map, Value, json};

const KEEPS: &str = "x-kubernetes-preserve-unknown-fields";
const EITHER: &str = "x-kubernetes-int-or-string";

thread_local! {
    static PATTERNS: RefCell<BTreeMap<String, Regex>> = RefCell::default();
}

/// The expression `text`, which is made once: there are few, and many values.
pub(super) fn pattern(text: &str) -> Regex {
    PATTERNS.with_borrow_mut(|known| {
        let make = || Regex::new(text).unwrap();
        known.entry(text.to_owned()).or_insert_with(make).clone()
    })
}

fn flag(schema: &Value, key: &str) -> bool {
    schema[key] == json!(true)
}

/// Where a path leads.
pub(super) enum Walk {
    Known,
    Unknown,
}

/// What `steps` lead to: names of fields and `[0]`.
pub(super) fn at(schema: &Value, steps: &[String]) -> Walk {
    let Some((step, rest)) = steps.split_first() else {
        return Walk::Known;
    };
    let next = if step.starts_with('[') {
        // An item, or a key that is written like one.
        match (&schema["items"], &schema["additionalProperties"]) {
            (Value::Null, next) | (next, _) => next,
        }
    } else {
        match (&schema["properties"][step], &schema["additionalProperties"]) {
            (Value::Null, next) | (next, _) => next,
        }
    };
    match next {
        Value::Null if flag(schema, KEEPS) => Walk::Known,
        Value::Null => Walk::Unknown,
        next => at(next, rest),
    }
}

/// Every field that a schema names, `*` for the keys of a mapping, `[]` for items.
pub(super) fn paths(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    if !path.is_empty() {
        into.insert(path.to_owned());
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        paths(schema, &format!("{path}.{name}"), into);
    }
    for (field, step) in [("items", "[]"), ("additionalProperties", ".*")] {
        if !schema[field].is_null() {
            paths(&schema[field], &format!("{path}{step}"), into);
        }
    }
}

/// The fields of `object`, as [`paths`] calls them.
pub(super) fn within(schema: &Value, object: &Value, into: &mut BTreeSet<String>) {
    within_at(schema, object, "", into);
}

fn within_at(schema: &Value, value: &Value, path: &str, into: &mut BTreeSet<String>) {
    if !path.is_empty() {
        into.insert(path.to_owned());
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let own = &schema["properties"][name];
        let shared = &schema["additionalProperties"];
        if !own.is_null() {
            within_at(own, value, &format!("{path}.{name}"), into);
        } else if !shared.is_null() {
            within_at(shared, value, &format!("{path}.*"), into);
        }
    }
    for value in value.as_array().into_iter().flatten() {
        within_at(&schema["items"], value, &format!("{path}[]"), into);
    }
}

/// `value` without what `schema` does not know.
pub(super) fn pruned(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let root = schema["properties"]["apiVersion"].is_object();
            let mut kept = Map::new();
            for (name, value) in fields {
                let own = &schema["properties"][name];
                let shared = &schema["additionalProperties"];
                if root && name == "metadata" {
                    kept.insert(name.clone(), value.clone());
                } else if own.is_object() {
                    kept.insert(name.clone(), pruned(own, value));
                } else if shared.is_object() {
                    kept.insert(name.clone(), pruned(shared, value));
                } else if flag(schema, KEEPS) {
                    kept.insert(name.clone(), value.clone());
                }
            }
            kept.into()
        }
        Value::Array(items) if schema["items"].is_object() => {
            let kept = items.iter().map(|item| pruned(&schema["items"], item));
            kept.collect()
        }
        _ => value.clone(),
    }
}

/// What a server says of `value`.
pub(super) fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    judge(schema, value, "", &mut found);
    found
}

fn judge(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut say = |what: String| found.push(format!("{path}: {what}"));
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("{other}"),
        None => !flag(schema, EITHER) || value.is_string() || value.is_i64() || value.is_u64(),
    };
    if !right {
        say(format!("{value} is no {}", schema["type"]));
        return;
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        say(format!("{value} is none of {known:?}"));
    }
    let (size, limits) = match value {
        Value::String(text) => (text.chars().count().to_string(), ("minLength", "maxLength")),
        Value::Array(items) => (items.len().to_string(), ("minItems", "maxItems")),
        Value::Object(fields) => (fields.len().to_string(), ("minProperties", "maxProperties")),
        other => (other.to_string(), ("minimum", "maximum")),
    };
    if let Ok(size) = size.parse::<f64>() {
        if schema[limits.0].as_f64().is_some_and(|least| size < least) {
            say(format!("{size} is too little"));
        }
        if schema[limits.1].as_f64().is_some_and(|most| size > most) {
            say(format!("{size} is too much"));
        }
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !self::pattern(pattern).is_match(text)
    {
        say(format!("{text:?} is not as {pattern}"));
    }
    if let (Some("date-time"), Some(text)) = (schema["format"].as_str(), value.as_str())
        && text.parse::<jiff::Timestamp>().is_err()
    {
        say(format!("{text:?} is no time"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            say(format!("{name} is missing"));
        }
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        judge(&schema["items"], item, &format!("{path}[{at}]"), found);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        for schema in [&schema["properties"][name], &schema["additionalProperties"]] {
            if schema.is_object() {
                judge(schema, value, &format!("{path}.{name}"), found);
                break;
            }
        }
    }
    rules(schema, value, path, found);
    told_apart(schema, value, path, found);
}

/// Rules between fields.
fn rules(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let holds = |schema: &Value| faults(schema, value).is_empty();
    let each = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    let any = each("anyOf");
    if !flag(schema, EITHER) && !any.is_empty() && !any.iter().any(holds) {
        found.push(format!("{path}: none of {any:?}"));
    }
    for rule in each("allOf") {
        found.extend(
            faults(&rule, value)
                .iter()
                .map(|fault| format!("{path}{fault}")),
        );
    }
    if schema["not"].is_object() && holds(&schema["not"]) {
        found.push(format!("{path}: what is not to be: {}", schema["not"]));
    }
}

/// Items that must differ.
fn told_apart(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let Some(items) = value.as_array() else {
        return;
    };
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    let told = |item: &Value| match (keys, schema["x-kubernetes-list-type"].as_str()) {
        (Some(keys), _) => {
            let keys = keys
                .iter()
                .map(|key| item[key.as_str().unwrap()].to_string());
            Some(keys.collect::<Vec<_>>().join(","))
        }
        (None, Some("set")) => Some(item.to_string()),
        _ => None,
    };
    let mut seen = BTreeSet::new();
    for item in items {
        if told(item).is_some_and(|told| !seen.insert(told)) {
            found.push(format!("{path}: {item} is there twice"));
        }
    }
}

/// What makes a schema no structural one, or one that no server takes.
pub(super) fn structural(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    shape(schema, "", true, &mut found);
    found
}

fn shape(schema: &Value, path: &str, root: bool, found: &mut Vec<String>) {
    let mut say = |what: &str| found.push(format!("{path}: {what}"));
    let typed = schema["type"].is_string();
    if !typed && !flag(schema, EITHER) && !flag(schema, KEEPS) {
        say("has no type");
    }
    if typed && flag(schema, EITHER) {
        say("is of either type and has one");
    }
    if root && flag(schema, KEEPS) {
        say("the root keeps what it does not know");
    }
    if schema["properties"].is_object() && schema["additionalProperties"].is_object() {
        say("has fields and free keys");
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if schema["properties"][required.as_str().unwrap()].is_null() {
            say(&format!("requires {required}, which is no field"));
        }
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && Regex::new(pattern).is_err()
    {
        say("has a bad pattern");
    }
    if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
        for key in keys {
            let item = &schema["items"];
            let key = key.as_str().unwrap();
            let required = item["required"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(key)));
            if !required && item["properties"][key]["default"].is_null() {
                say(&format!("{key} tells items apart and is not required"));
            }
            if !matches!(
                item["properties"][key]["type"].as_str(),
                Some("string" | "integer" | "boolean")
            ) {
                say(&format!("{key} tells items apart and is no scalar"));
            }
        }
    }
    if schema["x-kubernetes-list-type"] == json!("set")
        && !matches!(schema["items"]["type"].as_str(), Some("string" | "integer"))
    {
        say("is a set of what is no scalar");
    }
    let default = &schema["default"];
    if !default.is_null() {
        for fault in faults(schema, default) {
            say(&format!("its default is refused: {fault}"));
        }
        if pruned(schema, default) != *default {
            say("parts of its default are dropped");
        }
    }
    if !flag(schema, EITHER) {
        for rule in ["anyOf", "allOf"] {
            for rule in schema[rule].as_array().into_iter().flatten() {
                judges_only(schema, rule, path, found);
            }
        }
        if schema["not"].is_object() {
            judges_only(schema, &schema["not"], path, found);
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        shape(schema, &format!("{path}.{name}"), false, found);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            shape(&schema[field], &format!("{path}.{field}"), false, found);
        }
    }
    if schema["type"] == json!("array") && !schema["items"].is_object() {
        found.push(format!("{path}: items of no type"));
    }
}

/// Rules may not say types, and name only fields that are there.
fn judges_only(schema: &Value, rule: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in rule.as_object().into_iter().flatten() {
        match key.as_str() {
            "required" => {
                for name in value.as_array().into_iter().flatten() {
                    if schema["properties"][name.as_str().unwrap()].is_null() {
                        found.push(format!("{path}: a rule is for {name}, which is no field"));
                    }
                }
            }
            "anyOf" | "allOf" => {
                for rule in value.as_array().into_iter().flatten() {
                    judges_only(schema, rule, path, found);
                }
            }
            "not" => judges_only(schema, value, path, found),
            "properties" => {
                for (name, rule) in value.as_object().into_iter().flatten() {
                    let only = rule
                        .as_object()
                        .is_some_and(|it| it.keys().all(|key| key == "enum"));
                    if schema["properties"][name].is_null() || !only {
                        found.push(format!("{path}: a rule says too much of {name}"));
                    }
                }
            }
            other => found.push(format!("{path}: a rule says {other}")),
        }
    }
}
