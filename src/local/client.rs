//! Asking a supervisor, and ending one that no longer answers.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::state::{self, Process, State};
use super::{LocalError, cleanup};
use crate::api::local::{LocalRequest, LocalStatus, LogLine, LogsQuery, Refusal};
use crate::rt::Tasks;

/// A supervisor that does not answer `ps` for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a supervisor that has nothing left to do may take to end.
const LAST: Duration = Duration::from_secs(1);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// The supervisor ended it.
    Stopped,
    /// The supervisor was gone or stuck; what it had left was cleaned up.
    CleanedUp,
    /// Nothing was up.
    NothingUp,
}

/// What is up in `home`.
pub async fn ps(home: &Path) -> Result<LocalStatus, LocalError> {
    let ask = async {
        let mut lines = request(home, &LocalRequest::Ps).await?;
        match lines.next().await? {
            Some(status) => Ok(status),
            None => Err(LocalError::Answer(io::ErrorKind::UnexpectedEof.into())),
        }
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err(LocalError::Answer(io::ErrorKind::TimedOut.into())))
}

/// Sends each log line to `each` until there are no more or `each` says false.
pub async fn logs(
    home: &Path,
    query: LogsQuery,
    mut each: impl FnMut(LogLine) -> bool,
) -> Result<(), LocalError> {
    let mut lines = request(home, &LocalRequest::Logs(query)).await?;
    while let Some(line) = lines.next().await? {
        if !each(line) {
            break;
        }
    }
    Ok(())
}

/// Ends everything that is up in `home` and waits until it is gone, at most `deadline`. Works
/// after a supervisor was killed, too.
pub async fn down(home: &Path, deadline: Duration) -> Result<Down, LocalError> {
    let Some(state) = State::load(home)? else {
        return Ok(Down::NothingUp);
    };
    let asked = tokio::time::timeout(deadline, async {
        let Ok(mut lines) = request(home, &LocalRequest::Down).await else {
            return;
        };
        while let Ok(Some(_)) = lines.next::<serde_json::Value>().await {}
    })
    .await;
    if asked.is_err() {
        tracing::warn!(
            pid = state.supervisor.pid,
            "the supervisor takes too long; killing it"
        );
        state.supervisor.signal(Signal::SIGKILL);
    }
    // A supervisor inside a longer command (the demo) lives on; then its record is gone.
    if !over(home, &state, deadline).await? {
        state.supervisor.signal(Signal::SIGKILL);
        if !ended(state.supervisor, PATIENCE).await {
            return Err(LocalError::Stuck {
                seconds: PATIENCE.as_secs(),
                what: format!("supervisor {}", state.supervisor.pid),
            });
        }
    }
    recover(home).await.map(|cleaned| {
        if cleaned || asked.is_err() {
            Down::CleanedUp
        } else {
            Down::Stopped
        }
    })
}

/// Cleans up after a supervisor that is gone; false when there was nothing to do.
pub(super) async fn recover(home: &Path) -> Result<bool, LocalError> {
    let Some(state) = State::load(home)? else {
        return Ok(false);
    };
    if state.supervisor.alive() {
        return Err(LocalError::AlreadyUp(home.to_owned()));
    }
    // The guard is already at it: two at once would get in each other's way.
    if let Some(guard) = state.guard {
        ended(guard, Duration::from_secs(20)).await;
    }
    let home = home.to_owned();
    Tasks::blocking(move || match State::load(&home)? {
        Some(state) => cleanup::undo(&home, &state),
        None => Ok(()),
    })
    .await
    .unwrap_or(Ok(()))
    .map(|()| true)
}

/// Waits until the supervisor is dead or has removed the record of this run.
async fn over(home: &Path, state: &State, deadline: Duration) -> Result<bool, LocalError> {
    let until = crate::rt::now() + deadline;
    while state.supervisor.alive() {
        if State::load(home)?.is_none_or(|now| now.instance != state.instance)
            && !cleanup::going(home, &state.instance)
            && !state.guard.is_some_and(Process::alive)
        {
            // One that is nothing but a supervisor ends now.
            ended(state.supervisor, LAST).await;
            return Ok(true);
        }
        if crate::rt::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(true)
}

async fn ended(process: Process, deadline: Duration) -> bool {
    let until = crate::rt::now() + deadline;
    while process.alive() {
        if crate::rt::now() >= until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

struct Lines(BufReader<UnixStream>);

async fn request(home: &Path, request: &LocalRequest) -> Result<Lines, LocalError> {
    let mut stream = UnixStream::connect(state::socket(home))
        .await
        .map_err(|_| LocalError::NotUp(home.to_owned()))?;
    let mut bytes =
        serde_json::to_vec(request).map_err(|error| LocalError::Answer(error.into()))?;
    bytes.push(b'\n');
    stream.write_all(&bytes).await.map_err(LocalError::Answer)?;
    Ok(Lines(BufReader::new(stream)))
}

impl Lines {
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LocalError> {
        let mut line = String::new();
        let count = self
            .0
            .read_line(&mut line)
            .await
            .map_err(LocalError::Answer)?;
        if count == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).map_err(|error| {
            match serde_json::from_str::<Refusal>(&line) {
                Ok(refusal) if refusal.containers.is_empty() => {
                    LocalError::NoSuchPod(refusal.error)
                }
                Ok(refusal) => LocalError::NoSuchContainer {
                    name: refusal.error,
                    known: refusal.containers,
                },
                Err(_) => LocalError::Answer(error.into()),
            }
        })
    }
}
