//! What an installation in a cluster consists of: settings in, objects out.
//!
//! Owns the names of everything that is installed, what it may do (roles), and how it is run. Pure: the same
//! settings give the same objects, in the order in which they are to be applied, so that what a dry run
//! prints is what an installation applies. Leaves to others: talking to the API server
//! (`source::kubernetes`), pods of applications (`inject`), and what the control plane writes once it runs
//! (its authority's key, root certificates, the authorities of webhooks).

mod control_plane;
pub mod crd;
pub mod deployed;
mod gateways;
mod rbac;
mod settings;
mod webhooks;

use serde_json::{Map, Value, json};

use crate::resource::json::set;

pub use rbac::{Permission, permissions};
pub use settings::{KEYS, Profile, SettingError, Settings};

/// The name of nearly everything that is installed.
pub const NAME: &str = "meshctl";
/// Where a control plane is installed unless said otherwise.
pub const SYSTEM_NAMESPACE: &str = "meshctl-system";
/// ConfigMap in every namespace with the roots that proxies believe, under [`ROOT_KEY`].
pub const ROOTS: &str = "meshctl-ca-root-cert";
/// The file in [`ROOTS`] (Istio's name).
pub const ROOT_KEY: &str = "root-cert.pem";
/// Secret with the mesh's own authority, in the layout of Istio's `cacerts`.
pub const AUTHORITY: &str = "meshctl-ca";
/// Secret with an authority that somebody brought along; it goes before [`AUTHORITY`] (Istio's name).
pub const PLUGGED: &str = "cacerts";
/// The file in the ConfigMap [`NAME`] with the settings of the installation.
pub const SETTINGS_FILE: &str = "settings.json";
/// Lease of the replica that writes.
pub const LEASE: &str = "meshctl-leader";
/// MutatingWebhookConfiguration by which pods get their sidecar.
pub const INJECTOR: &str = "meshctl-injector";
/// ValidatingWebhookConfiguration by which wrong configuration is refused.
pub const VALIDATOR: &str = "meshctl-validator";
/// Where the webhooks are asked.
pub const WEBHOOK_PORT: u16 = 15_017;
/// Port on loopback of the control plane's pods where its API is served to who comes by port-forward.
pub const API_PORT: u16 = 15_081;
/// Whom tokens for the API must be made for.
pub const API_AUDIENCE: &str = "meshctl-api";
/// Service account whose tokens let look.
pub const VIEWER: &str = "meshctl-viewer";
/// Service account whose tokens let change.
pub const OPERATOR: &str = "meshctl-operator";
/// ClusterRole to read Secrets that gateways show; bound everywhere unless told otherwise.
pub const GATEWAY_SECRETS: &str = "meshctl-gateway-secrets";
/// ClusterRole to make Deployments of Gateways.
pub const GATEWAY_DEPLOYMENTS: &str = "meshctl-gateway-deployments";
/// Which revision an object is of (Istio's name).
pub const REVISION: &str = "istio.io/rev";

/// Label of what the control plane writes, which is not there in what an installation applies.
pub const WRITTEN: &str = "meshctl.dev/written-by";

/// A name of the revision: bare for the default one.
pub fn of_revision(name: &str, revision: &str) -> String {
    match revision {
        settings::DEFAULT_REVISION => name.to_owned(),
        revision => format!("{name}-{revision}"),
    }
}

/// Selects the objects of a revision, by their labels.
pub fn selector(revision: &str) -> String {
    format!("app.kubernetes.io/managed-by={NAME},{REVISION}={revision}")
}

/// Whether the control plane wrote `object`, rather than an installation.
pub fn is_written(object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    labels.is_some_and(|labels| labels.get(WRITTEN).is_some())
}

/// Everything that is applied for `settings`, in order: what others need first.
pub fn objects(settings: &Settings) -> Vec<Value> {
    let mut all = vec![namespace(settings)];
    all.extend(definitions(settings));
    all.extend(rbac::objects(settings));
    all.extend(control_plane::objects(settings));
    all.extend(gateways::objects(settings));
    // Last: a webhook that nobody answers yet would refuse the pods that are to answer it.
    all.extend(webhooks::objects(settings));
    all
}

/// Definitions of kinds. Revisions share them, so they are of none.
fn definitions(settings: &Settings) -> Vec<Value> {
    let mut own = labels(settings, NAME);
    own.remove(REVISION);
    let mut all = crd::crds();
    for definition in &mut all {
        let Some(metadata) = definition.get_mut("metadata") else {
            continue;
        };
        let there = metadata.get("labels").and_then(Value::as_object).cloned();
        let mut labels = there.unwrap_or_default();
        labels.extend(own.clone());
        set(metadata, "labels", labels);
    }
    all
}

/// Whether an installation applied `object`: others may have the same kinds.
pub fn is_ours(object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    labels.is_some_and(|labels| labels.get("app.kubernetes.io/managed-by") == Some(&json!(NAME)))
}

fn namespace(settings: &Settings) -> Value {
    let mut labels = labels(settings, NAME);
    // Revisions share it, so it is of none.
    labels.remove(REVISION);
    for (key, value) in [
        // What runs here needs no more, so nobody else gets more either.
        ("pod-security.kubernetes.io/enforce", "restricted"),
        // The control plane and gateways are proxies or their masters.
        ("istio-injection", "disabled"),
    ] {
        labels.insert(key.to_owned(), json!(value));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": settings.namespace, "labels": labels},
    })
}

/// Labels of an object that is part of `component`.
fn labels(settings: &Settings, component: &str) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, value) in [
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/managed-by", NAME),
        ("app.kubernetes.io/name", NAME),
        ("app.kubernetes.io/part-of", NAME),
        ("app.kubernetes.io/version", env!("CARGO_PKG_VERSION")),
        (REVISION, settings.revision.as_str()),
    ] {
        labels.insert(key.to_owned(), json!(value));
    }
    labels
}

/// `metadata` of an object in the system namespace.
fn metadata(settings: &Settings, name: &str, component: &str) -> Value {
    json!({
        "name": name,
        "namespace": settings.namespace,
        "labels": labels(settings, component),
    })
}

/// `metadata` of an object of the whole cluster.
fn cluster_metadata(settings: &Settings, name: &str, component: &str) -> Value {
    json!({"name": name, "labels": labels(settings, component)})
}

/// What Pod Security's level `restricted` asks of a container.
fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
    })
}

/// And of a pod. The user is Istio's number for proxies, which any image has room for.
fn pod_security() -> Value {
    json!({
        "fsGroup": 1337,
        "runAsGroup": 1337,
        "runAsNonRoot": true,
        "runAsUser": 1337,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Replicas are on different nodes where there are several.
fn spread(selector: &Value) -> Value {
    json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": selector},
            "topologyKey": "kubernetes.io/hostname",
        },
    }]}})
}

#[cfg(test)]
mod tests;
