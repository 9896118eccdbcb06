//! Whose the other end of a connection on loopback is, by what the kernel lists.
//!
//! TCP tells nobody who calls. On one machine the kernel knows: both ends of such a connection are sockets of its own,
//! and it lists the user of each.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a connection that neither end has closed, as the kernel's list has it.
const ESTABLISHED: &str = "01";

/// The number of the user whose socket is bound to `peer` and connected to `own`; `None` when there is none here,
/// as when it was closed meanwhile or is on another machine. Reads a list of all sockets, so it blocks.
pub fn user_of(peer: SocketAddr, own: SocketAddr) -> io::Result<Option<u32>> {
    let (peer, own) = (plain(peer), plain(own));
    // A program may have opened a socket of IPv6 and connect to an address of IPv4 with it.
    for list in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = match fs::read_to_string(list) {
            // A machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        if let Some(user) = find(&text, peer, own) {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

fn find(list: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    list.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (local, remote) = (words.nth(1)?, words.next()?);
        if address(local)? != peer || address(remote)? != own {
            return None;
        }
        // Whoever closed its end at once is listed without its user, as root.
        if words.next()? != ESTABLISHED {
            return None;
        }
        // queues, timer, retransmissions, user
        words.nth(3)?.parse().ok()
    })
}

/// `0100007F:1F90`: the address in words of 32 bits as the machine has them in memory, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into()
        }
        _ => return None,
    };
    Some(plain(SocketAddr::new(ip, port)))
}

/// Addresses of IPv4 that are written in IPv6 are those of IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_a_connection_is_found_while_it_lasts() {
        for at in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(at) else {
                // A machine without IPv6; the first one is everywhere.
                assert_ne!(at, "127.0.0.1:0");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let to = if at == "[::1]:0" { "::1" } else { "127.0.0.1" };
            let called = TcpStream::connect((to, port)).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            let own = accepted.local_addr().unwrap();
            let me = nix::unistd::geteuid().as_raw();
            assert_eq!(user_of(peer, own).unwrap(), Some(me), "{at}");
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert_eq!(user_of(nobody, own).unwrap(), None);
            assert_eq!(user_of(peer, nobody).unwrap(), None);
            // Of one that was closed the kernel knows no user any more, and lists root.
            drop(called);
            assert_eq!(user_of(peer, own).unwrap(), None, "{at}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_name_nobody() {
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        for list in [
            "",
            "head\n",
            "head\n0: x y z",
            "head\n0: 0100007F:0001 0100007F:0001 01",
        ] {
            assert_eq!(find(list, any, any), None, "{list}");
        }
    }
}
