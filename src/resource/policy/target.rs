//! Whom a policy is for.

use std::collections::BTreeMap;

use crate::resource::reader::{Fields, Value};

/// Whom a policy is for, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Targets {
    /// Everything of the namespace.
    #[default]
    All,
    /// Workloads with these labels.
    Workloads(BTreeMap<String, String>),
    /// Objects, in order.
    Objects(Vec<Target>),
}

/// One object that a policy is for, of the policy's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Service.
    Service(String),
    /// A Gateway of Istio's.
    Gateway(String),
}

const KINDS: [(&str, &str); 2] = [("", "Service"), ("networking.istio.io", "Gateway")];

/// Reads `selector` and `targetRefs` of a policy's `spec`.
pub(super) fn targets(spec: &Fields<'_>) -> Targets {
    let labels = spec.get("selector").map(|value| {
        let fields = value.fields();
        let labels = fields.texts("matchLabels");
        fields.finish();
        if labels.is_empty() {
            value.error_hint(
                "a selector without labels chooses nothing",
                "selector: {matchLabels: {app: …}}, or leave it out for the whole namespace",
            );
        }
        labels
    });
    let written = spec.get("targetRefs");
    match (labels, written) {
        (Some(_), Some(written)) => {
            written.error_hint(
                "a policy has a selector or targetRefs, not both",
                "remove one of them, or write two policies",
            );
            Targets::All
        }
        (Some(labels), None) => Targets::Workloads(labels),
        (None, None) => Targets::All,
        (None, Some(written)) => {
            let list = written.list();
            if list.is_empty() {
                written.error_hint(
                    "targetRefs names nothing",
                    "targetRefs: [{kind: Service, name: …}], or leave it out for the whole namespace",
                );
            }
            Targets::Objects(list.iter().filter_map(target).collect())
        }
    }
}

fn target(value: &Value<'_>) -> Option<Target> {
    let fields = value.fields();
    let group = fields.text("group").unwrap_or_default();
    let kind = fields.require("kind").and_then(|value| value.text());
    let name = fields.require("name").and_then(|value| value.text());
    for field in ["namespace", "sectionName"] {
        if let Some(value) = fields.get(field) {
            value.refuse(
                format!("{field:?} of a target is not honoured by meshctl yet"),
                if field == "namespace" {
                    "write the policy in the namespace of its target, and leave it out"
                } else {
                    "leave it out: the policy is for all ports of its target"
                },
            );
        }
    }
    fields.finish();
    let (kind, name) = (kind?, name?);
    match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => Some(Target::Service(name)),
        ("networking.istio.io", "Gateway") => Some(Target::Gateway(name)),
        ("gateway.networking.k8s.io", _) => {
            value.refuse(
                format!("a target of kind {kind} ({group}) is not honoured by meshctl yet"),
                "choose the proxies of the gateway by their labels: selector: {matchLabels: {…}}",
            );
            None
        }
        _ => {
            let known: Vec<String> = KINDS
                .iter()
                .map(|(group, kind)| match *group {
                    "" => format!("{{kind: {kind}, name: …}}"),
                    group => format!("{{group: {group}, kind: {kind}, name: …}}"),
                })
                .collect();
            value.error_hint(
                format!("a policy has no targets of kind {kind:?} of group {group:?}"),
                known.join(" or "),
            );
            None
        }
    }
}
