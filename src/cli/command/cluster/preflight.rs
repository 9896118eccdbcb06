//! Whether a cluster can take an installation.

use serde_json::Value;

use crate::api::check::{Check, CheckSection, CheckStatus};
use crate::install::{self, INJECTOR, REVISION, Settings, of_revision};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef, Place};

/// The oldest minor version that is supported: what is validated against.
const OLDEST: u32 = 30;

/// What must be so before an installation with `settings`.
pub(crate) async fn section(cluster: &Cluster, settings: &Settings) -> CheckSection {
    let mut checks = vec![version(cluster).await];
    // Without an answer the others would all say the same.
    if checks
        .iter()
        .all(|check| check.status != CheckStatus::Failed)
    {
        checks.push(permissions(cluster, settings).await);
        checks.push(namespace(cluster, settings).await);
        checks.push(injectors(cluster, settings).await);
    }
    CheckSection {
        name: format!("cluster {}", cluster.name()),
        checks,
    }
}

fn check(text: &str, status: CheckStatus, detail: String, hint: &str) -> Check {
    Check {
        text: text.to_owned(),
        status,
        detail,
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    }
}

fn well(text: &str) -> Check {
    check(text, CheckStatus::Ok, String::new(), "")
}

fn unknown(text: &str, error: &ClusterError) -> Check {
    let hint = "see whether `kubectl auth can-i --list` works";
    check(text, CheckStatus::Failed, error.to_string(), hint)
}

async fn version(cluster: &Cluster) -> Check {
    let text = "the API server answers, and is new enough";
    let found = match cluster.version().await {
        Ok(found) => found,
        Err(error) => {
            let hint = "see whether `kubectl version` works";
            return check(text, CheckStatus::Failed, error.to_string(), hint);
        }
    };
    match minor(&found) {
        Some(minor) if minor >= OLDEST => well(text),
        Some(_) => check(
            text,
            CheckStatus::Failed,
            format!("it is {found}"),
            "Kubernetes 1.30 or newer is needed",
        ),
        None => check(
            text,
            CheckStatus::Warning,
            format!("its version {found:?} is not understood"),
            "",
        ),
    }
}

/// 33 of `v1.33.1-gke.100`.
fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix('v')?.strip_prefix("1.")?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest.get(..end.unwrap_or(rest.len()))?.parse().ok()
}

async fn permissions(cluster: &Cluster, settings: &Settings) -> Check {
    let text = "everything that is installed may be made";
    let mut lacking = Vec::new();
    let mut asked: Vec<&str> = Vec::new();
    for object in install::objects(settings) {
        let which = ObjectRef::of(&object);
        let Some(place) = Place::of(&which.kind) else {
            continue;
        };
        if asked.contains(&place.plural) {
            continue;
        }
        asked.push(place.plural);
        for verb in ["get", "list", "create", "patch", "delete"] {
            match cluster.may(verb, place, which.namespace.as_deref()).await {
                Ok(true) => {}
                Ok(false) => lacking.push(format!("{verb} {}", place.plural)),
                Err(error) => return unknown(text, &error),
            }
        }
    }
    if lacking.is_empty() {
        return well(text);
    }
    check(
        text,
        CheckStatus::Failed,
        format!("not allowed: {}", lacking.join(", ")),
        "install as somebody with the ClusterRole cluster-admin",
    )
}

async fn namespace(cluster: &Cluster, settings: &Settings) -> Check {
    let text = "the system namespace is free, or ours";
    let which = ObjectRef {
        kind: "Namespace".to_owned(),
        namespace: None,
        name: settings.namespace.clone(),
    };
    let found = match cluster.get(&which).await {
        Ok(found) => found,
        Err(error) => return unknown(text, &error),
    };
    let going = found
        .as_ref()
        .is_some_and(|found| found.pointer("/metadata/deletionTimestamp").is_some());
    if going {
        return check(
            text,
            CheckStatus::Failed,
            format!("namespace {} is being deleted", settings.namespace),
            "wait until it is gone; `kubectl get namespace` says what holds it",
        );
    }
    well(text)
}

/// Who else puts sidecars into pods.
async fn injectors(cluster: &Cluster, settings: &Settings) -> Check {
    let text = "no other mesh injects the same pods";
    let found = match cluster.list("MutatingWebhookConfiguration", None, "").await {
        Ok(found) => found,
        Err(error) => return unknown(text, &error),
    };
    let own = of_revision(INJECTOR, &settings.revision);
    let names = [&settings.revision].into_iter().chain(&settings.tags);
    let others: Vec<String> = found
        .iter()
        .filter(|object| ObjectRef::of(object).name != own)
        .filter(|object| names.clone().any(|name| injects(object, name)))
        .map(|object| ObjectRef::of(object).name)
        .collect();
    if others.is_empty() || !settings.injector {
        return well(text);
    }
    check(
        text,
        CheckStatus::Failed,
        format!(
            "{} {} the namespaces and pods that this one would",
            others.join(", "),
            if others.len() == 1 {
                "injects"
            } else {
                "inject"
            }
        ),
        "install beside it with --revision NAME, and label namespaces istio.io/rev=NAME instead of istio-injection",
    )
}

/// Whether a configuration is about pods that name `revision`, or, for the default one, none.
fn injects(object: &Value, revision: &str) -> bool {
    let hooks = object.get("webhooks").and_then(Value::as_array);
    hooks.into_iter().flatten().any(|hook| {
        let about_pods = hook["rules"].as_array().into_iter().flatten().any(|rule| {
            let resources = rule["resources"].as_array();
            resources.is_some_and(|resources| resources.iter().any(|one| one == "pods"))
        });
        let says = |key: &str, value: &str| {
            ["namespaceSelector", "objectSelector"]
                .iter()
                .any(|selector| {
                    let selector = hook.get(*selector).unwrap_or(&Value::Null);
                    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
                    let labels = selector
                        .get("matchLabels")
                        .and_then(|labels| labels.get(key));
                    labels.is_some_and(|label| label == value)
                        || expressions.into_iter().flatten().any(|one| {
                            let values = one["values"].as_array();
                            one["key"] == key
                                && one["operator"] == "In"
                                && values
                                    .is_some_and(|values| values.iter().any(|one| one == value))
                        })
                })
        };
        let same = says(REVISION, revision);
        let default = revision == "default" && says("istio-injection", "enabled");
        about_pods && (same || default)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_versions_are_read_from_what_vendors_write() {
        for (text, expected) in [
            ("v1.33.1", Some(33)),
            ("v1.30.0+k3s1", Some(30)),
            ("v1.29.8-gke.1211000", Some(29)),
            ("v1.36", Some(36)),
            ("v2.0.0", None),
            ("", None),
        ] {
            assert_eq!(minor(text), expected, "{text}");
        }
    }

    #[test]
    fn an_injector_of_the_same_pods_is_known_by_its_selectors() {
        for (revision, ours) in [("default", true), ("next", false)] {
            let mut settings = Settings::new(install::Profile::Default);
            "default".clone_into(&mut settings.revision);
            let all = install::objects(&settings);
            let injector = all
                .iter()
                .find(|object| object["kind"] == "MutatingWebhookConfiguration");
            assert_eq!(injects(injector.unwrap(), revision), ours);
        }
        let validator = serde_json::json!({"webhooks": [{
            "rules": [{"resources": ["pods"]}],
            "namespaceSelector": {"matchLabels": {"policy": "on"}},
        }]});
        assert!(!injects(&validator, "default"));
    }
}
