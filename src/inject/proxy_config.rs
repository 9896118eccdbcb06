//! How the proxy of a pod is started: by the MeshConfig, ProxyConfigs of the mesh, then of its namespace, then by
//! its own annotation, and at last by ProxyConfigs that select it. The last has the word (Istio's order).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::report::Report;
use crate::mesh::destinations::ROOTS;
use crate::mesh::world::selects;
use crate::mesh::{Finding, Severity};
use crate::resource::istio::{ProxyConfig, proxy_annotation};
use crate::resource::{Kind, Object, Objects, collect, mesh_config, parse};

/// On pods: a ProxyConfig of their own, as text (Istio's).
const ANNOTATION: &str = "/metadata/annotations/proxy.istio.io~1config";

/// A ProxyConfig, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    namespace: String,
    config: ProxyConfig,
}

/// What is said of how proxies are started, all over a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyConfigs {
    /// The `defaultConfig` of the mesh.
    mesh: ProxyConfig,
    /// ProxyConfigs, the oldest first.
    placed: Vec<Placed>,
}

impl ProxyConfigs {
    /// Those of `objects`.
    pub fn of(objects: &Objects) -> Self {
        let mut placed: Vec<&Arc<Object>> = objects
            .iter()
            .filter(|(key, _)| key.kind == "ProxyConfig")
            .map(|(_, object)| object)
            .collect();
        placed.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        let placed = placed.into_iter().filter_map(|object| match &object.body {
            Kind::ProxyConfig(config) => Some(Placed {
                namespace: object.metadata.namespace.clone(),
                config: config.clone(),
            }),
            _ => None,
        });
        Self {
            placed: placed.collect(),
            mesh: mesh_config(objects).proxies,
        }
    }
}

/// Those of streams, each with the name of its file; what is wrong with one that is no good.
pub fn proxy_configs<'t>(
    texts: impl IntoIterator<Item = (&'t str, &'t str)>,
) -> Result<ProxyConfigs, (String, Vec<Finding>)> {
    let mut all = Vec::new();
    for (text, file) in texts {
        let (objects, findings) = parse(text, file, "default");
        let own = |finding: &Finding| {
            let kind = finding.origin.kind.as_str();
            finding.severity == Severity::Error && matches!(kind, "ProxyConfig" | "ConfigMap")
        };
        let wrong: Vec<Finding> = findings.into_iter().filter(own).collect();
        if !wrong.is_empty() {
            return Err((file.to_owned(), wrong));
        }
        all.extend(objects);
    }
    // What is there twice is for others to say.
    let (objects, _) = collect(all);
    Ok(ProxyConfigs::of(&objects))
}

/// How one proxy is started.
#[derive(Debug, Default)]
pub(super) struct Settings {
    workers: Option<u16>,
    /// The application starts when the proxy is ready.
    pub(super) hold_application: Option<bool>,
    drain: Option<Duration>,
    /// Where the proxy answers for the application; 0 is nowhere.
    pub(super) status_port: Option<u16>,
    environment: BTreeMap<String, String>,
}

impl Settings {
    /// Those of the pod `template` in `namespace`.
    pub(super) fn of(
        template: &Value,
        namespace: &str,
        configs: &ProxyConfigs,
        report: &mut Report,
    ) -> Self {
        let mut settings = Self::default();
        settings.add(&configs.mesh);
        let placed = &configs.placed;
        let labels: BTreeMap<String, String> = template
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let root = |placed: &&Placed| ROOTS.contains(&placed.namespace.as_str());
        let own = |placed: &&Placed| placed.namespace == namespace;
        let whole = |placed: &&Placed| placed.config.selector.is_empty();
        let chosen = |placed: &&Placed| selects(&placed.config.selector, &labels);
        // Of several for one place the oldest has the word, and so comes last.
        let add = |settings: &mut Self, wanted: &dyn Fn(&&Placed) -> bool| {
            for placed in placed.iter().rev().filter(|placed| wanted(placed)) {
                settings.add(&placed.config);
            }
        };
        add(&mut settings, &|placed| root(placed) && whole(placed));
        add(&mut settings, &|placed| {
            own(placed) && !root(placed) && whole(placed)
        });
        if let Some(text) = template.pointer(ANNOTATION).and_then(Value::as_str) {
            let (config, findings) = proxy_annotation(text, &report.origin);
            report.findings.extend(findings);
            if let Some(config) = &config {
                settings.add(config);
            }
        }
        add(&mut settings, &|placed| {
            own(placed) && !whole(placed) && chosen(placed)
        });
        settings
    }

    fn add(&mut self, config: &ProxyConfig) {
        self.workers = config.concurrency.or(self.workers);
        self.hold_application = config.hold_application.or(self.hold_application);
        self.drain = config.drain.or(self.drain);
        self.status_port = config.status_port.or(self.status_port);
        let more = config.environment.iter();
        self.environment
            .extend(more.map(|(name, value)| (name.clone(), value.clone())));
    }

    /// How long a drain may take.
    pub(super) fn drain_seconds(&self) -> Option<u64> {
        self.drain.map(|drain| drain.as_secs().max(1))
    }

    /// Flags of the proxy.
    pub(super) fn args(&self) -> Option<String> {
        self.workers.map(|workers| format!("--workers={workers}"))
    }

    /// Variables of its environment, beside those that it needs.
    pub(super) fn env(&self, taken: &[&str]) -> Vec<Value> {
        let own = self.environment.iter();
        own.filter(|(name, _)| !taken.contains(&name.as_str()))
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect()
    }
}
