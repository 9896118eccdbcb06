//! Everything one proxy needs, in the mesh's words.
//!
//! [`World::view`] is total and deterministic: the same world and node give the same view, and a
//! broken reference becomes a route to a cluster that the view does not hold, which answers 503.
//! Clusters and endpoints are the same for most proxies, so [`World::common`] makes them once a world,
//! and [`Common::next`] makes those of the next world out of them. A view is put together from pieces
//! ([`World::pieces`]), most of which many proxies share, and most of which outlive a change.

mod backend_tls;
mod cluster;
mod common;
mod credentials;
mod external;
mod faults;
mod gateway;
mod inbound;
mod metrics;
mod node;
mod outbound;
mod pieces;
mod plan;
mod relay;
mod policies;
mod routing;
mod scope;
mod sessions;
mod shadows;
mod streams;
mod termination;
mod tokens;
mod access_log;
mod told;
mod tracing;
mod authorization;

pub use common::{Common, Outlook, Scope};
pub use pieces::Pieces;
pub use routing::{Base, Rerouted, Routing};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::listener::{Chain, ChainAction, ChainLimits, ChainMatch, TcpOptions};
use super::{
    Assignment, Cluster, Listener, Node, NodeKind, RouteTable, Secret, Service, ServicePort, World,
};
pub use streams::Stream;

/// The configuration of one proxy. Endpoints stand apart from the rest, because a restarted pod
/// must dirty one assignment and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// By name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// By name.
    pub routes: BTreeMap<String, Arc<RouteTable>>,
    /// By name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// By cluster name.
    pub endpoints: BTreeMap<String, Arc<Assignment>>,
    /// Credentials that listeners name, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// For whoever waits until it is in force; 0 while its maker does not know which listeners there are.
    #[serde(skip)]
    pub revision: Revision,
}

/// Which of its maker's views one is. Two views that say the same are equal, whatever their revisions.
#[derive(Debug, Clone, Copy, Default, Eq)]
pub struct Revision(pub u64);

impl PartialEq for Revision {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Istio's default for connections that only carry bytes.
const TCP_IDLE: Duration = Duration::from_hours(1);

impl World {
    /// Clusters and endpoints, for [`World::view_with`].
    pub fn common(&self) -> Common {
        Common::new(self)
    }

    /// Everything that the proxy of `node` needs.
    pub fn view(&self, node: &Node) -> View {
        self.view_with(&self.common(), node)
    }

    /// The rules for bytes of `node` to a port of `service`; none where they go to the service itself.
    pub fn streams(&self, node: &Node, service: &Service, port: &ServicePort) -> Vec<Stream> {
        streams::described(&self.config, node, service, port)
    }

    /// Whether policies say of clusters of `node` that they speak TLS.
    fn secures(&self, node: &Node) -> bool {
        node.kind == NodeKind::Gateway && !self.config.backend_security.is_empty()
    }

    /// Whether some clusters of `node` are its own, as it shows or believes what others do not: then its view
    /// is more than its pieces side by side.
    pub fn is_whole(&self, node: &Node) -> bool {
        node.kind == NodeKind::Gateway
            && (credentials::differ(&self.config)
                || backend_tls::shown(&self.config, node).is_some())
    }

    /// As [`World::view`], with clusters and endpoints that are made already.
    pub fn view_with(&self, common: &Common, node: &Node) -> View {
        let pieces = self.pieces(common, node);
        let routing = pieces.outbound(common, None);
        let mut view = routing.map(|routing| routing.view).unwrap_or_default();
        let own = pieces.own(common);
        view.listeners.extend(own.listeners);
        view.routes.extend(own.routes);
        view.clusters.extend(own.clusters);
        view.secrets.extend(own.secrets);
        for scope in &pieces.scopes {
            for (name, cluster) in scope.clusters.iter() {
                let entry = view.clusters.entry(name.to_string());
                entry.or_insert_with(|| Arc::clone(cluster));
            }
            for (name, all) in scope.endpoints.iter() {
                let entry = view.endpoints.entry(name.to_string());
                entry.or_insert_with(|| Arc::clone(all));
            }
        }
        if self.is_whole(node) {
            credentials::secure(&self.config, node, &mut view);
            backend_tls::show(&self.config, node, &mut view);
        }
        view
    }
}

impl View {
    fn add_listener(&mut self, listener: Listener) {
        self.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }

    fn add_routes(&mut self, table: RouteTable) {
        self.routes.insert(table.name.clone(), Arc::new(table));
    }

    fn add_cluster(&mut self, cluster: Cluster) {
        self.clusters
            .insert(cluster.name.clone(), Arc::new(cluster));
    }
}

/// A chain that carries bytes to `cluster`.
fn tcp_chain(name: &str, matches: ChainMatch, cluster: &str) -> Chain {
    Chain {
        name: name.to_owned(),
        matches,
        tls: None,
        action: ChainAction::Tcp {
            clusters: vec![(cluster.to_owned(), 1)],
            options: TcpOptions::idle(TCP_IDLE),
        },
        filters: Vec::new(),
        guards: Vec::new(),
        limits: ChainLimits::default(),
    }
}
