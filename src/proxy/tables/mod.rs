//! A view made ready for the data path: names resolved to indexes, choices worked out.
//!
//! Building is a function of the view and of the tables before it: whatever did not change is
//! taken over, with its counters and its place in the round. What the view refers to and does not
//! hold becomes `None`, which the data path answers with 503 or a close, and which allows nothing.

mod addresses;
pub(crate) mod chain;
pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod retry;
pub(crate) mod route;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mesh::balancing::LocalityBalancing;
use crate::mesh::listener::Direction;
use crate::mesh::{Assignment, Cluster, Endpoint, Locality, View};
use crate::rt;
use crate::telemetry::Registry;
use crate::telemetry::changed::Changes;

use super::balance::choices::Home;
use super::filter::Filter;
use super::options::Options;
use super::origination::Texts;

pub(crate) use chain::{ChainAction, ListenerTable};
pub(crate) use cluster::{ClusterTable, EndpointEntry, EndpointSet, EndpointState};
pub(crate) use retry::RetryTable;
pub(crate) use route::{RouteAction, RouteTable};

/// What tables know of the process that they are built in. The same for all versions.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// When the process began.
    began: Instant,
    /// Told when the health of an endpoint has changed.
    pub(crate) changed: Notify,
    /// When choices change by themselves, in milliseconds since the process began.
    again: AtomicU64,
    /// Where this proxy runs.
    locality: Locality,
    /// The address that its own instance is known by.
    address: Option<IpAddr>,
    /// The cluster of this proxy's own instances, for zone-aware routing.
    local_cluster: String,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self::new(rt::now(), &Options::default())
    }
}

impl Surroundings {
    /// A process that began then and runs there.
    pub(crate) fn new(began: Instant, options: &Options) -> Self {
        Self {
            began,
            changed: Notify::new(),
            again: AtomicU64::new(u64::MAX),
            locality: options.locality.clone(),
            address: options.address,
            local_cluster: options.local_cluster.clone(),
        }
    }

    /// Milliseconds since the process began.
    pub(crate) fn millis(&self) -> u64 {
        let passed = rt::now().saturating_duration_since(self.began);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    fn look_again(&self, at: Option<u64>) {
        if let Some(at) = at {
            self.again.fetch_min(at, Ordering::Relaxed);
        }
    }
}

/// Everything that workers read. Immutable but for the counters inside.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// The view that it was built from.
    pub(crate) view: Arc<View>,
    /// By name.
    pub(crate) listeners: BTreeMap<String, Arc<ListenerTable>>,
    /// Versions of all chains, in order; the same list while they are.
    pub(crate) chains: Arc<Vec<u64>>,
    /// What each of them asks of callers, in no order that matters ([`chain::ChainTable::proof`]).
    pub(crate) proofs: Vec<u64>,
    /// Indexes are what chains hold.
    pub(crate) routes: Vec<Arc<RouteTable>>,
    /// Route table index by name.
    pub(crate) route_names: Arc<BTreeMap<String, usize>>,
    /// Indexes are what routes and chains hold.
    pub(crate) clusters: Vec<Arc<ClusterTable>>,
    /// Cluster index by name.
    pub(crate) cluster_names: Arc<BTreeMap<String, usize>>,
    /// Taken over from the tables before.
    pub(crate) surroundings: Arc<Surroundings>,
}

impl Tables {
    /// What is told of metrics otherwise than usual; the listeners of a side all say the same.
    pub(crate) fn changes(&self) -> Changes<'_> {
        let mut changes = Changes::default();
        for listener in self.listeners.values() {
            let Some(said) = &listener.config.options.metrics else {
                continue;
            };
            match listener.config.direction {
                Direction::Outbound => changes.source = said.as_slice(),
                Direction::Inbound => changes.destination = said.as_slice(),
            }
        }
        changes
    }

    /// No tables yet, in a process of these surroundings.
    pub(crate) fn empty(surroundings: Surroundings) -> Self {
        Self {
            surroundings: Arc::new(surroundings),
            ..Self::default()
        }
    }

    /// Builds tables for `view`, taking over from `before` what is still the same.
    pub(crate) fn build(view: &Arc<View>, before: &Self, registry: &Registry) -> Self {
        let surroundings = &before.surroundings;
        let home = home(view, surroundings).map(Arc::new);
        let clusters: Vec<_> = view
            .clusters
            .values()
            .map(|config| {
                let assignment = view.endpoints.get(&config.name);
                let old = before.named_cluster(&config.name);
                let with = (registry, surroundings, home.as_ref());
                let how = config.origination.as_deref();
                let texts = how.and_then(|how| Texts::of(how, &view.secrets));
                ClusterTable::build((config, texts), assignment, old, with)
            })
            .collect();
        for old in &before.clusters {
            if !view.clusters.contains_key(&old.config.name) {
                old.endpoints.retire();
            }
        }
        let cluster_names = indexes(&view.clusters, &before.cluster_names);
        let same_clusters = Arc::ptr_eq(&cluster_names, &before.cluster_names);
        let routes: Vec<_> = view
            .routes
            .values()
            .map(|config| {
                let old = before
                    .route_index(&config.name)
                    .and_then(|at| before.routes.get(at));
                match old {
                    Some(old) if same_clusters && old.router.table() == config => Arc::clone(old),
                    _ => Arc::new(RouteTable::build(config, &cluster_names, old, registry)),
                }
            })
            .collect();
        for index in routes.iter().flat_map(|table| table.with_sessions()) {
            if let Some(cluster) = clusters.get(index) {
                let set = &cluster.endpoints;
                set.addresses.prepare(&set.entries);
            }
        }
        let same_secrets = view.secrets == before.view.secrets;
        let listeners: BTreeMap<_, _> = view
            .listeners
            .iter()
            .map(|(name, config)| {
                let table = match before.listeners.get(name) {
                    Some(old) if same_clusters && same_secrets && old.config == *config => {
                        Arc::clone(old)
                    }
                    old => {
                        let old = old.map(|old| (&**old, &before.view.secrets));
                        let with = (&*cluster_names, &view.secrets);
                        Arc::new(ListenerTable::build(config, with, old))
                    }
                };
                (name.clone(), table)
            })
            .collect();
        let mut chains: Vec<u64> = listeners
            .values()
            .flat_map(|listener: &Arc<ListenerTable>| listener.versions())
            .collect();
        chains.sort_unstable();
        let proofs = listeners.values();
        let proofs = proofs.flat_map(|listener| listener.proofs()).collect();
        Self {
            proofs,
            chains: if chains == *before.chains {
                Arc::clone(&before.chains)
            } else {
                Arc::new(chains)
            },
            route_names: indexes(&view.routes, &before.route_names),
            view: Arc::clone(view),
            listeners,
            routes,
            clusters,
            cluster_names,
            surroundings: Arc::clone(surroundings),
        }
    }

    /// Works out again what depends on the health of endpoints and on time, where that changed.
    /// When to come back, in milliseconds since the process began. On the control thread only.
    pub(crate) fn refresh(&self) -> Option<u64> {
        let again = &self.surroundings.again;
        again.store(u64::MAX, Ordering::Relaxed);
        let now = self.surroundings.millis();
        for cluster in &self.clusters {
            cluster.endpoints.refresh(now);
        }
        self.wake_at()
    }

    /// When choices change by themselves, in milliseconds since the process began.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        Some(self.surroundings.again.load(Ordering::Relaxed)).filter(|at| *at < u64::MAX)
    }

    /// Whether a chain of this version is still there.
    pub(crate) fn serves(&self, chain: u64) -> bool {
        self.chains.binary_search(&chain).is_ok()
    }

    /// The index of the route table named `name`.
    pub(crate) fn route_index(&self, name: &str) -> Option<usize> {
        self.route_names.get(name).copied()
    }

    /// The cluster named `name`.
    pub(crate) fn named_cluster(&self, name: &str) -> Option<&Arc<ClusterTable>> {
        self.clusters.get(*self.cluster_names.get(name)?)
    }

    /// All filters, of chains and of routes.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &Filter> {
        let chains = self
            .listeners
            .values()
            .flat_map(|listener| listener.filters());
        chains.chain(self.routes.iter().flat_map(|table| table.filters()))
    }

    /// What judges connections of bytes.
    pub(crate) fn guards(&self) -> impl Iterator<Item = &Filter> {
        let listeners = self.listeners.values();
        listeners.flat_map(|listener| listener.guards())
    }

    /// A cluster by the index that a route or chain holds.
    pub(crate) fn cluster(&self, index: Option<usize>) -> Option<&Arc<ClusterTable>> {
        self.clusters.get(index?)
    }
}

/// The place of each name; `before` itself when the names are the same.
fn indexes<T>(
    of: &BTreeMap<String, T>,
    before: &Arc<BTreeMap<String, usize>>,
) -> Arc<BTreeMap<String, usize>> {
    if of.keys().eq(before.keys()) {
        return Arc::clone(before);
    }
    let names = of.keys().enumerate().map(|(at, name)| (name.clone(), at));
    Arc::new(names.collect())
}

/// Where this proxy is and how many of its own kind are in each locality, where anything goes by
/// that and it is known: from the cluster that the options name, else from one that this proxy's own
/// instance is an endpoint of.
fn home(view: &View, surroundings: &Surroundings) -> Option<Home> {
    let zoned = |cluster: &Arc<Cluster>| {
        matches!(cluster.balancing.locality, LocalityBalancing::ZoneAware(_))
    };
    if !view.clusters.values().any(zoned) {
        return None;
    }
    let address = surroundings.address;
    let is_own = |endpoint: &&Endpoint| Some(endpoint.address.ip()) == address;
    let of_own = |set: &&Arc<Assignment>| set.endpoints.iter().any(|e| is_own(&e));
    let kin = match surroundings.local_cluster.as_str() {
        "" => view.endpoints.values().find(of_own),
        name => view.endpoints.get(name),
    }?;
    let own = kin.endpoints.iter().find(is_own);
    let mut callers: Vec<(Locality, u64)> = Vec::new();
    for endpoint in &kin.endpoints {
        match callers.iter_mut().find(|(at, _)| *at == endpoint.locality) {
            Some((_, count)) => *count += 1,
            None => callers.push((endpoint.locality.clone(), 1)),
        }
    }
    let said = (surroundings.locality != Locality::default()).then_some(&surroundings.locality);
    Some(Home {
        locality: said.or(own.map(|own| &own.locality))?.clone(),
        callers,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Endpoint sets for the tests of this layer.

    use crate::mesh::{Assignment, Cluster, Endpoint};

    use super::*;

    /// A cluster with nothing special.
    pub(crate) fn cluster(name: &str) -> Cluster {
        Cluster {
            name: name.to_owned(),
            load_balancer: crate::mesh::LoadBalancer::RoundRobin,
            ..Cluster::default()
        }
    }

    /// An endpoint on loopback.
    pub(crate) fn endpoint(port: u16, weight: u32) -> Endpoint {
        Endpoint {
            weight,
            ..Endpoint::at(([127, 0, 0, 1], port).into())
        }
    }

    /// `config` with endpoints on ports 0 to `count`.
    pub(crate) fn table(config: Cluster, count: u16) -> Arc<ClusterTable> {
        let endpoints = (0..count).map(|port| endpoint(port, 1)).collect();
        ClusterTable::build(
            (&Arc::new(config), None),
            Some(&Arc::new(Assignment::new(endpoints))),
            None,
            (&Registry::new(""), &Arc::default(), None),
        )
    }

    /// Endpoints on ports 0, 1, 2 … with these weights.
    pub(crate) fn endpoints(weights: &[u32]) -> Arc<EndpointSet> {
        let endpoints = (0..)
            .zip(weights)
            .map(|(port, weight)| endpoint(port, *weight));
        set(cluster("c"), Assignment::new(endpoints.collect()))
    }

    /// The endpoints of one cluster.
    pub(crate) fn set(cluster: Cluster, assignment: Assignment) -> Arc<EndpointSet> {
        let table = ClusterTable::build(
            (&Arc::new(cluster), None),
            Some(&Arc::new(assignment)),
            None,
            (&Registry::new(""), &Arc::default(), None),
        );
        Arc::clone(&table.endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ports: &[u16]) -> Arc<View> {
        let mut view = View::default();
        view.clusters
            .insert("c".to_owned(), Arc::new(testing::cluster("c")));
        let endpoints = ports
            .iter()
            .map(|port| testing::endpoint(*port, 1))
            .collect();
        view.endpoints
            .insert("c".to_owned(), Arc::new(Assignment::new(endpoints)));
        Arc::new(view)
    }

    #[test]
    fn endpoints_that_stay_keep_their_state() {
        let registry = Registry::new("");
        let first = Tables::build(&view(&[1, 2]), &Tables::default(), &registry);
        let second = Tables::build(&view(&[2, 3]), &first, &registry);
        let id = |tables: &Tables, port: u16| {
            tables.clusters[0]
                .endpoints
                .entries
                .iter()
                .find(|entry| entry.address.port() == port)
                .map(|entry| entry.state.id)
        };
        assert_eq!(id(&first, 2), id(&second, 2));
        assert_ne!(id(&first, 1), id(&second, 3));
        assert!(Arc::ptr_eq(
            &first.clusters[0].counters,
            &second.clusters[0].counters
        ));
    }

    #[test]
    fn zone_aware_calls_stay_where_the_proxy_is() {
        let zone = |name: &str| Locality {
            zone: name.to_owned(),
            ..Locality::default()
        };
        let at = |address: [u8; 4], name: &str| Endpoint {
            locality: zone(name),
            ..Endpoint::at((address, 80).into())
        };
        let mut view = View::default();
        let mut zoned = testing::cluster("zoned");
        zoned.balancing.locality = LocalityBalancing::ZoneAware(crate::mesh::cluster::ZoneAware {
            min_cluster_size: 2,
            fail_on_panic: false,
        });
        // A caller in each zone; three of four endpoints are in the other one, so half stays.
        let upstream = vec![
            at([10, 1, 0, 1], "a"),
            at([10, 1, 0, 2], "b"),
            at([10, 1, 0, 3], "b"),
            at([10, 1, 0, 4], "b"),
        ];
        let kin = vec![at([10, 0, 0, 1], "a"), at([10, 0, 0, 2], "b")];
        for (cluster, endpoints) in [(zoned, upstream), (testing::cluster("own"), kin)] {
            let name = cluster.name.clone();
            view.clusters.insert(name.clone(), Arc::new(cluster));
            view.endpoints
                .insert(name, Arc::new(Assignment::new(endpoints)));
        }
        let options = Options {
            address: Some([10, 0, 0, 1].into()),
            ..Options::default()
        };
        let empty = Tables::empty(Surroundings::new(rt::now(), &options));
        let tables = Tables::build(&Arc::new(view), &empty, &Registry::new(""));
        let set = &tables.named_cluster("zoned").unwrap().endpoints;
        let home = (0..100)
            .filter_map(|_| {
                super::super::balance::pick(set, super::super::balance::Wish::default())
            })
            .filter(|entry| entry.address.ip() == IpAddr::from([10, 1, 0, 1]))
            .count();
        assert_eq!(home, 50);
    }

    #[test]
    fn an_unchanged_cluster_is_the_same_one() {
        let registry = Registry::new("");
        let view = view(&[1]);
        let first = Tables::build(&view, &Tables::default(), &registry);
        let second = Tables::build(&view, &first, &registry);
        assert!(Arc::ptr_eq(&first.clusters[0], &second.clusters[0]));
    }
}
