//! Who must speak mTLS: PeerAuthentications.

use super::of_kind;
use crate::mesh::destinations::ROOTS;
use crate::mesh::world::{Authentication, WorkloadAuthentication};
use crate::resource::object::{Kind, Objects};

pub(super) fn lower(objects: &Objects) -> Authentication {
    let written = of_kind(objects, |kind| match kind {
        Kind::PeerAuthentication(rule) => Some(rule),
        _ => None,
    });
    let mut authentication = Authentication::default();
    let mut mesh = None;
    for (object, rule) in written {
        let namespace = &object.metadata.namespace;
        if !rule.selector.is_empty() {
            authentication.workloads.push(WorkloadAuthentication {
                namespace: namespace.clone(),
                selector: rule.selector.clone(),
                mode: rule.mode,
                ports: rule
                    .ports
                    .iter()
                    .filter_map(|(port, mode)| Some((*port, (*mode)?)))
                    .collect(),
            });
        } else if ROOTS.contains(&namespace.as_str()) {
            mesh = mesh.or(rule.mode);
        } else if let Some(mode) = rule.mode {
            // The oldest stays.
            authentication
                .namespaces
                .entry(namespace.clone())
                .or_insert(mode);
        }
    }
    authentication.mesh = mesh.unwrap_or_default();
    authentication
}
