//! The control thread: configuration in, workers told, signals out.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::mesh::View;
use crate::net::{self, BindOptions};
use crate::rt::{self, DrainSignal, Published, Reader, Tasks, memory};
use crate::telemetry::Registry;
use crate::tls::Material;

use super::access_log::LogSink;
use super::admin::{self, Admin};
use super::context::Shared;
use super::health;
use super::options::Options;
use super::tables::Tables;
use super::tls::Identity;
use super::worker::{self, Command, Handle, Update};

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
    (mut views, mut identities): (Reader<View>, Reader<Option<Arc<Material>>>),
    mut shutdown: DrainSignal,
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
    let drain = options.drain;
    let shared = Arc::new(Shared::new(options, registry, log));
    let mut control = Control::new(Arc::clone(&shared), workers)?;
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
        drain: Notify::new(),
        quit: Notify::new(),
    });
    let tasks = Tasks::new();
    admin::start(&admin, &tasks)?;
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
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            () = admin.quit.notified() => break,
            () = admin.drain.notified() => control.stop_listening(),
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
                }
            }
            () = tokio::time::sleep(TRY_AGAIN), if control.incomplete() => {
                control.listen()?;
            }
            () = shared.health_changed.notified() => control.follow_health()?,
            () = tokio::time::sleep_until(control.warm_by.unwrap_or_else(rt::now)),
                if control.warm_by.is_some() => control.warm()?,
        }
    }
    control.drain(drain).await;
    tasks.end().await;
    if let Some(log) = &shared.log {
        log.flush();
    }
    Ok(())
}

struct Control {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    tables: Published<Tables>,
    identity: Option<Arc<Identity>>,
    generation: u64,
    /// Listeners that are open, with their address.
    open: BTreeMap<String, SocketAddr>,
    /// Listeners were opened before: a failure is not fatal any more.
    began: bool,
    draining: bool,
    ready: Arc<AtomicBool>,
    /// The first listeners wait for the first results of health checks, until then at most.
    warm_by: Option<Instant>,
}

impl Control {
    fn new(shared: Arc<Shared>, workers: usize) -> Result<Self, ProxyError> {
        let tables = Published::new(Tables::default());
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
            began: false,
            draining: false,
            ready: Arc::default(),
            warm_by: None,
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
        let next = Tables::build(view, &self.tables.load(), &self.shared.registry);
        self.tables.publish(next);
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

    /// Acts on what health checks have found.
    fn follow_health(&mut self) -> Result<(), ProxyError> {
        let tables = self.tables.load();
        if self.warm_by.is_some() && health::first_round(&tables).is_none() {
            self.warm()?;
        }
        Ok(())
    }

    fn incomplete(&self) -> bool {
        self.warm_by.is_none()
            && !self.draining
            && self.open.len() < self.tables.load().listeners.len()
    }

    /// Opens what is to be open and closes what is not.
    fn listen(&mut self) -> Result<(), ProxyError> {
        if self.draining {
            return Ok(());
        }
        let tables = self.tables.load();
        let gone: Vec<String> = self
            .open
            .iter()
            .filter(|(name, address)| {
                tables
                    .listeners
                    .get(*name)
                    .is_none_or(|listener| listener.config.bind != **address)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.open.remove(&name);
            self.tell(|| Command::Unlisten(name.clone()));
        }
        for (name, listener) in &tables.listeners {
            if self.open.contains_key(name) {
                continue;
            }
            let address = listener.config.bind;
            match sockets(address, self.workers.len()) {
                Ok(sockets) => {
                    for (worker, socket) in self.workers.iter().zip(sockets) {
                        // Fails only when the worker is gone, which its panic has reported.
                        let _told = worker.commands.send(Command::Listen(name.clone(), socket));
                    }
                    self.open.insert(name.clone(), address);
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

    fn stop_listening(&mut self) {
        self.draining = true;
        for name in std::mem::take(&mut self.open).into_keys() {
            self.tell(|| Command::Unlisten(name.clone()));
        }
    }

    async fn drain(&mut self, limit: Duration) {
        self.draining = true;
        self.ready.store(false, Ordering::Relaxed);
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

/// A socket for each worker. The address is first tried alone: sharing a port is for the threads
/// of one proxy, never for two proxies.
fn sockets(address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    drop(net::bind(address, BindOptions::default())?);
    let options = BindOptions {
        reuse_port: true,
        ..BindOptions::default()
    };
    (0..count)
        .map(|_| net::bind(address, options)?.into_std())
        .collect()
}
