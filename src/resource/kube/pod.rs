//! Pods and pod templates.

use std::collections::BTreeMap;
use std::time::Duration;

use super::service::target;
use crate::mesh::service::TargetPort;
use crate::resource::codes;
use crate::resource::object::Metadata;
use crate::resource::reader::{Fields, Value};

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// What runs.
    pub template: PodTemplate,
}

/// What runs in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodTemplate {
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// Containers and accounts.
    pub spec: PodSpec,
}

/// The spec of a pod, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Run one after the other before the others.
    pub init_containers: Vec<Container>,
    /// Run together.
    pub containers: Vec<Container>,
    /// The account whose identity the pod has; `default` when nothing is written.
    pub service_account: String,
    /// Uses the host's network, so no sidecar can stand before it.
    pub host_network: bool,
    /// How long a container may take to end. Kubernetes' default is 30 s.
    pub termination_grace: Option<Duration>,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Unique in its pod.
    pub name: String,
    /// Not pulled.
    pub image: String,
    /// Program and first arguments.
    pub command: Vec<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// Environment, in order; `$(NAME)` refers to earlier ones.
    pub env: Vec<EnvVar>,
    /// Names of ConfigMaps whose every key is a variable.
    pub env_from: Vec<String>,
    /// Declared ports.
    pub ports: Vec<ContainerPort>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// Whether it may get traffic.
    pub readiness: Option<Probe>,
    /// Whether it must be restarted.
    pub liveness: Option<Probe>,
    /// Whether it has started; the other probes wait for it.
    pub startup: Option<Probe>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, or where that comes from.
    pub value: EnvValue,
}

/// A value, or where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// As written.
    Text(String),
    /// A key of a ConfigMap.
    ConfigMapKey {
        /// The ConfigMap.
        name: String,
        /// Its key.
        key: String,
        /// May be missing.
        optional: bool,
    },
    /// A key of a Secret.
    SecretKey {
        /// The Secret.
        name: String,
        /// Its key.
        key: String,
        /// May be missing.
        optional: bool,
    },
    /// A field of the pod, such as `metadata.name` or `status.podIP`.
    Field(String),
    /// A resource of the container, such as `limits.cpu`.
    Resource(String),
}

/// One declared port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Services may target it by name; may be empty.
    pub name: String,
    /// Where the container listens.
    pub port: u16,
    /// UDP or SCTP: not carried by the mesh.
    pub datagram: bool,
}

/// A question that a container is asked again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The question.
    pub action: ProbeAction,
    /// Before the first. Default 0.
    pub initial_delay: Duration,
    /// Between two. Default 10 s.
    pub period: Duration,
    /// For an answer. Default 1 s.
    pub timeout: Duration,
    /// Good answers in a row to count as good. Default 1.
    pub success_threshold: u32,
    /// Bad answers in a row to count as bad. Default 3.
    pub failure_threshold: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAction {
    /// A GET that answers 200 to 399.
    Http {
        /// Path, `/` by default.
        path: String,
        /// Number or name of a container port.
        port: TargetPort,
        /// HTTPS without looking at the certificate.
        https: bool,
        /// Sent with it.
        headers: Vec<(String, String)>,
    },
    /// A connection.
    Tcp {
        /// Number or name of a container port.
        port: TargetPort,
    },
    /// A program that ends with 0.
    Exec(Vec<String>),
    /// gRPC's health service.
    Grpc {
        /// Container port.
        port: u16,
        /// The service asked about; may be empty.
        service: String,
    },
}

/// Fields of a pod's spec that concern a cluster only.
const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

const CONTAINER: &[&str] = &[
    "imagePullPolicy",
    "lifecycle",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
];

pub(in crate::resource) fn pod(fields: &Fields<'_>, metadata: &Metadata) -> Pod {
    Pod {
        template: PodTemplate {
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            spec: fields
                .require("spec")
                .map(|value| spec(&value))
                .unwrap_or_default(),
        },
    }
}

pub(super) fn template(value: &Value<'_>) -> PodTemplate {
    let fields = value.fields();
    let (labels, annotations) = match fields.get("metadata") {
        Some(metadata) => {
            let metadata = metadata.fields();
            metadata.accept(&["name", "namespace", "creationTimestamp"]);
            let both = (metadata.texts("labels"), metadata.texts("annotations"));
            metadata.finish();
            both
        }
        None => Default::default(),
    };
    let template = PodTemplate {
        labels,
        annotations,
        spec: fields
            .require("spec")
            .map(|value| spec(&value))
            .unwrap_or_default(),
    };
    fields.finish();
    template
}

fn spec(value: &Value<'_>) -> PodSpec {
    let fields = value.fields();
    fields.accept(SPEC);
    let written = fields.list("containers");
    if written.is_empty() {
        value.error_hint(
            "a pod needs a container",
            "containers: [{name: app, image: …}]",
        );
    }
    let account = fields.text("serviceAccountName");
    let spec = PodSpec {
        init_containers: fields
            .list("initContainers")
            .iter()
            .map(container)
            .collect(),
        containers: written.iter().map(container).collect(),
        service_account: account
            .or_else(|| fields.text("serviceAccount"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        host_network: fields.boolean("hostNetwork").unwrap_or_default(),
        termination_grace: fields
            .count("terminationGracePeriodSeconds", u32::MAX)
            .map(|seconds| Duration::from_secs(seconds.into())),
    };
    fields.accept(&["serviceAccount"]);
    fields.finish();
    unique(&written, &spec.containers);
    spec
}

fn unique(written: &[Value<'_>], containers: &[Container]) {
    for (index, (value, container)) in written.iter().zip(containers).enumerate() {
        let before = containers.get(..index).unwrap_or_default();
        if !container.name.is_empty() && before.iter().any(|other| other.name == container.name) {
            value.error_hint(
                format!("two containers are named {:?}", container.name),
                "give one of them another name",
            );
        }
        for port in &container.ports {
            let same = |other: &&Container| {
                other
                    .ports
                    .iter()
                    .any(|taken| (taken.port, taken.datagram) == (port.port, port.datagram))
            };
            if let Some(other) = before.iter().find(same) {
                value.warn(
                    codes::PORT_CONFLICT,
                    format!(
                        "containers {:?} and {:?} both declare port {}",
                        other.name, container.name, port.port
                    ),
                    "containers of a pod share one address; only one of them can listen there",
                );
            }
        }
    }
}

fn container(value: &Value<'_>) -> Container {
    let fields = value.fields();
    fields.accept(CONTAINER);
    let probe_of = |name: &'static str| fields.get(name).and_then(|value| probe(&value));
    let container = Container {
        name: fields
            .require("name")
            .and_then(|name| name.text())
            .unwrap_or_default(),
        image: fields.text("image").unwrap_or_default(),
        command: fields.text_list("command"),
        args: fields.text_list("args"),
        env: fields.list("env").iter().filter_map(env).collect(),
        env_from: fields.list("envFrom").iter().filter_map(env_from).collect(),
        ports: fields
            .list("ports")
            .iter()
            .filter_map(container_port)
            .collect(),
        working_dir: fields.text("workingDir"),
        readiness: probe_of("readinessProbe"),
        liveness: probe_of("livenessProbe"),
        startup: probe_of("startupProbe"),
    };
    fields.finish();
    container
}

fn env(value: &Value<'_>) -> Option<EnvVar> {
    let fields = value.fields();
    let name = fields.require("name").and_then(|name| name.text());
    let text = fields.text("value");
    let from = fields.get("valueFrom").and_then(|from| env_source(&from));
    fields.finish();
    Some(EnvVar {
        name: name?,
        value: from.unwrap_or_else(|| EnvValue::Text(text.unwrap_or_default())),
    })
}

fn env_source(value: &Value<'_>) -> Option<EnvValue> {
    let fields = value.fields();
    let key = |value: Value<'_>| {
        let fields = value.fields();
        let key = (
            fields.text("name").unwrap_or_default(),
            fields.text("key").unwrap_or_default(),
            fields.boolean("optional").unwrap_or_default(),
        );
        fields.finish();
        key
    };
    let field_of = |value: Value<'_>, name: &'static str| {
        let fields = value.fields();
        fields.accept(&["apiVersion", "containerName", "divisor"]);
        let text = fields.text(name);
        fields.finish();
        text
    };
    let config = fields.get("configMapKeyRef").map(key);
    let secret = fields.get("secretKeyRef").map(key);
    let field = fields
        .get("fieldRef")
        .and_then(|v| field_of(v, "fieldPath"));
    let resource = fields
        .get("resourceFieldRef")
        .and_then(|v| field_of(v, "resource"));
    fields.finish();
    let found = config
        .map(|(name, key, optional)| EnvValue::ConfigMapKey {
            name,
            key,
            optional,
        })
        .or(secret.map(|(name, key, optional)| EnvValue::SecretKey {
            name,
            key,
            optional,
        }))
        .or(field.map(EnvValue::Field))
        .or(resource.map(EnvValue::Resource));
    if found.is_none() {
        value.error("expected configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef");
    }
    found
}

fn env_from(value: &Value<'_>) -> Option<String> {
    let fields = value.fields();
    fields.accept(&["prefix", "secretRef"]);
    let name = fields.get("configMapRef").and_then(|reference| {
        let fields = reference.fields();
        fields.accept(&["optional"]);
        let name = fields.text("name");
        fields.finish();
        name
    });
    fields.finish();
    name
}

fn container_port(value: &Value<'_>) -> Option<ContainerPort> {
    let fields = value.fields();
    fields.accept(&["hostPort", "hostIP"]);
    let port = fields.require("containerPort").and_then(|port| port.port());
    let name = fields.text("name").unwrap_or_default();
    let datagram = fields
        .get("protocol")
        .and_then(|value| value.choice(&[("TCP", false), ("UDP", true), ("SCTP", true)]))
        .unwrap_or_default();
    fields.finish();
    Some(ContainerPort {
        name,
        port: port?,
        datagram,
    })
}

fn probe(value: &Value<'_>) -> Option<Probe> {
    let fields = value.fields();
    fields.accept(&["terminationGracePeriodSeconds"]);
    let seconds =
        |name: &'static str, default: u64| fields.count(name, u32::MAX).map_or(default, u64::from);
    let http = fields.get("httpGet").and_then(|value| http_get(&value));
    let tcp = fields.get("tcpSocket").and_then(|value| {
        let fields = value.fields();
        fields.accept(&["host"]);
        let port = fields.require("port").and_then(|port| target(&port));
        fields.finish();
        port.map(|port| ProbeAction::Tcp { port })
    });
    let exec = fields.get("exec").map(|value| {
        let fields = value.fields();
        let command = fields.text_list("command");
        fields.finish();
        ProbeAction::Exec(command)
    });
    let grpc = fields.get("grpc").and_then(|value| {
        let fields = value.fields();
        let port = fields.require("port").and_then(|port| port.port());
        let service = fields.text("service").unwrap_or_default();
        fields.finish();
        port.map(|port| ProbeAction::Grpc { port, service })
    });
    let action = http.or(tcp).or(exec).or(grpc);
    let probe = action.map(|action| Probe {
        action,
        initial_delay: Duration::from_secs(seconds("initialDelaySeconds", 0)),
        period: Duration::from_secs(seconds("periodSeconds", 10).max(1)),
        timeout: Duration::from_secs(seconds("timeoutSeconds", 1).max(1)),
        success_threshold: fields.count("successThreshold", 1000).unwrap_or(1).max(1),
        failure_threshold: fields
            .count("failureThreshold", 100_000)
            .unwrap_or(3)
            .max(1),
    });
    fields.accept(&[
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "successThreshold",
        "failureThreshold",
    ]);
    fields.finish();
    if probe.is_none() {
        value.error("expected httpGet, tcpSocket, exec or grpc");
    }
    probe
}

fn http_get(value: &Value<'_>) -> Option<ProbeAction> {
    let fields = value.fields();
    fields.accept(&["host"]);
    let port = fields.require("port").and_then(|port| target(&port));
    let path = fields.text("path").unwrap_or_else(|| "/".to_owned());
    let https = fields
        .get("scheme")
        .and_then(|value| value.choice(&[("HTTP", false), ("HTTPS", true)]))
        .unwrap_or_default();
    let headers = fields
        .list("httpHeaders")
        .iter()
        .filter_map(|value| {
            let fields = value.fields();
            let header = Some((fields.text("name")?, fields.text("value")?));
            fields.finish();
            header
        })
        .collect();
    fields.finish();
    Some(ProbeAction::Http {
        path,
        port: port?,
        https,
        headers,
    })
}
