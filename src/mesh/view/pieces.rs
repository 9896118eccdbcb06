//! What a view is put together from.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::common::{Common, Outlook, Scope};
use super::inbound::Facts;
use super::routing::{Base, Routing};
use super::{
    View, access_log, backend_tls, credentials, faults, gateway, inbound, metrics, node, routing,
    scope, shadows, tracing,
};
use crate::mesh::sidecar::{self, Sidecar};
use crate::mesh::world::Config;
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
        let scopes = common.of(self, &node, known.as_ref(), self.secures(&node));
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

    /// What calls of the application are routed by; `base` is of the same outlook before.
    pub fn outbound(&self, common: &Common, base: Option<&Base>) -> Option<Routing> {
        if self.node.kind != NodeKind::Sidecar {
            return None;
        }
        let world = &self.world.config;
        let config = self.sidecar.map_or_else(
            || Arc::clone(world),
            |(at, sidecar)| common.known(world, (at, sidecar), &self.node),
        );
        let mut routing = routing::held_against(base, config, &self.node, common.asked(&self.node));
        faults::inject(&world.faults, &mut routing.view);
        shadows::compare(&world.comparisons, &mut routing.view);
        self.shape(&mut routing.view);
        Some(routing)
    }

    /// What nobody else has. Of the world's instances it depends on the node's own only.
    pub fn own(&self, common: &Common) -> View {
        let mut view = View::default();
        match self.node.kind {
            NodeKind::Gateway => {
                gateway::add(self.world, &self.node, &mut view);
                faults::inject(&self.world.config.faults, &mut view);
                shadows::compare(&self.world.config.comparisons, &mut view);
                if self.world.secures(&self.node) {
                    backend_tls::keep_passing(&self.scopes, &mut view);
                }
            }
            NodeKind::Sidecar => match self.sidecar.filter(|(_, own)| !own.ingress.is_empty()) {
                Some((_, own)) => {
                    let node = scope::ports(&self.node, own);
                    inbound::add(&self.facts(common), &node, true, &mut view);
                }
                None => inbound::add(&self.facts(common), &self.node, false, &mut view),
            },
        }
        credentials::add(&self.world.config, &self.node, &mut view);
        self.shape(&mut view);
        view
    }

    fn facts(&self, common: &Common) -> Facts<'_> {
        let config = &self.world.config;
        let key = (self.node.namespace.clone(), self.node.name.clone());
        Facts {
            authentication: &config.authentication,
            policies: &config.policies,
            trust_domain: &config.trust_domain,
            services: common.choosing(config, &self.node),
            instance: self.world.instances.get(&key).map(|own| &**own),
        }
    }

    /// Whether [`Pieces::own`] is what it was under `before`, the node's own instance being the same: of a
    /// workload, where nothing changed that its facts, its Sidecar or its credentials are.
    pub fn keeps_own(&self, common: &Common, before: &Arc<Config>) -> bool {
        let config = &self.world.config;
        let sidecar = sidecar::of(&before.sidecars, &self.node).map(|(_, own)| own);
        self.node.kind == NodeKind::Sidecar
            && config.policies == before.policies
            && config.trust_domain == before.trust_domain
            && config.baseline == before.baseline
            && config.tracing == before.tracing
            && config.access_log == before.access_log
            && config.metrics == before.metrics
            && credentials::same((config, before), &self.node)
            && sidecar == self.sidecar.map(|(_, own)| own)
            && common.keeps_choosing((config, before), &self.node)
    }

    /// Gives listeners what holds for the whole mesh.
    fn shape(&self, view: &mut View) {
        for listener in view.listeners.values_mut() {
            self.world.config.baseline.shape(listener);
        }
        let own: BTreeSet<String> = view.clusters.keys().cloned().collect();
        let knows = |cluster: &str| {
            let shared = self.scopes.iter();
            own.contains(cluster)
                || shared
                    .map(|scope| &scope.clusters)
                    .any(|all| all.get(cluster).is_some())
        };
        for listener in view.listeners.values_mut() {
            tracing::shape(&self.world.config, &self.node, listener, &knows);
            access_log::shape(&self.world.config, &self.node, listener, &knows);
            metrics::shape(&self.world.config, &self.node, listener);
        }
    }
}
