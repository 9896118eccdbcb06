//! Outgoing connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

/// How a TCP connection is made.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// Gives up after this long. Istio's default is 10 s.
    pub timeout: Duration,
    /// The local address to call from, so that peers see the workload's own.
    pub from: Option<IpAddr>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            from: None,
        }
    }
}

/// Connects to `to` with Nagle's algorithm off.
pub async fn connect(to: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = options.from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.set_nodelay(true)?;
    tokio::time::timeout(options.timeout, socket.connect(to))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
