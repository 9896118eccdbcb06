//! Workloads that somebody wrote down: WorkloadEntries, and EndpointSlices of services without a
//! selector.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::of_kind;
use crate::mesh::service::speaks_mtls;
use crate::mesh::{Finding, Health, Instance, Severity};
use crate::resource::kube::{EndpointSlice, SERVICE_NAME, Service};
use crate::resource::object::{Key, Kind, Object, Objects};
use crate::resource::{codes, running};

/// By namespace and name.
type Written = BTreeMap<(String, String), Arc<Instance>>;

pub(super) fn lower(objects: &Objects, findings: &mut Vec<Finding>) -> Written {
    let mut all = slices(objects, findings);
    all.extend(entries(objects));
    all
}

/// What manifests list, as `source::kubernetes` does what a cluster lists.
fn slices(objects: &Objects, findings: &mut Vec<Finding>) -> Written {
    let written = of_kind(objects, |kind| match kind {
        Kind::EndpointSlice(slice) => Some(slice),
        _ => None,
    });
    let mut instances: BTreeMap<(String, String), Instance> = BTreeMap::new();
    for (object, slice) in written {
        let namespace = &object.metadata.namespace;
        let service = match of(objects, object, slice) {
            Ok(service) => service,
            Err(finding) => {
                findings.push(*finding);
                continue;
            }
        };
        for endpoint in &slice.endpoints {
            let made = running::listed(namespace, slice, endpoint, service);
            let key = (namespace.clone(), made.name.clone());
            match instances.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(made);
                }
                Entry::Occupied(known) => running::merge(known.into_mut(), made),
            }
        }
    }
    let shared = instances.into_iter();
    shared.map(|(key, made)| (key, Arc::new(made))).collect()
}

/// The service that a slice lists endpoints of, or why it lists none.
fn of<'a>(
    objects: &'a Objects,
    object: &Object,
    slice: &EndpointSlice,
) -> Result<&'a Service, Box<Finding>> {
    let namespace = &object.metadata.namespace;
    let say = |code: &str, path: &str, message: String, hint: String| {
        let finding = object.finding(Severity::Warning, code, path, message);
        Err(Box::new(finding.hint(hint)))
    };
    if slice.service.is_empty() {
        let message = "the slice names no Service, so its endpoints are nobody's".to_owned();
        let hint = format!("labels: {{{SERVICE_NAME}: NAME}}");
        return say(codes::MISSING_REFERENCE, "metadata", message, hint);
    }
    let key = Key {
        kind: "Service".to_owned(),
        namespace: namespace.clone(),
        name: slice.service.clone(),
    };
    let path = "metadata.labels";
    match objects.get(&key).map(|found| &found.body) {
        Some(Kind::Service(service)) if service.selector.is_empty() => Ok(service),
        Some(_) => {
            let message = format!(
                "Service {namespace}/{} has a selector, which says what stands behind it",
                slice.service
            );
            let hint = "remove the slice, or the selector of the Service".to_owned();
            say(codes::IGNORED, path, message, hint)
        }
        None => {
            let message = format!("Service {namespace}/{} does not exist", slice.service);
            let hint = "apply it, without a selector, or correct the label".to_owned();
            say(codes::MISSING_REFERENCE, path, message, hint)
        }
    }
}

fn entries(objects: &Objects) -> Written {
    let written = of_kind(objects, |kind| match kind {
        Kind::WorkloadEntry(entry) => Some(entry),
        _ => None,
    });
    let instances = written.into_iter().map(|(object, entry)| {
        let metadata = &object.metadata;
        // Those of the object go before, as in Istio.
        let mut labels = entry.about.labels.clone();
        labels.extend(metadata.labels.clone());
        let account = &entry.about.account;
        let instance = Instance {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            workload: metadata.name.clone(),
            service_account: if account.is_empty() {
                "default".to_owned()
            } else {
                account.clone()
            },
            mtls: speaks_mtls(&labels, account),
            labels,
            locality: entry.about.locality.clone(),
            address: entry.address,
            also_at: Vec::new(),
            ports: BTreeMap::new(),
            port_names: BTreeMap::new(),
            service_ports: entry.about.ports.clone(),
            weight: entry.about.weight.unwrap_or(1),
            health: Health::Healthy,
        };
        let key = (metadata.namespace.clone(), metadata.name.clone());
        (key, Arc::new(instance))
    });
    instances.collect()
}
