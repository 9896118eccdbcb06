//! Views to messages, one translator a kind of client.
//!
//! Ours and Envoy share their messages: ours get what Envoy lacks as metadata and may hold what
//! Envoy's validation refuses, Envoy gets chains for detection and values within its limits.
//! gRPC libraries get something else altogether: see `grpc.rs`.

mod balancing;
mod access_log;
mod cluster;
mod dns;
mod endpoint;
mod ext_authz;
mod compressor;
mod cors;
mod fault;
mod filter;
mod grpc;
mod hash;
mod headers;
mod health;
mod http;
mod http2;
mod jwt_authn;
mod rbac;
mod listener;
mod log_service;
mod origination;
mod route;
mod route_policy;
pub mod secret;
mod server_tls;
mod session;
mod sockets;
mod tables;
mod tracing;
mod mtls;

pub use tables::{Table, Tables, tables};

pub use mtls::ROOTS;
pub(super) use mtls::{CERTIFICATE, RAW};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use super::canonical;
use super::snapshot::{Kind, Name, Resource, Sheet, Snapshot};
use crate::mesh::view::Scope;
use crate::mesh::{Assignment, ChainAction, Client, Cluster, ClusterKind, Node, View};

/// Everything that `node` may ask for, in the dialect of its kind of client. Equal views give equal
/// bytes.
pub fn encode(view: &View, node: &Node) -> Snapshot {
    match node.client {
        Client::Grpc => grpc::encode(view),
        client @ (Client::Meshctl | Client::Envoy) => {
            let tables = tables(&view.routes, client);
            let led = Led::by(view, &tables);
            let mut bytes_only = led.bytes.clone();
            bytes_only.retain(|name| !led.routes_to(name));
            let sheet = sheet(view, &tables, client, &bytes_only);
            Snapshot::new(vec![Arc::new(sheet)])
        }
    }
}

/// Where listeners and routes lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Led {
    /// Clusters that connections are carried to.
    pub bytes: BTreeSet<String>,
    /// Clusters that requests are routed to, by each table.
    requests: Vec<Arc<BTreeMap<String, u32>>>,
}

impl Led {
    /// Where those of `view`, whose tables these are, lead.
    pub fn by(view: &View, tables: &Tables) -> Self {
        let listeners = view.listeners.values();
        let chains =
            listeners.flat_map(|listener| listener.chains.iter().chain(&listener.default_chain));
        let bytes = chains.flat_map(|chain| match &chain.action {
            ChainAction::Tcp { clusters, .. } => {
                clusters.iter().map(|(name, _)| name.clone()).collect()
            }
            ChainAction::Detect { cluster, .. } => vec![cluster.clone()],
            ChainAction::Http { .. } => Vec::new(),
        });
        Self {
            bytes: bytes.collect(),
            requests: tables.values().map(|own| Arc::clone(&own.leads)).collect(),
        }
    }

    /// Whether requests are routed to the cluster of this name.
    pub fn routes_to(&self, name: &str) -> bool {
        self.requests.iter().any(|led| led.contains_key(name))
    }

    /// Whether requests are routed to none of `names`.
    pub fn avoids(&self, names: &BTreeSet<String>) -> bool {
        names.iter().all(|name| !self.routes_to(name))
    }
}

/// The resources of `view` or a piece of one, whose tables these are. `bytes_only`: clusters that no
/// route leads to.
pub fn sheet(view: &View, tables: &Tables, client: Client, bytes_only: &BTreeSet<String>) -> Sheet {
    let mut sheet = Sheet::default();
    for (name, cluster) in &view.clusters {
        let (name, only): (Name, _) = (name.as_str().into(), bytes_only.contains(name));
        put_cluster(&name, Some(cluster), client, only, &mut sheet);
        let all = view.endpoints.get(&*name).map(|all| &**all);
        put_endpoints(&name, (Some(cluster), all), client, &mut sheet);
    }
    for (name, all) in &view.endpoints {
        if !view.clusters.contains_key(name) {
            put_endpoints(&name.as_str().into(), (None, Some(all)), client, &mut sheet);
        }
    }
    for (name, listener) in &view.listeners {
        let message = listener::encode(listener, client);
        let bytes = canonical::encode(&message, &canonical::LISTENER);
        sheet.insert(Kind::Listener, name.as_str(), Resource::new(bytes));
    }
    for (name, made) in tables {
        sheet.insert(Kind::Route, name.as_str(), made.resource.clone());
    }
    for (name, secret) in &view.secrets {
        let bytes = server_tls::text(name, secret).encode_to_vec();
        sheet.insert(Kind::Secret, name.as_str(), Resource::new(bytes));
    }
    sheet
}

/// What a sheet of clusters and endpoints was made of.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The clusters and endpoints.
    pub scope: Arc<Scope>,
    /// Which of them no route leads to.
    pub bytes_only: Arc<BTreeSet<String>>,
    /// What it came to.
    pub sheet: Arc<Sheet>,
}

impl Encoded {
    /// The resources of `scope`.
    pub fn new(scope: Arc<Scope>, bytes_only: Arc<BTreeSet<String>>, client: Client) -> Self {
        let nothing = Self {
            scope: Arc::default(),
            bytes_only: Arc::clone(&bytes_only),
            sheet: Arc::default(),
        };
        nothing.next(scope, bytes_only, client)
    }

    /// The resources of `scope`, of which nothing is encoded that was the same here.
    #[must_use]
    pub fn next(
        &self,
        scope: Arc<Scope>,
        bytes_only: Arc<BTreeSet<String>>,
        client: Client,
    ) -> Self {
        let (mut clusters, mut endpoints) = scope.changed(&self.scope);
        if !Arc::ptr_eq(&bytes_only, &self.bytes_only) {
            let differ = bytes_only.symmetric_difference(&self.bytes_only);
            clusters.extend(differ.map(|name| Name::from(name.as_str())));
        }
        // Whether an empty list stands in for one that is not there is the cluster's to say.
        endpoints.extend(clusters.iter().cloned());
        let mut sheet = Sheet::clone(&self.sheet);
        for name in clusters {
            let cluster = scope.clusters.get(&name);
            let only = bytes_only.contains(&*name);
            put_cluster(&name, cluster.map(|own| &**own), client, only, &mut sheet);
        }
        for name in endpoints {
            let cluster = scope.clusters.get(&name);
            let all = scope.endpoints.get(&name);
            let behind = (cluster.map(|own| &**own), all.map(|all| &**all));
            put_endpoints(&name, behind, client, &mut sheet);
        }
        Self {
            scope,
            bytes_only,
            sheet: Arc::new(sheet),
        }
    }
}

/// Puts a cluster on `sheet` in place of what stands there under its name.
fn put_cluster(
    name: &Name,
    cluster: Option<&Cluster>,
    client: Client,
    bytes_only: bool,
    sheet: &mut Sheet,
) {
    let Some(cluster) = cluster else {
        sheet.remove(Kind::Cluster, name);
        return;
    };
    let message = cluster::encode(cluster, client, bytes_only);
    let bytes = canonical::encode(&message, &canonical::CLUSTER);
    sheet.insert(Kind::Cluster, Name::clone(name), Resource::new(bytes));
}

/// Puts the endpoints of a cluster on `sheet` in place of what stands there under its name.
fn put_endpoints(
    name: &Name,
    (cluster, endpoints): (Option<&Cluster>, Option<&Assignment>),
    client: Client,
    sheet: &mut Sheet,
) {
    // Envoy holds a cluster back for 15 s until it hears of its endpoints, be they none.
    let awaited = client == Client::Envoy
        && cluster.is_some_and(|cluster| cluster.kind == ClusterKind::Discovered);
    let none = Assignment::default();
    let Some(all) = endpoints.or(awaited.then_some(&none)) else {
        sheet.remove(Kind::Endpoint, name);
        return;
    };
    let message = endpoint::encode(name, all, client);
    let bytes = canonical::encode(&message, &canonical::ENDPOINT);
    sheet.insert(Kind::Endpoint, Name::clone(name), Resource::new(bytes));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::xds::generate;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn equal_views_give_equal_bytes(view in generate::view()) {
            for client in [Client::Meshctl, Client::Envoy, Client::Grpc] {
                let node = generate::node(client);
                prop_assert_eq!(encode(&view, &node), encode(&view.clone(), &node));
            }
        }
    }
}
