//! What is served, as clients ask for it: groups, their resources, and both in one.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Kind, version_rank};

/// Groups in order, each with its versions in order of preference.
fn groups(kinds: &[Arc<Kind>]) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for kind in kinds {
        match groups.iter_mut().find(|(g, _)| *g == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version.clone()),
            None => groups.push((kind.group.clone(), vec![kind.version.clone()])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|v| version_rank(v));
    }
    groups
}

/// `/api`.
pub fn core() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn group(name: &str, versions: &[String]) -> Value {
    let all: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/apis`.
pub fn all(kinds: &[Arc<Kind>]) -> Value {
    let list: Vec<Value> = groups(kinds)
        .iter()
        .filter(|(g, _)| !g.is_empty())
        .map(|(g, v)| group(g, v))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `/apis/GROUP`.
pub fn one(kinds: &[Arc<Kind>], name: &str) -> Option<Value> {
    let (name, versions) = groups(kinds).into_iter().find(|(g, _)| g == name)?;
    let mut group = group(&name, &versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// Paths below an object: name, kind, group and version of its kind, verbs.
fn below(
    kind: &Kind,
) -> Vec<(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Vec<&'static str>,
)> {
    let mut subs = Vec::new();
    if kind.status {
        subs.push(("status", "", "", "", vec!["get", "patch", "update"]));
    }
    if kind.scale.is_some() {
        subs.push((
            "scale",
            "Scale",
            "autoscaling",
            "v1",
            vec!["get", "patch", "update"],
        ));
    }
    if kind.key() == "serviceaccounts" {
        subs.push((
            "token",
            "TokenRequest",
            "authentication.k8s.io",
            "v1",
            vec!["create"],
        ));
    }
    if kind.key() == "pods" {
        subs.push(("eviction", "Eviction", "policy", "v1", vec!["create"]));
        subs.push(("log", "", "", "", vec!["get"]));
    }
    subs
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub fn resources(kinds: &[Arc<Kind>], name: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in kinds {
        if kind.group != name || kind.version != version {
            continue;
        }
        let mut row = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs(),
        });
        if !kind.short.is_empty() {
            row["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            row["categories"] = json!(kind.categories);
        }
        list.push(row);
        for (sub, of, group, version, verbs) in below(kind) {
            let of = if of.is_empty() { &kind.kind } else { of };
            let mut row = json!({
                "name": format!("{}/{sub}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": of, "verbs": verbs,
            });
            if !group.is_empty() {
                row["group"] = group.into();
                row["version"] = version.into();
            }
            list.push(row);
        }
    }
    if list.is_empty() {
        return None;
    }
    let version = if name.is_empty() {
        version.to_owned()
    } else {
        format!("{name}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list,
    }))
}

/// `apidiscovery.k8s.io/v2`: the core for `/api`, all others for `/apis`.
pub fn aggregated(kinds: &[Arc<Kind>], core: bool) -> Value {
    let mut items = Vec::new();
    for (name, versions) in groups(kinds) {
        if name.is_empty() != core {
            continue;
        }
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let resources: Vec<Value> = kinds
                    .iter()
                    .filter(|k| k.group == name && k.version == *version)
                    .map(|k| entry(k))
                    .collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            })
            .collect();
        let metadata = if name.is_empty() {
            json!({})
        } else {
            json!({"name": name})
        };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn entry(kind: &Kind) -> Value {
    let subs: Vec<Value> = below(kind)
        .into_iter()
        .map(|(sub, of, group, version, verbs)| {
            let (of, group, version) = if of.is_empty() {
                (kind.kind.as_str(), kind.group.as_str(), kind.version.as_str())
            } else if group.is_empty() {
                (of, kind.group.as_str(), kind.version.as_str())
            } else {
                (of, group, version)
            };
            json!({"subresource": sub, "responseKind": {"group": group, "version": version, "kind": of}, "verbs": verbs})
        })
        .collect();
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": kind.verbs(),
    });
    if !kind.short.is_empty() {
        entry["shortNames"] = json!(kind.short);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    if !subs.is_empty() {
        entry["subresources"] = subs.into();
    }
    entry
}
