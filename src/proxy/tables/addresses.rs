//! Endpoints by their address, as sessions ask for them.

use std::net::SocketAddr;
use std::sync::OnceLock;

use crate::rt::HashMap;

use super::EndpointEntry;

/// The places of endpoints by their address; nothing where nobody asks.
#[derive(Debug, Default)]
pub(crate) struct Addresses(OnceLock<HashMap<SocketAddr, usize>>);

impl Addresses {
    /// Works out the places in `entries`, so that no request has to.
    pub(crate) fn prepare(&self, entries: &[EndpointEntry]) -> &HashMap<SocketAddr, usize> {
        self.0.get_or_init(|| {
            let places = entries.iter().enumerate().rev();
            // Of several at one address the first, which is of the first priority.
            places.map(|(at, entry)| (entry.address, at)).collect()
        })
    }

    /// The place of the endpoint at `address` in `entries`.
    pub(crate) fn find(&self, entries: &[EndpointEntry], address: SocketAddr) -> Option<usize> {
        self.prepare(entries).get(&address).copied()
    }
}
