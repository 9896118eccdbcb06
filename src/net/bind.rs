//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// How a TCP listener is made.
#[derive(Debug, Clone, Copy)]
pub struct BindOptions {
    /// Several workers each bind the same port and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Connections that the kernel keeps before `accept`.
    pub backlog: i32,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self {
            reuse_port: false,
            backlog: 4096,
        }
    }
}

/// Binds and listens on `address`; must run inside a runtime.
pub fn bind(address: SocketAddr, options: BindOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    TcpListener::from_std(socket.into())
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
