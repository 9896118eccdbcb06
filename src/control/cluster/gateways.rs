//! Gateways of the Gateway API that are given proxies: an account, a Deployment, a Service each, and what is said of
//! them while these come up.
//!
//! What is made belongs to the Gateway, so that the cluster removes it with the Gateway. Fields that we write are
//! ours and come back when somebody changes them; all others, and how many proxies there are, are left to people and
//! autoscalers. What has the same name and is not the Gateway's is never touched: the Gateway says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Membership;
use super::leader::{Leads, elected};
use super::standing::{Standing, Standings};
use crate::control::Control;
use crate::install::Settings;
use crate::install::deployed::{Asked, deployed, selector};
use crate::rt::{Backoff, Tasks};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef, Outcome};

/// Changes of the world are gathered for so long.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked whether proxies are ready that were not.
const LOOK: Duration = Duration::from_secs(1);
/// How often everything is compared with the cluster, where somebody may have changed it.
const COMPARE: Duration = Duration::from_secs(15);
/// Kinds of what is made, each with what other kinds need first.
const KINDS: [&str; 4] = [
    "ServiceAccount",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
];

/// Starts it; ends with `tasks`. How the Gateways stand comes from what is returned: nothing is known of them until
/// this replica writes.
pub(super) fn start(
    control: &Arc<Control>,
    cluster: &Cluster,
    membership: &Membership,
    leads: Leads,
    tasks: &Tasks,
) -> watch::Receiver<Standings> {
    let settings = &membership.settings;
    if !settings.gateway_deployments {
        return watch::channel(Some(BTreeMap::new())).1;
    }
    let (told, standings) = watch::channel(None);
    let keeper = Keeper {
        control: Arc::clone(control),
        cluster: cluster.clone(),
        settings: settings.clone(),
        told,
    };
    tasks.spawn("gateways", keeper.run(leads));
    standings
}

struct Keeper {
    control: Arc<Control>,
    cluster: Cluster,
    settings: Settings,
    told: watch::Sender<Standings>,
}

/// What is known to be in the cluster.
#[derive(Default)]
struct Kept {
    /// What was applied for each Gateway.
    applied: BTreeMap<(String, String), Applied>,
    /// When everything was compared last.
    compared: Option<Instant>,
}

struct Applied {
    asked: Asked,
    ready: bool,
    standing: Standing,
}

impl Keeper {
    async fn run(self, mut leads: Leads) {
        let mut worlds = self.control.index.reader().versions();
        loop {
            elected(&mut leads).await;
            // Another may have written meanwhile.
            let mut kept = Kept::default();
            let mut backoff = Backoff::new(LOOK, COMPARE);
            while *leads.borrow() {
                worlds.borrow_and_update();
                let wait = match self.round(&mut kept, &leads).await {
                    Ok(wait) => {
                        backoff.reset();
                        wait
                    }
                    Err(error) => {
                        tracing::debug!(%error, "Deployments of Gateways are compared later");
                        backoff.next(fastrand::f64())
                    }
                };
                tokio::select! {
                    changed = worlds.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                    () = tokio::time::sleep(wait) => {}
                    _ = leads.changed() => {}
                }
            }
            self.told.send_replace(None);
        }
    }

    /// Makes what is wanted, and takes away what is not any more; gives how long nothing need be looked at.
    async fn round(&self, kept: &mut Kept, leads: &Leads) -> Result<Duration, ClusterError> {
        let wanted = self.control.index.gateways().await;
        let overdue = kept.compared.is_none_or(|at| at.elapsed() >= COMPARE);
        let keys: BTreeSet<(String, String)> = wanted.iter().map(Asked::key).collect();
        let fewer = kept.applied.keys().any(|key| !keys.contains(key));
        kept.applied.retain(|key, _| keys.contains(key));
        let mut renamed = false;
        for asked in &wanted {
            if !*leads.borrow() {
                return Ok(LOOK);
            }
            let before = kept.applied.get(&asked.key());
            let same = before.is_some_and(|before| before.asked == *asked);
            renamed |= before.is_some_and(|before| before.asked.called() != asked.called());
            if same && !overdue {
                continue;
            }
            let standing = match self.apply(asked).await {
                Ok(standing) => standing,
                Err(error) if error.passes() => return Err(error),
                Err(error) => {
                    tracing::warn!(gateway = asked.name, namespace = asked.namespace, %error, "a Gateway has no Deployment");
                    Standing::refused(error.to_string())
                }
            };
            let applied = Applied {
                asked: asked.clone(),
                ready: false,
                standing,
            };
            kept.applied.insert(asked.key(), applied);
        }
        if overdue || fewer || renamed {
            self.sweep(&wanted).await?;
        }
        if overdue {
            kept.compared = Some(Instant::now());
        }
        let mut waits = COMPARE;
        for applied in kept.applied.values_mut() {
            let asked = &applied.asked;
            if applied.standing.refused.is_none() && !applied.ready {
                let which = asked.reference("Deployment");
                let found = self.cluster.get(&which).await?;
                applied.standing.proxies(found.as_ref());
                applied.ready = applied.standing.is_ready();
                if !applied.ready {
                    waits = LOOK;
                }
            }
            let index = &self.control.index;
            let service = index.service(&asked.namespace, &asked.called()).await;
            applied.standing.reached(service.as_ref(), asked);
        }
        let now: BTreeMap<_, _> = kept
            .applied
            .iter()
            .map(|(key, applied)| (key.clone(), applied.standing.clone()))
            .collect();
        self.told.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&now);
            *told = Some(now);
            changed
        });
        Ok(waits)
    }

    /// Makes everything for one Gateway, unless something of that name is somebody else's.
    async fn apply(&self, asked: &Asked) -> Result<Standing, ClusterError> {
        if let Some(message) = asked.misnamed() {
            return Ok(Standing::refused(message));
        }
        let mut replicas = self.settings.gateway_replicas;
        for kind in KINDS {
            let which = asked.reference(kind);
            let Some(found) = self.cluster.get(&which).await? else {
                continue;
            };
            if !is_of(&found, asked) {
                return Ok(Standing::refused(format!(
                    "{which} is there already and is not of this Gateway; rename one of them, or delete it"
                )));
            }
            // As many as somebody, or an autoscaler, made of it.
            if kind == "Deployment" {
                let there = found.pointer("/spec/replicas").and_then(Value::as_u64);
                let there = there.and_then(|count| u32::try_from(count).ok());
                replicas = there.unwrap_or(replicas);
            }
        }
        for object in deployed(&self.settings, asked, replicas) {
            let outcome = self.cluster.apply(&object, true).await?;
            if outcome != Outcome::Unchanged {
                let which = ObjectRef::of(&object);
                tracing::info!(%which, outcome = outcome.name(), "applied for a Gateway");
            }
        }
        Ok(Standing::default())
    }

    /// Takes away what was made for a Gateway that is there and wants none of it: it has another class now, or
    /// fewer proxies. What is of one that is gone goes by itself.
    async fn sweep(&self, wanted: &[Asked]) -> Result<(), ClusterError> {
        let uids = self.control.index.gateway_uids().await;
        let mut there = BTreeMap::new();
        for kind in KINDS.iter().rev() {
            let selector = selector(&self.settings.revision);
            for object in self.cluster.list(kind, None, &selector).await? {
                let which = ObjectRef::of(&object);
                if *kind == "Deployment" {
                    let replicas = object.pointer("/spec/replicas").and_then(Value::as_u64);
                    there.insert((which.namespace.clone(), which.name.clone()), replicas);
                }
                let owner = wanted.iter().find(|asked| is_of(&object, asked));
                let called = owner.is_some_and(|asked| asked.called() == which.name);
                let place = (which.namespace.clone(), which.name.clone());
                let alone = there.get(&place).copied().flatten().is_some_and(|n| n <= 1);
                let stays = called && !(*kind == "PodDisruptionBudget" && alone);
                let lives = owner_of(&object).is_some_and(|uid| uids.contains(uid));
                if !stays && lives {
                    self.cluster.delete(&which).await?;
                    tracing::info!(%which, "removed: its Gateway does not ask for it any more");
                }
            }
        }
        Ok(())
    }
}

fn owner_of(object: &Value) -> Option<&str> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    owner.get("uid")?.as_str()
}

fn is_of(object: &Value, asked: &Asked) -> bool {
    owner_of(object) == Some(asked.uid.as_str())
}
