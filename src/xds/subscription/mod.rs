//! The protocol without a socket: what to send, given what came.
//!
//! Three state machines, each for one stream: [`DeltaServer`] and [`SotwServer`] on the side of the
//! control plane, [`DeltaClient`] on ours. Input is a request, a response or a new snapshot; output
//! is what goes on the wire. The caller moves messages and keeps the clock.
//!
//! Both servers keep the same order, because clients apply one stream in order: clusters, endpoints
//! (again for every cluster that changed, or Envoy waits 15 s for them), and once those are
//! acknowledged, listeners and routes; what is gone is removed when all that is settled. Of each
//! type one response at most is on its way.

mod client;
mod delta;
mod sotw;

#[cfg(test)]
mod tests;

use super::snapshot::{Kind, Name, Snapshot};

pub use client::{DeltaClient, Step};
pub use delta::DeltaServer;
pub use sotw::SotwServer;

use std::collections::BTreeSet;
use std::sync::Arc;

/// Something that the operator may want to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client took what it was sent.
    Acked(Kind),
    /// The client refused (part of) what it was sent.
    Nacked {
        /// The type.
        kind: Kind,
        /// In the client's words.
        reason: String,
        /// Those of the resources sent that the reason names.
        resources: Vec<String>,
    },
    /// A type that is not served here.
    Unknown(String),
}

/// The standing of one type on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The type.
    pub kind: Kind,
    /// The newest revision of which something was sent.
    pub sent: Option<u64>,
    /// Everything up to this revision is with the client.
    pub acked: u64,
    /// A response is on its way.
    pub waiting: bool,
    /// How many resources the client has.
    pub resources: usize,
}

/// One side of a stream that serves.
pub trait Server: Send {
    /// What the client sends.
    type Request;
    /// What it is sent.
    type Response;

    /// A server of `snapshot`, which is what `revision` of the world came to.
    fn new(snapshot: Arc<Snapshot>, revision: u64) -> Self;
    /// Takes a message of the client.
    fn request(&mut self, request: Self::Request) -> Vec<Event>;
    /// Replaces what is served.
    fn publish(&mut self, snapshot: Arc<Snapshot>, revision: u64);
    /// The next message for the client, until there is none.
    fn next(&mut self) -> Option<(Kind, Self::Response)>;
    /// Clusters that the client may have got on this stream without their endpoints, should it end
    /// now. The next stream of the same client owes them, or the client waits 15 s for what it
    /// believes to be on its way.
    fn unfinished(&self) -> BTreeSet<String>;
    /// Takes over what an earlier stream left unfinished.
    fn owe(&mut self, clusters: BTreeSet<String>);
    /// How each subscribed type stands.
    fn standing(&self) -> Vec<Standing>;

    /// The version of a resource that the client has acknowledged.
    fn holds(&self, kind: Kind, name: &str) -> Option<Arc<str>>;

    /// The newest revision that is with the client as a whole.
    fn acked(&self, current: u64) -> u64 {
        self.standing()
            .iter()
            .map(|standing| standing.acked)
            .min()
            .unwrap_or(current)
    }
}

/// Types that wait until clusters and endpoints are with the client: a route that is ahead of its
/// cluster answers 503.
fn waits(kind: Kind) -> bool {
    matches!(kind, Kind::Listener | Kind::Route)
}

/// The order in which what is gone is removed: the user before what it uses.
const REMOVALS: [Kind; 5] = [
    Kind::Listener,
    Kind::Route,
    Kind::Cluster,
    Kind::Endpoint,
    Kind::Secret,
];

/// Those of `names` that the client's complaint mentions as a word.
fn mentioned<'a>(reason: &str, names: impl Iterator<Item = &'a Name>) -> Vec<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || "|._-".contains(c);
    names
        .filter(|name| {
            reason.match_indices(&***name).any(|(at, found)| {
                let before = reason.get(..at).and_then(|text| text.chars().next_back());
                let after = reason
                    .get(at + found.len()..)
                    .and_then(|text| text.chars().next());
                !before.is_some_and(part) && !after.is_some_and(|c| part(c) && c != '.')
            })
        })
        .map(ToString::to_string)
        .collect()
}
