//! Configuration in words, for `explain`: retries, filters, and what is said of a backend.
//!
//! What has no words of its own is told as it is kept, so that nothing is left out.

use serde::Serialize;
use serde_json::Value;

use crate::api::registry::EndpointReport;
use crate::api::routes::{BackendReport, CandidateReport, Fact};
use crate::mesh::route::{Action, Forward, Retry};
use crate::mesh::{Locality, Node, Route, View, World};

/// When a request is tried again.
pub(super) fn retry(retry: Option<&Retry>) -> String {
    let Some(retry) = retry.filter(|retry| retry.attempts > 0) else {
        return "none".to_owned();
    };
    let on: Vec<String> = retry.on.iter().map(word).collect();
    let limit = retry
        .per_try_timeout
        .map_or_else(String::new, |limit| format!(", each within {limit:?}"));
    let whose = if *retry == Retry::default() {
        " (Istio's default)"
    } else {
        ""
    };
    format!(
        "{} after the first try, on {}{limit}{whose}",
        retry.attempts,
        on.join(", ")
    )
}

/// A value of an enum as it is written.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => spaced(&text),
        Ok(value) => value.to_string(),
        Err(_) => String::new(),
    }
}

/// A filter's kind in words, and what it is set to.
pub(super) fn worded(filter: &impl Serialize) -> (String, String) {
    match serde_json::to_value(filter) {
        Ok(Value::Object(map)) => map
            .into_iter()
            .next()
            .map(|(name, value)| (spaced(&name), value.to_string()))
            .unwrap_or_default(),
        Ok(value) => ("filter".to_owned(), value.to_string()),
        Err(error) => ("filter".to_owned(), error.to_string()),
    }
}

/// What a rule says besides what has words of its own here, so that nothing of it is left out.
pub(super) fn others(forward: &Forward) -> Vec<(String, String)> {
    const TOLD: [&str; 6] = [
        "clusters", "timeout", "retry", "filters", "mirrors", "rewrite",
    ];
    let Ok(Value::Object(map)) = serde_json::to_value(forward) else {
        return Vec::new();
    };
    map.into_iter()
        .filter(|(name, value)| {
            // What says nothing is kept as nothing.
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            !TOLD.contains(&name.as_str()) && !empty
        })
        .map(|(name, value)| (spaced(&name), value.to_string()))
        .collect()
}

/// `localRateLimit` is `local rate limit`.
fn spaced(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// What is said of a backend, and where.
pub(super) fn backend_facts(
    (world, node): (&World, &Node),
    view: &View,
    backend: &BackendReport,
    route: &Route,
) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Action::Forward(forward) = &route.action {
        let own = forward
            .clusters
            .iter()
            .find(|c| c.cluster == backend.cluster);
        for (what, edits) in own.into_iter().flat_map(|own| {
            [
                ("request headers", &own.headers.request),
                ("answer headers", &own.headers.response),
            ]
        }) {
            if !edits.is_empty() {
                facts.push(Fact::new(what, compact(edits), Some(&route.origin)));
            }
        }
    }
    let Some(cluster) = view.clusters.get(&backend.cluster) else {
        return facts;
    };
    let Some(target) = &cluster.service else {
        return facts;
    };
    if let Some(service) = world.config.services.get(&target.host) {
        facts.push(Fact::new(
            "service",
            service.host.to_string(),
            Some(&service.origin),
        ));
    }
    let destination = world.config.destination(&target.host, node.into());
    let origin = destination.map(|destination| &destination.origin);
    if let Some(subset) = destination.and_then(|found| found.subsets.get(&target.subset)) {
        let labels: Vec<String> = subset
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let words = format!("{} ({})", target.subset, labels.join(", "));
        facts.push(Fact::new("subset", words, origin));
    }
    facts.push(Fact::new("balancing", word(&cluster.load_balancer), origin));
    let tls = match &cluster.tls {
        None => "plaintext".to_owned(),
        Some(tls) if tls.required => "mTLS, or not at all".to_owned(),
        Some(_) => "mTLS with whoever speaks it".to_owned(),
    };
    facts.push(Fact::new("security", tls, origin));
    if let Some(outlier) = &cluster.outlier {
        facts.push(Fact::new("ejection", compact(outlier), origin));
    }
    if cluster.limits != crate::mesh::cluster::Limits::default() {
        facts.push(Fact::new("limits", compact(&cluster.limits), origin));
    }
    facts
}

fn compact(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Who may be chosen of a backend's endpoints.
pub(super) fn candidates(view: &View, backend: &BackendReport, port: u16) -> Vec<CandidateReport> {
    view.endpoints
        .get(&backend.cluster)
        .map_or(&[][..], |assignment| &assignment.endpoints)
        .iter()
        .map(|endpoint| CandidateReport {
            endpoint: EndpointReport {
                service: backend.service.clone(),
                port,
                address: endpoint.address.to_string(),
                instance: endpoint.workload.instance.clone(),
                version: endpoint.workload.version.clone(),
                health: endpoint.health,
                mtls: endpoint.mtls,
                weight: endpoint.weight,
                ejected_by: Vec::new(),
            },
            priority: endpoint.priority,
            locality: place(&endpoint.locality),
        })
        .collect()
}

/// `region/zone/subzone`, as far as it is known.
fn place(locality: &Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    let known = parts.iter().take_while(|part| !part.is_empty());
    known
        .map(|part| part.as_str())
        .collect::<Vec<_>>()
        .join("/")
}
