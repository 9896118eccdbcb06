//! What protected connections between two ends, as each end says, within a fixed bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::telemetry::link;
use crate::telemetry::names;

use super::edge::{Edge, OTHER};
use super::sample::Sample;

/// Length of a slot, in milliseconds.
const SLOT_MS: u64 = 5_000;
/// Slots that are kept: a quarter of an hour.
const SLOTS: u64 = 180;
/// How far back can be asked, in milliseconds.
pub const MOST_MS: u64 = SLOTS * SLOT_MS;
/// Links in one slot; more are counted under [`Link::overflow`].
const MAX_LINKS: usize = 500;
/// Links that are known at a time; more are counted under [`Link::overflow`].
const MAX_KNOWN: usize = 4_096;
/// Proxies whose open connections are known; those of more are not told.
const MAX_NODES: usize = 4_096;
/// Most that links take, in bytes: 180 slots of 500 links, 4,096 links with their names, and who holds them open, all at
/// their bounds, are some 13 MB.
pub const MOST_BYTES: usize = 16 << 20;
/// Links of which one proxy's open connections are known; those of more are not told.
const MAX_OF_NODE: usize = 1_000;
/// The same of all proxies together.
const MAX_HELD: usize = 65_536;
/// A proxy that has said nothing for this long has no connections any more.
const SILENT_MS: u64 = 30_000;

/// Connections between the same ends that are protected alike, as one of the ends says.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// Told by the caller's proxy (else by the called one's).
    pub by_source: bool,
    /// Calling workload, `name.namespace`; empty when it did not say.
    pub source: String,
    /// Called workload, `name.namespace`; empty when it is not of the mesh.
    pub destination: String,
    /// Called service, `name.namespace`.
    pub service: String,
    /// Bytes, not requests.
    pub tcp: bool,
    /// The caller's proven identity.
    pub client: String,
    /// The called one's proven identity.
    pub server: String,
    /// As `connection_security_policy`.
    pub protection: String,
    /// Why nothing protects it.
    pub reason: String,
    /// Version of TLS.
    pub version: String,
    /// Cipher suite.
    pub cipher: String,
    /// Group of the key exchange.
    pub group: String,
}

impl Link {
    /// The link of a sample that is one of `edge`.
    pub fn of(sample: &Sample<'_>, edge: Edge) -> Self {
        let known = |label: &str| match sample.label(label) {
            "unknown" => String::new(),
            value => value.to_owned(),
        };
        let destination = match known("destination_workload") {
            name if name.is_empty() => name,
            name => match known("destination_workload_namespace") {
                namespace if namespace.is_empty() => name,
                namespace => format!("{name}.{namespace}"),
            },
        };
        Self {
            by_source: edge.by_source,
            source: edge.source,
            destination,
            service: edge.service,
            tcp: sample.label("request_protocol") == "tcp",
            client: known("source_principal"),
            server: known("destination_principal"),
            protection: known("connection_security_policy"),
            reason: known(link::REASON),
            version: known(link::TLS_VERSION),
            cipher: known(link::TLS_CIPHER),
            group: known(link::TLS_GROUP),
        }
    }

    /// Where links are counted that a full slot has no room for.
    pub fn overflow() -> Self {
        Self {
            service: OTHER.to_owned(),
            ..Self::default()
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Connections that began.
    Opened,
    /// Connections that ended.
    Closed,
    /// Requests.
    Requests,
    /// Bytes to the service.
    To,
    /// Bytes from the service.
    From,
}

impl Counted {
    /// What a metric counts of links; none when it is about something else.
    pub fn of(metric: &str) -> Option<Self> {
        [
            (names::EDGE_OPENED, Self::Opened),
            (names::EDGE_CLOSED, Self::Closed),
            (names::EDGE_REQUESTS, Self::Requests),
            (names::EDGE_RECEIVED, Self::To),
            (names::EDGE_SENT, Self::From),
        ]
        .into_iter()
        .find_map(|(known, counted)| (known.name == metric).then_some(counted))
    }
}

/// What happened on one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Connections that began.
    pub opened: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes to the service.
    pub to: u64,
    /// Bytes from the service.
    pub from: u64,
    /// Connections that are open now.
    pub open: u64,
}

impl Traffic {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.opened += other.opened;
        self.requests += other.requests;
        self.to += other.to;
        self.from += other.from;
        self.open += other.open;
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One proxy's open connections.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    heard_unix_ms: u64,
    /// How many began and ended since the proxy did.
    links: BTreeMap<Arc<Link>, (u64, u64)>,
}

/// The last quarter of an hour in slots of 5 s, and what is open now. None of it outlasts a restart: what is
/// open is told again at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Links {
    /// Each link once, however many slots count it.
    known: BTreeSet<Arc<Link>>,
    slots: BTreeMap<u64, BTreeMap<Arc<Link>, Traffic>>,
    nodes: BTreeMap<String, Held>,
    /// Links of open connections, over all proxies.
    held: usize,
}

impl Links {
    /// Takes note that a proxy spoke.
    pub fn hear(&mut self, node: &str, now_unix_ms: u64) {
        if let Some(held) = self.nodes.get_mut(node) {
            held.heard_unix_ms = now_unix_ms;
            return;
        }
        if self.nodes.len() >= MAX_NODES {
            return;
        }
        let held = Held {
            heard_unix_ms: now_unix_ms,
            ..Held::default()
        };
        self.nodes.insert(node.to_owned(), held);
    }

    /// Adds what a proxy counted: `more` since it last spoke, `total` since it began.
    pub fn add(
        &mut self,
        (node, now_unix_ms): (&str, u64),
        link: Link,
        what: Counted,
        (total, more): (u64, u64),
    ) {
        let link = self.known(link);
        if let (Counted::Opened | Counted::Closed, Some(held)) = (what, self.nodes.get_mut(node))
            && (held.links.contains_key(&link)
                || (held.links.len() < MAX_OF_NODE && self.held < MAX_HELD))
        {
            if !held.links.contains_key(&link) {
                self.held += 1;
            }
            let (opened, closed) = held.links.entry(Arc::clone(&link)).or_default();
            match what {
                Counted::Opened => {
                    // Fewer than before: it is another process, which has closed none yet.
                    if total < *opened {
                        *closed = 0;
                    }
                    *opened = total;
                }
                _ => *closed = total,
            }
        }
        if more == 0 {
            return;
        }
        let number = now_unix_ms / SLOT_MS;
        let full = self
            .slots
            .get(&number)
            .is_some_and(|slot| slot.len() >= MAX_LINKS && !slot.contains_key(&link));
        let link = if full {
            self.known(Link::overflow())
        } else {
            link
        };
        let slot = self.slots.entry(number).or_default();
        let traffic = slot.entry(link).or_default();
        match what {
            Counted::Opened => traffic.opened += more,
            Counted::Closed => {}
            Counted::Requests => traffic.requests += more,
            Counted::To => traffic.to += more,
            Counted::From => traffic.from += more,
        }
    }

    /// Drops what is too old.
    pub fn turn(&mut self, now_unix_ms: u64) {
        let oldest = (now_unix_ms / SLOT_MS).saturating_sub(SLOTS);
        self.slots = self.slots.split_off(&oldest);
        let heard = now_unix_ms.saturating_sub(SILENT_MS);
        self.nodes.retain(|_, held| held.heard_unix_ms >= heard);
        self.held = self.nodes.values().map(|held| held.links.len()).sum();
        // Nobody else has those.
        self.known.retain(|link| Arc::strong_count(link) > 1);
    }

    /// The one of `link` that is shared, or of what stands for it.
    fn known(&mut self, link: Link) -> Arc<Link> {
        if let Some(known) = self.known.get(&link) {
            return Arc::clone(known);
        }
        if self.known.len() >= MAX_KNOWN && link != Link::overflow() {
            return self.known(Link::overflow());
        }
        let link = Arc::new(link);
        self.known.insert(Arc::clone(&link));
        link
    }

    /// What each link carried in slots that overlap the window that ends at `now`, with what is open.
    pub fn window(&self, window_ms: u64, now_unix_ms: u64) -> BTreeMap<&Link, Traffic> {
        let from = now_unix_ms.saturating_sub(window_ms) / SLOT_MS;
        let mut all: BTreeMap<&Link, Traffic> = BTreeMap::new();
        for (link, traffic) in self.slots.range(from..).flat_map(|(_, slot)| slot) {
            all.entry(link).or_default().merge(traffic);
        }
        let heard = now_unix_ms.saturating_sub(SILENT_MS);
        let alive = self.nodes.values();
        for held in alive.filter(|held| held.heard_unix_ms >= heard) {
            for (link, (opened, closed)) in &held.links {
                all.entry(link).or_default().open += opened.saturating_sub(*closed);
            }
        }
        all.retain(|_, traffic| !traffic.is_none());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(service: &str) -> Link {
        Link {
            by_source: true,
            service: service.to_owned(),
            ..Link::default()
        }
    }

    #[test]
    fn what_is_open_is_told_until_its_proxy_falls_silent() {
        let mut links = Links::default();
        links.hear("a", 1_000);
        links.add(("a", 1_000), link("db"), Counted::Opened, (5, 5));
        links.add(("a", 1_000), link("db"), Counted::Closed, (2, 2));
        let open = |links: &Links, now| {
            links
                .window(60_000, now)
                .values()
                .map(|traffic| (traffic.opened, traffic.open))
                .next()
        };
        assert_eq!(open(&links, 2_000), Some((5, 3)));
        // Long after the window.
        links.hear("a", 400_000);
        assert_eq!(open(&links, 400_000), Some((0, 3)));
        // Another process of that name.
        links.add(("a", 400_000), link("db"), Counted::Opened, (1, 1));
        assert_eq!(open(&links, 400_000), Some((1, 1)));
        assert_eq!(open(&links, 500_000), None);
        links.turn(500_000);
        assert!(links.nodes.is_empty());
    }

    #[test]
    fn links_are_bounded() {
        let mut links = Links::default();
        links.hear("a", 0);
        let all = MAX_OF_NODE + 50;
        for number in 0..all {
            let link = link(&number.to_string());
            links.add(("a", 0), link.clone(), Counted::Opened, (1, 1));
            links.add(("a", 0), link, Counted::Requests, (1, 1));
        }
        assert_eq!(links.slots[&0].len(), MAX_LINKS + 1);
        let told_apart = u64::try_from(MAX_LINKS).unwrap();
        let rest = u64::try_from(all).unwrap() - told_apart;
        assert_eq!(links.slots[&0][&Link::overflow()].requests, rest);
        assert_eq!(links.nodes["a"].links.len(), MAX_OF_NODE);
        for minute in 0..60 {
            links.add(("a", minute * 60_000), link("db"), Counted::To, (9, 9));
            links.turn(minute * 60_000);
        }
        assert!(links.slots.len() <= usize::try_from(SLOTS).unwrap() + 1);
    }
}
