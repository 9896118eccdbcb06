//! What proxies know: Sidecars, the oldest first.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::of_kind;
use crate::mesh::sidecar::Sidecar;
use crate::mesh::{Finding, Origin, Severity};
use crate::resource::codes;
use crate::resource::object::{Kind, Objects};

pub(super) fn lower(objects: &Objects, findings: &mut Vec<Finding>) -> Vec<Arc<Sidecar>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::Sidecar(sidecar) => Some(sidecar),
        _ => None,
    });
    let mut whole: BTreeMap<&str, &Origin> = BTreeMap::new();
    let mut sidecars = Vec::new();
    for (object, sidecar) in written {
        let namespace = &object.metadata.namespace;
        if sidecar.selector.is_empty()
            && let Some(first) = whole.get(namespace.as_str())
        {
            let message = format!("another Sidecar is for the whole namespace already ({first})");
            findings.push(
                object
                    .finding(Severity::Error, codes::SEVERAL_SIDECARS, "spec", message)
                    .hint("add a workloadSelector to one of them"),
            );
        } else if sidecar.selector.is_empty() {
            whole.insert(namespace, &object.origin);
        }
        sidecars.push(Arc::new(Sidecar {
            namespace: namespace.clone(),
            selector: sidecar.selector.clone(),
            egress: sidecar.egress.clone(),
            ingress: sidecar.ingress.clone(),
            outbound: sidecar.outbound,
            origin: object.origin.clone(),
        }));
    }
    sidecars
}
