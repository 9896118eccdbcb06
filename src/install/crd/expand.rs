//! From the notation to what an API server takes.
//!
//! What comes out is a structural schema: every type is said at its own place, and rules between fields
//! only judge values, so that a server knows without them what to keep.

use serde_json::{Map, Value, json};

use super::Fault;
use super::notation::{File, Kind, Object, Of, Rule, Typed};

/// Types within types; a type that has itself is found by it.
const DEEPEST: usize = 24;

/// The definitions of `file`.
pub(super) fn expand(file: &File) -> Result<Vec<Value>, Fault> {
    file.kinds
        .iter()
        .map(|kind| definition(file, kind))
        .collect()
}

fn definition(file: &File, kind: &Kind) -> Result<Value, Fault> {
    if kind.versions.iter().filter(|(_, stored)| *stored).count() != 1 {
        return Err(Fault {
            line: kind.line,
            message: "one version is stored; mark it with *".to_owned(),
        });
    }
    let schema = root(file, kind)?;
    let versions = kind.versions.iter().map(|(name, stored)| {
        let mut version = json!({
            "name": name,
            "served": true,
            "storage": stored,
            "schema": {"openAPIV3Schema": schema},
        });
        if !kind.columns.is_empty() {
            put(&mut version, "additionalPrinterColumns", columns(kind));
        }
        if kind.body.fields.iter().any(|field| field.name == "status") {
            put(&mut version, "subresources", json!({"status": {}}));
        }
        version
    });
    let versions: Vec<Value> = versions.collect();
    let mut names = json!({
        "kind": kind.name,
        "listKind": format!("{}List", kind.name),
        "plural": kind.plural,
        "singular": kind.name.to_ascii_lowercase(),
    });
    if !kind.short.is_empty() {
        put(&mut names, "shortNames", json!(kind.short));
    }
    if !kind.categories.is_empty() {
        put(&mut names, "categories", json!(kind.categories));
    }
    let mut metadata = json!({"name": format!("{}.{}", kind.plural, kind.group)});
    if !kind.annotations.is_empty() {
        let annotations = kind.annotations.iter().cloned();
        let annotations: Map<String, Value> = annotations
            .map(|(key, value)| (key, Value::String(value)))
            .collect();
        put(&mut metadata, "annotations", annotations.into());
    }
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": if kind.cluster { "Cluster" } else { "Namespaced" },
            "versions": versions,
        },
    }))
}

fn columns(kind: &Kind) -> Value {
    let columns = kind.columns.iter().map(|column| {
        let mut told = json!({"name": column.name, "type": column.of, "jsonPath": column.path});
        if column.wide {
            put(&mut told, "priority", json!(1));
        }
        told
    });
    columns.collect()
}

fn root(file: &File, kind: &Kind) -> Result<Value, Fault> {
    let mut schema = object(file, &kind.body, 0)?;
    let mut fields = Map::new();
    fields.insert("apiVersion".to_owned(), json!({"type": "string"}));
    fields.insert("kind".to_owned(), json!({"type": "string"}));
    fields.insert("metadata".to_owned(), json!({"type": "object"}));
    if let Some(Value::Object(own)) = schema.get_mut("properties") {
        fields.append(own);
    }
    put(&mut schema, "properties", fields.into());
    Ok(schema)
}

fn put(of: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = of {
        fields.insert(key.to_owned(), value);
    }
}

fn object(file: &File, of: &Object, depth: usize) -> Result<Value, Fault> {
    let mut schema = json!({"type": "object"});
    let mut fields = Map::new();
    for field in &of.fields {
        fields.insert(field.name.clone(), typed(file, &field.typed, depth + 1)?);
    }
    if !fields.is_empty() {
        put(&mut schema, "properties", fields.into());
    }
    let required = of.fields.iter().filter(|field| field.required);
    let required: Vec<&str> = required.map(|field| field.name.as_str()).collect();
    if !required.is_empty() {
        put(&mut schema, "required", json!(required));
    }
    if of.open {
        put(
            &mut schema,
            "x-kubernetes-preserve-unknown-fields",
            json!(true),
        );
    }
    let mut rules: Vec<Value> = of.rules.iter().flat_map(rule).collect();
    match (rules.pop(), rules.is_empty()) {
        (Some(Value::Object(only)), true) => {
            for (key, value) in only {
                put(&mut schema, &key, value);
            }
        }
        (Some(last), _) => {
            rules.push(last);
            put(&mut schema, "allOf", rules.into());
        }
        (None, _) => {}
    }
    Ok(schema)
}

fn rule(rule: &Rule) -> Vec<Value> {
    let has = |name: &String| json!({"required": [name]});
    let none_with_another = |names: &[String]| {
        let pairs = names.iter().enumerate().flat_map(|(at, one)| {
            let others = names.iter().skip(at + 1);
            others.map(move |other| json!({"required": [one, other]}))
        });
        json!({"not": {"anyOf": pairs.collect::<Vec<_>>()}})
    };
    let one = |names: &[String]| json!({"anyOf": names.iter().map(has).collect::<Vec<_>>()});
    match rule {
        Rule::AtMostOne(names) => vec![none_with_another(names)],
        Rule::AtLeastOne(names) => vec![one(names)],
        Rule::ExactlyOne(names) => vec![one(names), none_with_another(names)],
        Rule::Union(field, of) => {
            let cases = of.iter().map(|(word, own)| {
                let mut others: Vec<&String> = of.iter().map(|(_, other)| other).collect();
                others.retain(|other| *other != own);
                let others: Vec<Value> = others.into_iter().map(has).collect();
                json!({
                    "properties": {field: {"enum": [word]}},
                    "required": [own],
                    "not": {"anyOf": others},
                })
            });
            vec![json!({"anyOf": cases.collect::<Vec<_>>()})]
        }
    }
}

fn typed(file: &File, of: &Typed, depth: usize) -> Result<Value, Fault> {
    let fault = |message: String| Fault {
        line: of.line,
        message,
    };
    if depth > DEEPEST {
        return Err(fault("types within types without an end".to_owned()));
    }
    let mut schema = match &of.of {
        Of::Word(word) => {
            if let Some(schema) = word_type(word) {
                schema
            } else {
                let named = file.types.iter().find(|(name, _)| name == word);
                let (_, named) = named.ok_or_else(|| fault(format!("there is no type {word}")))?;
                typed(file, named, depth + 1)?
            }
        }
        Of::Choice(words) => json!({"type": "string", "enum": words}),
        Of::List(item) => json!({"type": "array", "items": typed(file, item, depth + 1)?}),
        Of::Map(item) => {
            json!({"type": "object", "additionalProperties": typed(file, item, depth + 1)?})
        }
        Of::Object(fields) => object(file, fields, depth)?,
    };
    let kind = schema.get("type").and_then(Value::as_str);
    let limits = match kind {
        Some("array") => ("minItems", "maxItems"),
        Some("string") => ("minLength", "maxLength"),
        Some("object") => ("minProperties", "maxProperties"),
        _ => ("minimum", "maximum"),
    };
    for (key, limit) in [(limits.0, of.low), (limits.1, of.high)] {
        if let Some(limit) = limit {
            put(&mut schema, key, json!(limit));
        }
    }
    if let Some(pattern) = &of.pattern {
        put(&mut schema, "pattern", json!(pattern));
    }
    if !of.keys.is_empty() {
        put(&mut schema, "x-kubernetes-list-type", json!("map"));
        put(&mut schema, "x-kubernetes-list-map-keys", json!(of.keys));
    }
    if of.set {
        put(&mut schema, "x-kubernetes-list-type", json!("set"));
    }
    if let Some(default) = &of.default {
        put(&mut schema, "default", default.clone());
    }
    Ok(schema)
}

/// The types that need no definition.
fn word_type(word: &str) -> Option<Value> {
    Some(match word {
        "string" => json!({"type": "string"}),
        "bool" => json!({"type": "boolean"}),
        "int" => json!({"type": "integer", "format": "int32"}),
        "int64" => json!({"type": "integer", "format": "int64"}),
        "uint32" => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        "uint64" => json!({"type": "integer", "minimum": 0}),
        "number" => json!({"type": "number"}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "int-or-string" => json!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
        }),
        "object" => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        "any" => json!({"x-kubernetes-preserve-unknown-fields": true}),
        _ => return None,
    })
}
