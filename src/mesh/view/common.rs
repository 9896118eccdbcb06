//! Clusters and endpoints, made once for all proxies that are served alike.
//!
//! Most services are called in one way by everybody, and are made when a world is first looked at.
//! What rules or localities make differ between callers is made again for each standpoint, the first
//! time that a proxy asks who has it, and kept for the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::cluster::Parts;
use super::scope;
use crate::mesh::destinations::{Caller, Distinctions};
use crate::mesh::locality::{Called, LocalitySetting, Place};
use crate::mesh::selection::Selection;
use crate::mesh::sidecar::Sidecar;
use crate::mesh::world::{Destination, TrafficPolicy};
use crate::mesh::{Assignment, Cluster, Locality, Node, World};

/// What proxies of a world share.
#[derive(Debug, Default)]
pub struct Common {
    /// The same for everybody.
    same: Scope,
    /// What differs.
    varying: Vec<Parts>,
    told_apart: Distinctions,
    /// Whether it matters where callers are.
    by_place: bool,
    made: Mutex<BTreeMap<Standpoint, Arc<Scope>>>,
    /// The world as it is known, by the place of a Sidecar and the namespace that it is for.
    known: Mutex<BTreeMap<(usize, String), Arc<World>>>,
}

/// Clusters and their endpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// By name.
    pub(super) clusters: BTreeMap<String, Arc<Cluster>>,
    /// By cluster name.
    pub(super) endpoints: BTreeMap<String, Arc<Assignment>>,
}

/// What callers are told apart by: who agrees in it is served alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Standpoint {
    namespace: String,
    labels: BTreeMap<String, String>,
    locality: Locality,
}

impl Standpoint {
    fn caller(&self) -> Caller<'_> {
        Caller {
            namespace: &self.namespace,
            labels: &self.labels,
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            locality: &self.locality,
            labels: &self.labels,
        }
    }
}

impl Common {
    pub(super) fn new(world: &World) -> Self {
        let config = &*world.config;
        let index = Selection::new(world);
        let rules = &config.destinations;
        let mut common = Self {
            told_apart: rules.distinctions(),
            ..Self::default()
        };
        let nobody = Standpoint {
            namespace: String::new(),
            labels: BTreeMap::new(),
            locality: Locality::default(),
        };
        for service in config.services.values() {
            let parts = Parts::new(world, &index, service);
            let told = service.distribution.is_some() || rules.around(&service.host).any(by_place);
            let placed = told && parts.has_places();
            common.by_place |= placed;
            if placed && service.distribution.is_some() {
                let labels = LocalitySetting::DISTRIBUTION.map(str::to_owned);
                common.told_apart.labels.extend(labels);
            }
            if placed || rules.differ(&service.host, &service.namespace) {
                common.varying.push(parts);
                continue;
            }
            let rule = config.destination(&service.host, nobody.caller());
            parts.add(
                world,
                rule.map(|rule| &**rule),
                nobody.place(),
                &mut common.same,
            );
        }
        if common.by_place {
            let all = rules.all().flat_map(policies);
            let balancers = all.filter_map(|policy| policy.load_balancer.as_ref());
            let settings = balancers.filter_map(|balancer| balancer.locality.as_ref());
            let labels = settings.flat_map(|setting| &setting.priority);
            common
                .told_apart
                .labels
                .extend(labels.map(|(label, _)| label.clone()));
        }
        common
    }

    /// Clusters and endpoints for `node`.
    pub(super) fn of(&self, world: &World, node: &Node) -> Scope {
        let mut scope = self.same.clone();
        if self.varying.is_empty() {
            return scope;
        }
        let own = self.varying(world, node);
        let clusters = own.clusters.iter();
        scope
            .clusters
            .extend(clusters.map(|(name, cluster)| (name.clone(), Arc::clone(cluster))));
        let endpoints = own.endpoints.iter();
        scope
            .endpoints
            .extend(endpoints.map(|(name, all)| (name.clone(), Arc::clone(all))));
        scope
    }

    /// `world` as it is known where `sidecar`, which has this place among all, is in force.
    pub(super) fn known(
        &self,
        world: &World,
        (at, sidecar): (usize, &Sidecar),
        node: &Node,
    ) -> Arc<World> {
        // Nothing under this lock leaves the map half changed.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let made = known
            .entry((at, node.namespace.clone()))
            .or_insert_with(|| Arc::new(scope::known(world, sidecar, &node.namespace)));
        Arc::clone(made)
    }

    fn varying(&self, world: &World, node: &Node) -> Arc<Scope> {
        let standpoint = self.standpoint(node);
        // Nothing under this lock leaves the map half changed.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = made.get(&standpoint) {
            return Arc::clone(scope);
        }
        let mut scope = Scope::default();
        for parts in &self.varying {
            let rule = world
                .config
                .destination(&parts.service.host, standpoint.caller());
            let rule = rule.map(|rule| &**rule);
            parts.add(world, rule, standpoint.place(), &mut scope);
        }
        let scope = Arc::new(scope);
        made.insert(standpoint, Arc::clone(&scope));
        scope
    }

    fn standpoint(&self, node: &Node) -> Standpoint {
        let named = self.told_apart.namespaces.contains(&node.namespace);
        let labels = node.labels.iter();
        Standpoint {
            namespace: if named {
                node.namespace.clone()
            } else {
                String::new()
            },
            labels: labels
                .filter(|(label, _)| self.told_apart.labels.contains(*label))
                .map(|(label, value)| (label.clone(), value.clone()))
                .collect(),
            locality: if self.by_place {
                node.locality.clone()
            } else {
                Locality::default()
            },
        }
    }
}

fn by_place(rule: &Arc<Destination>) -> bool {
    policies(rule).any(|policy| {
        let called = Called {
            policy,
            distribution: None,
        };
        called.counts()
    })
}

/// Every policy of a rule.
fn policies(rule: &Arc<Destination>) -> impl Iterator<Item = &TrafficPolicy> {
    let subsets = rule.subsets.values();
    let own = std::iter::once(&rule.policy).chain(rule.ports.values());
    own.chain(
        subsets.flat_map(|subset| std::iter::once(&subset.policy).chain(subset.ports.values())),
    )
}
