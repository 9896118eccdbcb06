//! From a changed world to every connected client.
//!
//! Owns who is connected, what each was sent and what it said to it. Streams are `ads`'s; what a
//! client gets is decided by the view and its encoding. Changes that come close together are
//! gathered, and each stream works for itself, so a slow client holds up nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::proxies::{Acknowledgement, Outcome, ProxySync, Refusal, Rejection, TypeSync};
use crate::mesh::world::Config;
use crate::mesh::{Client, Instance, Node, SpiffeId, World};
use crate::rt::{Reader, Tasks, UnixMillis, Wall};
use crate::xds::snapshot::Sheet;
use crate::xds::subscription::{Event, Standing};
use crate::xds::{Kind, Snapshot};

use super::attest::Verdict;
use super::serve_tls::PeerIdentity;
use super::views::{Served, Views};
use figures::Figures;

/// Changes are pushed when none came for this long.
const QUIET: Duration = Duration::from_millis(10);
/// But no later than this after the first.
const PATIENCE: Duration = Duration::from_millis(100);
/// Characters that are kept of what a client says its version is.
const MOST_VERSION: usize = 64;
/// Refusals that are remembered.
const MOST_REFUSALS: usize = 64;
/// Clients whose unfinished business is remembered after they went.
const MOST_DEBTORS: usize = 4096;
/// Acknowledged revisions that are remembered of each client.
const MOST_ACKNOWLEDGED: usize = 64;

/// The world at a revision.
#[derive(Debug, Clone)]
pub struct Revised {
    /// Grows with every change.
    pub revision: u64,
    /// What it came to.
    pub world: Arc<World>,
}

/// Encoded secrets by name for a client that gets its certificates from the control plane, given
/// the identity that it proved, if it proved one.
pub type SecretsFn = Arc<dyn Fn(&Node, Option<&SpiffeId>) -> Vec<(String, Vec<u8>)> + Send + Sync>;

/// The mesh's roots as a resource, for clients that keep their own certificates.
pub type RootsFn = Arc<dyn Fn() -> Arc<Sheet> + Send + Sync>;

/// What a client with a proven identity may have of a world.
pub type AdmitFn = Arc<dyn Fn(&World, &Node, &SpiffeId) -> Verdict + Send + Sync>;

/// How clients are served.
pub struct HubOptions {
    /// What they get of a world.
    pub views: Views,
    /// Holds what they say of themselves against what is known.
    pub admit: AdmitFn,
    /// Empty for clients that have their own.
    pub secrets: SecretsFn,
    /// For those.
    pub roots: RootsFn,
    /// The clock.
    pub wall: Wall,
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions").finish_non_exhaustive()
    }
}

/// Connected clients and what they have. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: HubOptions,
    table: Mutex<Table>,
    /// What is pushed now.
    pushed: watch::Sender<Arc<Revised>>,
    /// Counts what clients said.
    progress: watch::Sender<u64>,
    figures: Figures,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Table {
    clients: BTreeMap<u64, Connected>,
    next: u64,
    refusals: VecDeque<Refusal>,
    /// By node id: clusters whose endpoints a stream that ended still owed.
    debts: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Connected {
    node: Node,
    peer: Option<PeerIdentity>,
    /// Of its program, as it says.
    version: String,
    protocol: &'static str,
    since: UnixMillis,
    standing: Vec<Standing>,
    /// The version of the mesh's roots that it has acknowledged.
    roots: Option<Arc<str>>,
    acked: u64,
    /// When which revision was first complete.
    history: VecDeque<(u64, Instant)>,
    times: BTreeMap<Kind, Times>,
}

#[derive(Debug, Default)]
struct Times {
    sent: Option<UnixMillis>,
    acked: Option<UnixMillis>,
    rejected: Option<Rejection>,
}

impl Hub {
    /// Serves `world` and what becomes of it; ends with `tasks`.
    pub fn start(options: HubOptions, world: Reader<Revised>, tasks: &Tasks) -> Self {
        let hub = Self {
            shared: Arc::new(Shared {
                options,
                table: Mutex::default(),
                pushed: watch::Sender::new(world.load()),
                progress: watch::Sender::new(0),
                figures: Figures::new(),
                tasks: tasks.clone(),
            }),
        };
        let pusher = hub.clone();
        tasks.spawn("push", async move { pusher.push(world).await });
        hub
    }

    async fn push(self, mut world: Reader<Revised>) {
        // What was published between `start` and now.
        self.shared.pushed.send_replace(world.load());
        while world.changed().await {
            let since = crate::rt::now();
            let latest = tokio::time::sleep(PATIENCE);
            tokio::pin!(latest);
            loop {
                tokio::select! {
                    alive = world.changed() => if !alive { break },
                    () = tokio::time::sleep(QUIET) => break,
                    () = &mut latest => break,
                }
            }
            let newest = world.load();
            self.shared.figures.revised(newest.revision, since);
            self.shared.pushed.send_replace(newest);
        }
    }

    /// What pushing takes.
    pub(crate) fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    /// Serves `world` at once: who is let in from now on must not be told of an earlier one.
    pub(super) fn catch_up(&self, world: Arc<Revised>) {
        self.shared.pushed.send_replace(world);
    }

    /// Computes everything again though the world stands: secrets were renewed.
    pub fn refresh(&self) {
        self.shared.pushed.send_modify(|_| {});
    }

    /// The revision that is being pushed.
    pub fn revision(&self) -> u64 {
        self.shared.pushed.borrow().revision
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing under this lock leaves the table half changed.
        self.shared
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a client; it is forgotten when the session is dropped.
    pub(crate) fn connect(
        &self,
        node: Node,
        peer: Option<PeerIdentity>,
        protocol: &'static str,
    ) -> Session {
        let proven = peer.as_ref().and_then(|peer| peer.id.clone());
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        let owed = table.debts.remove(&node.id).unwrap_or_default();
        table.clients.insert(
            id,
            Connected {
                node: node.clone(),
                peer,
                protocol,
                version: String::new(),
                since: self.shared.options.wall.millis(),
                standing: Vec::new(),
                roots: None,
                acked: 0,
                history: VecDeque::new(),
                times: BTreeMap::new(),
            },
        );
        drop(table);
        info!(proxy = %node.id, client = client_name(node.client), protocol, "proxy connected");
        Session {
            hub: self.clone(),
            id,
            node,
            proven,
            owed,
            pushed: self.shared.pushed.subscribe(),
            served: None,
            judged: None,
        }
    }

    /// Remembers that a client was turned away.
    pub(crate) fn refuse(&self, proxy: &str, proven: Option<&SpiffeId>, reason: &str) {
        warn!(proxy, reason, "refused a proxy");
        let mut table = self.table();
        if table.refusals.len() == MOST_REFUSALS {
            table.refusals.pop_front();
        }
        table.refusals.push_back(Refusal {
            proxy: proxy.to_owned(),
            identity: proven.map(ToString::to_string),
            reason: reason.to_owned(),
            at_unix_ms: self.shared.options.wall.millis(),
        });
    }

    /// Clients that were turned away, the latest last.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.table().refusals.iter().cloned().collect()
    }

    /// Waits until every client that is connected now took everything up to `revision`, refused
    /// something of it, or went away; at most `deadline`. Latencies count from `since`, when the
    /// change was made.
    pub async fn wait_acked(
        &self,
        revision: u64,
        since: Instant,
        deadline: Duration,
    ) -> Vec<Acknowledgement> {
        let mut progress = self.shared.progress.subscribe();
        let clients: Vec<(u64, String, String)> = self
            .table()
            .clients
            .iter()
            .map(|(id, client)| (*id, client.node.id.clone(), client.node.name.clone()))
            .collect();
        let judge = || -> Vec<Acknowledgement> {
            let table = self.table();
            clients
                .iter()
                .map(|(id, proxy, name)| {
                    let (outcome, latency, reason) = table
                        .clients
                        .get(id)
                        .map_or((Outcome::Disconnected, None, None), |client| {
                            client.outcome(revision)
                        });
                    Acknowledgement {
                        proxy: proxy.clone(),
                        name: name.clone(),
                        outcome,
                        latency_ms: latency.map(|at| millis(at.duration_since(since))),
                        reason,
                    }
                })
                .collect()
        };
        let waiting = async {
            loop {
                let verdict = judge();
                let open = |answer: &Acknowledgement| answer.outcome == Outcome::Pending;
                if !verdict.iter().any(open) || progress.changed().await.is_err() {
                    return verdict;
                }
            }
        };
        match tokio::time::timeout(deadline, waiting).await {
            Ok(verdict) => verdict,
            Err(_) => judge(),
        }
    }
}

impl Connected {
    fn proven(&self) -> Option<&SpiffeId> {
        self.peer.as_ref()?.id.as_ref()
    }

    fn outcome(&self, revision: u64) -> (Outcome, Option<Instant>, Option<String>) {
        let refused = self
            .times
            .values()
            .filter_map(|times| times.rejected.as_ref())
            .find(|rejected| rejected.revision >= revision);
        if let Some(rejected) = refused {
            return (Outcome::Rejected, None, Some(rejected.reason.clone()));
        }
        match self.history.iter().find(|(acked, _)| *acked >= revision) {
            Some((_, at)) => (Outcome::Acknowledged, Some(*at), None),
            None => (Outcome::Pending, None, None),
        }
    }

    fn status(&self, revision: u64) -> ProxySync {
        ProxySync {
            proxy: self.node.id.clone(),
            name: self.node.name.clone(),
            namespace: self.node.namespace.clone(),
            workload: self.node.workload.clone(),
            identity: self.proven().map(ToString::to_string),
            client: client_name(self.node.client).to_owned(),
            version: self.version.clone(),
            protocol: self.protocol.to_owned(),
            connected_since_unix_ms: self.since,
            revision_acked: self.acked,
            synced: self.acked >= revision
                && self.times.values().all(|times| times.rejected.is_none()),
            types: self
                .standing
                .iter()
                .map(|standing| {
                    let times = self.times.get(&standing.kind);
                    TypeSync {
                        kind: standing.kind.short().to_owned(),
                        resources: standing.resources,
                        revision_sent: standing.sent,
                        revision_acked: standing.acked,
                        waiting: standing.waiting,
                        sent_unix_ms: times.and_then(|times| times.sent),
                        acked_unix_ms: times.and_then(|times| times.acked),
                        rejected: times.and_then(|times| times.rejected.clone()),
                    }
                })
                .collect(),
        }
    }
}

fn client_name(client: Client) -> &'static str {
    match client {
        Client::Meshctl => "meshctl",
        Client::Envoy => "envoy",
        Client::Grpc => "grpc",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One stream's place in the table.
#[derive(Debug)]
pub(crate) struct Session {
    hub: Hub,
    id: u64,
    node: Node,
    proven: Option<SpiffeId>,
    /// Clusters whose endpoints the last stream of this client owed.
    pub(crate) owed: BTreeSet<String>,
    /// What is to be served.
    pub(crate) pushed: watch::Receiver<Arc<Revised>>,
    served: Option<Served>,
    judged: Option<Judged>,
}

/// When a client's claims were held against what is known, and what came of it.
#[derive(Debug)]
struct Judged {
    revision: u64,
    config: Arc<Config>,
    instance: Option<Arc<Instance>>,
    secrets: bool,
}

impl Session {
    /// Notes which version of its program the client says that it is.
    pub(crate) fn is_version(&self, version: &str) {
        if let Some(client) = self.hub.table().clients.get_mut(&self.id) {
            client.version = version.chars().take(MOST_VERSION).collect();
        }
    }

    /// Whether this client may have Secrets of `revised`; why it may have nothing at all.
    fn judge(&mut self, revised: &Revised) -> Result<bool, String> {
        // What a caller says of itself is only held against a certificate.
        let Some(proven) = &self.proven else {
            return Ok(false);
        };
        let world = &*revised.world;
        let key = (self.node.namespace.clone(), self.node.name.clone());
        let instance = world.instances.get(&key).cloned();
        // The same revision again is one where something else than the world changed.
        let stands = |judged: &&Judged| {
            judged.revision != revised.revision
                && Arc::ptr_eq(&judged.config, &world.config)
                && judged.instance.as_ref().map(Arc::as_ptr) == instance.as_ref().map(Arc::as_ptr)
        };
        if let Some(judged) = self.judged.as_ref().filter(stands) {
            return Ok(judged.secrets);
        }
        let secrets = match (self.hub.shared.options.admit)(world, &self.node, proven) {
            Verdict::Everything => true,
            Verdict::NoSecrets(reason) => {
                if self.judged.as_ref().is_none_or(|judged| judged.secrets) {
                    self.hub.refuse(&self.node.id, Some(proven), &reason);
                }
                false
            }
            Verdict::Nothing(refused) => {
                let reason = refused.to_string();
                self.hub.refuse(&self.node.id, Some(proven), &reason);
                return Err(reason);
            }
        };
        if self
            .judged
            .as_ref()
            .is_some_and(|judged| judged.secrets != secrets)
        {
            self.served = None;
        }
        self.judged = Some(Judged {
            revision: revised.revision,
            config: Arc::clone(&world.config),
            instance,
            secrets,
        });
        Ok(secrets)
    }

    /// What this client may have of `revised`; why it may have nothing of it.
    pub(crate) fn snapshot(&mut self, revised: &Revised) -> Result<Arc<Snapshot>, String> {
        let secrets = self.judge(revised)?;
        let proved = self.proven.is_some();
        let options = &self.hub.shared.options;
        let views = &options.views;
        let since = crate::rt::now();
        let mut snapshot = views.serve(&revised.world, &self.node, secrets, &mut self.served);
        self.hub.shared.figures.computed(since.elapsed());
        if self.node.client == Client::Envoy {
            for (name, bytes) in (options.secrets)(&self.node, self.proven.as_ref()) {
                snapshot.insert(Kind::Secret, name, bytes);
            }
        } else if self.node.client == Client::Meshctl && proved {
            snapshot.add((options.roots)());
        }
        Ok(Arc::new(snapshot))
    }

    /// Notes that a response of `kind` was sent.
    pub(crate) fn sent(&self, kind: Kind) {
        self.hub.shared.figures.sent(kind);
        let now = self.hub.shared.options.wall.millis();
        self.change(|client| client.times.entry(kind).or_default().sent = Some(now));
    }

    /// Notes what the client said and how it stands since.
    pub(crate) fn said(
        &self,
        events: Vec<Event>,
        standing: Vec<Standing>,
        current: u64,
        roots: Option<Arc<str>>,
    ) {
        let now = self.hub.shared.options.wall.millis();
        let proxy = &self.node.id;
        self.change(|client| {
            for event in events {
                match event {
                    Event::Acked(kind) => {
                        let times = client.times.entry(kind).or_default();
                        times.acked = Some(now);
                        times.rejected = None;
                    }
                    Event::Nacked {
                        kind,
                        reason,
                        resources,
                    } => {
                        self.hub.shared.figures.rejected(kind);
                        warn!(%proxy, kind = kind.short(), %reason, "proxy refused its configuration");
                        client.times.entry(kind).or_default().rejected = Some(Rejection {
                            reason,
                            resources,
                            at_unix_ms: now,
                            revision: current,
                        });
                    }
                    Event::Unknown(type_url) => {
                        info!(%proxy, type_url, "proxy asked for a type that is not served");
                    }
                }
            }
            // A client that has not asked for anything has nothing yet.
            let acked = standing.iter().map(|standing| standing.acked).min();
            client.standing = standing;
            client.roots = roots;
            if let Some(acked) = acked.filter(|acked| *acked > client.acked) {
                self.hub.shared.figures.acked(client.acked, acked);
                client.acked = acked;
                if client.history.len() == MOST_ACKNOWLEDGED {
                    client.history.pop_front();
                }
                client.history.push_back((acked, crate::rt::now()));
            }
        });
        self.hub.shared.progress.send_modify(|count| *count += 1);
    }

    /// Notes what this stream leaves to the next.
    pub(crate) fn leave(&self, unfinished: BTreeSet<String>) {
        if unfinished.is_empty() {
            return;
        }
        let mut table = self.hub.table();
        if table.debts.len() >= MOST_DEBTORS {
            table.debts.pop_first();
        }
        table.debts.insert(self.node.id.clone(), unfinished);
    }

    fn change(&self, change: impl FnOnce(&mut Connected)) {
        if let Some(client) = self.hub.table().clients.get_mut(&self.id) {
            change(client);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.table().clients.remove(&self.id);
        self.hub.shared.progress.send_modify(|count| *count += 1);
        info!(proxy = %self.node.id, "proxy disconnected");
    }
}

mod clients;
pub(super) mod figures;
#[cfg(test)]
mod tests;
