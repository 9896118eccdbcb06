//! Which pods get a sidecar: Istio's labels in Istio's order.
//!
//! The namespace first (`istio-injection` before `istio.io/rev`), as its webhooks are chosen; then the pod's
//! own label, which beats the annotation of the same name, the selectors, and the policy.

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::Report;
use super::strip::{STATUS, Status};
use super::{InjectConfig, Pod};
use crate::mesh::world::selects;

/// On pods: `true` or `false`.
const WANTED: &str = "sidecar.istio.io/inject";
const REVISION: &str = "istio.io/rev";
const ENABLED: &str = "istio-injection";

/// A namespace, and what is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name; empty is `default`.
    pub name: String,
    /// Its labels; `None` where only the manifests are known, and asking for the sidecar is what switches
    /// it on.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Namespace {
    /// One of which nothing but the name is known.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            name,
            ..Self::default()
        }
    }

    pub(super) fn name(&self) -> &str {
        if self.name.is_empty() {
            "default"
        } else {
            &self.name
        }
    }
}

/// Whether a pod gets a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It does.
    Mesh,
    /// It does not, and why.
    LeaveAlone(String),
}

pub(super) fn decide(pod: &Pod<'_>, config: &InjectConfig, report: &mut Report) -> Decision {
    let alone = |why: &str| Decision::LeaveAlone(why.to_owned());
    let wanted = wanted(pod.template, report);
    if wanted == Some(false) {
        return alone("the pod opts out with sidecar.istio.io/inject");
    }
    if config
        .system_namespaces
        .iter()
        .any(|own| own == pod.namespace.name())
    {
        return alone("its namespace is the cluster's or the mesh's own");
    }
    if let Err(why) = by_namespace(pod, wanted, config) {
        return Decision::LeaveAlone(why);
    }
    let labels = labels(pod.template);
    let chosen = |of: &[BTreeMap<String, String>]| {
        of.iter()
            .any(|one| !one.is_empty() && selects(one, &labels))
    };
    if wanted.is_none() {
        if chosen(&config.never) {
            return alone("a selector of the mesh keeps it out");
        }
        if !chosen(&config.always) && !config.by_default {
            return alone("pods of this mesh have to ask for a sidecar");
        }
    }
    if let Some(other) = other_mesh(pod.template) {
        return Decision::LeaveAlone(other);
    }
    if pod.template.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        if wanted == Some(true) {
            report.refuse(
                "a pod on the host's network cannot have a sidecar: it would capture the whole machine",
                "remove hostNetwork, or the label sidecar.istio.io/inject: \"true\"",
            );
        }
        return alone(
            "it is on the host's network, where a sidecar would capture the whole machine",
        );
    }
    if let Some(Value::String(system)) = pod.template.pointer("/spec/os/name")
        && system != "linux"
    {
        return Decision::LeaveAlone(format!(
            "it runs on {system}, and the sidecar on linux only"
        ));
    }
    Decision::Mesh
}

/// What the pod says for itself.
fn wanted(template: &Value, report: &mut Report) -> Option<bool> {
    let said = |field: &str| template.get("metadata")?.get(field)?.get(WANTED);
    let value = said("labels").or_else(|| said("annotations"))?;
    let text = match value {
        Value::Bool(wanted) => return Some(*wanted),
        Value::String(text) => text.to_ascii_lowercase(),
        other => other.to_string(),
    };
    match text.as_str() {
        "true" | "yes" | "on" | "y" | "enabled" => Some(true),
        "false" | "no" | "off" | "n" | "disabled" => Some(false),
        "" => None,
        other => {
            report.wrong(
                format!("{WANTED}: {other:?} is neither true nor false"),
                format!("{WANTED}: \"true\""),
            );
            None
        }
    }
}

/// Whether the namespace's labels and the pod's revision lead here.
fn by_namespace(pod: &Pod<'_>, wanted: Option<bool>, config: &InjectConfig) -> Result<(), String> {
    let ours = |revision: &str| {
        revision == config.revision || config.tags.iter().any(|tag| tag == revision)
    };
    let Some(namespace) = &pod.namespace.labels else {
        let own = labels(pod.template);
        return match own.get(REVISION) {
            Some(revision) if !ours(revision) => Err(other_revision("the pod", revision)),
            _ => Ok(()),
        };
    };
    let of_namespace = namespace.get(REVISION).map(String::as_str);
    match namespace.get(ENABLED).map(String::as_str) {
        Some("enabled") if ours("default") => Ok(()),
        Some("enabled") => Err(other_revision("its namespace", "default")),
        Some(_) => Err("its namespace has istio-injection: disabled".to_owned()),
        None => match (of_namespace, labels(pod.template).get(REVISION)) {
            (Some(revision), _) if ours(revision) => Ok(()),
            (Some(revision), _) => Err(other_revision("its namespace", revision)),
            (None, Some(revision)) if ours(revision) => Ok(()),
            (None, Some(revision)) => Err(other_revision("the pod", revision)),
            (None, None) if wanted == Some(true) && ours("default") => Ok(()),
            (None, None) => Err("neither its namespace nor the pod asks for a sidecar".to_owned()),
        },
    }
}

fn other_revision(who: &str, revision: &str) -> String {
    format!("{who} is of revision {revision:?}, which is not this one")
}

/// Two proxies that both capture are none.
fn other_mesh(template: &Value) -> Option<String> {
    let status = template.pointer(&format!(
        "/metadata/annotations/{}",
        STATUS.replace('/', "~1")
    ));
    let ours = Status::of(template).is_some();
    if status.is_some() && !ours {
        return Some("it has the sidecar of another mesh".to_owned());
    }
    let linkerd = template.pointer("/metadata/annotations/linkerd.io~1proxy-version");
    linkerd.map(|_| "it has the sidecar of another mesh".to_owned())
}

fn labels(template: &Value) -> BTreeMap<String, String> {
    template
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
