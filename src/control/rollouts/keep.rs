//! Runs in the store: the newest of each service, and some before it.

use super::{Name, Run};
use crate::api::{Problem, Reason};
use crate::control::cluster::canaries;
use crate::control::{Control, index};
use crate::source::store::{Batch, Store, StoreError, Tree};

/// Runs of a service that are known beside the newest.
const MOST_PAST: usize = 20;

fn key((namespace, service): &Name) -> String {
    format!("run/{namespace}/{service}")
}

fn prefix((namespace, service): &Name) -> String {
    format!("done/{namespace}/{service}/")
}

/// The newest run of every service. What cannot be read is left where it is, and said.
pub(super) fn current(store: &Store) -> Result<Vec<Run>, StoreError> {
    let records = store.scan(Tree::Canaries, b"run/")?;
    let read = records.into_iter().filter_map(|(key, bytes)| {
        let read = serde_json::from_slice::<Run>(&bytes);
        if let Err(error) = &read {
            tracing::error!(key = %String::from_utf8_lossy(&key), %error, "a canary cannot be read by this version; it stands still");
        }
        read.ok()
    });
    Ok(read.collect())
}

/// Past runs of a service with their keys, the oldest first.
pub(super) fn past(store: &Store, name: &Name) -> Result<Vec<(Vec<u8>, Run)>, StoreError> {
    let records = store.scan(Tree::Canaries, prefix(name).as_bytes())?;
    let read = records
        .into_iter()
        .filter_map(|(key, bytes)| Some((key, serde_json::from_slice(&bytes).ok()?)));
    Ok(read.collect())
}

/// Keeps a run as the newest of its service; `before` is moved to the past in the same write. Where configuration is
/// the API server's, that has where it stands, and what is past is what this replica saw.
pub(super) async fn keep(
    control: &Control,
    run: &Run,
    before: Option<&Run>,
) -> Result<(), Problem> {
    let store = &control.rollouts.store;
    if let Some(cluster) = &control.cluster {
        canaries::keep(control, cluster, run).await?;
        if before.is_none() {
            return Ok(());
        }
    }
    let mut batch = Batch::new();
    let name = run.name();
    batch.put(Tree::Canaries, key(&name), encode(run)?);
    if let Some(before) = before {
        let known = past(store, &name).map_err(|error| index::problem(&error))?;
        let surplus = (known.len() + 1).saturating_sub(MOST_PAST);
        for (old, _) in known.into_iter().take(surplus) {
            batch.remove(Tree::Canaries, old);
        }
        let at = format!("{}{:016x}", prefix(&name), before.state.started_unix_ms);
        batch.put(Tree::Canaries, at, encode(before)?);
    }
    let kept = store.commit_async(batch).await;
    kept.map(drop).map_err(|error| index::problem(&error))
}

fn encode(run: &Run) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(run).map_err(|error| Problem::new(Reason::Internal, error.to_string()))
}
