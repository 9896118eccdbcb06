//! The control thread: configuration in, workers told, signals out.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::mesh::View;
use crate::rt::{self, DrainSignal, Reader, Tasks, memory};
use crate::telemetry::Registry;
use crate::tls::Material;

use super::access_log::{Started, Writers, deliver};
use super::admin::{self, Admin, Ask};
use super::context::Shared;
use super::control::Control;
use super::handover::{self, Event, Giver, Restart};
use super::options::Options;
use super::{credentials, health, overload, resolve, trace};

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
    /// The administration endpoint would be open to other machines.
    #[error(
        "{address} is not on loopback, and who reaches the administration endpoint can end the proxy"
    )]
    OpenAdmin {
        /// The address asked for.
        address: SocketAddr,
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
            Self::OpenAdmin { .. } => Some(
                "have it on an address of 127.0.0.0/8 or on ::1; health and metrics have addresses of their own"
                    .to_owned(),
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
            let started = Started::new(&options.logs, log.format, log.path.as_deref());
            Some(started.map_err(ProxyError::AccessLog)?)
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
    let tasks = Tasks::new();
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
        tasks: tasks.clone(),
    });
    let views = credentials::stage(views, &tasks);
    let mut views = resolve::stage(views, shared.options.name_servers.clone(), &tasks);
    tasks.spawn("reopen-logs", reopen_logs(Arc::clone(&shared.options.logs)));
    tasks.spawn("overload", overload::watch(Arc::clone(&shared)));
    let endpoints = Tasks::new();
    let admin_sockets = admin::start(&admin, &endpoints, control.taken.as_mut())?;
    health::numbers::tell(&shared, control.tables.reader());
    let reviews = health::review::run(Arc::clone(&shared), control.tables.reader());
    tasks.spawn("outlier-reviews", reviews);
    let checks = health::checks::run(
        Arc::clone(&shared),
        control.tables.reader(),
        identities.clone(),
        tasks.clone(),
    );
    tasks.spawn("health-checks", checks);
    let spans = trace::deliver::start(&shared, control.tables.reader(), identities.clone(), &tasks);
    let logs = deliver::start(&shared, control.tables.reader(), identities.clone(), &tasks);
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
    tokio::join!(trace::deliver::flush(&spans), logs.flush());
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
    shared.options.logs.flush();
    Ok(())
}

/// Opens files of logs again whenever SIGUSR1 says so.
async fn reopen_logs(logs: Arc<Writers>) {
    let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1());
    let mut signal = match signal {
        Ok(signal) => signal,
        Err(error) => {
            tracing::warn!(%error, "SIGUSR1 is not listened for; POST /reopen_logs does the same");
            return;
        }
    };
    while signal.recv().await.is_some() {
        logs.reopen();
    }
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
