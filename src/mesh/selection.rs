//! Which instances a service chooses, for many services at once: a selector looks only at the
//! instances that carry its first label, not at all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::world::selects;
use super::{Instance, Service, World};

/// Instances by namespace and label.
pub(crate) struct Selection<'a> {
    by_label: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Arc<Instance>>>,
}

impl<'a> Selection<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let mut by_label: BTreeMap<_, Vec<_>> = BTreeMap::new();
        // What runs goes before what somebody wrote down.
        let written = world.config.workloads.iter();
        let written = written.filter(|(key, _)| !world.instances.contains_key(key));
        let all = world.instances.values();
        for instance in all.chain(written.map(|(_, instance)| instance)) {
            for (key, value) in &instance.labels {
                by_label
                    .entry((instance.namespace.as_str(), key.as_str(), value.as_str()))
                    .or_default()
                    .push(instance);
            }
        }
        Self { by_label }
    }

    /// The instances that `service` chooses; an empty selector chooses none.
    pub(crate) fn select(&self, service: &Service) -> Vec<&'a Arc<Instance>> {
        let Some((key, value)) = service.selector.iter().next() else {
            return Vec::new();
        };
        self.by_label
            .get(&(service.namespace.as_str(), key.as_str(), value.as_str()))
            .into_iter()
            .flatten()
            .filter(|instance| selects(&service.selector, &instance.labels))
            .copied()
            .collect()
    }
}
