//! Which instances services choose, for many services at once: a selector looks only at the instances
//! that carry its first label, not at all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::world::selects;
use super::{Instance, Service, World};

/// Instances by namespace and label.
pub(crate) struct Selection<'a> {
    by_label: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Arc<Instance>>>,
}

impl<'a> Selection<'a> {
    /// For what these services choose of the instances of `world`.
    pub(crate) fn new(
        world: &'a World,
        services: impl IntoIterator<Item = &'a Arc<Service>>,
    ) -> Self {
        let asked = services.into_iter().filter_map(|service| {
            let (key, value) = service.selector.iter().next()?;
            let asked = (service.namespace.as_str(), key.as_str(), value.as_str());
            Some((asked, Vec::new()))
        });
        let mut by_label: BTreeMap<_, Vec<_>> = asked.collect();
        // What runs goes before what somebody wrote down.
        let written = world.config.workloads.iter();
        let written = written.filter(|(key, _)| !world.instances.contains_key(key));
        let all = world.instances.values();
        for instance in all.chain(written.map(|(_, instance)| instance)) {
            for (key, value) in &instance.labels {
                let place = (instance.namespace.as_str(), key.as_str(), value.as_str());
                if let Some(chosen) = by_label.get_mut(&place) {
                    chosen.push(instance);
                }
            }
        }
        Self { by_label }
    }

    /// The instances that `service`, which is one of these, chooses; an empty selector chooses none.
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
