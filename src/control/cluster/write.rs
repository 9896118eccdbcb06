//! Changes that the control plane itself makes to configuration, where the API server keeps it: weights of canaries,
//! faults and their end.
//!
//! Nothing of it goes to our own store. A change is judged as a whole over what is known, then written object by
//! object, each held against the version that it was made from, so that what somebody else changed meanwhile is
//! never overwritten.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::leader::{Leads, elected};
use crate::api::resources::{ApplyReport, Outcome, Written};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::index::{Edit, Tolerance};
use crate::resource::Key;
use crate::resource::json::set;
use crate::rt::Tasks;
use crate::source::kubernetes::cluster::{Cluster, ClusterError};

/// How long what was written may take to come back as what is followed.
const ECHO: Duration = Duration::from_secs(5);
/// How often faults are looked at that may be over.
const LOOK: Duration = Duration::from_secs(1);

/// What a change came to.
#[derive(Debug)]
pub(in crate::control) struct Changed {
    pub(in crate::control) report: ApplyReport,
    /// The world that holds it.
    pub(in crate::control) generation: u64,
    /// What the API server keeps of it; nothing where our own store does.
    pub(in crate::control) written: Vec<Written>,
}

impl Control {
    /// Does one change where configuration is kept: in our own store, or at the API server.
    pub(in crate::control) async fn change(&self, edit: Edit) -> Result<Changed, Problem> {
        let Some(cluster) = &self.cluster else {
            let (report, generation) = self.index.change(edit).await?;
            return Ok(Changed {
                report,
                generation,
                written: Vec::new(),
            });
        };
        let report = self.index.rehearse(&edit).await?;
        let mut written = Vec::new();
        let mut put = edit.put;
        // Subsets are there before something is sent to them.
        put.sort_by_key(|object| object.key().kind != "DestinationRule");
        for object in put {
            let key = object.key();
            let same = |done: &&crate::api::resources::ObjectOutcome| {
                (&done.kind, &done.namespace, &done.name) == (&key.kind, &key.namespace, &key.name)
            };
            let outcome = report.objects.iter().find(same).map(|done| done.outcome);
            if outcome == Some(Outcome::Unchanged) {
                continue;
            }
            let put = self.put(cluster, &key, object.raw.clone()).await;
            let put = put.map_err(|error| refused(&key, &error, &written))?;
            written.push(of(&key, Some(&put)));
        }
        for key in edit.remove {
            let removed = self.remove(cluster, &key).await;
            removed.map_err(|error| refused(&key, &error, &written))?;
            written.push(of(&key, None));
        }
        let generation = self.index.until_followed(&written, ECHO).await;
        let generation = generation.ok_or_else(|| {
            Problem::new(
                Reason::Unknown,
                "the API server took the change, and has not told of it since",
            )
            .hint("`meshctl check` says whether the cluster is being followed")
        })?;
        Ok(Changed {
            report,
            generation,
            written,
        })
    }

    async fn put(
        &self,
        cluster: &Cluster,
        key: &Key,
        mut raw: Value,
    ) -> Result<Value, ClusterError> {
        if let Value::Object(fields) = &mut raw {
            fields.remove("status");
        }
        let Some(there) = self.index.held(key).await else {
            return cluster.create_custom(&raw).await;
        };
        let version = there.raw.pointer("/metadata/resourceVersion").cloned();
        if let (Some(version), Some(metadata)) = (version, raw.get_mut("metadata")) {
            set(metadata, "resourceVersion", version);
        }
        cluster.replace_custom(&raw).await
    }

    async fn remove(&self, cluster: &Cluster, key: &Key) -> Result<(), ClusterError> {
        let Some(there) = self.index.held(key).await else {
            return Ok(());
        };
        let kind = there.raw.get("kind").and_then(Value::as_str);
        let which = (
            there.api_version.as_str(),
            kind.unwrap_or(&key.kind),
            Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty()),
            key.name.as_str(),
        );
        cluster.delete_custom(which).await.map(drop)
    }
}

fn of(key: &Key, object: Option<&Value>) -> Written {
    let version = object.and_then(|object| object.pointer("/metadata/resourceVersion")?.as_str());
    Written {
        kind: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        resource_version: version.map(str::to_owned),
    }
}

/// Why the API server did not take an object, and what it has of the others.
fn refused(key: &Key, error: &ClusterError, before: &[Written]) -> Problem {
    let mut parts = vec![format!("{key} was not written: {error}")];
    let done = before.iter();
    parts.extend(done.map(|one| format!("{} {}/{} was", one.kind, one.namespace, one.name)));
    let message = parts.join("; ");
    match error {
        ClusterError::Conflict(_) => Problem::new(Reason::Conflict, message)
            .hint("somebody changed it meanwhile; look at it, and run the command again"),
        ClusterError::Forbidden(_) => Problem::new(Reason::Denied, message).hint(
            "`meshctl install --target kubernetes` again gives the control plane the rights of this version",
        ),
        ClusterError::Away { .. } => Problem::new(Reason::Unknown, message)
            .hint("the API server may have taken it; look before you repeat it"),
        _ => Problem::new(Reason::Invalid, message),
    }
}

/// Ends faults whose time has come, while this replica writes; ends with `tasks`.
pub(super) fn end_faults(control: &Arc<Control>, mut leads: Leads, tasks: &Tasks) {
    let control = Arc::clone(control);
    tasks.spawn("cluster-faults", async move {
        loop {
            elected(&mut leads).await;
            let over = control.index.faults_over().await;
            if !over.is_empty() {
                let words: Vec<String> = over.iter().map(ToString::to_string).collect();
                let edit = Edit {
                    remove: over,
                    who: "meshctl".to_owned(),
                    what: "fault ended".to_owned(),
                    tolerance: Tolerance::Everything,
                    ..Edit::default()
                };
                match control.change(edit).await {
                    Ok(_) => tracing::info!(ended = %json!(words), "faults ended"),
                    Err(problem) => {
                        tracing::error!(error = %problem.message, "cannot end faults");
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    });
}
