//! What an object gets that its writer left out.

use serde_json::{Value, json};

use crate::kinds::Kind;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object[field].is_null() {
        object[field] = value.into();
    }
}

/// Drops what the kind does not have, and fills in the defaults that clients read. `now` is empty but for new
/// objects.
pub fn default(kind: &Kind, object: &mut Value, now: &str) {
    crate::validation::drop_unknown(kind, object);
    if let Some(version) = &kind.custom {
        crate::schema::default(&version["schema"]["openAPIV3Schema"], object);
        return;
    }
    match kind.key().as_str() {
        "namespaces" => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            or(&mut object["spec"], "finalizers", json!(["kubernetes"]));
            or(&mut object["status"], "phase", "Active");
        }
        "secrets" => {
            or(object, "type", "Opaque");
            if let Some(plain) = object
                .as_object_mut()
                .and_then(|o| o.shift_remove("stringData"))
            {
                for (name, value) in plain.as_object().into_iter().flatten() {
                    use base64::Engine as _;
                    let bytes = text(value).as_bytes();
                    object["data"][name.as_str()] = base64::engine::general_purpose::STANDARD
                        .encode(bytes)
                        .into();
                }
            }
        }
        "services" => service(object),
        "pods" => {
            pod(&mut object["spec"]);
            or(&mut object["status"], "phase", "Pending");
            or(&mut object["status"], "qosClass", "BestEffort");
        }
        "deployments.apps" => {
            let spec = &mut object["spec"];
            or(spec, "replicas", 1);
            or(spec, "revisionHistoryLimit", 10);
            or(spec, "progressDeadlineSeconds", 600);
            or(
                spec,
                "strategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
            );
            template(spec);
            or(object, "status", json!({}));
        }
        "replicasets.apps" | "statefulsets.apps" => {
            or(&mut object["spec"], "replicas", 1);
            template(&mut object["spec"]);
            or(&mut object["status"], "replicas", 0);
        }
        "daemonsets.apps" => {
            template(&mut object["spec"]);
            or(&mut object["spec"], "revisionHistoryLimit", 10);
            or(
                &mut object["spec"],
                "updateStrategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
            );
        }
        "jobs.batch" => job(object),
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            let mutating = kind.kind.starts_with("Mutating");
            for hook in object
                .get_mut("webhooks")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                or(hook, "failurePolicy", "Fail");
                or(hook, "matchPolicy", "Equivalent");
                or(hook, "namespaceSelector", json!({}));
                or(hook, "objectSelector", json!({}));
                or(hook, "timeoutSeconds", 10);
                if mutating {
                    or(hook, "reinvocationPolicy", "Never");
                }
                if hook["clientConfig"]["service"].is_object() {
                    or(&mut hook["clientConfig"]["service"], "port", 443);
                }
                for rule in hook
                    .get_mut("rules")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    or(rule, "scope", "*");
                }
            }
        }
        "customresourcedefinitions.apiextensions.k8s.io" => {
            let names = &mut object["spec"]["names"];
            let kind = text(&names["kind"]).to_owned();
            or(names, "singular", kind.to_lowercase());
            or(names, "listKind", format!("{kind}List"));
            or(
                &mut object["spec"],
                "conversion",
                json!({"strategy": "None"}),
            );
            let stored = object["spec"]["versions"]
                .as_array()
                .and_then(|v| v.iter().find(|v| v["storage"] == true))
                .map_or(Value::Null, |v| v["name"].clone());
            let names = object["spec"]["names"].clone();
            let time = if now.is_empty() {
                object["metadata"]["creationTimestamp"].clone()
            } else {
                now.into()
            };
            let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": time});
            object["status"] = json!({
                "conditions": [
                    condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                    condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
                ],
                "acceptedNames": names, "storedVersions": [stored],
            });
        }
        _ => {}
    }
}

fn service(object: &mut Value) {
    let spec = &mut object["spec"];
    or(spec, "type", "ClusterIP");
    or(spec, "sessionAffinity", "None");
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        or(port, "protocol", "TCP");
        let number = port["port"].clone();
        or(port, "targetPort", number);
    }
    if spec["type"] != "ExternalName" && text(&spec["clusterIP"]).is_empty() {
        let address = format!("10.96.{}.{}", fastrand::u8(..), fastrand::u8(1..255));
        spec["clusterIP"] = address.into();
    }
    if spec["type"] != "ExternalName" {
        let address = spec["clusterIP"].clone();
        or(spec, "clusterIPs", json!([address]));
        or(spec, "ipFamilies", json!(["IPv4"]));
        or(spec, "ipFamilyPolicy", "SingleStack");
        or(spec, "internalTrafficPolicy", "Cluster");
    }
    or(&mut object["status"], "loadBalancer", json!({}));
}

/// Fields of the pod are named in a version.
fn references(items: Option<&mut Value>) {
    let items = items.and_then(Value::as_array_mut);
    for item in items.into_iter().flatten() {
        if let Some(field) = item.get_mut("fieldRef") {
            or(field, "apiVersion", "v1");
        }
    }
}

fn pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    if spec["serviceAccountName"].is_string() {
        let account = spec["serviceAccountName"].clone();
        or(spec, "serviceAccount", account);
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for source in ["secret", "configMap", "downwardAPI", "projected"] {
            if volume[source].is_object() {
                or(&mut volume[source], "defaultMode", 420);
            }
        }
        let plain = volume.pointer_mut("/downwardAPI/items");
        references(plain);
        let items = volume
            .get_mut("projected")
            .and_then(|p| p.get_mut("sources"))
            .and_then(Value::as_array_mut);
        for source in items.into_iter().flatten() {
            if source["serviceAccountToken"].is_object() {
                or(
                    &mut source["serviceAccountToken"],
                    "expirationSeconds",
                    3600,
                );
            }
        }
    }
    or(spec, "restartPolicy", "Always");
    or(spec, "terminationGracePeriodSeconds", 30);
    or(spec, "dnsPolicy", "ClusterFirst");
    or(spec, "securityContext", json!({}));
    or(spec, "schedulerName", "default-scheduler");
    let spec_host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let newest = text(&container["image"]).ends_with(":latest")
                || !text(&container["image"]).contains([':', '@']);
            let policy = if newest { "Always" } else { "IfNotPresent" };
            or(container, "imagePullPolicy", policy);
            or(container, "resources", json!({}));
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let Some(probe) = container.get_mut(probe).filter(|p| p.is_object()) else {
                    continue;
                };
                or(probe, "timeoutSeconds", 1);
                or(probe, "periodSeconds", 10);
                or(probe, "successThreshold", 1);
                or(probe, "failureThreshold", 3);
                if let Some(get) = probe.get_mut("httpGet") {
                    or(get, "path", "/");
                    or(get, "scheme", "HTTP");
                }
                if let Some(grpc) = probe.get_mut("grpc") {
                    or(grpc, "service", "");
                }
            }
            for env in container
                .get_mut("env")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(field) = env.pointer_mut("/valueFrom/fieldRef") {
                    or(field, "apiVersion", "v1");
                }
            }
            or(container, "terminationMessagePath", "/dev/termination-log");
            or(container, "terminationMessagePolicy", "File");
            for port in container
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                or(port, "protocol", "TCP");
                if spec_host_network {
                    let number = port["containerPort"].clone();
                    or(port, "hostPort", number);
                }
            }
        }
    }
}

/// A job selects its pods by its own identity, which is there once it has one.
fn job(object: &mut Value) {
    let spec = &mut object["spec"];
    or(spec, "parallelism", 1);
    or(spec, "completions", 1);
    or(spec, "backoffLimit", 6);
    or(spec, "completionMode", "NonIndexed");
    or(spec, "suspend", false);
    template(spec);
    let (uid, name) = (
        object["metadata"]["uid"].clone(),
        object["metadata"]["name"].clone(),
    );
    if !uid.is_string() {
        return;
    }
    let spec = &mut object["spec"];
    or(
        spec,
        "selector",
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
    let labels = &mut spec["template"]["metadata"]["labels"];
    for prefix in ["batch.kubernetes.io/", ""] {
        or(labels, &format!("{prefix}controller-uid"), uid.clone());
        or(labels, &format!("{prefix}job-name"), name.clone());
    }
}

fn template(spec: &mut Value) {
    if let Some(inner) = spec.pointer_mut("/template/spec") {
        pod(inner);
    }
}
