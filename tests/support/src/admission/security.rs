//! Pod security: what the label `pod-security.kubernetes.io/enforce` of a namespace demands of its pods.

use serde_json::Value;

use crate::status::{Answer, Refusal};
use crate::store::{Key, Store};

/// What a container may add and be no danger.
const HARMLESS: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Volumes that hold nothing of the node.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
];

/// Refuses a new pod that its namespace does not want.
pub(super) fn admit(store: &Store, pod: &Value) -> Answer<()> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let meta = &pod["metadata"];
    let namespace = store.get(&Key {
        resource: "namespaces".into(),
        namespace: String::new(),
        name: text(&meta["namespace"]),
    });
    let Some(namespace) = namespace else {
        return Ok(());
    };
    let level = text(&namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]);
    let mut broken = Vec::new();
    if matches!(level.as_str(), "baseline" | "restricted") {
        baseline(&pod["spec"], &mut broken);
    }
    if level == "restricted" {
        restricted(&pod["spec"], &mut broken);
    }
    if broken.is_empty() {
        return Ok(());
    }
    let name = text(&meta["name"]);
    Err(Refusal::new(
        403,
        "Forbidden",
        format!(
            "pods \"{name}\" is forbidden: violates PodSecurity \"{level}:latest\": {}",
            broken.join(", ")
        ),
    )
    .of("pods", "", &name))
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .filter_map(|list| spec[list].as_array())
        .flatten()
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn baseline(spec: &Value, broken: &mut Vec<String>) {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            broken.push(format!("host namespaces ({field}=true)"));
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if volume["hostPath"].is_object() {
            broken.push(format!("hostPath volumes (volume {})", volume["name"]));
        }
    }
    for container in containers(spec) {
        let (name, context) = (&container["name"], &container["securityContext"]);
        if context["privileged"] == true {
            broken.push(format!(
                "privileged (container {name} must not set securityContext.privileged=true)"
            ));
        }
        for added in words(&context["capabilities"]["add"]) {
            if !HARMLESS.contains(&added) {
                broken.push(format!("non-default capabilities (container {name} must not include \"{added}\" in securityContext.capabilities.add)"));
            }
        }
        let ports = container["ports"].as_array().into_iter().flatten();
        for port in ports.filter(|p| p["hostPort"].as_i64().unwrap_or(0) != 0) {
            broken.push(format!(
                "hostPort (container {name} uses hostPort {})",
                port["hostPort"]
            ));
        }
    }
}

fn restricted(spec: &Value, broken: &mut Vec<String>) {
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().into_iter().flatten();
        for (kind, _) in kinds.filter(|(kind, _)| *kind != "name") {
            if !VOLUMES.contains(&kind.as_str()) {
                broken.push(format!(
                    "restricted volume types (volume {} uses restricted volume type \"{kind}\")",
                    volume["name"]
                ));
            }
        }
    }
    let all = &spec["securityContext"];
    for container in containers(spec) {
        let (name, own) = (&container["name"], &container["securityContext"]);
        if own["allowPrivilegeEscalation"] != false {
            broken.push(format!("allowPrivilegeEscalation != false (container {name} must set securityContext.allowPrivilegeEscalation=false)"));
        }
        if !words(&own["capabilities"]["drop"]).any(|c| c == "ALL") {
            broken.push(format!("unrestricted capabilities (container {name} must set securityContext.capabilities.drop=[\"ALL\"])"));
        }
        if words(&own["capabilities"]["add"]).any(|c| c != "NET_BIND_SERVICE") {
            broken.push(format!(
                "unrestricted capabilities (container {name} must not add any but NET_BIND_SERVICE)"
            ));
        }
        let either = |field: &str| match &own[field] {
            Value::Null => all[field].clone(),
            own => own.clone(),
        };
        if either("runAsNonRoot") != true {
            broken.push(format!("runAsNonRoot != true (pod or container {name} must set securityContext.runAsNonRoot=true)"));
        }
        if either("runAsUser") == 0 {
            broken.push(format!(
                "runAsUser=0 (container {name} must not set runAsUser=0)"
            ));
        }
        if !matches!(
            either("seccompProfile")["type"].as_str(),
            Some("RuntimeDefault" | "Localhost")
        ) {
            broken.push(format!("seccompProfile (pod or container {name} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{baseline, restricted};

    #[test]
    fn each_level_names_what_it_forbids() {
        let spec = json!({
            "hostNetwork": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}}],
        });
        let (mut low, mut high) = (Vec::new(), Vec::new());
        baseline(&spec, &mut low);
        restricted(&spec, &mut high);
        assert_eq!((low.len(), high.len()), (4, 6), "{low:?} {high:?}");
        let good = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        });
        let mut none = Vec::new();
        baseline(&good, &mut none);
        restricted(&good, &mut none);
        assert_eq!(none, Vec::<String>::new());
    }
}
