//! Taking the sidecar out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::pod::{INIT, PROXY};
use super::probes;

/// Marks a meshed pod, and says what was added to it.
pub(super) const STATUS: &str = "sidecar.istio.io/status";

/// What was done to a pod, so that exactly that can be undone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) revision: String,
    pub(super) init_containers: Vec<String>,
    pub(super) containers: Vec<String>,
    pub(super) volumes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) image_pull_secrets: Vec<String>,
    pub(super) labels: Vec<String>,
    pub(super) annotations: Vec<String>,
    /// Annotations that had another value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) replaced: BTreeMap<String, Value>,
    /// Probes that were rewritten, `LIST/CONTAINER/FIELD`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) probes: BTreeMap<String, Value>,
    /// What the user said of our containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) overrides: Vec<Override>,
    /// Fields that were not there at all.
    pub(super) created: Vec<String>,
    /// Fields that were there without a value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nulls: Vec<String>,
}

/// A container of the user's that is laid over one of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Override {
    /// `containers` or `initContainers`.
    pub(super) list: String,
    /// Its place there.
    pub(super) index: usize,
    pub(super) container: Value,
}

impl Override {
    pub(super) fn name(&self) -> &str {
        let name = self.container.get("name").and_then(Value::as_str);
        name.unwrap_or_default()
    }
}

impl Status {
    /// The status of a pod that is meshed with this sidecar; other meshes use the same annotation.
    pub(super) fn of(template: &Value) -> Option<Self> {
        let text = template.get("metadata")?.get("annotations")?.get(STATUS)?;
        let status: Self = serde_json::from_str(text.as_str()?).ok()?;
        let mut names = status.init_containers.iter().chain(&status.containers);
        names
            .any(|name| name == PROXY || name == INIT)
            .then_some(status)
    }
}

pub(super) fn strip(template: &mut Value) {
    let Some(status) = Status::of(template) else {
        return;
    };
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        items(spec, "initContainers", &status.init_containers);
        items(spec, "containers", &status.containers);
        items(spec, "volumes", &status.volumes);
        items(spec, "imagePullSecrets", &status.image_pull_secrets);
        for own in &status.overrides {
            if let Some(Value::Array(list)) = spec.get_mut(&own.list) {
                list.insert(own.index.min(list.len()), own.container.clone());
            }
        }
        for field in [
            "initContainers",
            "containers",
            "volumes",
            "imagePullSecrets",
        ] {
            tidy(spec, field, &status);
        }
        probes::restore(spec, &status.probes);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        entries(metadata, "labels", &status.labels);
        tidy(metadata, "labels", &status);
        let mut annotations = status.annotations.clone();
        annotations.push(STATUS.to_owned());
        entries(metadata, "annotations", &annotations);
        if let Some(Value::Object(map)) = metadata.get_mut("annotations") {
            for (name, value) in &status.replaced {
                map.insert(name.clone(), value.clone());
            }
        }
        tidy(metadata, "annotations", &status);
    }
    if let Some(template) = template.as_object_mut() {
        tidy(template, "metadata", &status);
    }
}

/// Takes away a field that is empty now and was not there, or had no value.
fn tidy(parent: &mut Map<String, Value>, field: &str, status: &Status) {
    let empty = match parent.get(field) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => false,
    };
    if !empty {
        return;
    }
    if status.created.iter().any(|created| created == field) {
        parent.shift_remove(field);
    } else if status.nulls.iter().any(|null| null == field) {
        parent.insert(field.to_owned(), Value::Null);
    }
}

fn items(spec: &mut Map<String, Value>, field: &str, names: &[String]) {
    let Some(Value::Array(list)) = spec.get_mut(field) else {
        return;
    };
    list.retain(|item| {
        let name = item.get("name").and_then(Value::as_str);
        !name.is_some_and(|name| names.iter().any(|added| added == name))
    });
}

fn entries(metadata: &mut Map<String, Value>, field: &str, names: &[String]) {
    let Some(Value::Object(map)) = metadata.get_mut(field) else {
        return;
    };
    for name in names {
        map.shift_remove(name);
    }
}
