//! Events about objects that are wrong, where `kubectl describe` shows them.
//!
//! One event for an object and what is wrong with it: its name is made of both, so that whichever replica writes
//! finds it there. It is told again, as a series, before the API server forgets it (an hour by default), and
//! deleted once the object is mended or says something else. So many are written in a second and no more,
//! whatever people do to objects.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::amiss::Amiss;
use super::denied::Denied;
use super::leader::{Leads, elected, moment, written_labels};
use super::{CONTROLLER, Membership};
use crate::control::Control;
use crate::resource::json::set;
use crate::rt::{Backoff, Tasks};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, Custom};

/// Changes are gathered for so long, and after this more are written.
const PAUSE: Duration = Duration::from_secs(1);
/// Requests in one such time.
const MOST: usize = 10;
/// How often what still holds is told again: thrice in the time that API servers keep events.
const AGAIN: Duration = Duration::from_mins(20);
/// Waits while the API server does not take anything.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// As long as a note may be, in bytes.
const NOTE: usize = 1_024;
const API: &str = "events.k8s.io/v1";
const WHAT: &str = "events about objects";

/// Starts it; ends with `tasks`.
pub(super) fn start(
    control: &Arc<Control>,
    cluster: &Cluster,
    membership: &Membership,
    leads: Leads,
    tasks: &Tasks,
) {
    let teller = Teller {
        control: Arc::clone(control),
        cluster: cluster.clone(),
        revision: membership.revision.clone(),
        replica: membership.replica.clone(),
        posted: BTreeMap::new(),
        denied: Denied::default(),
    };
    tasks.spawn("events", teller.run(leads));
}

struct Teller {
    control: Arc<Control>,
    cluster: Cluster,
    revision: String,
    replica: String,
    /// By namespace and name.
    posted: BTreeMap<(String, String), Posted>,
    denied: Denied,
}

/// An event that is there.
struct Posted {
    /// How often it was told.
    count: u64,
    /// When last.
    told: Instant,
}

/// What a round came to.
enum Round {
    Done,
    /// There is more to write.
    More,
    /// The API server takes nothing now.
    Later,
}

impl Teller {
    async fn run(mut self, mut leads: Leads) {
        let mut worlds = self.control.index.reader().versions();
        let mut wrongs = self.control.index.wrongs.subscribe();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            if !*leads.borrow() {
                // Another may tell and delete meanwhile.
                self.posted.clear();
                elected(&mut leads).await;
            }
            let wait = match self.round().await {
                Round::Done => {
                    backoff.reset();
                    AGAIN / 4
                }
                Round::More => PAUSE,
                Round::Later => backoff.next(fastrand::f64()),
            };
            tokio::select! {
                changed = worlds.changed() => if changed.is_err() { return },
                changed = wrongs.changed() => if changed.is_err() { return },
                _ = leads.changed() => {}
                () = tokio::time::sleep(wait) => continue,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn round(&mut self) -> Round {
        let amiss = self.control.index.amiss().await;
        let wanted: BTreeMap<(String, String), &Amiss> = amiss
            .iter()
            .filter(|amiss| !amiss.leaving)
            .map(|amiss| (name(amiss), amiss))
            .collect();
        let gone: Vec<_> = self
            .posted
            .keys()
            .filter(|at| !wanted.contains_key(*at))
            .cloned()
            .collect();
        let mut left = MOST;
        for at in gone {
            if left == 0 {
                return Round::More;
            }
            left -= 1;
            let deleted = self.cluster.delete_custom(which(&at)).await.map(drop);
            if self.passes(deleted) {
                return Round::Later;
            }
            self.posted.remove(&at);
        }
        for (at, amiss) in wanted {
            let posted = self.posted.get(&at);
            if posted.is_some_and(|posted| posted.told.elapsed() < AGAIN) {
                continue;
            }
            if left == 0 {
                return Round::More;
            }
            left -= 1;
            let count = posted.map_or(1, |posted| posted.count + 1);
            let told = if count == 1 {
                self.create(&at, amiss).await
            } else {
                self.repeat(&at, amiss, count).await
            };
            if self.passes(told) {
                return Round::Later;
            }
            let told = Instant::now();
            self.posted.insert(at, Posted { count, told });
        }
        Round::Done
    }

    /// Whether nothing can be written now. What is refused for itself is not tried again at once.
    fn passes(&mut self, done: Result<(), ClusterError>) -> bool {
        match done {
            Ok(()) => self.denied.may(WHAT),
            Err(error) if error.passes() => return true,
            Err(error) => {
                if !self.denied.is(WHAT, &error) {
                    tracing::debug!(%error, "an event was not written");
                }
            }
        }
        false
    }

    async fn create(&self, at: &(String, String), amiss: &Amiss) -> Result<(), ClusterError> {
        let event = event(at, amiss, &self.replica, &self.revision, &self.now());
        match self.cluster.create_custom(&event).await {
            // The one who wrote before told it.
            Ok(_) | Err(ClusterError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn repeat(
        &self,
        at: &(String, String),
        amiss: &Amiss,
        count: u64,
    ) -> Result<(), ClusterError> {
        let series = json!({"series": {"count": count, "lastObservedTime": self.now()}});
        match self.cluster.merge_custom(which(at), &series).await {
            // Forgotten.
            Err(ClusterError::Refused { code: 404, .. }) => self.create(at, amiss).await,
            done => done.map(drop),
        }
    }

    fn now(&self) -> String {
        moment(self.control.wall.millis())
    }
}

fn which((namespace, name): &(String, String)) -> Custom<'_> {
    (API, "Event", Some(namespace), name)
}

/// Where the event about it is, and its name: the same for the same object with the same fault.
fn name(amiss: &Amiss) -> (String, String) {
    let namespace = match amiss.key.namespace.as_str() {
        // Where events about objects of the whole cluster are.
        "" => "default",
        namespace => namespace,
    };
    let parts = [amiss.uid.as_str(), amiss.why.reason(), &amiss.message(NOTE)];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parts.join("\n").as_bytes());
    let mut name: String = amiss.key.name.chars().take(200).collect();
    name.truncate(name.trim_end_matches(['.', '-']).len());
    name.push('.');
    for byte in digest.as_ref().iter().take(8) {
        // Writing to text cannot fail.
        let _written = write!(name, "{byte:02x}");
    }
    (namespace.to_owned(), name)
}

fn event(
    (namespace, name): &(String, String),
    amiss: &Amiss,
    replica: &str,
    revision: &str,
    now: &str,
) -> Value {
    let kind = amiss.key.kind.split('.').next().unwrap_or_default();
    let mut regarding = json!({
        "apiVersion": amiss.api_version,
        "kind": kind,
        "name": amiss.key.name,
        "uid": amiss.uid,
    });
    if !amiss.key.namespace.is_empty() {
        set(&mut regarding, "namespace", amiss.key.namespace.clone());
    }
    json!({
        "apiVersion": API,
        "kind": "Event",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": written_labels(revision),
        },
        "eventTime": now,
        "type": "Warning",
        "reason": amiss.why.reason(),
        "action": "Reconcile",
        "note": amiss.message(NOTE),
        "regarding": regarding,
        "reportingController": CONTROLLER,
        "reportingInstance": replica.chars().take(128).collect::<String>(),
    })
}
