//! What gRPC libraries are told: no listener of theirs is bound, so each name that a program may
//! ask for (`xds:///reviews:9080`) is an API listener with routes of its own.
//!
//! They reject SDS and unknown filters, know endpoints by EDS only, and balance round robin. Their
//! calls are plain: a workload that insists on mTLS must be called through a sidecar.

use std::collections::BTreeSet;

use super::super::canonical;
use super::super::pb::{
    ads, any, bool_value, cluster, duration, hcm, listener, route as pb_route, u32_value,
};
use super::super::snapshot::{Kind, Snapshot};
use super::{dns, endpoint, http as proxied, route};
use crate::mesh::listener::Direction;
use crate::mesh::route::{Action, VirtualHost};
use crate::mesh::{
    Assignment, ChainAction, Client, Cluster, ClusterKind, Endpoint, RouteTable, View,
};

pub(super) fn encode(view: &View) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut clusters: BTreeSet<&str> = BTreeSet::new();
    for (port, table) in outbound(view) {
        for host in &table.hosts {
            let listeners = names(host, port);
            if listeners.is_empty() {
                continue;
            }
            let routes = format!("{}|{}", table.name, host.name);
            let mut used = false;
            for name in listeners {
                if snapshot.get(Kind::Listener, &name).is_none() {
                    used = true;
                    let message = api_listener(&name, &routes);
                    snapshot.insert(
                        Kind::Listener,
                        name,
                        canonical::encode(&message, &canonical::LISTENER),
                    );
                }
            }
            if used {
                let message = table_of(&routes, host, view);
                snapshot.insert(
                    Kind::Route,
                    routes,
                    canonical::encode(&message, &canonical::ROUTE),
                );
                clusters.extend(forwards(host));
            }
        }
    }
    for cluster in clusters.iter().filter_map(|name| view.clusters.get(*name)) {
        if !is_known(cluster) {
            continue;
        }
        let message = cluster_of(cluster);
        snapshot.insert(
            Kind::Cluster,
            cluster.name.as_str(),
            canonical::encode(&message, &canonical::CLUSTER),
        );
        let Some(assignment) = members(cluster, view) else {
            continue;
        };
        let message = endpoint::encode(&cluster.name, &assignment, Client::Grpc);
        snapshot.insert(
            Kind::Endpoint,
            cluster.name.as_str(),
            canonical::encode(&message, &canonical::ENDPOINT),
        );
    }
    snapshot
}

/// Tables for calls to others, with their port. Port 80 first and then by number, so that a name
/// without a port means the lowest; tables that are named otherwise (`http_proxy`) come last.
fn outbound(view: &View) -> Vec<(Option<u16>, &RouteTable)> {
    let inbound: BTreeSet<&str> = view
        .listeners
        .values()
        .filter(|listener| listener.direction == Direction::Inbound)
        .flat_map(|listener| listener.chains.iter().chain(&listener.default_chain))
        .filter_map(|chain| match &chain.action {
            ChainAction::Http { routes, .. } | ChainAction::Detect { routes, .. } => {
                Some(routes.as_str())
            }
            ChainAction::Tcp { .. } => None,
        })
        .collect();
    let mut tables: Vec<_> = view
        .routes
        .values()
        .filter(|table| {
            !table.name.starts_with("inbound|") && !inbound.contains(table.name.as_str())
        })
        .map(|table| (table.name.parse().ok(), table.as_ref()))
        .collect();
    tables.sort_by_key(|(port, table)| {
        (port.is_none(), *port != Some(80), *port, table.name.clone())
    });
    tables
}

/// What programs may call `host`: each of its names as it is, and with the port of its table.
fn names(host: &VirtualHost, port: Option<u16>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for domain in host.domains.iter().filter(|domain| !domain.contains('*')) {
        let bare = crate::mesh::route::router::without_port(domain.as_bytes());
        let has_port = bare.len() < domain.len();
        match (has_port, port) {
            (false, Some(port)) => {
                names.insert(domain.clone());
                names.insert(format!("{domain}:{port}"));
            }
            (true, _) => {
                names.insert(domain.clone());
            }
            // Without any port nobody knows which of a service's ports is meant.
            (false, None) => {}
        }
    }
    names
}

fn forwards(host: &VirtualHost) -> impl Iterator<Item = &str> {
    host.routes.iter().flat_map(|route| match &route.action {
        Action::Forward(forward) => forward
            .clusters
            .iter()
            .map(|to| to.cluster.as_str())
            .collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    })
}

fn api_listener(name: &str, routes: &str) -> listener::Listener {
    use hcm::http_connection_manager::RouteSpecifier;
    listener::Listener {
        name: name.to_owned(),
        api_listener: Some(listener::ApiListener {
            api_listener: Some(any(&hcm::HttpConnectionManager {
                stat_prefix: name.to_owned(),
                route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
                    config_source: Some(ads()),
                    route_config_name: routes.to_owned(),
                })),
                http_filters: vec![proxied::fault(), proxied::router()],
                ..Default::default()
            })),
        }),
        ..Default::default()
    }
}

/// Only listeners of this host lead here, so any name is right.
fn table_of(name: &str, host: &VirtualHost, view: &View) -> pb_route::RouteConfiguration {
    let reachable = |route: &&crate::mesh::Route| match &route.action {
        Action::Forward(forward) => forward.clusters.iter().all(|to| {
            view.clusters
                .get(&to.cluster)
                .is_none_or(|cluster| is_known(cluster))
        }),
        Action::Redirect(_) | Action::Respond(_) => true,
    };
    pb_route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![pb_route::VirtualHost {
            name: if host.name.is_empty() {
                name
            } else {
                &host.name
            }
            .to_owned(),
            domains: vec!["*".to_owned()],
            routes: host
                .routes
                .iter()
                .filter(reachable)
                .filter_map(|from| route::one(from, Client::Grpc))
                .collect(),
            ..Default::default()
        }],
        validate_clusters: bool_value(false),
        ..Default::default()
    }
}

/// Whether these libraries have such a cluster: of names, only one (gRFC A37).
fn is_known(cluster: &Cluster) -> bool {
    // They would be called without TLS.
    if cluster.origination.is_some() {
        return false;
    }
    match &cluster.kind {
        ClusterKind::Discovered | ClusterKind::Static(_) => true,
        ClusterKind::OriginalDestination => false,
        ClusterKind::Dns(names) => names.targets.len() == 1,
    }
}

/// The endpoints of `cluster`; `None` when they are not known beforehand.
fn members(cluster: &Cluster, view: &View) -> Option<Assignment> {
    match &cluster.kind {
        ClusterKind::Discovered => Some(
            view.endpoints
                .get(&cluster.name)
                .map(|assignment| Assignment::clone(assignment))
                .unwrap_or_default(),
        ),
        ClusterKind::Static(addresses) => Some(Assignment::new(
            addresses.iter().copied().map(Endpoint::at).collect(),
        )),
        ClusterKind::OriginalDestination | ClusterKind::Dns(_) => None,
    }
}

fn cluster_of(from: &Cluster) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};
    let mut to = cluster::Cluster {
        name: from.name.clone(),
        // The one balancer that every gRPC library has.
        lb_policy: LbPolicy::RoundRobin.into(),
        connect_timeout: duration(from.connect_timeout),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![cluster::circuit_breakers::Thresholds {
                max_requests: u32_value(from.limits.max_requests),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let kind = if let ClusterKind::Dns(names) = &from.kind {
        dns::add(names, Client::Grpc, &mut to);
        DiscoveryType::LogicalDns
    } else {
        to.eds_cluster_config = Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        });
        DiscoveryType::Eds
    };
    to.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
    to
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message as _;

    use super::*;
    use crate::mesh::Route;
    use crate::mesh::filter::HttpFilter;
    use crate::mesh::route::{Forward, HeaderEdits, Match, WeightedCluster};

    #[test]
    fn every_name_of_a_host_is_a_listener_and_none_has_a_socket() {
        let mut view = View::default();
        let host = VirtualHost {
            name: "reviews.default.svc.cluster.local:9080".to_owned(),
            domains: ["reviews.default.svc.cluster.local", "reviews", "*.wild"]
                .map(str::to_owned)
                .to_vec(),
            routes: vec![Route {
                name: String::new(),
                matches: Match::default(),
                action: Action::Forward(Forward {
                    clusters: vec![WeightedCluster {
                        cluster: "c".to_owned(),
                        weight: 1,
                        ..WeightedCluster::default()
                    }],
                    filters: vec![
                        HttpFilter::Cors(Arc::default()),
                        HttpFilter::Fault(Arc::default()),
                    ],
                    ..Forward::default()
                }),
                headers: HeaderEdits::default(),
                origin: crate::mesh::Origin::default(),
            }],
            ..VirtualHost::default()
        };
        let table = RouteTable {
            name: "9080".to_owned(),
            ignore_port: true,
            hosts: vec![host],
        };
        view.routes.insert("9080".to_owned(), Arc::new(table));
        let snapshot = encode(&view);
        let names: Vec<_> = snapshot
            .of(Kind::Listener)
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(
            names,
            [
                "reviews",
                "reviews.default.svc.cluster.local",
                "reviews.default.svc.cluster.local:9080",
                "reviews:9080"
            ]
        );
        assert_eq!(snapshot.of(Kind::Route).count(), 1);
        // Of filters faults alone are known there, in the place that every listener has for them.
        let (_, routes) = snapshot.of(Kind::Route).next().unwrap();
        let table = pb_route::RouteConfiguration::decode(&*routes.bytes).unwrap();
        let filters = &table.virtual_hosts[0].routes[0].typed_per_filter_config;
        assert_eq!(
            filters.keys().collect::<Vec<_>>(),
            ["envoy.filters.http.fault"]
        );
        let listener = snapshot.get(Kind::Listener, "reviews").unwrap();
        let listener = listener::Listener::decode(&*listener.bytes).unwrap();
        let manager = listener.api_listener.unwrap().api_listener.unwrap();
        let manager = hcm::HttpConnectionManager::decode(&*manager.value).unwrap();
        let names: Vec<_> = manager.http_filters.iter().map(|f| &f.name).collect();
        assert_eq!(
            names,
            ["envoy.filters.http.fault", "envoy.filters.http.router"]
        );
        assert_eq!(snapshot.of(Kind::Secret).count(), 0);
    }
}
