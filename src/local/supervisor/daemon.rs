//! `up -d`: the same supervisor in the background.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::local::entry::Enter;
use crate::local::{LocalError, cleanup, client, state};

/// How long the supervisor may take until it answers `ps`. It answers before pods are ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of its last words are repeated.
const TAIL: u64 = 2048;

/// What to start in the background.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The mesh's home.
    pub home: PathBuf,
    /// Our own executable.
    pub executable: PathBuf,
    /// The same `up`, in the foreground: `["up", "FILE"…]`.
    pub args: Vec<OsString>,
}

/// Starts `daemon` in a session of its own and waits until its socket answers. Gives its process
/// id. What it says goes to `local/supervisor.log` in the home, for its owner only.
pub async fn daemonise(daemon: &Daemon) -> Result<u32, LocalError> {
    client::recover(&daemon.home).await?;
    let dir = state::dir(&daemon.home);
    state::private_dir(&dir)?;
    let path = dir.join("supervisor.log");
    let mut log = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(LocalError::file(&path))?;
    let copy = |file: &std::fs::File| file.try_clone().map_err(LocalError::file(&path));
    let enter = Enter {
        session: true,
        ..Enter::default()
    };
    let mut child = Command::new(&daemon.executable)
        .args(enter.arguments())
        .arg(&daemon.executable)
        .args(&daemon.args)
        .stdin(Stdio::null())
        .stdout(copy(&log)?)
        .stderr(copy(&log)?)
        .spawn()
        .map_err(|source| LocalError::Spawn {
            what: "the supervisor".to_owned(),
            source,
        })?;
    let deadline = crate::rt::now() + PATIENCE;
    loop {
        let ended = child.try_wait().map_err(|source| LocalError::Spawn {
            what: "the supervisor".to_owned(),
            source,
        })?;
        if ended.is_some() {
            let length = log.metadata().map_or(0, |data| data.len());
            let mut words = String::new();
            let read = log
                .seek(SeekFrom::Start(length.saturating_sub(TAIL)))
                .and_then(|_| log.read_to_string(&mut words));
            if read.is_err() {
                words.clear();
            }
            if state::State::load(&daemon.home)?.is_none() {
                // It did not come as far as a record of its own.
                cleanup::forget(&daemon.home, "failed")?;
            }
            return Err(LocalError::Daemon(words.trim().to_owned()));
        }
        if let Ok(status) = client::ps(&daemon.home).await
            && status.supervisor_pid == child.id()
        {
            return Ok(child.id());
        }
        if crate::rt::now() >= deadline {
            return Err(LocalError::Stuck {
                seconds: PATIENCE.as_secs(),
                what: format!("supervisor {}, which does not answer", child.id()),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
