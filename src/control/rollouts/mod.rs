//! Rollouts that run: what is seen of each is put before [`crate::mesh::rollout::step`], and what that says is done.
//!
//! Owns the driving and the keeping. The state is in the store before anything of it is done, and everything may be done twice, so a
//! control plane that was killed goes on from where it was. Where configuration is the API server's, only the
//! replica that writes drives, and the state is kept in the status of an object. Routes are written as `canary set` writes them.

mod call;
mod drive;
mod keep;
mod objects;
mod route;
mod start;

pub(in crate::control) use objects::{origin_of, write};
pub(in crate::control) use start::{Other, order, start};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Control;
use crate::api::rollouts::{Rollout, RolloutEvent};
use crate::mesh::rollout::{Answer, Spec, State};
use crate::rt::{Tasks, UnixMillis};
use crate::source::store::{Store, StoreError};

/// How often each run is looked at. Looks at metrics are due by the run's own interval.
const TICK: Duration = Duration::from_millis(200);
/// Events that are kept of a run.
const MOST_EVENTS: usize = 100;

/// Namespace and name of a Service.
pub(in crate::control) type Name = (String, String);

/// Versions and weights; none where requests are not split.
type Split = Option<Vec<(String, u32)>>;

/// One run, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::control) struct Run {
    pub(in crate::control) namespace: String,
    pub(in crate::control) service: String,
    pub(in crate::control) spec: Spec,
    pub(in crate::control) state: State,
    /// Who began it.
    pub(in crate::control) who: String,
    /// What happened, the newest last.
    pub(in crate::control) events: Vec<RolloutEvent>,
    /// The object that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::control) origin: Option<String>,
    /// What that asked for, before the serving version was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::control) asked: Option<Box<Spec>>,
}

impl Run {
    fn name(&self) -> Name {
        (self.namespace.clone(), self.service.clone())
    }

    /// What people are told of it.
    pub(in crate::control) fn report(&self) -> Rollout {
        Rollout {
            who: self.who.clone(),
            events: self.events.clone(),
            origin: self.origin.clone(),
            ..Rollout::of((&self.namespace, &self.service), &self.spec, &self.state)
        }
    }

    fn tell(&mut self, at_unix_ms: UnixMillis, what: String) {
        tracing::info!(service = %self.service, namespace = %self.namespace, %what, "canary");
        self.events.push(RolloutEvent { at_unix_ms, what });
        let surplus = self.events.len().saturating_sub(MOST_EVENTS);
        self.events.drain(..surplus);
    }
}

/// A run with what is under way for it.
#[derive(Debug, Default)]
struct Driven {
    run: Run,
    /// Answers of webhooks that have come.
    inbox: Arc<std::sync::Mutex<Vec<Answer>>>,
    /// Calls that are being made.
    calling: Arc<std::sync::Mutex<BTreeSet<u64>>>,
    /// Routes are not tried again before.
    routed_again_at: UnixMillis,
    /// The split in force, and the world that it was read in.
    split: Option<(u64, Split)>,
    /// Whether what is kept is older than what is here.
    unkept: bool,
}

impl Driven {
    fn new(run: Run) -> Self {
        Self {
            run,
            ..Self::default()
        }
    }

    fn heard(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All runs, each behind a lock of its own, so that one whose proxies are slow does not hold up the others.
#[derive(Debug, Clone)]
pub(crate) struct Rollouts {
    store: Store,
    runs: Arc<Mutex<BTreeMap<Name, Arc<Mutex<Driven>>>>>,
    tasks: Tasks,
    /// Why objects do not begin, as it was said last.
    held_up: Arc<std::sync::Mutex<BTreeMap<String, String>>>,
}

impl Rollouts {
    /// Reads what was kept.
    pub(in crate::control) fn open(store: Store, tasks: &Tasks) -> Result<Self, StoreError> {
        // In a cluster these are of no weight: they are read from the objects before anything is done.
        let runs = keep::current(&store)?
            .into_iter()
            .map(|run| (run.name(), Arc::new(Mutex::new(Driven::new(run)))))
            .collect();
        Ok(Self {
            store,
            runs: Arc::new(Mutex::new(runs)),
            tasks: tasks.clone(),
            held_up: Arc::default(),
        })
    }

    /// Says why an object does not begin, once for each reason.
    fn held_up(&self, origin: &str, why: &str) {
        let mut said = self.held_up.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.insert(origin.to_owned(), why.to_owned());
        if before.as_deref() != Some(why) {
            tracing::warn!(%origin, %why, "a canary does not begin");
        }
    }

    /// Has these runs in place of all others.
    pub(in crate::control) async fn instead(&self, all: Vec<Run>) {
        let all = all
            .into_iter()
            .map(|run| (run.name(), Arc::new(Mutex::new(Driven::new(run)))));
        *self.runs.lock().await = all.collect();
    }

    async fn find(&self, name: &Name) -> Option<Arc<Mutex<Driven>>> {
        self.runs.lock().await.get(name).cloned()
    }

    /// Every service's newest run.
    pub(in crate::control) async fn list(&self) -> Vec<Rollout> {
        let all: Vec<_> = self.runs.lock().await.values().cloned().collect();
        let mut out = Vec::new();
        for driven in all {
            out.push(driven.lock().await.run.report());
        }
        out
    }

    /// The newest run of a service.
    pub(in crate::control) async fn get(&self, name: &Name) -> Option<Rollout> {
        let driven = self.find(name).await?;
        let driven = driven.lock().await;
        Some(driven.run.report())
    }

    /// All runs of a service that are still known, the newest first.
    pub(in crate::control) async fn history(
        &self,
        name: &Name,
    ) -> Result<Vec<Rollout>, StoreError> {
        let mut all: Vec<Rollout> = self.get(name).await.into_iter().collect();
        let past = keep::past(&self.store, name)?;
        all.extend(past.iter().rev().map(|(_, run)| run.report()));
        Ok(all)
    }
}

/// Drives all runs, for ever.
pub(in crate::control) async fn run(control: Arc<Control>) {
    loop {
        turn(&control).await;
    }
}

/// One turn of all runs, and the time until the next.
pub(in crate::control) async fn turn(control: &Control) {
    objects::follow(control).await;
    tick(control).await;
    tokio::time::sleep(TICK).await;
}

/// Looks at every run once.
async fn tick(control: &Control) {
    let all: Vec<_> = control
        .rollouts
        .runs
        .lock()
        .await
        .values()
        .cloned()
        .collect();
    let each = all.into_iter().map(|driven| async move {
        let mut driven = driven.lock().await;
        if driven.unkept || !driven.run.state.is_done() {
            drive::drive(control, &mut driven, None).await;
        }
    });
    futures_util::future::join_all(each).await;
}
