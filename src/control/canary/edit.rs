//! The edit of VirtualService and DestinationRule.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::canary::CanarySet;
use crate::api::{Problem, Reason};
use crate::mesh::{Hostname, Service};

/// Objects to write, and the weights as they were.
#[derive(Debug, Clone, PartialEq)]
pub struct Shift {
    /// Version and weight before; empty when there was no split.
    pub before: Vec<(String, u32)>,
    /// Version and weight after.
    pub after: Vec<(String, u32)>,
    /// Whole objects, to be applied together.
    pub objects: Vec<Value>,
}

/// The weights of the split that takes requests without special headers, and the name of the object
/// that holds it.
pub fn current(
    service: &Service,
    virtual_services: &[Value],
) -> Option<(Vec<(String, u32)>, String)> {
    let object = serving(service, virtual_services, &[])?;
    let rules = object.pointer("/spec/http")?.as_array()?;
    let rule = rules.get(position(rules, &[])?)?;
    let name = format!(
        "{}/{}",
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    );
    Some((
        weights(rule, service, text(object, "/metadata/namespace")),
        name,
    ))
}

/// What to write so that `service` gets the weights of `request`. `versions` are the versions that
/// run, with their instances.
pub fn shift(
    service: &Service,
    virtual_services: &[Value],
    destination_rules: &[Value],
    versions: &BTreeMap<String, usize>,
    request: &CanarySet,
) -> Result<Shift, Problem> {
    let matches = conditions(&request.matches)?;
    check(&request.weights)?;
    let rules = with_subsets(service, destination_rules, versions, &request.weights)?;
    let mut route = serving(service, virtual_services, &matches)
        .cloned()
        .unwrap_or_else(|| new_object("VirtualService", service));
    let namespace = text(&route, "/metadata/namespace").to_owned();
    let before = edit_list(&mut route, "http", |rules| {
        let at = position(rules, &matches);
        let before = at
            .and_then(|at| rules.get(at))
            .map(|rule| weights(rule, service, &namespace))
            .unwrap_or_default();
        let at = at.unwrap_or_else(|| add_rule(rules, &matches));
        if let Some(Value::Object(rule)) = rules.get_mut(at) {
            let old = rule.get("route").and_then(Value::as_array).cloned();
            let old = old.unwrap_or_default();
            let targets = request
                .weights
                .iter()
                .map(|(version, weight)| target(service, &old, version, *weight))
                .collect();
            rule.insert("route".to_owned(), Value::Array(targets));
        }
        before
    });
    let mut objects = rules;
    objects.push(route);
    Ok(Shift {
        before,
        after: request.weights.clone(),
        objects,
    })
}

/// Adds an empty rule for `matches` and gives its place.
fn add_rule(rules: &mut Vec<Value>, matches: &[(String, String)]) -> usize {
    if matches.is_empty() {
        rules.push(json!({}));
        return rules.len() - 1;
    }
    // A narrower rule must stand before the one that takes everything.
    rules.insert(0, json!({ "match": [{ "headers": headers(matches) }] }));
    0
}

pub(super) fn check(weights: &[(String, u32)]) -> Result<(), Problem> {
    let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if weights.is_empty() || sum == 0 {
        return Err(Problem::new(
            Reason::Invalid,
            "the weights sum to 0, so no version would get a request",
        )
        .hint("give at least one version a weight, such as v1=90 v2=10"));
    }
    if sum > u64::from(u32::MAX) {
        return Err(Problem::new(
            Reason::Invalid,
            format!("the weights sum to {sum}, the limit is {}", u32::MAX),
        ));
    }
    for (index, (version, _)) in weights.iter().enumerate() {
        if weights
            .iter()
            .skip(index + 1)
            .any(|(other, _)| other == version)
        {
            return Err(Problem::new(
                Reason::Invalid,
                format!("version {version} is named twice"),
            ));
        }
    }
    Ok(())
}

/// `header:NAME=VALUE` (or `header:NAME: VALUE`) as name and value.
pub(super) fn conditions(matches: &[String]) -> Result<Vec<(String, String)>, Problem> {
    matches
        .iter()
        .map(|condition| {
            condition
                .strip_prefix("header:")
                .and_then(|rest| rest.split_once('='))
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .ok_or_else(|| {
                    Problem::new(Reason::Invalid, format!("{condition:?} is not a condition"))
                        .hint("write header:NAME=VALUE, such as header:x-user=tester")
                })
        })
        .collect()
}

fn headers(matches: &[(String, String)]) -> Value {
    Value::Object(
        matches
            .iter()
            .map(|(name, value)| (name.clone(), json!({ "exact": value })))
            .collect(),
    )
}

/// The rule for requests that meet exactly `matches`; without any, the first rule without conditions.
pub(super) fn position(rules: &[Value], matches: &[(String, String)]) -> Option<usize> {
    let wanted = headers(matches);
    rules.iter().position(|rule| {
        let conditions = rule.get("match").and_then(Value::as_array);
        match conditions.map(Vec::as_slice) {
            None | Some([]) => matches.is_empty(),
            Some([only]) if matches.is_empty() => {
                only.as_object().is_some_and(Map::is_empty) || everything(only)
            }
            Some([only]) => {
                only.as_object().is_some_and(|fields| fields.len() == 1)
                    && only.get("headers") == Some(&wanted)
            }
            Some(_) => false,
        }
    })
}

/// `uri: {prefix: /}` is no condition.
fn everything(condition: &Value) -> bool {
    condition
        .as_object()
        .is_some_and(|fields| fields.len() == 1)
        && condition.pointer("/uri/prefix").and_then(Value::as_str) == Some("/")
}

fn weights(rule: &Value, service: &Service, namespace: &str) -> Vec<(String, u32)> {
    let targets = rule.get("route").and_then(Value::as_array);
    let targets = targets.map_or(&[][..], Vec::as_slice);
    targets
        .iter()
        .filter(|target| is_host(text(target, "/destination/host"), namespace, service))
        .map(|target| {
            let weight = target
                .get("weight")
                .and_then(Value::as_u64)
                .and_then(|weight| u32::try_from(weight).ok())
                .unwrap_or(if targets.len() == 1 { 100 } else { 0 });
            (text(target, "/destination/subset").to_owned(), weight)
        })
        .collect()
}

/// A destination, as it was when one for this version stood there, with its new weight.
fn target(service: &Service, old: &[Value], version: &str, weight: u32) -> Value {
    let mut target = old
        .iter()
        .find(|target| text(target, "/destination/subset") == version)
        .cloned()
        .unwrap_or_else(|| {
            let mut destination = json!({ "host": service.host.as_str(), "subset": version });
            let port = old
                .first()
                .and_then(|target| target.pointer("/destination/port"));
            if let (Some(port), Some(fields)) = (port, destination.as_object_mut()) {
                fields.insert("port".to_owned(), port.clone());
            }
            json!({ "destination": destination })
        });
    if let Some(fields) = target.as_object_mut() {
        fields.insert("weight".to_owned(), json!(weight));
    }
    target
}

/// The destination rules that lack a subset for a version, with it: all that some caller goes by, and a
/// new one where none is for everybody.
fn with_subsets(
    service: &Service,
    destination_rules: &[Value],
    versions: &BTreeMap<String, usize>,
    weights: &[(String, u32)],
) -> Result<Vec<Value>, Problem> {
    let named = |rule: &&Value| {
        let namespace = text(rule, "/metadata/namespace");
        is_host(text(rule, "/spec/host"), namespace, service)
    };
    let mut rules: Vec<Value> = destination_rules.iter().filter(named).cloned().collect();
    let all = rules.len();
    if !rules.iter().any(|rule| is_for_everybody(rule, service)) {
        rules.push(new_rule(service, destination_rules));
    }
    let mut changed = Vec::new();
    for (at, mut rule) in rules.into_iter().enumerate() {
        let added = edit_list(&mut rule, "subsets", |subsets| {
            add_subsets(service, subsets, versions, weights)
        })?;
        if added || at >= all {
            changed.push(rule);
        }
    }
    Ok(changed)
}

/// A rule for every caller, under a name that no other has.
fn new_rule(service: &Service, others: &[Value]) -> Value {
    let mut rule = new_object("DestinationRule", service);
    if let Some(spec) = rule.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("hosts");
        spec.insert("host".to_owned(), json!(service.host.as_str()));
    }
    let taken = others.iter().any(|other| {
        text(other, "/metadata/namespace") == service.namespace
            && text(other, "/metadata/name") == service.name
    });
    if taken && let Some(name) = rule.pointer_mut("/metadata/name") {
        *name = json!(format!("{}-versions", service.name));
    }
    rule
}

/// Adds the subsets that are missing; says whether there were any.
fn add_subsets(
    service: &Service,
    subsets: &mut Vec<Value>,
    versions: &BTreeMap<String, usize>,
    weights: &[(String, u32)],
) -> Result<bool, Problem> {
    let mut changed = false;
    for (version, _) in weights {
        if subsets
            .iter()
            .any(|subset| text(subset, "/name") == version)
        {
            continue;
        }
        if !versions.contains_key(version) {
            let mut known: Vec<&str> = versions.keys().map(String::as_str).collect();
            known.extend(subsets.iter().map(|subset| text(subset, "/name")));
            known.sort_unstable();
            known.dedup();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(Problem::new(
                Reason::Invalid,
                format!(
                    "service {}.{} has no version {version}",
                    service.name, service.namespace
                ),
            )
            .hint(format!("versions that run: {known}")));
        }
        subsets.push(json!({ "name": version, "labels": { "version": version } }));
        changed = true;
    }
    Ok(changed)
}

/// The object to edit: of several the one that has the rule for `matches` already.
fn serving<'a>(
    service: &Service,
    virtual_services: &'a [Value],
    matches: &[(String, String)],
) -> Option<&'a Value> {
    let all = || virtual_services.iter().filter(|vs| serves(vs, service));
    let has_rule = |vs: &&Value| {
        let rules = vs.pointer("/spec/http").and_then(Value::as_array);
        rules.is_some_and(|rules| position(rules, matches).is_some())
    };
    all().find(has_rule).or_else(|| all().next())
}

/// Whether `rule` is the service's word to all of its callers.
fn is_for_everybody(rule: &Value, service: &Service) -> bool {
    let namespace = text(rule, "/metadata/namespace");
    let export = rule.pointer("/spec/exportTo").and_then(Value::as_array);
    namespace == service.namespace
        && is_host(text(rule, "/spec/host"), namespace, service)
        && rule.pointer("/spec/workloadSelector").is_none()
        && export.is_none_or(|to| to.is_empty() || to.iter().any(|to| to == "*"))
}

fn serves(virtual_service: &Value, service: &Service) -> bool {
    let namespace = text(virtual_service, "/metadata/namespace");
    virtual_service
        .pointer("/spec/hosts")
        .and_then(Value::as_array)
        .is_some_and(|hosts| {
            hosts
                .iter()
                .filter_map(Value::as_str)
                .any(|host| is_host(host, namespace, service))
        })
}

/// Whether `host`, written in `namespace`, is this service.
fn is_host(host: &str, namespace: &str, service: &Service) -> bool {
    if host.contains('.') {
        host.parse::<Hostname>()
            .is_ok_and(|host| host == service.host)
            || host == format!("{}.{}", service.name, service.namespace)
    } else {
        Hostname::service(host, namespace) == service.host
    }
}

fn new_object(kind: &str, service: &Service) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": { "name": service.name, "namespace": service.namespace },
        "spec": { "hosts": [service.host.as_str()] },
    })
}

pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Edits the list `spec.NAME`, which is made when it is missing, and puts it back.
pub(super) fn edit_list<T>(
    object: &mut Value,
    name: &str,
    edit: impl FnOnce(&mut Vec<Value>) -> T,
) -> T {
    let spec = object.as_object_mut().map(|fields| {
        fields
            .entry("spec")
            .or_insert_with(|| Value::Object(Map::new()))
    });
    let Some(Value::Object(spec)) = spec else {
        return edit(&mut Vec::new());
    };
    let mut list = match spec.remove(name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let result = edit(&mut list);
    spec.insert(name.to_owned(), Value::Array(list));
    result
}
