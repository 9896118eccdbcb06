//! Ports whose bytes nobody reads, by Linkerd's word.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::{Finding, Hostname, Protocol, Service, Severity};
use crate::resource::codes;
use crate::resource::linkerd::{PortRange, port_ranges};
use crate::resource::lower::{Services, of_kind};
use crate::resource::object::{Kind, Objects};

/// On Services: Linkerd's list of ports.
const ANNOTATION: &str = "config.linkerd.io/opaque-ports";

/// Marks the ports of `services` that Services and ServiceProfiles call opaque.
pub(in crate::resource::lower) fn mark(
    objects: &Objects,
    services: &mut Services,
    findings: &mut Vec<Finding>,
) {
    let mut opaque: BTreeMap<Hostname, Vec<PortRange>> = BTreeMap::new();
    let written = of_kind(objects, |kind| match kind {
        Kind::Service(service) => Some(service),
        _ => None,
    });
    for (object, _) in written {
        let metadata = &object.metadata;
        let Some(text) = metadata.annotations.get(ANNOTATION) else {
            continue;
        };
        let host = Hostname::service(&metadata.name, &metadata.namespace);
        if let Some(ranges) = port_ranges(text) {
            opaque.entry(host).or_default().extend(ranges);
        } else {
            let path = format!("metadata.annotations[{ANNOTATION:?}]");
            let message = format!("{text:?} is no list of ports");
            let code = codes::SCHEMA;
            let finding = object.finding(Severity::Error, code, &path, message);
            findings.push(finding.hint("such as \"3306,8000-8010\""));
        }
    }
    let written = of_kind(objects, |kind| match kind {
        Kind::ServiceProfile(profile) => Some(profile),
        _ => None,
    });
    for (object, profile) in written {
        if let (false, Ok(host)) = (profile.opaque.is_empty(), object.metadata.name.parse()) {
            opaque.entry(host).or_default().extend(&profile.opaque);
        }
    }
    for (host, ranges) in opaque {
        let Some(service) = services.get_mut(&host) else {
            continue;
        };
        let mut marked = Service::clone(service);
        for port in &mut marked.ports {
            let within = |(first, last): &PortRange| (*first..=*last).contains(&port.port);
            if port.protocol != Protocol::Udp && ranges.iter().any(within) {
                port.protocol = Protocol::Tcp;
            }
        }
        *service = Arc::new(marked);
    }
}
