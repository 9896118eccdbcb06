//! Putting the sidecar in.

use serde_json::{Map, Value, json};

use super::capture::{Exclusions, PROXY_USER, rules};
use super::proxy_config::Settings;
use super::strip::{STATUS, Status, strip};
use super::{InjectConfig, Report, Target};
use crate::mesh::Severity;

const PROXY: &str = "meshctl-proxy";
const INIT: &str = "meshctl-init";
const VOLUME: &str = "meshctl-data";
const DATA: &str = "/var/lib/meshctl";
const OPT: &str = "sidecar.istio.io/inject";
const TRAFFIC: &str = "traffic.sidecar.istio.io/";
/// Where the proxy says that it is ready (Istio's port).
const HEALTH_PORT: u16 = 15021;

pub(super) fn inject(pod: Target<'_>, config: &InjectConfig, report: &mut Report) {
    let Target {
        template,
        owner,
        namespace,
    } = pod;
    if opted_out(template) {
        return;
    }
    if template.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        report.add(
            Severity::Error,
            "a pod on the host's network cannot have a sidecar: it would capture the whole machine"
                .to_owned(),
            "remove hostNetwork, or opt out with the label sidecar.istio.io/inject: \"false\"",
        );
        return;
    }
    strip(template);
    if !sound(template, report) {
        return;
    }
    probes(template, report);
    ends(template, config, report);
    let except = exclusions(template, report);
    let mut status = Status::default();
    let namespace = Some(namespace).filter(|name| !name.is_empty());
    let namespace = namespace.as_deref().unwrap_or("default");
    let settings = Settings::of(template, namespace, &config.proxies, report);
    let proxy = proxy(template, &owner, &settings, config);
    let init = init(config, &except);
    metadata(template, &owner, &mut status);
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let volume = json!({"name": VOLUME, "emptyDir": {"medium": "Memory"}});
    append(spec, "volumes", vec![volume], &mut status);
    status.volumes = vec![VOLUME.to_owned()];
    status.init_containers = vec![INIT.to_owned()];
    if config.native_sidecar {
        status.init_containers.push(PROXY.to_owned());
        // Before the others, so that these already have the mesh.
        let mut all = vec![init, proxy];
        append(spec, "initContainers", Vec::new(), &mut status);
        if let Some(Value::Array(list)) = spec.get_mut("initContainers") {
            all.append(list);
            *list = all;
        }
    } else {
        status.containers = vec![PROXY.to_owned()];
        // After the others: once capture is on, nothing gets through before the proxy runs.
        append(spec, "initContainers", vec![init], &mut status);
        append(spec, "containers", vec![proxy], &mut status);
    }
    let text = serde_json::to_string(&status).unwrap_or_default();
    if let Some(Value::Object(annotations)) = template.pointer_mut("/metadata/annotations") {
        annotations.insert(STATUS.to_owned(), Value::String(text));
    }
}

/// The label beats the annotation, as with Istio.
fn opted_out(template: &Value) -> bool {
    let said = |field: &str| template.get("metadata")?.get(field)?.get(OPT);
    match said("labels").or_else(|| said("annotations")) {
        Some(Value::String(text)) => matches!(text.as_str(), "false" | "no" | "off" | "n"),
        Some(Value::Bool(wanted)) => !wanted,
        _ => false,
    }
}

fn sound(template: &Value, report: &mut Report) -> bool {
    let containers = template.pointer("/spec/containers");
    if containers
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        report.add(
            Severity::Error,
            "the pod has no containers".to_owned(),
            "containers: [{name: app, image: …}]",
        );
        return false;
    }
    for field in ["metadata", "metadata/labels", "metadata/annotations"] {
        let value = template.pointer(&format!("/{field}"));
        if value.is_some_and(|value| !value.is_object() && !value.is_null()) {
            report.add(
                Severity::Error,
                format!("{} is not a mapping", field.replace('/', ".")),
                "write it as key: value",
            );
            return false;
        }
    }
    for field in ["initContainers", "containers", "volumes"] {
        let value = template.pointer(&format!("/spec/{field}"));
        if value.is_some_and(|value| !value.is_array() && !value.is_null()) {
            report.add(
                Severity::Error,
                format!("spec.{field} is not a list"),
                "write its items with a dash",
            );
            return false;
        }
        let taken = value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|item| {
                let name = item.get("name").and_then(Value::as_str);
                matches!(name, Some(PROXY | INIT | VOLUME))
            });
        if taken {
            report.add(
                Severity::Error,
                format!("spec.{field} has a name that the sidecar needs ({PROXY}, {INIT} or {VOLUME})"),
                "give it another name, or keep the annotation sidecar.istio.io/status that says who added it",
            );
            return false;
        }
    }
    true
}

/// The kubelet has no certificate of the mesh.
fn probes(template: &Value, report: &mut Report) {
    let containers = template
        .pointer("/spec/containers")
        .and_then(Value::as_array);
    let asks = |container: &&Value| {
        ["readinessProbe", "livenessProbe", "startupProbe"]
            .iter()
            .filter_map(|field| container.get(*field))
            .any(|probe| probe.get("exec").is_none())
    };
    if let Some(container) = containers.into_iter().flatten().find(asks) {
        let name = container.get("name").and_then(Value::as_str);
        report.add(
            Severity::Warning,
            format!(
                "probes of container {:?} are not rewritten yet: under mTLS STRICT the kubelet's questions are refused",
                name.unwrap_or_default()
            ),
            "probe with exec, or exclude the probe's port with traffic.sidecar.istio.io/excludeInboundPorts",
        );
    }
}

/// A job ends when its containers do, and a proxy beside them does not.
fn ends(template: &Value, config: &InjectConfig, report: &mut Report) {
    let policy = template
        .pointer("/spec/restartPolicy")
        .and_then(Value::as_str);
    if matches!(policy, Some("Never" | "OnFailure")) && !config.native_sidecar {
        report.add(
            Severity::Warning,
            "a pod that is meant to end does not while its proxy runs".to_owned(),
            "make the proxy a native sidecar, which ends with the pod (Kubernetes 1.29)",
        );
    }
}

fn exclusions(template: &Value, report: &mut Report) -> Exclusions {
    let mut except = Exclusions::default();
    let annotations = template
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(TRAFFIC) else {
            continue;
        };
        let text = value.as_str().unwrap_or_default();
        let parts = || {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
        };
        let ports: Result<Vec<u16>, _> = parts().map(str::parse).collect();
        let ranges: Result<Vec<ipnet::IpNet>, _> = parts().map(str::parse).collect();
        let read = match (name, ports, ranges) {
            ("excludeInboundPorts", Ok(ports), _) => {
                except.inbound_ports = ports;
                true
            }
            ("excludeOutboundPorts", Ok(ports), _) => {
                except.outbound_ports = ports;
                true
            }
            ("excludeOutboundIPRanges", _, Ok(ranges)) => {
                except.outbound_ranges = ranges;
                true
            }
            ("includeInboundPorts" | "includeOutboundIPRanges", _, _) if text == "*" => true,
            _ => false,
        };
        if !read {
            report.add(
                Severity::Error,
                format!("annotation {key}: {text:?} is not honoured by meshctl"),
                "excludeInboundPorts, excludeOutboundPorts (ports) and excludeOutboundIPRanges (CIDRs) are",
            );
        }
    }
    except
}

fn label<'a>(template: &'a Value, names: &[&str]) -> Option<&'a str> {
    let labels = template.get("metadata")?.get("labels")?;
    names.iter().find_map(|name| labels.get(*name)?.as_str())
}

/// Istio's canonical service of a pod.
fn service<'a>(template: &'a Value, owner: &'a str) -> &'a str {
    let names = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    label(template, &names).unwrap_or(owner)
}

/// Istio's canonical revision of a pod.
fn revision(template: &Value) -> &str {
    let names = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    label(template, &names).unwrap_or("latest")
}

fn metadata(template: &mut Value, owner: &str, status: &mut Status) {
    let add_labels = [
        ("security.istio.io/tlsMode", "istio".to_owned()),
        (
            "service.istio.io/canonical-name",
            service(template, owner).to_owned(),
        ),
        (
            "service.istio.io/canonical-revision",
            revision(template).to_owned(),
        ),
    ];
    let first = template
        .pointer("/spec/containers/0/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let add_annotations = [
        ("kubectl.kubernetes.io/default-container", first),
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", "15020".to_owned()),
        ("prometheus.io/path", "/stats/prometheus".to_owned()),
    ];
    let Some(template) = template.as_object_mut() else {
        return;
    };
    let metadata = object(template, "metadata", status);
    let labels = object(metadata, "labels", status);
    status.labels = insert(labels, &add_labels);
    let annotations = object(metadata, "annotations", status);
    status.annotations = insert(annotations, &add_annotations);
}

/// Adds what is not there yet; the names of what was added.
fn insert(map: &mut Map<String, Value>, add: &[(&str, String)]) -> Vec<String> {
    let mut added = Vec::new();
    for (key, value) in add {
        if !map.contains_key(*key) {
            map.insert((*key).to_owned(), Value::String(value.clone()));
            added.push((*key).to_owned());
        }
    }
    added
}

/// The mapping under `field`, made if it is not there.
fn object<'a>(
    parent: &'a mut Map<String, Value>,
    field: &str,
    status: &mut Status,
) -> &'a mut Map<String, Value> {
    let entry = parent.entry(field).or_insert_with(|| {
        status.created.push(field.to_owned());
        json!({})
    });
    if !entry.is_object() {
        *entry = json!({});
    }
    match entry {
        Value::Object(map) => map,
        // Made an object just above.
        _ => unreachable!("a mapping"),
    }
}

fn append(spec: &mut Map<String, Value>, field: &str, mut items: Vec<Value>, status: &mut Status) {
    let entry = spec.entry(field).or_insert_with(|| {
        status.created.push(field.to_owned());
        json!([])
    });
    if entry.is_null() {
        *entry = json!([]);
    }
    if let Value::Array(list) = entry {
        list.append(&mut items);
    }
}

fn init(config: &InjectConfig, except: &Exclusions) -> Value {
    json!({
        "name": INIT,
        "image": config.image,
        "command": ["nft", rules(config, except)],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    })
}

fn proxy(template: &Value, owner: &str, settings: &Settings, config: &InjectConfig) -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let account = template
        .pointer("/spec/serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or("default");
    let mut args: Vec<String> = [
        "proxy",
        "--service",
        service(template, owner),
        "--version",
        revision(template),
        "--name=$(POD_NAME)",
        "--namespace=$(POD_NAMESPACE)",
        "--service-account",
        account,
        "--address=$(POD_IP)",
        "--capture=transparent",
        "--control-plane",
        &config.control_plane,
        "--inbound-port",
        &config.inbound_port.to_string(),
        "--outbound-port",
        &config.outbound_port.to_string(),
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    for port in ports(template) {
        args.push(format!("--app={port}=127.0.0.1:{port}"));
    }
    let labels = template
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        if let Some(value) = value.as_str().filter(|value| !value.contains(',')) {
            args.push(format!("--labels={key}={value}"));
        }
    }
    args.extend(settings.args());
    let mut proxy = json!({
        "name": PROXY,
        "image": config.image,
        "command": ["meshctl"],
        "args": args,
        "env": [
            {"name": "POD_NAME", "valueFrom": field("metadata.name")},
            {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
            {"name": "POD_IP", "valueFrom": field("status.podIP")},
            {"name": "MESHCTL_HOME", "value": DATA},
            {"name": "MESHCTL_JOIN_TOKEN", "valueFrom": {
                "secretKeyRef": {"name": "meshctl-join", "key": "token", "optional": true},
            }},
        ],
        "ports": [{"name": "mesh-health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 4,
        },
        "resources": {
            "requests": {"cpu": config.cpu.0, "memory": config.memory.0},
            "limits": {"cpu": config.cpu.1, "memory": config.memory.1},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": PROXY_USER,
            "runAsGroup": PROXY_USER,
        },
        "volumeMounts": [{"name": VOLUME, "mountPath": DATA}],
    });
    if let Some(Value::Array(env)) = proxy.get_mut("env") {
        let taken: Vec<String> = env
            .iter()
            .filter_map(|variable| Some(variable.get("name")?.as_str()?.to_owned()))
            .collect();
        let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
        env.extend(settings.env(&taken));
    }
    if config.native_sidecar
        && let Some(proxy) = proxy.as_object_mut()
    {
        proxy.insert("restartPolicy".to_owned(), json!("Always"));
    }
    proxy
}

/// The TCP ports that the containers declare, in order and once.
fn ports(template: &Value) -> Vec<u64> {
    let mut ports: Vec<u64> = template
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
        .filter_map(|port| port.get("containerPort")?.as_u64())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
