//! The address that a redirected connection was meant for.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{Ip6tOriginalDst, OriginalDst};
use tokio::net::TcpStream;

/// What the caller of a redirected connection had dialled (`SO_ORIGINAL_DST`); `None` when it was
/// not redirected.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let meant = match local {
        SocketAddr::V4(_) => {
            let found = getsockopt(stream, OriginalDst).ok()?;
            let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
            SocketAddr::from((address, u16::from_be(found.sin_port)))
        }
        SocketAddr::V6(_) => {
            let found = getsockopt(stream, Ip6tOriginalDst).ok()?;
            let port = u16::from_be(found.sin6_port);
            SocketAddrV6::new(found.sin6_addr.s6_addr.into(), port, 0, 0).into()
        }
    };
    (meant != local).then_some(meant)
}
