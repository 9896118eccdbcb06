//! What a change does: to objects, and to what each proxy runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use crate::api::diff::{FieldDiff, ObjectDiff, PartDiff, ProxyDiff, RouteDiff};
use crate::api::resources::Outcome;
use crate::mesh::route::Match;
use crate::mesh::{Node, Origin, Route, View, World};
use crate::resource::{Key, Objects};

use super::fields::{aligned, fields};
use super::routes::{Measured, describe};

/// What a cluster writes into objects by itself: no change that anybody makes.
const KEPT_BY_CLUSTERS: [&str; 7] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "ownerReferences",
];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Objects that differ.
pub fn objects(before: &Objects, after: &Objects) -> Vec<ObjectDiff> {
    let keys: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            let raw = |objects: &Objects| objects.get(key).map(|object| object.raw.clone());
            object(key, raw(before).as_ref(), raw(after).as_ref())
        })
        .collect()
}

/// How one object differs; nothing when it does not.
pub fn object(key: &Key, before: Option<&Value>, after: Option<&Value>) -> Option<ObjectDiff> {
    let outcome = match (before, after) {
        (None, None) => return None,
        (None, Some(_)) => Outcome::Created,
        (Some(_), None) => Outcome::Deleted,
        (Some(_), Some(_)) => Outcome::Configured,
    };
    let (old, new) = (before.map(plain), after.map(plain));
    if old == new {
        return None;
    }
    let empty = json!({});
    let (old, new) = (
        old.as_ref().unwrap_or(&empty),
        new.as_ref().unwrap_or(&empty),
    );
    let mut fields = fields(old, new);
    if key.kind == "Secret" {
        fields.iter_mut().for_each(mask);
    }
    Some(ObjectDiff {
        kind: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        outcome,
        fields,
    })
}

/// Without what nobody writes.
fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in KEPT_BY_CLUSTERS {
            metadata.remove(name);
        }
        let annotations = metadata.get_mut("annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    object
}

/// Values of a secret are nobody's business, but whether they change is.
fn mask(field: &mut FieldDiff) {
    let path = field.path.as_str();
    if path.starts_with("data") || path.starts_with("stringData") {
        for (value, words) in [
            (&mut field.before, "*** (before)"),
            (&mut field.after, "*** (after)"),
        ] {
            if value.is_some() {
                *value = Some(words.into());
            }
        }
    }
}

/// A sidecar of each namespace that `changes` touch, for where no proxy is connected.
pub fn anybody(world: &World, changes: &[ObjectDiff]) -> Vec<Node> {
    let spaces: BTreeSet<&str> = changes
        .iter()
        .map(|change| match change.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        })
        .collect();
    spaces
        .into_iter()
        .filter_map(|namespace| super::caller(world, "", namespace))
        .collect()
}

/// What changes for `nodes` between two worlds, and for how many nothing does.
pub fn proxies(before: &World, after: &World, nodes: &[Node]) -> (Vec<ProxyDiff>, usize) {
    let (common_before, common_after) = (before.common(), after.common());
    let mut told: Vec<ProxyDiff> = Vec::new();
    let mut unchanged = 0;
    for node in nodes {
        let old = before.view_with(&common_before, node);
        let new = after.view_with(&common_after, node);
        if old == new {
            unchanged += 1;
            continue;
        }
        let mut found = views(&old, &new);
        if found == ProxyDiff::default() {
            // Lines of a file moved, and nothing else.
            unchanged += 1;
            continue;
        }
        let name = format!("{}.{}", node.name, node.namespace);
        // Own addresses are in listeners only; whoever changes alike is told of once.
        let known = told.iter_mut().find(|known| {
            (
                &known.listeners,
                &known.routes,
                &known.clusters,
                &known.endpoints,
            ) == (
                &found.listeners,
                &found.routes,
                &found.clusters,
                &found.endpoints,
            )
        });
        if let Some(known) = known {
            known.proxies.push(name);
        } else {
            found.proxies.push(name);
            told.push(found);
        }
    }
    (told, unchanged)
}

fn views(old: &View, new: &View) -> ProxyDiff {
    ProxyDiff {
        proxies: Vec::new(),
        listeners: parts(&old.listeners, &new.listeners),
        routes: routes(old, new),
        clusters: parts(&old.clusters, &new.clusters),
        endpoints: parts(&old.endpoints, &new.endpoints),
    }
}

fn parts<T: Serialize + PartialEq>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> Vec<PartDiff> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (outcome, fields) = match (old.get(name), new.get(name)) {
                (Some(old), Some(new)) if old == new => return None,
                (Some(old), Some(new)) => (Outcome::Configured, fields(&value(old), &value(new))),
                (None, Some(_)) => (Outcome::Created, Vec::new()),
                (Some(_), None) => (Outcome::Deleted, Vec::new()),
                (None, None) => return None,
            };
            Some(PartDiff {
                name: name.clone(),
                outcome,
                fields,
            })
        })
        .collect()
}

fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// By host: a table of a port and that of an explicit proxy have the same hosts.
fn routes(old: &View, new: &View) -> Vec<RouteDiff> {
    let mut found: Vec<RouteDiff> = Vec::new();
    let tables: BTreeSet<&String> = old.routes.keys().chain(new.routes.keys()).collect();
    for table in tables {
        let hosts = |view: &View| -> BTreeMap<String, Vec<Route>> {
            let table = view.routes.get(table);
            let hosts = table.map(|table| table.hosts.iter()).into_iter().flatten();
            hosts
                .map(|host| (host.name.clone(), host.routes.iter().map(bare).collect()))
                .collect()
        };
        let (before, after) = (hosts(old), hosts(new));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let none = Vec::new();
            let pair = (
                before.get(name).unwrap_or(&none).as_slice(),
                after.get(name).unwrap_or(&none).as_slice(),
            );
            for mut change in host(name, (old, pair.0), (new, pair.1)) {
                let known = found.iter_mut().find(|known| {
                    (&known.host, &known.before, &known.after, &known.fields)
                        == (&change.host, &change.before, &change.after, &change.fields)
                });
                if let Some(known) = known {
                    known.tables.push(table.clone());
                } else {
                    change.tables.push(table.clone());
                    found.push(change);
                }
            }
        }
    }
    found
}

/// Without where it was written.
fn bare(route: &Route) -> Route {
    Route {
        origin: Origin::default(),
        ..route.clone()
    }
}

/// Routes are the same when they are called the same and match the same.
fn identity(route: &Route) -> (&str, &Match) {
    (&route.name, &route.matches)
}

fn host(
    name: &str,
    (old, before): (&View, &[Route]),
    (new, after): (&View, &[Route]),
) -> Vec<RouteDiff> {
    if before == after {
        return Vec::new();
    }
    let port = name
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(0);
    let tell = |view: &View, index: usize, route: &Route| {
        describe(view, name, port, (index, route), &Measured::new())
    };
    let change = |before: Option<(usize, &Route)>, after: Option<(usize, &Route)>| {
        let (outcome, fields) = match (before, after) {
            (Some((_, before)), Some((_, after))) if before == after => return None,
            (Some((_, before)), Some((_, after))) => {
                (Outcome::Configured, fields(&value(before), &value(after)))
            }
            (None, _) => (Outcome::Created, Vec::new()),
            (_, None) => (Outcome::Deleted, Vec::new()),
        };
        Some(RouteDiff {
            tables: Vec::new(),
            host: name.to_owned(),
            outcome,
            before: before.map(|(index, route)| tell(old, index, route)),
            after: after.map(|(index, route)| tell(new, index, route)),
            fields,
        })
    };
    let old_keys: Vec<_> = before.iter().map(identity).collect();
    let new_keys: Vec<_> = after.iter().map(identity).collect();
    let pairs = aligned(&old_keys, &new_keys);
    let mut found = Vec::new();
    for (index, route) in before.iter().enumerate() {
        if !pairs.iter().any(|(from, _)| *from == index) {
            found.extend(change(Some((index, route)), None));
        }
    }
    for (index, route) in after.iter().enumerate() {
        let old = pairs.iter().find(|(_, to)| *to == index);
        let old = old.and_then(|(from, _)| Some((*from, before.get(*from)?)));
        found.extend(change(old, Some((index, route))));
    }
    found
}
