//! Waiting until what was applied runs, and what is in the way when it does not.

use std::time::Duration;

use serde_json::Value;

use super::failed;
use crate::cli::error::CliError;
use crate::cli::progress::Progress;
use crate::install::{self, Settings};
use crate::rt;
use crate::source::kubernetes::cluster::{Cluster, ObjectRef};

/// How often a Deployment is looked at.
const ROUND: Duration = Duration::from_millis(500);

/// Until every Deployment runs as it was last applied.
pub(super) async fn wait(
    cluster: &Cluster,
    settings: &Settings,
    progress: &Progress<'_>,
    patience: Duration,
) -> Result<(), CliError> {
    let deadline = rt::now() + patience;
    for object in install::objects(settings) {
        let which = ObjectRef::of(&object);
        if which.kind != "Deployment" {
            continue;
        }
        let step = progress.step(format!("{which} ready"));
        loop {
            let now = cluster
                .get(&which)
                .await
                .map_err(|error| failed(&format!("{which} cannot be read"), &error))?;
            let (ready, words) = now.as_ref().map_or((false, "gone".to_owned()), rolled_out);
            if ready {
                step.done(&words);
                break;
            }
            if rt::now() >= deadline {
                step.failed();
                let why = now.as_ref().map(|now| why(cluster, &which, now));
                let why = match why {
                    Some(why) => why.await.map(|why| format!(" ({why})")),
                    None => None,
                };
                return Err(CliError::Timeout {
                    what: format!("{which}: {words}{}", why.unwrap_or_default()),
                    after: patience,
                });
            }
            step.update(&words);
            tokio::time::sleep(ROUND).await;
        }
    }
    Ok(())
}

/// Whether a Deployment runs as it says, and how far it is.
fn rolled_out(deployment: &Value) -> (bool, String) {
    let count = |pointer: &str| {
        let count = deployment.pointer(pointer).and_then(Value::as_u64);
        count.unwrap_or_default()
    };
    let wanted = count("/spec/replicas");
    let (updated, ready) = (
        count("/status/updatedReplicas"),
        count("/status/availableReplicas"),
    );
    let seen = count("/status/observedGeneration") >= count("/metadata/generation");
    let done = seen && updated >= wanted && ready >= wanted && count("/status/replicas") <= wanted;
    (done, format!("{} of {wanted} replicas", ready.min(updated)))
}

/// What its pods wait for; `None` where that cannot be said, which is no reason to fail in another way.
async fn why(cluster: &Cluster, which: &ObjectRef, deployment: &Value) -> Option<String> {
    let labels = deployment.pointer("/spec/selector/matchLabels")?;
    let selector: Vec<String> = labels
        .as_object()?
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
        .collect();
    let namespace = which.namespace.as_deref();
    let pods = cluster.list("Pod", namespace, &selector.join(",")).await;
    pods.ok()?.iter().find_map(obstacle)
}

/// What keeps a pod from being ready, in the cluster's own words.
fn obstacle(pod: &Value) -> Option<String> {
    let name = pod.pointer("/metadata/name")?.as_str()?;
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let unmet = |kind: &str| {
        let condition = conditions?
            .iter()
            .find(|one| one.pointer("/type").is_some_and(|is| is == kind))?;
        (condition.pointer("/status").is_none_or(|is| is != "True")).then_some(condition)
    };
    let words = |of: &Value| {
        let text = |key: &str| of.get(key)?.as_str().filter(|text| !text.is_empty());
        match (text("reason"), text("message")) {
            (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
            (one, other) => one.or(other).map(str::to_owned),
        }
    };
    if let Some(scheduled) = unmet("PodScheduled") {
        return Some(format!("pod {name}: {}", words(scheduled)?));
    }
    let containers = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|key| pod.pointer("/status")?.get(key)?.as_array())
        .flatten();
    for container in containers {
        let Some(waiting) = container.pointer("/state/waiting") else {
            continue;
        };
        // These two are said of every pod that begins.
        let begins = ["PodInitializing", "ContainerCreating"];
        if waiting
            .pointer("/reason")
            .and_then(Value::as_str)
            .is_none_or(|reason| begins.contains(&reason))
        {
            continue;
        }
        let ended = container.pointer("/lastState/terminated/exitCode");
        let ended = ended
            .and_then(Value::as_i64)
            .map(|code| format!("; it ended with {code} before"))
            .unwrap_or_default();
        let container = container.pointer("/name").and_then(Value::as_str);
        return Some(format!(
            "pod {name}, container {}: {}{ended}",
            container.unwrap_or_default(),
            words(waiting)?
        ));
    }
    let ready = unmet("Ready")?;
    Some(format!("pod {name}: {}", words(ready)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &Value) -> Value {
        json!({"metadata": {"name": "a-1"}, "status": status})
    }

    #[test]
    fn the_first_thing_in_the_way_is_said() {
        let unready = json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady",
            "message": "containers with unready status: [app]"});
        let waiting = |reason: &str, message: &str| json!([{"name": "app", "state": {"waiting": {"reason": reason, "message": message}}}]);
        for (status, said) in [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/3 nodes are available"}]}),
                Some("pod a-1: Unschedulable: 0/3 nodes are available"),
            ),
            (
                json!({"conditions": [unready], "containerStatuses": waiting("ImagePullBackOff", "no such image")}),
                Some("pod a-1, container app: ImagePullBackOff: no such image"),
            ),
            (
                json!({"conditions": [unready], "initContainerStatuses": [{"name": "init",
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 2}}}]}),
                Some("pod a-1, container init: CrashLoopBackOff; it ended with 2 before"),
            ),
            (
                json!({"conditions": [unready], "containerStatuses": waiting("ContainerCreating", "")}),
                Some("pod a-1: ContainersNotReady: containers with unready status: [app]"),
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "True"}]}),
                None,
            ),
            (json!({}), None),
        ] {
            assert_eq!(obstacle(&pod(&status)).as_deref(), said, "{status}");
        }
    }
}
