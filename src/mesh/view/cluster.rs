//! Clusters and endpoints: every port of every service, whole and by subset.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Common, external};
use crate::mesh::cluster::{ClientTls, Limits, ServiceRef, UpstreamProtocol};
use crate::mesh::selection::Selection;
use crate::mesh::service::TargetPort;
use crate::mesh::world::{
    ConnectionPool, Destination, H2Upgrade, MtlsMode, Subset, TlsPolicy, TrafficPolicy, World,
    selects,
};
use crate::mesh::{
    Assignment, Balancing, Cluster, ClusterKind, Endpoint, Instance, Protocol, Service,
    ServicePort, SpiffeId, WorkloadRef,
};

/// Istio's default.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn common(world: &World) -> Common {
    let index = Selection::new(world);
    let mut common = Common::default();
    for service in world.config.services.values() {
        let backends = index.select(service);
        let destination = world.config.destination(&service.host);
        let mut accounts: Vec<SpiffeId> = backends
            .iter()
            .map(|instance| instance.identity(&world.config.trust_domain))
            .chain(external::accounts(service, &world.config.trust_domain))
            .collect();
        accounts.sort();
        accounts.dedup();
        for port in &service.ports {
            if port.protocol == Protocol::Udp {
                continue;
            }
            let mut add = |subset: &str, labels: Option<&BTreeMap<String, String>>| {
                let mut cluster = cluster(service, port, subset, destination, &accounts);
                if let Some(outside) = &service.external {
                    let assignment = external::place(&mut cluster, outside, port, labels);
                    let name = cluster.name.clone();
                    common
                        .endpoints
                        .extend(assignment.map(|endpoints| (name.clone(), Arc::new(endpoints))));
                    common.clusters.insert(name, Arc::new(cluster));
                    return;
                }
                let endpoints = backends
                    .iter()
                    .filter(|instance| labels.is_none_or(|l| selects(l, &instance.labels)))
                    .filter_map(|instance| endpoint(world, instance, &port.target))
                    .collect();
                if cluster.kind == ClusterKind::Discovered {
                    common
                        .endpoints
                        .insert(cluster.name.clone(), Arc::new(Assignment::new(endpoints)));
                }
                common
                    .clusters
                    .insert(cluster.name.clone(), Arc::new(cluster));
            };
            add("", None);
            for (name, subset) in destination.iter().flat_map(|d| &d.subsets) {
                add(name, Some(&subset.labels));
            }
        }
    }
    common
}

fn endpoint(world: &World, instance: &Instance, target: &TargetPort) -> Option<Endpoint> {
    let port = match target {
        TargetPort::Number(port) => *port,
        TargetPort::Name(name) => *instance.port_names.get(name)?,
    };
    let mode = world
        .config
        .authentication
        .mode(&instance.namespace, &instance.labels, port);
    Some(Endpoint {
        priority: 0,
        locality: instance.locality.clone(),
        address: instance.reach(port),
        weight: instance.weight.max(1),
        health: instance.health,
        mtls: instance.mtls && mode != MtlsMode::Disable,
        additional: Vec::new(),
        workload: WorkloadRef {
            instance: instance.name.clone(),
            workload: instance.workload.clone(),
            namespace: instance.namespace.clone(),
            service: instance.canonical_service().to_owned(),
            version: instance.canonical_revision().to_owned(),
        },
        health_check: None,
    })
}

fn cluster(
    service: &Service,
    port: &ServicePort,
    subset: &str,
    destination: Option<&Arc<Destination>>,
    accounts: &[SpiffeId],
) -> Cluster {
    let policy = destination
        .map(|destination| effective(destination, destination.subsets.get(subset), port.port))
        .unwrap_or_default();
    let pool = policy.connection_pool.unwrap_or_default();
    let balancer = *policy.load_balancer.unwrap_or_default();
    let tls = |required| ClientTls {
        sni: format!("outbound_.{}_.{subset}_.{}", port.port, service.host),
        principals: accounts.to_vec(),
        required,
    };
    // Outside the mesh nobody has a certificate of it.
    let outside = service
        .external
        .as_ref()
        .filter(|outside| !outside.internal);
    let mtls = policy.tls.or(outside.map(|_| TlsPolicy::Disable));
    Cluster {
        name: Cluster::outbound_name(port.port, subset, &service.host),
        kind: if balancer.passthrough {
            ClusterKind::OriginalDestination
        } else {
            ClusterKind::Discovered
        },
        service: Some(ServiceRef {
            host: service.host.clone(),
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            port: port.port,
            subset: subset.to_owned(),
        }),
        load_balancer: balancer.policy,
        balancing: Balancing {
            panic_threshold: policy.panic_threshold.unwrap_or_default(),
            ..balancer.balancing
        },
        protocol: upstream(port.protocol, &pool, mtls),
        tls: match mtls {
            Some(TlsPolicy::Disable) => None,
            Some(TlsPolicy::Mutual) => Some(tls(true)),
            None => Some(tls(false)),
        },
        connect_timeout: pool.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        limits: Limits {
            retry_budget: policy.retry_budget,
            ..pool.limits
        },
        outlier: policy.outlier,
        proxy_protocol: policy.proxy_protocol,
        ..Cluster::default()
    }
}

fn upstream(protocol: Protocol, pool: &ConnectionPool, tls: Option<TlsPolicy>) -> UpstreamProtocol {
    match (protocol, pool.h2_upgrade) {
        (Protocol::Http2 | Protocol::Grpc, _) => UpstreamProtocol::Http2,
        _ if pool.use_client_protocol => UpstreamProtocol::Downstream,
        (_, H2Upgrade::Always) => UpstreamProtocol::Http2,
        (Protocol::Auto, _) => UpstreamProtocol::Downstream,
        (Protocol::Http, H2Upgrade::Default) if tls != Some(TlsPolicy::Disable) => {
            UpstreamProtocol::Negotiated
        }
        _ => UpstreamProtocol::Http1,
    }
}

/// Istio's inheritance: a subset overrides the service group by group; settings of a port take the
/// place of all groups of their level that ports can have.
pub(super) fn effective(
    destination: &Destination,
    subset: Option<&Subset>,
    port: u16,
) -> TrafficPolicy {
    let all = &destination.policy;
    let mut base = destination.ports.get(&port).unwrap_or(all).clone();
    base.proxy_protocol = all.proxy_protocol;
    base.retry_budget = all.retry_budget;
    let Some(subset) = subset else { return base };
    let own = subset.policy.clone();
    let proxy_protocol = own.proxy_protocol.or(base.proxy_protocol);
    let retry_budget = own.retry_budget.or(base.retry_budget);
    if let Some(own) = subset.ports.get(&port) {
        return TrafficPolicy {
            proxy_protocol,
            retry_budget,
            ..own.clone()
        };
    }
    TrafficPolicy {
        load_balancer: own.load_balancer.or(base.load_balancer),
        connection_pool: own.connection_pool.or(base.connection_pool),
        // One group of Istio's: whose outlier detection it is, theirs is the threshold.
        panic_threshold: match &own.outlier {
            Some(_) => own.panic_threshold,
            None => base.panic_threshold,
        },
        outlier: own.outlier.or(base.outlier),
        tls: own.tls.or(base.tls),
        proxy_protocol,
        retry_budget,
    }
}
