//! Where a redirected connection was meant to go.

use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination that the caller dialled before the kernel redirected it to us; `None` when it
/// dialled us. IPv4 calls that arrive on an IPv6 socket come out as IPv4.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = canonical(stream.local_addr().ok()?);
    let socket = SockRef::from(stream);
    // Without connection tracking the kernel answers ENOENT: nothing was redirected.
    let original = match local.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    original
        .ok()?
        .as_socket()
        .map(canonical)
        .filter(|original| *original != local)
}

/// An IPv4 address as such, though it is called on a socket of IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        // Others keep the scope that a link-local address has.
        other => other,
    }
}
