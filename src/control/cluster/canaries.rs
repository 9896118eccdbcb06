//! Canaries where configuration is the API server's: the replica that writes drives them, and where they stand is in
//! the status of their objects, from which the next one goes on.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::leader::{Leads, elected};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::rollouts::{self, Run};
use crate::resource::json::set;
use crate::resource::{Key, Kind};
use crate::rt::Tasks;
use crate::source::kubernetes::cluster::{Cluster, ClusterError};

/// Before the states are asked for again, when the API server did not tell.
const AGAIN: Duration = Duration::from_secs(2);
/// A status that somebody changed meanwhile is written anew so often.
const TRIES: usize = 3;

/// Drives canaries while this replica writes; ends with `tasks`.
pub(super) fn start(control: &Arc<Control>, mut leads: Leads, tasks: &Tasks) {
    let control = Arc::clone(control);
    tasks.spawn("cluster-canaries", async move {
        loop {
            elected(&mut leads).await;
            let Some(cluster) = &control.cluster else {
                return;
            };
            // What another replica did meanwhile is in the objects.
            match kept(&control, cluster).await {
                Ok(runs) => control.rollouts.instead(runs).await,
                Err(error) => {
                    tracing::warn!(%error, "where canaries stand cannot be read yet");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            while *leads.borrow() {
                rollouts::turn(&control).await;
            }
        }
    });
}

/// The object of a canary: as it is filed, and its `apiVersion`.
async fn objects(control: &Control) -> Vec<(Key, String)> {
    let state = control.index.state.lock().await;
    state
        .written()
        .filter(|object| matches!(object.body, Kind::Canary(_)))
        .map(|object| (object.key(), object.api_version.clone()))
        .collect()
}

/// The runs that stand in statuses.
async fn kept(control: &Control, cluster: &Cluster) -> Result<Vec<Run>, ClusterError> {
    let mut runs = Vec::new();
    for (key, version) in objects(control).await {
        let which = (
            version.as_str(),
            "Canary",
            Some(key.namespace.as_str()),
            key.name.as_str(),
        );
        let Some(object) = cluster.get_custom(which).await? else {
            continue;
        };
        let Some(run) = object.pointer("/status/run") else {
            continue;
        };
        match serde_json::from_value(run.clone()) {
            Ok(run) => runs.push(run),
            Err(error) => {
                tracing::error!(%key, %error, "a canary cannot be read by this version; it begins anew");
            }
        }
    }
    Ok(runs)
}

/// Keeps where a run stands in the status of its object.
pub(in crate::control) async fn keep(
    control: &Control,
    cluster: &Cluster,
    run: &Run,
) -> Result<(), Problem> {
    let origin = run.origin.as_deref().unwrap_or_default();
    let all = objects(control).await;
    let found = all
        .iter()
        .find(|(key, _)| rollouts::origin_of(key) == origin);
    let Some((key, version)) = found else {
        // Deleted: nothing is left to keep it in, and the run is ended.
        return Ok(());
    };
    let which = (
        version.as_str(),
        "Canary",
        Some(key.namespace.as_str()),
        key.name.as_str(),
    );
    let failed = |error: &ClusterError| {
        Problem::new(
            Reason::Unknown,
            format!("where the canary {key} stands was not written: {error}"),
        )
    };
    for _ in 0..TRIES {
        let object = cluster.get_custom(which).await;
        let Some(mut object) = object.map_err(|error| failed(&error))? else {
            return Ok(());
        };
        let mut status = object.get("status").cloned().unwrap_or_else(|| json!({}));
        tell(&mut status, run);
        set(&mut object, "status", status);
        match cluster.replace_status(which, &object).await {
            Err(ClusterError::Conflict(_)) => {}
            other => return other.map(drop).map_err(|error| failed(&error)),
        }
    }
    Err(Problem::new(
        Reason::Conflict,
        format!("the status of {key} is changed by somebody else all the time"),
    ))
}

fn tell(status: &mut Value, run: &Run) {
    set(status, "phase", run.state.phase.name());
    set(status, "reason", run.state.reason.as_str());
    // As Flagger's column has it, too.
    let weight = run.state.weight(&run.spec);
    set(status, "weight", weight);
    set(status, "canaryWeight", weight);
    // A struct of plain values always serialises.
    set(status, "run", serde_json::to_value(run).unwrap_or_default());
}
