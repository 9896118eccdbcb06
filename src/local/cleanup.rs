//! Undoing a run whose supervisor is gone.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::state::{self, MARKER, Process, State};
use super::{LocalError, netns};

/// From SIGTERM to SIGKILL for processes that lost their supervisor.
const GRACE: Duration = Duration::from_secs(3);

/// How long the kernel may take to end a process that was killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Undoes the run called `instance`, if it is still the one that `home` records.
pub(super) fn after(home: &Path, instance: &str) -> Result<(), LocalError> {
    match State::load(home)? {
        Some(state) if state.instance == instance => undo(home, &state),
        _ => Ok(()),
    }
}

/// Ends all processes of a run, then removes its namespaces, bridge and files. What is already
/// gone is no error, so it can be repeated.
pub(super) fn undo(home: &Path, state: &State) -> Result<(), LocalError> {
    end_processes(state)?;
    for name in &state.namespaces {
        netns::delete(name)?;
    }
    if state.names_dir {
        netns::remove_dir();
    }
    if let Some(bridge) = &state.bridge {
        netns::delete_bridge(bridge)?;
    }
    for path in state.directories.iter().map(std::path::PathBuf::as_path) {
        remove(path)?;
    }
    forget(home, &state.instance)
}

/// Removes the files of a run, and with them the record that there is one.
pub(super) fn forget(home: &Path, instance: &str) -> Result<(), LocalError> {
    // Renamed first, so that a new `up` never meets half a directory.
    let gone = renamed(home, instance);
    match std::fs::rename(state::dir(home), &gone) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(LocalError::File { path: gone, source }),
    }
    remove(&gone)
}

/// Whether the files of a run are being removed.
pub(super) fn going(home: &Path, instance: &str) -> bool {
    renamed(home, instance).exists()
}

fn renamed(home: &Path, instance: &str) -> std::path::PathBuf {
    home.join(format!(".local-{instance}"))
}

fn remove(path: &Path) -> Result<(), LocalError> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(LocalError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Those recorded and those that carry the mark, which finds what they started themselves.
fn left(state: &State) -> Vec<Process> {
    let mut left: Vec<Process> = state
        .processes
        .iter()
        .copied()
        .filter(|process| process.alive())
        .collect();
    for process in state::marked(MARKER, &state.instance) {
        if !left.contains(&process) {
            left.push(process);
        }
    }
    left
}

fn end_processes(state: &State) -> Result<(), LocalError> {
    let begun = now();
    let mut sent = None;
    loop {
        let left = left(state);
        if left.is_empty() {
            return Ok(());
        }
        let waited = now() - begun;
        let signal = if waited < GRACE {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        // SIGTERM once; SIGKILL again and again, since a process may fork while it is looked for.
        if sent != Some(signal) || signal == Signal::SIGKILL {
            for process in &left {
                process.signal(signal);
            }
            sent = Some(signal);
        }
        if waited > DEADLINE {
            let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
            return Err(LocalError::Stuck {
                seconds: DEADLINE.as_secs(),
                what: format!("processes {}", pids.join(", ")),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits for real processes, outside any runtime whose time could be paused"
)]
fn now() -> Instant {
    Instant::now()
}
