//! Names of the mesh for captured workloads: services answer with their virtual addresses, all
//! else is asked of the machine's own resolver.
//!
//! Owns port 15053 of loopback, UDP and TCP, in both families. What services there are comes with the view; answers are short
//! lived, so that a new service is found soon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::mesh::route::router::without_port;
use crate::mesh::{ChainAction, View};
use crate::net::{BindOptions, ConnectOptions, bind, connect};
use crate::rt::{Reader, Tasks};

use super::handover::{Passed, Role, Taken};

/// Where captured questions are sent.
pub(crate) const PORT: u16 = 15053;
/// Seconds that an answer may be kept.
const TTL: u32 = 5;
/// How long the machine's resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that are under way to it at once; more are dropped, and asked again by their askers.
const MOST_FORWARDED: usize = 256;
/// Longest message over UDP that is read.
const MAX_DATAGRAM: usize = 4096;

/// Names and their addresses, as one view has them.
type Names = BTreeMap<String, BTreeSet<IpAddr>>;

/// Where questions come in.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// For a process that takes over.
    pub(crate) fn passed(&self, address: SocketAddr) -> Vec<Passed> {
        let one = |role, socket: BorrowedFd<'_>| {
            Some(Passed {
                role,
                address: Some(address),
                socket: socket.try_clone_to_owned().ok()?,
            })
        };
        one(Role::DnsUdp, self.udp.as_fd())
            .into_iter()
            .chain(one(Role::DnsTcp, self.tcp.as_fd()))
            .collect()
    }
}

/// Listens on `address`, on the sockets of the process before this one where it had them.
pub(crate) fn open(address: SocketAddr, taken: Option<&mut Taken>) -> io::Result<Sockets> {
    if let Some((udp, tcp)) = taken.and_then(|taken| taken.dns(address)) {
        return Ok(Sockets {
            udp: UdpSocket::from_std(udp)?,
            tcp: TcpListener::from_std(tcp)?,
        });
    }
    let udp = std::net::UdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    Ok(Sockets {
        udp: UdpSocket::from_std(udp)?,
        tcp: bind(address, BindOptions::default())?,
    })
}

/// A question over UDP, and where it came in.
async fn asked(
    places: &[(Arc<UdpSocket>, TcpListener)],
    datagram: &mut [u8],
) -> io::Result<(Arc<UdpSocket>, usize, SocketAddr)> {
    loop {
        let readable = places.iter().map(|(udp, _)| Box::pin(udp.readable()));
        let (ready, at, _) = select_all(readable).await;
        ready?;
        let Some((udp, _)) = places.get(at) else {
            continue;
        };
        match udp.try_recv_from(datagram) {
            Ok((length, from)) => return Ok((Arc::clone(udp), length, from)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Answers until cancelled. There is at least one place.
pub(crate) async fn run(places: Vec<Sockets>, mut views: Reader<View>, tasks: Tasks) {
    let places: Vec<_> = places
        .into_iter()
        .map(|sockets| (Arc::new(sockets.udp), sockets.tcp))
        .collect();
    let upstream = upstream();
    let busy = Arc::new(Semaphore::new(MOST_FORWARDED));
    let mut names = Arc::new(names(&views.load()));
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            more = views.changed() => {
                if !more {
                    return;
                }
                names = Arc::new(self::names(&views.load()));
            }
            received = asked(&places, &mut datagram) => {
                let Ok((udp, length, from)) = received else { continue };
                let question = datagram.get(..length).unwrap_or_default().to_vec();
                if let Some(answer) = answer(&names, &question) {
                    send(&udp, &answer, from).await;
                    continue;
                }
                let (Some(upstream), Ok(permit)) = (upstream, Arc::clone(&busy).try_acquire_owned())
                else {
                    continue;
                };
                tasks.spawn("dns-forward", async move {
                    if let Ok(answer) = ask(upstream, &question).await {
                        send(&udp, &answer, from).await;
                    }
                    drop(permit);
                });
            }
            (accepted, ..) = select_all(places.iter().map(|(_, tcp)| Box::pin(tcp.accept()))) => {
                let Ok((stream, _)) = accepted else { continue };
                let Ok(permit) = Arc::clone(&busy).try_acquire_owned() else { continue };
                let names = Arc::clone(&names);
                tasks.spawn("dns-tcp", async move {
                    let served = tokio::time::timeout(PATIENCE, one(stream, &names, upstream)).await;
                    drop((served, permit));
                });
            }
        }
    }
}

async fn send(udp: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = udp.send_to(answer, to).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

/// One question over TCP.
async fn one(mut stream: TcpStream, names: &Names, upstream: Option<SocketAddr>) -> io::Result<()> {
    let question = read(&mut stream).await?;
    let answer = match (answer(names, &question), upstream) {
        (Some(answer), _) => answer,
        (None, Some(upstream)) => {
            let mut other = connect(upstream, ConnectOptions::default()).await?;
            write(&mut other, &question).await?;
            read(&mut other).await?
        }
        (None, None) => return Ok(()),
    };
    write(&mut stream, &answer).await
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Asks the machine's resolver.
async fn ask(upstream: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = if upstream.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], 0))
    } else {
        SocketAddr::from(([0_u16; 8], 0))
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_DATAGRAM];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    answer.truncate(length);
    Ok(answer)
}

/// The first name server of `/etc/resolv.conf`, as the resolver library reads it.
fn upstream() -> Option<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .find_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
}

/// A domain that is an address: of IPv6 in brackets, as in an authority.
fn as_address(domain: &str) -> Option<IpAddr> {
    let bare = domain
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(domain).parse().ok()
}

/// Names and virtual addresses in a view: hosts of route tables, and services of TCP chains.
fn names(view: &View) -> Names {
    let mut names = Names::new();
    for host in view.routes.values().flat_map(|table| &table.hosts) {
        let plain = |domain: &&String| domain.as_bytes() == without_port(domain.as_bytes());
        let addresses: BTreeSet<IpAddr> = host
            .domains
            .iter()
            .filter_map(|domain| as_address(domain))
            .collect();
        if addresses.is_empty() {
            continue;
        }
        for domain in host.domains.iter().filter(plain) {
            if as_address(domain).is_none() && !domain.starts_with('*') {
                names
                    .entry(domain.to_ascii_lowercase())
                    .or_default()
                    .extend(&addresses);
            }
        }
    }
    for chain in view
        .listeners
        .values()
        .flat_map(|listener| &listener.chains)
    {
        let clusters: Vec<&str> = match &chain.action {
            ChainAction::Tcp { clusters, .. } => {
                clusters.iter().map(|(name, _)| name.as_str()).collect()
            }
            ChainAction::Detect { cluster, .. } => vec![cluster],
            ChainAction::Http { .. } => Vec::new(),
        };
        for service in clusters
            .iter()
            .filter_map(|name| view.clusters.get(*name)?.service.as_ref())
        {
            let addresses = chain.matches.destinations.iter().map(ipnet::IpNet::addr);
            let mut known = |name: String| names.entry(name).or_default().extend(addresses.clone());
            known(service.host.to_string());
            for end in ["", ".svc"] {
                known(format!("{}.{}{end}", service.name, service.namespace));
            }
        }
    }
    names.retain(|_, addresses| !addresses.is_empty());
    names
}

/// The answer to `question` if it is about a name of the mesh.
fn answer(names: &Names, question: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = asked.queries.first()?;
    let name = query.name().to_string().to_ascii_lowercase();
    let addresses = names.get(name.trim_end_matches('.'))?;
    let kind = query.query_type();
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = ResponseCode::NoError;
    reply.add_query(query.clone());
    for address in addresses {
        let data = match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
            (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
            _ => continue,
        };
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    }
    reply.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::Name;

    use super::*;

    fn ask(names: &Names, name: &str, kind: RecordType) -> Option<Message> {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let reply = answer(names, &question.to_vec().unwrap())?;
        Some(Message::from_vec(&reply).unwrap())
    }

    #[test]
    fn services_are_answered_and_other_names_are_left_to_others() {
        let address: IpAddr = "240.240.0.1".parse().unwrap();
        let names: Names = [("reviews.default".to_owned(), [address].into())].into();
        let reply = ask(&names, "Reviews.Default.", RecordType::A).unwrap();
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.answers.len(), 1);
        // No such record, but the name is there: no other resolver may be asked.
        assert!(
            ask(&names, "reviews.default.", RecordType::AAAA)
                .unwrap()
                .answers
                .is_empty()
        );
        let both = [address, "fd00::7".parse().unwrap()];
        let names: Names = [("reviews.default".to_owned(), both.into())].into();
        for (kind, data) in [
            (RecordType::A, RData::A(A([240, 240, 0, 1].into()))),
            (
                RecordType::AAAA,
                RData::AAAA(AAAA("fd00::7".parse().unwrap())),
            ),
        ] {
            let reply = ask(&names, "reviews.default.", kind).unwrap();
            assert_eq!(reply.answers.len(), 1, "{kind}");
            assert_eq!(reply.answers[0].data, data);
        }
        assert!(ask(&names, "example.com.", RecordType::A).is_none());
        assert!(answer(&names, b"nonsense").is_none());
    }
}
