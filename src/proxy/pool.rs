//! Connections to endpoints that are kept between requests, by worker, endpoint and identity.
//!
//! HTTP/1 connections wait on a stack, the last used on top; HTTP/2 connections are shared. A
//! connection is dropped when something waits to be read on it (its end, mostly), when its endpoint
//! goes, and when it was made with an identity that has been renewed.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mesh::cluster::UpstreamProtocol;
use crate::rt::{self, HashMap};
use crate::telemetry::{Link, Linked, Protocol};

use super::buffer::Buffer;
use super::connect::{Dialed, Target, dial};
use super::context::{Live, Worker};
use super::http::h2::client::Client;
use super::http::h2::config::Config;
use super::http::h2::session::Role;
use super::http::leg::H1Leg;
use super::http::respond::Failure;
use super::limit::{ConnectionSlot, Gate};
use super::observe;
use super::tables::{ClusterTable, EndpointState};
use super::tls::Speak;

/// Idle connections kept for an endpoint.
const MAX_IDLE: usize = 512;
/// Idle connections are closed after this long; shorter than what servers commonly allow.
const IDLE: Duration = Duration::from_mins(1);
/// How often a request that waits for a connection looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a pool is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// An endpoint of a cluster.
    Endpoint(u64),
    /// An address that a caller meant.
    Address(SocketAddr),
    /// An endpoint that is told of the caller or asked for by a name, and what tells those apart.
    Told(u64, u64),
    /// An address that a caller meant, likewise.
    ToldAddress(SocketAddr, u64),
}

/// All pools of a worker.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_key: RefCell<HashMap<Key, Pool>>,
    generation: Cell<u64>,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Idle>,
    shared: Vec<Rc<Multiplexed>>,
    /// Its endpoint chose HTTP/1.1 when it was asked.
    only_http1: bool,
    connecting: bool,
    changed: Rc<Notify>,
}

#[derive(Debug)]
struct Idle {
    leg: Box<H1Leg>,
    tag: Tag,
    since: Instant,
}

/// What is known of a connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Tag {
    key: Key,
    /// None when the caller chose the address.
    endpoint: Option<Arc<EndpointState>>,
    pub(crate) mtls: bool,
    generation: u64,
    /// Requests so far.
    pub(crate) uses: u32,
    pub(crate) local: Option<SocketAddr>,
    /// What protects it.
    pub(crate) protected: Link,
    /// Counts it; none where it leads to the application.
    link: Option<Linked>,
    _slot: ConnectionSlot,
}

/// An HTTP/2 connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Multiplexed {
    /// None when the caller chose the address.
    endpoint: Option<Arc<EndpointState>>,
    pub(crate) client: Client,
    pub(crate) mtls: bool,
    generation: u64,
    /// Requests so far.
    pub(crate) uses: Cell<u32>,
    /// When it was seen in use last, and how many requests there had been.
    last: Cell<(Instant, u32)>,
    pub(crate) local: Option<SocketAddr>,
    /// What protects it.
    pub(crate) protected: Link,
    /// Counts it; none where it leads to the application.
    link: Option<Linked>,
}

impl Tag {
    /// Takes note of a request; whether there was one before.
    pub(crate) fn used(&mut self) -> bool {
        let before = self.uses > 0;
        self.uses = self.uses.saturating_add(1);
        if let Some(link) = &self.link {
            link.request();
        }
        before
    }
}

impl Multiplexed {
    /// Takes note of a request.
    pub(crate) fn used(&self) {
        self.uses.set(self.uses.get().saturating_add(1));
        if let Some(link) = &self.link {
            link.request();
        }
    }
}

/// A connection for one request.
#[derive(Debug)]
pub(crate) enum Lease {
    /// To be given back.
    H1(Box<H1Leg>, Tag),
    /// Shared.
    H2(Rc<Multiplexed>),
}

impl Lease {
    /// Whether it carried a request before.
    pub(crate) fn was_used(&self) -> bool {
        match self {
            Self::H1(_, tag) => tag.uses > 0,
            Self::H2(shared) => shared.uses.get() > 0,
        }
    }
}

impl Lease {
    /// Whether it can be asked for another protocol by extended CONNECT.
    pub(crate) async fn takes_connect(&self) -> Result<(), Failure> {
        match self {
            Self::H1(..) => Ok(()),
            Self::H2(shared) if shared.client.takes_connect().await => Ok(()),
            Self::H2(_) => Err(Failure::NoUpgrade),
        }
    }
}

impl Pools {
    /// Drops what leads to endpoints that are gone or was made with an older identity.
    pub(crate) fn retain(&self, live: &Live) {
        let generation = live.generation();
        for pool in self.by_key.borrow_mut().values_mut() {
            pool.idle.retain(|idle| {
                stays(idle.tag.endpoint.as_ref())
                    && (!idle.tag.mtls || idle.tag.generation == generation)
            });
            pool.shared.retain(|shared| {
                stays(shared.endpoint.as_ref()) && (!shared.mtls || shared.generation == generation)
            });
        }
        self.generation.set(generation);
    }

    /// Drops connections that have been idle for too long or died meanwhile.
    pub(crate) fn sweep(&self) {
        let now = rt::now();
        self.by_key.borrow_mut().retain(|_, pool| {
            pool.idle
                .retain(|idle| now.duration_since(idle.since) < IDLE && idle.leg.io.is_quiet());
            pool.shared.retain(|shared| {
                let (mut since, seen) = shared.last.get();
                let uses = shared.uses.get();
                if !shared.client.is_idle() || uses != seen {
                    since = now;
                    shared.last.set((now, uses));
                }
                shared.client.is_open() && now.duration_since(since) < IDLE
            });
            !pool.idle.is_empty() || !pool.shared.is_empty() || pool.connecting
        });
    }

    /// Idle HTTP/1 and open HTTP/2 connections.
    pub(crate) fn count(&self) -> usize {
        self.by_key
            .borrow()
            .values()
            .map(|pool| pool.idle.len() + pool.shared.len())
            .sum()
    }

    fn idle(&self, key: Key) -> Option<(Box<H1Leg>, Tag)> {
        let mut pools = self.by_key.borrow_mut();
        let pool = pools.get_mut(&key)?;
        loop {
            let idle = pool.idle.pop()?;
            if idle.leg.io.is_quiet() {
                return Some((idle.leg, idle.tag));
            }
        }
    }

    /// Gives an HTTP/1 connection back after a whole exchange.
    pub(crate) fn give_back(&self, mut leg: Box<H1Leg>, tag: Tag, max_uses: u32) {
        let stays = stays(tag.endpoint.as_ref());
        let current = !tag.mtls || tag.generation == self.generation.get();
        let mut pools = self.by_key.borrow_mut();
        let pool = pools.entry(tag.key).or_default();
        if stays && current && (max_uses == 0 || tag.uses < max_uses) && pool.idle.len() < MAX_IDLE
        {
            leg.rest();
            pool.idle.push(Idle {
                leg,
                tag,
                since: rt::now(),
            });
        }
        pool.changed.notify_one();
    }

    fn multiplexed(&self, key: Key, max_uses: u32) -> Shared {
        let mut pools = self.by_key.borrow_mut();
        let pool = pools.entry(key).or_default();
        pool.shared.retain(|shared| {
            shared.client.is_open() && (max_uses == 0 || shared.uses.get() < max_uses)
        });
        let free = pool.shared.iter().find(|shared| shared.client.has_room());
        match free {
            Some(shared) => Shared::Use(Rc::clone(shared)),
            None if pool.connecting => Shared::Wait(Rc::clone(&pool.changed)),
            None => {
                pool.connecting = true;
                Shared::Connect
            }
        }
    }

    fn connected(&self, key: Key, made: Option<Rc<Multiplexed>>) {
        let mut pools = self.by_key.borrow_mut();
        let pool = pools.entry(key).or_default();
        pool.connecting = false;
        pool.shared.extend(made);
        pool.changed.notify_waiters();
    }

    /// Whether the endpoint is known to choose HTTP/1.1; takes note of it when told.
    fn only_http1(&self, key: Key, told: Option<bool>) -> bool {
        let mut pools = self.by_key.borrow_mut();
        if let Some(told) = told {
            pools.entry(key).or_default().only_http1 = told;
        }
        pools.get(&key).is_some_and(|pool| pool.only_http1)
    }

    fn changed(&self, key: Key) -> Rc<Notify> {
        Rc::clone(&self.by_key.borrow_mut().entry(key).or_default().changed)
    }
}

/// Whether connections to an endpoint are worth keeping.
fn stays(endpoint: Option<&Arc<EndpointState>>) -> bool {
    endpoint.is_none_or(|state| state.health.keeps())
}

enum Shared {
    Use(Rc<Multiplexed>),
    Wait(Rc<Notify>),
    Connect,
}

/// Lets others connect when whoever was connecting is dropped half-way.
struct Connecting<'p> {
    pools: &'p Pools,
    key: Key,
    made: Option<Rc<Multiplexed>>,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.pools.connected(self.key, self.made.take());
    }
}

/// An idle HTTP/1 connection, or a new one within the limits of `gate`. `fresh` never takes an idle
/// one.
pub(crate) async fn http1(
    worker: &Worker,
    live: &Live,
    (cluster, gate): (&ClusterTable, Gate<'_>),
    target: &Target<'_>,
    fresh: bool,
) -> Result<Lease, Failure> {
    let key = target.key();
    if !fresh && let Some((leg, tag)) = worker.pools.idle(key) {
        return Ok(Lease::H1(leg, tag));
    }
    let slot = match target.slot(cluster, gate.connection()) {
        Some(slot) => slot,
        None => match Box::pin(wait(worker, (cluster, gate), target)).await? {
            Waited::Idle(lease) => return Ok(lease),
            Waited::Slot(slot) => slot,
        },
    };
    // Apart from the caller's future: most requests find a connection, and all would carry its size.
    let dialed = Box::pin(dial(worker, live, cluster, target, Speak::Http1)).await?;
    Ok(kept((worker, live, cluster, target), dialed, slot))
}

enum Waited {
    Idle(Lease),
    Slot(ConnectionSlot),
}

/// Waits in line for a connection, if the line is not too long.
async fn wait(
    worker: &Worker,
    (cluster, gate): (&ClusterTable, Gate<'_>),
    target: &Target<'_>,
) -> Result<Waited, Failure> {
    let key = target.key();
    let _place = gate.pending().ok_or(Failure::Overflow)?;
    let changed = worker.pools.changed(key);
    let deadline = rt::now() + cluster.config.connect_timeout;
    while rt::now() < deadline {
        // Connections may also come free on other workers, which cannot tell this one.
        let _told_or_not = tokio::time::timeout(LOOK_AGAIN, changed.notified()).await;
        if let Some((leg, tag)) = worker.pools.idle(key) {
            return Ok(Waited::Idle(Lease::H1(leg, tag)));
        }
        if let Some(slot) = target.slot(cluster, gate.connection_again()) {
            return Ok(Waited::Slot(slot));
        }
    }
    Err(Failure::Overflow)
}

/// A shared HTTP/2 connection, made when there is none with a free stream.
pub(crate) async fn http2(
    worker: &Worker,
    live: &Live,
    (cluster, gate): (&ClusterTable, Gate<'_>),
    target: &Target<'_>,
) -> Result<Lease, Failure> {
    let mut connecting = loop {
        match free(worker, cluster, target.key()).await {
            Free::Use(shared) => return Ok(Lease::H2(shared)),
            Free::Connect(connecting) => break connecting,
            Free::Changed => {}
        }
    };
    let slot = target
        .slot(cluster, gate.connection())
        .ok_or(Failure::Overflow)?;
    let dialed = Box::pin(dial(worker, live, cluster, target, Speak::Http2)).await?;
    Ok(connecting.multiplex((worker, live, cluster, target), dialed, slot))
}

/// Whether an endpoint that might be asked for HTTP/2 is not, as it does not speak mTLS or has
/// chosen HTTP/1.1 before.
pub(crate) fn chose_http1(worker: &Worker, cluster: &ClusterTable, target: &Target<'_>) -> bool {
    let mtls = || cluster.config.tls.is_some() && target.entry.is_some_and(|entry| entry.mtls);
    cluster.config.protocol == UpstreamProtocol::Negotiated
        && (!(mtls() || cluster.originator.is_some())
            || worker.pools.only_http1(target.key(), None))
}

/// A connection in the version that the endpoint likes better. `fresh` never takes an idle one of
/// HTTP/1.
pub(crate) async fn negotiated(
    worker: &Worker,
    live: &Live,
    (cluster, gate): (&ClusterTable, Gate<'_>),
    target: &Target<'_>,
    fresh: bool,
) -> Result<Lease, Failure> {
    let key = target.key();
    let mut connecting = loop {
        if chose_http1(worker, cluster, target) {
            // It has said so just now, to somebody else.
            let other = http1(worker, live, (cluster, gate), target, fresh);
            return Box::pin(other).await;
        }
        match free(worker, cluster, key).await {
            Free::Use(shared) => return Ok(Lease::H2(shared)),
            Free::Connect(connecting) => break connecting,
            Free::Changed => {}
        }
    };
    let slot = gate.connection().ok_or(Failure::Overflow)?;
    let dialed = Box::pin(dial(worker, live, cluster, target, Speak::Http)).await?;
    if dialed.http2 {
        return Ok(connecting.multiplex((worker, live, cluster, target), dialed, slot));
    }
    worker.pools.only_http1(key, Some(true));
    Ok(kept((worker, live, cluster, target), dialed, slot))
}

/// A new HTTP/1 connection.
fn kept(
    (worker, live, cluster, target): (&Worker, &Live, &ClusterTable, &Target<'_>),
    dialed: Dialed,
    slot: ConnectionSlot,
) -> Lease {
    let tag = Tag {
        key: target.key(),
        endpoint: target.entry.map(|entry| Arc::clone(&entry.state)),
        mtls: dialed.mtls,
        generation: dialed.generation,
        uses: 0,
        local: dialed.local,
        protected: dialed.link,
        link: observe::dialed(worker, live, cluster, (&dialed, Protocol::Http)),
        _slot: slot,
    };
    Lease::H1(H1Leg::new(dialed.stream, Buffer::default()), tag)
}

enum Free<'p> {
    Use(Rc<Multiplexed>),
    Connect(Connecting<'p>),
    /// Somebody else made a connection, or could not.
    Changed,
}

/// A shared connection with a free stream, or the right to make one. While somebody else makes one,
/// that is waited for.
async fn free<'p>(worker: &'p Worker, cluster: &ClusterTable, key: Key) -> Free<'p> {
    let max_uses = cluster.config.limits.max_requests_per_connection;
    match worker.pools.multiplexed(key, max_uses) {
        Shared::Use(shared) => Free::Use(shared),
        Shared::Wait(changed) => {
            changed.notified().await;
            Free::Changed
        }
        Shared::Connect => Free::Connect(Connecting {
            pools: &worker.pools,
            key,
            made: None,
        }),
    }
}

impl Connecting<'_> {
    fn multiplex(
        &mut self,
        (worker, live, cluster, target): (&Worker, &Live, &ClusterTable, &Target<'_>),
        dialed: Dialed,
        slot: ConnectionSlot,
    ) -> Lease {
        let link = observe::dialed(worker, live, cluster, (&dialed, Protocol::Http));
        let shared = Rc::new(Multiplexed {
            endpoint: target.entry.map(|entry| Arc::clone(&entry.state)),
            client: Client::start(
                (dialed.stream, slot),
                Config::new(Role::Client, &cluster.config.http2),
                &worker.shared.registry,
            ),
            mtls: dialed.mtls,
            generation: dialed.generation,
            uses: Cell::new(0),
            last: Cell::new((rt::now(), 0)),
            local: dialed.local,
            protected: dialed.link,
            link,
        });
        self.made = Some(Rc::clone(&shared));
        Lease::H2(shared)
    }
}
