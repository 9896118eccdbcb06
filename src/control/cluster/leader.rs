//! Which replica writes: the holder of a Lease.
//!
//! As Kubernetes' own components do it: clocks of machines are never compared. Who wants the Lease watches
//! how long its record stays the same, by its own clock, and takes it once that is longer than the holder
//! promised to renew it. The holder stops writing before that, whatever the API server says.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Membership;
use super::denied::Denied;
use crate::install::{self, LEASE, NAME, REVISION, of_revision};
use crate::resource::json::set;
use crate::rt::{Tasks, UnixMillis, Wall};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef};

/// How long a record holds. Less than client-go's 15 s: with the round in which it is first seen, and with what
/// the next holder begins with, writing goes on within 15 s of a holder's sudden end.
const LEASE_SECONDS: u64 = 9;
/// Who could not renew for this long writes no more; before others may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(6);
/// Giving the Lease up may take so long: then it runs out by itself.
const RESIGN: Duration = Duration::from_secs(2);
/// How often a record is looked at, or renewed.
const ROUND: Duration = Duration::from_secs(2);

/// What is done with it, for who must be let.
const LEASE_WHAT: &str = "the Lease of the replica that writes";

/// What one replica knows of the Lease.
#[derive(Debug, Default)]
struct Election {
    /// The record as it was seen last, and when it was first seen so.
    seen: Option<(Value, Instant)>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
enum Move {
    /// Make the Lease, held by us.
    Create(Value),
    /// Put this in its place.
    Replace(Value),
    /// Somebody else holds it.
    Wait,
}

impl Election {
    /// How long until it is worth another look: a round, or less when the record runs out before.
    fn wait(&self, now: Instant) -> Duration {
        let Some((spec, since)) = &self.seen else {
            return ROUND;
        };
        let left = promised(spec).saturating_sub(now.duration_since(*since));
        // A record has run out after its time, not at it.
        (left + Duration::from_millis(1)).min(ROUND)
    }

    /// What `me` does about the Lease as it is `found` now.
    fn next(&mut self, found: Option<&Value>, me: &str, now: Instant, wall: UnixMillis) -> Move {
        let Some(found) = found else {
            self.seen = None;
            return Move::Create(record(None, me, wall));
        };
        let spec = found.get("spec").cloned().unwrap_or(Value::Null);
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => {
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let holder = spec.get("holderIdentity").and_then(Value::as_str);
        let holder = holder.unwrap_or_default();
        let over = now.duration_since(since) > promised(&spec);
        if holder == me || holder.is_empty() || over {
            Move::Replace(record(Some(found), me, wall))
        } else {
            Move::Wait
        }
    }
}

/// How long a record holds by its own words.
fn promised(spec: &Value) -> Duration {
    let seconds = spec.get("leaseDurationSeconds").and_then(Value::as_u64);
    Duration::from_secs(seconds.unwrap_or(LEASE_SECONDS))
}

/// The Lease with `me` as its holder, after it was `before`.
fn record(before: Option<&Value>, me: &str, wall: UnixMillis) -> Value {
    let now = moment(wall);
    let mut lease = before.cloned().unwrap_or_else(|| json!({}));
    let spec = lease.get("spec").cloned().unwrap_or(Value::Null);
    let same = spec.get("holderIdentity").and_then(Value::as_str) == Some(me);
    let changes = spec.get("leaseTransitions").and_then(Value::as_u64);
    let acquired = spec.get("acquireTime").filter(|_| same).cloned();
    let renewed = json!({
        "holderIdentity": me,
        "leaseDurationSeconds": LEASE_SECONDS,
        "acquireTime": acquired.unwrap_or_else(|| json!(now)),
        "renewTime": now,
        "leaseTransitions": changes.unwrap_or_default() + u64::from(!same && before.is_some()),
    });
    set(&mut lease, "spec", renewed);
    lease
}

/// As Kubernetes writes a `MicroTime`.
pub(super) fn moment(at: UnixMillis) -> String {
    let at = i64::try_from(at).ok();
    let at = at.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    let at = at.unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Gives the Lease up, so that another replica need not wait for it to run out. Only after everything that
/// writes has ended.
pub(super) async fn resign(cluster: &Cluster, membership: &Membership) {
    let which = ObjectRef {
        kind: "Lease".to_owned(),
        namespace: Some(membership.namespace.clone()),
        name: of_revision(LEASE, &membership.revision),
    };
    let give_up = async {
        let Some(mut lease) = cluster.get(&which).await? else {
            return Ok(());
        };
        if lease.pointer("/spec/holderIdentity") != Some(&json!(membership.replica)) {
            return Ok(());
        }
        if let Some(spec) = lease.get_mut("spec") {
            set(spec, "holderIdentity", "");
            set(spec, "leaseDurationSeconds", 1);
        }
        cluster.replace(&lease).await.map(drop)
    };
    match tokio::time::timeout(RESIGN, give_up).await {
        Ok(Ok(())) => {}
        Ok(Err::<(), ClusterError>(error)) => tracing::debug!(%error, "the Lease was not given up"),
        Err(_) => tracing::debug!("the Lease was not given up in time"),
    }
}

/// Whether this replica writes, from now on; false once `tasks` end.
pub(super) fn start(
    cluster: &Cluster,
    membership: &Membership,
    wall: Wall,
    tasks: &Tasks,
) -> watch::Receiver<bool> {
    let (leads, watched) = watch::channel(false);
    let candidate = Candidate {
        cluster: cluster.clone(),
        which: ObjectRef {
            kind: "Lease".to_owned(),
            namespace: Some(membership.namespace.clone()),
            name: of_revision(LEASE, &membership.revision),
        },
        revision: membership.revision.clone(),
        me: membership.replica.clone(),
        wall,
        leads,
    };
    tasks.spawn("leader", candidate.run());
    watched
}

struct Candidate {
    cluster: Cluster,
    which: ObjectRef,
    revision: String,
    me: String,
    wall: Wall,
    leads: watch::Sender<bool>,
}

impl Candidate {
    async fn run(self) {
        let mut election = Election::default();
        let mut denied = Denied::default();
        let mut renewed: Option<Instant> = None;
        loop {
            // A request that hangs must not outlast the promise, which counts from before it was made: an answer
            // may be late.
            let began = Instant::now();
            let until = renewed.unwrap_or(began) + RENEW_DEADLINE;
            let tried = tokio::time::timeout_at(until, self.turn(&mut election)).await;
            match tried {
                Ok(Ok(true)) => {
                    renewed = Some(began);
                    self.say(true);
                }
                Ok(Ok(false)) => {
                    renewed = None;
                    self.say(false);
                }
                Ok(Err(error)) => {
                    if !denied.is(LEASE_WHAT, &error) {
                        tracing::debug!(%error, "the Lease cannot be read or written");
                    }
                }
                Err(_) => tracing::debug!("the Lease cannot be read or written in time"),
            }
            if renewed == Some(began) {
                denied.may(LEASE_WHAT);
            }
            let overdue = renewed.is_none_or(|at| at.elapsed() >= RENEW_DEADLINE);
            let mut wait = ROUND;
            if overdue {
                renewed = None;
                self.say(false);
                wait = election.wait(Instant::now());
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Looks at the Lease and renews or takes it; whether we hold it.
    async fn turn(&self, election: &mut Election) -> Result<bool, ClusterError> {
        let found = self.cluster.get(&self.which).await?;
        let next = election.next(found.as_ref(), &self.me, Instant::now(), self.wall.millis());
        let written = match next {
            Move::Wait => return Ok(false),
            Move::Create(mut lease) => {
                set(&mut lease, "apiVersion", "coordination.k8s.io/v1");
                set(&mut lease, "kind", "Lease");
                let metadata = json!({
                    "name": self.which.name,
                    "namespace": self.which.namespace,
                    "labels": written_labels(&self.revision),
                });
                set(&mut lease, "metadata", metadata);
                self.cluster.create(&lease).await
            }
            Move::Replace(lease) => self.cluster.replace(&lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Another was faster.
            Err(ClusterError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn say(&self, leads: bool) {
        self.leads.send_if_modified(|now| {
            let changed = *now != leads;
            *now = leads;
            if changed && leads {
                tracing::info!(lease = %self.which, "this replica writes");
            } else if changed {
                tracing::warn!(lease = %self.which, "this replica writes no more");
            }
            changed
        });
    }
}

/// Labels of what the control plane writes.
pub(super) fn written_labels(revision: &str) -> Value {
    json!({
        "app.kubernetes.io/managed-by": NAME,
        "app.kubernetes.io/part-of": NAME,
        install::WRITTEN: "control-plane",
        REVISION: revision,
    })
}

/// Resolves once this replica writes; never when it cannot any more.
pub(super) async fn elected(leads: &mut watch::Receiver<bool>) {
    if leads.wait_for(|leads| *leads).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Shares of one election between tasks.
pub(super) type Leads = watch::Receiver<bool>;

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(made: &Move) -> Option<&str> {
        match made {
            Move::Create(lease) | Move::Replace(lease) => {
                lease.pointer("/spec/holderIdentity")?.as_str()
            }
            Move::Wait => None,
        }
    }

    fn lease(made: Move) -> Value {
        match made {
            Move::Create(lease) | Move::Replace(lease) => lease,
            Move::Wait => panic!("nothing was written"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_once_it_stood_still_for_as_long_as_it_promised() {
        let (mut a, mut b) = (Election::default(), Election::default());
        let held = lease(a.next(None, "a", Instant::now(), 1_000));
        assert_eq!(held["spec"]["leaseTransitions"], 0);
        // The other's clock may say anything.
        assert_eq!(
            b.next(Some(&held), "b", Instant::now(), 9_000_000),
            Move::Wait
        );
        assert_eq!(b.wait(Instant::now()), ROUND);
        tokio::time::advance(Duration::from_secs(8)).await;
        assert_eq!(b.next(Some(&held), "b", Instant::now(), 0), Move::Wait);
        // It looks again just when the record runs out.
        assert_eq!(b.wait(Instant::now()), Duration::from_millis(1_001));
        let renewed = lease(a.next(Some(&held), "a", Instant::now(), 15_000));
        assert_eq!(renewed["spec"]["acquireTime"], held["spec"]["acquireTime"]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(b.next(Some(&renewed), "b", Instant::now(), 0), Move::Wait);
        tokio::time::advance(Duration::from_secs(9) + Duration::from_millis(1)).await;
        let taken = b.next(Some(&renewed), "b", Instant::now(), 0);
        assert_eq!(holder(&taken), Some("b"));
        let taken = lease(taken);
        assert_eq!(taken["spec"]["leaseTransitions"], 1);
        assert_eq!(a.next(Some(&taken), "a", Instant::now(), 0), Move::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_given_up_is_taken_at_once() {
        let mut election = Election::default();
        let given = json!({"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": ""}});
        let taken = lease(election.next(Some(&given), "b", Instant::now(), 0));
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["holderIdentity"], "b");
    }

    /// However replicas are delayed and cut off: two never hold it at once, by what they do.
    #[tokio::test(start_paused = true)]
    async fn two_replicas_never_lead_at_once() {
        fastrand_like(|pick| async move {
            let mut server: Option<(u64, Value)> = None;
            let mut replicas: Vec<(Election, Option<Instant>)> =
                (0..3).map(|_| (Election::default(), None)).collect();
            let mut pick = pick;
            for _ in 0..400 {
                tokio::time::advance(Duration::from_millis(pick(3_000))).await;
                let at = usize::try_from(pick(3)).unwrap();
                let me = format!("r{at}");
                let now = Instant::now();
                let cut_off = pick(4) == 0;
                if !cut_off {
                    let (version, found) = server.clone().map_or((0, None), |(v, l)| (v, Some(l)));
                    let (election, renewed) = &mut replicas[at];
                    let next = election.next(found.as_ref(), &me, now, 0);
                    if let Move::Create(lease) | Move::Replace(lease) = next {
                        server = Some((version + 1, lease_of(&lease, version + 1)));
                        *renewed = Some(now);
                    } else {
                        *renewed = None;
                    }
                }
                let leading = replicas
                    .iter()
                    .filter(|(_, renewed)| renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE))
                    .count();
                assert!(leading <= 1, "{leading} lead");
            }
        })
        .await;
    }

    /// What the server keeps: every write is another record.
    fn lease_of(lease: &Value, version: u64) -> Value {
        let mut kept = lease.clone();
        kept["spec"]["renewTime"] = json!(version);
        kept
    }

    /// Runs `test` with a few sequences of numbers below what is asked for.
    async fn fastrand_like<F, Fut>(test: F)
    where
        F: Fn(Box<dyn FnMut(u64) -> u64>) -> Fut,
        Fut: Future<Output = ()>,
    {
        for seed in 1..20_u64 {
            let mut state = seed;
            test(Box::new(move |below| {
                // Knuth's linear congruential generator.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            }))
            .await;
        }
    }
}
