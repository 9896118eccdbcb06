//! Listening sockets: opened for the workers, taken over, tuned while they are open.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use crate::mesh::listener::ListenerOptions;
use crate::net::{self, BindOptions};

/// A listener that is open.
pub(super) struct Open {
    pub(super) address: SocketAddr,
    pub(super) tuning: BindOptions,
    /// The workers' sockets, to change them and to pass them on.
    pub(super) sockets: Vec<StdListener>,
}

impl Open {
    /// Changes how its sockets listen.
    pub(super) fn tune(&self) {
        for socket in &self.sockets {
            if let Err(error) = net::tune(&socket.into(), self.tuning) {
                tracing::warn!(%error, address = %self.address, "socket options are not set");
            }
        }
    }
}

/// How sockets listen for a listener with these options.
pub(super) fn tuning(options: &ListenerOptions) -> BindOptions {
    let default = BindOptions::default();
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    BindOptions {
        reuse_port: true,
        backlog: options.backlog.map_or(default.backlog, |backlog| {
            i32::try_from(backlog).unwrap_or(i32::MAX)
        }),
        keepalive: options.keepalive.map(|keepalive| net::Keepalive {
            probes: keepalive.probes,
            time: keepalive.time.map(seconds),
            interval: keepalive.interval.map(seconds),
        }),
    }
}

/// A socket for each worker at least: those that were taken over, and more. The address is first
/// tried alone: sharing a port is for the threads of one proxy, never for two proxies.
pub(super) fn sockets(
    address: SocketAddr,
    tuning: BindOptions,
    taken: Vec<StdListener>,
    count: usize,
) -> io::Result<Vec<StdListener>> {
    if taken.is_empty() {
        net::available(address)?;
    }
    for socket in &taken {
        net::tune(&socket.into(), tuning)?;
    }
    let missing = count.saturating_sub(taken.len());
    let more = (0..missing).map(|_| net::bind(address, tuning)?.into_std());
    taken.into_iter().map(Ok).chain(more).collect()
}
