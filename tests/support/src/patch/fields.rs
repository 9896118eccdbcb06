//! Sets of fields in the form of `managedFields` (`fieldsV1`): trees whose steps are `f:name`, `k:{…}`, `v:…`,
//! and `.` for the place itself.

use serde_json::{Map, Value};

use super::lists::{Lists, Place, item_key};

/// A set of fields.
pub type Fields = Map<String, Value>;

/// All fields that an object sets.
pub fn of(object: &Value, place: Place<'_>) -> Fields {
    let mut set = Fields::new();
    let Value::Object(map) = object else {
        return set;
    };
    for (name, value) in map {
        set.insert(format!("f:{name}"), node(value, place.field(name)));
    }
    set
}

fn node(value: &Value, place: Place<'_>) -> Value {
    match value {
        Value::Object(map) if !map.is_empty() && !place.is_atomic() => {
            Value::Object(of(value, place))
        }
        Value::Array(items) => {
            let mut set = Fields::new();
            match place.lists() {
                Lists::Atomic => return Value::Object(set),
                Lists::Set => {
                    for item in items {
                        set.insert(format!("v:{item}"), Value::Object(Fields::new()));
                    }
                }
                Lists::Map(keys) => {
                    for item in items {
                        let mut inner = of(item, place.item());
                        inner.insert(".".into(), Value::Object(Fields::new()));
                        set.insert(step(item, &keys), Value::Object(inner));
                    }
                }
            }
            Value::Object(set)
        }
        _ => Value::Object(Fields::new()),
    }
}

/// The step to an item of a list by keys.
pub fn step(item: &Value, keys: &[String]) -> String {
    let mut key = item_key(item, keys);
    key.sort_keys();
    format!("k:{}", Value::Object(key))
}

/// Whether a step has nothing below.
fn is_leaf(node: &Value) -> bool {
    node.as_object().is_none_or(Map::is_empty)
}

/// `a` without what is in `b`.
pub fn minus(a: &Fields, b: &Fields) -> Fields {
    let mut out = Fields::new();
    for (step, node) in a {
        match (node, b.get(step)) {
            (_, None) => {
                out.insert(step.clone(), node.clone());
            }
            (Value::Object(inner), Some(Value::Object(other))) if !inner.is_empty() => {
                if other.is_empty() {
                    continue;
                }
                let rest = minus(inner, other);
                if !rest.is_empty() {
                    out.insert(step.clone(), Value::Object(rest));
                }
            }
            _ => {}
        }
    }
    out
}

/// What is in either.
pub fn union(a: &Fields, b: &Fields) -> Fields {
    let mut out = a.clone();
    for (step, node) in b {
        let joined = match (out.get(step), node) {
            (Some(Value::Object(x)), Value::Object(y)) => Value::Object(union(x, y)),
            _ => node.clone(),
        };
        out.insert(step.clone(), joined);
    }
    out
}

/// What is in both.
pub fn both(a: &Fields, b: &Fields) -> Fields {
    let mut out = Fields::new();
    for (step, node) in a {
        match (node, b.get(step)) {
            (Value::Object(x), Some(Value::Object(y))) => {
                let inner = both(x, y);
                if !inner.is_empty() || (x.is_empty() && y.is_empty()) {
                    out.insert(step.clone(), Value::Object(inner));
                }
            }
            (_, Some(_)) => {
                out.insert(step.clone(), node.clone());
            }
            _ => {}
        }
    }
    out
}

/// Fields whose values differ between two objects, or that only the second has.
pub fn changed(before: &Value, after: &Value, place: Place<'_>) -> Fields {
    let set = of(after, place);
    differing(&set, before, after, place)
}

fn differing(set: &Fields, before: &Value, after: &Value, place: Place<'_>) -> Fields {
    let mut out = Fields::new();
    for (name, node) in set {
        let (old, new, inner) = (
            follow(before, name, place),
            follow(after, name, place),
            below(name, place),
        );
        if name == "." {
            if before.is_null() {
                out.insert(name.clone(), node.clone());
            }
            continue;
        }
        if is_leaf(node) {
            if old != new {
                out.insert(name.clone(), node.clone());
            }
        } else if let Value::Object(node) = node {
            let null = Value::Null;
            let rest = differing(node, old.unwrap_or(&null), new.unwrap_or(&null), inner);
            if !rest.is_empty() {
                out.insert(name.clone(), Value::Object(rest));
            }
        }
    }
    out
}

/// The value that a step leads to.
pub fn follow<'v>(value: &'v Value, step: &str, place: Place<'_>) -> Option<&'v Value> {
    if let Some(name) = step.strip_prefix("f:") {
        return value.get(name);
    }
    if let Some(wanted) = step.strip_prefix("v:") {
        return value.as_array()?.iter().find(|v| *v == wanted);
    }
    let Lists::Map(keys) = place.lists() else {
        return None;
    };
    value
        .as_array()?
        .iter()
        .find(|v| self::step(v, &keys) == step)
}

/// The place that a step leads to.
pub fn below<'a>(step: &'a str, place: Place<'a>) -> Place<'a> {
    match step.strip_prefix("f:") {
        Some(name) => place.field(name),
        None => place.item(),
    }
}

/// Removes from an object what a set names.
pub fn prune(object: &mut Value, set: &Fields, place: Place<'_>) {
    for (name, node) in set {
        if name == "." {
            continue;
        }
        let inner = node.as_object().filter(|m| m.keys().any(|k| k != "."));
        let whole = node
            .as_object()
            .is_none_or(|m| m.is_empty() || m.contains_key("."));
        match object {
            Value::Object(map) => {
                let Some(field) = name.strip_prefix("f:") else {
                    continue;
                };
                match inner {
                    Some(inner) => {
                        if let Some(child) = map.get_mut(field) {
                            prune(child, inner, place.field(field));
                            let empty = child.as_object().is_some_and(Map::is_empty)
                                || child.as_array().is_some_and(Vec::is_empty);
                            if empty {
                                map.shift_remove(field);
                            }
                        }
                    }
                    None => {
                        map.shift_remove(field);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(wanted) = name.strip_prefix("v:") {
                    items.retain(|v| *v != wanted);
                } else if let Lists::Map(keys) = place.lists() {
                    if whole {
                        items.retain(|v| step(v, &keys) != *name);
                    } else if let (Some(inner), Some(item)) =
                        (inner, items.iter_mut().find(|v| step(v, &keys) == *name))
                    {
                        prune(item, inner, place.item());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Every leaf as people write it: `.spec.containers[name="a"].image`.
pub fn paths(set: &Fields) -> Vec<String> {
    let mut out = Vec::new();
    walk(set, "", &mut out);
    out
}

fn walk(set: &Fields, prefix: &str, out: &mut Vec<String>) {
    for (step, node) in set {
        if step == "." {
            continue;
        }
        let path = if let Some(name) = step.strip_prefix("f:") {
            format!("{prefix}.{name}")
        } else if let Some(value) = step.strip_prefix("v:") {
            format!("{prefix}[={value}]")
        } else {
            let key: Value =
                serde_json::from_str(step.get(2..).unwrap_or_default()).unwrap_or_default();
            let pairs: Vec<String> = key
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            format!("{prefix}[{}]", pairs.join(","))
        };
        match node.as_object() {
            Some(inner) if inner.keys().any(|k| k != ".") => walk(inner, &path, out),
            _ => out.push(path),
        }
    }
}
