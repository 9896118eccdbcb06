//! One thread of the data path: its own runtime, listeners and pools.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::{net, rt};

use super::balance::smooth;
use super::context::{Live, Shared, Whom, Worker};
use super::{ProxyError, accept, overload};
use super::{buffer, http};

/// How often pools and buffers are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// When no connection can be accepted, it is tried again after this long.
const SHORT_OF_FILES: Duration = Duration::from_millis(10);
/// How often the end of a drain is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// A connection that is idle for this long in a drain is closed. Those on which requests come more
/// often end with an answer that says so, and no request meets a close.
const STILL: Duration = Duration::from_millis(500);

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Another version of everything that can change.
    Update(Update),
    /// Everything sent before this is taken: drop it.
    Took(Arc<InForce>),
    /// Accept on this socket for the listener of this name.
    Listen(String, StdListener),
    /// Accept no more for this listener, and let its connections end.
    Unlisten(String),
    /// Let the connections of this listener end, and those that still come.
    Ease(String),
    /// Accept no more: another process does, on the same sockets.
    LetGo,
    /// Accept no more at all, let everything end within a time, and say when.
    Drain(Duration, oneshot::Sender<()>),
}

/// What a worker's [`Live`] is made from.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) tables: Arc<super::tables::Tables>,
    pub(crate) identity: Option<Arc<super::tls::Identity>>,
}

/// A view that workers are taking over; when the last of them has, it is in force.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) revision: u64,
    pub(crate) tell: watch::Sender<u64>,
}

impl Drop for InForce {
    fn drop(&mut self) {
        self.tell.send_if_modified(|told| {
            let news = *told < self.revision;
            *told = self.revision.max(*told);
            news
        });
    }
}

/// What a worker says about itself.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Connections of callers now.
    pub(crate) connections: AtomicU64,
    /// Connections of callers ever.
    pub(crate) accepted: AtomicU64,
    /// Idle connections to endpoints now.
    pub(crate) pooled: AtomicU64,
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) stats: Arc<Stats>,
}

/// Starts worker `number`. It ends when its handle is dropped.
pub(crate) fn start(
    number: usize,
    shared: Arc<Shared>,
    first: Update,
) -> Result<Handle, ProxyError> {
    let (commands, told) = mpsc::unbounded_channel();
    let stats = Arc::new(Stats::default());
    let own = Arc::clone(&stats);
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            smooth::enter(number);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(run(shared, first, told, own)),
                Err(error) => tracing::error!(%error, "worker has no runtime"),
            }
        })
        .map_err(ProxyError::Thread)?;
    Ok(Handle { commands, stats })
}

async fn run(
    shared: Arc<Shared>,
    first: Update,
    mut commands: mpsc::UnboundedReceiver<Command>,
    stats: Arc<Stats>,
) {
    let make = |shared: &Shared, update: Update| {
        Live::new(
            update.tables,
            update.identity,
            &shared.options.workload,
            &shared.registry,
        )
    };
    let worker = Worker::new(Arc::clone(&shared), make(&shared, first));
    let mut listening: BTreeMap<String, Vec<AcceptLoop>> = BTreeMap::new();
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = tick.tick() => {
                worker.pools.sweep();
                if worker.open() == 0 {
                    buffer::trim();
                    http::h1::serve::trim();
                }
                note(&worker, &stats);
                continue;
            }
        };
        match command {
            None => return,
            Some(Command::Update(update)) => {
                let before = worker.live();
                if worker.replace(make(&shared, update)) {
                    worker.abort(Whom::ShutOut);
                    // Before another request is read.
                    worker.sort_again(rt::now() + shared.options.drain);
                    let worker = Rc::clone(&worker);
                    tokio::task::spawn_local(async move { renew(&worker).await });
                }
                let revoked = |live: &Live| live.identity.as_ref().map(|own| own.revoked.clone());
                let now = worker.live();
                if !same_identity(&before, &now) && revoked(&before) != revoked(&now) {
                    worker.abort(Whom::Revoked);
                }
            }
            Some(Command::Took(last)) => drop(last),
            Some(Command::Listen(name, socket)) => match TcpListener::from_std(socket) {
                Ok(listener) => {
                    worker.easing.borrow_mut().retain(|eased| *eased != name);
                    let started = AcceptLoop::start(&worker, &name, listener, &stats);
                    listening.entry(name).or_default().push(started);
                }
                Err(error) => tracing::error!(listener = name, %error, "cannot listen"),
            },
            Some(Command::Unlisten(name)) => {
                for accepting in listening.remove(&name).unwrap_or_default() {
                    accepting.stop();
                }
                let (worker, limit) = (Rc::clone(&worker), shared.options.drain);
                tokio::task::spawn_local(
                    async move { drain(&worker, Whom::Of(&name), limit).await },
                );
            }
            Some(Command::Ease(name)) => {
                worker.drain(Whom::Of(&name), None);
                worker.easing.borrow_mut().push(name);
            }
            Some(Command::LetGo) => {
                for accepting in std::mem::take(&mut listening).into_values().flatten() {
                    accepting.leave();
                }
            }
            Some(Command::Drain(limit, done)) => {
                for accepting in std::mem::take(&mut listening).into_values().flatten() {
                    accepting.stop();
                }
                drain(&worker, Whom::All, limit).await;
                note(&worker, &stats);
                // The control thread may have stopped waiting.
                let _told = done.send(());
            }
        }
        note(&worker, &stats);
    }
}

/// Lets connections end, and ends those that have not in time.
async fn drain(worker: &Rc<Worker>, whom: Whom<'_>, limit: Duration) {
    if matches!(whom, Whom::All) {
        worker.draining.set(true);
    }
    ease(worker, whom, limit).await;
    worker.abort(whom);
}

/// Lets callers connect again whose requests are served by rules that are no longer so. What they are
/// doing goes on for as long as they like, unless who may do what has changed: then it ends in a drain's time.
pub(crate) async fn renew(worker: &Rc<Worker>) {
    ease(worker, Whom::Outdated, worker.shared.options.drain).await;
    worker.abort(Whom::Overdue(rt::now()));
}

/// Lets connections end until `limit`, and ends those that are idle.
async fn ease(worker: &Rc<Worker>, whom: Whom<'_>, limit: Duration) {
    let deadline = rt::now() + limit;
    let still = STILL.min(limit / 2);
    // What was just accepted gets to send its request. A connection that came through a handshake
    // meanwhile has not been told yet.
    while worker.drain(whom, Some((rt::now(), still))) > 0 && rt::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

fn same_identity(before: &Live, now: &Live) -> bool {
    match (&before.identity, &now.identity) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
        (before, now) => before.is_none() == now.is_none(),
    }
}

fn note(worker: &Worker, stats: &Stats) {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    stats
        .connections
        .store(count(worker.open()), Ordering::Relaxed);
    stats
        .pooled
        .store(count(worker.pools.count()), Ordering::Relaxed);
}

struct AcceptLoop {
    task: AbortHandle,
    socket: Rc<TcpListener>,
    worker: Rc<Worker>,
    name: Rc<str>,
}

impl AcceptLoop {
    fn start(worker: &Rc<Worker>, name: &str, socket: TcpListener, stats: &Arc<Stats>) -> Self {
        let name: Rc<str> = name.into();
        let socket = Rc::new(socket);
        let task = tokio::task::spawn_local(accept_loop(
            Rc::clone(worker),
            Rc::clone(&name),
            Rc::clone(&socket),
            Arc::clone(stats),
        ));
        Self {
            task: task.abort_handle(),
            socket,
            worker: Rc::clone(worker),
            name,
        }
    }

    /// Leaves what waits to the other process that has the socket.
    fn leave(self) {
        self.task.abort();
    }

    /// Takes what the kernel has accepted already, which closing would reset, and closes.
    fn stop(self) {
        self.task.abort();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Ok((tcp, remote))) = self.socket.poll_accept(&mut cx) {
            begin(&self.worker, &self.name, tcp, remote);
        }
    }
}

async fn accept_loop(
    worker: Rc<Worker>,
    name: Rc<str>,
    socket: Rc<TcpListener>,
    stats: Arc<Stats>,
) {
    let mut short = false;
    loop {
        worker.shared.overload.may_accept().await;
        match poll_fn(|cx| socket.poll_accept(cx)).await {
            Ok((tcp, remote)) => {
                let accepted = stats.accepted.load(Ordering::Relaxed) + 1;
                stats.accepted.store(accepted, Ordering::Relaxed);
                begin(&worker, &name, tcp, remote);
                short = false;
            }
            // A caller that left again: the next one may be there already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // No file or memory left: never a reason to stop, and trying without a pause would only
            // take the time of those who could give some back.
            Err(error) => {
                if !short {
                    tracing::warn!(listener = &*name, %error, "connections are not accepted");
                }
                short = true;
                tokio::time::sleep(SHORT_OF_FILES).await;
            }
        }
    }
}

fn begin(worker: &Rc<Worker>, name: &Rc<str>, tcp: TcpStream, remote: SocketAddr) {
    let Some(counted) = overload::count(&worker.shared) else {
        return;
    };
    let Some(listener) = worker.live().tables.listeners.get(&**name).cloned() else {
        return;
    };
    let registered = worker.register(name);
    let id = registered.id();
    let held = (registered, counted);
    let remote = net::canonical(remote);
    // As it is: around another future it would be kept twice.
    let task = tokio::task::spawn_local(accept::serve(
        Rc::clone(worker),
        listener,
        held,
        tcp,
        remote,
    ));
    worker.attach(id, task.abort_handle());
}
