//! Views of the world that is being served; what proxies share of it is made once.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::mesh::view::Common;
use crate::mesh::{Locality, Node, View, World};

/// Remembers what was made of the last world.
#[derive(Debug, Default)]
pub(super) struct Views {
    last: Mutex<Option<(World, Arc<Common>)>>,
}

impl Views {
    /// What `node` is to have of `world`.
    pub(super) fn of(&self, world: &World, node: &Node) -> View {
        world.view_with(&self.common(world), &completed(world, node))
    }

    fn common(&self, world: &World) -> Arc<Common> {
        // A half-made one never gets in; who comes meanwhile waits rather than make the same.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, common)) = &*last
            && Arc::ptr_eq(&of.config, &world.config)
            && Arc::ptr_eq(&of.instances, &world.instances)
        {
            return Arc::clone(common);
        }
        let common = Arc::new(world.common());
        *last = Some((world.clone(), Arc::clone(&common)));
        common
    }
}

/// `node` with what is known of it beside what it says: the labels that its registration was given, and
/// the place of its machine.
fn completed<'n>(world: &World, node: &'n Node) -> Cow<'n, Node> {
    let key = (node.namespace.clone(), node.name.clone());
    let Some(instance) = world.instances.get(&key) else {
        return Cow::Borrowed(node);
    };
    let own = &node.labels;
    let more = || {
        let all = instance.labels.iter();
        all.filter(|(label, _)| !own.contains_key(*label))
    };
    let placed = node.locality != Locality::default();
    if more().next().is_none() && (placed || instance.locality == node.locality) {
        return Cow::Borrowed(node);
    }
    let mut labels = own.clone();
    labels.extend(more().map(|(label, value)| (label.clone(), value.clone())));
    Cow::Owned(Node {
        labels,
        locality: if placed {
            node.locality.clone()
        } else {
            instance.locality.clone()
        },
        ..node.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Client, Instance};
    use crate::xds::generate;

    #[test]
    fn what_is_shared_is_made_once_a_world_and_never_taken_for_another() {
        let views = Views::default();
        let (world, node) = (World::default(), generate::node(Client::Meshctl));
        let first = views.common(&world);
        assert!(Arc::ptr_eq(&first, &views.common(&world.clone())));
        let other = World {
            instances: Arc::default(),
            ..world.clone()
        };
        assert!(!Arc::ptr_eq(&first, &views.common(&other)));
        assert_eq!(views.of(&world, &node), world.view(&node));
    }

    #[test]
    fn a_node_is_what_it_says_and_what_is_known_of_it() {
        let node = generate::node(Client::Meshctl);
        let label = |value: &str| [("a".to_owned(), value.to_owned())].into();
        let json = serde_json::json!({
            "name": node.name, "namespace": node.namespace, "workload": "w", "serviceAccount": "s",
            "labels": {"a": "known", "b": "known"}, "address": "192.0.2.1", "health": "healthy",
            "locality": {"region": "r1", "zone": "z1", "subzone": ""},
        });
        let instance: Instance = serde_json::from_value(json).unwrap();
        let key = (node.namespace.clone(), node.name.clone());
        let world = World {
            instances: Arc::new([(key, Arc::new(instance))].into()),
            ..World::default()
        };
        let silent = Node {
            labels: label("own"),
            locality: Locality::default(),
            ..node.clone()
        };
        let known = completed(&world, &silent);
        assert_eq!(
            (known.labels["a"].as_str(), known.labels["b"].as_str()),
            ("own", "known")
        );
        assert_eq!(known.locality.region, "r1");
        let placed = Node {
            locality: Locality {
                region: "r2".to_owned(),
                ..Locality::default()
            },
            ..silent.clone()
        };
        assert_eq!(completed(&world, &placed).locality, placed.locality);
        assert!(matches!(
            completed(&World::default(), &silent),
            Cow::Borrowed(_)
        ));
    }
}
