//! Services and their endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::registry::{EndpointReport, PortReport, ServiceReport};
use crate::mesh::service::TargetPort;
use crate::mesh::world::{MtlsMode, selects};
use crate::mesh::{Health, Instance, Protocol, Service, ServicePort, World};

use super::short;

/// Every service, by namespace and name.
pub fn services(world: &World, namespace: Option<&str>) -> Vec<ServiceReport> {
    let mut out: Vec<ServiceReport> = world
        .config
        .services
        .values()
        .filter(|service| namespace.is_none_or(|namespace| service.namespace == namespace))
        .map(|service| describe(world, service))
        .collect();
    out.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    out
}

/// The instances that back `service`.
pub fn instances<'a>(
    world: &'a World,
    service: &'a Service,
) -> impl Iterator<Item = &'a Arc<Instance>> {
    world.instances.values().filter(|instance| {
        instance.namespace == service.namespace
            && !service.selector.is_empty()
            && selects(&service.selector, &instance.labels)
    })
}

/// Versions of `service` that run, with their instances.
pub fn versions(world: &World, service: &Service) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for instance in instances(world, service) {
        *versions
            .entry(instance.canonical_revision().to_owned())
            .or_default() += 1;
    }
    versions
}

fn describe(world: &World, service: &Service) -> ServiceReport {
    let (mut ready, mut total) = (0, 0);
    let mut modes = Vec::new();
    for instance in instances(world, service) {
        total += 1;
        ready += usize::from(instance.health == Health::Healthy);
        for port in &service.ports {
            let mode = match container_port(port, instance) {
                Some(port) if instance.mtls => {
                    world
                        .config
                        .authentication
                        .mode(&instance.namespace, &instance.labels, port)
                }
                _ => MtlsMode::Disable,
            };
            modes.push(mode);
        }
    }
    let name = |mode: MtlsMode| match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Disable => "disable",
    };
    let mtls = match modes.split_first() {
        None => name(
            world
                .config
                .authentication
                .mode(&service.namespace, &service.selector, 0),
        ),
        Some((first, rest)) if rest.iter().all(|mode| mode == first) => name(*first),
        Some(_) => "mixed",
    };
    ServiceReport {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        host: service.host.to_string(),
        addresses: service.addresses.iter().map(ToString::to_string).collect(),
        ports: service.ports.iter().map(port).collect(),
        ready,
        instances: total,
        versions: versions(world, service),
        mtls: mtls.to_owned(),
    }
}

fn port(port: &ServicePort) -> PortReport {
    PortReport {
        name: port.name.clone(),
        port: port.port,
        target: match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => name.clone(),
        },
        protocol: match port.protocol {
            Protocol::Auto => "auto",
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::GrpcWeb => "grpc-web",
            Protocol::Tls => "tls",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
        .to_owned(),
    }
}

/// The container port of `instance` that `port` leads to; none when it names a port that the
/// instance does not have.
pub fn container_port(port: &ServicePort, instance: &Instance) -> Option<u16> {
    match (instance.service_ports.get(&port.name), &port.target) {
        (Some(own), _) => Some(*own),
        (None, TargetPort::Number(number)) => Some(*number),
        (None, TargetPort::Name(name)) => instance.port_names.get(name).copied(),
    }
}

/// Endpoints of one service, or of all.
pub fn endpoints(world: &World, only: Option<&Service>) -> Vec<EndpointReport> {
    let mut out = Vec::new();
    for service in world.config.services.values() {
        if only.is_some_and(|only| only.host != service.host) {
            continue;
        }
        for port in &service.ports {
            for instance in instances(world, service) {
                let Some(container_port) = container_port(port, instance) else {
                    continue;
                };
                out.push(EndpointReport {
                    service: short(service),
                    port: port.port,
                    address: instance.reach(container_port).to_string(),
                    instance: instance.name.clone(),
                    version: instance.canonical_revision().to_owned(),
                    health: instance.health,
                    mtls: instance.mtls,
                    weight: instance.weight,
                    ejected_by: Vec::new(),
                });
            }
        }
    }
    out
}
