//! The reviews of outlier detection, each cluster at its own interval.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::rt::{self, Reader};

use super::super::balance::outlier::sweep::sweep;
use super::super::context::Shared;
use super::super::tables::{ClusterTable, Tables};

/// When the clusters with outlier detection are due.
#[derive(Debug, Default)]
struct Reviews {
    due: BTreeMap<String, Instant>,
}

fn next(cluster: &ClusterTable, now: Instant) -> Option<Instant> {
    let interval = cluster.outlier.as_ref()?.policy.interval;
    // An interval of nothing is one that no timer keeps.
    Some(now + interval.max(std::time::Duration::from_millis(1)))
}

impl Reviews {
    /// Takes clusters that are new in, and those that are gone out.
    fn follow(&mut self, tables: &Tables, now: Instant) {
        let before = std::mem::take(&mut self.due);
        for cluster in &tables.clusters {
            if let Some(next) = next(cluster, now) {
                let name = &cluster.config.name;
                let due = before.get(name).copied().unwrap_or(next).min(next);
                self.due.insert(name.clone(), due);
                // What changed while the tables were built is in neither.
                cluster.endpoints.changed();
            }
        }
    }

    /// Clusters that are due at `now`; each is due again an interval later.
    fn take<'t>(&mut self, tables: &'t Tables, now: Instant) -> Vec<&'t Arc<ClusterTable>> {
        let mut found = Vec::new();
        for cluster in &tables.clusters {
            if let Some(due) = self.due.get_mut(&cluster.config.name)
                && *due <= now
                && let Some(next) = next(cluster, now)
            {
                *due = next;
                found.push(cluster);
            }
        }
        found
    }
}

/// Reviews for as long as there are tables.
pub(crate) async fn run(shared: Arc<Shared>, mut tables: Reader<Tables>) {
    let mut reviews = Reviews::default();
    reviews.follow(&tables.load(), rt::now());
    loop {
        let first = reviews.due.values().min().copied();
        let pause = async {
            match first {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = tables.changed() => {
                if !changed {
                    return;
                }
                reviews.follow(&tables.load(), rt::now());
            }
            () = pause => {
                let current = tables.load();
                let now = rt::now();
                for cluster in reviews.take(&current, now) {
                    sweep(cluster, shared.millis(now), &mut |below| fastrand::u64(0..below.max(1)));
                }
            }
        }
    }
}
