//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

/// How a TCP listener is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindOptions {
    /// Several workers each bind the same port and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Connections that the kernel keeps before `accept`.
    pub backlog: i32,
    /// Keep-alive of accepted connections.
    pub keepalive: Option<Keepalive>,
}

/// TCP keep-alive; what is absent is as the system has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Without traffic before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self {
            reuse_port: false,
            backlog: 4096,
            keepalive: None,
        }
    }
}

/// Binds and listens on `address`; must run inside a runtime. `[::]` takes IPv4 too.
pub fn bind(address: SocketAddr, options: BindOptions) -> io::Result<TcpListener> {
    let socket = bound(address, options.reuse_port)?;
    tune(&SockRef::from(&socket), options)?;
    TcpListener::from_std(socket.into())
}

/// Whether nobody listens on `address`, else the error that [`bind`] would give. It does not listen for
/// the trial: who connected meanwhile would be reset.
pub fn available(address: SocketAddr) -> io::Result<()> {
    bound(address, false).map(drop)
}

fn bound(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Listens with `options`; on a socket that listens already, changes how. Accepted connections
/// inherit what is set here, which saves a system call for each.
pub fn tune(socket: &SockRef<'_>, options: BindOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(options.keepalive.is_some())?;
    if let Some(keepalive) = options.keepalive {
        keep_alive(socket, keepalive)?;
    }
    socket.listen(options.backlog)
}

/// Has the kernel ask the peer of `socket` whether it is still there: one who is not breaks the connection.
pub fn keep_alive(socket: &SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let mut set = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        set = set.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        set = set.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        set = set.with_retries(probes);
    }
    socket.set_tcp_keepalive(&set)
}

/// Listens on a Unix socket that only its owner may open. A socket file that nobody answers on is
/// left over from a crash and is replaced; one that is answered is `AddrInUse`.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if path.exists() {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_not_available() {
        let taken = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = available(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        available(address).unwrap();
    }

    #[tokio::test]
    async fn nobody_is_let_in_while_a_port_is_tried() {
        let free = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let ended = AtomicBool::new(false);
        let answers: Vec<io::Result<()>> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    // In use by the caller that is refused meanwhile, now and then.
                    let _tried = available(address);
                }
            });
            let answers = (0..5_000).map(|_| {
                let caller = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                // From elsewhere, so that it does not meet itself.
                let from: SocketAddr = ([127, 0, 0, 2], 0).into();
                caller.bind(&from.into())?;
                caller.connect(&address.into())
            });
            let answers = answers.collect();
            ended.store(true, Ordering::Relaxed);
            answers
        });
        for answer in answers {
            assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
