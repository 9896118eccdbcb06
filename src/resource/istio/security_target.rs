//! Whom Istio's policies of security are for.

use std::collections::BTreeMap;

use crate::resource::gateway_api::GROUP;
use crate::resource::policy::{Targets, target};
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Tree;

/// What a policy for targets names.
const TARGETS: &str = "targetRefs: [{kind: Service, name: …}] or [{group: gateway.networking.k8s.io, kind: Gateway, name: …}], or a selector";

/// Reads them. `kind` and `not_done` are words for what is not understood. An empty selector is none (Istio's rule).
pub(super) fn targets(spec: &Fields<'_>, (kind, not_done): (&str, &str)) -> Targets {
    let selector = spec.get("selector");
    let labels: BTreeMap<String, String> = selector.as_ref().map_or_else(BTreeMap::new, |value| {
        let fields = value.fields();
        let labels = fields.texts("matchLabels");
        fields.finish();
        labels
    });
    let one = spec.get("targetRef");
    let several = spec.get("targetRefs");
    let mut written = one.iter().chain(&several).chain(&selector);
    if let (Some(_), Some(second)) = (written.next(), written.next()) {
        second.error_hint(
            format!("{kind} has one of selector, targetRefs and targetRef"),
            "remove one of them, or write two objects",
        );
    }
    let named: Vec<Value<'_>> = match (one, several) {
        (Some(one), _) => vec![one],
        (None, Some(several)) => several.list(),
        (None, None) => Vec::new(),
    };
    if named.is_empty() {
        return if labels.is_empty() {
            Targets::All
        } else {
            Targets::Workloads(labels)
        };
    }
    let targets = named.iter().filter_map(|value| {
        let text = |name: &str| value.tree.get(name).and_then(Tree::text);
        let of = (text("group").unwrap_or_default(), text("kind"));
        if let (group, Some(kind)) = of
            && !matches!(
                of,
                ("" | "core", Some("Service")) | (GROUP, Some("Gateway"))
            )
        {
            value.refuse(
                format!("{not_done} for a {kind} of group {group:?}"),
                TARGETS,
            );
            return None;
        }
        if value.tree.get("sectionName").is_some() {
            value.refuse(
                format!("{not_done} for a part of a target"),
                "leave sectionName out: the rules are for all of the target",
            );
            return None;
        }
        target(value)
    });
    Targets::Objects(targets.collect())
}
