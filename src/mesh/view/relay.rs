//! Calls of the mesh that gateways pass on unopened, to the service that their server name says
//! (`AUTO_PASSTHROUGH`): Istio's east-west gateways.
//!
//! Whoever calls holds the certificate of the workload itself against what it expects, so nothing is ended here
//! and nobody is believed. What a caller may reach is what chains name: services that the gateway's namespace may
//! know, that the hosts of a server cover, and that speak mTLS. What goes there adds no TLS, and endpoints that
//! speak none are left out, as a caller's mTLS would be noise to them.

use std::sync::Arc;

use super::cluster::effective;
use super::common::Scope;
use super::inbound::MESH_ALPN;
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::gateway::{Gateway, Server, Serves};
use crate::mesh::http2::Http2Options;
use crate::mesh::listener::{ChainMatch, Transport};
use crate::mesh::service::Resolution;
use crate::mesh::world::{Config, Destination, Subset, TlsPolicy};
use crate::mesh::{
    Assignment, Cluster, ClusterKind, Node, NodeKind, Protocol, Service, ServicePort,
};

/// Whether `node` passes calls of the mesh on.
pub(super) fn serves(config: &Config, node: &Node) -> bool {
    let passes = |gateway: &Gateway| {
        let mut servers = gateway.servers.iter();
        servers.any(|server| server.serves == Serves::MeshPassthrough)
            && gateway.is_served_by(&node.namespace, &node.labels)
    };
    let mut all = config.gateways.values().chain(config.listening.values());
    node.kind == NodeKind::Gateway && all.any(|gateway| passes(gateway))
}

/// Puts into `scope` what passes calls on to what stands in `raw` under `name`, or takes it out.
pub(super) fn pass(name: &str, raw: &Scope, scope: &mut Scope) {
    let Some(own) = named(name) else {
        return;
    };
    let Some(cluster) = raw.clusters.get(name).and_then(|own| passing(own)) else {
        scope.clusters.remove(&own);
        scope.endpoints.remove(&own);
        return;
    };
    scope.put(Cluster {
        name: own.to_string(),
        ..cluster
    });
    let endpoints = raw.endpoints.get(name).map(|all| secure(all));
    match endpoints {
        Some(all) if scope.endpoints.get(&own).is_none_or(|had| **had != all) => {
            scope.endpoints.insert(own, Arc::new(all));
        }
        Some(_) => {}
        None => {
            scope.endpoints.remove(&own);
        }
    }
}

/// The name of what passes calls on to the cluster `name` of a service.
fn named(name: &str) -> Option<Arc<str>> {
    let mut parts = name.strip_prefix("outbound|")?.splitn(3, '|');
    let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Cluster::server_name(port.parse().ok()?, subset, &host.parse().ok()?).into())
}

/// `cluster` for bytes that are mTLS already; none where nobody speaks that, or where endpoints are what a
/// caller means, who means the gateway.
fn passing(cluster: &Cluster) -> Option<Cluster> {
    cluster.tls.as_ref()?;
    let kind = match &cluster.kind {
        ClusterKind::Discovered => ClusterKind::Discovered,
        ClusterKind::Dns(names) => {
            let mut names = names.clone();
            names.targets.retain(|target| target.endpoint.mtls);
            if names.targets.is_empty() {
                return None;
            }
            ClusterKind::Dns(names)
        }
        ClusterKind::Static(_) | ClusterKind::OriginalDestination => return None,
    };
    Some(Cluster {
        kind,
        tls: None,
        protocol: UpstreamProtocol::default(),
        http2: Http2Options::default(),
        ..cluster.clone()
    })
}

fn secure(all: &Assignment) -> Assignment {
    let mut secure = all.clone();
    secure.endpoints.retain(|endpoint| endpoint.mtls);
    secure
}

/// What `server` of `gateway` passes on as `node` serves it: server names, and the clusters they lead to.
pub(super) fn reached(
    config: &Config,
    node: &Node,
    (gateway, server): (&Gateway, &Server),
) -> Vec<String> {
    let mut found = Vec::new();
    for service in config.services.values() {
        let host = &service.host;
        let covers = || {
            let mut hosts = server.hosts.iter();
            hosts.any(|of| {
                let met = of.meets(host, &service.namespace, &gateway.namespace);
                met.as_ref() == Some(host)
            })
        };
        if host.as_str().starts_with('*') || !service.is_seen_from(&node.namespace) || !covers() {
            continue;
        }
        let rule = config.destination(host, node.into());
        let rule = rule.map(|rule| &**rule);
        for port in &service.ports {
            let own = rule.into_iter().flat_map(|rule| &rule.subsets);
            let own = own.map(|(name, subset)| (name.as_str(), Some(subset)));
            let named = [("", None)].into_iter().chain(own);
            let named = named.filter(|(_, subset)| speaks(config, service, port, (rule, *subset)));
            found.extend(named.map(|(name, _)| Cluster::server_name(port.port, name, host)));
        }
    }
    found
}

/// Whether calls of the mesh to `port` of `service` are mTLS, as rules have it.
fn speaks(
    config: &Config,
    service: &Service,
    port: &ServicePort,
    (rule, subset): (Option<&Destination>, Option<&Subset>),
) -> bool {
    let outside = service.external.as_ref();
    if port.protocol == Protocol::Udp
        || outside.is_some_and(|own| !own.internal || own.resolution == Resolution::None)
    {
        return false;
    }
    let policy = rule
        .map(|rule| effective(rule, subset, port.port))
        .unwrap_or_default();
    let policy = config.baseline.under(service, policy);
    let balancer = policy.load_balancer.as_ref();
    let closed = matches!(
        policy.tls,
        Some(TlsPolicy::Disable | TlsPolicy::Originate(_))
    );
    !closed && balancer.is_none_or(|balancer| !balancer.passthrough)
}

/// Which connections are meant by a server name: those of members of the mesh, as far as one can say that of
/// what is not opened.
pub(super) fn calls(server_name: &str) -> ChainMatch {
    ChainMatch {
        transport: Some(Transport::Tls),
        // Callers' names are read in lower case.
        server_names: vec![server_name.to_ascii_lowercase()],
        application_protocols: MESH_ALPN.map(str::to_owned).to_vec(),
        ..ChainMatch::default()
    }
}
