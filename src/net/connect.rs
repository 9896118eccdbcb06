//! Outgoing connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
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

/// How long an address may take before the next one is tried beside it (RFC 8305 says 250 ms;
/// Envoy's value).
const NEXT_ADDRESS: Duration = Duration::from_millis(300);

/// Connects to the first of `addresses` that answers. Families take turns, beginning with that of
/// the first; an address that fails makes room for the next at once. `options.timeout` is for all
/// of them together.
pub async fn connect_any(
    addresses: &[SocketAddr],
    options: ConnectOptions,
) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return connect(*only, options).await;
    }
    tokio::time::timeout(options.timeout, race(in_turn(addresses), options))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn race(addresses: Vec<SocketAddr>, options: ConnectOptions) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut racing = FuturesUnordered::new();
    racing.extend(waiting.next().map(|address| connect(address, options)));
    loop {
        let ended = tokio::select! {
            ended = racing.next() => ended,
            () = tokio::time::sleep(NEXT_ADDRESS), if waiting.len() > 0 => None,
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) if waiting.len() == 0 && racing.is_empty() => return Err(error),
            None if waiting.len() == 0 && racing.is_empty() => {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            Some(Err(_)) | None => {}
        }
        racing.extend(waiting.next().map(|address| connect(address, options)));
    }
}

/// Both families in turn, each in its own order, without what comes twice.
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let of = |v4: bool| {
        let same = move |address: &&SocketAddr| address.is_ipv4() == v4;
        addresses.iter().filter(same).copied()
    };
    let (mut mine, mut others) = (of(first_is_v4), of(!first_is_v4));
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        let (a, b) = (mine.next(), others.next());
        if a.is_none() && b.is_none() {
            return order;
        }
        for address in a.into_iter().chain(b) {
            if !order.contains(&address) {
                order.push(address);
            }
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::net::{BindOptions, bind};

    #[test]
    fn families_take_turns() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "[::1]:1"]);
        let order = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(in_turn(&given), order);
    }

    #[tokio::test]
    async fn an_address_that_fails_makes_room_at_once() {
        let gone = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        let there = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let answers = there.local_addr().unwrap();
        let begun = Instant::now();
        let stream = connect_any(&[nobody, answers], ConnectOptions::default()).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), answers);
        assert!(begun.elapsed() < NEXT_ADDRESS, "{:?}", begun.elapsed());
        let none = connect_any(&[nobody, nobody], ConnectOptions::default()).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect_any(&[], ConnectOptions::default()).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_the_others_up() {
        // A full queue of connections: what comes further is dropped, and nothing answers.
        let full = std::net::TcpListener::from(
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .and_then(|socket| {
                    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
                    socket.bind(&any.into())?;
                    socket.listen(0)?;
                    Ok(socket)
                })
                .unwrap(),
        );
        let silent = full.local_addr().unwrap();
        let short = ConnectOptions {
            timeout: Duration::from_millis(50),
            ..ConnectOptions::default()
        };
        let mut kept = Vec::new();
        while let Ok(stream) = connect(silent, short).await {
            kept.push(stream);
        }
        let there = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let answers = there.local_addr().unwrap();
        let begun = Instant::now();
        let stream = connect_any(&[silent, answers], ConnectOptions::default()).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), answers);
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}
