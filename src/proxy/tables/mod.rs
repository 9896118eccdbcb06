//! A view made ready for the data path: names resolved to indexes, choices worked out.
//!
//! Building is a function of the view and of the tables before it: whatever did not change is
//! taken over, with its counters and its place in the round. What the view refers to and does not
//! hold becomes `None`, which the data path answers with 503 or a close, and which allows nothing.

pub(crate) mod chain;
pub(crate) mod cluster;
pub(crate) mod retry;
pub(crate) mod route;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::View;
use crate::telemetry::Registry;

pub(crate) use chain::{ChainAction, ListenerTable};
pub(crate) use cluster::{ClusterTable, EndpointEntry, EndpointSet};
pub(crate) use retry::RetryTable;
pub(crate) use route::{RouteAction, RouteTable};

/// Everything that workers read. Immutable but for the counters inside.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// The view that it was built from.
    pub(crate) view: Arc<View>,
    /// By name.
    pub(crate) listeners: BTreeMap<String, Arc<ListenerTable>>,
    /// Indexes are what chains hold.
    pub(crate) routes: Vec<Arc<RouteTable>>,
    /// Indexes are what routes and chains hold.
    pub(crate) clusters: Vec<Arc<ClusterTable>>,
    /// Cluster index by name.
    pub(crate) cluster_names: Arc<BTreeMap<String, usize>>,
}

impl Tables {
    /// Builds tables for `view`, taking over from `before` what is still the same.
    pub(crate) fn build(view: &Arc<View>, before: &Self, registry: &Registry) -> Self {
        let clusters: Vec<_> = view
            .clusters
            .values()
            .map(|config| {
                let old = before
                    .cluster_names
                    .get(&config.name)
                    .and_then(|at| before.clusters.get(*at));
                let assignment = view.endpoints.get(&config.name);
                ClusterTable::build(config, assignment, old, registry)
            })
            .collect();
        let same_clusters = before.cluster_names.len() == clusters.len()
            && view.clusters.keys().eq(before.cluster_names.keys());
        let cluster_names = if same_clusters {
            Arc::clone(&before.cluster_names)
        } else {
            Arc::new(
                view.clusters
                    .keys()
                    .enumerate()
                    .map(|(at, name)| (name.clone(), at))
                    .collect(),
            )
        };
        let routes: Vec<_> = view
            .routes
            .values()
            .map(|config| {
                let old = before
                    .routes
                    .iter()
                    .find(|old| old.router.table().name == config.name);
                match old {
                    Some(old) if same_clusters && old.router.table() == config => Arc::clone(old),
                    _ => Arc::new(RouteTable::build(config, &cluster_names, old, registry)),
                }
            })
            .collect();
        let listeners = view
            .listeners
            .iter()
            .map(|(name, config)| {
                let table = match before.listeners.get(name) {
                    Some(old) if same_clusters && old.config == *config => Arc::clone(old),
                    old => {
                        let old = old.map(|old| &**old);
                        Arc::new(ListenerTable::build(config, &cluster_names, old))
                    }
                };
                (name.clone(), table)
            })
            .collect();
        Self {
            view: Arc::clone(view),
            listeners,
            routes,
            clusters,
            cluster_names,
        }
    }

    /// The index of the route table named `name`.
    pub(crate) fn route_index(&self, name: &str) -> Option<usize> {
        self.view.routes.keys().position(|key| key == name)
    }

    /// A cluster by the index that a route or chain holds.
    pub(crate) fn cluster(&self, index: Option<usize>) -> Option<&Arc<ClusterTable>> {
        self.clusters.get(index?)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Endpoint sets for the tests of this layer.

    use crate::mesh::cluster::{Cluster, ClusterKind, Limits};
    use crate::mesh::{Assignment, Endpoint, Health, Locality, WorkloadRef};

    use super::*;

    /// A cluster with nothing special.
    pub(crate) fn cluster(name: &str) -> Cluster {
        Cluster {
            name: name.to_owned(),
            kind: ClusterKind::Discovered,
            service: None,
            load_balancer: crate::mesh::LoadBalancer::RoundRobin,
            protocol: crate::mesh::cluster::UpstreamProtocol::Http1,
            tls: None,
            connect_timeout: std::time::Duration::from_secs(1),
            limits: Limits::default(),
            outlier: None,
            proxy_protocol: None,
            health_check: None,
        }
    }

    /// An endpoint on loopback.
    pub(crate) fn endpoint(port: u16, weight: u32) -> Endpoint {
        Endpoint {
            priority: 0,
            locality: Locality::default(),
            address: ([127, 0, 0, 1], port).into(),
            weight,
            health: Health::Healthy,
            mtls: false,
            workload: WorkloadRef::default(),
            health_check: None,
        }
    }

    /// `config` with endpoints on ports 0 to `count`.
    pub(crate) fn table(config: Cluster, count: u16) -> Arc<ClusterTable> {
        let endpoints = (0..count).map(|port| endpoint(port, 1)).collect();
        ClusterTable::build(
            &Arc::new(config),
            Some(&Arc::new(Assignment::new(endpoints))),
            None,
            &Registry::new(""),
        )
    }

    /// Endpoints on ports 0, 1, 2 … with these weights.
    pub(crate) fn endpoints(weights: &[u32]) -> Arc<EndpointSet> {
        let endpoints = (0..)
            .zip(weights)
            .map(|(port, weight)| endpoint(port, *weight));
        let table = ClusterTable::build(
            &Arc::new(cluster("c")),
            Some(&Arc::new(Assignment::new(endpoints.collect()))),
            None,
            &Registry::new(""),
        );
        Arc::clone(&table.endpoints)
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::Assignment;

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
                .find(|entry| entry.endpoint.address.port() == port)
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
    fn an_unchanged_cluster_is_the_same_one() {
        let registry = Registry::new("");
        let view = view(&[1]);
        let first = Tables::build(&view, &Tables::default(), &registry);
        let second = Tables::build(&view, &first, &registry);
        assert!(Arc::ptr_eq(&first.clusters[0], &second.clusters[0]));
    }
}
