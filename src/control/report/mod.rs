//! Answers about the world, computed from one snapshot of it.
//!
//! Pure: a world, the series and the time in, a struct of `api` out. Routes are read from the very
//! view that a proxy gets, so that what is shown is what runs.

pub mod authz;
pub mod diff;
pub mod ejections;
pub mod explain;
mod fields;
pub mod matrix;
pub mod routes;
pub mod services;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::mesh::world::selects;
use crate::mesh::{Client, Hostname, Instance, Locality, Node, NodeKind, Service, World};

/// The service that a person names: `reviews`, `reviews.prod`, or fully qualified.
pub fn find_service<'a>(world: &'a World, name: &str, namespace: &str) -> Option<&'a Service> {
    let name = name.split(':').next().unwrap_or(name);
    let candidates = [
        name.parse::<Hostname>().ok(),
        // The last part of a host outside the mesh was taken for a namespace.
        format!("{name}.{namespace}").parse::<Hostname>().ok(),
        Some(Hostname::service(name, namespace)),
        name.split_once('.').map(|(service, namespace)| {
            let namespace = namespace.split('.').next().unwrap_or(namespace);
            Hostname::service(service, namespace)
        }),
    ];
    candidates
        .into_iter()
        .flatten()
        .find_map(|host| world.config.services.get(&host))
        .map(AsRef::as_ref)
}

/// `name.namespace`; of a host outside the mesh, the host.
pub fn short(service: &Service) -> String {
    if service.host.kubernetes().is_none() {
        return service.host.to_string();
    }
    format!("{}.{}", service.name, service.namespace)
}

/// The caller that a person names: an instance, a workload or a service label, with or without
/// namespace. Empty is any workload of `namespace`.
pub fn caller(world: &World, from: &str, namespace: &str) -> Option<Node> {
    let (name, namespace) = from.split_once('.').unwrap_or((from, namespace));
    if name.is_empty() {
        return Some(node(None, namespace));
    }
    let named = |instance: &&std::sync::Arc<Instance>| {
        instance.namespace == namespace
            && (instance.name == name
                || instance.workload == name
                || instance.canonical_service() == name)
    };
    world
        .instances
        .values()
        .find(named)
        .map(|instance| node(Some(instance), namespace))
}

/// The gateway that a person names, with or without namespace: a proxy that is connected, else one that
/// serves the Gateway of this name, else what such a proxy would be.
pub fn gateway(world: &World, connected: Vec<Node>, named: &str, namespace: &str) -> Option<Node> {
    let (name, namespace) = named.split_once('.').unwrap_or((named, namespace));
    let mut proxies: Vec<Node> = connected
        .into_iter()
        .filter(|node| node.kind == NodeKind::Gateway)
        .collect();
    let called = |node: &Node| node.namespace == namespace && node.name == name;
    if let Some(at) = proxies.iter().position(called) {
        return Some(proxies.swap_remove(at));
    }
    let key = (namespace.to_owned(), name.to_owned());
    let config = &world.config;
    let gateway = config
        .gateways
        .get(&key)
        .or_else(|| config.listening.get(&key))?;
    let serves = |node: &Node| selects(&gateway.selector, &node.labels);
    if let Some(at) = proxies.iter().position(serves) {
        return Some(proxies.swap_remove(at));
    }
    Some(Node {
        kind: NodeKind::Gateway,
        name: name.to_owned(),
        labels: gateway.selector.clone(),
        ..node(None, namespace)
    })
}

/// A sidecar beside `instance` with captured traffic, whose tables are those of every sidecar.
fn node(instance: Option<&Instance>, namespace: &str) -> Node {
    let nowhere = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let name = instance.map_or("any", |instance| &instance.name);
    let address = instance.map_or(nowhere, |instance| instance.address);
    Node {
        id: format!("sidecar~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"),
        client: Client::Meshctl,
        kind: NodeKind::Sidecar,
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        service_account: instance
            .map_or("default", |i| &i.service_account)
            .to_owned(),
        workload: instance.map_or("", |i| &i.workload).to_owned(),
        labels: instance.map_or_else(BTreeMap::new, |i| i.labels.clone()),
        locality: instance.map_or_else(Locality::default, |i| i.locality.clone()),
        address,
        outbound: SocketAddr::new(nowhere, 15001),
        inbound: SocketAddr::new(nowhere, 15006),
        transparent: true,
        applications: Vec::new(),
    }
}
