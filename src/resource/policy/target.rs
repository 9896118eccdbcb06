//! Whom a policy is for.

use std::collections::BTreeMap;

use crate::mesh::policy::AttachedTo;
use crate::resource::gateway_api::GROUP;
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
    /// A Gateway or a route of the Gateway API, or a listener or a rule of it.
    Attached {
        /// What it is.
        kind: AttachedTo,
        /// Its name.
        name: String,
        /// The name of its listener or rule.
        section: Option<String>,
    },
}

const KINDS: [(&str, &str); 5] = [
    ("", "Service"),
    ("networking.istio.io", "Gateway"),
    (GROUP, "Gateway"),
    (GROUP, "HTTPRoute"),
    (GROUP, "GRPCRoute"),
];

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

/// Reads one object that a policy is for.
pub(in crate::resource) fn target(value: &Value<'_>) -> Option<Target> {
    let fields = value.fields();
    let group = fields.text("group").unwrap_or_default();
    let kind = fields.require("kind").and_then(|value| value.text());
    let name = fields.require("name").and_then(|value| value.text());
    if let Some(value) = fields.get("namespace") {
        value.refuse(
            "\"namespace\" of a target is not honoured by meshctl yet",
            "write the policy in the namespace of its target, and leave it out",
        );
    }
    let section = fields.get("sectionName");
    fields.finish();
    let (kind, name) = (kind?, name?);
    if let Some(section) = section.as_ref().filter(|_| group != GROUP) {
        section.refuse(
            "\"sectionName\" of a target is not honoured by meshctl yet",
            "leave it out: the policy is for all ports of its target",
        );
    }
    let attached = |kind, name| {
        Some(Target::Attached {
            kind,
            name,
            section: section.as_ref().and_then(Value::text),
        })
    };
    match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => Some(Target::Service(name)),
        ("networking.istio.io", "Gateway") => Some(Target::Gateway(name)),
        (GROUP, "Gateway") => attached(AttachedTo::Gateway, name),
        (GROUP, "HTTPRoute") => attached(AttachedTo::HttpRoute, name),
        (GROUP, "GRPCRoute") => attached(AttachedTo::GrpcRoute, name),
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
