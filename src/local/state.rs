//! What must be undone, on disk before it is done: read by `down` and by the guard when the
//! supervisor is gone.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::LocalError;

/// Every process of a run has this variable, whatever it forks and wherever it goes.
pub(super) const MARKER: &str = "MESHCTL_INSTANCE";

/// Where `up` keeps what belongs to a run.
pub(super) fn dir(home: &Path) -> PathBuf {
    home.join("local")
}

/// The supervisor's socket.
pub(super) fn socket(home: &Path) -> PathBuf {
    dir(home).join("local.sock")
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks from boot to its start.
    pub(super) start: u64,
}

impl Process {
    /// The process with this number, if there is one.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let (state, start) = stat(pid)?;
        (state != "Z" && state != "X").then_some(Self { pid, start })
    }

    /// Whether it still runs (a zombie does not).
    pub(super) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Signals it if it is still the same one.
    pub(super) fn signal(self, signal: Signal) {
        if self.alive()
            && let Ok(pid) = i32::try_from(self.pid)
            && let Err(error) = kill(Pid::from_raw(pid), signal)
        {
            tracing::debug!(pid, %error, "cannot signal");
        }
    }
}

/// The state letter and the start time of a process.
fn stat(pid: u32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, so count from its closing bracket.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.to_owned();
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// All processes, but this one, whose environment has `name=value`.
pub(super) fn marked(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let process = Process::of(pid)?;
            let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
                .then_some(process)
        })
        .collect()
}

/// What one run has made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// The random name of this run; the value of [`MARKER`].
    pub(super) instance: String,
    pub(super) supervisor: Process,
    pub(super) guard: Option<Process>,
    /// Started and not yet known to have ended.
    pub(super) processes: Vec<Process>,
    /// Names of network namespaces, made or about to be.
    pub(super) namespaces: Vec<String>,
    /// The bridge, made or about to be.
    pub(super) bridge: Option<String>,
    /// Directories outside the home.
    pub(super) directories: Vec<PathBuf>,
    /// Whether the directory for names of namespaces was made by this run.
    pub(super) names_dir: bool,
}

impl State {
    fn path(home: &Path) -> PathBuf {
        dir(home).join("state.json")
    }

    /// What an earlier run left; `None` when there is nothing.
    pub(super) fn load(home: &Path) -> Result<Option<Self>, LocalError> {
        let path = Self::path(home);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LocalError::File { path, source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| LocalError::File {
                path,
                source: error.into(),
            })
    }
}

/// The state of the run that is under way: changed in memory and on disk together.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    home: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Ledger {
    /// Writes `state` down.
    pub(super) fn create(home: &Path, state: State) -> Result<Self, LocalError> {
        let ledger = Self {
            home: home.to_owned(),
            state: Arc::new(Mutex::new(state)),
        };
        ledger.change(|_| {})?;
        Ok(ledger)
    }

    /// Changes the state, then replaces the file in one step.
    pub(super) fn change(&self, edit: impl FnOnce(&mut State)) -> Result<(), LocalError> {
        let path = State::path(&self.home);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut state);
        let bytes = serde_json::to_vec(&*state).unwrap_or_default();
        write_private(&path, &bytes).map_err(LocalError::file(path))
    }

    pub(super) fn load(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes a child. A failure only costs precision: [`MARKER`] finds it too.
    pub(super) fn started(&self, process: Process) {
        self.keep(self.change(|state| state.processes.push(process)));
    }

    /// Forgets a child that has ended.
    pub(super) fn ended(&self, process: Process) {
        self.keep(self.change(|state| state.processes.retain(|other| *other != process)));
    }

    fn keep(&self, outcome: Result<(), LocalError>) {
        if let Err(error) = outcome {
            tracing::warn!(home = %self.home.display(), %error, "cannot note a process");
        }
    }
}

/// Replaces `path` in one step by a file that only its owner can read.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(bytes)?;
    fs::rename(next, path)
}

/// A directory that only its owner can enter, with those above it.
pub(super) fn private_dir(path: &Path) -> Result<(), LocalError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(LocalError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.alive());
        let other = Process {
            start: own.start + 1,
            ..own
        };
        assert!(!other.alive());
        // Harmless by design: the number is ours but the start is not.
        other.signal(Signal::SIGKILL);
    }

    #[test]
    fn children_are_found_by_their_mark() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("MESHCTL_TEST_MARK", "state-rs")
            .spawn()
            .unwrap();
        let deadline = crate::rt::now() + std::time::Duration::from_secs(5);
        // The mark is there once the child has called exec.
        while marked("MESHCTL_TEST_MARK", "state-rs").is_empty() {
            assert!(crate::rt::now() < deadline);
            std::thread::yield_now();
        }
        assert!(marked("MESHCTL_TEST_MARK", "state").is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
