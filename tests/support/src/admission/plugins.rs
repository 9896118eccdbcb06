//! What the server itself does to new pods: their account and its token, their priority, what they tolerate.

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::status::{Answer, Refusal};
use crate::store::{Key, Store};

const TOKENS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Looks at a new object, also when webhooks have changed it: each step finds what it did before.
pub(super) fn admit(store: &Store, kind: &Kind, object: &mut Value) -> Answer<()> {
    if kind.key() != "pods" {
        return Ok(());
    }
    account(store, object)?;
    tolerations(&mut object["spec"]);
    let spec = &mut object["spec"];
    if spec["priority"].is_null() {
        let class = spec["priorityClassName"].as_str().unwrap_or_default();
        spec["priority"] = priority(store, class)?;
        spec["preemptionPolicy"] = "PreemptLowerPriority".into();
    }
    Ok(())
}

fn priority(store: &Store, class: &str) -> Answer<Value> {
    match class {
        "" => return Ok(0.into()),
        "system-node-critical" => return Ok(2_000_001_000.into()),
        "system-cluster-critical" => return Ok(2_000_000_000.into()),
        _ => {}
    }
    let found = store.get(&Key {
        resource: "priorityclasses.scheduling.k8s.io".into(),
        namespace: String::new(),
        name: class.to_owned(),
    });
    found.map(|f| f["value"].clone()).ok_or_else(|| {
        Refusal::new(
            403,
            "Forbidden",
            format!("pods is forbidden: no PriorityClass with name {class} was found"),
        )
    })
}

fn account(store: &Store, pod: &mut Value) -> Answer<()> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let namespace = text(&pod["metadata"]["namespace"]);
    let name = match text(&pod["spec"]["serviceAccountName"]) {
        empty if empty.is_empty() => "default".to_owned(),
        name => name,
    };
    let account = store.get(&Key {
        resource: "serviceaccounts".into(),
        namespace: namespace.clone(),
        name: name.clone(),
    });
    let Some(account) = account else {
        let pod = text(&pod["metadata"]["name"]);
        return Err(Refusal::new(
            403,
            "Forbidden",
            format!(
                "pods \"{pod}\" is forbidden: error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            ),
        )
        .of("pods", "", &pod));
    };
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.into();
    let pulls = &account["imagePullSecrets"];
    if spec["imagePullSecrets"].is_null() && pulls.is_array() {
        spec["imagePullSecrets"] = pulls.clone();
    }
    let wants = match &spec["automountServiceAccountToken"] {
        Value::Null => account["automountServiceAccountToken"] != false,
        own => *own != false,
    };
    if wants {
        mount(spec);
    }
    Ok(())
}

/// The token, the cluster's root and the namespace, in every container that mounts nothing there itself.
fn mount(spec: &mut Value) {
    let listed = spec["volumes"].as_array().into_iter().flatten();
    let mut names = listed.filter_map(|v| v["name"].as_str());
    let there = names
        .find(|n| n.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let volume = there.clone().unwrap_or_else(|| {
        let letters: Vec<char> = "bcdfghjklmnpqrstvwxz2456789".chars().collect();
        let end: String = (0..5).filter_map(|_| fastrand::choice(&letters)).collect();
        format!("kube-api-access-{end}")
    });
    let mut mounted = there.is_some();
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array();
            if mounts
                .into_iter()
                .flatten()
                .any(|m| m["mountPath"] == TOKENS)
            {
                continue;
            }
            if !container["volumeMounts"].is_array() {
                container["volumeMounts"] = json!([]);
            }
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKENS}));
            }
            mounted = true;
        }
    }
    if there.is_some() || !mounted {
        return;
    }
    if !spec["volumes"].is_array() {
        spec["volumes"] = json!([]);
    }
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

fn tolerations(spec: &mut Value) {
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    let Some(list) = spec["tolerations"].as_array_mut() else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let covered = list.iter().any(|t| {
            (t["key"] == key || t["key"].is_null())
                && (t["effect"] == "NoExecute" || t["effect"].is_null())
        });
        if !covered {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}
