//! MeshConfig: what holds for the whole mesh where no object says otherwise. It is text under the key
//! `mesh` of a ConfigMap named `istio` in the mesh's root namespace.

use std::time::Duration;

use super::destination_rule::{connection_pool, outlier};
use super::extension_providers::{Providers, providers};
use super::locality;
use super::log_providers::{Logs, logs};
use super::proxy_config::{ProxyConfig, started};
use super::retries::retries;
use super::span_providers::{SpanProviders, span_providers};
use crate::mesh::cluster::OutlierDetection;
use crate::mesh::destinations::ROOTS;
use crate::mesh::http::{EscapedSlashes, PathOptions};
use crate::mesh::locality::LocalitySetting;
use crate::mesh::route::Retry;
use crate::mesh::world::{ConnectionPool, H2Upgrade, OutboundPolicy};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Tree;

/// Ejection, and the percentage of endpoints below which health no longer counts.
pub(super) type Ejection = (OutlierDetection, Option<u32>);

/// A MeshConfig, as far as it is honoured. What is not written is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshConfig {
    /// What happens to calls to hosts outside the mesh.
    pub outbound: Option<OutboundPolicy>,
    /// For connections to endpoints.
    pub connect_timeout: Option<Duration>,
    /// Whether HTTP/1 requests are carried as HTTP/2.
    pub h2_upgrade: H2Upgrade,
    /// Endpoints of the mesh are called with its certificates.
    pub auto_mtls: Option<bool>,
    /// Of requests whose route says nothing; `Some(None)` never retries.
    pub retry: Option<Option<Retry>>,
    /// Limits on connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are left out.
    pub outlier: Option<Ejection>,
    /// Which endpoints are preferred by where they and the caller are.
    pub locality: Option<LocalitySetting>,
    /// How long the first bytes are awaited for detection.
    pub detect_timeout: Option<Duration>,
    /// The spelling of paths.
    pub path: Option<PathOptions>,
    /// Label `istio` of the proxies that serve Ingresses.
    pub ingress: Option<String>,
    /// Who sees Services and ServiceEntries that do not say.
    pub service_export: Vec<String>,
    /// Who sees VirtualServices that do not say.
    pub route_export: Vec<String>,
    /// Who sees DestinationRules that do not say.
    pub destination_export: Vec<String>,
    /// Who can be asked whether requests may be made, by name; none for those that only report.
    pub providers: Providers,
    /// Who can get spans, by name.
    pub span_providers: SpanProviders,
    /// Names of those who do where no Telemetry says; the first counts.
    pub span_defaults: Vec<String>,
    /// Whether there are spans where no Telemetry says.
    pub enable_tracing: Option<bool>,
    /// Access logs.
    pub logs: Logs,
    /// How proxies of pods are started, where nothing says otherwise.
    pub proxies: ProxyConfig,
}

/// Fields that only tune or report, and what does the same.
const IGNORED: [(&str, &str); 18] = [
    ("disableEnvoyListenerLog", LOG),
    ("enableEnvoyAccessLogService", LOG),
    ("enablePrometheusMerge", METRICS),
    ("inboundClusterStatName", METRICS),
    ("outboundClusterStatName", METRICS),
    ("tcpKeepalive", "idle connections are closed after an hour"),
    ("hboneIdleTimeout", "there is no ambient mode"),
    (
        "dnsRefreshRate",
        "names are asked for as often as their answers say",
    ),
    (
        "zoneAwareLbSetting",
        "loadBalancer.localityLbSetting of a DestinationRule",
    ),
    (
        "verifyCertificateAtClient",
        "certificates are verified always",
    ),
    ("meshMTLS", "the mesh speaks TLS 1.3 inside"),
    (
        "ingressService",
        "addresses of gateways are not written into Ingresses",
    ),
    (
        "ingressClass",
        "write IngressClasses, with controller: meshctl.dev/ingress-controller",
    ),
    (
        "ingressControllerMode",
        "write IngressClasses: an Ingress of a class of another controller is left to it",
    ),
    (
        "configSources",
        "`meshctl control-plane --source` says where objects come from",
    ),
    ("proxyListenPort", PORTS),
    ("proxyInboundListenPort", PORTS),
    ("proxyHttpPort", PORTS),
];

const LOG: &str =
    "calls are logged by accessLogFile, and by extensionProviders with envoyFileAccessLog";
const METRICS: &str = "every proxy reports Istio's standard metrics without it";
const PORTS: &str = "`meshctl proxy --outbound-port` and `--inbound-port`";

/// Fields that change who is called or let in, and what to do instead.
const REFUSED: [(&str, &str); 9] = [
    (
        "trustDomainAliases",
        "remove it: the mesh has one trust domain",
    ),
    (
        "caCertificates",
        "remove it: the mesh believes its own authority only",
    ),
    ("certificates", "remove it"),
    ("ca", "remove it: the control plane is the authority"),
    (
        "tlsDefaults",
        "write minProtocolVersion and cipherSuites into the tls of Gateways",
    ),
    (
        "discoverySelectors",
        "write exportTo into the objects, or a Sidecar for the namespaces",
    ),
    ("serviceSettings", "remove it: the mesh has one cluster"),
    ("serviceScopeConfigs", "remove it: the mesh has one cluster"),
    (
        "serviceEntryVisibility",
        "write exportTo into the ServiceEntries",
    ),
];

/// Reads the text that `value` is; its places are lines of the ConfigMap.
pub(in crate::resource) fn mesh_config(value: &Value<'_>) -> Option<MeshConfig> {
    let text = value.tree.text()?;
    // A block begins on the line below its key.
    let first = value.tree.place.line + u32::from(text.contains('\n'));
    match Tree::read(text, first) {
        Ok(tree) => {
            let inside = value.inside(&tree);
            Some(config(inside.fields()))
        }
        Err(error) => {
            value.error_hint(
                format!("the text is no YAML: {}", error.message),
                "such as \"outboundTrafficPolicy: {mode: REGISTRY_ONLY}\"",
            );
            None
        }
    }
}

fn config(fields: Fields<'_>) -> MeshConfig {
    for (name, instead) in IGNORED {
        fields.ignore(name, instead);
    }
    for (name, instead) in REFUSED {
        fields.refuse(name, instead);
    }
    if let Some(value) = fields.get("rootNamespace")
        && let Some(name) = value.text()
        && !ROOTS.contains(&name.as_str())
    {
        value.refuse(
            format!("{name:?} cannot be the root namespace"),
            format!("one of {}", ROOTS.join(", ")),
        );
    }
    if let Some(value) = fields.get("trustDomain")
        && value.text().is_some_and(|name| name != "cluster.local")
    {
        value.warn(
            codes::IGNORED,
            "the trust domain is that of the mesh's authority, whatever is written here",
            "`meshctl install --set trustDomain=NAME` makes an authority for it",
        );
    }
    if let Some(value) = fields.get("inboundTrafficPolicy") {
        let fields = value.fields();
        if let Some(mode) = fields.get("mode")
            && mode.text().is_some_and(|mode| mode != "PASSTHROUGH")
        {
            mode.refuse(
                "calls to ports that nobody declared go to the address that they are for",
                "mode: PASSTHROUGH",
            );
        }
        fields.finish();
    }
    let export = |name: &'static str| {
        let written = fields.list(name);
        let namespaces = written.iter().filter_map(Value::text);
        namespaces.collect::<Vec<String>>()
    };
    let (pool, ejection) = fields
        .get("defaultTrafficPolicy")
        .map(|value| traffic(&value))
        .unwrap_or_default();
    let (span_defaults, log_defaults) = fields
        .get("defaultProviders")
        .map(|value| defaults(&value))
        .unwrap_or_default();
    let config = MeshConfig {
        logs: logs(&fields, log_defaults),
        connection_pool: pool,
        outlier: ejection,
        locality: fields
            .get("localityLbSetting")
            .map(|value| locality::setting(&value)),
        outbound: fields
            .get("outboundTrafficPolicy")
            .and_then(|value| outbound(&value)),
        connect_timeout: fields.get("connectTimeout").and_then(|value| {
            let timeout = value.duration()?;
            if timeout.is_zero() {
                value.error("a connection cannot be made in no time");
            }
            Some(timeout)
        }),
        h2_upgrade: fields
            .get("h2UpgradePolicy")
            .and_then(|value| {
                value.choice(&[
                    ("DO_NOT_UPGRADE", H2Upgrade::Never),
                    ("UPGRADE", H2Upgrade::Always),
                ])
            })
            .unwrap_or_default(),
        auto_mtls: fields.boolean("enableAutoMtls"),
        retry: fields
            .get("defaultHttpRetryPolicy")
            .map(|value| retries(&value)),
        detect_timeout: fields.duration("protocolDetectionTimeout"),
        path: fields
            .get("pathNormalization")
            .and_then(|value| normalisation(&value)),
        ingress: fields.text("ingressSelector"),
        service_export: export("defaultServiceExportTo"),
        route_export: export("defaultVirtualServiceExportTo"),
        destination_export: export("defaultDestinationRuleExportTo"),
        providers: providers(&fields),
        span_providers: span_providers(&fields),
        span_defaults,
        enable_tracing: fields.boolean("enableTracing"),
        proxies: fields
            .get("defaultConfig")
            .map(|value| started(&value))
            .unwrap_or_default(),
    };
    fields.finish();
    config
}

/// Who gets spans, and which logs are written.
fn defaults(value: &Value<'_>) -> (Vec<String>, Vec<String>) {
    let fields = value.fields();
    fields.ignore("metrics", METRICS);
    let logs = fields.text_list("accessLogging");
    let spans = fields.text_list("tracing");
    fields.finish();
    (spans, logs)
}

fn traffic(value: &Value<'_>) -> (Option<ConnectionPool>, Option<Ejection>) {
    let fields = value.fields();
    let pool = fields
        .get("connectionPool")
        .map(|value| connection_pool(&value));
    let ejection = fields.get("outlierDetection").map(|value| outlier(&value));
    fields.finish();
    (pool, ejection)
}

fn outbound(value: &Value<'_>) -> Option<OutboundPolicy> {
    let fields = value.fields();
    fields.refuse("tls", "TLS to hosts outside is in a DestinationRule");
    let mode = fields.get("mode").and_then(|value| {
        if value.tree.text() == Some("ALLOW_ANY_DYNAMIC_DNS") {
            value.refuse(
                "names of hosts outside are not looked up for callers",
                "mode: ALLOW_ANY, or a ServiceEntry with resolution: DNS",
            );
            return None;
        }
        value.choice(&[
            ("ALLOW_ANY", OutboundPolicy::AllowAny),
            ("REGISTRY_ONLY", OutboundPolicy::RegistryOnly),
        ])
    });
    fields.finish();
    mode
}

fn normalisation(value: &Value<'_>) -> Option<PathOptions> {
    let fields = value.fields();
    let base = PathOptions::default();
    let merged = PathOptions {
        merge_slashes: true,
        ..base
    };
    let found = fields.get("normalization").and_then(|value| {
        value.choice(&[
            ("DEFAULT", base),
            ("BASE", base),
            (
                "NONE",
                PathOptions {
                    normalize: false,
                    ..base
                },
            ),
            ("MERGE_SLASHES", merged),
            (
                "DECODE_AND_MERGE_SLASHES",
                PathOptions {
                    escaped_slashes: EscapedSlashes::UnescapeAndForward,
                    ..merged
                },
            ),
        ])
    });
    fields.finish();
    found
}
