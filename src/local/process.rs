//! Supervised processes: started, watched, restarted with growing waits, and ended with everything
//! that they have started.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::BufReader;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::entry::Enter;
use super::logs::Log;
use super::probe::{Exec, Probes};
use super::state::{self, Ledger, MARKER, Process};
use crate::api::local::{ContainerState, ContainerStatus};
use crate::rt::{Backoff, Tasks, Wall};

/// The first wait before a restart.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait before a restart. Kubernetes goes up to 5 min, which is long for a laptop.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// After this long up, the next failure counts as the first.
const STABLE: Duration = Duration::from_mins(1);

/// How long what a container left behind may take to end.
const SWEEP: Duration = Duration::from_secs(2);

/// More precise than [`MARKER`]: instance, pod and container.
const CONTAINER_MARKER: &str = "MESHCTL_CONTAINER";

/// Variables that are different for each start, such as a join token, which must not be seen in a
/// list of processes as an argument would be.
pub(super) type Extra =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<(String, String)>> + Send>> + Send + Sync>;

/// What to run.
#[derive(Clone)]
pub(super) struct Spec {
    /// The container's name.
    pub(super) name: String,
    /// Unique in this run: `pod/container`.
    pub(super) id: String,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) enter: Enter,
    pub(super) extra: Option<Extra>,
    pub(super) probes: Probes,
    pub(super) grace: Duration,
}

/// What every process of a run shares.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) executable: PathBuf,
    pub(super) instance: String,
    pub(super) ledger: Ledger,
    pub(super) tasks: Tasks,
    pub(super) wall: Wall,
    spawner: mpsc::Sender<Job>,
}

/// A process and whoever looks after it.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) status: watch::Receiver<ContainerStatus>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Job {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Host {
    /// Call inside the runtime that looks after the processes.
    pub(super) fn new(
        executable: PathBuf,
        instance: String,
        ledger: Ledger,
        tasks: Tasks,
    ) -> io::Result<Self> {
        let (spawner, mut jobs) = mpsc::channel::<Job>(16);
        let runtime = tokio::runtime::Handle::current();
        // A parent-death signal comes when the *thread* that forked ends, so all forks happen on
        // one that lives as long as the supervisor.
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                let _inside = runtime.enter();
                while let Some(mut job) = jobs.blocking_recv() {
                    if let Err(Ok(child)) = job.reply.send(job.command.spawn()) {
                        // Nobody waits for it any more; `kill_on_drop` ends it.
                        drop(child);
                    }
                }
            })?;
        Ok(Self {
            executable,
            instance,
            ledger,
            tasks,
            wall: Wall::System,
            spawner,
        })
    }

    async fn spawn(
        &self,
        spec: &Spec,
        command: &[String],
        more: &[(String, String)],
    ) -> io::Result<Child> {
        let mut enter = spec.enter.clone();
        enter.parent = Some(std::process::id());
        let mut args: Vec<OsString> = enter.arguments();
        args.extend(command.iter().map(OsString::from));
        let mut process = Command::new(&self.executable);
        process
            .args(args)
            .env_clear()
            .envs(spec.env.iter().chain(more).map(|(key, value)| (key, value)))
            .env(MARKER, &self.instance)
            .env(CONTAINER_MARKER, self.mark(spec))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C at the terminal is for the supervisor alone.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(cwd) = &spec.cwd {
            process.current_dir(cwd);
        }
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the supervisor is ending");
        self.spawner
            .send(Job {
                command: process,
                reply,
            })
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    fn mark(&self, spec: &Spec) -> String {
        format!("{}/{}", self.instance, spec.id)
    }

    /// Starts `spec` and keeps it running until [`Supervised::stop`].
    pub(super) fn supervise(&self, spec: Spec, log: Arc<Log>) -> Supervised {
        let (sender, status) = watch::channel(ContainerStatus {
            name: spec.name.clone(),
            state: ContainerState::Pending,
            ready: false,
            pid: None,
            restarts: 0,
            started_unix_ms: None,
            last_exit: None,
        });
        let stop = CancellationToken::new();
        let run = Run {
            host: self.clone(),
            spec,
            log,
            status: sender,
            stop: stop.clone(),
        };
        self.tasks.spawn("container", run.keep_running());
        Supervised { status, stop }
    }
}

impl Supervised {
    /// Asks it to end; [`Supervised::stopped`] waits.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves once it has ended for good.
    pub(super) async fn stopped(&self) {
        let mut status = self.status.clone();
        // An error means that its task is gone, and the process with it.
        let _gone = status
            .wait_for(|status| status.state == ContainerState::Stopped)
            .await
            .is_err();
    }
}

struct Run {
    host: Host,
    spec: Spec,
    log: Arc<Log>,
    status: watch::Sender<ContainerStatus>,
    stop: CancellationToken,
}

impl Run {
    async fn keep_running(self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let begun = crate::rt::now();
            let ended = match self.once().await {
                Ok(ended) => ended,
                Err(error) => format!("cannot start: {error}"),
            };
            if self.stop.is_cancelled() {
                break;
            }
            if begun.elapsed() >= STABLE {
                backoff.reset();
            }
            let wait = backoff.next(fastrand::f64());
            self.log.note(&format!(
                "{ended}; starting again in {:.1} s",
                wait.as_secs_f64()
            ));
            self.status.send_modify(|status| {
                status.state = ContainerState::BackOff;
                status.ready = false;
                status.pid = None;
                status.last_exit = Some(ended);
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => break,
            }
            self.status.send_modify(|status| status.restarts += 1);
        }
        self.status.send_modify(|status| {
            status.state = ContainerState::Stopped;
            status.ready = false;
            status.pid = None;
        });
    }

    /// From start to end; says how it ended.
    async fn once(&self) -> io::Result<String> {
        let mut more = Vec::new();
        if let Some(extra) = &self.spec.extra {
            tokio::select! {
                made = extra() => more = made,
                () = self.stop.cancelled() => return Ok("stopped before it started".to_owned()),
            }
        }
        let command = &self.spec.command;
        let mut child = self.host.spawn(&self.spec, command, &more).await?;
        let pid = child.id().unwrap_or(0);
        let process = Process::of(pid);
        if let Some(process) = process {
            self.host.ledger.started(process);
        }
        let out = child.stdout.take().map(|pipe| self.pump("stdout", pipe));
        let err = child.stderr.take().map(|pipe| self.pump("stderr", pipe));
        self.status.send_modify(|status| {
            status.state = ContainerState::Running;
            status.pid = Some(pid);
            status.started_unix_ms = Some(self.host.wall.millis());
        });
        let ready = |ready| {
            self.status
                .send_if_modified(|status| std::mem::replace(&mut status.ready, ready) != ready);
        };
        let ended = tokio::select! {
            status = child.wait() => describe(status?),
            reason = self.spec.probes.watch(self, ready) => {
                self.log.note(&reason);
                self.end(&mut child, pid).await?;
                reason
            }
            () = self.stop.cancelled() => describe(self.end(&mut child, pid).await?),
        };
        self.sweep().await;
        // Its last words come before ours.
        for pumped in [out, err].into_iter().flatten() {
            let _late = tokio::time::timeout(SWEEP, pumped).await.is_err();
        }
        if let Some(process) = process {
            self.host.ledger.ended(process);
        }
        Ok(ended)
    }

    /// Copies a pipe into the log; the receiver resolves when it is closed and all is written.
    fn pump(
        &self,
        stream: &'static str,
        pipe: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    ) -> oneshot::Receiver<()> {
        let log = Arc::clone(&self.log);
        let (over, pumped) = oneshot::channel::<()>();
        self.host.tasks.spawn("container output", async move {
            log.pump(stream, BufReader::new(pipe)).await;
            drop(over);
        });
        pumped
    }

    /// SIGTERM to the whole group, SIGKILL after the grace.
    async fn end(&self, child: &mut Child, pid: u32) -> io::Result<ExitStatus> {
        // Not waited for yet, so the number cannot belong to anyone else.
        signal_group(pid, Signal::SIGTERM);
        if let Ok(status) = tokio::time::timeout(self.spec.grace, child.wait()).await {
            return status;
        }
        self.log.note(&format!(
            "still running {:.0} s after SIGTERM; killing it",
            self.spec.grace.as_secs_f64()
        ));
        signal_group(pid, Signal::SIGKILL);
        child.wait().await
    }

    /// Ends what the container started and left behind.
    async fn sweep(&self) {
        let mark = self.host.mark(&self.spec);
        let deadline = crate::rt::now() + SWEEP;
        loop {
            let mark = mark.clone();
            let left = Tasks::blocking(move || {
                let left = state::marked(CONTAINER_MARKER, &mark);
                for process in &left {
                    process.signal(Signal::SIGKILL);
                }
                left.len()
            })
            .await
            .unwrap_or(0);
            if left == 0 || crate::rt::now() >= deadline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Exec for Run {
    async fn exec(&self, command: &[String]) -> Result<(), String> {
        // Dropped on a timeout, which kills it.
        let mut child = self
            .host
            .spawn(&self.spec, command, &[])
            .await
            .map_err(|error| error.to_string())?;
        // Its words go nowhere; a full pipe must not stop it.
        drop((child.stdout.take(), child.stderr.take()));
        match child.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(describe(status)),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn signal_group(pid: u32, signal: Signal) {
    match i32::try_from(pid) {
        // 0 would be our own group.
        Ok(pid) if pid > 0 => {
            if let Err(error) = killpg(Pid::from_raw(pid), signal) {
                tracing::debug!(pid, %error, "cannot signal a group");
            }
        }
        _ => {}
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(number)) => Signal::try_from(number).map_or_else(
            |_| format!("ended by signal {number}"),
            |signal| format!("ended by {signal}"),
        ),
        (None, None) => "ended".to_owned(),
    }
}
