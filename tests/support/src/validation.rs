//! Fields that a kind does not have: dropped, warned of or refused, as `fieldValidation` wants it.

use serde_json::Value;

use crate::kinds::Kind;
use crate::path::Ask;
use crate::schema;
use crate::shapes::{self, Message, Shape};
use crate::status::{Answer, Refusal};
use crate::write::Body;

/// Judges a body before anything else does. Patches are judged by what they make, so not here.
pub fn fields(kind: &Kind, ask: &Ask, body: &Body) -> Answer<()> {
    let whole = matches!(
        body.media.as_str(),
        "application/json" | "application/yaml" | "application/apply-patch+yaml"
    );
    let is_object = body.value["kind"] == kind.kind.as_str() && ask.verb != "delete";
    if !whole || !is_object || kind.is_review() {
        return Ok(());
    }
    let unknown = unknown(kind, &body.value);
    if unknown.is_empty() {
        return Ok(());
    }
    let words = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""));
    match ask.query("fieldValidation").unwrap_or("Warn") {
        "Strict" => {
            let all: Vec<String> = words.collect();
            Err(Refusal::bad(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                kind.kind,
                kind.version,
                kind.kind,
                all.join(", ")
            )))
        }
        "Ignore" => Ok(()),
        _ => {
            body.warn(words);
            Ok(())
        }
    }
}

/// The paths of fields that the kind does not have.
pub fn unknown(kind: &Kind, object: &Value) -> Vec<String> {
    let mut object = object.clone();
    drop_unknown(kind, &mut object)
}

/// Drops what the kind does not have, and says what that was.
pub fn drop_unknown(kind: &Kind, object: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(version) = &kind.custom {
        schema::prune(&version["schema"]["openAPIV3Schema"], object, &mut found);
        return found;
    }
    let name = shapes::name_of(&kind.group, &kind.version, &kind.kind);
    if let Some(message) = name.as_deref().and_then(shapes::message) {
        walk(message, object, "", true, &mut found);
    }
    found
}

fn walk(message: &Message, object: &mut Value, path: &str, top: bool, found: &mut Vec<String>) {
    let Value::Object(fields) = object else {
        return;
    };
    let names: Vec<String> = fields.keys().cloned().collect();
    for name in names {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        match shapes::find(message, &name) {
            Some(field) => {
                if let Some(value) = fields.get_mut(&name) {
                    inside(&field.shape, value, &path, found);
                }
            }
            None if top && matches!(name.as_str(), "apiVersion" | "kind") => {}
            None => {
                fields.shift_remove(&name);
                found.push(path);
            }
        }
    }
}

fn inside(shape: &Shape, value: &mut Value, path: &str, found: &mut Vec<String>) {
    match shape {
        Shape::Message(name) => {
            if let Some(message) = shapes::message(name) {
                walk(message, value, path, false, found);
            }
        }
        Shape::List(item) => {
            let items = value.as_array_mut().into_iter().flatten().enumerate();
            for (i, value) in items {
                inside(item, value, &format!("{path}[{i}]"), found);
            }
        }
        Shape::Map(inner) => {
            for (name, value) in value.as_object_mut().into_iter().flatten() {
                inside(inner, value, &format!("{path}.{name}"), found);
            }
        }
        _ => {}
    }
}
