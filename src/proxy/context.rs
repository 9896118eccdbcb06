//! What a worker's connections share, and what is known of each connection.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::mesh::WorkloadRef;
use crate::mesh::listener::Direction;
use crate::rt::{self, HashMap, Wall};
use crate::telemetry::{Link, Linked, PeerId, PeerLabels, Recorder, Registry, ServiceId, Shown};

use super::access_log::{LogTable, Started};
use super::ext_authz::Provider;
use super::filter::{self, Filters};
use super::jwt;
use super::options::Options;
use super::overload::Overload;
use super::pool::Pools;
use super::rbac;
use super::tables::chain::ChainTable;
use super::tables::http::HttpTable;
use super::tables::{Surroundings, Tables};
use super::taken::{Taken, Today};
use super::tls::Identity;
use super::trace::{Lane, Spans};

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) registry: Arc<Registry>,
    /// Spans on their way out.
    pub(crate) spans: Spans,
    /// Where access logs go; nowhere when off.
    pub(crate) log: Option<Started>,
    pub(crate) wall: Wall,
    /// What is done against running out.
    pub(crate) overload: Overload,
    /// Callers come from outside of the mesh.
    pub(crate) gateway: bool,
    /// Told when a health check changed something that the control thread acts on.
    pub(crate) health_changed: Notify,
    began: Instant,
}

impl Shared {
    pub(crate) fn new(options: Options, registry: Arc<Registry>, log: Option<Started>) -> Self {
        Self {
            gateway: options.node.starts_with("router~"),
            spans: Spans::new(&options.tracing),
            options,
            registry,
            log,
            wall: Wall::System,
            overload: Overload::default(),
            health_changed: Notify::new(),
            began: rt::now(),
        }
    }

    /// How long the proxy has run.
    pub(crate) fn since(&self, now: Instant) -> std::time::Duration {
        now.saturating_duration_since(self.began)
    }

    /// What tables are built in.
    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings::new(self.began, &self.options)
    }

    /// Milliseconds since the proxy began.
    pub(crate) fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

/// One version of everything that can change; a request keeps the one that it began with.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) tables: Arc<Tables>,
    pub(crate) identity: Option<Arc<Identity>>,
    /// This workload, for telemetry.
    pub(crate) own: PeerId,
    /// It as what callers from outside mean, where it is a gateway.
    pub(crate) front: ServiceId,
}

impl Live {
    /// Whether the certificate of this [`tls::key_of`](crate::tls::key_of) is revoked.
    pub(crate) fn revokes(&self, certificate: u64) -> bool {
        let identity = self.identity.as_ref();
        certificate != 0 && identity.is_some_and(|own| own.revoked.contains(&certificate))
    }

    /// The chain that took a connection, as it is now.
    pub(crate) fn chain_of(&self, state: &ConnState) -> Option<&ChainTable> {
        let (listener, chain) = (state.listener.borrow(), state.chain_name.borrow());
        let listener = self.tables.listeners.get(listener.as_deref()?)?;
        listener.named(chain.as_deref()?)
    }

    /// As [`Worker::sort_again`], of one connection.
    pub(crate) fn sort_again(&self, state: &ConnState, until: Instant) {
        let chain = state.chain.get();
        if chain == 0 {
            return;
        }
        let began = state.taken.borrow().as_ref().map(|taken| taken.rules);
        let (same, overruled) = match self.today(state) {
            Today::AsBefore => (self.tables.serves(chain), false),
            Today::Shut => (false, true),
            Today::By(now) => (
                now.version == chain,
                began.is_some_and(|began| began != now.rules),
            ),
        };
        if same {
            return;
        }
        state.chain.set(GONE);
        if overruled && state.until.get().is_none() {
            state.until.set(Some(until));
        }
        if !state.draining.replace(true) {
            state.wake.notify_one();
        }
    }

    pub(crate) fn new(
        tables: Arc<Tables>,
        identity: Option<Arc<Identity>>,
        own: &WorkloadRef,
        registry: &Registry,
    ) -> Self {
        let principal = identity.as_ref().map_or("", |identity| &identity.id);
        Self {
            own: registry.peer(PeerLabels::new(own, principal)),
            front: registry.named_service(&own.service, &own.service, &own.namespace),
            tables,
            identity,
        }
    }

    /// Which identity is in use; 0 is none.
    pub(crate) fn generation(&self) -> u64 {
        self.identity
            .as_ref()
            .map_or(0, |identity| identity.generation)
    }
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    live: RefCell<Rc<Live>>,
    pub(crate) pools: Pools,
    pub(crate) recorder: Recorder,
    /// Where it puts spans.
    pub(crate) spans: Lane,
    connections: RefCell<HashMap<u64, Entry>>,
    next: Cell<u64>,
    /// No new requests are to be started on connections.
    pub(crate) draining: Cell<bool>,
    /// Copies of requests that are under way.
    pub(crate) mirrors: Cell<usize>,
    /// Tokens that were found good.
    pub(crate) tokens: RefCell<jwt::cache::Cache>,
    /// Listeners of which that is so.
    pub(crate) easing: RefCell<Vec<String>>,
}

#[derive(Debug)]
struct Entry {
    state: Rc<ConnState>,
    task: Option<AbortHandle>,
    /// In a drain: when it was first seen idle, and was at every look since.
    idle_since: Cell<Option<Instant>>,
}

/// What is known of a connection that carries bytes, for judging it again.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) principal: Option<String>,
    pub(crate) direct: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) local: SocketAddr,
    pub(crate) server_name: Option<String>,
    /// Who was asked, and let it.
    pub(crate) asked: Vec<Arc<Provider>>,
}

impl Admitted {
    /// As guards see it.
    pub(crate) fn connection(&self) -> rbac::Connection<'_> {
        rbac::Connection {
            principal: self.principal.as_deref(),
            direct: self.direct,
            remote: self.remote,
            local: self.local,
            server_name: self.server_name.as_deref(),
        }
    }
}

/// What may be said to a connection from outside.
#[derive(Debug, Default)]
pub(crate) struct ConnState {
    /// Unique in its worker.
    pub(crate) id: Cell<u64>,
    /// Nothing is going on: it can be closed.
    pub(crate) idle: Cell<bool>,
    /// To be closed when what is going on has ended.
    pub(crate) draining: Cell<bool>,
    /// Listener that it came in by.
    pub(crate) listener: RefCell<Option<Rc<str>>>,
    /// The chain that took it, by name.
    pub(crate) chain_name: RefCell<Option<Arc<str>>>,
    /// What it was sorted by, where others than the application beside call.
    pub(crate) taken: RefCell<Option<Box<Taken>>>,
    /// When it ends though something is going on, as who may do what has changed since it began.
    until: Cell<Option<Instant>>,
    /// What was judged when it was let in to carry bytes.
    pub(crate) admitted: RefCell<Option<Box<Admitted>>>,
    /// Version of the chain whose rules its requests are served by; 0 where it carries no requests, and
    /// [`GONE`] when another chain would take it.
    pub(crate) chain: Cell<u64>,
    /// The [`tls::key_of`](crate::tls::key_of) its caller's certificate of the mesh; 0 where it showed none.
    pub(crate) certificate: Cell<u64>,
    /// Wakes an HTTP/2 connection to say goodbye.
    pub(crate) wake: tokio::sync::Notify,
}

/// Some of the connections.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom<'a> {
    /// All of them.
    All,
    /// Those that came in by a listener.
    Of(&'a str),
    /// Those whose requests are served by a chain that is gone or has changed.
    Outdated,
    /// Those whose caller's certificate is revoked.
    Revoked,
    /// Those that carry bytes of a caller who would not be let in any more.
    ShutOut,
    /// Those that carry requests under rules of which the time has passed by now.
    Overdue(Instant),
}

/// The version of no chain.
const GONE: u64 = u64::MAX;

impl Whom<'_> {
    fn holds(self, state: &ConnState, live: &Live) -> bool {
        match self {
            Self::All => true,
            Self::Of(name) => state.listener.borrow().as_deref() == Some(name),
            Self::Outdated => {
                let chain = state.chain.get();
                chain != 0 && !live.tables.serves(chain)
            }
            Self::Revoked => live.revokes(state.certificate.get()),
            Self::ShutOut => live.shuts_out(state),
            Self::Overdue(now) => state.until.get().is_some_and(|until| until <= now),
        }
    }
}

/// Takes a connection off the list when dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    worker: Rc<Worker>,
    id: u64,
    pub(crate) state: Rc<ConnState>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
    }
}

impl Worker {
    /// Where what comes of comparing answers is counted, and when that is.
    pub(crate) fn comparing(&self) -> (&Arc<Registry>, &Wall) {
        (&self.shared.registry, &self.shared.wall)
    }

    pub(crate) fn new(shared: Arc<Shared>, live: Live) -> Rc<Self> {
        Rc::new(Self {
            recorder: Recorder::new(Arc::clone(&shared.registry)),
            spans: shared.spans.lane(),
            shared,
            live: RefCell::new(Rc::new(live)),
            pools: Pools::default(),
            connections: RefCell::default(),
            next: Cell::new(0),
            draining: Cell::new(false),
            mirrors: Cell::new(0),
            tokens: RefCell::default(),
            easing: RefCell::default(),
        })
    }

    /// The current version.
    pub(crate) fn live(&self) -> Rc<Live> {
        Rc::clone(&self.live.borrow())
    }

    /// Replaces the current version; connections that go nowhere any more are dropped. Whether
    /// connections of callers may be served by rules that are no longer so.
    pub(crate) fn replace(&self, live: Live) -> bool {
        self.pools.retain(&live);
        let before = self.live.replace(Rc::new(live));
        let (now, before) = (&self.live.borrow().tables, &before.tables);
        !Arc::ptr_eq(&now.chains, &before.chains) || now.proofs != before.proofs
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Puts a connection on the list.
    pub(crate) fn register(self: &Rc<Self>, listener: &Rc<str>) -> Registered {
        let id = self.next.get();
        self.next.set(id + 1);
        let state = Rc::new(ConnState::default());
        state.id.set(id);
        let eased = self.easing.borrow().iter().any(|name| **name == **listener);
        state.draining.set(self.draining.get() || eased);
        state.listener.replace(Some(Rc::clone(listener)));
        let entry = Entry {
            state: Rc::clone(&state),
            task: None,
            idle_since: Cell::new(None),
        };
        self.connections.borrow_mut().insert(id, entry);
        Registered {
            worker: Rc::clone(self),
            id,
            state,
        }
    }

    /// Says how a listed connection can be ended; call it right after its task was started.
    pub(crate) fn attach(&self, id: u64, task: AbortHandle) {
        if let Some(entry) = self.connections.borrow_mut().get_mut(&id) {
            entry.task = Some(task);
        }
    }

    /// Lets connections end after what they are doing. With a time, those are ended now that have been idle for that long, as far as these
    /// calls have seen. How many are left.
    pub(crate) fn drain(&self, whom: Whom<'_>, idle: Option<(Instant, Duration)>) -> usize {
        let live = self.live();
        let mut ended = Vec::new();
        let mut left = 0;
        for entry in self.connections.borrow().values() {
            let state = &entry.state;
            if !whom.holds(state, &live) {
                continue;
            }
            left += 1;
            if !state.draining.replace(true) {
                state.wake.notify_one();
            }
            if !state.idle.get() {
                entry.idle_since.set(None);
                continue;
            }
            let Some((now, most)) = idle else { continue };
            let since = entry.idle_since.get().unwrap_or(now);
            entry.idle_since.set(Some(since));
            if now.duration_since(since) >= most {
                ended.extend(entry.task.clone());
            }
        }
        // Outside of the loop: ending a task takes it off the list.
        for task in ended {
            task.abort();
        }
        left
    }

    /// Looks by which rules the connections that carry requests go now, and tells those to end that began
    /// under others. Where who may do what has changed, what is going on has until `until`.
    pub(crate) fn sort_again(&self, until: Instant) {
        let live = self.live();
        for entry in self.connections.borrow().values() {
            live.sort_again(&entry.state, until);
        }
    }

    /// Ends connections whatever they are doing.
    pub(crate) fn abort(&self, whom: Whom<'_>) {
        let live = self.live();
        let ended: Vec<AbortHandle> = self
            .connections
            .borrow()
            .values()
            .filter(|entry| whom.holds(&entry.state, &live))
            .filter_map(|entry| entry.task.clone())
            .collect();
        for task in ended {
            task.abort();
        }
    }
}

impl Registered {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

/// What is known of a caller's connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) remote: SocketAddr,
    /// Whoever connected, whatever a PROXY header says.
    pub(crate) direct: IpAddr,
    pub(crate) local: SocketAddr,
    /// The address that the caller meant, where connections are redirected here.
    pub(crate) meant: Option<SocketAddr>,
    pub(crate) direction: Direction,
    /// mTLS was terminated.
    pub(crate) tls: bool,
    /// What protects it; none where the caller is the application beside.
    pub(crate) link: Option<Link>,
    /// Counts it, once it is known who calls what.
    pub(crate) linked: OnceCell<Linked>,
    /// The caller's proven identity.
    pub(crate) principal: Option<String>,
    /// What `x-forwarded-client-cert` says of the caller.
    pub(crate) client_cert: Option<Vec<u8>>,
    /// Who calls, for telemetry only; learned from the first request.
    pub(crate) peer: Cell<PeerId>,
    pub(crate) server_name: Option<String>,
    /// Filters of the chain that took the connection; [`Live::rules`] says whether they still hold.
    pub(crate) filters: Option<Arc<Filters>>,
    /// What filters keep for this connection.
    pub(crate) own: filter::Own,
    /// How HTTP is spoken with this caller, once it is known to be HTTP.
    pub(crate) http: Option<Arc<HttpTable>>,
    /// Where what comes is logged; where nothing is said, as the proxy was started with.
    pub(crate) log: Option<Arc<LogTable>>,
    /// The certificates that the caller and this proxy have shown each other, where logs tell of them.
    pub(crate) shown: Option<Box<[Option<Arc<Shown>>; 2]>>,
    pub(crate) state: Rc<ConnState>,
}

#[cfg(test)]
impl Conn {
    /// A plain caller on loopback.
    pub(crate) fn testing() -> Self {
        Self {
            remote: ([127, 0, 0, 1], 40000).into(),
            direct: [127, 0, 0, 1].into(),
            local: ([127, 0, 0, 1], 8080).into(),
            meant: None,
            direction: Direction::Outbound,
            tls: false,
            link: None,
            linked: OnceCell::new(),
            principal: None,
            client_cert: None,
            peer: Cell::new(PeerId::default()),
            server_name: None,
            filters: None,
            own: filter::Own::default(),
            http: None,
            log: None,
            shown: None,
            state: Rc::default(),
        }
    }
}

impl Conn {
    /// Whoever connected; of whom a PROXY header speaks has another port.
    pub(crate) fn direct_remote(&self) -> SocketAddr {
        SocketAddr::new(self.direct, self.remote.port())
    }

    pub(crate) fn inbound(&self) -> bool {
        self.direction == Direction::Inbound
    }

    /// How HTTP is spoken with this caller.
    pub(crate) fn http(&self) -> &HttpTable {
        self.http.as_deref().unwrap_or_else(|| HttpTable::usual())
    }

    /// The caller is another proxy of the mesh, in front of this one's application.
    pub(crate) fn by_peer(&self) -> bool {
        self.inbound() && self.principal.is_some()
    }

    /// As guards see it; `remote` is whoever began.
    pub(crate) fn connection(&self, remote: IpAddr) -> rbac::Connection<'_> {
        rbac::Connection {
            principal: self.principal.as_deref(),
            direct: self.direct,
            remote,
            local: self.meant.unwrap_or(self.local),
            server_name: self.server_name.as_deref(),
        }
    }

    /// For a copy of a request: the caller's, but nothing that it could be told by.
    pub(crate) fn shadow(&self) -> Self {
        Self {
            remote: self.remote,
            direct: self.direct,
            local: self.local,
            meant: None,
            direction: self.direction,
            tls: self.tls,
            link: None,
            linked: OnceCell::new(),
            principal: None,
            client_cert: None,
            peer: Cell::new(self.peer.get()),
            server_name: None,
            filters: None,
            own: filter::Own::default(),
            http: self.http.clone(),
            log: None,
            shown: None,
            state: Rc::default(),
        }
    }

    /// Takes note of who calls. Only believed from peers that proved an identity, and even then
    /// only for telemetry.
    pub(crate) fn learn(&self, hint: &[u8], registry: &Registry) {
        let Some(principal) = self.principal.as_deref().filter(|_| self.tls) else {
            return;
        };
        let Ok(text) = std::str::from_utf8(hint) else {
            return;
        };
        if text.len() > 1024 {
            return;
        }
        let mut parts = text.split(';').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let workload = WorkloadRef {
            instance: part(),
            workload: part(),
            namespace: part(),
            service: part(),
            version: part(),
        };
        self.peer
            .set(registry.peer(PeerLabels::new(&workload, principal)));
    }
}

/// What the first request of an mTLS connection says about this workload.
pub(crate) fn introduction(own: &WorkloadRef) -> String {
    let clean = |text: &str| -> String {
        text.chars()
            .filter(|c| c.is_ascii_graphic() && *c != ';')
            .collect()
    };
    [
        &own.instance,
        &own.workload,
        &own.namespace,
        &own.service,
        &own.version,
    ]
    .map(|part| clean(part))
    .join(";")
}
