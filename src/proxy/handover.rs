//! Hot restart: a new process takes over the listening sockets of a running one.
//!
//! The running process listens on a Unix socket of mode 0600. A new one of the same user asks there
//! and is given every listening socket: the very sockets, with the connections that wait in them, so
//! that none is refused or reset while both processes have them open. Once the new one has its
//! configuration and accepts, it says so; only then does the old one stop accepting and drain. When
//! the new one ends before that, nothing has changed for the old one.
//!
//! Lines of text and, with them, open files (`net::pass`):
//!
//! ```text
//! new → old   take
//! old → new   {"listener":{"name":"virtualOutbound"},"address":"0.0.0.0:15001"}   with its socket
//! old → new   …
//! old → new   all
//! new → old   ready
//! old → new   going
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::net::{self, pass};

/// Either side waits this long for the next word of the other, but for `ready`.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer lines are not ours.
const MAX_LINE: usize = 4096;

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Connections of a listener; one socket for each worker.
    Listener {
        /// Its name.
        name: String,
    },
    /// Administration, health or metrics.
    Admin,
    /// Names over UDP.
    DnsUdp,
    /// Names over TCP.
    DnsTcp,
    /// The socket of hot restarts itself.
    Restart,
}

/// A socket that is passed on.
#[derive(Debug)]
pub struct Passed {
    /// What it is for.
    pub role: Role,
    /// What it is bound to.
    pub address: Option<SocketAddr>,
    /// It.
    pub socket: OwnedFd,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    role: Role,
    address: Option<SocketAddr>,
}

/// How a proxy takes part in hot restarts.
#[derive(Debug)]
pub struct Restart {
    /// Where the next process asks.
    pub socket: PathBuf,
    /// What the process before this one gave.
    pub taken: Option<Taken>,
    /// Sockets to pass on besides those of listeners and administration.
    pub more: Vec<Passed>,
    /// Cancelled when another process has taken over: nothing but what is under way is left to do.
    pub replaced: CancellationToken,
}

/// The sockets of the process before this one, which goes on until it is told.
#[derive(Debug)]
pub struct Taken {
    sockets: Vec<Passed>,
    stream: UnixStream,
    /// Bytes behind the last line.
    rest: Vec<u8>,
}

impl Taken {
    /// Takes out the sockets for `role` at `address`.
    fn take(&mut self, role: &Role, address: Option<SocketAddr>) -> Vec<OwnedFd> {
        let (found, others) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|passed| passed.role == *role && passed.address == address);
        self.sockets = others;
        found
            .into_iter()
            .map(|passed: Passed| passed.socket)
            .collect()
    }

    /// The sockets of a listener.
    pub(crate) fn listener(&mut self, name: &str, address: SocketAddr) -> Vec<StdListener> {
        let role = Role::Listener {
            name: name.to_owned(),
        };
        let sockets = self.take(&role, Some(address));
        sockets.into_iter().map(StdListener::from).collect()
    }

    /// The socket of an administration endpoint.
    pub(crate) fn admin(&mut self, address: SocketAddr) -> Option<StdListener> {
        let sockets = self.take(&Role::Admin, Some(address));
        sockets.into_iter().next().map(StdListener::from)
    }

    /// The sockets of names.
    pub(crate) fn dns(&mut self, address: SocketAddr) -> Option<(StdUdp, StdListener)> {
        let mut one = |role| self.take(&role, Some(address)).into_iter().next();
        Some((one(Role::DnsUdp)?.into(), one(Role::DnsTcp)?.into()))
    }

    fn restart(&mut self) -> Option<std::os::unix::net::UnixListener> {
        let sockets = self.take(&Role::Restart, None);
        sockets.into_iter().next().map(Into::into)
    }

    /// Tells the other process that this one serves, after which that one drains.
    pub(crate) async fn ready(mut self) -> io::Result<()> {
        let telling = async {
            pass::send(&self.stream, b"ready\n", &[]).await?;
            let said = line(&self.stream, &mut self.rest, &mut Vec::new()).await?;
            if said == "going" {
                Ok(())
            } else {
                Err(io::ErrorKind::InvalidData.into())
            }
        };
        tokio::time::timeout(PATIENCE, telling).await?
    }
}

/// Asks the process that listens at `path` for its sockets; `None` when there is none.
pub async fn take(path: &Path) -> io::Result<Option<Taken>> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    same_user(&stream)?;
    let taking = async {
        pass::send(&stream, b"take\n", &[]).await?;
        let (mut rest, mut files, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let said = line(&stream, &mut rest, &mut files).await?;
            if said == "all" {
                return Ok::<_, io::Error>((sockets, rest));
            }
            let Line { role, address } = serde_json::from_str(&said)?;
            if files.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // Files arrive in the order of their lines.
            let socket = files.remove(0);
            sockets.push(Passed {
                role,
                address,
                socket,
            });
        }
    };
    let (sockets, rest) = tokio::time::timeout(PATIENCE, taking).await??;
    Ok(Some(Taken {
        sockets,
        stream,
        rest,
    }))
}

/// The side that gives.
#[derive(Debug)]
pub(crate) struct Giver {
    listener: UnixListener,
    /// Who was given everything and has not said yet that it serves.
    asked: Option<(UnixStream, Vec<u8>)>,
}

/// What happened at the socket.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody asks for the sockets.
    Asked(UnixStream),
    /// Whoever has them serves.
    Ready(UnixStream),
}

impl Giver {
    /// Listens where `restart` says, on the socket of the process before this one where there was one.
    pub(crate) fn new(restart: &mut Restart) -> io::Result<Self> {
        let listener = match restart.taken.as_mut().and_then(Taken::restart) {
            Some(listener) => UnixListener::from_std(listener)?,
            None => net::bind_unix(&restart.socket)?,
        };
        Ok(Self {
            listener,
            asked: None,
        })
    }

    /// What happens next. Can be dropped and called again.
    pub(crate) async fn next(&mut self) -> Event {
        let mut files = Vec::new();
        loop {
            let Some((stream, said)) = &mut self.asked else {
                return Event::Asked(accept(&self.listener).await);
            };
            tokio::select! {
                // A second one that asks has better chances than one that did not get ready.
                other = accept(&self.listener) => return Event::Asked(other),
                ready = line(stream, said, &mut files) => {
                    let stream = self.asked.take();
                    match (ready, stream) {
                        (Ok(said), Some((stream, _))) if said == "ready" => {
                            return Event::Ready(stream);
                        }
                        _ => tracing::warn!("the next process did not get ready; this one goes on"),
                    }
                }
            }
        }
    }

    /// Gives `sockets` to one that asks. One that does not take them changes nothing.
    pub(crate) async fn give(&mut self, stream: UnixStream, sockets: &[Passed]) {
        let mut said = Vec::new();
        let giving = async {
            if line(&stream, &mut said, &mut Vec::new()).await? != "take" {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            for passed in sockets {
                let mut line = serde_json::to_vec(&Line {
                    role: passed.role.clone(),
                    address: passed.address,
                })?;
                line.push(b'\n');
                pass::send(&stream, &line, &[passed.socket.as_fd()]).await?;
            }
            let own = serde_json::to_string(&Line {
                role: Role::Restart,
                address: None,
            })?;
            let last = format!("{own}\nall\n");
            pass::send(&stream, last.as_bytes(), &[self.listener.as_fd()]).await
        };
        match tokio::time::timeout(PATIENCE, giving).await {
            Ok(Ok(())) => {
                tracing::info!(sockets = sockets.len(), "sockets given to the next process");
                self.asked = Some((stream, said));
            }
            Ok(Err(error)) => tracing::warn!(%error, "sockets could not be given"),
            Err(_) => tracing::warn!("the next process did not take the sockets in time"),
        }
    }
}

/// Tells the new process that this one stops accepting.
pub(crate) async fn going(stream: &UnixStream) {
    // It has everything already; whether it hears this makes no difference.
    let _told = pass::send(stream, b"going\n", &[]).await.is_ok();
}

/// A connection of this user.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match same_user(&stream) {
                Ok(()) => return stream,
                Err(error) => tracing::warn!(%error, "sockets are not given"),
            },
            Err(error) => {
                tracing::debug!(%error, "hot restart socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Only processes of the same user give and take: whoever has the sockets has the traffic.
fn same_user(stream: &UnixStream) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    let other = stream.peer_cred()?.uid();
    if own == other {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {other} is at the other end, not {own}"),
        ))
    }
}

/// The next line. What came behind it stays in `rest`; can be dropped and called again.
async fn line(
    stream: &UnixStream,
    rest: &mut Vec<u8>,
    files: &mut Vec<OwnedFd>,
) -> io::Result<String> {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let behind = rest.split_off(end + 1);
            let mut line = std::mem::replace(rest, behind);
            line.truncate(end);
            return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if rest.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if pass::receive(stream, rest, files).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
