//! What a view is put together from.

use std::borrow::Cow;
use std::sync::Arc;

use super::common::{Common, Outlook, Scope};
use super::{View, faults, gateway, inbound, node, outbound, scope};
use crate::mesh::sidecar::{self, Sidecar};
use crate::mesh::{Node, NodeKind, World};

/// The pieces of one proxy's view, in the order of who goes before: what is its own, what calls of its
/// application are routed by, and the clusters and endpoints that everybody like it has.
#[derive(Debug)]
pub struct Pieces<'a> {
    world: &'a World,
    node: Cow<'a, Node>,
    sidecar: Option<(usize, &'a Arc<Sidecar>)>,
    /// Clusters and endpoints; what the first holds goes before.
    pub scopes: Vec<Arc<Scope>>,
}

impl World {
    /// The pieces of the view of `node`.
    pub fn pieces<'a>(&'a self, common: &Common, node: &'a Node) -> Pieces<'a> {
        let node = node::completed(self, node);
        // What a gateway listens on is its own objects' business.
        let sidecar = (node.kind == NodeKind::Sidecar)
            .then(|| sidecar::of(&self.config.sidecars, &node))
            .flatten();
        let known = sidecar.map(|(at, sidecar)| (at, &**sidecar));
        let scopes = common.of(self, &node, known.as_ref());
        Pieces {
            world: self,
            node,
            sidecar,
            scopes,
        }
    }
}

impl Pieces<'_> {
    /// What [`Pieces::outbound`] depends on beside configuration; none where there is nothing.
    pub fn outlook(&self, common: &Common) -> Option<Outlook> {
        let known = self.sidecar.map(|(at, _)| at);
        (self.node.kind == NodeKind::Sidecar).then(|| common.outlook(&self.node, known))
    }

    /// What calls of the application are routed by.
    pub fn outbound(&self, common: &Common) -> View {
        let mut view = View::default();
        if self.node.kind == NodeKind::Sidecar {
            let config = &self.world.config;
            let known = self
                .sidecar
                .map(|(at, sidecar)| common.known(config, (at, sidecar), &self.node));
            outbound::add(known.as_ref().unwrap_or(config), &self.node, &mut view);
            faults::inject(&config.faults, &mut view);
        }
        self.shape(&mut view);
        view
    }

    /// What nobody else has. Of the world's instances it depends on the node's own only.
    pub fn own(&self) -> View {
        let mut view = View::default();
        match self.node.kind {
            NodeKind::Gateway => {
                gateway::add(self.world, &self.node, &mut view);
                faults::inject(&self.world.config.faults, &mut view);
            }
            NodeKind::Sidecar => match self.sidecar.filter(|(_, own)| !own.ingress.is_empty()) {
                Some((_, own)) => {
                    let node = scope::ports(&self.node, own);
                    inbound::add(self.world, &node, true, &mut view);
                }
                None => inbound::add(self.world, &self.node, false, &mut view),
            },
        }
        self.shape(&mut view);
        view
    }

    /// Gives listeners what holds for the whole mesh.
    fn shape(&self, view: &mut View) {
        for listener in view.listeners.values_mut() {
            self.world.config.baseline.shape(listener);
        }
    }
}
