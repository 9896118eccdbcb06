//! Kubernetes' own merge patch: lists of named things are merged by name, and `$patch` says otherwise.

use serde_json::{Map, Value};

use super::lists::{Lists, Place, item_key};

/// Merges `patch` into `target`.
pub fn merge(target: &mut Value, patch: &Value, place: Place<'_>) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut new = patch.clone();
            new.shift_remove("$patch");
            *target = Value::Object(new);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        _ => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return Ok(());
    };
    for (name, value) in patch {
        if name.starts_with("$setElementOrder/") || name == "$retainKeys" || name == "$patch" {
            continue;
        }
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(have)) = target.get_mut(list) {
                have.retain(|v| !gone.contains(v));
            }
            continue;
        }
        if value.is_null() {
            target.shift_remove(name);
            continue;
        }
        let inner = place.field(name);
        let slot = target.entry(name.clone()).or_insert(Value::Null);
        match value {
            Value::Array(items) => list(slot, items, inner)?,
            Value::Object(_) => merge(slot, value, inner)?,
            other => *slot = other.clone(),
        }
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| keep.iter().any(|k| k == name.as_str()));
    }
    for (name, order) in patch {
        if let Some(list) = name.strip_prefix("$setElementOrder/")
            && let (Some(Value::Array(items)), Some(order)) =
                (target.get_mut(list), order.as_array())
        {
            reorder(items, order, &place.field(list).merged());
        }
    }
    Ok(())
}

fn list(slot: &mut Value, patch: &[Value], place: Place<'_>) -> Result<(), String> {
    let keys = match place.merged() {
        Lists::Atomic => {
            *slot = Value::Array(patch.to_vec());
            return Ok(());
        }
        Lists::Set => {
            let mut have = slot.as_array().cloned().unwrap_or_default();
            for value in patch {
                if !have.contains(value) {
                    have.push(value.clone());
                }
            }
            *slot = Value::Array(have);
            return Ok(());
        }
        Lists::Map(keys) => keys,
    };
    let mut have = slot.as_array().cloned().unwrap_or_default();
    if patch.iter().any(|p| p["$patch"] == "replace") {
        have.clear();
    }
    for change in patch {
        if change["$patch"] == "replace" {
            continue;
        }
        let key = item_key(change, &keys);
        if key.is_empty() {
            return Err(format!(
                "map: {change} does not contain declared merge key: {}",
                keys.join(",")
            ));
        }
        let at = have.iter().position(|h| item_key(h, &keys) == key);
        match (at, change["$patch"] == "delete") {
            (Some(_), true) => have.retain(|h| item_key(h, &keys) != key),
            (None, true) => {}
            (Some(at), false) => {
                if let Some(old) = have.get_mut(at) {
                    merge(old, change, place.item())?;
                }
            }
            (None, false) => {
                let mut new = Value::Object(Map::new());
                merge(&mut new, change, place.item())?;
                have.push(new);
            }
        }
    }
    *slot = Value::Array(have);
    Ok(())
}

/// Those that the patch orders come in its order; the others stay behind what they followed.
fn reorder(items: &mut [Value], order: &[Value], lists: &Lists) {
    let rank = |item: &Value| {
        order.iter().position(|o| match lists {
            Lists::Map(keys) => {
                let one: Vec<String> = keys.iter().take(1).cloned().collect();
                item_key(o, &one) == item_key(item, &one)
            }
            _ => o == item,
        })
    };
    let mut last = 0;
    let mut ranks = Vec::new();
    for (i, item) in items.iter().enumerate() {
        if let Some(rank) = rank(item) {
            last = rank;
        }
        ranks.push((last, i, item.clone()));
    }
    ranks.sort_by_key(|(rank, i, _)| (*rank, *i));
    for (slot, (_, _, item)) in items.iter_mut().zip(ranks) {
        *slot = item;
    }
}
