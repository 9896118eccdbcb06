//! Who the API server asks about pods and configuration.

use serde_json::{Value, json};

use super::{
    INJECTOR, NAME, REVISION, Settings, VALIDATOR, cluster_metadata, of_revision, settings,
};

/// The API server waits no longer. Ten is its default; a pod of ours is patched in a millisecond.
const SECONDS: u32 = 10;

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let mut all = Vec::new();
    if settings.injector {
        all.push(injector(settings));
    }
    if settings.validator {
        all.push(validator(settings));
    }
    all
}

/// Whom to ask. The authority by which the answer is believed is written by the control plane, which has it.
fn client(settings: &Settings, path: &str) -> Value {
    json!({"service": {
        "name": of_revision(NAME, &settings.revision),
        "namespace": settings.namespace,
        "path": path,
        "port": 443,
    }})
}

/// Namespaces that are never asked about: the cluster must come up without us, and we without ourselves.
fn others(settings: &Settings) -> Value {
    json!({
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["kube-node-lease", "kube-public", "kube-system", settings.namespace],
    })
}

/// Istio's order: a pod's own word goes before its namespace's, and a namespace names a revision or asks for
/// the default one. Four selectors, so that no pod is asked about twice or in vain.
fn injector(settings: &Settings) -> Value {
    let mut hooks = named(settings, &settings.revision, "", "/inject");
    for tag in &settings.tags {
        // Who asks for a name of the revision is told by the path, so that nobody need start anew for it.
        let path = format!("/inject/{tag}");
        hooks.extend(named(settings, tag, &format!("{tag}."), &path));
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": cluster_metadata(settings, &of_revision(INJECTOR, &settings.revision), NAME),
        "webhooks": hooks,
    })
}

/// Those for pods that choose `revision`, be it a name of ours or a tag.
fn named(settings: &Settings, revision: &str, mark: &str, path: &str) -> Vec<Value> {
    let is = |key: &str, values: &[&str]| json!({"key": key, "operator": "In", "values": values});
    let not =
        |key: &str, values: &[&str]| json!({"key": key, "operator": "NotIn", "values": values});
    let no = |key: &str| json!({"key": key, "operator": "DoesNotExist"});
    let (inject, enabled) = ("sidecar.istio.io/inject", "istio-injection");
    let mut hooks = vec![
        // The namespace names this revision.
        (
            "rev.namespace",
            vec![is(REVISION, &[revision]), no(enabled)],
            vec![not(inject, &["false"])],
        ),
        // Only the pod does.
        (
            "rev.object",
            vec![no(REVISION), no(enabled)],
            vec![not(inject, &["false"]), is(REVISION, &[revision])],
        ),
    ];
    if revision == settings::DEFAULT_REVISION {
        hooks.push((
            "namespace",
            vec![is(enabled, &["enabled"])],
            vec![not(inject, &["false"])],
        ));
        hooks.push((
            "object",
            vec![no(enabled), no(REVISION)],
            vec![is(inject, &["true"]), no(REVISION)],
        ));
    }
    hooks
        .into_iter()
        .map(|(name, mut namespaces, objects)| {
            namespaces.push(others(settings));
            json!({
                "name": format!("{name}.{mark}injector.meshctl.dev"),
                "admissionReviewVersions": ["v1"],
                "clientConfig": client(settings, path),
                "failurePolicy": settings.failure_policy,
                "matchPolicy": "Equivalent",
                "namespaceSelector": {"matchExpressions": namespaces},
                "objectSelector": {"matchExpressions": objects},
                "reinvocationPolicy": "IfNeeded",
                "rules": [{
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                    "scope": "Namespaced",
                }],
                "sideEffects": "None",
                "timeoutSeconds": SECONDS,
            })
        })
        .collect()
}

fn validator(settings: &Settings) -> Value {
    let rule = |group: &str, resources: &[&str]| {
        json!({
            "apiGroups": [group],
            "apiVersions": ["*"],
            "operations": ["CREATE", "UPDATE"],
            "resources": resources,
            "scope": "*",
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": cluster_metadata(settings, &of_revision(VALIDATOR, &settings.revision), NAME),
        "webhooks": [{
            "name": "validator.meshctl.dev",
            "admissionReviewVersions": ["v1"],
            "clientConfig": client(settings, "/validate"),
            "failurePolicy": settings.failure_policy,
            "matchPolicy": "Equivalent",
            "rules": [
                rule("networking.istio.io", &["*"]),
                rule("security.istio.io", &["*"]),
                rule("telemetry.istio.io", &["*"]),
                rule("gateway.networking.k8s.io", &["*"]),
                rule("policy.meshctl.dev", &["*"]),
            ],
            "sideEffects": "None",
            "timeoutSeconds": SECONDS,
        }],
    })
}
