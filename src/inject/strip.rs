//! Taking the sidecar out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Marks a meshed pod, and says what was added to it.
pub(super) const STATUS: &str = "sidecar.istio.io/status";

/// What was added to a pod, so that exactly that can be taken out again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) init_containers: Vec<String>,
    pub(super) containers: Vec<String>,
    pub(super) volumes: Vec<String>,
    pub(super) labels: Vec<String>,
    pub(super) annotations: Vec<String>,
    /// Fields that were not there at all.
    pub(super) created: Vec<String>,
}

impl Status {
    /// The status of a meshed pod.
    pub(super) fn of(template: &Value) -> Option<Self> {
        let text = template.get("metadata")?.get("annotations")?.get(STATUS)?;
        serde_json::from_str(text.as_str()?).ok()
    }
}

pub(super) fn strip(template: &mut Value) {
    let Some(status) = Status::of(template) else {
        return;
    };
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        items(spec, "initContainers", &status.init_containers, &status);
        items(spec, "containers", &status.containers, &status);
        items(spec, "volumes", &status.volumes, &status);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        entries(metadata, "labels", &status.labels, &status);
        let mut annotations = status.annotations.clone();
        annotations.push(STATUS.to_owned());
        entries(metadata, "annotations", &annotations, &status);
    }
    let created = status.created.iter().any(|field| field == "metadata");
    let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    if created
        && template.get("metadata").is_some_and(empty)
        && let Some(template) = template.as_object_mut()
    {
        template.shift_remove("metadata");
    }
}

fn items(spec: &mut Map<String, Value>, field: &str, names: &[String], status: &Status) {
    let Some(Value::Array(list)) = spec.get_mut(field) else {
        return;
    };
    list.retain(|item| {
        let name = item.get("name").and_then(Value::as_str);
        !name.is_some_and(|name| names.iter().any(|added| added == name))
    });
    if list.is_empty() && status.created.iter().any(|created| created == field) {
        spec.shift_remove(field);
    }
}

fn entries(metadata: &mut Map<String, Value>, field: &str, names: &[String], status: &Status) {
    let Some(Value::Object(map)) = metadata.get_mut(field) else {
        return;
    };
    for name in names {
        map.shift_remove(name);
    }
    if map.is_empty() && status.created.iter().any(|created| created == field) {
        metadata.shift_remove(field);
    }
}
