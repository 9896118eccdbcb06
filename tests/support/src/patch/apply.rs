//! Server-side apply: who owns which field, and what an applied object changes.

use serde_json::{Map, Value, json};

use super::fields::{self, Fields};
use super::lists::{Lists, Place, item_key};
use crate::status::Refusal;

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct Writer {
    /// `fieldManager`, or the start of the user agent.
    pub manager: String,
    /// The version it writes in.
    pub api_version: String,
    /// `status`, or empty.
    pub subresource: String,
    /// RFC 3339.
    pub now: String,
}

/// What nobody owns.
const UNOWNED: &[&str] = &["f:apiVersion", "f:kind"];
const UNOWNED_METADATA: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:generateName",
    "f:uid",
    "f:resourceVersion",
    "f:generation",
    "f:creationTimestamp",
    "f:deletionTimestamp",
    "f:deletionGracePeriodSeconds",
    "f:managedFields",
    "f:selfLink",
];

/// Fields of an object that can have owners.
fn owned(object: &Value, place: Place<'_>) -> Fields {
    strip(fields::of(object, place))
}

fn strip(mut set: Fields) -> Fields {
    for name in UNOWNED {
        set.shift_remove(*name);
    }
    if let Some(Value::Object(metadata)) = set.get_mut("f:metadata") {
        for name in UNOWNED_METADATA {
            metadata.shift_remove(*name);
        }
        if metadata.is_empty() {
            set.shift_remove("f:metadata");
        }
    }
    set
}

/// Merges an applied object into what is there. Conflicts are refused unless `force`.
pub fn apply(
    live: &Value,
    applied: &Value,
    writer: &Writer,
    force: bool,
    place: Place<'_>,
) -> Result<Value, Refusal> {
    let mine = owned(applied, place);
    let mut entries = entries(live);
    // What it sets to another value than there is belongs to those who own it now.
    let differs = strip(fields::changed(live, applied, place));
    let mut conflicts: Vec<(String, Vec<String>)> = Vec::new();
    for entry in &mut entries {
        if is_same(entry, writer, "Apply") {
            continue;
        }
        let theirs = entry["fieldsV1"].as_object().cloned().unwrap_or_default();
        let clash = fields::both(&differs, &theirs);
        let paths = fields::paths(&clash);
        if paths.is_empty() {
            continue;
        }
        if force {
            entry["fieldsV1"] = Value::Object(fields::minus(&theirs, &clash));
        } else {
            conflicts.push((name_of(entry), paths));
        }
    }
    if !conflicts.is_empty() {
        return Err(refused(&conflicts));
    }
    let mut merged = live.clone();
    // Fields that it applied before and no longer does, and that nobody else owns, go.
    let before = entries
        .iter()
        .find(|e| is_same(e, writer, "Apply"))
        .and_then(|e| e["fieldsV1"].as_object().cloned())
        .unwrap_or_default();
    let mut dropped = fields::minus(&before, &mine);
    for entry in entries.iter().filter(|e| !is_same(e, writer, "Apply")) {
        if let Some(theirs) = entry["fieldsV1"].as_object() {
            dropped = fields::minus(&dropped, theirs);
        }
    }
    fields::prune(&mut merged, &dropped, place);
    put(&mut merged, applied, place);
    entries.retain(|e| !is_same(e, writer, "Apply"));
    if !mine.is_empty() {
        entries.push(entry(writer, "Apply", mine));
    }
    store(&mut merged, entries);
    Ok(merged)
}

/// After any other write: what changed belongs to the writer from now on.
pub fn track(before: &Value, after: &mut Value, writer: &Writer, place: Place<'_>) {
    let mut entries = if after["metadata"]["managedFields"].is_array() {
        // A client that sends an empty list resets the owners.
        self::entries(after)
    } else {
        self::entries(before)
    };
    let changed = strip(fields::changed(before, after, place));
    let exist = owned(after, place);
    let mut mine = changed;
    for entry in &mut entries {
        let theirs = entry["fieldsV1"].as_object().cloned().unwrap_or_default();
        if is_same(entry, writer, "Update") {
            mine = fields::union(&theirs, &mine);
            continue;
        }
        let kept = fields::both(&fields::minus(&theirs, &mine), &exist);
        entry["fieldsV1"] = Value::Object(kept);
    }
    let mine = fields::both(&mine, &exist);
    entries.retain(|e| {
        !is_same(e, writer, "Update") && e["fieldsV1"].as_object().is_some_and(|f| !f.is_empty())
    });
    if !mine.is_empty() {
        entries.push(entry(writer, "Update", mine));
    }
    store(after, entries);
}

fn entries(object: &Value) -> Vec<Value> {
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|e| e["fieldsV1"].is_object())
        .cloned()
        .collect()
}

fn store(object: &mut Value, entries: Vec<Value>) {
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return;
    };
    let entries: Vec<Value> = entries
        .into_iter()
        .filter(|e| e["fieldsV1"].as_object().is_some_and(|f| !f.is_empty()))
        .collect();
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

fn entry(writer: &Writer, operation: &str, set: Fields) -> Value {
    let mut entry = json!({
        "manager": writer.manager, "operation": operation, "apiVersion": writer.api_version,
        "time": writer.now, "fieldsType": "FieldsV1", "fieldsV1": Value::Object(set),
    });
    if !writer.subresource.is_empty() {
        entry["subresource"] = writer.subresource.clone().into();
    }
    entry
}

fn is_same(entry: &Value, writer: &Writer, operation: &str) -> bool {
    entry["manager"] == writer.manager.as_str()
        && entry["operation"] == operation
        && entry["subresource"].as_str().unwrap_or_default() == writer.subresource
}

fn name_of(entry: &Value) -> String {
    let manager = entry["manager"].as_str().unwrap_or_default();
    let version = entry["apiVersion"].as_str().unwrap_or_default();
    let sub = match entry["subresource"].as_str() {
        Some(sub) => format!(" with subresource \"{sub}\""),
        None => String::new(),
    };
    if entry["operation"] == "Update" {
        format!("\"{manager}\"{sub} using {version}")
    } else {
        format!("\"{manager}\"{sub}")
    }
}

fn refused(conflicts: &[(String, Vec<String>)]) -> Refusal {
    let count: usize = conflicts.iter().map(|(_, p)| p.len()).sum();
    let list: Vec<String> = conflicts
        .iter()
        .map(|(who, paths)| match paths.as_slice() {
            [one] => format!("conflict with {who}: {one}"),
            many => format!("conflicts with {who}:\n- {}", many.join("\n- ")),
        })
        .collect();
    let word = if count == 1 { "conflict" } else { "conflicts" };
    let mut refusal = Refusal::new(
        409,
        "Conflict",
        format!("Apply failed with {count} {word}: {}", list.join("\n")),
    );
    let causes: Vec<Value> = conflicts
        .iter()
        .flat_map(|(who, paths)| {
            paths.iter().map(move |path| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who}"), "field": path})
            })
        })
        .collect();
    refusal.details = json!({ "causes": causes });
    refusal
}

/// Sets what the applied object sets; lists by keys are merged, items in the applied order.
fn put(target: &mut Value, applied: &Value, place: Place<'_>) {
    match applied {
        Value::Object(map) if !place.is_atomic() => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let Value::Object(target) = target else {
                return;
            };
            for (name, value) in map {
                if name == "managedFields" {
                    continue;
                }
                put(
                    target.entry(name.clone()).or_insert(Value::Null),
                    value,
                    place.field(name),
                );
            }
        }
        Value::Array(items) => match place.lists() {
            Lists::Atomic => *target = applied.clone(),
            Lists::Set => {
                let mut have = target.as_array().cloned().unwrap_or_default();
                have.extend(
                    items
                        .iter()
                        .filter(|i| !have.contains(i))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
                *target = Value::Array(have);
            }
            Lists::Map(keys) => {
                let mut have = target.as_array().cloned().unwrap_or_default();
                for item in items {
                    let key = item_key(item, &keys);
                    match have.iter_mut().find(|h| item_key(h, &keys) == key) {
                        Some(old) => put(old, item, place.item()),
                        None => have.push(item.clone()),
                    }
                }
                *target = Value::Array(have);
            }
        },
        other => *target = other.clone(),
    }
}
