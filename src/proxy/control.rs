//! What the control thread of a proxy does: builds tables from a view, hands them to workers, and opens and closes
//! listeners to match.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::mesh::View;
use crate::mesh::listener::Direction;
use crate::rt::{self, Published};
use crate::tls::Material;

use super::context::Shared;
use super::handover::{Passed, Role, Taken};
use super::health;
use super::listening::{Open, sockets, tuning};
use super::retired::Retired;
use super::run::ProxyError;
use super::tables::Tables;
use super::tls::Identity;
use super::worker::{self, Command, Handle, InForce, Update};

/// The control thread's side of a running proxy.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Vec<Handle>,
    pub(super) tables: Published<Tables>,
    identity: Option<Arc<Identity>>,
    generation: u64,
    /// Listeners that are open.
    open: BTreeMap<String, Open>,
    /// Sockets of the process before this one, until this one serves.
    pub(super) taken: Option<Taken>,
    /// Listeners were opened before: a failure is not fatal any more.
    began: bool,
    /// It is known that there is nothing to listen for, as at a gateway that no Gateway selects yet.
    idle: bool,
    draining: bool,
    pub(super) ready: Arc<AtomicBool>,
    /// The first listeners wait for the first results of health checks, until then at most.
    pub(super) warm_by: Option<Instant>,
    /// Earlier tables, which requests may still use.
    pub(super) retired: Retired,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, workers: usize) -> Result<Self, ProxyError> {
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
            idle: false,
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

    pub(super) fn identify(&mut self, material: Option<Arc<Material>>) {
        self.generation += 1;
        self.identity = material.map(|material| Arc::new(Identity::new(material, self.generation)));
        self.update();
    }

    pub(super) fn apply(&mut self, view: &Arc<View>) -> Result<(), ProxyError> {
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
        self.idle = view.revision.0 > 0 && view.listeners.is_empty();
        if self.warm_by.is_none() {
            self.open()?;
        }
        let taken = Arc::new(InForce {
            revision: view.revision.0,
            tell: self.shared.options.in_force.clone(),
        });
        self.tell(|| Command::Took(Arc::clone(&taken)));
        Ok(())
    }

    /// Opens the first listeners, whatever is known of endpoints.
    pub(super) fn warm(&mut self) -> Result<(), ProxyError> {
        self.warm_by = None;
        self.open()
    }

    fn open(&mut self) -> Result<(), ProxyError> {
        self.listen()?;
        if self.began || self.idle {
            self.ready.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until the health of an endpoint changes, or shares change by themselves, and works the
    /// choices out again.
    pub(super) async fn rebalance(&self) {
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
    pub(super) fn follow_health(&mut self) -> Result<(), ProxyError> {
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

    pub(super) fn incomplete(&self) -> bool {
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
    pub(super) fn listen(&mut self) -> Result<(), ProxyError> {
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
    pub(super) async fn announce(&mut self) {
        let serving = (self.idle || !self.open.is_empty()) && !self.incomplete();
        let Some(taken) = self.taken.take_if(|_| serving) else {
            return;
        };
        match taken.ready().await {
            Ok(()) => tracing::info!("took over from the process before"),
            Err(error) => tracing::warn!(%error, "the process before did not answer"),
        }
    }

    /// Everything that the next process needs.
    pub(super) fn sockets(&self, admin: &[(SocketAddr, OwnedFd)], more: &[Passed]) -> Vec<Passed> {
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
    pub(super) fn stop_listening(&mut self, inbound_only: bool) {
        self.draining = true;
        for name in self.open.keys().cloned().collect::<Vec<_>>() {
            if !inbound_only || self.inbound(&name) {
                self.close(&name);
            }
        }
    }

    /// Has connections end after what they are doing, while more are still taken.
    pub(super) fn ease(&self, inbound_only: bool) {
        for name in self.open.keys() {
            if !inbound_only || self.inbound(name) {
                self.tell(|| Command::Ease(name.clone()));
            }
        }
    }

    /// Leaves the listening sockets to another process, which has them too.
    pub(super) fn let_go(&mut self) {
        self.draining = true;
        self.open.clear();
        self.tell(|| Command::LetGo);
    }

    pub(super) async fn drain(&mut self, limit: Duration) {
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
