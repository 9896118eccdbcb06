//! Ports that cannot be told apart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::mesh::selection::Selection;
use crate::mesh::service::TargetPort;
use crate::mesh::{Finding, Protocol, Service, Severity, World};

/// Two services in front of one container port that disagree about what is spoken.
const PROTOCOLS_DIFFER: &str = "IST0116";
/// Two services claim one address and port.
const ADDRESS_CONFLICT: &str = "MSH0006";

pub(super) fn check(world: &World, findings: &mut Vec<Finding>) {
    addresses(world, findings);
    protocols(world, findings);
}

fn addresses(world: &World, findings: &mut Vec<Finding>) {
    let mut claimed: BTreeMap<(IpAddr, u16), &Arc<Service>> = BTreeMap::new();
    for service in world.config.services.values() {
        for port in &service.ports {
            for address in &service.addresses {
                let first = *claimed.entry((*address, port.port)).or_insert(service);
                if first.host != service.host {
                    findings.push(
                        Finding::new(
                            Severity::Error,
                            ADDRESS_CONFLICT,
                            &service.origin,
                            format!(
                                "services {} and {} both claim {address}, port {}",
                                first.host, service.host, port.port
                            ),
                        )
                        .at("spec.clusterIP")
                        .hint("remove clusterIP from one of them"),
                    );
                }
            }
        }
    }
}

/// One container port is either HTTP or bytes; the sidecar in front of it must know which.
fn protocols(world: &World, findings: &mut Vec<Finding>) {
    let selection = Selection::new(world, world.config.services.values());
    let mut spoken: BTreeMap<(&str, &str, u16), (Protocol, &Arc<Service>)> = BTreeMap::new();
    for service in world.config.services.values() {
        for instance in selection.select(service) {
            for port in &service.ports {
                let target = match &port.target {
                    TargetPort::Number(number) => Some(*number),
                    TargetPort::Name(name) => instance.port_names.get(name).copied(),
                };
                let Some(target) = target else { continue };
                if matches!(port.protocol, Protocol::Auto | Protocol::Udp) {
                    continue;
                }
                let (protocol, first) = *spoken
                    .entry((&instance.namespace, &instance.name, target))
                    .or_insert((port.protocol, service));
                if protocol.is_http() != port.protocol.is_http() {
                    findings.push(
                        Finding::new(
                            Severity::Warning,
                            PROTOCOLS_DIFFER,
                            &service.origin,
                            format!(
                                "services {} and {} lead to port {target} of workload {}, and say {protocol:?} and {:?}; {protocol:?} is taken",
                                first.name, service.name, instance.workload, port.protocol
                            ),
                        )
                        .at("spec.ports")
                        .hint("give both ports the same protocol, by name or appProtocol"),
                    );
                }
            }
        }
    }
}
