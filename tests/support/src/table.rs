//! `kubectl get` asks for tables: columns and cells, made by the server.

use serde_json::{Value, json};

use crate::kinds::Kind;

/// A table of objects. `now` is in seconds since 1970.
pub fn of(kind: &Kind, items: &[Value], list: &Value, now: i64) -> Value {
    let columns = columns(kind);
    let mut definitions = vec![
        json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}),
    ];
    for (name, _, priority, typed) in &columns {
        definitions.push(json!({"name": name, "type": typed, "format": "", "description": "", "priority": priority}));
    }
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let mut cells = vec![item["metadata"]["name"].clone()];
            cells.extend(
                columns
                    .iter()
                    .map(|(_, path, _, typed)| cell(item, path, typed, now)),
            );
            json!({"cells": cells, "object": partial(item)})
        })
        .collect();
    let metadata = if list.is_null() {
        json!({})
    } else {
        list.clone()
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// Metadata alone.
pub fn partial(item: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]})
}

type Column = (String, String, i64, String);

fn columns(kind: &Kind) -> Vec<Column> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if let Some(version) = &kind.custom {
        let own = version["additionalPrinterColumns"].as_array();
        let own: Vec<Column> = own
            .into_iter()
            .flatten()
            .map(|c| {
                (
                    text(&c["name"]),
                    text(&c["jsonPath"]),
                    c["priority"].as_i64().unwrap_or(0),
                    text(&c["type"]),
                )
            })
            .collect();
        if !own.is_empty() {
            return own;
        }
    }
    let rows: &[(&str, &str, &str)] = match kind.key().as_str() {
        "pods" => &[
            ("Ready", "!pod-ready", "string"),
            ("Status", ".status.phase", "string"),
            ("Restarts", "!restarts", "string"),
        ],
        "deployments.apps" => &[
            ("Ready", "!deployment-ready", "string"),
            ("Up-to-date", ".status.updatedReplicas", "integer"),
            ("Available", ".status.availableReplicas", "integer"),
        ],
        "replicasets.apps" => &[
            ("Desired", ".spec.replicas", "integer"),
            ("Current", ".status.replicas", "integer"),
            ("Ready", ".status.readyReplicas", "integer"),
        ],
        "services" => &[
            ("Type", ".spec.type", "string"),
            ("Cluster-IP", ".spec.clusterIP", "string"),
            ("Port(s)", "!ports", "string"),
        ],
        "namespaces" => &[("Status", ".status.phase", "string")],
        "secrets" => &[("Type", ".type", "string"), ("Data", "!data", "string")],
        "configmaps" => &[("Data", "!data", "string")],
        "leases.coordination.k8s.io" => &[("Holder", ".spec.holderIdentity", "string")],
        "customresourcedefinitions.apiextensions.k8s.io" => {
            return vec![(
                "Created At".into(),
                ".metadata.creationTimestamp".into(),
                0,
                "string".into(),
            )];
        }
        _ => &[],
    };
    let mut columns: Vec<Column> = rows
        .iter()
        .map(|(n, p, t)| ((*n).to_owned(), (*p).to_owned(), 0, (*t).to_owned()))
        .collect();
    columns.push((
        "Age".into(),
        ".metadata.creationTimestamp".into(),
        0,
        "date".into(),
    ));
    columns
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn cell(item: &Value, path: &str, typed: &str, now: i64) -> Value {
    match path {
        "!data" => return count(&item["data"]).to_string().into(),
        "!pod-ready" => {
            let all = item["spec"]["containers"].as_array().map_or(0, Vec::len);
            let statuses = item["status"]["containerStatuses"].as_array();
            let ready = statuses
                .into_iter()
                .flatten()
                .filter(|c| c["ready"] == true)
                .count();
            return format!("{ready}/{all}").into();
        }
        "!restarts" => {
            let statuses = item["status"]["containerStatuses"].as_array();
            let sum: i64 = statuses
                .into_iter()
                .flatten()
                .filter_map(|c| c["restartCount"].as_i64())
                .sum();
            return sum.to_string().into();
        }
        "!deployment-ready" => {
            let ready = item["status"]["readyReplicas"].as_i64().unwrap_or(0);
            let wanted = item["spec"]["replicas"].as_i64().unwrap_or(1);
            return format!("{ready}/{wanted}").into();
        }
        "!ports" => {
            let ports: Vec<String> = item["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|p| format!("{}/{}", p["port"], p["protocol"].as_str().unwrap_or("TCP")))
                .collect();
            return ports.join(",").into();
        }
        _ => {}
    }
    let found = walk(item, path);
    match (found, typed) {
        (Some(Value::String(time)), "date") => age(time, now).into(),
        (Some(value @ (Value::Object(_) | Value::Array(_))), _) => value.to_string().into(),
        (Some(value), _) => value.clone(),
        (None, "integer" | "number") if path.starts_with(".status") => 0.into(),
        (None, _) => Value::Null,
    }
}

/// A simple JSON path: fields, indices, and `[?(@.type=="Ready")]`.
pub fn walk<'v>(item: &'v Value, path: &str) -> Option<&'v Value> {
    let mut value = item;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let (inside, tail) = tail.split_once(']')?;
            rest = tail;
            value = match inside.strip_prefix("?(@.") {
                Some(filter) => {
                    let (field, wanted) = filter.trim_end_matches(')').split_once("==")?;
                    let wanted = wanted.trim().trim_matches(['"', '\'']);
                    value
                        .as_array()?
                        .iter()
                        .find(|v| v[field.trim()] == wanted)?
                }
                None => match inside.parse::<usize>() {
                    Ok(index) => value.get(index)?,
                    Err(_) => value.get(inside.trim_matches(['"', '\'']))?,
                },
            };
            continue;
        }
        let tail = rest.strip_prefix('.').unwrap_or(rest);
        let end = tail.find(['.', '[']).unwrap_or(tail.len());
        let (field, tail) = tail.split_at(end);
        rest = tail;
        value = value.get(field)?;
    }
    Some(value)
}

fn age(time: &str, now: i64) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return "<unknown>".into();
    };
    let seconds = (now - then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
