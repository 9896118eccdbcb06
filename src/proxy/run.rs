//! The control thread: configuration in, workers told, signals out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::mesh::View;
use crate::mesh::listener::Direction;
use crate::rt::{self, DrainSignal, Published, Reader, Tasks, memory};
use crate::telemetry::Registry;
use crate::tls::Material;

use super::access_log::LogSink;
use super::admin::{self, Admin, Ask};
use super::context::Shared;
use super::handover::{self, Event, Giver, Passed, Restart, Role, Taken};
use super::listening::{Open, sockets, tuning};
use super::options::Options;
use super::retired::Retired;
use super::tables::Tables;
use super::tls::Identity;
use super::worker::{self, Command, Handle, Update};
use super::{credentials, health, overload, resolve};

/// A listener that could not be opened is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Waits, one after the other, until a start is over: listeners are open; identity, configuration and
/// registration are there. What ran for them need not stay in memory.
const STARTED: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// Why a proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} for {name}")]
    Bind {
        /// The listener, or what else the address is for.
        name: String,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log")]
    AccessLog(#[source] io::Error),
    /// The socket of hot restarts cannot be listened on.
    #[error("cannot listen on {}", socket.display())]
    Restart {
        /// Where.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl ProxyError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind {
                address, source, ..
            } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another process listens on port {}: stop it, or choose another port",
                address.port()
            )),
            Self::Restart { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "a proxy runs with this directory: --hot-restart takes over from it".to_owned(),
            ),
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 need root".to_owned())
            }
            _ => None,
        }
    }
}

/// Runs a proxy by what `views` says, with the identity that `identities` says, until `shutdown`;
/// then lets what is under way end for at most `options.drain`. An address in use when the first
/// listeners are opened is an error; later ones are reported and tried again.
pub async fn run(
    options: Options,
    views: Reader<View>,
    identities: Reader<Option<Arc<Material>>>,
    shutdown: DrainSignal,
) -> Result<(), ProxyError> {
    let registry = Arc::new(Registry::new(&options.cluster_id));
    run_with(options, registry, (views, identities), shutdown).await
}

/// As [`run`], counting into a registry of the caller's, who may push it (see [`super::push`]).
pub async fn run_with(
    options: Options,
    registry: Arc<Registry>,
    readers: (Reader<View>, Reader<Option<Arc<Material>>>),
    shutdown: DrainSignal,
) -> Result<(), ProxyError> {
    run_after(options, registry, readers, shutdown, None).await
}

/// As [`run_with`], as part of a row of processes that take over each other's sockets: with those of
/// the one before, and ready to pass them on to the one after. When that has taken over, this one
/// drains and returns.
pub async fn run_after(
    options: Options,
    registry: Arc<Registry>,
    (views, mut identities): (Reader<View>, Reader<Option<Arc<Material>>>),
    mut shutdown: DrainSignal,
    mut restart: Option<Restart>,
) -> Result<(), ProxyError> {
    let log = match &options.access_log {
        Some(log) => {
            Some(LogSink::start(log.format, log.path.as_deref()).map_err(ProxyError::AccessLog)?)
        }
        None => None,
    };
    let workers = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let (drain, delay) = (options.drain, options.drain_delay);
    let mut giver = match restart.as_mut().map(Giver::new).transpose() {
        Ok(giver) => giver,
        Err(source) => {
            let socket = restart.as_ref().map(|restart| restart.socket.clone());
            let error = ProxyError::Restart {
                socket: socket.unwrap_or_default(),
                source,
            };
            if error.hint().is_some() {
                return Err(error);
            }
            // Such as a path that is too long for a socket: it serves all the same.
            tracing::warn!(%error, "no other process will be able to take over");
            None
        }
    };
    let shared = Arc::new(Shared::new(options, registry, log));
    let mut control = Control::new(Arc::clone(&shared), workers)?;
    control.taken = restart.as_mut().and_then(|restart| restart.taken.take());
    let (asks, mut asked) = mpsc::unbounded_channel();
    let admin = Arc::new(Admin {
        shared: Arc::clone(&shared),
        tables: control.tables.reader(),
        identities: identities.clone(),
        stats: control
            .workers
            .iter()
            .map(|worker| Arc::clone(&worker.stats))
            .collect(),
        ready: Arc::clone(&control.ready),
        asks,
        quit: Notify::new(),
    });
    let tasks = Tasks::new();
    let views = credentials::stage(views, &tasks);
    let mut views = resolve::stage(views, shared.options.name_servers.clone(), &tasks);
    tasks.spawn("overload", overload::watch(Arc::clone(&shared)));
    let endpoints = Tasks::new();
    let admin_sockets = admin::start(&admin, &endpoints, control.taken.as_mut())?;
    let reviews = health::review::run(Arc::clone(&shared), control.tables.reader());
    tasks.spawn("outlier-reviews", reviews);
    let checks = health::checks::run(
        Arc::clone(&shared),
        control.tables.reader(),
        identities.clone(),
        tasks.clone(),
    );
    tasks.spawn("health-checks", checks);
    tasks.spawn("memory", async {
        for started in STARTED {
            tokio::time::sleep(started).await;
            memory::release_code();
        }
    });

    control.identify(identities.load().as_ref().clone());
    control.apply(&views.load())?;
    let mut views_go_on = true;
    let mut identities_go_on = true;
    let mut close_at = None;
    let replaced = loop {
        control.announce().await;
        tokio::select! {
            () = shutdown.wait() => break None,
            () = admin.quit.notified() => break None,
            Some(ask) = asked.recv() => match ask {
                Ask::Close { inbound_only } => control.stop_listening(inbound_only),
                Ask::Drain { inbound_only } => {
                    control.ease(inbound_only);
                    close_at = Some((rt::now() + drain, inbound_only));
                }
            },
            () = until(close_at) => {
                if let Some((_, inbound_only)) = close_at.take() {
                    control.stop_listening(inbound_only);
                }
            }
            event = next(&mut giver) => match (event, &mut giver) {
                (Event::Asked(stream), Some(giver)) => {
                    let more = restart.as_ref().map_or(&[][..], |restart| &restart.more);
                    giver.give(stream, &control.sockets(&admin_sockets, more)).await;
                }
                (Event::Ready(stream), _) => break Some(stream),
                (Event::Asked(_), None) => {}
            },
            changed = views.changed(), if views_go_on => {
                views_go_on = changed;
                if changed {
                    control.apply(&views.load())?;
                }
            }
            changed = identities.changed(), if identities_go_on => {
                identities_go_on = changed;
                if changed {
                    control.identify(identities.load().as_ref().clone());
                    control.listen()?;
                }
            }
            () = control.rebalance() => {}
            () = tokio::time::sleep(TRY_AGAIN), if control.incomplete() => {
                control.listen()?;
            }
            () = control.retired.look() => {}
            () = shared.health_changed.notified() => control.follow_health()?,
            () = tokio::time::sleep_until(control.warm_by.unwrap_or_else(rt::now)),
                if control.warm_by.is_some() => control.warm()?,
        }
    };
    control.ready.store(false, Ordering::Relaxed);
    if let Some(stream) = replaced {
        tracing::info!("another process has taken over; draining");
        // All that could still take what is for the other process.
        control.let_go();
        drop((admin_sockets, giver));
        endpoints.end().await;
        handover::going(&stream).await;
        if let Some(restart) = &restart {
            restart.replaced.cancel();
        }
    } else if !delay.is_zero() {
        control.ease(false);
        tokio::time::sleep(delay).await;
    }
    control.drain(drain).await;
    endpoints.end().await;
    tasks.end().await;
    if let Some(Restart {
        socket, replaced, ..
    }) = &restart
        && !replaced.is_cancelled()
    {
        // One that is left over is replaced at the next start.
        let _gone = std::fs::remove_file(socket).is_ok();
    }
    if let Some(log) = &shared.log {
        log.flush();
    }
    Ok(())
}

/// What happens next at the socket of hot restarts; never without one.
async fn next(giver: &mut Option<Giver>) -> Event {
    match giver {
        Some(giver) => giver.next().await,
        None => std::future::pending().await,
    }
}

async fn until(close_at: Option<(Instant, bool)>) {
    match close_at {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Control {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    tables: Published<Tables>,
    identity: Option<Arc<Identity>>,
    generation: u64,
    /// Listeners that are open.
    open: BTreeMap<String, Open>,
    /// Sockets of the process before this one, until this one serves.
    taken: Option<Taken>,
    /// Listeners were opened before: a failure is not fatal any more.
    began: bool,
    draining: bool,
    ready: Arc<AtomicBool>,
    /// The first listeners wait for the first results of health checks, until then at most.
    warm_by: Option<Instant>,
    /// Earlier tables, which requests may still use.
    retired: Retired,
}

impl Control {
    fn new(shared: Arc<Shared>, workers: usize) -> Result<Self, ProxyError> {
        let tables = Published::new(Tables::empty(shared.surroundings()));
        let first = Update {
            tables: tables.load(),
            identity: None,
        };
        let workers = (0..workers)
            .map(|number| worker::start(number, Arc::clone(&shared), first.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shared,
            workers,
            tables,
            identity: None,
            generation: 0,
            open: BTreeMap::new(),
            taken: None,
            began: false,
            draining: false,
            ready: Arc::default(),
            warm_by: None,
            retired: Retired::default(),
        })
    }

    fn tell(&self, make: impl Fn() -> Command) {
        for worker in &self.workers {
            // Fails only when the worker is gone, which its panic has reported.
            let _told = worker.commands.send(make());
        }
    }

    fn update(&self) {
        let update = Update {
            tables: self.tables.load(),
            identity: self.identity.clone(),
        };
        self.tell(|| Command::Update(update.clone()));
    }

    fn identify(&mut self, material: Option<Arc<Material>>) {
        self.generation += 1;
        self.identity = material.map(|material| Arc::new(Identity::new(material, self.generation)));
        self.update();
    }

    fn apply(&mut self, view: &Arc<View>) -> Result<(), ProxyError> {
        let before = self.tables.load();
        let next = Tables::build(view, &before, &self.shared.registry);
        self.tables.publish(next);
        self.retired.push(before);
        // Workers know the listener before its first connection comes.
        self.update();
        if !self.began && !view.listeners.is_empty() {
            let longest = health::first_round(&self.tables.load());
            self.warm_by = longest.map(|longest| rt::now() + longest);
        }
        if self.warm_by.is_some() {
            return Ok(());
        }
        self.open()
    }

    /// Opens the first listeners, whatever is known of endpoints.
    fn warm(&mut self) -> Result<(), ProxyError> {
        self.warm_by = None;
        self.open()
    }

    fn open(&mut self) -> Result<(), ProxyError> {
        self.listen()?;
        if self.began {
            self.ready.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until the health of an endpoint changes, or shares change by themselves, and works the
    /// choices out again.
    async fn rebalance(&self) {
        let tables = self.tables.load();
        let surroundings = &tables.surroundings;
        let wait = tables
            .wake_at()
            .map(|at| Duration::from_millis(at.saturating_sub(surroundings.millis())));
        tokio::select! {
            () = surroundings.changed.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
        }
        tables.refresh();
    }

    /// Acts on what health checks have found.
    fn follow_health(&mut self) -> Result<(), ProxyError> {
        let tables = self.tables.load();
        if self.warm_by.is_some() && health::first_round(&tables).is_none() {
            self.warm()?;
        }
        if tables.clusters.iter().any(|cluster| cluster.has_lost()) {
            let view = Arc::clone(&tables.view);
            return self.apply(&view);
        }
        if health::closes_connections(&tables) {
            self.update();
        }
        Ok(())
    }

    fn incomplete(&self) -> bool {
        self.warm_by.is_none()
            && !self.draining
            && self.open.len() < self.tables.load().listeners.len()
    }

    /// Whether connections could be served: TLS needs an identity.
    fn can_serve(&self) -> bool {
        let tables = self.tables.load();
        let tls = tables.listeners.values().any(|listener| {
            let config = &listener.config;
            let mut chains = config.chains.iter().chain(&config.default_chain);
            chains.any(|chain| chain.tls.is_some())
        });
        !tls || self.identity.is_some()
    }

    /// Opens what is to be open and closes what is not.
    fn listen(&mut self) -> Result<(), ProxyError> {
        // Until then, the process before this one serves.
        if self.draining || (self.taken.is_some() && !self.can_serve()) {
            return Ok(());
        }
        let tables = self.tables.load();
        let gone: Vec<String> = self
            .open
            .iter()
            .filter(|(name, open)| {
                tables
                    .listeners
                    .get(*name)
                    .is_none_or(|listener| listener.config.bind != open.address)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.close(&name);
        }
        for (name, listener) in &tables.listeners {
            let (address, tuning) = (listener.config.bind, tuning(&listener.config.options));
            if let Some(open) = self.open.get_mut(name) {
                if open.tuning != tuning {
                    open.tuning = tuning;
                    open.tune();
                }
                continue;
            }
            let taken = self
                .taken
                .as_mut()
                .map(|taken| taken.listener(name, address))
                .unwrap_or_default();
            match sockets(address, tuning, taken, self.workers.len()) {
                Ok(sockets) => {
                    let mut kept = Vec::new();
                    let mut workers = self.workers.iter().cycle();
                    for socket in sockets {
                        // Without its twin a socket cannot be passed on; it works all the same.
                        kept.extend(socket.try_clone());
                        if let Some(worker) = workers.next() {
                            let listen = Command::Listen(name.clone(), socket);
                            // Fails only when the worker is gone, which its panic has reported.
                            let _told = worker.commands.send(listen);
                        }
                    }
                    let open = Open {
                        address,
                        tuning,
                        sockets: kept,
                    };
                    self.open.insert(name.clone(), open);
                }
                Err(source) => {
                    let cause = source.to_string();
                    let error = ProxyError::Bind {
                        name: name.clone(),
                        address,
                        source,
                    };
                    if !self.began {
                        return Err(error);
                    }
                    tracing::error!(%error, cause, "listener is closed; will try again");
                }
            }
        }
        self.began |= !tables.listeners.is_empty();
        Ok(())
    }

    fn close(&mut self, name: &str) {
        // Our own hold of the sockets goes first, so that the worker's is the last.
        if self.open.remove(name).is_some() {
            self.tell(|| Command::Unlisten(name.to_owned()));
        }
    }

    /// Tells the process before this one to drain, once everything is open here.
    async fn announce(&mut self) {
        let serving = !self.open.is_empty() && !self.incomplete();
        let Some(taken) = self.taken.take_if(|_| serving) else {
            return;
        };
        match taken.ready().await {
            Ok(()) => tracing::info!("took over from the process before"),
            Err(error) => tracing::warn!(%error, "the process before did not answer"),
        }
    }

    /// Everything that the next process needs.
    fn sockets(&self, admin: &[(SocketAddr, OwnedFd)], more: &[Passed]) -> Vec<Passed> {
        let listeners = self.open.iter().flat_map(|(name, open)| {
            open.sockets.iter().map(|socket| {
                let role = Role::Listener { name: name.clone() };
                (role, Some(open.address), socket.as_fd())
            })
        });
        let admin = admin
            .iter()
            .map(|(address, socket)| (Role::Admin, Some(*address), socket.as_fd()));
        let more = more
            .iter()
            .map(|more| (more.role.clone(), more.address, more.socket.as_fd()));
        listeners
            .chain(admin)
            .chain(more)
            .filter_map(|(role, address, socket)| {
                Some(Passed {
                    role,
                    address,
                    socket: socket.try_clone_to_owned().ok()?,
                })
            })
            .collect()
    }

    fn inbound(&self, name: &str) -> bool {
        let tables = self.tables.load();
        let listener = tables.listeners.get(name);
        listener.is_some_and(|listener| listener.config.direction == Direction::Inbound)
    }

    /// Closes listeners, or only those of calls to the application.
    fn stop_listening(&mut self, inbound_only: bool) {
        self.draining = true;
        for name in self.open.keys().cloned().collect::<Vec<_>>() {
            if !inbound_only || self.inbound(&name) {
                self.close(&name);
            }
        }
    }

    /// Has connections end after what they are doing, while more are still taken.
    fn ease(&self, inbound_only: bool) {
        for name in self.open.keys() {
            if !inbound_only || self.inbound(name) {
                self.tell(|| Command::Ease(name.clone()));
            }
        }
    }

    /// Leaves the listening sockets to another process, which has them too.
    fn let_go(&mut self) {
        self.draining = true;
        self.open.clear();
        self.tell(|| Command::LetGo);
    }

    async fn drain(&mut self, limit: Duration) {
        self.draining = true;
        self.open.clear();
        let mut waiting = Vec::new();
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            if worker.commands.send(Command::Drain(limit, done)).is_ok() {
                waiting.push(wait);
            }
        }
        for wait in waiting {
            // An error means that the worker is gone, and with it everything to wait for.
            let _ended = wait.await;
        }
    }
}
