//! ProxyConfig: how the proxies of some pods are started. The injector reads it, as the kind, as the annotation
//! `proxy.istio.io/config`, and as `defaultConfig` of a MeshConfig, which has the fields of the annotation.

use std::collections::BTreeMap;
use std::time::Duration;

use super::telemetry::tag;
use crate::mesh::route::Share;
use crate::mesh::tracing::CustomTag;
use crate::mesh::{Finding, Origin, Severity};
use crate::resource::codes;
use crate::resource::reader::{Fields, Report, Value};
use crate::resource::tree::Tree;

/// How some proxies are started; what is not written is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Labels of the pods; none is all of its namespace, and of the root namespace all of the mesh.
    pub selector: BTreeMap<String, String>,
    /// Threads that carry traffic; 0 is one a core.
    pub concurrency: Option<u16>,
    /// Variables of the proxy's environment.
    pub environment: BTreeMap<String, String>,
    /// The application starts when the proxy is ready; not of the kind.
    pub hold_application: Option<bool>,
    /// How long a drain may take; not of the kind.
    pub drain: Option<Duration>,
    /// Where the proxy answers for the application; 0 is nowhere. Not of the kind.
    pub status_port: Option<u16>,
    /// What is said of spans; of a MeshConfig's alone.
    pub tracing: Option<ProxyTracing>,
}

/// What is said of spans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyTracing {
    /// Of traces that begin there.
    pub sampling: Option<Share>,
    /// Further tags.
    pub tags: BTreeMap<String, CustomTag>,
    /// Longest path in a tag, in bytes.
    pub max_path: Option<u32>,
    /// Tags `istio.*` are set.
    pub istio_tags: Option<bool>,
}

pub(in crate::resource) fn proxy_config(fields: &Fields<'_>) -> ProxyConfig {
    let Some(spec) = fields.get("spec") else {
        return ProxyConfig::default();
    };
    let spec = spec.fields();
    let selector = spec.get("selector").map(|value| {
        let fields = value.fields();
        let labels = fields.texts("matchLabels");
        fields.finish();
        labels
    });
    image(&spec);
    let config = ProxyConfig {
        selector: selector.unwrap_or_default(),
        concurrency: concurrency(&spec),
        environment: spec.texts("environmentVariables"),
        ..ProxyConfig::default()
    };
    spec.finish();
    config
}

fn concurrency(fields: &Fields<'_>) -> Option<u16> {
    let number = fields.get("concurrency")?.integer(0, 1024)?;
    u16::try_from(number).ok()
}

fn image(fields: &Fields<'_>) {
    if let Some(value) = fields.get("image") {
        let fields = value.fields();
        fields.ignore("imageType", "`meshctl inject --image` says which image");
        fields.finish();
    }
}

/// Fields of the annotation that say nothing to our proxy, and what does the same.
const IGNORED: [(&str, &str); 26] = [
    ("discoveryAddress", "`meshctl inject --control-plane`"),
    (
        "controlPlaneAuthPolicy",
        "proxies and the control plane speak mTLS always",
    ),
    ("parentShutdownDuration", DRAIN),
    (
        "tracingServiceName",
        "spans are those of NAME.NAMESPACE, of the canonical service",
    ),
    ("proxyStatsMatcher", METRICS),
    ("statNameLength", METRICS),
    ("statsdUdpAddress", METRICS),
    ("statsCompression", METRICS),
    ("envoyMetricsService", METRICS),
    ("envoyAccessLogService", "`meshctl proxy --access-log json`"),
    ("fileFlushInterval", "`meshctl proxy --access-log json`"),
    ("fileFlushMinSizeKb", "`meshctl proxy --access-log json`"),
    ("proxyAdminPort", "`meshctl proxy --admin-port`"),
    ("readinessProbe", "probes are those of the pod"),
    ("meshId", NOTHING),
    ("configPath", NOTHING),
    ("binaryPath", NOTHING),
    ("serviceCluster", NOTHING),
    ("customConfigFile", NOTHING),
    (
        "availabilityZone",
        "labels topology.kubernetes.io/region and zone of the node",
    ),
    ("runtimeValues", NOTHING),
    ("extraStatTags", METRICS),
    ("proxyBootstrapTemplatePath", NOTHING),
    (
        "zipkinAddress",
        "an extensionProvider of the MeshConfig, with zipkin",
    ),
    ("connectionSettings", NOTHING),
    ("proxyHeaders", "headers of a VirtualService"),
];
const DRAIN: &str = "terminationDrainDuration";
const METRICS: &str = "every proxy reports Istio's standard metrics without it";
const NOTHING: &str = "remove it: meshctl's proxy has no use for it";

/// The annotation.
const ANNOTATION: &str = "proxy.istio.io/config";

/// Reads the text of the annotation of a pod in an object that is at `origin`.
pub fn annotated(text: &str, origin: &Origin) -> (Option<ProxyConfig>, Vec<Finding>) {
    let path = format!("metadata.annotations[{ANNOTATION:?}]");
    let tree = match Tree::read(text, 1) {
        Ok(tree) => tree,
        Err(error) => {
            let message = format!("the text is no YAML: {}", error.message);
            let finding = Finding::new(Severity::Error, codes::SYNTAX, origin, message);
            let finding = finding.at(&path).hint("such as \"concurrency: 2\"");
            return (None, vec![finding]);
        }
    };
    let report = Report::new(origin.clone());
    let root = Value::root(&tree, &report);
    let config = started(&root);
    if config.tracing.is_some() {
        root.warn(
            codes::IGNORED,
            "spans of single pods are not said here",
            "write a Telemetry with a selector, or tracing into defaultConfig of the MeshConfig",
        );
    }
    let failed = report.failed();
    // The text has lines of its own, which are those of no file.
    let mut findings = report.into_findings();
    for finding in &mut findings {
        finding.origin = origin.clone();
        finding.path = format!("{path}.{}", finding.path);
    }
    ((!failed).then_some(config), findings)
}

/// Reads how proxies are started, as MeshConfigs and annotations say it.
pub(super) fn started(value: &Value<'_>) -> ProxyConfig {
    let fields = value.fields();
    for (name, instead) in IGNORED {
        fields.ignore(name, instead);
    }
    fields.refuse(
        "interceptionMode",
        "remove it: `meshctl inject` redirects, which is REDIRECT",
    );
    fields.refuse(
        "gatewayTopology",
        "remove it: a gateway believes no caller about who called it",
    );
    fields.refuse(
        "caCertificatesPem",
        "remove it: the mesh believes its own authority only",
    );
    fields.refuse(
        "privateKeyProvider",
        "remove it: keys are made by the proxy and stay with it",
    );
    image(&fields);
    let tracing = fields.get("tracing").map(|value| tracing(&value));
    let config = ProxyConfig {
        selector: BTreeMap::new(),
        concurrency: concurrency(&fields),
        environment: fields.texts("proxyMetadata"),
        hold_application: fields.boolean("holdApplicationUntilProxyStarts"),
        // One is for the end of the pod and one for that of a process which is replaced; ours has one time.
        drain: drain(&fields),
        status_port: fields
            .get("statusPort")
            .and_then(|port| port.integer(0, i64::from(u16::MAX)))
            .and_then(|port| u16::try_from(port).ok()),
        tracing,
    };
    fields.finish();
    config
}

/// Fields that name who gets spans, which extensionProviders do here.
const TRACERS: [&str; 5] = [
    "zipkin",
    "lightstep",
    "datadog",
    "stackdriver",
    "openCensusAgent",
];

fn tracing(value: &Value<'_>) -> ProxyTracing {
    let fields = value.fields();
    for name in TRACERS {
        fields.ignore(
            name,
            "an extensionProvider of the MeshConfig with zipkin or opentelemetry, named in defaultProviders.tracing",
        );
    }
    fields.ignore(
        "tlsSettings",
        "a DestinationRule for the provider's service",
    );
    let tags = fields.get("customTags").map(|value| {
        let entries = value.entries().into_iter();
        let tags = entries.filter_map(|(name, value)| Some((name.to_owned(), tag(name, &value)?)));
        tags.collect()
    });
    let tracing = ProxyTracing {
        sampling: fields.get("sampling").and_then(|value| value.percent()),
        tags: tags.unwrap_or_default(),
        max_path: fields.count("maxPathTagLength", u32::MAX),
        istio_tags: fields.boolean("enableIstioTags"),
    };
    fields.finish();
    tracing
}

fn drain(fields: &Fields<'_>) -> Option<Duration> {
    let (ending, replaced) = (
        fields.duration("terminationDrainDuration"),
        fields.duration("drainDuration"),
    );
    ending.or(replaced)
}
