//! The proxy's container and its volumes.

use serde_json::{Map, Value, json};

use super::InjectConfig;
use super::annotations::{OWN_STATUS_PORT, Resource, Wishes};
use super::pod::{PROXY, Scrape};
use super::proxy_config::Settings;

const DATA: &str = "/var/lib/meshctl";
const INFO: &str = "/etc/meshctl/pod";
/// Istio's places, which tools look into.
const TOKEN: &str = "/var/run/secrets/tokens";
const ROOTS: &str = "/var/run/secrets/istio";
/// Where the proxy says that it is ready (Istio's port).
const HEALTH_PORT: u16 = 15021;
/// Names of the volumes.
pub(super) const VOLUMES: [&str; 4] = [
    "meshctl-data",
    "meshctl-info",
    "meshctl-token",
    "meshctl-roots",
];
/// How long connections are still taken after SIGTERM, in seconds, where the pod's time allows: endpoints
/// are not gone at once everywhere.
const LINGER: u64 = 5;

/// What of a pod the proxy is started by.
pub(super) struct Facts {
    pub(super) service: String,
    pub(super) version: String,
    /// User and group.
    pub(super) ids: (u32, u32),
    pub(super) native: bool,
    pub(super) hold: bool,
    pub(super) scrape: Option<Scrape>,
    /// Where it answers for the application.
    pub(super) status_port: u16,
    pub(super) ports: Vec<(u64, Option<String>)>,
    /// Seconds from SIGTERM to SIGKILL.
    pub(super) grace: u64,
}

pub(super) fn proxy(
    facts: &Facts,
    wishes: &Wishes,
    (settings, questions): (&Settings, &Map<String, Value>),
    config: &InjectConfig,
) -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let (user, group) = facts.ids;
    let mut env = vec![
        json!({"name": "POD_NAME", "valueFrom": field("metadata.name")}),
        json!({"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")}),
        json!({"name": "POD_IPS", "valueFrom": field("status.podIPs")}),
        json!({"name": "POD_SERVICE_ACCOUNT", "valueFrom": field("spec.serviceAccountName")}),
        json!({"name": "MESHCTL_HOME", "value": DATA}),
    ];
    if let Some(level) = &wishes.log_level {
        env.push(json!({"name": "RUST_LOG", "value": level}));
    }
    if !questions.is_empty() {
        let text = Value::Object(questions.clone()).to_string();
        env.push(json!({"name": "MESHCTL_APP_PROBES", "value": text}));
    }
    let taken: Vec<String> = env
        .iter()
        .filter_map(|variable| Some(variable.get("name")?.as_str()?.to_owned()))
        .collect();
    let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    env.extend(settings.env(&taken));

    let mut capabilities = json!({"drop": ["ALL"]});
    if wishes.low_ports
        && let Some(capabilities) = capabilities.as_object_mut()
    {
        capabilities.insert("add".to_owned(), json!(["NET_BIND_SERVICE"]));
    }
    let mut readiness = json!({
        "httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT},
        "periodSeconds": 5,
        "timeoutSeconds": 3,
        "failureThreshold": 4,
    });
    if let Some(readiness) = readiness.as_object_mut() {
        readiness.extend(wishes.readiness.clone());
    }
    let mut mounts = vec![
        json!({"name": "meshctl-data", "mountPath": DATA}),
        json!({"name": "meshctl-info", "mountPath": INFO, "readOnly": true}),
        json!({"name": "meshctl-token", "mountPath": TOKEN, "readOnly": true}),
        json!({"name": "meshctl-roots", "mountPath": ROOTS, "readOnly": true}),
    ];
    mounts.extend(wishes.volume_mounts.iter().cloned());
    let image = wishes.image.as_deref().unwrap_or(&config.image);
    let mut proxy = json!({
        "name": PROXY,
        "image": image,
        "command": ["meshctl"],
        "args": args(facts, wishes, settings, config),
        "env": env,
        "ports": [{"name": "mesh-health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "readinessProbe": readiness,
        "resources": resources(wishes, config),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": capabilities,
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": group,
            "runAsNonRoot": true,
            "runAsUser": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    });
    let Some(fields) = proxy.as_object_mut() else {
        return proxy;
    };
    if facts.native {
        fields.insert("restartPolicy".to_owned(), json!("Always"));
    }
    if facts.native {
        // What comes after it starts when this has passed.
        fields.insert(
            "startupProbe".to_owned(),
            json!({
                "httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT},
                "periodSeconds": 1,
                "timeoutSeconds": 3,
                "failureThreshold": 600,
            }),
        );
    }
    if facts.hold {
        fields.insert(
            "lifecycle".to_owned(),
            json!({"postStart": {"exec": {"command": ["meshctl", "pod", "wait"]}}}),
        );
    }
    proxy
}

fn args(facts: &Facts, wishes: &Wishes, settings: &Settings, config: &InjectConfig) -> Vec<String> {
    let control_plane = wishes
        .control_plane
        .as_ref()
        .unwrap_or(&config.control_plane);
    let mut args = vec![
        "proxy".to_owned(),
        format!("--service={}", facts.service),
        format!("--version={}", facts.version),
        "--name=$(POD_NAME)".to_owned(),
        "--namespace=$(POD_NAMESPACE)".to_owned(),
        "--service-account=$(POD_SERVICE_ACCOUNT)".to_owned(),
        "--address=$(POD_IPS)".to_owned(),
        "--pod".to_owned(),
        format!("--trust-domain={}", config.trust_domain),
        "--capture=transparent".to_owned(),
        format!("--control-plane={control_plane}"),
        format!("--join-file={TOKEN}/istio-token"),
        format!("--root-cert={ROOTS}/root-cert.pem"),
        format!("--labels-file={INFO}/labels"),
        format!("--inbound-port={}", config.inbound_port),
        format!("--outbound-port={}", config.outbound_port),
    ];
    if facts.status_port != OWN_STATUS_PORT {
        args.push(format!("--status-port={}", facts.status_port));
    }
    for (port, name) in &facts.ports {
        args.push(format!("--app={port}"));
        if let Some(name) = name {
            args.push(format!("--port-name={name}={port}"));
        }
    }
    if let Some(Scrape(Some(place))) = &facts.scrape {
        args.push(format!("--app-metrics={place}"));
    }
    // SIGKILL comes when the pod's time is over: all must have ended a little before.
    let linger = LINGER.min(facts.grace / 6);
    let most = facts.grace.saturating_sub(linger).saturating_sub(2).max(1);
    let drain = settings
        .drain_seconds()
        .map_or(most, |wanted| wanted.min(most));
    args.push(format!("--drain={drain}s"));
    args.push(format!("--drain-delay={linger}s"));
    args.extend(settings.args());
    args
}

fn resources(wishes: &Wishes, config: &InjectConfig) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for (name, wish, (request, limit)) in [
        ("cpu", &wishes.cpu, &config.cpu),
        ("memory", &wishes.memory, &config.memory),
    ] {
        let Resource {
            request: own_request,
            limit: own_limit,
        } = wish;
        // With one of the two given, our other one might be on the wrong side of it.
        let (request, limit) = match (own_request, own_limit) {
            (None, None) => (Some(request), Some(limit)),
            given => (given.0.as_ref(), given.1.as_ref()),
        };
        if let Some(request) = request {
            requests.insert(name.to_owned(), json!(request));
        }
        if let Some(limit) = limit {
            limits.insert(name.to_owned(), json!(limit));
        }
    }
    json!({"requests": requests, "limits": limits})
}

/// The token is readable for the proxy whatever the pod's `fsGroup` is: without one it is readable for all
/// in the pod that mount it, with one for that group, which the proxy then has too. So the pod's own
/// security context stays as it is.
pub(super) fn volumes(config: &InjectConfig) -> Vec<Value> {
    let field = |path: &str, name: &str| json!({"path": name, "fieldRef": {"fieldPath": path}});
    let [data, info, token, roots] = VOLUMES;
    vec![
        json!({"name": data, "emptyDir": {"medium": "Memory"}}),
        json!({"name": info, "downwardAPI": {"items": [
            field("metadata.labels", "labels"),
            field("metadata.annotations", "annotations"),
        ]}}),
        json!({"name": token, "projected": {"sources": [{"serviceAccountToken": {
            "path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200,
        }}]}}),
        json!({"name": roots, "configMap": {"name": config.root_config_map}}),
    ]
}

/// The TCP ports that the containers declare, with their names, in order and once.
pub(super) fn ports(template: &Value) -> Vec<(u64, Option<String>)> {
    let mut ports: Vec<(u64, Option<String>)> = template
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten()
        .filter(|port| {
            let protocol = port.get("protocol").and_then(Value::as_str);
            protocol.is_none_or(|protocol| protocol == "TCP")
        })
        .filter_map(|port| {
            let name = port.get("name").and_then(Value::as_str);
            Some((
                port.get("containerPort")?.as_u64()?,
                name.map(str::to_owned),
            ))
        })
        .collect();
    // Of two for one port the one with a name.
    ports.sort_by_key(|(port, name)| (*port, name.is_none()));
    ports.dedup_by_key(|(port, _)| *port);
    ports
}
