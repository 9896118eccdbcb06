//! The controllers of a cluster, as far as anybody waits for them: workloads make pods, pods become ready, Services
//! get endpoints. Whatever they create goes through admission as in a cluster, by the accounts that do it there.
//!
//! | file | owns |
//! |---|---|
//! | [`deployment`] | Deployments: ReplicaSets, roll-outs, revisions |
//! | [`pods`] | pods of ReplicaSets, StatefulSets, DaemonSets and Jobs |
//! | [`node`] | scheduling and the kubelet: nothing runs, but it says so |
//! | [`budget`] | how many pods may be evicted |
//! | [`endpoints`] | Endpoints, EndpointSlices and addresses of load balancers |

mod budget;
mod deployment;
mod endpoints;
mod node;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::admission;
use crate::path::Ask;
use crate::server::Server;
use crate::status::{Answer, Refusal};
use crate::store::{Change, Key};
use crate::write::Body;

pub use budget::spend;

/// What the controllers do of their own accord.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nodes, by name.
    pub nodes: Vec<String>,
    /// Whether pods become ready at once; otherwise they stay as they are scheduled until somebody writes their
    /// status.
    pub ready: bool,
    /// Whether Services of type LoadBalancer get an address.
    pub load_balancers: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: vec!["node-1".into(), "node-2".into()],
            ready: true,
            load_balancers: true,
        }
    }
}

/// What is seen to; all else only leads there.
const KINDS: &[&str] = &[
    "daemonsets.apps",
    "deployments.apps",
    "jobs.batch",
    "poddisruptionbudgets.policy",
    "pods",
    "replicasets.apps",
    "services",
    "statefulsets.apps",
];

/// After a failure.
const SOON: Duration = Duration::from_millis(100);
/// After many.
const LATER: Duration = Duration::from_secs(5);

/// Shared by the controllers.
#[derive(Debug)]
struct Work {
    server: Arc<Server>,
    settings: Settings,
}

/// Works until the server is gone.
pub async fn run(server: Arc<Server>, settings: Settings) {
    server.state().kubelet = true;
    let work = Work { server, settings };
    for name in &work.settings.nodes {
        let made = work.server.create_now("nodes", "", node::node(name));
        debug_assert!(made.is_ok(), "{made:?}");
        // The status is written by the kubelet.
        work.edit(&key("nodes", "", name), |node| {
            node["status"] = node::status();
        });
    }
    let mut news = work.server.state().store.news();
    let mut seen = 0;
    let mut first = true;
    let mut todo: BTreeSet<Key> = BTreeSet::new();
    let mut failed: BTreeMap<Key, (Instant, Duration)> = BTreeMap::new();
    loop {
        work.gather(&mut seen, &mut first, &mut todo);
        let now = Instant::now();
        let due: Vec<Key> = failed
            .iter()
            .filter(|(_, (when, _))| *when <= now)
            .map(|(key, _)| key.clone())
            .collect();
        todo.extend(due);
        let Some(key) = todo.pop_first() else {
            let next = failed.values().map(|(when, _)| *when).min();
            let next = next.unwrap_or_else(|| now + Duration::from_hours(1));
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next) => {}
            }
            continue;
        };
        if work.see(&key).await.is_ok() {
            failed.remove(&key);
        } else {
            let wait = failed.get(&key).map_or(SOON, |(_, w)| (*w * 2).min(LATER));
            failed.insert(key, (Instant::now() + wait, wait));
        }
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key {
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// The owner that controls an object.
fn controller(object: &Value) -> Option<&Value> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|o| o["controller"] == true)
}

/// A reference to the owner that controls.
fn owned_by(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }])
}

fn is_going(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

impl Work {
    /// Adds what the newest changes concern.
    fn gather(&self, seen: &mut u64, first: &mut bool, todo: &mut BTreeSet<Key>) {
        let state = self.server.state();
        let changes = if *first {
            None
        } else {
            state.store.since_all(*seen)
        };
        *seen = state.store.revision();
        *first = false;
        let Some(changes) = changes else {
            let all = state.store.all().map(|(key, _)| key.clone());
            todo.extend(all.filter(|k| KINDS.contains(&k.resource.as_str())));
            return;
        };
        for change in &changes {
            concerns(&state.store, change, todo);
        }
    }

    async fn see(&self, key: &Key) -> Answer<()> {
        let found = self.server.state().store.get(key);
        let Some(object) = found else {
            if key.resource == "services" {
                self.remove(&Key {
                    resource: "endpoints".into(),
                    ..key.clone()
                });
            }
            return Ok(());
        };
        match key.resource.as_str() {
            "deployments.apps" => self.deployment(key, &object).await,
            "replicasets.apps" => self.replica_set(key, &object).await,
            "statefulsets.apps" => self.stateful_set(key, &object).await,
            "daemonsets.apps" => self.daemon_set(key, &object).await,
            "jobs.batch" => self.job(key, &object).await,
            "services" => self.service(key, &object).await,
            budget::BUDGETS => {
                self.budget(key, &object);
                Ok(())
            }
            "pods" => {
                self.pod(key, &object);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What an owner controls of a kind.
    fn controlled(&self, resource: &str, owner: &Value) -> Vec<Arc<Value>> {
        let namespace = text(&owner["metadata"]["namespace"]);
        let uid = &owner["metadata"]["uid"];
        let state = self.server.state();
        state
            .store
            .list(resource, namespace)
            .filter(|(_, o)| controller(o).is_some_and(|c| c["uid"] == *uid))
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// Creates as a controller, through admission.
    async fn create(&self, who: &str, resource: &str, object: Value) -> Answer<Value> {
        let kind = self
            .server
            .state()
            .kind_of(resource)
            .ok_or_else(Refusal::no_path)?;
        let namespace = text(&object["metadata"]["namespace"]).to_owned();
        let ask = Ask {
            verb: "create".into(),
            group: kind.group.clone(),
            version: kind.version.clone(),
            resource: kind.plural.clone(),
            namespace,
            ..Ask::default()
        };
        let body = Body::json(
            object,
            "kube-controller-manager",
            admission::controller(who),
        );
        self.server.create(&kind, &ask, &body).await
    }

    /// Changes an object; nothing is written if nothing changes.
    fn edit(&self, key: &Key, change: impl FnOnce(&mut Value)) {
        let mut state = self.server.state();
        let Some(old) = state.store.get(key) else {
            return;
        };
        let mut new = Value::clone(&old);
        change(&mut new);
        if new == *old {
            return;
        }
        if new["spec"] != old["spec"]
            && let Some(generation) = new["metadata"]["generation"].as_i64()
        {
            new["metadata"]["generation"] = (generation + 1).into();
        }
        state.store.put(key.clone(), new);
    }

    /// Removes at once.
    fn remove(&self, key: &Key) {
        let now = self.server.timestamp();
        let mut state = self.server.state();
        state.remove(key, false, &now);
        state.settle(&now);
    }

    /// Says what went wrong, where `kubectl describe` looks.
    fn complain(&self, about: &Value, reason: &str, message: &str) {
        let meta = &about["metadata"];
        let namespace = text(&meta["namespace"]);
        let now = self.server.timestamp();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", text(&meta["name"])), "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"], "kind": about["kind"], "name": meta["name"],
                "namespace": namespace, "uid": meta["uid"],
            },
            "reason": reason, "message": message, "type": "Warning", "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "kube-controller-manager"},
        });
        let made = self.server.create_now("events", namespace, event);
        // A namespace that goes takes no more events.
        drop(made);
    }
}

/// What a change leads to.
fn concerns(store: &crate::store::Store, change: &Change, todo: &mut BTreeSet<Key>) {
    let namespace = &change.key.namespace;
    if KINDS.contains(&change.key.resource.as_str()) {
        todo.insert(change.key.clone());
    }
    for object in [&change.before, &change.after].into_iter().flatten() {
        let Some(owner) = controller(object) else {
            // An orphan may find who selects it.
            let above = match change.key.resource.as_str() {
                "pods" => "replicasets.apps",
                "replicasets.apps" => "deployments.apps",
                _ => continue,
            };
            todo.extend(store.list(above, namespace).map(|(key, _)| key.clone()));
            continue;
        };
        let resource = match text(&owner["kind"]) {
            "Deployment" => "deployments.apps",
            "ReplicaSet" => "replicasets.apps",
            "StatefulSet" => "statefulsets.apps",
            "DaemonSet" => "daemonsets.apps",
            "Job" => "jobs.batch",
            "Service" => "services",
            _ => continue,
        };
        todo.insert(key(resource, namespace, text(&owner["name"])));
    }
    match change.key.resource.as_str() {
        "pods" => {
            let services = store.list("services", namespace);
            let selecting = services.filter(|(_, service)| {
                [&change.before, &change.after]
                    .into_iter()
                    .flatten()
                    .any(|pod| endpoints::selects(service, pod))
            });
            todo.extend(selecting.map(|(key, _)| key.clone()));
            let budgets = store.list(budget::BUDGETS, namespace);
            todo.extend(budgets.map(|(key, _)| key.clone()));
        }
        "nodes" => {
            // Pods that found no node may find one now.
            todo.extend(store.list("pods", "").map(|(key, _)| key.clone()));
            let sets = store.list("daemonsets.apps", "");
            todo.extend(sets.map(|(key, _)| key.clone()));
        }
        _ => {}
    }
}

/// Sets a condition; the time of its last transition stays when its status does.
fn condition(status: &mut Value, kind: &str, is: bool, reason: &str, message: &str, now: &str) {
    let word = if is { "True" } else { "False" };
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(all) = status["conditions"].as_array_mut() else {
        return;
    };
    let mut new = json!({"type": kind, "status": word, "lastTransitionTime": now});
    if !reason.is_empty() {
        new["reason"] = reason.into();
        new["message"] = message.into();
    }
    match all.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == word {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
        None => all.push(new),
    }
}
