//! One `up`: the control plane, every pod, and the socket that answers about them.
//!
//! [`Supervisor::start`] makes what can fail at once (addresses, names, namespaces, socket) and
//! brings the rest up in the background; [`Supervisor::wait_ready`] says how that went.
//! [`Supervisor::stop`] leaves nothing behind, and if this process is killed, the guard does.

mod bring_up;
mod daemon;
mod lent;
mod options;
pub(super) mod shared;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::address::{self, Claim, Network};
use super::entry::Enter;
use super::plan::{self, Isolation, Surroundings};
use super::process::Host;
use super::spec::Workload;
use super::state::{self, Ledger, Process, State};
use super::{LocalError, cleanup, client, netns, socket};
use crate::api::local::LocalStatus;
use crate::net::bind_unix;
use crate::rt::Tasks;

pub use daemon::{Daemon, daemonise};
pub use lent::{Mesh, NoMesh};
pub use options::{ControlPlane, INHERITED, Options};
use shared::{Phase, Shared, Slot, open_log};

/// How long the guard may take once there is nothing left to do.
const GUARD: Duration = Duration::from_secs(5);

/// A running `up`. End it with [`Supervisor::run`] or [`Supervisor::stop`]; dropping it stops nothing.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    home: PathBuf,
    ledger: Ledger,
    guard: Child,
    _claim: Claim,
    _lock: Flock<std::fs::File>,
}

impl Supervisor {
    /// Claims addresses, plans the pods, makes namespaces, and starts everything.
    pub async fn start(options: Options, mesh: Arc<dyn Mesh>) -> Result<Self, LocalError> {
        let home = options.home.clone();
        client::recover(&home).await?;
        let dir = state::dir(&home);
        state::private_dir(&dir)?;
        let lock = lock(&home)?;
        let seed = plan::seed(&home);
        let claim = match options.isolation {
            Isolation::Process => address::claim_loopback(seed)?,
            Isolation::Netns => address::claim_bridge(seed)?,
        };
        let instance = format!("{:06x}", fastrand::u32(..1 << 24));
        let own_dir = match options.isolation {
            Isolation::Process => dir.clone(),
            // The sidecars' own user cannot enter the home.
            Isolation::Netns => PathBuf::from(format!("/run/meshctl-{instance}")),
        };
        let listen_ip = claim.network.host();
        let around = Surroundings {
            isolation: options.isolation,
            network: claim.network,
            seed,
            instance: instance.clone(),
            executable: options.executable.clone(),
            pods_dir: own_dir.join("pods"),
            base_env: options.base_env.clone(),
            sidecar_args: options.sidecar_args.clone(),
            control_plane: bring_up::listening(&options.control_plane.address, listen_ip),
            first_free_port: first_free_port(options.isolation),
        };
        // Nothing has been made yet that a wrong manifest would leave behind.
        let pods = match plan::plan(&options.workloads, &around) {
            Ok(pods) => pods,
            Err(error) => {
                cleanup::forget(&home, &instance)?;
                return Err(error.into());
            }
        };
        let ledger = Ledger::create(
            &home,
            State {
                instance: instance.clone(),
                supervisor: own_process()?,
                guard: None,
                processes: Vec::new(),
                namespaces: pods.iter().filter_map(|pod| pod.netns.clone()).collect(),
                bridge: (options.isolation == Isolation::Netns)
                    .then(|| netns::bridge_name(&instance)),
                directories: match options.isolation {
                    Isolation::Process => Vec::new(),
                    Isolation::Netns => vec![own_dir],
                },
                names_dir: false,
            },
        )?;
        let guard = guard(&options.executable, &home, &instance)?;
        let made = async {
            if let Some(guard) = guard.id().and_then(Process::of) {
                ledger.change(|state| state.guard = Some(guard))?;
            }
            let pid = std::process::id().to_string();
            let path = dir.join("supervisor.pid");
            state::write_private(&path, pid.as_bytes()).map_err(LocalError::file(path))?;
            if options.isolation == Isolation::Netns {
                bring_up::namespaces(&pods, claim.network, &instance, &ledger).await?;
            }
            let tasks = Tasks::new();
            let host = Host::new(
                options.executable.clone(),
                instance.clone(),
                ledger.clone(),
                tasks.clone(),
            )
            .map_err(|source| LocalError::Spawn {
                what: "the spawner".to_owned(),
                source,
            })?;
            let control_log = open_log(&dir, "meshctl", "control-plane")?;
            let slots = pods
                .into_iter()
                .map(|pod| Slot::new(pod, &dir))
                .collect::<Result<_, _>>()?;
            let shared = Arc::new(Shared::new(
                instance.clone(),
                options.isolation,
                host,
                slots,
                control_log,
            ));
            let path = state::socket(&home);
            let listener = bind_unix(&path).map_err(LocalError::file(path))?;
            tasks.spawn("local socket", socket::serve(listener, Arc::clone(&shared)));
            Ok(shared)
        }
        .await;
        match made {
            Ok(shared) => {
                bring_up::begin(&shared, options, mesh, listen_ip);
                Ok(Self {
                    shared,
                    home,
                    ledger,
                    guard,
                    _claim: claim,
                    _lock: lock,
                })
            }
            Err(error) => {
                undo(&home, &ledger, guard).await?;
                Err(error)
            }
        }
    }

    /// What is up now.
    pub fn status(&self) -> LocalStatus {
        self.shared.status()
    }

    /// Waits until every pod is ready, at most `deadline`. A control plane that does not come up
    /// is an error at once.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), LocalError> {
        let shared = &self.shared;
        let ready = async {
            let mut phase = shared.phase.subscribe();
            // An error means that bring-up ended without a word, which it never does.
            let _gone = phase
                .wait_for(|phase| *phase != Phase::Starting)
                .await
                .is_err();
            if let Some(error) = shared.take_failure() {
                return Err(error);
            }
            for slot in &shared.slots {
                slot.ready().await;
            }
            Ok(())
        };
        tokio::time::timeout(deadline, ready)
            .await
            .unwrap_or_else(|_| {
                Err(LocalError::NotReady {
                    seconds: deadline.as_secs(),
                    pods: shared.not_ready(),
                })
            })
    }

    /// Looks after everything until `stop` resolves or `meshctl down` asks, then stops.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), LocalError> {
        tokio::select! {
            () = stop => {}
            () = self.shared.ended() => {}
        }
        self.stop().await
    }

    /// Ends applications, then sidecars, then the control plane, and removes every trace.
    pub async fn stop(self) -> Result<(), LocalError> {
        let shared = &self.shared;
        shared.end();
        bring_up::wait_over(shared).await;
        shared.stop_processes().await;
        shared.tasks().end().await;
        undo(&self.home, &self.ledger, self.guard).await
    }
}

/// Resolves on SIGINT, SIGTERM or SIGHUP.
pub async fn ended_by_signal() {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let mut signals: Vec<_> = kinds
        .into_iter()
        .filter_map(|kind| signal(kind).ok())
        .collect();
    let waits = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(waits).await;
}

fn own_process() -> Result<Process, LocalError> {
    Process::of(std::process::id()).ok_or_else(|| LocalError::File {
        path: "/proc/self/stat".into(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

fn lock(home: &Path) -> Result<Flock<std::fs::File>, LocalError> {
    let path = state::dir(home).join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LocalError::file(path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| LocalError::AlreadyUp(home.to_owned()))
}

/// Waits for our end on a pipe, away from our terminal and our process group.
fn guard(executable: &Path, home: &Path, instance: &str) -> Result<Child, LocalError> {
    let enter = Enter {
        session: true,
        ..Enter::default()
    };
    Command::new(executable)
        .args(enter.arguments())
        .arg(executable)
        .arg("pod-guard")
        .arg(home)
        .arg(instance)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| LocalError::Spawn {
            what: "the guard".to_owned(),
            source,
        })
}

/// Removes what this run has made, and lets the guard go.
async fn undo(home: &Path, ledger: &Ledger, mut guard: Child) -> Result<(), LocalError> {
    let state = ledger.load();
    let home = home.to_owned();
    let undone = Tasks::blocking(move || cleanup::undo(&home, &state))
        .await
        .unwrap_or(Ok(()));
    // The guard reads this as the end. If something is left it tries again, so it is let go last.
    drop(guard.stdin.take());
    if tokio::time::timeout(GUARD, guard.wait()).await.is_err() {
        tracing::warn!("the guard does not end");
    }
    undone
}

/// Root may serve every port; others start at a limit of the kernel's.
/// Whether `workloads` could be run here, without making anything: for words to whoever typed.
pub fn rehearse(workloads: &[Workload], isolation: Isolation) -> Result<(), LocalError> {
    let around = Surroundings {
        isolation,
        network: Network::new(Ipv4Addr::LOCALHOST),
        seed: 0,
        instance: String::new(),
        executable: PathBuf::new(),
        pods_dir: PathBuf::new(),
        base_env: Vec::new(),
        sidecar_args: Vec::new(),
        control_plane: String::new(),
        first_free_port: first_free_port(isolation),
    };
    plan::plan(workloads, &around)?;
    Ok(())
}

fn first_free_port(isolation: Isolation) -> u16 {
    if isolation == Isolation::Netns || nix::unistd::geteuid().is_root() {
        return 0;
    }
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}
