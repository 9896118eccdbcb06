//! Probes and hooks of the kubelet, which has no certificate of the mesh: asked of the proxy instead, which
//! asks the application over loopback.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::report::Report;

const PROBES: [(&str, &str); 3] = [
    ("readinessProbe", "readyz"),
    ("livenessProbe", "livez"),
    ("startupProbe", "startupz"),
];
const HOOKS: [(&str, &str); 2] = [("postStart", "poststartz"), ("preStop", "prestopz")];
const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// What was asked of applications before.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// Path at the proxy → the question, in the words of Kubernetes with its port as a number.
    pub(super) questions: Map<String, Value>,
    /// `LIST/CONTAINER/FIELD` → what was there.
    pub(super) before: BTreeMap<String, Value>,
}

/// Paths at the proxy begin with one of these.
const PATHS: [&str; 2] = ["/app-health/", "/app-lifecycle/"];

/// Rewrites all probes by HTTP, TCP and gRPC, and hooks by HTTP, of all containers but `ours`, to be asked of
/// the proxy at `at`.
pub(super) fn rewrite(
    spec: &mut Map<String, Value>,
    (ours, at): (&[&str], u16),
    report: &mut Report,
) -> Rewritten {
    let mut done = Rewritten::default();
    for list in CONTAINERS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let name = container.get("name").and_then(Value::as_str);
            let name = name.unwrap_or_default().to_owned();
            if ours.contains(&name.as_str()) {
                continue;
            }
            let ports = container.get("ports").cloned().unwrap_or_default();
            for (field, word) in PROBES {
                let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) else {
                    continue;
                };
                let place = format!("{list}/{name}/{field}");
                let path = format!("/app-health/{name}/{word}");
                one(probe, (place, path, at), &ports, &mut done, report);
            }
            let hooks = container
                .get_mut("lifecycle")
                .and_then(Value::as_object_mut);
            let Some(hooks) = hooks else { continue };
            for (field, word) in HOOKS {
                let Some(hook) = hooks.get_mut(field).and_then(Value::as_object_mut) else {
                    continue;
                };
                let place = format!("{list}/{name}/{field}");
                let path = format!("/app-lifecycle/{name}/{word}");
                one(hook, (place, path, at), &ports, &mut done, report);
            }
        }
    }
    done
}

fn one(
    probe: &mut Map<String, Value>,
    (place, path, at): (String, String, u16),
    ports: &Value,
    done: &mut Rewritten,
    report: &mut Report,
) {
    let Some(kind) = ["httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .find(|kind| probe.get(*kind).is_some_and(Value::is_object))
    else {
        return;
    };
    let mut action = probe.get(kind).cloned().unwrap_or_default();
    // Somebody else is asked, whom the kubelet reaches as well as the proxy does.
    if action
        .get("host")
        .and_then(Value::as_str)
        .is_some_and(|host| !host.is_empty())
    {
        return;
    }
    let Some(port) = number(action.get("port"), ports) else {
        report.warn(
            format!(
                "{place} names port {} that its container does not have, and stays as it is",
                action.get("port").unwrap_or(&Value::Null)
            ),
            "ports: [{name: http, containerPort: 8080}], or a number",
        );
        return;
    };
    if port == u64::from(at) {
        return;
    }
    if let Some(action) = action.as_object_mut() {
        action.insert("port".to_owned(), json!(port));
    }
    let mut question = Map::new();
    question.insert(kind.to_owned(), action);
    if let Some(seconds) = probe
        .get("timeoutSeconds")
        .filter(|seconds| seconds.is_u64())
    {
        question.insert("timeoutSeconds".to_owned(), seconds.clone());
    }
    done.before.insert(place, Value::Object(probe.clone()));
    done.questions.insert(path.clone(), Value::Object(question));
    probe.shift_remove(kind);
    probe.insert(
        "httpGet".to_owned(),
        json!({"path": path, "port": at, "scheme": "HTTP"}),
    );
}

fn number(port: Option<&Value>, ports: &Value) -> Option<u64> {
    let port = port?;
    if let Some(number) = port.as_u64() {
        return Some(number);
    }
    let name = port.as_str()?;
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let ports = ports.as_array()?;
    let named = ports
        .iter()
        .find(|port| port.get("name").and_then(Value::as_str) == Some(name));
    named?.get("containerPort")?.as_u64()
}

/// Puts back what [`rewrite`] changed.
pub(super) fn restore(spec: &mut Map<String, Value>, before: &BTreeMap<String, Value>) {
    for (place, was) in before {
        let mut words = place.splitn(3, '/');
        let (Some(list), Some(name), Some(field)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        let container = containers
            .into_iter()
            .flatten()
            .find(|container| container.get("name").and_then(Value::as_str) == Some(name));
        let Some(container) = container else { continue };
        let parent = if HOOKS.iter().any(|(hook, _)| *hook == field) {
            container.get_mut("lifecycle")
        } else {
            Some(container)
        };
        // One that was taken out or written anew meanwhile stays so.
        if let Some(now) = parent.and_then(|parent| parent.get_mut(field))
            && now
                .pointer("/httpGet/path")
                .and_then(Value::as_str)
                .is_some_and(|path| PATHS.iter().any(|ours| path.starts_with(ours)))
        {
            *now = was.clone();
        }
    }
}
