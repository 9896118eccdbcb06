//! Clusters with their endpoints, and the state of endpoints that outlives a change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};

use crate::mesh::Secret;
use crate::mesh::balancing::LocalityBalancing;
use crate::mesh::cluster::Thresholds;
use crate::mesh::route::Priority;
use crate::mesh::{Assignment, Cluster, ClusterKind, Endpoint, Health};
use crate::rt::{HashMap, HashSet};
use crate::telemetry::{PeerId, PeerLabels, Registry, ServiceId};

use super::super::balance::choices::{Choices, Given, Home};
use super::super::balance::latency::Latency;
use super::super::balance::outlier::{Detector, Monitor};
use super::super::health::check::CheckStats;
use super::super::health::flags::{Flags, Why};
use super::super::limit::{Counters, Gate};
use super::super::origination::Originator;
use super::Surroundings;

/// A cluster, ready to be called.
#[derive(Debug)]
pub(crate) struct ClusterTable {
    /// As the view has it.
    pub(crate) config: Arc<Cluster>,
    /// As the view has it, to notice changes.
    assignment: Option<Arc<Assignment>>,
    /// Kept while a cluster of this name stays.
    pub(crate) counters: Arc<Counters>,
    /// Limits for requests of priority DEFAULT and HIGH.
    thresholds: [Thresholds; 2],
    /// Who can be called.
    pub(crate) endpoints: Arc<EndpointSet>,
    /// Ejection, where it is on.
    pub(crate) outlier: Option<Arc<Detector>>,
    /// Counts of health checks, where it is checked.
    pub(crate) checks: Option<Arc<CheckStats>>,
    /// Endpoints that discovery has lost and that still pass their checks.
    lingering: Vec<Arc<EndpointState>>,
    /// For telemetry.
    pub(crate) service: ServiceId,
    /// TLS to servers outside the mesh.
    pub(crate) originator: Option<Arc<Originator>>,
}

/// The endpoints of a cluster and what a choice among them is made from.
#[derive(Debug)]
pub(crate) struct EndpointSet {
    /// As the view has it.
    pub(crate) config: Arc<Cluster>,
    /// As the view has it.
    pub(crate) assignment: Arc<Assignment>,
    /// As the endpoints of the assignment.
    pub(crate) entries: Vec<EndpointEntry>,
    choices: ArcSwap<Choices>,
    /// Something about an endpoint is not in `choices` yet.
    stale: AtomicBool,
    surroundings: Arc<Surroundings>,
    home: Option<Arc<Home>>,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct EndpointEntry {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// Relative share.
    pub(crate) weight: u32,
    /// Speaks the mesh's mTLS.
    pub(crate) mtls: bool,
    /// For telemetry.
    pub(crate) peer: PeerId,
    /// Its place in the assignment.
    at: usize,
    /// Kept while the endpoint stays.
    pub(crate) state: Arc<EndpointState>,
}

/// What is known about an endpoint from calling and checking it. Shared by all workers.
#[derive(Debug)]
pub(crate) struct EndpointState {
    /// Unique in the process; pools are found by it.
    pub(crate) id: u64,
    /// Requests in flight.
    pub(crate) active: AtomicU32,
    /// Open connections.
    pub(crate) connections: AtomicU32,
    /// Requests so far.
    pub(crate) requests: AtomicU64,
    /// Why it is left out, beside what discovery says.
    pub(crate) health: Flags,
    /// How calls went, where the cluster has outlier detection.
    monitor: OnceLock<Box<Monitor>>,
    /// Recent latency, where it counts.
    pub(crate) latency: Latency,
    /// Since when it can be called, in milliseconds since the process began.
    since: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl EndpointState {
    fn new(now: u64) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            active: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            health: Flags::default(),
            monitor: OnceLock::new(),
            latency: Latency::default(),
            since: AtomicU64::new(now),
        })
    }

    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitor.get().map(|monitor| &**monitor)
    }

    /// Since when it can be called. Begins anew when it passes its checks again (slow start).
    pub(crate) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Says that it can be called from `now` on, in milliseconds since the process began.
    pub(crate) fn begin(&self, now: u64) {
        self.since.store(now, Ordering::Relaxed);
    }
}

impl EndpointEntry {
    /// Envoy's words for why it is left out, or `healthy`; `told` is what discovery says.
    pub(crate) fn health_flags(&self, told: Health) -> String {
        let own = [
            (Why::FailedCheck, "/failed_active_hc"),
            (Why::Outlier, "/failed_outlier_check"),
            (Why::Pending, "/pending_active_hc"),
            (Why::CheckTimeout, "/active_hc_timeout"),
            (Why::Degraded, "/degraded_active_hc"),
        ];
        let told = match told {
            Health::Healthy => "",
            Health::Degraded => "/degraded_eds_health",
            Health::Unhealthy => "/failed_eds_health",
            Health::Draining => "/eds_status_draining",
        };
        let flags: String = own
            .into_iter()
            .filter(|(why, _)| self.state.health.holds(*why))
            .map(|(_, name)| name)
            .chain([told])
            .collect();
        if flags.is_empty() {
            "healthy".to_owned()
        } else {
            flags
        }
    }
}

impl ClusterTable {
    /// A cluster with its endpoints, and the text of the secret that it names; `before` itself when
    /// nothing changed.
    pub(crate) fn build(
        (config, secret): (&Arc<Cluster>, Option<&Arc<Secret>>),
        assignment: Option<&Arc<Assignment>>,
        before: Option<&Arc<Self>>,
        (registry, surroundings, home): (&Registry, &Arc<Surroundings>, Option<&Arc<Home>>),
    ) -> Arc<Self> {
        let zoned = matches!(config.balancing.locality, LocalityBalancing::ZoneAware(_));
        let home = home.filter(|_| zoned);
        let same_config = before.is_some_and(|old| old.config == *config);
        if let Some(old) = before
            && same_config
            && old.assignment.as_ref() == assignment
            && old.endpoints.home.as_ref() == home
            && old.originator.as_ref().is_none_or(|own| own.has(secret))
            && !old.has_lost()
        {
            return Arc::clone(old);
        }
        // What is spoken to an endpoint is part of what its connections are.
        let kept = before
            .filter(|old| old.config.tls == config.tls && old.config.protocol == config.protocol)
            .filter(|old| old.config.origination == config.origination);
        let members = match &config.kind {
            ClusterKind::Discovered | ClusterKind::Dns(_) => {
                assignment.cloned().unwrap_or_default()
            }
            // In the order of the configuration.
            ClusterKind::Static(addresses) => Arc::new(Assignment {
                endpoints: addresses.iter().copied().map(Endpoint::at).collect(),
                ..Assignment::default()
            }),
            ClusterKind::OriginalDestination => Arc::default(),
        };
        let service = match &config.service {
            Some(service) => registry.service(service),
            None => registry.named_service(&config.name, &config.name, ""),
        };
        let known = kept.map(|old| &*old.endpoints);
        let (members, lingering) = linger(config, members, known);
        let set = EndpointSet::build(config, members, known, (registry, surroundings, home));
        if let Some(old) = before {
            set.succeed(&old.endpoints);
        }
        let outlier = config
            .outlier
            .as_ref()
            .map(|policy| Detector::build(policy, before.and_then(|old| old.outlier.as_ref())));
        watch(&set, outlier.as_deref());
        let checks = config.health_check.as_ref().map(|_| {
            let old = before.and_then(|old| old.checks.as_ref());
            old.map_or_else(Arc::default, Arc::clone)
        });
        let originator = config.origination.as_ref().map(|how| {
            let old = before.filter(|old| old.config.origination == config.origination);
            let old = old.and_then(|old| old.originator.as_ref());
            old.filter(|old| old.has(secret))
                .map_or_else(|| Originator::new(how, secret.cloned()), Arc::clone)
        });
        await_checks(&set, config.health_check.is_some(), known);
        set.begin(known);
        Arc::new(Self {
            config: Arc::clone(config),
            assignment: assignment.cloned(),
            counters: before.map_or_else(Arc::default, |old| Arc::clone(&old.counters)),
            thresholds: [
                config.limits.usual(),
                config.limits.high.clone().unwrap_or_default(),
            ],
            endpoints: Arc::new(set),
            outlier,
            checks,
            lingering,
            service,
            originator,
        })
    }

    /// Whether an endpoint that discovery had lost fails its checks now, so that it can go.
    pub(crate) fn has_lost(&self) -> bool {
        let mut lingering = self.lingering.iter();
        lingering.any(|state| state.health.holds(Why::FailedCheck))
    }

    /// Says that `entry` is left out for `why`, or no longer. True when that was news. Requests pass
    /// it over at once; shares of priorities and localities follow on the control thread.
    pub(crate) fn mark(&self, entry: &EndpointEntry, why: Why, on: bool) -> bool {
        let news = entry.state.health.set(why, on);
        if news {
            if why == Why::FailedCheck && !on {
                entry.state.begin(self.endpoints.surroundings.millis());
            }
            self.endpoints.changed();
        }
        news
    }

    /// Whether a request is one of those that the cluster refuses (Envoy's `drop_overloads`).
    pub(crate) fn drops(&self) -> bool {
        let drops = &self.endpoints.assignment.drops;
        drops
            .iter()
            .any(|drop| fastrand::u32(0..1_000_000) < drop.per_million)
    }
}

/// `members` with those that discovery has lost and that pass their checks: what is lost by a control
/// plane in trouble is not lost for its callers (Envoy, unless `ignore_health_on_host_removal`).
fn linger(
    config: &Cluster,
    members: Arc<Assignment>,
    known: Option<&EndpointSet>,
) -> (Arc<Assignment>, Vec<Arc<EndpointState>>) {
    let lingers = config
        .health_check
        .as_ref()
        .is_some_and(|check| !check.policy.ignore_health_on_host_removal);
    let (true, true, Some(known)) = (lingers, config.kind.is_outward(), known) else {
        return (members, Vec::new());
    };
    let there: HashSet<(SocketAddr, bool)> = members
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.address, endpoint.mtls))
        .collect();
    let (lost, states): (Vec<Endpoint>, Vec<_>) = known
        .assignment
        .endpoints
        .iter()
        .zip(&known.entries)
        .filter(|(endpoint, entry)| {
            let health = &entry.state.health;
            !there.contains(&(endpoint.address, endpoint.mtls))
                && health.holds(Why::Watched)
                && !health.holds(Why::FailedCheck)
                && !health.holds(Why::Pending)
        })
        .map(|(endpoint, entry)| (endpoint.clone(), Arc::clone(&entry.state)))
        .unzip();
    if lost.is_empty() {
        return (members, Vec::new());
    }
    let mut all = Arc::unwrap_or_clone(members);
    all.endpoints.extend(lost);
    all.endpoints.sort();
    (Arc::new(all), states)
}

/// Leaves out endpoints that are to be checked, until they have passed. Those that were there before
/// checks began stay in: requests may be on their way to them.
fn await_checks(set: &EndpointSet, checked: bool, known: Option<&EndpointSet>) {
    let known: HashSet<u64> = known
        .into_iter()
        .filter(|_| checked)
        .flat_map(|known| &known.entries)
        .map(|entry| entry.state.id)
        .collect();
    for (endpoint, entry) in set.assignment.endpoints.iter().zip(&set.entries) {
        let own = endpoint.health_check.as_deref();
        let health = &entry.state.health;
        if checked && !own.is_some_and(|own| own.disabled) {
            if health.set(Why::Watched, true) {
                health.set(Why::Pending, true);
                health.set(Why::FailedCheck, !known.contains(&entry.state.id));
            }
        } else if health.set(Why::Watched, false) {
            for why in [
                Why::Pending,
                Why::FailedCheck,
                Why::CheckTimeout,
                Why::Shut,
                Why::Degraded,
            ] {
                health.set(why, false);
            }
        }
    }
}

/// Gives every endpoint a place to be watched from, or lets those in again that were ejected by a
/// policy that is gone.
fn watch(set: &EndpointSet, outlier: Option<&Detector>) {
    let Some(detector) = outlier else {
        for entry in &set.entries {
            entry.state.health.set(Why::Outlier, false);
        }
        return;
    };
    let mut out = 0;
    for entry in &set.entries {
        entry.state.monitor.get_or_init(Box::default);
        out += usize::from(entry.state.health.holds(Why::Outlier));
    }
    detector.stats.recount(out);
}

impl ClusterTable {
    /// The limits for requests of `priority`.
    pub(crate) fn gate(&self, priority: Priority) -> Gate<'_> {
        let [usual, high] = &self.thresholds;
        Gate {
            priority,
            counters: &self.counters,
            limits: match priority {
                Priority::Default => usual,
                Priority::High => high,
            },
        }
    }
}

impl EndpointSet {
    fn build(
        config: &Arc<Cluster>,
        assignment: Arc<Assignment>,
        before: Option<&Self>,
        (registry, surroundings, home): (&Registry, &Arc<Surroundings>, Option<&Arc<Home>>),
    ) -> Self {
        let principal = match config.tls.as_ref().map(|tls| tls.principals.as_slice()) {
            Some([only]) => only.to_string(),
            _ => String::new(),
        };
        let old: HashMap<(SocketAddr, bool), &EndpointEntry> = before
            .into_iter()
            .flat_map(|before| &before.entries)
            .map(|old| ((old.address, old.mtls), old))
            .collect();
        // Where it is required it is begun, whatever is known of the endpoint (Istio's ISTIO_MUTUAL): a
        // gateway speaks it at some of its ports.
        let always = config.tls.as_ref().is_some_and(|tls| tls.required);
        let now = surroundings.millis();
        // Neighbours are mostly instances of one workload.
        let mut last: Option<(&Endpoint, PeerId)> = None;
        let entries: Vec<_> = assignment
            .endpoints
            .iter()
            .enumerate()
            .map(|(at, endpoint)| {
                let mtls = endpoint.mtls || always;
                let peer = match last {
                    Some((same, peer))
                        if same.mtls == endpoint.mtls && same.workload == endpoint.workload =>
                    {
                        peer
                    }
                    _ => {
                        let principal = if mtls { &principal } else { "" };
                        registry.peer(PeerLabels::new(&endpoint.workload, principal))
                    }
                };
                last = Some((endpoint, peer));
                EndpointEntry {
                    address: endpoint.address,
                    weight: endpoint.weight.max(1),
                    mtls,
                    peer,
                    at,
                    state: old
                        .get(&(endpoint.address, mtls))
                        .map_or_else(|| EndpointState::new(now), |old| Arc::clone(&old.state)),
                }
            })
            .collect();
        Self {
            config: Arc::clone(config),
            assignment,
            entries,
            choices: ArcSwap::default(),
            stale: AtomicBool::new(false),
            surroundings: Arc::clone(surroundings),
            home: home.cloned(),
        }
    }

    /// Works the choices out for the first time; rounds go on where those of `before` stand.
    fn begin(&self, before: Option<&Self>) {
        let before = before.map(Self::choices);
        let choices = self.work_out(before.as_deref().map(|c| &**c), self.surroundings.millis());
        self.choices.store(Arc::new(choices));
        self.surroundings.look_again(self.choices().again);
    }

    fn work_out(&self, before: Option<&Choices>, now: u64) -> Choices {
        let given = Given {
            config: &self.config,
            assignment: &self.assignment,
            entries: &self.entries,
            home: self.home.as_deref(),
            now,
        };
        Choices::new(given, before)
    }

    /// What a choice is made from now.
    pub(crate) fn choices(&self) -> Guard<Arc<Choices>> {
        self.choices.load()
    }

    /// Says that an endpoint's health changed. Requests pass over an endpoint that is out at once;
    /// shares, priorities and rings follow when the control thread has worked them out.
    pub(crate) fn changed(&self) {
        if !self.stale.swap(true, Ordering::Release) {
            self.surroundings.changed.notify_one();
        }
    }

    /// Works the choices out again when something changed, or when it is time to. On the control
    /// thread only.
    pub(crate) fn refresh(&self, now: u64) {
        let before = self.choices();
        let due = before.again.is_some_and(|again| again <= now);
        if self.stale.swap(false, Ordering::Acquire) || due {
            let next = self.work_out(Some(&before), now);
            self.choices.store(Arc::new(next));
        }
        self.surroundings.look_again(self.choices().again);
    }

    /// The endpoint of an entry, as the view has it.
    pub(crate) fn endpoint(&self, entry: &EndpointEntry) -> Option<&Endpoint> {
        self.assignment.endpoints.get(entry.at)
    }

    /// Marks the endpoints of `before` that are not here.
    fn succeed(&self, before: &Self) {
        let stay: HashSet<u64> = self.entries.iter().map(|entry| entry.state.id).collect();
        for old in &before.entries {
            if !stay.contains(&old.state.id) {
                old.state.health.set(Why::Gone, true);
            }
        }
    }

    /// Marks all of its endpoints as gone.
    pub(crate) fn retire(&self) {
        for entry in &self.entries {
            entry.state.health.set(Why::Gone, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::balance::{Wish, pick};
    use super::super::testing::{cluster, endpoint};
    use super::*;

    #[test]
    fn the_first_priority_with_a_healthy_endpoint_is_used() {
        let mut sick = endpoint(1, 1);
        sick.health = Health::Unhealthy;
        let mut next = endpoint(2, 1);
        next.priority = 1;
        let mut last = endpoint(3, 1);
        last.priority = 2;
        let table = ClusterTable::build(
            (&Arc::new(cluster("c")), None),
            Some(&Arc::new(Assignment::new(vec![last, next, sick]))),
            None,
            (&Registry::new(""), &Arc::default(), None),
        );
        for _ in 0..20 {
            let found = pick(&table.endpoints, Wish::default()).unwrap();
            assert_eq!(found.address.port(), 2);
        }
    }

    #[test]
    fn a_refresh_follows_a_change_and_only_a_change() {
        let set = super::super::testing::endpoints(&[1, 1]);
        let before = Arc::as_ptr(&set.choices());
        set.refresh(10);
        assert_eq!(before, Arc::as_ptr(&set.choices()));
        assert!(set.entries[0].state.health.set(Why::FailedCheck, true));
        assert!(!set.entries[0].state.health.set(Why::FailedCheck, true));
        set.changed();
        set.refresh(10);
        let kept = set.choices();
        let members: Vec<_> = kept
            .tiers()
            .flat_map(|t| &t.pools)
            .map(|p| &*p.members)
            .collect();
        assert_eq!(members, [[1]]);
    }

    #[test]
    fn an_endpoint_that_goes_is_marked() {
        let registry = Registry::new("");
        let both = Arc::new(Assignment::new(vec![endpoint(1, 1), endpoint(2, 1)]));
        let one = Arc::new(Assignment::new(vec![endpoint(2, 1)]));
        let config = Arc::new(cluster("c"));
        let with = (&registry, &Arc::default(), None);
        let first = ClusterTable::build((&config, None), Some(&both), None, with);
        ClusterTable::build((&config, None), Some(&one), Some(&first), with);
        let gone = |at: usize| first.endpoints.entries[at].state.health.holds(Why::Gone);
        assert!(gone(0) && !gone(1));
    }

    #[test]
    fn a_change_of_tls_makes_new_endpoints() {
        let assignment = Arc::new(Assignment::new(vec![endpoint(1, 1)]));
        let registry = Registry::new("");
        let with = (&registry, &Arc::default(), None);
        let first = ClusterTable::build(
            (&Arc::new(cluster("c")), None),
            Some(&assignment),
            None,
            with,
        );
        let mut changed = cluster("c");
        changed.protocol = crate::mesh::cluster::UpstreamProtocol::Http2;
        let second = ClusterTable::build(
            (&Arc::new(changed), None),
            Some(&assignment),
            Some(&first),
            with,
        );
        assert_ne!(
            first.endpoints.entries[0].state.id,
            second.endpoints.entries[0].state.id
        );
    }
}
