//! The control plane: its settings, how it is run, and where it is reached.

use serde_json::{Value, json};

use super::settings::{SIGNER, SIGNER_ROOT, SIGNER_TOKEN};
use super::{
    NAME, SETTINGS_FILE, Settings, WEBHOOK_PORT, labels, metadata, of_revision, pod_security,
    restricted, spread,
};

/// Where its settings are mounted.
const SETTINGS: &str = "/etc/meshctl";
/// Where it keeps what need not outlive it.
const HOME: &str = "/var/lib/meshctl";

const TLS_PORT: u16 = 15_012;
const METRICS_PORT: u16 = 15_014;
const HEALTH_PORT: u16 = 15_080;

/// Labels by which its pods are found; they never change, as selectors of Deployments cannot.
fn selector(settings: &Settings) -> Value {
    json!({"app": NAME, super::REVISION: settings.revision})
}

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let name = of_revision(NAME, &settings.revision);
    let metadata = || metadata(settings, &name, NAME);
    let selector = selector(settings);
    let mut all = vec![
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(),
            "data": {SETTINGS_FILE: settings.note()},
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(),
            "spec": {
                "selector": selector,
                "ports": [
                    port("grpc-tls", TLS_PORT, TLS_PORT),
                    port("https-webhook", 443, WEBHOOK_PORT),
                    port("http-metrics", METRICS_PORT, METRICS_PORT),
                ],
            },
        }),
    ];
    // With one replica it would only keep nodes from being drained.
    if settings.replicas > 1 {
        all.push(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(),
            "spec": {"minAvailable": 1, "selector": {"matchLabels": selector}},
        }));
    }
    all.push(deployment(settings, &name, &selector));
    all
}

fn port(name: &str, port: u16, target: u16) -> Value {
    json!({"name": name, "port": port, "protocol": "TCP", "targetPort": target})
}

fn deployment(settings: &Settings, name: &str, selector: &Value) -> Value {
    let mut pod_labels = labels(settings, NAME);
    if let Value::Object(own) = selector {
        pod_labels.extend(own.clone());
    }
    pod_labels.insert("sidecar.istio.io/inject".to_owned(), json!("false"));
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(settings, name, NAME),
        "spec": {
            "replicas": settings.replicas,
            "selector": {"matchLabels": selector},
            // One more at first, and never one less: proxies have somebody to ask throughout.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": {
                    "serviceAccountName": name,
                    "securityContext": pod_security(),
                    "affinity": spread(selector),
                    "containers": [container(settings)],
                    "volumes": volumes(settings, name),
                },
            },
        },
    })
}

fn volumes(settings: &Settings, name: &str) -> Value {
    let mut all = vec![
        json!({"name": "home", "emptyDir": {}}),
        json!({"name": "settings", "configMap": {"name": name}}),
    ];
    if settings.signer().is_some() {
        // Both are followed by the control plane, as the kubelet renews them in place.
        all.push(json!({"name": "signer", "projected": {"sources": [
            {"configMap": {
                "name": settings.signer_roots,
                "items": [{"key": SIGNER_ROOT, "path": SIGNER_ROOT}],
            }},
            {"serviceAccountToken": {
                "audience": "istio-ca", "expirationSeconds": 43_200, "path": SIGNER_TOKEN,
            }},
        ]}}));
    }
    Value::Array(all)
}

fn mounts(settings: &Settings) -> Value {
    let mut all = vec![
        json!({"name": "home", "mountPath": HOME}),
        json!({"name": "settings", "mountPath": SETTINGS, "readOnly": true}),
    ];
    if settings.signer().is_some() {
        all.push(json!({"name": "signer", "mountPath": SIGNER, "readOnly": true}));
    }
    Value::Array(all)
}

fn container(settings: &Settings) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let listens =
        |name: &str, port: u16| json!({"name": name, "containerPort": port, "protocol": "TCP"});
    json!({
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["meshctl"],
        "args": [
            "control-plane",
            "--source=kubernetes",
            "--in-cluster",
            format!("--settings={SETTINGS}/{SETTINGS_FILE}"),
            format!("--revision={}", settings.revision),
            "--listen=$(POD_IP)",
        ],
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IP", "status.podIP"),
            {"name": "MESHCTL_HOME", "value": HOME},
        ],
        "ports": [
            listens("grpc-tls", TLS_PORT),
            listens("http-metrics", METRICS_PORT),
            listens("https-webhook", WEBHOOK_PORT),
            listens("http-health", HEALTH_PORT),
        ],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": HEALTH_PORT},
            "periodSeconds": 3,
            "timeoutSeconds": 3,
        },
        // Not of readiness: while the API server is away a restart would only forget what is known.
        "livenessProbe": {
            "tcpSocket": {"port": HEALTH_PORT},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "resources": {
            "requests": {"cpu": settings.cpu, "memory": settings.memory},
            "limits": {"memory": settings.memory_limit},
        },
        "securityContext": restricted(),
        "volumeMounts": mounts(settings),
    })
}
