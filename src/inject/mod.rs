//! The sidecar: pods in, pods with a proxy out, and back.
//!
//! Owns what a meshed pod looks like, and which pods are meshed. Pure and offline: [`mesh_pod`] is behind
//! both `meshctl inject` (by [`inject`], for streams of manifests) and admission (by [`json_patch`], for one
//! pod), so a pod that goes either way is the same. What it changed is in the annotation
//! `sidecar.istio.io/status`, from which [`uninject`] takes exactly that out again.
//! Leaves to others: the admission webhook (`control`), the rules of captures in the kernel (`net`), what the
//! proxy answers to rewritten probes (`proxy`).

mod annotations;
mod capture;
mod container;
mod decide;
mod ids;
mod owner;
mod patch;
mod pod;
mod probes;
mod proxy_config;
mod report;
mod stream;
mod strip;

use std::collections::BTreeMap;

use serde_json::Value;

pub use decide::{Decision, Namespace};
pub use patch::{Operation, json_patch};
pub use pod::PROXY;
pub use proxy_config::{ProxyConfigs, proxy_configs};
pub use stream::{Injected, Remark, inject, uninject};

use crate::mesh::{Finding, Origin, Severity};
use report::Report;

/// What is put beside an application, and beside which.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of the mesh, each by its own name"
)]
pub struct InjectConfig {
    /// Image that holds this program.
    pub image: String,
    /// `imagePullPolicy` of our containers; the cluster's own when absent.
    pub image_pull_policy: Option<String>,
    /// Secrets for that image, added to those of the pod.
    pub image_pull_secrets: Vec<String>,
    /// Where the control plane listens with TLS, `HOST:PORT`.
    pub control_plane: String,
    /// The ConfigMap with the mesh's roots under `root-cert.pem`, in each namespace.
    pub root_config_map: String,
    /// The root of identities.
    pub trust_domain: String,
    /// Makes the proxy an init container that stays, so that it is there before the application and goes
    /// after it. When absent, by [`kubernetes`](Self::kubernetes).
    pub native_sidecar: Option<bool>,
    /// Version of the cluster, major and minor, where it is known. From 1.29 on it has native sidecars.
    pub kubernetes: Option<(u16, u16)>,
    /// Where connections of the application are sent. Istio's port is 15001.
    pub outbound_port: u16,
    /// Where connections to the application are sent. Istio's port is 15006.
    pub inbound_port: u16,
    /// Names are asked of the proxy. Default true.
    pub capture_dns: bool,
    /// For the proxy container: `(request, limit)` of CPU.
    pub cpu: (String, String),
    /// For the proxy container: `(request, limit)` of memory.
    pub memory: (String, String),
    /// How proxies are started.
    pub proxies: ProxyConfigs,
    /// Which revision injects; Istio's name for the only one is `default`.
    pub revision: String,
    /// Other names of it, which labels `istio.io/rev` may have.
    pub tags: Vec<String>,
    /// Whether a pod that says nothing gets a sidecar. Default true.
    pub by_default: bool,
    /// Pods with all labels of one of these get none, unless they ask for it themselves.
    pub never: Vec<BTreeMap<String, String>>,
    /// Pods with all labels of one of these get one, also when [`by_default`](Self::by_default) is off.
    pub always: Vec<BTreeMap<String, String>>,
    /// Namespaces of the cluster and of the mesh itself, whose pods get none.
    pub system_namespaces: Vec<String>,
    /// Applications start when the proxy is ready. Default false; native sidecars are always ready first.
    pub hold_application: bool,
    /// Probes are asked of the proxy, which asks the application. Default true.
    pub rewrite_probes: bool,
    /// Metrics of applications are given together with the proxy's. Default true.
    pub merge_metrics: bool,
}

impl Default for InjectConfig {
    fn default() -> Self {
        Self {
            image: format!("meshctl:{}", env!("CARGO_PKG_VERSION")),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            control_plane: "meshctl.meshctl-system.svc:15012".to_owned(),
            root_config_map: "meshctl-ca-root-cert".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            native_sidecar: None,
            kubernetes: None,
            outbound_port: 15001,
            inbound_port: 15006,
            capture_dns: true,
            cpu: ("50m".to_owned(), "2".to_owned()),
            memory: ("32Mi".to_owned(), "256Mi".to_owned()),
            proxies: ProxyConfigs::default(),
            revision: "default".to_owned(),
            tags: Vec::new(),
            by_default: true,
            never: Vec::new(),
            always: Vec::new(),
            system_namespaces: [
                "kube-system",
                "kube-public",
                "kube-node-lease",
                "local-path-storage",
                "meshctl-system",
            ]
            .map(str::to_owned)
            .to_vec(),
            hold_application: false,
            rewrite_probes: true,
            merge_metrics: true,
        }
    }
}

/// A pod, or the pod template of a workload, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// The mapping that has `metadata` and `spec`.
    pub template: &'a Value,
    /// The name of the workload, where the template is one of a workload; else empty, and the pod's own
    /// metadata say it.
    pub workload: &'a str,
    /// Its namespace, with what is known of it.
    pub namespace: &'a Namespace,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has a sidecar, and is to be this.
    Meshed(Value),
    /// It stays as it is, and why.
    LeftAlone(String),
    /// It asks for what cannot be; the findings say what.
    Refused,
}

/// The one function: puts the sidecar into a pod, or says why not. A pod that has it already is made as it
/// would be today, so doing it twice is doing it once.
pub fn mesh_pod(pod: Pod<'_>, config: &InjectConfig, origin: &Origin) -> (Outcome, Vec<Finding>) {
    let mut report = Report::new(origin.clone());
    let outcome = match decide::decide(&pod, config, &mut report) {
        Decision::LeaveAlone(why) => Outcome::LeftAlone(why),
        Decision::Mesh => {
            let meshed = pod::inject(pod, config, &mut report);
            match meshed {
                Some(meshed) if !report.failed() => Outcome::Meshed(meshed),
                _ => Outcome::Refused,
            }
        }
    };
    let outcome = if report.failed() {
        Outcome::Refused
    } else {
        outcome
    };
    (outcome, report.findings)
}

fn failed(findings: &[Finding]) -> bool {
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    findings.iter().any(is_error)
}
