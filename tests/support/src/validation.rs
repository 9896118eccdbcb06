//! Fields that a kind does not have: dropped, warned of or refused, as `fieldValidation` wants it.

use serde_json::Value;

use crate::kinds::Kind;
use crate::path::Ask;
use crate::schema;
use crate::shapes::{self, Message, Shape};
use crate::status::{Answer, Refusal};
use crate::write::Body;

/// Judges a body before anything else does. Patches are judged by what they make: see [`object`].
pub fn fields(kind: &Kind, ask: &Ask, body: &Body) -> Answer<()> {
    let whole = matches!(
        body.media.as_str(),
        "application/json" | "application/yaml" | "application/apply-patch+yaml"
    );
    let is_object = body.value["kind"] == kind.kind.as_str() && ask.verb != "delete";
    if !whole || !is_object || kind.is_review() {
        return Ok(());
    }
    self::object(kind, ask, body, &body.value)
}

/// Judges an object that is to be written.
pub fn object(kind: &Kind, ask: &Ask, body: &Body, object: &Value) -> Answer<()> {
    let unknown = unknown(kind, object);
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

/// The first field of a built-in kind that holds what it cannot hold, as a decoder says it.
pub fn mistyped(kind: &Kind, object: &Value) -> Option<String> {
    if kind.custom.is_some() {
        return None;
    }
    let name = shapes::name_of(&kind.group, &kind.version, &kind.kind)?;
    let wrong = mistyped_in(shapes::message(&name)?, object, "")?;
    Some(format!(
        "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal {wrong}",
        kind.kind, kind.version, kind.kind
    ))
}

fn mistyped_in(message: &Message, object: &Value, path: &str) -> Option<String> {
    let fields = object.as_object()?;
    fields.iter().find_map(|(name, value)| {
        let field = shapes::find(message, name)?;
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        mistyped_value(&field.shape, value, &path)
    })
}

fn mistyped_value(shape: &Shape, value: &Value, path: &str) -> Option<String> {
    let (fits, wanted) = match shape {
        _ if value.is_null() => return None,
        Shape::Text | Shape::Time(_) | Shape::Duration | Shape::Bytes => {
            (value.is_string(), "string")
        }
        Shape::Bool => (value.is_boolean(), "bool"),
        Shape::Int(true) => (value.is_i64() || value.is_u64(), "int64"),
        Shape::Int(false) => (
            value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            "int32",
        ),
        Shape::Double => (value.is_number(), "float64"),
        Shape::Quantity => (value.is_string() || value.is_number(), "resource.Quantity"),
        Shape::IntOrText => (value.is_string() || value.is_i64(), "intstr.IntOrString"),
        Shape::Json => (true, ""),
        Shape::List(item) => {
            let Some(items) = value.as_array() else {
                return Some(said(value, path, "a list"));
            };
            return items
                .iter()
                .enumerate()
                .find_map(|(i, v)| mistyped_value(item, v, &format!("{path}[{i}]")));
        }
        Shape::Map(inner) => {
            let Some(fields) = value.as_object() else {
                return Some(said(value, path, "a map"));
            };
            return fields
                .iter()
                .find_map(|(name, v)| mistyped_value(inner, v, &format!("{path}.{name}")));
        }
        Shape::Message(name) => {
            if !value.is_object() {
                return Some(said(value, path, name));
            }
            return mistyped_in(shapes::message(name)?, value, path);
        }
    };
    (!fits).then(|| said(value, path, wanted))
}

fn said(value: &Value, path: &str, wanted: &str) -> String {
    let is = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    format!("{is} into Go struct field {path} of type {wanted}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{drop_unknown, mistyped};
    use crate::kinds::built_in;

    #[test]
    fn a_decoder_would_not_take_what_is_of_another_type() {
        let kinds = built_in();
        let kind = kinds.iter().find(|k| k.plural == "deployments").unwrap();
        for (spec, wrong) in [
            (json!({"replicas": "3"}), "spec.replicas"),
            (json!({"replicas": 1.5}), "spec.replicas"),
            (json!({"selector": []}), "spec.selector"),
            (json!({"paused": 1}), "spec.paused"),
            (
                json!({"template": {"spec": {"containers": [{"args": [1]}]}}}),
                "spec.template.spec.containers[0].args[0]",
            ),
            (
                json!({"template": {"metadata": {"annotations": {"a": true}}}}),
                "spec.template.metadata.annotations.a",
            ),
        ] {
            let said = mistyped(kind, &json!({"spec": spec})).unwrap();
            assert!(said.contains(&format!("field {wrong} ")), "{said}");
        }
        let good = json!({"spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": "1", "maxUnavailable": 1}}, "selector": null}});
        assert_eq!(mistyped(kind, &good), None);
    }

    #[test]
    fn what_is_unknown_is_named_and_dropped() {
        let kinds = built_in();
        let kind = kinds.iter().find(|k| k.plural == "pods").unwrap();
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "lables": {}},
            "spec": {"containers": [{"name": "a", "img": "b", "env": [{"name": "A", "valu": ""}]}], "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        let found = drop_unknown(kind, &mut pod);
        let wanted = [
            "metadata.lables",
            "spec.containers[0].img",
            "spec.containers[0].env[0].valu",
        ];
        assert_eq!(found, wanted);
        assert_eq!(
            pod["spec"]["containers"][0],
            json!({"name": "a", "env": [{"name": "A"}]})
        );
        assert_eq!(drop_unknown(kind, &mut pod), Vec::<String>::new());
    }
}
