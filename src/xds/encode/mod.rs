//! Views to messages, one translator a kind of client.
//!
//! Ours and Envoy share their messages: ours get what Envoy lacks as metadata and may hold what
//! Envoy's validation refuses, Envoy gets chains for detection and values within its limits.
//! gRPC libraries get something else altogether: see `grpc.rs`.

mod balancing;
mod cluster;
mod dns;
mod endpoint;
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
mod listener;
mod origination;
mod route;
mod route_policy;
pub mod secret;
mod server_tls;
mod sockets;
mod mtls;

pub(super) use mtls::{CERTIFICATE, RAW, ROOTS};

use std::collections::BTreeSet;

use prost::Message as _;

use super::canonical;
use super::snapshot::{Kind, Snapshot};
use crate::mesh::{Assignment, ChainAction, Client, ClusterKind, Node, View};

/// Everything that `node` may ask for, in the dialect of its kind of client. Equal views give equal
/// bytes.
pub fn encode(view: &View, node: &Node) -> Snapshot {
    match node.client {
        Client::Grpc => grpc::encode(view),
        client @ (Client::Meshctl | Client::Envoy) => proxy(view, client),
    }
}

fn proxy(view: &View, client: Client) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let bytes_only = carries_bytes(view);
    for (name, cluster) in &view.clusters {
        let message = cluster::encode(cluster, client, bytes_only.contains(name.as_str()));
        snapshot.insert(
            Kind::Cluster,
            name,
            canonical::encode(&message, &canonical::CLUSTER),
        );
        // Envoy holds a cluster back for 15 s until it hears of its endpoints, be they none.
        if client == Client::Envoy
            && cluster.kind == ClusterKind::Discovered
            && !view.endpoints.contains_key(name)
        {
            let none = endpoint::encode(name, &Assignment::default(), client);
            snapshot.insert(
                Kind::Endpoint,
                name,
                canonical::encode(&none, &canonical::ENDPOINT),
            );
        }
    }
    for (name, assignment) in &view.endpoints {
        let message = endpoint::encode(name, assignment, client);
        snapshot.insert(
            Kind::Endpoint,
            name,
            canonical::encode(&message, &canonical::ENDPOINT),
        );
    }
    for (name, listener) in &view.listeners {
        let message = listener::encode(listener, client);
        snapshot.insert(
            Kind::Listener,
            name,
            canonical::encode(&message, &canonical::LISTENER),
        );
    }
    for (name, table) in &view.routes {
        let message = route::encode(table, client);
        snapshot.insert(
            Kind::Route,
            name,
            canonical::encode(&message, &canonical::ROUTE),
        );
    }
    for (name, secret) in &view.secrets {
        let message = server_tls::text(name, secret);
        snapshot.insert(Kind::Secret, name, message.encode_to_vec());
    }
    snapshot
}

/// Clusters that no route leads to, so that only bytes go there.
fn carries_bytes(view: &View) -> BTreeSet<&str> {
    view.listeners
        .values()
        .flat_map(|listener| listener.chains.iter().chain(&listener.default_chain))
        .flat_map(|chain| match &chain.action {
            ChainAction::Tcp { clusters, .. } => {
                clusters.iter().map(|(name, _)| name.as_str()).collect()
            }
            ChainAction::Detect { cluster, .. } => vec![cluster.as_str()],
            ChainAction::Http { .. } => Vec::new(),
        })
        .filter(|name| {
            !view.routes.values().any(|table| {
                table
                    .hosts
                    .iter()
                    .flat_map(|host| &host.routes)
                    .any(|route| route::leads_to(route, name))
            })
        })
        .collect()
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
