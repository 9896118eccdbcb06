//! Whether a webhook is meant: its rules and its selectors.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::Asked;
use crate::kinds::Kind;
use crate::select::Select;
use crate::status::{Answer, Refusal};
use crate::store::{Key, Store};

/// The version of the kind that a rule names: the one that was asked for, or another of the same objects if the
/// policy is `Equivalent`.
pub(super) fn version<'a>(
    hook: &Value,
    asked: &Asked<'a>,
    kinds: &[Arc<Kind>],
) -> Option<Cow<'a, Kind>> {
    let rules = hook["rules"].as_array()?;
    if rules.iter().any(|rule| covers(rule, asked, asked.kind)) {
        return Some(Cow::Borrowed(asked.kind));
    }
    if hook["matchPolicy"] == "Exact" {
        return None;
    }
    let same = kinds.iter().filter(|k| {
        k.key() == asked.kind.key() && k.kind == asked.kind.kind && k.version != asked.kind.version
    });
    let mut same = same.filter(|kind| rules.iter().any(|rule| covers(rule, asked, kind)));
    same.next().map(|kind| Cow::Owned(Kind::clone(kind)))
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array()
        .into_iter()
        .flatten()
        .any(|v| v == "*" || v == wanted)
}

fn covers(rule: &Value, asked: &Asked<'_>, kind: &Kind) -> bool {
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => kind.namespaced,
        Some("Cluster") => !kind.namespaced,
        _ => true,
    };
    scope
        && has(&rule["operations"], asked.operation)
        && has(&rule["apiGroups"], &kind.group)
        && has(&rule["apiVersions"], &kind.version)
        && rule["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|wanted| resource(wanted, &kind.plural, asked.subresource))
}

/// `pods`, `pods/status`, `pods/*`, `*/status`, `*`, `*/*`.
fn resource(wanted: &str, plural: &str, sub: &str) -> bool {
    let (left, right) = wanted.split_once('/').unwrap_or((wanted, ""));
    (left == "*" || left == plural) && (right == "*" || right == sub)
}

/// Whether the selectors take the namespace and the object.
pub(super) fn selected(
    hook: &Value,
    asked: &Asked<'_>,
    store: &Store,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Answer<bool> {
    let wanted = &hook["namespaceSelector"];
    if !is_empty(wanted) {
        let select = Select::of_object(wanted);
        if asked.kind.key() == "namespaces" {
            let labels = object
                .or(old)
                .map_or(&Value::Null, |o| &o["metadata"]["labels"]);
            if !select.takes_labels(labels) {
                return Ok(false);
            }
        } else if asked.kind.namespaced {
            let namespace = store
                .get(&Key {
                    resource: "namespaces".into(),
                    namespace: String::new(),
                    name: asked.namespace.to_owned(),
                })
                .ok_or_else(|| Refusal::not_found("namespaces", "", asked.namespace))?;
            if !select.takes(&namespace) {
                return Ok(false);
            }
        }
    }
    let wanted = &hook["objectSelector"];
    if is_empty(wanted) {
        return Ok(true);
    }
    let select = Select::of_object(wanted);
    let takes = |object: Option<&Value>| object.is_some_and(|o| select.takes(o));
    Ok(takes(object) || takes(old))
}

fn is_empty(selector: &Value) -> bool {
    let none = |field: &str| {
        selector[field].is_null()
            || selector[field].as_array().is_some_and(Vec::is_empty)
            || selector[field]
                .as_object()
                .is_some_and(serde_json::Map::is_empty)
    };
    none("matchLabels") && none("matchExpressions")
}

#[cfg(test)]
mod tests {
    use super::resource;

    #[test]
    fn resources_name_their_subresources() {
        for (wanted, sub, is) in [
            ("pods", "", true),
            ("pods", "status", false),
            ("pods/status", "status", true),
            ("pods/*", "", true),
            ("pods/*", "status", true),
            ("*/status", "status", true),
            ("*/status", "", false),
            ("*", "", true),
            ("*", "status", false),
            ("*/*", "status", true),
            ("services", "", false),
        ] {
            assert_eq!(resource(wanted, "pods", sub), is, "{wanted} {sub}");
        }
    }
}
