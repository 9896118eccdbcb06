//! Clusters and endpoints, made once for all proxies that are served alike.
//!
//! Most services are called in one way by everybody, and are made when a world is first looked at.
//! What rules or localities make differ between callers is made again for each standpoint, the first
//! time that a proxy asks who has it, and kept for the others; so is what a Sidecar lets its workloads
//! know. [`Common::next`] makes the same of the next world out of what it was in the last: nothing is
//! made again but of services that changed, that are called in another way, or that choose instances
//! that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::backend_tls;
use super::cluster::{Moved, Parts};
use super::plan::{Plan, Standpoint, only};
use super::relay;
use super::routing::Asked;
use super::scope;
use crate::mesh::selection::Selection;
use crate::mesh::shared_map::SharedMap;
use crate::mesh::sharing::differing;
use crate::mesh::sidecar::Sidecar;
use crate::mesh::world::{Config, selects};
use crate::mesh::{Assignment, Cluster, Hostname, Node, NodeKind, Service, World};

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
    /// The services that differ; none where all may.
    touched: Option<Vec<Touched>>,
    /// What people want as it was known, where that is not the same any more.
    known: BTreeMap<(usize, String), Arc<Config>>,
    /// What people want is the same.
    settled: bool,
    /// What they wanted; held in its place only, so that no other is there.
    config: Weak<Config>,
}

/// A service that is made again.
#[derive(Debug)]
struct Touched {
    host: Hostname,
    /// Every name that its clusters may have had.
    names: Vec<Arc<str>>,
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
    pub(super) fn take(&mut self, name: &Arc<str>, from: &Self) {
        match from.clusters.get(name) {
            Some(cluster) => self.clusters.insert(Arc::clone(name), Arc::clone(cluster)),
            None => self.clusters.remove(name),
        };
        self.lead(name, from.endpoints.get(name));
    }

    /// Puts a cluster under its name; what is equal stays.
    pub(super) fn put(&mut self, cluster: Cluster) {
        let name: Arc<str> = cluster.name.as_str().into();
        if self.clusters.get(&name).is_none_or(|had| **had != cluster) {
            self.clusters.insert(name, Arc::new(cluster));
        }
    }

    /// Puts endpoints under `name`, or none.
    pub(super) fn lead(&mut self, name: &Arc<str>, endpoints: Option<&Arc<Assignment>>) {
        match endpoints {
            Some(all) => self.endpoints.insert(Arc::clone(name), Arc::clone(all)),
            None => self.endpoints.remove(name),
        };
    }

    /// `before`, if nothing in it became other.
    fn or_same(self, before: &Arc<Self>) -> Arc<Self> {
        if self.clusters.is(&before.clusters) && self.endpoints.is(&before.endpoints) {
            Arc::clone(before)
        } else {
            Arc::new(self)
        }
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

/// Whose scope it is: of a standpoint, or everybody's; as a Sidecar lets a namespace know it, or as
/// gateways have it for whose calls there are policies or that pass on calls of others, or all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    standpoint: Option<Standpoint>,
    known: Option<(usize, String)>,
    secured: bool,
    relayed: bool,
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
        let index = Selection::new(world, world.config.services.values());
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
        let (old, config) = (&*before.config, &*world.config);
        let settled = Arc::ptr_eq(&before.config, &world.config);
        let last = Last {
            same: Arc::clone(&self.same),
            made: lock(&self.made).clone(),
            touched: None,
            known: if settled {
                BTreeMap::new()
            } else {
                lock(&self.plan.known).clone()
            },
            settled,
            config: Arc::downgrade(&before.config),
        };
        let configured = if settled {
            BTreeSet::new()
        } else if let Some(touched) = config.touched(old) {
            touched
        } else {
            let made = Self::new(world);
            return Self {
                same: made.same.sharing(&self.same).or_same(&self.same),
                last,
                ..made
            };
        };
        let plan = if settled {
            Arc::clone(&self.plan)
        } else {
            Arc::new(Plan::new(config))
        };
        let mut parts = self.parts.clone();
        self.reconfigure(before, config, &configured, &mut parts);
        let mut touched = configured;
        let mut moved: BTreeMap<Hostname, Moved<'_>> = BTreeMap::new();
        for key in world.instances.changed(&before.instances, Arc::ptr_eq) {
            // What runs goes before what somebody wrote down.
            let of = |world: &World| {
                let running = world.instances.get(key);
                running.or_else(|| config.workloads.get(key)).cloned()
            };
            let (old, new) = (of(before), of(world));
            let either = old.iter().chain(&new);
            let hosts: BTreeSet<&Hostname> = either
                .flat_map(|own| plan.choosing(&own.namespace, &own.labels))
                .collect();
            for host in hosts {
                let of_host = moved.entry(host.clone()).or_default();
                of_host.insert((key.0.as_str(), key.1.as_str()), new.clone());
            }
        }
        // Each service once, however many of its instances are others.
        for (host, moved) in moved {
            if let Some(own) = parts.get(&host) {
                let own = Arc::new(own.with(config, &moved));
                parts.insert(host.clone(), own);
                touched.insert(host);
            }
        }
        let touched: Vec<Touched> = touched
            .into_iter()
            .map(|host| Touched {
                // Where people want the same, clusters have the names that they had.
                names: match self.parts.get(&host) {
                    Some(had) if !settled => had.names(old),
                    _ => Vec::new(),
                },
                host,
            })
            .collect();
        let mut same = Scope::clone(&self.same);
        for own in &touched {
            let parts = parts.get(&own.host);
            let parts = parts.filter(|_| !plan.varying.contains(&own.host));
            own.change(parts, config, &Standpoint::nobody(), &mut same);
        }
        Self {
            plan,
            parts,
            same: same.or_same(&self.same),
            made: Mutex::default(),
            last: Last {
                touched: Some(touched),
                ..last
            },
        }
    }

    /// Brings what stands behind the services `touched` to what `config` says of them.
    fn reconfigure(
        &self,
        before: &World,
        config: &Config,
        touched: &BTreeSet<Hostname>,
        parts: &mut SharedMap<Hostname, Arc<Parts>>,
    ) {
        let mut index = None;
        for host in touched {
            let Some(service) = config.services.get(host) else {
                parts.remove(host);
                continue;
            };
            let had = self.parts.get(host).filter(|had| {
                let own = &had.service;
                (&own.namespace, &own.selector) == (&service.namespace, &service.selector)
            });
            let backends = if let Some(had) = had {
                had.backends.clone()
            } else {
                let index = index.get_or_insert_with(|| {
                    let services = touched.iter();
                    let services = services.filter_map(|host| config.services.get(host));
                    Selection::new(before, services)
                });
                index.select(service).into_iter().cloned().collect()
            };
            let own = Parts::new(config, service, backends);
            parts.insert(host.clone(), Arc::new(own));
        }
    }

    /// Clusters and endpoints for `node`; what the first holds goes before.
    pub(super) fn of(
        &self,
        world: &World,
        node: &Node,
        known: Option<&(usize, &Sidecar)>,
        secured: bool,
    ) -> Vec<Arc<Scope>> {
        let standpoint = (!self.plan.varying.is_empty()).then(|| self.plan.standpoint(node));
        let gateway = node.kind == NodeKind::Gateway && !self.plan.unnamed.is_empty();
        let gateway = gateway.then(|| self.plan.standpoint(node).of_gateways());
        let mut scopes = Vec::new();
        let all = [gateway, standpoint].into_iter().flatten();
        let all: Vec<_> = all.map(Some).chain([None]).collect();
        if relay::serves(&world.config, node) {
            let own = all.iter().cloned();
            scopes.extend(own.map(|standpoint| self.relayed(&world.config, standpoint)));
        }
        for standpoint in all {
            let raw = self.raw(&world.config, standpoint.as_ref());
            if known.is_none() && !secured {
                scopes.push(raw);
                continue;
            }
            let standing = Standing {
                standpoint,
                known: known.map(|(at, _)| (*at, node.namespace.clone())),
                secured,
                relayed: false,
            };
            scopes.push(self.make(standing, |standing, last| {
                let config = known.map(|(at, own)| self.known(&world.config, (*at, own), node));
                let config = config.as_ref().unwrap_or(&world.config);
                let passes = secured && backend_tls::passes(config);
                let last = last.filter(|_| self.knows_as_before(standing, config));
                let (mut scope, names) = self.begun(standing, last, &raw);
                let nothing = Scope::default();
                for name in &names {
                    let cluster = raw.clusters.get(name);
                    if secured {
                        backend_tls::secure(config, passes, name, &raw, &mut scope);
                    } else if cluster.is_some_and(|own| scope::holds(config, own)) {
                        scope.take(name, &raw);
                    } else {
                        scope.take(name, &nothing);
                    }
                }
                scope
            }));
        }
        scopes
    }

    /// What of the scope of a standpoint, or of what is the same for everybody, others reach through gateways.
    fn relayed(&self, config: &Config, standpoint: Option<Standpoint>) -> Arc<Scope> {
        let raw = self.raw(config, standpoint.as_ref());
        let standing = Standing {
            standpoint,
            known: None,
            secured: false,
            relayed: true,
        };
        self.make(standing, |standing, last| {
            let (mut scope, names) = self.begun(standing, last, &raw);
            for name in &names {
                relay::pass(name, &raw, &mut scope);
            }
            scope
        })
    }

    /// What the scope of `standing` is made of: that of the last world where it is like `last`, and the names
    /// that differ in `raw` since; else nothing, and every name.
    fn begun(
        &self,
        standing: &Standing,
        last: Option<&Scope>,
        raw: &Scope,
    ) -> (Scope, BTreeSet<Arc<str>>) {
        // The raw one as it was, which the last was made of.
        let was = match &standing.standpoint {
            Some(_) => self.last.made.get(&Standing {
                known: None,
                secured: false,
                relayed: false,
                ..standing.clone()
            }),
            None => Some(&self.last.same),
        };
        match (last, was) {
            (Some(last), Some(was)) => {
                let (mut names, endpoints) = raw.changed(was);
                names.extend(endpoints);
                (Scope::clone(last), names)
            }
            _ => (
                Scope::default(),
                raw.clusters.keys().cloned().collect::<BTreeSet<_>>(),
            ),
        }
    }

    /// The scope of a standpoint, or what is the same for everybody.
    fn raw(&self, config: &Config, standpoint: Option<&Standpoint>) -> Arc<Scope> {
        let Some(standpoint) = standpoint else {
            return Arc::clone(&self.same);
        };
        let standing = Standing {
            standpoint: Some(standpoint.clone()),
            known: None,
            secured: false,
            relayed: false,
        };
        let hosts = if standpoint.gateway {
            &self.plan.unnamed
        } else {
            &self.plan.varying
        };
        self.make(standing, |_, last| {
            if let (Some(last), Some(touched)) = (last, &self.last.touched) {
                let mut scope = Scope::clone(last);
                for own in touched {
                    let parts = self.parts.get(&own.host);
                    let parts = parts.filter(|_| hosts.contains(&own.host));
                    own.change(parts, config, standpoint, &mut scope);
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
            Some(last) if !self.last.settled => scope.sharing(last).or_same(last),
            Some(last) => scope.or_same(last),
            None => Arc::new(scope),
        };
        // Who made the same meanwhile goes before, so that all have one.
        Arc::clone(lock(&self.made).entry(standing).or_insert(scope))
    }

    /// Whether `config`, which is what `standing` knows, has the services and ports that it had in the
    /// last world.
    fn knows_as_before(&self, standing: &Standing, config: &Config) -> bool {
        if self.last.settled {
            return true;
        }
        let last = standing.known.as_ref();
        let last = last.and_then(|known| self.last.known.get(known));
        last.is_some_and(|last| differing(&config.services, &last.services).is_empty())
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

    /// The services that choose `node` by its labels, by name.
    pub(super) fn choosing<'w>(&self, config: &'w Config, node: &Node) -> Vec<&'w Service> {
        let mut hosts = self.plan.choosing(&node.namespace, &node.labels);
        hosts.sort();
        let services = hosts
            .into_iter()
            .filter_map(|host| config.services.get(host));
        services
            .map(|service| &**service)
            .filter(|service| selects(&service.selector, &node.labels))
            .collect()
    }

    /// Whether the services that choose `node` are what they were under `before`, and who must speak
    /// mTLS; known of the configuration before this one only.
    pub(super) fn keeps_choosing(
        &self,
        (config, before): (&Config, &Arc<Config>),
        node: &Node,
    ) -> bool {
        if !Weak::ptr_eq(&self.last.config, &Arc::downgrade(before)) {
            return false;
        }
        // Where all may differ, that is not known.
        let Some(touched) = &self.last.touched else {
            return false;
        };
        let chooses = |service: &Arc<Service>| {
            service.namespace == node.namespace && selects(&service.selector, &node.labels)
        };
        !touched.iter().any(|own| {
            let both = [
                config.services.get(&own.host),
                before.services.get(&own.host),
            ];
            both.into_iter().flatten().any(chooses)
        })
    }

    /// The labels of callers that rules ask for, and those of `node`.
    pub(super) fn asked(&self, node: &Node) -> Asked {
        Asked {
            labels: self.plan.asked.clone(),
            own: only(&node.labels, &self.plan.asked),
        }
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

impl Touched {
    /// Makes the service again in a scope that had it, of `parts`, or takes it out; what is equal stays.
    fn change(
        &self,
        parts: Option<&Arc<Parts>>,
        config: &Config,
        standpoint: &Standpoint,
        scope: &mut Scope,
    ) {
        let mut own = Scope::default();
        if let Some(parts) = parts {
            parts.add_for(config, standpoint, &mut own);
        }
        for name in &self.names {
            if !own.clusters.contains_key(name) {
                scope.clusters.remove(name);
                scope.endpoints.remove(name);
            }
        }
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
