//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Services, address, of_kind};
use crate::mesh::{Finding, Hostname, Service, ServicePort, Severity};
use crate::resource::codes;
use crate::resource::kube::{ClusterIp, Service as Written};
use crate::resource::object::{Kind, Object, Objects};
use crate::resource::running::SERVICE_NAME;

pub(super) fn lower(objects: &Objects, findings: &mut Vec<Finding>) -> Services {
    let written = of_kind(objects, |kind| match kind {
        Kind::Service(service) => Some(service),
        _ => None,
    });
    let mut services = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, Hostname> = BTreeMap::new();
    for (object, service) in written {
        let metadata = &object.metadata;
        let host = Hostname::service(&metadata.name, &metadata.namespace);
        if let Some(name) = &service.external_name {
            let message = format!("a service that stands for {name} is not honoured yet");
            findings.push(
                object
                    .finding(
                        Severity::Warning,
                        codes::IGNORED,
                        "spec.externalName",
                        message,
                    )
                    .hint(format!("call {name} by its own name; such calls pass")),
            );
            continue;
        }
        let mut addresses = Vec::new();
        if let ClusterIp::Fixed(fixed) = &service.cluster_ip {
            for address in fixed {
                if let Some(owner) = owners.get(address) {
                    let message = format!("{address} is the address of {owner} already");
                    findings.push(
                        object
                            .finding(
                                Severity::Error,
                                codes::ADDRESS_CONFLICT,
                                "spec.clusterIP",
                                message,
                            )
                            .hint("remove clusterIP, and the mesh gives it an address"),
                    );
                } else {
                    owners.insert(*address, host.clone());
                    addresses.push(*address);
                }
            }
        }
        let ports = service.ports.iter().map(|port| ServicePort {
            name: port.name.clone(),
            port: port.port,
            target: port.target.clone(),
            protocol: port.protocol,
        });
        services.insert(
            host.clone(),
            Service {
                host,
                name: metadata.name.clone(),
                namespace: metadata.namespace.clone(),
                ports: ports.collect(),
                selector: selector(object, service),
                addresses,
                headless: service.cluster_ip == ClusterIp::Headless,
                origin: object.origin.clone(),
            },
        );
    }
    // In the order of names, so that who meets whom does not depend on ages.
    let mut taken: BTreeSet<IpAddr> = owners.into_keys().collect();
    for service in services.values_mut() {
        if service.addresses.is_empty() && !service.headless {
            service
                .addresses
                .extend(address::allocate(&service.host, &mut taken));
        }
    }
    services
        .into_iter()
        .map(|(host, service)| (host, Arc::new(service)))
        .collect()
}

/// A service without a selector is backed by the instances that name it, as endpoint slices do.
fn selector(object: &Object, service: &Written) -> BTreeMap<String, String> {
    if service.selector.is_empty() {
        BTreeMap::from([(SERVICE_NAME.to_owned(), object.metadata.name.clone())])
    } else {
        service.selector.clone()
    }
}
