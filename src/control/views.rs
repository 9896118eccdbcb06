//! Views of the world that is being served; what proxies share of it is made once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::mesh::view::Common;
use crate::mesh::{Node, View, World};

/// Remembers what was made of the last world.
#[derive(Debug, Default)]
pub(super) struct Views {
    last: Mutex<Option<(World, Arc<Common>)>>,
}

impl Views {
    /// What `node` is to have of `world`.
    pub(super) fn of(&self, world: &World, node: &Node) -> View {
        world.view_with(&self.common(world), node)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Client;
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
}
