//! `/openapi/v3`: what `kubectl` explains, validates and merges by. A document for each group and version.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::shapes::{self, Field, Shape};

/// The path below `/openapi/v3` of a group and version.
fn place(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

/// `/openapi/v3`: where the documents are. The hash changes when the kinds do.
pub fn index(kinds: &[Arc<Kind>]) -> Value {
    let mut paths: BTreeMap<String, String> = BTreeMap::new();
    for kind in kinds {
        let content = paths.entry(place(kind)).or_default();
        content.push_str(&kind.kind);
        content.extend(kind.custom.as_ref().map(Value::to_string));
    }
    let paths: serde_json::Map<String, Value> = paths
        .into_iter()
        .map(|(path, content)| {
            let hash = content
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
            let url = format!("/openapi/v3/{path}?hash={hash:016X}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({ "paths": paths })
}

/// The document of a group and version, if it is served.
pub fn document(kinds: &[Arc<Kind>], path: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Arc<Kind>> = kinds.iter().filter(|k| place(k) == path).collect();
    kinds.first()?;
    let mut paths = serde_json::Map::new();
    let mut schemas = serde_json::Map::new();
    for kind in kinds {
        let name = schema_of(kind, &mut schemas);
        routes(kind, path, &name, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": version},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

fn identity(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The name of a message as Kubernetes gives it to schemas.
fn full(name: &str) -> String {
    let (package, message) = name.rsplit_once('.').unwrap_or(("", name));
    let package = package.replace('/', ".");
    if package == "meta.v1" {
        format!("io.k8s.apimachinery.pkg.apis.meta.v1.{message}")
    } else {
        format!("io.k8s.api.{package}.{message}")
    }
}

fn schema_of(kind: &Kind, schemas: &mut serde_json::Map<String, Value>) -> String {
    let known = shapes::name_of(&kind.group, &kind.version, &kind.kind);
    let (name, mut schema) = match (&kind.custom, known) {
        (Some(version), _) => {
            let mut parts: Vec<&str> = kind.group.split('.').collect();
            parts.reverse();
            let name = format!("{}.{}.{}", parts.join("."), kind.version, kind.kind);
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            message("meta/v1.ObjectMeta", schemas);
            schema["properties"]["metadata"] =
                json!({"$ref": reference(&full("meta/v1.ObjectMeta"))});
            (name, schema)
        }
        (None, Some(known)) => {
            message(&known, schemas);
            let name = full(&known);
            let schema = schemas.remove(&name).unwrap_or_default();
            (name, schema)
        }
        (None, None) => (
            format!("io.k8s.{}.{}", kind.version, kind.kind),
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        ),
    };
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({"type": "string"});
    }
    schema["x-kubernetes-group-version-kind"] = json!([identity(kind)]);
    schemas.insert(name.clone(), schema);
    name
}

fn reference(name: &str) -> String {
    format!("#/components/schemas/{name}")
}

/// Adds a message and all that it names.
fn message(name: &str, schemas: &mut serde_json::Map<String, Value>) {
    let named = full(name);
    if schemas.contains_key(&named) {
        return;
    }
    schemas.insert(named.clone(), Value::Null);
    let mut properties = serde_json::Map::new();
    add_fields(name, &mut properties, schemas);
    schemas.insert(named, json!({"type": "object", "properties": properties}));
}

fn add_fields(
    name: &str,
    properties: &mut serde_json::Map<String, Value>,
    schemas: &mut serde_json::Map<String, Value>,
) {
    for field in shapes::message(name).into_iter().flatten() {
        match &field.shape {
            Shape::Message(inner) if field.name.is_empty() => {
                add_fields(inner, properties, schemas);
            }
            _ => {
                let schema = property(field, schemas);
                properties.insert(field.name.clone(), schema);
            }
        }
    }
}

fn property(field: &Field, schemas: &mut serde_json::Map<String, Value>) -> Value {
    let mut schema = typed(&field.shape, schemas);
    if field.set {
        schema["x-kubernetes-list-type"] = "set".into();
    } else if !field.keys.is_empty() {
        schema["x-kubernetes-list-type"] = "map".into();
        schema["x-kubernetes-list-map-keys"] = json!(field.keys);
    } else if matches!(field.shape, Shape::List(_)) {
        schema["x-kubernetes-list-type"] = "atomic".into();
    }
    if let Some(key) = &field.merge {
        schema["x-kubernetes-patch-strategy"] = "merge".into();
        if !key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = key.clone().into();
        }
    }
    schema
}

fn typed(shape: &Shape, schemas: &mut serde_json::Map<String, Value>) -> Value {
    match shape {
        Shape::Text | Shape::Duration => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int(long) => {
            json!({"type": "integer", "format": if *long { "int64" } else { "int32" }})
        }
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time(_) => json!({"type": "string", "format": "date-time"}),
        Shape::Json => json!({"type": "object"}),
        Shape::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Shape::IntOrText => {
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
        }
        Shape::List(item) => json!({"type": "array", "items": typed(item, schemas)}),
        Shape::Map(value) => {
            json!({"type": "object", "additionalProperties": typed(value, schemas)})
        }
        Shape::Message(name) => {
            message(name, schemas);
            // Siblings of a reference are ignored, so it stands alone in a list.
            json!({"allOf": [{"$ref": reference(&full(name))}], "default": {}})
        }
    }
}

fn routes(kind: &Kind, path: &str, name: &str, paths: &mut serde_json::Map<String, Value>) {
    let space = if kind.namespaced {
        "namespaces/{namespace}/"
    } else {
        ""
    };
    let at = format!("/{path}/{space}{}", kind.plural);
    let body = |types: &[&str]| {
        let content: serde_json::Map<String, Value> = types
            .iter()
            .map(|t| {
                (
                    (*t).to_owned(),
                    json!({"schema": {"$ref": reference(name)}}),
                )
            })
            .collect();
        json!({"content": content})
    };
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let asked = json!([
        query("dryRun"),
        query("fieldManager"),
        query("fieldValidation")
    ]);
    let operation = |action: &str, types: &[&str]| {
        let mut operation = json!({
            "responses": {"200": body(&["application/json"])},
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": identity(kind),
        });
        if !types.is_empty() {
            operation["parameters"] = asked.clone();
            operation["requestBody"] = body(types);
        }
        operation
    };
    let plain = ["application/json", "application/yaml"];
    let mut all = json!({"post": operation("post", &plain)});
    if !kind.is_review() {
        all["get"] = operation("list", &[]);
        let mut one = json!({"get": operation("get", &[]), "put": operation("put", &plain), "delete": operation("delete", &[])});
        let mut patches = vec![
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ];
        if kind.custom.is_none() {
            patches.push("application/strategic-merge-patch+json");
        }
        one["patch"] = operation("patch", &patches);
        paths.insert(format!("{at}/{{name}}"), one);
    }
    paths.insert(at, all);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use serde_json::Value;

    use super::{document, index};
    use crate::kinds::built_in;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(text) if name == "$ref" => {
                            found.insert(text.to_owned());
                        }
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_document_of_the_index_is_whole() {
        let kinds: Vec<_> = built_in().into_iter().map(Arc::new).collect();
        for (path, _) in index(&kinds)["paths"].as_object().unwrap() {
            let document = document(&kinds, path, "v1").unwrap();
            let mut named = BTreeSet::new();
            references(&document, &mut named);
            for name in named {
                let at = name.trim_start_matches('#');
                assert!(
                    document.pointer(at).is_some_and(Value::is_object),
                    "{path}: {name}"
                );
            }
        }
    }

    #[test]
    fn containers_are_merged_by_name() {
        let kinds: Vec<_> = built_in().into_iter().map(Arc::new).collect();
        let document = document(&kinds, "apis/apps/v1", "v1").unwrap();
        let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
        let containers = &pod["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"][0], "name");
    }
}
