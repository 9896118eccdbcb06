//! Clusters with their endpoints, and the state of endpoints that outlives a change.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::mesh::cluster::Thresholds;
use crate::mesh::route::Priority;
use crate::mesh::{Assignment, Cluster, ClusterKind, Endpoint, Health, Locality, WorkloadRef};
use crate::telemetry::{PeerId, PeerLabels, Registry, ServiceId};

use super::super::balance::outlier::{Detector, Monitor};
use super::super::balance::smooth::Smooth;
use super::super::health::check::CheckStats;
use super::super::health::flags::{Flags, Why};
use super::super::limit::{Counters, Gate};

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
    /// For telemetry.
    pub(crate) service: ServiceId,
}

/// The endpoints of a cluster and the order in which they are called.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    /// All of them.
    pub(crate) entries: Vec<EndpointEntry>,
    /// Indexes of those that may be called: healthy, of the first priority that has any.
    pub(crate) usable: Vec<usize>,
    /// Round robin over `usable`.
    pub(crate) smooth: Smooth,
    /// Running sums of the weights of `usable`.
    pub(crate) cumulative: Vec<u64>,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct EndpointEntry {
    /// As the view has it.
    pub(crate) endpoint: Endpoint,
    /// Kept while the endpoint stays.
    pub(crate) state: Arc<EndpointState>,
    /// For telemetry.
    pub(crate) peer: PeerId,
}

/// What is known about an endpoint from calling it.
#[derive(Debug)]
pub(crate) struct EndpointState {
    /// Unique in the process; pools are found by it.
    pub(crate) id: u64,
    /// Requests in flight.
    pub(crate) active: AtomicU32,
    /// Why it is left out, beside what discovery says.
    pub(crate) health: Flags,
    /// How calls went, where the cluster has outlier detection.
    monitor: OnceLock<Box<Monitor>>,
    /// Requests so far.
    pub(crate) requests: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl EndpointState {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            active: AtomicU32::new(0),
            health: Flags::default(),
            monitor: OnceLock::new(),
            requests: AtomicU64::new(0),
        })
    }

    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitor.get().map(|monitor| &**monitor)
    }
}

impl EndpointEntry {
    /// Envoy's words for why it is left out, or `healthy`.
    pub(crate) fn health_flags(&self) -> String {
        let own = [
            (Why::FailedCheck, "/failed_active_hc"),
            (Why::Outlier, "/failed_outlier_check"),
            (Why::Pending, "/pending_active_hc"),
            (Why::CheckTimeout, "/active_hc_timeout"),
        ];
        let told = match self.endpoint.health {
            Health::Healthy => "",
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
    /// A cluster with its endpoints; `before` itself when nothing changed.
    pub(crate) fn build(
        config: &Arc<Cluster>,
        assignment: Option<&Arc<Assignment>>,
        before: Option<&Arc<Self>>,
        registry: &Registry,
    ) -> Arc<Self> {
        let same_config = before.is_some_and(|old| old.config == *config);
        if let Some(old) = before
            && same_config
            && old.assignment.as_ref() == assignment
        {
            return Arc::clone(old);
        }
        // What is spoken to an endpoint is part of what its connections are.
        let kept = before
            .filter(|old| old.config.tls == config.tls && old.config.protocol == config.protocol);
        let endpoints = match &config.kind {
            ClusterKind::Discovered => {
                assignment.map_or_else(Vec::new, |assignment| assignment.endpoints.clone())
            }
            ClusterKind::Static(addresses) => addresses
                .iter()
                .map(|address| Endpoint {
                    priority: 0,
                    locality: Locality::default(),
                    address: *address,
                    weight: 1,
                    health: Health::Healthy,
                    mtls: false,
                    workload: WorkloadRef::default(),
                    health_check: None,
                })
                .collect(),
            ClusterKind::OriginalDestination => Vec::new(),
        };
        let service = match &config.service {
            Some(service) => registry.service(service),
            None => registry.named_service(&config.name, &config.name, ""),
        };
        let set = EndpointSet::build(endpoints, config, kept.map(|old| &*old.endpoints), registry);
        let outlier = config
            .outlier
            .as_ref()
            .map(|policy| Detector::build(policy, before.and_then(|old| old.outlier.as_ref())));
        watch(&set, outlier.as_deref());
        let checks = config.health_check.as_ref().map(|_| {
            let old = before.and_then(|old| old.checks.as_ref());
            old.map_or_else(Arc::default, Arc::clone)
        });
        let known = kept.map(|old| &*old.endpoints);
        await_checks(&set, config.health_check.is_some(), known);
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
            service,
        })
    }

    /// Says that `entry` is left out for `why`, or no longer. True when that was news. Whatever is
    /// worked out from the health of endpoints is worked out again here, off the path of requests.
    #[expect(
        clippy::unused_self,
        reason = "shares of localities and priorities will follow from it"
    )]
    pub(crate) fn mark(&self, entry: &EndpointEntry, why: Why, on: bool) -> bool {
        entry.state.health.set(why, on)
    }
}

/// Leaves out endpoints that are to be checked, until they have passed. Those that were there before
/// checks began stay in: requests may be on their way to them.
fn await_checks(set: &EndpointSet, checked: bool, known: Option<&EndpointSet>) {
    for entry in &set.entries {
        let own = entry.endpoint.health_check.as_deref();
        let health = &entry.state.health;
        if checked && !own.is_some_and(|own| own.disabled) {
            if health.set(Why::Watched, true) {
                health.set(Why::Pending, true);
                let stays = known.is_some_and(|known| {
                    let id = entry.state.id;
                    known.entries.iter().any(|old| old.state.id == id)
                });
                health.set(Why::FailedCheck, !stays);
            }
        } else if health.set(Why::Watched, false) {
            for why in [Why::Pending, Why::FailedCheck, Why::CheckTimeout] {
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
        endpoints: Vec<Endpoint>,
        config: &Cluster,
        before: Option<&Self>,
        registry: &Registry,
    ) -> Self {
        let principal = match config.tls.as_ref().map(|tls| tls.principals.as_slice()) {
            Some([only]) => only.to_string(),
            _ => String::new(),
        };
        let entries: Vec<_> = endpoints
            .into_iter()
            .map(|endpoint| {
                let old = before.and_then(|before| {
                    before.entries.iter().find(|old| {
                        old.endpoint.address == endpoint.address
                            && old.endpoint.mtls == endpoint.mtls
                    })
                });
                let principal = if endpoint.mtls { &principal } else { "" };
                EndpointEntry {
                    peer: registry.peer(PeerLabels::new(&endpoint.workload, principal)),
                    state: old.map_or_else(EndpointState::new, |old| Arc::clone(&old.state)),
                    endpoint,
                }
            })
            .collect();
        let healthy = |entry: &&EndpointEntry| entry.endpoint.health == Health::Healthy;
        let priority = entries
            .iter()
            .filter(healthy)
            .map(|entry| entry.endpoint.priority)
            .min();
        let usable: Vec<usize> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| healthy(entry) && Some(entry.endpoint.priority) == priority)
            .map(|(at, _)| at)
            .collect();
        let weights: Vec<u32> = usable
            .iter()
            .filter_map(|at| entries.get(*at))
            .map(|entry| entry.endpoint.weight.max(1))
            .collect();
        let mut sum = 0;
        let cumulative = weights
            .iter()
            .map(|weight| {
                sum += u64::from(*weight);
                sum
            })
            .collect();
        let smooth = Smooth::new(&weights);
        if let Some(before) = before {
            smooth.continue_from(&before.smooth);
        }
        Self {
            entries,
            usable,
            smooth,
            cumulative,
        }
    }
}

#[cfg(test)]
mod tests {
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
            &Arc::new(cluster("c")),
            Some(&Arc::new(Assignment::new(vec![last, next, sick]))),
            None,
            &Registry::new(""),
        );
        let set = &table.endpoints;
        let ports: Vec<u16> = set
            .usable
            .iter()
            .map(|at| set.entries[*at].endpoint.address.port())
            .collect();
        assert_eq!(ports, [2]);
    }

    #[test]
    fn a_change_of_tls_makes_new_endpoints() {
        let assignment = Arc::new(Assignment::new(vec![endpoint(1, 1)]));
        let registry = Registry::new("");
        let first =
            ClusterTable::build(&Arc::new(cluster("c")), Some(&assignment), None, &registry);
        let mut changed = cluster("c");
        changed.protocol = crate::mesh::cluster::UpstreamProtocol::Http2;
        let second = ClusterTable::build(
            &Arc::new(changed),
            Some(&assignment),
            Some(&first),
            &registry,
        );
        assert_ne!(
            first.endpoints.entries[0].state.id,
            second.endpoints.entries[0].state.id
        );
    }
}
