//! What a cluster or another catalogue holds, beside what people applied here.
//!
//! On Kubernetes the API server is the store, so nothing of this is written to ours. An object that
//! the cluster has wins over one of the same name that was applied here, and cannot be changed
//! here; one that cannot be read leaves the one before it in force, and is a finding.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::resources::{ApplyReport, Convergence, Outcome, Written};
use crate::api::{Problem, Reason};
use crate::mesh::{Finding, Severity, World};
use crate::resource::{self, CONTROLLER, Key, Object, Objects, Statuses, has_status};
use crate::rt::Tasks;
use crate::source::Change;
use crate::source::kubernetes::Named;

use super::cluster::Told;
use super::edge::is_ours;
use super::index::{Edit, Index, brought, outcome_of, refuse_errors};

impl Index {
    /// Takes in what became of the cluster's objects, as one new world.
    pub(super) async fn follow(&self, changes: Vec<Change>) {
        let mut state = self.state.lock().await;
        let now = self.wall.millis();
        let mut configured = false;
        for change in changes {
            configured |= state.followed.take(change, now);
        }
        state.rewritten |= configured;
        let wrongs = state.followed.wrongs;
        self.wrongs
            .send_if_modified(|known| std::mem::replace(known, wrongs) != wrongs);
        let moved = state.take_running();
        if configured {
            let (world, findings) = self.lower(&state, &state.objects);
            for finding in findings.iter().filter(|f| f.severity == Severity::Error) {
                if !state.findings.contains(finding) {
                    tracing::error!(%finding, "in the configuration in force");
                }
            }
            state.findings = findings;
            self.publish(&mut state, world);
        } else if moved {
            let world = World {
                config: Arc::clone(&self.world.load().world.config),
                instances: state.running(),
            };
            self.publish(&mut state, world);
        }
    }
}

impl Index {
    /// What a change would come to that the API server is to keep. Nothing is changed.
    pub(super) async fn rehearse(&self, edit: &Edit) -> Result<ApplyReport, Problem> {
        let state = self.state.lock().await;
        let mut after = state.union(&state.objects);
        let mut objects = Vec::new();
        for object in &edit.put {
            let key = object.key();
            let outcome = match after.get(&key) {
                None => Outcome::Created,
                Some(old) if old.raw == object.raw => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            };
            objects.push(outcome_of(&key, outcome));
            after.insert(key, Arc::new(object.clone()));
        }
        for key in &edit.remove {
            if after.remove(key).is_none() {
                return Err(Problem::new(Reason::NotFound, format!("there is no {key}")));
            }
            objects.push(outcome_of(key, Outcome::Deleted));
        }
        let (world, findings) = resource::lower(&after, state.running());
        let known: BTreeSet<&Finding> = state.findings.iter().collect();
        let mut new: Vec<Finding> = findings
            .into_iter()
            .filter(|finding| !known.contains(finding))
            .collect();
        refuse_errors(&new, edit.tolerance)?;
        new.extend(brought(&self.world(), &world));
        Ok(ApplyReport {
            revision: state.revision,
            objects,
            findings: new,
            convergence: Convergence::default(),
        })
    }

    /// An object as the cluster holds it.
    pub(super) async fn held(&self, key: &Key) -> Option<Arc<Object>> {
        let state = self.state.lock().await;
        state.followed.objects.get(key).cloned()
    }

    /// The number of the first world that has everything that was `written` to the API server; none when it does
    /// not come in time.
    pub(super) async fn until_followed(
        &self,
        written: &[Written],
        patience: Duration,
    ) -> Option<u64> {
        let mut worlds = self.reader();
        let following = async {
            loop {
                {
                    let state = self.state.lock().await;
                    let held = &state.followed.objects;
                    if written.iter().all(|one| has(held, one)) {
                        return Some(state.generation);
                    }
                }
                // An object may come without a new world; that is looked at now and then.
                let look = tokio::time::timeout(LOOK, worlds.changed());
                if look.await == Ok(false) {
                    return None;
                }
            }
        };
        tokio::time::timeout(patience, following).await.ok()?
    }

    /// What is to be said of each of the cluster's objects that has a status of ours, as of `since` (RFC 3339).
    /// What another controller is named for is its own to say, though we would serve it.
    pub(super) async fn statuses(&self, since: &str) -> Vec<Told> {
        let state = self.state.lock().await;
        let followed = &state.followed.objects;
        if !followed
            .values()
            .any(|object| has_status(&object.api_version))
        {
            return Vec::new();
        }
        let union = state.union(&state.objects);
        let statuses = Statuses::of(&union, &state.running());
        let text = |object: &Object, pointer: &str| {
            let text = object.raw.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let told = followed.iter().filter_map(|(key, object)| {
            let mut status = statuses.get(key, 0, since)?;
            let mine = match key.kind.as_str() {
                "GatewayClass" => is_ours(followed, &key.name),
                "Gateway.gateway.networking.k8s.io" => {
                    is_ours(followed, &text(object, "/spec/gatewayClassName"))
                }
                _ => {
                    // An empty list goes, too: a parent that was served may be gone.
                    for list in ["parents", "ancestors"] {
                        if let Some(Value::Array(list)) = status.get_mut(list) {
                            list.retain(|entry| entry["controllerName"] == CONTROLLER);
                        }
                    }
                    true
                }
            };
            let generation = object.raw.pointer("/metadata/generation");
            let generation = generation.and_then(Value::as_u64).unwrap_or_default();
            observed(&mut status, generation);
            mine.then(|| Told {
                api_version: object.api_version.clone(),
                key: key.clone(),
                uid: text(object, "/metadata/uid"),
                status,
            })
        });
        told.collect()
    }
}

/// How often what is followed is looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Whether an object is as it was `written`, or newer. Versions of an API server are numbers that grow, and where
/// they are not only the same one is known.
fn has(held: &Objects, written: &Written) -> bool {
    let key = Key {
        kind: written.kind.clone(),
        namespace: written.namespace.clone(),
        name: written.name.clone(),
    };
    let there = held.get(&key);
    let Some(version) = &written.resource_version else {
        return there.is_none();
    };
    let there = there.and_then(|object| object.raw.pointer("/metadata/resourceVersion")?.as_str());
    there.is_some_and(|there| match (there.parse(), version.parse::<u64>()) {
        (Ok::<u64, _>(there), Ok(version)) => there >= version,
        _ => there == version,
    })
}

/// Has every condition say of which generation it is.
fn observed(status: &mut Value, generation: u64) {
    match status {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "observedGeneration" {
                    *value = generation.into();
                } else {
                    observed(value, generation);
                }
            }
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| observed(value, generation)),
        _ => {}
    }
}

/// Takes in batches until they end. `complete` becomes true with the first, which has everything but what is
/// `named` in it, and that is waited for.
pub(super) async fn run(
    index: Arc<Index>,
    source: String,
    mut batches: mpsc::Receiver<Vec<Change>>,
    (complete, mut named): (watch::Sender<bool>, Option<(Named, Tasks)>),
) {
    while let Some(changes) = batches.recv().await {
        index.follow(changes).await;
        if let Some((named, tasks)) = named.take() {
            if !index.settle(&named, &mut batches).await {
                return;
            }
            tasks.spawn("named", super::named::keep(Arc::clone(&index), named));
        }
        if !complete.send_replace(true) {
            tracing::info!(source, "it is known as a whole");
        }
    }
}

/// Becomes true once all of `sources` are.
pub(super) fn all(sources: Vec<watch::Receiver<bool>>, tasks: &Tasks) -> watch::Receiver<bool> {
    let (known, complete) = watch::channel(sources.is_empty());
    tasks.spawn("follow", async move {
        let some = !sources.is_empty();
        for source in sources {
            completed(source).await;
        }
        if some && !known.send_replace(true) {
            tracing::info!("every source is known; proxies are served");
        }
    });
    complete
}

/// Waits until the world is complete: a proxy must not be told that what has not been listed yet is gone.
pub(super) async fn completed(mut complete: watch::Receiver<bool>) {
    if complete.wait_for(|complete| *complete).await.is_err() {
        // Whoever would have completed it is gone, so it never will be.
        std::future::pending::<()>().await;
    }
}
