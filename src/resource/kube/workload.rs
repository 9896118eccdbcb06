//! Deployment, and the kinds that keep pods running like it.

use std::collections::BTreeMap;

use super::pod::{PodTemplate, template};
use crate::mesh::world::selects;
use crate::resource::reader::Fields;

/// A Deployment, StatefulSet, ReplicaSet or DaemonSet. A DaemonSet has one replica: there is one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// How many pods.
    pub replicas: u32,
    /// Labels of its pods.
    pub selector: BTreeMap<String, String>,
    /// What each pod is.
    pub template: PodTemplate,
}

/// More pods than a machine can run are surely a slip.
const MAX_REPLICAS: u32 = 10_000;

pub(in crate::resource) fn workload(kind: &str, fields: &Fields<'_>, old: bool) -> Workload {
    let Some(spec) = fields.require("spec") else {
        return Workload::default();
    };
    let spec = spec.fields();
    spec.accept(&[
        "minReadySeconds",
        "ordinals",
        "paused",
        "persistentVolumeClaimRetentionPolicy",
        "podManagementPolicy",
        "progressDeadlineSeconds",
        "revisionHistoryLimit",
        "rollbackTo",
        "serviceName",
        "strategy",
        "templateGeneration",
        "updateStrategy",
        "volumeClaimTemplates",
    ]);
    let replicas = spec.count("replicas", MAX_REPLICAS).unwrap_or(1);
    let template = spec
        .require("template")
        .map(|value| template(&value))
        .unwrap_or_default();
    let selector = match spec.get("selector") {
        Some(value) => {
            let fields = value.fields();
            let labels = fields.texts("matchLabels");
            fields.accept(&["matchExpressions"]);
            fields.finish();
            if !selects(&labels, &template.labels) {
                value.error_hint(
                    "the selector does not choose the pods of its own template",
                    "give spec.template.metadata.labels every label of the selector",
                );
            }
            labels
        }
        // The old versions took the labels of the template.
        None if old => template.labels.clone(),
        None => {
            spec.value.error_hint(
                "field \"selector\" is missing",
                "selector: {matchLabels: …} with the labels of the template",
            );
            BTreeMap::new()
        }
    };
    spec.finish();
    Workload {
        replicas: if kind == "DaemonSet" { 1 } else { replicas },
        selector,
        template,
    }
}
