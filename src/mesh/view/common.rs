//! Clusters and endpoints, made once for all proxies that are served alike.
//!
//! Most services are called in one way by everybody, and are made when a world is first looked at.
//! What rules or localities make differ between callers is made again for each standpoint, the first
//! time that a proxy asks who has it, and kept for the others; so is what a Sidecar lets its workloads
//! know. [`Common::next`] makes the same of the next world out of what it was in the last: where only
//! instances changed, nothing is looked at but the services that choose these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::cluster::Parts;
use super::scope;
use crate::mesh::destinations::{Caller, Distinctions};
use crate::mesh::locality::{Called, LocalitySetting, Place};
use crate::mesh::selection::Selection;
use crate::mesh::shared_map::SharedMap;
use crate::mesh::sidecar::Sidecar;
use crate::mesh::world::{Config, Destination, TrafficPolicy, selects};
use crate::mesh::{
    Assignment, Cluster, Hostname, Instance, Locality, Node, NodeKind, Protocol, Service,
    ServicePort, World,
};

/// What proxies of a world share.
#[derive(Debug, Default)]
pub struct Common {
    plan: Arc<Plan>,
    /// What stands behind each service.
    parts: SharedMap<Hostname, Arc<Parts>>,
    /// The same for everybody.
    same: Arc<Scope>,
    made: Mutex<BTreeMap<Standing, Arc<Scope>>>,
    last: Last,
}

/// What is known of the world before, to be changed rather than made again.
#[derive(Debug, Default)]
struct Last {
    same: Arc<Scope>,
    made: BTreeMap<Standing, Arc<Scope>>,
    /// The services that differ, where configuration is the same.
    touched: Option<Vec<Hostname>>,
}

/// What configuration alone decides.
#[derive(Debug, Default)]
struct Plan {
    /// Services that callers are served differently of.
    varying: BTreeSet<Hostname>,
    /// Services with ports that do not say what they speak, which gateways do not ask their callers; none
    /// where there are no gateways.
    unnamed: BTreeSet<Hostname>,
    told_apart: Distinctions,
    /// Labels of callers that any rule asks for.
    asked: BTreeSet<String>,
    /// Whether it matters where callers are.
    by_place: bool,
    /// By namespace and first label of the selector.
    choosing: BTreeMap<(String, String, String), Vec<Hostname>>,
    /// What people want, as it is known, by the place of a Sidecar and the namespace that it is for.
    known: Mutex<BTreeMap<(usize, String), Arc<Config>>>,
}

/// Clusters and their endpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scope {
    /// By name.
    pub clusters: SharedMap<Arc<str>, Arc<Cluster>>,
    /// By cluster name.
    pub endpoints: SharedMap<Arc<str>, Arc<Assignment>>,
}

impl Scope {
    /// Names of clusters, and of clusters whose endpoints, that are not those of `before`.
    pub fn changed(&self, before: &Self) -> (BTreeSet<Arc<str>>, BTreeSet<Arc<str>>) {
        let clusters = self.clusters.changed(&before.clusters, Arc::ptr_eq);
        let endpoints = self.endpoints.changed(&before.endpoints, Arc::ptr_eq);
        (
            clusters.into_iter().cloned().collect(),
            endpoints.into_iter().cloned().collect(),
        )
    }

    /// Takes from `from` what stands there under `name`, be it nothing.
    fn take(&mut self, name: &Arc<str>, from: &Self) {
        match from.clusters.get(name) {
            Some(cluster) => self.clusters.insert(Arc::clone(name), Arc::clone(cluster)),
            None => self.clusters.remove(name),
        };
        match from.endpoints.get(name) {
            Some(all) => self.endpoints.insert(Arc::clone(name), Arc::clone(all)),
            None => self.endpoints.remove(name),
        };
    }

    /// The same, sharing with `before` what is equal.
    fn sharing(&self, before: &Self) -> Self {
        Self {
            clusters: self.clusters.sharing(&before.clusters, equal),
            endpoints: self.endpoints.sharing(&before.endpoints, equal),
        }
    }
}

fn equal<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// What callers are told apart by: who agrees in it is served alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Standpoint {
    /// Of gateways, and of [`Plan::unnamed`] only.
    gateway: bool,
    namespace: String,
    labels: BTreeMap<String, String>,
    locality: Locality,
}

/// Whose scope it is: of a standpoint, or everybody's; as a Sidecar lets a namespace know it, or all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    standpoint: Option<Standpoint>,
    known: Option<(usize, String)>,
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

    fn nobody() -> Self {
        Self {
            gateway: false,
            namespace: String::new(),
            labels: BTreeMap::new(),
            locality: Locality::default(),
        }
    }
}

/// What calls of a workload are routed by: who agrees in it has the same tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outlook {
    namespace: String,
    labels: BTreeMap<String, String>,
    transparent: bool,
    outbound: std::net::SocketAddr,
    known: Option<usize>,
}

impl Common {
    pub(super) fn new(world: &World) -> Self {
        let index = Selection::new(world);
        let services = world.config.services.iter();
        let parts = services.map(|(host, service)| {
            let chosen = index.select(service).into_iter().cloned();
            let parts = Parts::new(&world.config, service, chosen.collect());
            (host.clone(), Arc::new(parts))
        });
        let mut common = Self {
            plan: Arc::new(Plan::new(&world.config)),
            parts: parts.collect(),
            ..Self::default()
        };
        let mut same = Scope::default();
        for (host, parts) in common.parts.iter() {
            if !common.plan.varying.contains(host) {
                parts.add_for(&world.config, &Standpoint::nobody(), &mut same);
            }
        }
        common.same = Arc::new(same);
        common
    }

    /// The same of `world`, which comes after `before`, that this was made of.
    #[must_use]
    pub fn next(&self, before: &World, world: &World) -> Self {
        let last = Last {
            same: Arc::clone(&self.same),
            made: lock(&self.made).clone(),
            touched: None,
        };
        if !Arc::ptr_eq(&before.config, &world.config) {
            let made = Self::new(world);
            return Self {
                same: Arc::new(made.same.sharing(&self.same)),
                last,
                ..made
            };
        }
        let config = &*world.config;
        let mut parts = self.parts.clone();
        let mut touched = BTreeSet::new();
        for key in world.instances.changed(&before.instances, Arc::ptr_eq) {
            // What runs goes before what somebody wrote down.
            let of = |world: &World| {
                let running = world.instances.get(key);
                running.or_else(|| config.workloads.get(key)).cloned()
            };
            let (old, new) = (of(before), of(world));
            let either = old.iter().chain(&new);
            let hosts: BTreeSet<&Hostname> =
                either.flat_map(|own| self.plan.choosing(own)).collect();
            for host in hosts {
                if let Some(own) = parts.get(host) {
                    let own = Arc::new(own.with(config, key, new.as_ref()));
                    parts.insert(host.clone(), own);
                    touched.insert(host.clone());
                }
            }
        }
        let mut same = Scope::clone(&self.same);
        for host in &touched {
            if let Some(own) = parts.get(host)
                && !self.plan.varying.contains(host)
            {
                own.change_for(config, &Standpoint::nobody(), &mut same);
            }
        }
        Self {
            plan: Arc::clone(&self.plan),
            parts,
            same: Arc::new(same),
            made: Mutex::default(),
            last: Last {
                touched: Some(touched.into_iter().collect()),
                ..last
            },
        }
    }

    /// Clusters and endpoints for `node`; what the first holds goes before.
    pub(super) fn of(
        &self,
        world: &World,
        node: &Node,
        known: Option<&(usize, &Sidecar)>,
    ) -> Vec<Arc<Scope>> {
        let standpoint = (!self.plan.varying.is_empty()).then(|| self.plan.standpoint(node));
        let gateway = node.kind == NodeKind::Gateway && !self.plan.unnamed.is_empty();
        let gateway = gateway.then(|| Standpoint {
            gateway: true,
            ..self.plan.standpoint(node)
        });
        let mut scopes = Vec::new();
        let all = [gateway, standpoint].into_iter().flatten();
        for standpoint in all.map(Some).chain([None]) {
            let raw = self.raw(&world.config, standpoint.as_ref());
            let Some((at, sidecar)) = known else {
                scopes.push(raw);
                continue;
            };
            let standing = Standing {
                standpoint,
                known: Some((*at, node.namespace.clone())),
            };
            scopes.push(self.make(standing, |standing, last| {
                let config = self.known(&world.config, (*at, sidecar), node);
                let holds = |name: &Arc<str>| {
                    let cluster = raw.clusters.get(name);
                    cluster.is_some_and(|cluster| scope::holds(&config, cluster))
                };
                // The raw one as it was, which the last was made of.
                let was = match &standing.standpoint {
                    Some(_) => self.last.made.get(&Standing {
                        known: None,
                        ..standing.clone()
                    }),
                    None => Some(&self.last.same),
                };
                let (mut scope, names) = match (last, was, &self.last.touched) {
                    (Some(last), Some(was), Some(_)) => {
                        let (mut names, endpoints) = raw.changed(was);
                        names.extend(endpoints);
                        (Scope::clone(last), names)
                    }
                    _ => (
                        Scope::default(),
                        raw.clusters.keys().cloned().collect::<BTreeSet<_>>(),
                    ),
                };
                let nothing = Scope::default();
                for name in &names {
                    scope.take(name, if holds(name) { &raw } else { &nothing });
                }
                scope
            }));
        }
        scopes
    }

    /// The scope of a standpoint, or what is the same for everybody.
    fn raw(&self, config: &Config, standpoint: Option<&Standpoint>) -> Arc<Scope> {
        let Some(standpoint) = standpoint else {
            return Arc::clone(&self.same);
        };
        let standing = Standing {
            standpoint: Some(standpoint.clone()),
            known: None,
        };
        let hosts = if standpoint.gateway {
            &self.plan.unnamed
        } else {
            &self.plan.varying
        };
        self.make(standing, |_, last| {
            if let (Some(last), Some(touched)) = (last, &self.last.touched) {
                let mut scope = Scope::clone(last);
                let varying = touched.iter().filter(|host| hosts.contains(*host));
                for parts in varying.filter_map(|host| self.parts.get(host)) {
                    parts.change_for(config, standpoint, &mut scope);
                }
                scope
            } else {
                let mut scope = Scope::default();
                for parts in hosts.iter().filter_map(|host| self.parts.get(host)) {
                    parts.add_for(config, standpoint, &mut scope);
                }
                scope
            }
        })
    }

    /// The scope of `standing`: made once, out of what it was in the last world.
    fn make(
        &self,
        standing: Standing,
        make: impl FnOnce(&Standing, Option<&Scope>) -> Scope,
    ) -> Arc<Scope> {
        if let Some(scope) = lock(&self.made).get(&standing) {
            return Arc::clone(scope);
        }
        let last = self.last.made.get(&standing);
        let scope = make(&standing, last.map(|last| &**last));
        let scope = match last {
            // Of another configuration: what is equal all the same need not be looked at again.
            Some(last) if self.last.touched.is_none() => scope.sharing(last),
            _ => scope,
        };
        // Who made the same meanwhile goes before, so that all have one.
        Arc::clone(
            lock(&self.made)
                .entry(standing)
                .or_insert_with(|| Arc::new(scope)),
        )
    }

    /// What people want as it is known where `sidecar`, which has this place among all, is in force.
    pub(super) fn known(
        &self,
        config: &Config,
        (at, sidecar): (usize, &Sidecar),
        node: &Node,
    ) -> Arc<Config> {
        let mut known = lock(&self.plan.known);
        let made = known
            .entry((at, node.namespace.clone()))
            .or_insert_with(|| Arc::new(scope::known(config, sidecar, &node.namespace)));
        Arc::clone(made)
    }

    /// What calls of `node` are routed by.
    pub(super) fn outlook(&self, node: &Node, known: Option<usize>) -> Outlook {
        Outlook {
            namespace: node.namespace.clone(),
            labels: only(&node.labels, &self.plan.asked),
            transparent: node.transparent,
            outbound: node.outbound,
            known,
        }
    }
}

/// Nothing under these locks leaves a map half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plan {
    fn new(config: &Config) -> Self {
        let rules = &config.destinations;
        let gateways = !config.gateways.is_empty() || !config.listening.is_empty();
        let mut plan = Self {
            told_apart: rules.distinctions(),
            ..Self::default()
        };
        for (host, service) in &config.services {
            if let Some((label, value)) = service.selector.iter().next() {
                let first = (service.namespace.clone(), label.clone(), value.clone());
                plan.choosing.entry(first).or_default().push(host.clone());
            }
            let placed = service.distribution.is_some() || by_place(config, service);
            plan.by_place |= placed;
            if placed && service.distribution.is_some() {
                let labels = LocalitySetting::DISTRIBUTION.map(str::to_owned);
                plan.told_apart.labels.extend(labels);
            }
            if placed || rules.differ(host, &service.namespace) {
                plan.varying.insert(host.clone());
            }
            let unnamed = |port: &ServicePort| port.protocol == Protocol::Auto;
            if gateways && service.ports.iter().any(unnamed) {
                plan.unnamed.insert(host.clone());
            }
        }
        plan.asked.extend(plan.told_apart.labels.iter().cloned());
        if plan.by_place {
            let all = rules.all().flat_map(policies);
            let balancers = all.filter_map(|policy| policy.load_balancer.as_ref());
            let settings = balancers.filter_map(|balancer| balancer.locality.as_ref());
            let settings = settings.chain(&config.baseline.locality);
            let labels = settings.flat_map(|setting| &setting.priority);
            plan.told_apart
                .labels
                .extend(labels.map(|(label, _)| label.clone()));
        }
        for routes in config.routes.values() {
            let requests = routes.rules.iter().map(|rule| &rule.source);
            let bytes = routes.streams.iter().map(|rule| &rule.source);
            let labels = requests
                .chain(bytes)
                .flat_map(|source| source.labels.keys());
            plan.asked.extend(labels.cloned());
        }
        plan
    }

    /// Services that may choose `instance`: those that do, and some more.
    fn choosing(&self, instance: &Instance) -> Vec<&Hostname> {
        let labels = instance.labels.iter();
        let hosts = labels.flat_map(|(label, value)| {
            let first = (instance.namespace.clone(), label.clone(), value.clone());
            self.choosing.get(&first).into_iter().flatten()
        });
        hosts.collect()
    }

    fn standpoint(&self, node: &Node) -> Standpoint {
        let named = self.told_apart.namespaces.contains(&node.namespace);
        Standpoint {
            gateway: false,
            namespace: if named {
                node.namespace.clone()
            } else {
                String::new()
            },
            labels: only(&node.labels, &self.told_apart.labels),
            locality: if self.by_place {
                node.locality.clone()
            } else {
                Locality::default()
            },
        }
    }
}

fn only(labels: &BTreeMap<String, String>, of: &BTreeSet<String>) -> BTreeMap<String, String> {
    let kept = labels.iter().filter(|(label, _)| of.contains(*label));
    kept.map(|(label, value)| (label.clone(), value.clone()))
        .collect()
}

impl Parts {
    /// The same after the instance of this key became `new`, or went.
    fn with(&self, config: &Config, key: &(String, String), new: Option<&Arc<Instance>>) -> Self {
        let is =
            |instance: &&Arc<Instance>| (&instance.namespace, &instance.name) == (&key.0, &key.1);
        let others = self.backends.iter().filter(|instance| !is(instance));
        let mut backends: Vec<Arc<Instance>> = others.cloned().collect();
        let service = &self.service;
        let chosen = new.filter(|new| {
            new.namespace == service.namespace && selects(&service.selector, &new.labels)
        });
        backends.extend(chosen.cloned());
        Self::new(config, service, backends)
    }

    fn add_for(&self, config: &Config, standpoint: &Standpoint, into: &mut Scope) {
        let rule = config.destination(&self.service.host, standpoint.caller());
        let rule = rule.map(|rule| &**rule);
        self.add(config, rule, (standpoint.place(), standpoint.gateway), into);
    }

    /// Makes it again in a scope that had it; what is equal stays.
    fn change_for(&self, config: &Config, standpoint: &Standpoint, scope: &mut Scope) {
        let mut own = Scope::default();
        self.add_for(config, standpoint, &mut own);
        for (name, cluster) in own.clusters.iter() {
            if scope.clusters.get(name).is_none_or(|had| had != cluster) {
                scope.clusters.insert(Arc::clone(name), Arc::clone(cluster));
            }
            match own.endpoints.get(name) {
                Some(all) if scope.endpoints.get(name).is_none_or(|had| had != all) => {
                    scope.endpoints.insert(Arc::clone(name), Arc::clone(all));
                }
                Some(_) => {}
                None => {
                    scope.endpoints.remove(name);
                }
            }
        }
    }
}

/// Whether it matters, by rules for `service` or what lies under them, where its callers are.
fn by_place(config: &Config, service: &Service) -> bool {
    let counts = |policy: &TrafficPolicy| {
        let called = Called {
            policy,
            distribution: None,
        };
        called.counts()
    };
    let rules = config.destinations.around(&service.host);
    let mut written = rules.flat_map(policies);
    if !config.baseline.ranks(&service.host) {
        return written.any(counts);
    }
    let under = |policy: TrafficPolicy| counts(&config.baseline.under(service, policy));
    under(TrafficPolicy::default()) || written.any(|policy| under(policy.clone()))
}

/// Every policy of a rule.
fn policies(rule: &Arc<Destination>) -> impl Iterator<Item = &TrafficPolicy> {
    let subsets = rule.subsets.values();
    let own = std::iter::once(&rule.policy).chain(rule.ports.values());
    own.chain(
        subsets.flat_map(|subset| std::iter::once(&subset.policy).chain(subset.ports.values())),
    )
}
