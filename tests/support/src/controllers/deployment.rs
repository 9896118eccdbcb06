//! Deployments: a ReplicaSet for each template, and pods moved from the old ones to the newest.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Work, condition, count, is_going, key, owned_by, text};
use crate::status::Answer;
use crate::store::Key;

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

impl Work {
    pub(super) async fn deployment(&self, at: &Key, deployment: &Value) -> Answer<()> {
        if is_going(deployment) {
            return Ok(());
        }
        self.adopt("replicasets.apps", deployment);
        let sets = self.controlled("replicasets.apps", deployment);
        let newest = sets.iter().find(|set| is_of(set, deployment)).cloned();
        let paused = deployment["spec"]["paused"] == true;
        let newest = match newest {
            Some(newest) => newest,
            None if paused => return Ok(()),
            None => {
                self.new_set(deployment, &sets).await?;
                // Its coming leads here again.
                return Ok(());
            }
        };
        let mut revision = revision_of(&newest);
        let latest = sets.iter().map(|s| revision_of(s)).max().unwrap_or(0);
        let is_again = sets.iter().any(|s| {
            s["metadata"]["uid"] != newest["metadata"]["uid"] && revision_of(s) >= revision
        });
        if is_again {
            // An old template is wanted again, and counts as new.
            revision = latest + 1;
            self.edit(&at_set(&newest), |set| {
                set["metadata"]["annotations"][REVISION] = revision.to_string().into();
            });
        }
        self.edit(at, |d| {
            d["metadata"]["annotations"][REVISION] = revision.to_string().into();
        });
        let old: Vec<Arc<Value>> = sets
            .iter()
            .filter(|s| s["metadata"]["uid"] != newest["metadata"]["uid"])
            .cloned()
            .collect();
        if !paused {
            self.roll(deployment, &newest, &old);
        }
        self.deployment_status(at);
        self.forget(deployment, &old);
        Ok(())
    }

    async fn new_set(&self, deployment: &Value, sets: &[Arc<Value>]) -> Answer<()> {
        let spec = &deployment["spec"];
        let meta = &deployment["metadata"];
        let hash = hash(&spec["template"]);
        let latest = sets.iter().map(|s| revision_of(s)).max().unwrap_or(0);
        let mut template = spec["template"].clone();
        template["metadata"]["labels"][HASH] = hash.clone().into();
        let mut selector = spec["selector"].clone();
        selector["matchLabels"][HASH] = hash.clone().into();
        let others: i64 = sets.iter().map(|s| count(&s["spec"]["replicas"])).sum();
        let wanted = count(&spec["replicas"]);
        let first = if spec["strategy"]["type"] == "Recreate" && others > 0 {
            0
        } else {
            (wanted + surge(spec) - others).clamp(0, wanted)
        };
        let mut annotations = meta["annotations"].clone();
        if let Some(all) = annotations.as_object_mut() {
            all.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        annotations[REVISION] = (latest + 1).to_string().into();
        annotations["deployment.kubernetes.io/desired-replicas"] = wanted.to_string().into();
        annotations["deployment.kubernetes.io/max-replicas"] =
            (wanted + surge(spec)).to_string().into();
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", text(&meta["name"])), "namespace": meta["namespace"],
                "labels": template["metadata"]["labels"], "annotations": annotations,
                "ownerReferences": owned_by(deployment),
            },
            "spec": {
                "replicas": first, "selector": selector, "template": template,
                "minReadySeconds": count(&spec["minReadySeconds"]),
            },
        });
        match self.create("deployment", "replicasets.apps", set).await {
            Ok(_) => Ok(()),
            Err(refusal) => {
                let at = key(
                    "deployments.apps",
                    text(&meta["namespace"]),
                    text(&meta["name"]),
                );
                let now = self.server.timestamp();
                self.edit(&at, |d| {
                    let why = &refusal.message;
                    condition(
                        &mut d["status"],
                        "Progressing",
                        false,
                        "ReplicaSetCreateError",
                        why,
                        &now,
                    );
                });
                Err(refusal)
            }
        }
    }

    /// One step towards the newest set.
    fn roll(&self, deployment: &Value, newest: &Value, old: &[Arc<Value>]) {
        let spec = &deployment["spec"];
        let wanted = count(&spec["replicas"]);
        let replicas = |set: &Value| count(&set["spec"]["replicas"]);
        let available = |set: &Value| count(&set["status"]["availableReplicas"]);
        let others: i64 = old.iter().map(|s| replicas(s)).sum();
        let (most, least) = if spec["strategy"]["type"] == "Recreate" {
            let left: i64 = old.iter().map(|s| count(&s["status"]["replicas"])).sum();
            for set in old {
                self.scale(set, 0);
            }
            if others + left > 0 {
                return;
            }
            (wanted, 0)
        } else {
            (wanted + surge(spec), wanted - unavailable(spec))
        };
        let have = replicas(newest);
        if have > wanted {
            self.scale(newest, wanted);
            return;
        }
        if have < wanted {
            let room = (most - others - have).max(0);
            if room > 0 {
                self.scale(newest, have + room.min(wanted - have));
                return;
            }
        }
        // Pods that are not ready are no loss; of the others only as many as are too many.
        let not_ready = (have - available(newest)).max(0);
        let mut room = (have + others - least - not_ready).max(0);
        for set in old {
            let idle = (replicas(set) - available(set)).clamp(0, room);
            if idle > 0 {
                self.scale(set, replicas(set) - idle);
                room -= idle;
            }
        }
        let ready: i64 = available(newest) + old.iter().map(|s| available(s)).sum::<i64>();
        let mut room = room.min((ready - least).max(0));
        for set in old {
            let fewer = available(set).min(replicas(set)).clamp(0, room);
            if fewer > 0 {
                self.scale(set, replicas(set) - fewer);
                room -= fewer;
            }
        }
    }

    fn scale(&self, set: &Value, replicas: i64) {
        self.edit(&at_set(set), |set| {
            set["spec"]["replicas"] = replicas.into();
        });
    }

    fn deployment_status(&self, at: &Key) {
        let Some(deployment) = self.server.state().store.get(at) else {
            return;
        };
        let sets = self.controlled("replicasets.apps", &deployment);
        let newest = sets.iter().find(|set| is_of(set, &deployment));
        let sum = |field: &str| -> i64 { sets.iter().map(|s| count(&s["status"][field])).sum() };
        let wanted = count(&deployment["spec"]["replicas"]);
        let updated = newest.map_or(0, |s| count(&s["status"]["replicas"]));
        let (total, ready, available) = (
            sum("replicas"),
            sum("readyReplicas"),
            sum("availableReplicas"),
        );
        let failure = newest.and_then(|set| {
            let all = set["status"]["conditions"].as_array()?;
            all.iter().find(|c| c["type"] == "ReplicaFailure").cloned()
        });
        let whole = updated == wanted && total == wanted && available >= wanted;
        let enough = available >= wanted - unavailable(&deployment["spec"]);
        let name = newest
            .map_or("", |s| text(&s["metadata"]["name"]))
            .to_owned();
        let now = self.server.timestamp();
        self.edit(at, |d| {
            let generation = d["metadata"]["generation"].clone();
            let conditions = d["status"]["conditions"].clone();
            let mut status = json!({"observedGeneration": generation});
            for (field, value) in [
                ("replicas", total),
                ("updatedReplicas", updated),
                ("readyReplicas", ready),
                ("availableReplicas", available),
                (
                    "unavailableReplicas",
                    (wanted.max(total) - available).max(0),
                ),
            ] {
                if value > 0 {
                    status[field] = value.into();
                }
            }
            if conditions.is_array() {
                status["conditions"] = conditions;
            }
            if enough {
                let message = "Deployment has minimum availability.";
                condition(
                    &mut status,
                    "Available",
                    true,
                    "MinimumReplicasAvailable",
                    message,
                    &now,
                );
            } else {
                let message = "Deployment does not have minimum availability.";
                condition(
                    &mut status,
                    "Available",
                    false,
                    "MinimumReplicasUnavailable",
                    message,
                    &now,
                );
            }
            let (reason, message) = if whole {
                (
                    "NewReplicaSetAvailable",
                    format!("ReplicaSet \"{name}\" has successfully progressed."),
                )
            } else {
                (
                    "ReplicaSetUpdated",
                    format!("ReplicaSet \"{name}\" is progressing."),
                )
            };
            condition(&mut status, "Progressing", true, reason, &message, &now);
            if let Some(all) = status["conditions"].as_array_mut() {
                all.retain(|c| c["type"] != "ReplicaFailure");
                all.extend(failure);
            }
            d["status"] = status;
        });
    }

    /// Empty sets beyond the limit of the history go, oldest first.
    fn forget(&self, deployment: &Value, old: &[Arc<Value>]) {
        let limit = deployment["spec"]["revisionHistoryLimit"]
            .as_u64()
            .and_then(|l| usize::try_from(l).ok())
            .unwrap_or(10);
        let mut empty: Vec<&Arc<Value>> = old
            .iter()
            .filter(|s| count(&s["spec"]["replicas"]) == 0 && count(&s["status"]["replicas"]) == 0)
            .collect();
        empty.sort_by_key(|s| revision_of(s));
        let gone = empty.len().saturating_sub(limit);
        for set in empty.into_iter().take(gone) {
            self.remove(&at_set(set));
        }
    }
}

fn at_set(set: &Value) -> Key {
    let meta = &set["metadata"];
    key(
        "replicasets.apps",
        text(&meta["namespace"]),
        text(&meta["name"]),
    )
}

fn revision_of(set: &Value) -> i64 {
    text(&set["metadata"]["annotations"][REVISION])
        .parse()
        .unwrap_or(0)
}

/// Whether a set has the Deployment's template, but for the hash.
fn is_of(set: &Value, deployment: &Value) -> bool {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.shift_remove(HASH);
    }
    sorted(&template) == sorted(&deployment["spec"]["template"])
}

/// A text that does not depend on the order of fields, nor on empty ones.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut all: Vec<String> = fields
                .iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| format!("{k:?}:{}", sorted(v)))
                .collect();
            all.sort();
            format!("{{{}}}", all.join(","))
        }
        Value::Array(items) => {
            let all: Vec<String> = items.iter().map(sorted).collect();
            format!("[{}]", all.join(","))
        }
        other => other.to_string(),
    }
}

/// FNV-1a of the template, in letters that make no words.
fn hash(template: &Value) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = sorted(template)
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    hash.to_string()
        .bytes()
        .map(|b| char::from(LETTERS[usize::from(b) % LETTERS.len()]))
        .collect()
}

/// A number or a share of the replicas; `up` says how a share is rounded.
fn share(value: &Value, replicas: i64, up: bool) -> i64 {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = replicas * percent;
            if up {
                (product + 99) / 100
            } else {
                product / 100
            }
        }
        other => other.as_i64().unwrap_or(0),
    }
}

fn surge(spec: &Value) -> i64 {
    let wanted = count(&spec["replicas"]);
    share(&spec["strategy"]["rollingUpdate"]["maxSurge"], wanted, true)
}

fn unavailable(spec: &Value) -> i64 {
    let wanted = count(&spec["replicas"]);
    let value = &spec["strategy"]["rollingUpdate"]["maxUnavailable"];
    match (share(value, wanted, false), surge(spec)) {
        // Nothing could move.
        (0, 0) => 1,
        (unavailable, _) => unavailable.min(wanted),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{hash, surge, unavailable};

    #[test]
    fn shares_are_rounded_towards_more_pods() {
        let spec = |replicas: i64, surge: &str, unavailable: &str| json!({"replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
        let four = spec(5, "25%", "25%");
        assert_eq!((surge(&four), unavailable(&four)), (2, 1));
        let one = spec(1, "25%", "25%");
        assert_eq!((surge(&one), unavailable(&one)), (1, 0));
        let stuck = spec(3, "0%", "0%");
        assert_eq!((surge(&stuck), unavailable(&stuck)), (0, 1));
    }

    #[test]
    fn a_hash_is_of_the_content() {
        let one = json!({"a": 1, "b": [1, 2]});
        assert_eq!(hash(&one), hash(&json!({"b": [1, 2], "a": 1})));
        assert_ne!(hash(&one), hash(&json!({"a": 1, "b": [2, 1]})));
    }
}
