//! The sidecar: pods in, pods with a proxy out, and back.
//!
//! Owns what a meshed pod looks like. Pure and offline: the same text gives the same text.
//! Documents that hold no pod, or opt out, pass byte by byte; a document that is changed is written
//! anew as YAML with its keys in order (comments before it stay, comments inside it do not).
//! Leaves to others: the admission webhook (`control`), the rules of captures on this machine
//! (`net`), and, for now, probes: they reach the application through the proxy as plaintext.

mod capture;
mod pod;
mod proxy_config;
mod strip;

use serde_json::Value;

pub use proxy_config::{Placed, proxy_configs};

use crate::mesh::{Finding, Origin, Severity};
use crate::resource::codes;
use crate::resource::document::{Piece, split};
use crate::resource::json::{json, read, write};

/// What is put beside an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectConfig {
    /// Image that holds this program and `nft`.
    pub image: String,
    /// Where the control plane listens with TLS, `HOST:PORT`.
    pub control_plane: String,
    /// Makes the proxy an init container that stays (Kubernetes 1.29), so that it is there before the
    /// application and goes after it.
    pub native_sidecar: bool,
    /// Where connections of the application are sent. Istio's port is 15001.
    pub outbound_port: u16,
    /// Where connections to the application are sent. Istio's port is 15006.
    pub inbound_port: u16,
    /// For the proxy container: `(request, limit)` of CPU.
    pub cpu: (String, String),
    /// For the proxy container: `(request, limit)` of memory.
    pub memory: (String, String),
    /// How proxies are started, the oldest first; see [`proxy_configs`].
    pub proxies: Vec<Placed>,
}

impl Default for InjectConfig {
    fn default() -> Self {
        Self {
            image: format!("meshctl:{}", env!("CARGO_PKG_VERSION")),
            control_plane: "meshctl.meshctl-system.svc:15012".to_owned(),
            native_sidecar: false,
            outbound_port: 15001,
            inbound_port: 15006,
            cpu: ("50m".to_owned(), "2".to_owned()),
            memory: ("32Mi".to_owned(), "256Mi".to_owned()),
            proxies: Vec::new(),
        }
    }
}

/// A stream with its pods changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// The whole stream.
    pub text: String,
    /// How many pods or pod templates were changed.
    pub changed: usize,
    /// Worth knowing; no errors among them.
    pub findings: Vec<Finding>,
}

/// Puts the sidecar into every pod and pod template of a YAML or JSON stream that does not opt out.
/// A pod that has it already is made as it would be today, so doing it twice is doing it once.
pub fn inject(text: &str, file: &str, config: &InjectConfig) -> Result<Injected, Vec<Finding>> {
    edit(text, file, &mut |pod, report| {
        pod::inject(pod, config, report);
    })
}

/// Takes the sidecar out again; what [`inject`] was given comes back, value by value.
pub fn uninject(text: &str, file: &str) -> Result<Injected, Vec<Finding>> {
    edit(text, file, &mut |pod, _| strip::strip(pod.template))
}

/// A pod or pod template in a document.
struct Target<'a> {
    /// The mapping that has `metadata` and `spec`.
    template: &'a mut Value,
    /// The name of the object around it.
    owner: String,
    /// Its namespace.
    namespace: String,
}

/// Findings of one stream.
struct Report {
    origin: Origin,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, message: String, hint: &str) {
        self.findings
            .push(Finding::new(severity, codes::SCHEMA, &self.origin, message).hint(hint));
    }
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
        let mut report = Report {
            origin: Origin {
                file: Some(file.into()),
                line: piece.line,
                column: 1,
                ..Origin::default()
            },
            findings: Vec::new(),
        };
        let changed = walk(&mut after, change, &mut report);
        findings.append(&mut report.findings);
        if after == before {
            out.text.push_str(piece.text);
        } else {
            out.changed += changed;
            rewrite(&piece, &after, &mut out.text);
        }
    }
    if findings
        .iter()
        .any(|finding| finding.severity == Severity::Error)
    {
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
    let pointer = match kind.as_str() {
        "Pod" => "",
        "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicationController"
        | "Job" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return 0,
    };
    let owner = text(document, "/metadata/name");
    report.origin.namespace = text(document, "/metadata/namespace");
    report.origin.name.clone_from(&owner);
    report.origin.kind = kind;
    let Some(template) = document.pointer_mut(pointer) else {
        report.add(
            Severity::Error,
            format!("field {pointer:?} is missing"),
            "a workload needs a pod template",
        );
        return 0;
    };
    let before = template.clone();
    change(
        Target {
            template: &mut *template,
            owner,
            namespace: report.origin.namespace.clone(),
        },
        report,
    );
    usize::from(*template != before)
}
