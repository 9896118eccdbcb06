//! Streams of manifests: which documents have pods, and where.
//!
//! Documents that hold no pod, or whose pod is left alone, pass byte by byte; a document that is changed is
//! written anew as YAML with its keys in order (comments before it stay, comments inside it do not).

use std::collections::BTreeMap;

use serde_json::Value;

use super::decide::Namespace;
use super::report::Report;
use super::strip::strip;
use super::{InjectConfig, Outcome, Pod, mesh_pod};
use crate::mesh::{Finding, Origin};
use crate::resource::document::{Piece, split};
use crate::resource::json::{json, read, write};

/// A stream with its pods changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// The whole stream.
    pub text: String,
    /// How many pods or pod templates were changed.
    pub changed: usize,
    /// Worth knowing; no errors among them.
    pub findings: Vec<Finding>,
    /// Pods that were left alone, and why.
    pub left_alone: Vec<Remark>,
}

/// What is said of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Which.
    pub origin: Origin,
    /// Why it stays as it is.
    pub why: String,
}

/// Puts the sidecar into every pod and pod template of a YAML or JSON stream that is to have one. A
/// Namespace in the stream says of its pods what it says in a cluster; of others, that the sidecar is asked
/// for here is enough.
pub fn inject(text: &str, file: &str, config: &InjectConfig) -> Result<Injected, Vec<Finding>> {
    let namespaces = namespaces(text, file);
    let mut left_alone = Vec::new();
    let mut injected = edit(text, file, &mut |target, report| {
        let namespace = namespaces
            .get(Namespace::named(&target.namespace).name())
            .cloned()
            .unwrap_or_else(|| Namespace::named(&target.namespace));
        let pod = Pod {
            template: target.template,
            workload: &target.workload,
            namespace: &namespace,
        };
        let (outcome, findings) = mesh_pod(pod, config, &report.origin);
        report.findings.extend(findings);
        match outcome {
            Outcome::Meshed(after) => *target.template = after,
            Outcome::LeftAlone(why) => left_alone.push(Remark {
                origin: report.origin.clone(),
                why,
            }),
            Outcome::Refused => {}
        }
    })?;
    injected.left_alone = left_alone;
    Ok(injected)
}

/// Takes the sidecar out again; what [`inject`] was given comes back, value by value.
pub fn uninject(text: &str, file: &str) -> Result<Injected, Vec<Finding>> {
    edit(text, file, &mut |pod, _| strip(pod.template))
}

/// The Namespaces of a stream that say whether their pods are meshed.
fn namespaces(text: &str, file: &str) -> BTreeMap<String, Namespace> {
    fn add(document: &Value, found: &mut BTreeMap<String, Namespace>) {
        let kind = document.get("kind").and_then(Value::as_str);
        if let (Some("List"), Some(Value::Array(items))) = (kind, document.get("items")) {
            for item in items {
                add(item, found);
            }
        }
        if kind != Some("Namespace") {
            return;
        }
        let texts = |field: &str| -> BTreeMap<String, String> {
            let map = document.pointer(&format!("/metadata/{field}"));
            let map = map.and_then(Value::as_object).into_iter().flatten();
            map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        let labels = texts("labels");
        let says = labels.contains_key("istio-injection") || labels.contains_key("istio.io/rev");
        if let Some(name) = document.pointer("/metadata/name").and_then(Value::as_str) {
            let namespace = Namespace {
                name: name.to_owned(),
                labels: says.then_some(labels),
                annotations: texts("annotations"),
            };
            found.insert(name.to_owned(), namespace);
        }
    }
    let mut found = BTreeMap::new();
    for piece in split(text).iter().filter(|piece| !piece.is_blank()) {
        // What is no document is said by who edits it.
        if let Ok(document) = read(piece.text, file, piece.line) {
            add(&document, &mut found);
        }
    }
    found
}

/// A pod or pod template in a document.
struct Target<'a> {
    /// The mapping that has `metadata` and `spec`.
    template: &'a mut Value,
    /// The name of the workload around it; empty for a pod.
    workload: String,
    /// Its namespace.
    namespace: String,
}

fn edit(
    text: &str,
    file: &str,
    change: &mut dyn FnMut(Target<'_>, &mut Report),
) -> Result<Injected, Vec<Finding>> {
    let mut out = Injected::default();
    let mut findings = Vec::new();
    for piece in split(text) {
        out.text.push_str(piece.separator);
        if piece.is_blank() {
            out.text.push_str(piece.text);
            continue;
        }
        let before = match read(piece.text, file, piece.line) {
            Ok(value) => value,
            Err(finding) => {
                findings.push(*finding);
                continue;
            }
        };
        let mut after = before.clone();
        let mut report = Report::new(Origin {
            file: Some(file.into()),
            line: piece.line,
            column: 1,
            ..Origin::default()
        });
        let changed = walk(&mut after, change, &mut report);
        findings.append(&mut report.findings);
        if after == before {
            out.text.push_str(piece.text);
        } else {
            out.changed += changed;
            rewrite(&piece, &after, &mut out.text);
        }
    }
    if super::failed(&findings) {
        return Err(findings);
    }
    out.findings = findings;
    Ok(out)
}

/// A changed document in the form that it came in: JSON stays JSON, comments before it stay.
fn rewrite(piece: &Piece<'_>, value: &Value, out: &mut String) {
    if piece.text.trim_start().starts_with('{') {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push(' ');
        }
        out.push_str(&json(value));
        return;
    }
    if !piece.separator.is_empty() && !piece.separator.ends_with('\n') {
        out.push('\n');
    }
    for line in piece.text.split_inclusive('\n') {
        let bare = line.trim();
        if !(bare.is_empty() || bare.starts_with('#')) {
            break;
        }
        out.push_str(line);
    }
    out.push_str(&write(value));
}

/// Calls `change` for the pods of one document; how many of them it changed.
fn walk(
    document: &mut Value,
    change: &mut dyn FnMut(Target<'_>, &mut Report),
    report: &mut Report,
) -> usize {
    let text = |value: &Value, pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let kind = text(document, "/kind");
    if kind.ends_with("List")
        && let Some(Value::Array(items)) = document.get_mut("items")
    {
        return items
            .iter_mut()
            .map(|item| walk(item, change, report))
            .sum();
    }
    let owner = text(document, "/metadata/name");
    report.origin.namespace = text(document, "/metadata/namespace");
    report.origin.name.clone_from(&owner);
    report.origin.kind.clone_from(&kind);
    let known = |kind: &str| {
        matches!(
            kind,
            "Deployment"
                | "ReplicaSet"
                | "StatefulSet"
                | "DaemonSet"
                | "ReplicationController"
                | "Job"
        )
    };
    let is_pod = |template: Option<&Value>| {
        template.is_some_and(|template| {
            template
                .pointer("/spec/containers")
                .is_some_and(Value::is_array)
        })
    };
    let (pointer, workload) = match kind.as_str() {
        "Pod" => ("", String::new()),
        "PodTemplate" => ("/template", owner),
        "CronJob" => ("/spec/jobTemplate/spec/template", owner),
        kind if known(kind) || is_pod(document.pointer("/spec/template")) => {
            ("/spec/template", owner)
        }
        _ => return 0,
    };
    let Some(template) = document.pointer_mut(pointer) else {
        // Its pods are those of a workload that it names.
        if pointer == "/spec/template" && document.pointer("/spec/workloadRef").is_some() {
            return 0;
        }
        let field = pointer.trim_start_matches('/').replace('/', ".");
        report.wrong(
            format!("field {field} is missing"),
            "a workload needs a pod template",
        );
        return 0;
    };
    let before = template.clone();
    change(
        Target {
            template: &mut *template,
            workload,
            namespace: report.origin.namespace.clone(),
        },
        report,
    );
    usize::from(*template != before)
}
