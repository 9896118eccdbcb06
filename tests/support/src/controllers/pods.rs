//! Pods of ReplicaSets, StatefulSets, DaemonSets and Jobs: as many as are wanted.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Work, condition, controller, count, is_going, key, owned_by, text};
use crate::select::Select;
use crate::status::{Answer, Refusal};
use crate::store::Key;

/// Neither going nor done.
fn is_active(pod: &Value) -> bool {
    !is_going(pod) && pod["status"]["phase"] != "Succeeded" && pod["status"]["phase"] != "Failed"
}

pub(super) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut ready = conditions.into_iter().flatten();
    ready.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn name_of(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// A pod of a template.
fn pod(owner: &Value, name: &str) -> Value {
    let template = &owner["spec"]["template"];
    let mut metadata = json!({
        "namespace": owner["metadata"]["namespace"], "ownerReferences": owned_by(owner),
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    let named = if name.is_empty() {
        "generateName"
    } else {
        "name"
    };
    metadata[named] = match name {
        "" => format!("{}-", name_of(owner)).into(),
        name => name.into(),
    };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Numbers of pods, as statuses give them: all, ready.
fn numbers(pods: &[Arc<Value>]) -> (usize, usize) {
    let ready = pods.iter().filter(|p| is_ready(p)).count();
    (pods.len(), ready)
}

impl Work {
    fn at_pod(pod: &Value) -> Key {
        key("pods", text(&pod["metadata"]["namespace"]), name_of(pod))
    }

    /// As a controller deletes: the kubelet ends it.
    fn end(&self, pod: &Value) {
        let now = self.server.timestamp();
        let mut state = self.server.state();
        state.dismiss(&Self::at_pod(pod), &json!({}), &now);
    }

    pub(super) async fn replica_set(&self, at: &Key, set: &Value) -> Answer<()> {
        if is_going(set) {
            return Ok(());
        }
        self.adopt("pods", set);
        let mut pods = self.controlled("pods", set);
        pods.retain(|p| is_active(p));
        let wanted = usize::try_from(count(&set["spec"]["replicas"])).unwrap_or(0);
        let mut failure: Option<Refusal> = None;
        for _ in pods.len()..wanted {
            if let Err(refusal) = self.create("replicaset", "pods", pod(set, "")).await {
                let why = format!("Error creating: {}", refusal.message);
                self.complain(set, "FailedCreate", &why);
                failure = Some(refusal);
                break;
            }
        }
        // Those that are not ready go first, then the youngest.
        pods.sort_by_key(|p| {
            let age = text(&p["metadata"]["creationTimestamp"]).to_owned();
            (is_ready(p), std::cmp::Reverse(age))
        });
        for pod in pods.iter().take(pods.len().saturating_sub(wanted)) {
            self.end(pod);
        }
        let mut pods = self.controlled("pods", set);
        pods.retain(|p| is_active(p));
        let (all, ready) = numbers(&pods);
        let now = self.server.timestamp();
        self.edit(at, |set| {
            let conditions = set["status"]["conditions"].clone();
            let mut status =
                json!({"replicas": all, "observedGeneration": set["metadata"]["generation"]});
            if all > 0 {
                status["fullyLabeledReplicas"] = all.into();
            }
            if ready > 0 {
                status["readyReplicas"] = ready.into();
                status["availableReplicas"] = ready.into();
            }
            if let Some(refusal) = &failure {
                status["conditions"] = conditions;
                if !status["conditions"].is_array() {
                    status["conditions"] = json!([]);
                }
                condition(
                    &mut status,
                    "ReplicaFailure",
                    true,
                    "FailedCreate",
                    &refusal.message,
                    &now,
                );
            }
            set["status"] = status;
        });
        failure.map_or(Ok(()), Err)
    }

    /// Takes objects that nobody controls and that it selects.
    pub(super) fn adopt(&self, resource: &str, set: &Value) {
        let namespace = text(&set["metadata"]["namespace"]);
        let select = Select::of_object(&set["spec"]["selector"]);
        let orphans: Vec<Key> = {
            let state = self.server.state();
            let all = state.store.list(resource, namespace);
            let free =
                all.filter(|(_, o)| controller(o).is_none() && is_active(o) && select.takes(o));
            free.map(|(k, _)| k.clone()).collect()
        };
        for orphan in orphans {
            self.edit(&orphan, |orphan| {
                let mut owners = orphan["metadata"]["ownerReferences"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                owners.extend(owned_by(set).as_array().cloned().unwrap_or_default());
                orphan["metadata"]["ownerReferences"] = owners.into();
            });
        }
    }

    /// One after another, by number; of an old template, from the last to the first.
    pub(super) async fn stateful_set(&self, at: &Key, set: &Value) -> Answer<()> {
        if is_going(set) {
            return Ok(());
        }
        let wanted = usize::try_from(count(&set["spec"]["replicas"])).unwrap_or(0);
        let parallel = set["spec"]["podManagementPolicy"] == "Parallel";
        let revision = format!("{}-{}", name_of(set), count(&set["metadata"]["generation"]));
        let pods = self.controlled("pods", set);
        let find = |name: &str| pods.iter().find(|p| name_of(p) == name);
        let name = |number: usize| format!("{}-{number}", name_of(set));
        let mut waits = false;
        for number in 0..wanted {
            let name = name(number);
            match find(&name) {
                None => {
                    let mut pod = pod(set, &name);
                    let labels = &mut pod["metadata"]["labels"];
                    labels["statefulset.kubernetes.io/pod-name"] = name.clone().into();
                    labels["apps.kubernetes.io/pod-index"] = number.to_string().into();
                    labels["controller-revision-hash"] = revision.clone().into();
                    pod["spec"]["hostname"] = name.into();
                    if set["spec"]["serviceName"].is_string() {
                        pod["spec"]["subdomain"] = set["spec"]["serviceName"].clone();
                    }
                    self.create("statefulset", "pods", pod).await?;
                    waits = true;
                }
                Some(pod) => waits = waits || !is_ready(pod) || is_going(pod),
            }
            if waits && !parallel {
                break;
            }
        }
        let number = |pod: &Value| -> usize {
            let end = name_of(pod).rsplit('-').next().and_then(|n| n.parse().ok());
            end.unwrap_or(0)
        };
        let mut gone: Vec<&Arc<Value>> = pods.iter().filter(|p| !is_going(p)).collect();
        gone.sort_by_key(|p| std::cmp::Reverse(number(p)));
        let template = |pod: &Value| {
            let all = set["spec"]["template"]["spec"]["containers"].as_array();
            let mut all = all.into_iter().flatten();
            all.all(|c| {
                let running = pod["spec"]["containers"].as_array();
                let mut running = running.into_iter().flatten();
                running.any(|r| r["name"] == c["name"] && r["image"] == c["image"])
            })
        };
        for pod in gone {
            let too_many = number(pod) >= wanted;
            if too_many || (!waits && !template(pod)) {
                self.end(pod);
                waits = true;
                if !parallel {
                    break;
                }
            }
        }
        let (all, ready) = numbers(&self.controlled("pods", set));
        self.edit(at, |set| {
            let mut status = json!({
                "observedGeneration": set["metadata"]["generation"], "replicas": all, "readyReplicas": ready,
                "availableReplicas": ready, "currentReplicas": all, "updatedReplicas": all,
                "currentRevision": revision, "updateRevision": revision, "collisionCount": 0,
            });
            if !set["status"]["conditions"].is_null() {
                status["conditions"] = set["status"]["conditions"].clone();
            }
            set["status"] = status;
        });
        Ok(())
    }

    /// One on every node.
    pub(super) async fn daemon_set(&self, at: &Key, set: &Value) -> Answer<()> {
        if is_going(set) {
            return Ok(());
        }
        let pods = self.controlled("pods", set);
        let nodes: Vec<String> = {
            let state = self.server.state();
            let all = state.store.list("nodes", "");
            all.map(|(k, _)| k.name.clone()).collect()
        };
        for node in &nodes {
            if pods
                .iter()
                .any(|p| p["spec"]["nodeName"] == node.as_str() && !is_going(p))
            {
                continue;
            }
            let mut pod = pod(set, "");
            pod["spec"]["nodeName"] = node.clone().into();
            self.create("daemon-set", "pods", pod).await?;
        }
        for pod in &pods {
            if !nodes.iter().any(|n| pod["spec"]["nodeName"] == n.as_str()) {
                self.end(pod);
            }
        }
        let (all, ready) = numbers(&self.controlled("pods", set));
        self.edit(at, |set| {
            set["status"] = json!({
                "observedGeneration": set["metadata"]["generation"], "desiredNumberScheduled": nodes.len(),
                "currentNumberScheduled": all, "updatedNumberScheduled": all, "numberReady": ready,
                "numberAvailable": ready, "numberMisscheduled": 0,
            });
        });
        Ok(())
    }

    /// Until as many pods as wanted have succeeded.
    pub(super) async fn job(&self, at: &Key, job: &Value) -> Answer<()> {
        if is_going(job) || job["spec"]["suspend"] == true {
            return Ok(());
        }
        let pods = self.controlled("pods", job);
        let phase = |phase: &str| {
            pods.iter()
                .filter(|p| p["status"]["phase"] == phase)
                .count()
        };
        let (done, failed) = (phase("Succeeded"), phase("Failed"));
        let active = pods.iter().filter(|p| is_active(p)).count();
        let number = |field: &str, default: usize| {
            let value = job["spec"][field].as_u64();
            value
                .and_then(|v| usize::try_from(v).ok())
                .unwrap_or(default)
        };
        let wanted = number("completions", 1);
        let given_up = failed > number("backoffLimit", 6);
        let room = number("parallelism", 1).min(wanted.saturating_sub(done));
        if !given_up {
            for _ in active..room {
                self.create("job", "pods", pod(job, "")).await?;
            }
        }
        let now = self.server.timestamp();
        self.edit(at, |job| {
            let mut status = job["status"].clone();
            if !status["startTime"].is_string() {
                status["startTime"] = now.clone().into();
            }
            status["active"] = active.max(if given_up { 0 } else { room }).into();
            status["succeeded"] = done.into();
            status["failed"] = failed.into();
            status["ready"] = pods.iter().filter(|p| is_ready(p)).count().into();
            if done >= wanted && !status["completionTime"].is_string() {
                status["completionTime"] = now.clone().into();
                status["active"] = 0.into();
                condition(
                    &mut status,
                    "SuccessCriteriaMet",
                    true,
                    "CompletionsReached",
                    "Reached expected number of succeeded pods",
                    &now,
                );
                condition(
                    &mut status,
                    "Complete",
                    true,
                    "CompletionsReached",
                    "Reached expected number of succeeded pods",
                    &now,
                );
            }
            if given_up {
                status["active"] = 0.into();
                condition(
                    &mut status,
                    "Failed",
                    true,
                    "BackoffLimitExceeded",
                    "Job has reached the specified backoff limit",
                    &now,
                );
            }
            job["status"] = status;
        });
        Ok(())
    }
}
