//! Workloads that somebody wrote down: WorkloadEntries.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::of_kind;
use crate::mesh::service::speaks_mtls;
use crate::mesh::{Health, Instance};
use crate::resource::object::{Kind, Objects};

pub(super) fn lower(objects: &Objects) -> BTreeMap<(String, String), Arc<Instance>> {
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
