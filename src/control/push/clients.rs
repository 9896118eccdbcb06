//! What is known of the clients that are connected.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::{Connected, Hub};
use crate::api::proxies::ProxySync;
use crate::mesh::{Client, Node, SpiffeId};

impl Hub {
    /// Every connected client, by name.
    pub fn status(&self) -> Vec<ProxySync> {
        let revision = self.revision();
        let mut all: Vec<ProxySync> = self
            .table()
            .clients
            .values()
            .map(|client| client.status(revision))
            .collect();
        all.sort_by(|a, b| {
            (&a.namespace, &a.name, &a.proxy).cmp(&(&b.namespace, &b.name, &b.proxy))
        });
        all
    }

    /// Every connected client.
    pub fn nodes(&self) -> Vec<Node> {
        let table = self.table();
        table.clients.values().map(|of| of.node.clone()).collect()
    }

    /// Identities that connected clients have proven.
    pub fn proven(&self) -> BTreeSet<SpiffeId> {
        let clients = &self.table().clients;
        clients
            .values()
            .filter_map(Connected::proven)
            .cloned()
            .collect()
    }

    /// Clients that the mesh's roots are told, by name: whether each has acknowledged this version of
    /// them, and the certificates that it showed.
    pub fn believers(
        &self,
        version: &str,
    ) -> BTreeMap<String, (bool, Arc<[CertificateDer<'static>]>)> {
        let table = self.table();
        let clients = table.clients.values();
        clients
            .filter(|client| client.node.client != Client::Grpc)
            .filter_map(|client| {
                let peer = client.peer.as_ref()?;
                let believes = client.roots.as_deref() == Some(version);
                let name = format!("{}.{}", client.node.name, client.node.namespace);
                Some((name, (believes, Arc::clone(&peer.chain))))
            })
            .collect()
    }

    /// The client of this name (or node id) and the identity that it proved.
    pub fn client(&self, name: &str) -> Option<(Node, Option<SpiffeId>)> {
        self.table()
            .clients
            .values()
            .find(|client| {
                client.node.id == name
                    || client.node.name == name
                    || format!("{}.{}", client.node.name, client.node.namespace) == name
            })
            .map(|client| (client.node.clone(), client.proven().cloned()))
    }
}
