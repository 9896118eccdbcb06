//! Ports for servers that must be told theirs.
//!
//! The system's own choice for port 0 is also what outgoing connections are given: between asking for such a port and
//! listening on it, another test's connection may have it. These are below all of those.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Linux gives outgoing connections ports from 32768 on; what is well known is below 16384, most of it.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;
/// Prime to `COUNT`, so that processes that follow each other begin far apart.
const STRIDE: u32 = 97;

/// A port that nobody has on loopback, neither for TCP nor for UDP, and that this process has not given before.
/// 0 when all of them are taken.
pub fn free() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let begin = std::process::id() % COUNT * STRIDE;
        let port = u16::try_from(FIRST + (begin + given) % COUNT).unwrap_or_default();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok() {
            return port;
        }
    }
    0
}

/// The same with the address.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free()).into()
}
