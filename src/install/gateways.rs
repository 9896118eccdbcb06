//! Gateways: proxies without an application, for callers from outside and calls to it.

use serde_json::{Map, Value, json};

use super::{
    NAME, ROOT_KEY, ROOTS, Settings, labels, metadata, of_revision, pod_security, restricted,
    spread,
};

const HOME: &str = "/var/lib/meshctl";
const TOKENS: &str = "/var/run/secrets/tokens";
const ROOT_DIR: &str = "/var/run/secrets/istio";
/// Where a proxy says whether it is ready (Istio's port).
pub(super) const READY_PORT: u16 = 15_021;
const METRICS_PORT: u16 = 15_090;
/// Longer than the proxy waits for its requests to end.
pub(super) const GRACE_SECONDS: u32 = 60;

/// One gateway.
struct Gateway {
    name: &'static str,
    /// Ports of Gateways, and where the proxy listens for them: one without privileges cannot listen below 1024.
    ports: &'static [(&'static str, u16, u16)],
    service: String,
}

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let ports: &[(&str, u16, u16)] = &[("http", 80, 8080), ("https", 443, 8443)];
    let mut all = Vec::new();
    if settings.ingress {
        all.extend(gateway(
            settings,
            &Gateway {
                name: "istio-ingressgateway",
                ports,
                service: settings.ingress_type.clone(),
            },
        ));
    }
    if settings.egress {
        all.extend(gateway(
            settings,
            &Gateway {
                name: "istio-egressgateway",
                ports,
                service: "ClusterIP".to_owned(),
            },
        ));
    }
    all
}

fn gateway(settings: &Settings, gateway: &Gateway) -> Vec<Value> {
    let name = of_revision(gateway.name, &settings.revision);
    let metadata = || metadata(settings, &name, gateway.name);
    // What the selectors of people's Gateways name: Istio's own labels.
    let short = gateway.name.trim_start_matches("istio-");
    let selector = json!({"app": gateway.name, "istio": short, super::REVISION: settings.revision});
    let mut pod_labels = labels(settings, gateway.name);
    if let Value::Object(own) = &selector {
        pod_labels.extend(own.clone());
    }
    pod_labels.insert("sidecar.istio.io/inject".to_owned(), json!("false"));
    let mut ports = vec![json!({
        "name": "status-port", "port": READY_PORT, "protocol": "TCP", "targetPort": READY_PORT,
    })];
    ports.extend(gateway.ports.iter().map(
        |(name, port, at)| json!({"name": name, "port": port, "protocol": "TCP", "targetPort": at}),
    ));
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata()}),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(),
            "spec": {"type": gateway.service, "selector": selector, "ports": ports},
        }),
    ];
    if settings.gateway_replicas > 1 {
        all.push(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(),
            "spec": {"minAvailable": 1, "selector": {"matchLabels": selector}},
        }));
    }
    all.push(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(),
        "spec": {
            "replicas": settings.gateway_replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": pod_labels,
                    "annotations": scraped(),
                },
                "spec": {
                    "serviceAccountName": name,
                    // It asks the API server nothing.
                    "automountServiceAccountToken": false,
                    "securityContext": pod_security(),
                    "affinity": spread(&selector),
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "containers": [container(settings, (gateway.name, &name), gateway.ports, Vec::new())],
                    "volumes": volumes(settings),
                },
            },
        },
    }));
    all
}

/// Annotations by which Prometheus finds metrics.
pub(super) fn scraped() -> Map<String, Value> {
    let port = METRICS_PORT.to_string();
    [
        ("prometheus.io/scrape", "true"),
        ("prometheus.io/port", &port),
        ("prometheus.io/path", "/stats/prometheus"),
    ]
    .map(|(key, value)| (key.to_owned(), json!(value)))
    .into_iter()
    .collect()
}

pub(super) fn volumes(settings: &Settings) -> Value {
    json!([
        {"name": "home", "emptyDir": {"medium": "Memory"}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": "istio-ca", "expirationSeconds": 43_200, "path": "istio-token",
        }}]}},
        {"name": "root", "configMap": {"name": of_revision(ROOTS, &settings.revision)}},
    ])
}

/// The proxy of gateway `gateway` as account `account`, which listens for `listens` only, or for all ports without.
pub(super) fn container(
    settings: &Settings,
    (gateway, account): (&str, &str),
    listens: &[(&str, u16, u16)],
    more: Vec<String>,
) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut args = vec![
        "proxy".to_owned(),
        format!("--gateway={gateway}"),
        "--name=$(POD_NAME)".to_owned(),
        "--namespace=$(POD_NAMESPACE)".to_owned(),
        format!("--service-account={account}"),
        // Health and metrics are answered at all of them; Gateways are listened for at the first.
        "--address=$(POD_IPS)".to_owned(),
        format!(
            "--control-plane={}.{}.svc:15012",
            of_revision(NAME, &settings.revision),
            settings.namespace
        ),
        format!("--join-file={TOKENS}/istio-token"),
        format!("--root-cert={ROOT_DIR}/{ROOT_KEY}"),
    ];
    if let Some(domain) = settings.values.get("trustDomain") {
        args.push(format!("--trust-domain={domain}"));
    }
    let told = listens.iter();
    args.extend(told.map(|(_, port, at)| format!("--listen={port}={at}")));
    args.extend(more);
    let mut ports = vec![
        json!({"name": "mesh-health", "containerPort": READY_PORT, "protocol": "TCP"}),
        json!({"name": "mesh-metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}),
    ];
    ports.extend(
        listens
            .iter()
            .map(|(name, _, at)| json!({"name": name, "containerPort": at, "protocol": "TCP"})),
    );
    json!({
        "name": "meshctl-proxy",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["meshctl"],
        "args": args,
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IPS", "status.podIPs"),
            {"name": "MESHCTL_HOME", "value": HOME},
        ],
        "ports": ports,
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": READY_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 3,
            "failureThreshold": 30,
        },
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": "1Gi"},
        },
        "securityContext": restricted(),
        "volumeMounts": [
            {"name": "home", "mountPath": HOME},
            {"name": "token", "mountPath": TOKENS, "readOnly": true},
            {"name": "root", "mountPath": ROOT_DIR, "readOnly": true},
        ],
    })
}
