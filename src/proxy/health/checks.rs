//! Active health checks of all endpoints: who is due, who is being asked, what came of it.
//!
//! One task asks, a bounded number at a time. Endpoints are known by the id of their state, so what
//! is known of one outlives a change of configuration.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::mesh::HealthCheck;
use crate::rt::{self, Reader, Tasks};
use crate::tls::Material;

use super::super::balance::outlier;
use super::super::context::Shared;
use super::super::tables::{ClusterTable, EndpointEntry, Tables};
use super::super::tls::Identity;
use super::check::{Change, Session, Verdict, wait};
use super::flags::Why;
use super::probe::{Kept, Target, probe};

/// Checks under way at most. One that waits for its turn is late, never lost.
const AT_ONCE: usize = 256;

/// An endpoint that is checked.
struct Watch {
    cluster: Arc<ClusterTable>,
    /// Its place among the cluster's endpoints.
    at: usize,
    session: Session,
    kept: Option<Kept>,
    due: Instant,
    asking: bool,
}

impl Watch {
    fn entry(&self) -> Option<&EndpointEntry> {
        self.cluster.endpoints.entries.get(self.at)
    }
}

/// All endpoints that are checked, by the id of their state.
#[derive(Default)]
struct Checks {
    watched: BTreeMap<u64, Watch>,
    /// May hold times that are not true any more.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Clusters that were sent something at some time.
    busy: BTreeSet<String>,
}

/// Chance, as a number below the argument.
fn chance(below: u64) -> u64 {
    fastrand::u64(0..below.max(1))
}

impl Checks {
    /// Takes endpoints that are new in, and those that are gone out.
    fn follow(&mut self, tables: &Tables, now: Instant) {
        let mut before = std::mem::take(&mut self.watched);
        let clusters: Vec<&Arc<ClusterTable>> = tables
            .clusters
            .iter()
            .filter(|cluster| cluster.config.health_check.is_some())
            .collect();
        self.busy
            .retain(|name| tables.cluster_names.contains_key(name));
        for cluster in clusters {
            // What changed while the tables were built is in neither.
            cluster.endpoints.changed();
            let Some(policy) = &cluster.config.health_check else {
                continue;
            };
            for (at, entry) in cluster.endpoints.entries.iter().enumerate() {
                if !entry.state.health.holds(Why::Watched) {
                    continue;
                }
                let id = entry.state.id;
                let watch = if let Some(watch) = before.remove(&id) {
                    Watch {
                        cluster: Arc::clone(cluster),
                        at,
                        ..watch
                    }
                } else {
                    let most = millis(policy.initial_jitter);
                    let jitter = if most > 0 { chance(most) } else { 0 };
                    let due = now + Duration::from_millis(jitter);
                    self.due.push(Reverse((due, id)));
                    Watch {
                        cluster: Arc::clone(cluster),
                        at,
                        session: Session::new(!entry.state.health.holds(Why::FailedCheck)),
                        kept: None,
                        due,
                        asking: false,
                    }
                };
                self.watched.insert(id, watch);
            }
        }
    }

    /// When the next one is due.
    fn next(&mut self) -> Option<Instant> {
        loop {
            let Reverse((due, id)) = self.due.peek()?;
            match self.watched.get(id) {
                Some(watch) if watch.due == *due && !watch.asking => return Some(*due),
                _ => {
                    self.due.pop();
                }
            }
        }
    }

    /// One that is due at `now`, with the connection that was kept for it.
    fn begin(&mut self, now: Instant) -> Option<(u64, &Watch, Option<Kept>)> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, id)) = self.due.pop()?;
        let watch = self.watched.get_mut(&id)?;
        watch.asking = true;
        let kept = watch.kept.take();
        Some((id, watch, kept))
    }

    /// Takes a result in. True when choices or connections follow from it.
    fn end(&mut self, id: u64, (verdict, kept): (Verdict, Option<Kept>), shared: &Shared) -> bool {
        let Some(watch) = self.watched.get_mut(&id) else {
            return false;
        };
        watch.asking = false;
        watch.kept = kept;
        let cluster = Arc::clone(&watch.cluster);
        let (Some(policy), Some(entry)) = (
            &cluster.config.health_check,
            cluster.endpoints.entries.get(watch.at),
        ) else {
            return false;
        };
        if let Some(stats) = &cluster.checks {
            stats.ended(verdict);
        }
        let first = watch.session.is_first();
        let change = watch.session.take(verdict, policy);
        let news = apply(&cluster, entry, (verdict, change), watch.session.well);
        tell(&cluster, entry, policy, (verdict, change, first));
        let now = rt::now();
        if watch.session.well && verdict.passed() {
            outlier::passed_check(&cluster, entry, shared.millis(now));
        }
        let name = &cluster.config.name;
        let traffic = self.busy.contains(name) || is_busy(&cluster);
        if traffic && !self.busy.contains(name) {
            self.busy.insert(name.clone());
        }
        watch.due = now + wait(policy, (verdict, change), traffic, &mut chance);
        self.due.push(Reverse((watch.due, id)));
        news
    }
}

/// Whether something was sent to the cluster, as far as can be seen now.
fn is_busy(cluster: &ClusterTable) -> bool {
    cluster.counters.connections() > 0
        || cluster
            .endpoints
            .entries
            .iter()
            .any(|entry| entry.state.requests.load(Ordering::Relaxed) > 0)
}

/// Makes the endpoint's flags say what is known. True when something follows from it.
fn apply(
    cluster: &ClusterTable,
    entry: &EndpointEntry,
    (verdict, change): (Verdict, Change),
    well: bool,
) -> bool {
    let check = cluster.config.health_check.as_ref();
    let closes = check.is_some_and(|check| check.policy.close_connections_on_failure);
    let health = &entry.state.health;
    health.set(Why::CheckTimeout, !well && verdict == Verdict::TooLate);
    let shut = health.set(Why::Shut, !well && closes);
    if verdict.passed() {
        cluster.mark(entry, Why::Degraded, verdict == Verdict::Degraded);
    }
    let turned = change == Change::Done && cluster.mark(entry, Why::FailedCheck, !well);
    // Last: whoever waits for the first result looks at the others then.
    let first = cluster.mark(entry, Why::Pending, false);
    first || turned || shut
}

fn tell(
    cluster: &ClusterTable,
    entry: &EndpointEntry,
    policy: &HealthCheck,
    (verdict, change, first): (Verdict, Change, bool),
) {
    let cluster = &cluster.config.name;
    let endpoint = entry.address;
    let turned = change == Change::Done;
    if verdict.passed() {
        if turned || policy.policy.always_log_success {
            tracing::info!(cluster, %endpoint, first, turned, "health check passed");
        }
    } else if turned || first || policy.policy.always_log_failures {
        tracing::warn!(cluster, %endpoint, ?verdict, turned, "health check failed");
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Where and how `entry` is asked.
fn target(
    cluster: &ClusterTable,
    entry: &EndpointEntry,
    policy: &HealthCheck,
    shared: &Shared,
    identity: Option<&Arc<Identity>>,
) -> Target {
    let own = cluster
        .endpoints
        .endpoint(entry)
        .and_then(|endpoint| endpoint.health_check.as_deref());
    let elsewhere = own.and_then(|own| own.address);
    let address = match (elsewhere, policy.alt_port) {
        (Some(address), _) => address,
        (None, Some(port)) => SocketAddr::new(entry.address.ip(), port),
        (None, None) => entry.address,
    };
    let outward = cluster.config.kind.is_outward();
    Target {
        policy: Arc::clone(&cluster.config),
        address,
        hostname: own.map(|own| own.hostname.clone()).unwrap_or_default(),
        from: shared.options.address.filter(|_| outward),
        mtls: entry.mtls,
        originator: cluster.originator.clone(),
        identity: identity.cloned(),
    }
}

type Ended = (u64, (Verdict, Option<Kept>));

/// Checks for as long as there are tables.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut tables: Reader<Tables>,
    mut identities: Reader<Option<Arc<Material>>>,
    tasks: Tasks,
) {
    let mut generation = 0;
    let mut identify = |material: &Option<Arc<Material>>| {
        generation += 1;
        let material = material.as_ref()?;
        Some(Arc::new(Identity::new(Arc::clone(material), generation)))
    };
    let mut identity = identify(&identities.load());
    let mut checks = Checks::default();
    let mut followed = tables.load();
    checks.follow(&followed, rt::now());
    let mut asking: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
    loop {
        let due = checks.next().filter(|_| asking.len() < AT_ONCE);
        let pause = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = tables.changed() => {
                if !changed {
                    return;
                }
                followed = tables.load();
                checks.follow(&followed, rt::now());
            }
            changed = identities.changed() => {
                if !changed {
                    return;
                }
                identity = identify(&identities.load());
                // What was connected as somebody else is not to be used further.
                for watch in checks.watched.values_mut() {
                    watch.kept = None;
                }
            }
            Some((id, ended)) = asking.next(), if !asking.is_empty() => {
                // A result counts for the newest tables.
                let current = tables.load();
                if !Arc::ptr_eq(&current, &followed) {
                    followed = current;
                    checks.follow(&followed, rt::now());
                }
                if checks.end(id, ended, &shared) {
                    shared.health_changed.notify_one();
                }
            }
            () = pause => {
                while asking.len() < AT_ONCE
                    && let Some((id, watch, kept)) = checks.begin(rt::now())
                {
                    let (Some(entry), Some(policy)) =
                        (watch.entry(), &watch.cluster.config.health_check)
                    else {
                        continue;
                    };
                    if let Some(stats) = &watch.cluster.checks {
                        stats.attempted();
                    }
                    let target = target(&watch.cluster, entry, policy, &shared, identity.as_ref());
                    let asked = probe(target, kept, tasks.clone());
                    asking.push(Box::pin(async move { (id, asked.await) }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tables::testing::{cluster, table};
    use super::*;
    use crate::mesh::health_check::{Check, TcpCheck};

    fn checked(count: u16) -> Tables {
        let mut config = cluster("c");
        let second = Duration::from_secs(1);
        let check = Check::Tcp(TcpCheck::default());
        config.health_check = Some(HealthCheck::new(check, second * 10, second));
        Tables {
            clusters: vec![table(config, count)],
            ..Tables::default()
        }
    }

    fn shared() -> Shared {
        let registry = Arc::new(crate::telemetry::Registry::new(""));
        Shared::new(super::super::super::Options::default(), registry, None)
    }

    fn passes(checks: &mut Checks, id: u64, verdict: Verdict) -> bool {
        checks.end(id, (verdict, None), &shared())
    }

    #[tokio::test(start_paused = true)]
    async fn everyone_is_asked_at_once_and_again_after_the_wait() {
        let tables = checked(3);
        let mut checks = Checks::default();
        checks.follow(&tables, rt::now());
        let mut begun = Vec::new();
        while let Some((id, ..)) = checks.begin(rt::now()) {
            begun.push(id);
        }
        assert_eq!(begun.len(), 3);
        assert!(checks.next().is_none(), "who is being asked is not due");
        let entries = &tables.clusters[0].endpoints.entries;
        let is_out = |at: usize| entries[at].state.health.is_out();
        assert!((0..3).all(is_out), "nobody is well before the first result");
        let id = |at: usize| entries[at].state.id;
        assert!(passes(&mut checks, id(0), Verdict::Passed));
        assert!(
            passes(&mut checks, id(1), Verdict::Wrong),
            "a first result is news"
        );
        assert_eq!((is_out(0), is_out(1)), (false, true));
        // Nothing was ever sent there.
        assert_eq!(checks.next(), Some(rt::now() + HealthCheck::NO_TRAFFIC));
        entries[2].state.requests.store(1, Ordering::Relaxed);
        passes(&mut checks, id(2), Verdict::Passed);
        assert_eq!(checks.next(), Some(rt::now() + Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_forgotten_and_what_stays_is_not() {
        let tables = checked(2);
        let mut checks = Checks::default();
        checks.follow(&tables, rt::now());
        while checks.begin(rt::now()).is_some() {}
        let ids: Vec<u64> = checks.watched.keys().copied().collect();
        passes(&mut checks, ids[0], Verdict::Passed);
        checks.follow(&tables, rt::now());
        assert!(checks.watched[&ids[0]].session.well && checks.watched[&ids[1]].asking);
        checks.follow(&Tables::default(), rt::now());
        assert!(
            !passes(&mut checks, ids[1], Verdict::Passed),
            "it came too late"
        );
        assert!(checks.next().is_none());
    }
}
