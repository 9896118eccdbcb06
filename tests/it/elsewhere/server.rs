//! A name server, over UDP and TCP, that can say nothing, SERVFAIL, or too much for a datagram.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

/// How it answers for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SERVFAIL.
    Fails,
    /// Nothing.
    Silent,
    /// Truncated, so that it is asked again over TCP.
    Long,
}

#[derive(Default)]
struct Zone {
    records: BTreeMap<(String, RecordType), (u32, Vec<RData>)>,
    faults: BTreeMap<String, Fault>,
    /// How long it holds that there is nothing.
    nothing: u32,
    asked: Vec<(String, RecordType)>,
    over_tcp: usize,
}

/// A running server; it goes with this.
pub(crate) struct Server {
    zone: Arc<Mutex<Zone>>,
    pub(crate) address: SocketAddr,
    _tasks: Tasks,
}

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub(crate) fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, name(target)))
}

pub(crate) fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

pub(crate) fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        // Both families of sockets have one port, which is free for both at some time.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = bind(udp.local_addr().unwrap(), BindOptions::default()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone {
            nothing: 1,
            ..Zone::default()
        }));
        let tasks = Tasks::new();
        let of = Arc::clone(&zone);
        tasks.spawn("dns", async move {
            let mut buffer = [0; 2_048];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                if let Some(reply) = answer(&of, &buffer[..length], false) {
                    udp.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let (of, within) = (Arc::clone(&zone), tasks.clone());
        tasks.spawn("dns", async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let of = Arc::clone(&of);
                within.spawn("dns", async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; usize::from(length)];
                        stream.read_exact(&mut question).await.unwrap();
                        let Some(reply) = answer(&of, &question, true) else {
                            return;
                        };
                        let length = u16::try_from(reply.len()).unwrap();
                        stream.write_u16(length).await.unwrap();
                        stream.write_all(&reply).await.unwrap();
                    }
                });
            }
        });
        Self {
            zone,
            address,
            _tasks: tasks,
        }
    }

    fn zone<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        change(&mut self.zone.lock().unwrap())
    }

    /// The records of a name; those of a type that has none are taken out.
    pub(crate) fn set(&self, name: &str, kind: RecordType, ttl: u32, records: Vec<RData>) {
        self.zone(|zone| {
            let key = (name.to_owned(), kind);
            if records.is_empty() {
                zone.records.remove(&key);
            } else {
                zone.records.insert(key, (ttl, records));
            }
        });
    }

    pub(crate) fn fault(&self, name: &str, fault: Option<Fault>) {
        self.zone(|zone| match fault {
            Some(fault) => zone.faults.insert(name.to_owned(), fault),
            None => zone.faults.remove(name),
        });
    }

    /// How often a name was asked for.
    pub(crate) fn asked(&self, name: &str, kind: RecordType) -> usize {
        self.zone(|zone| {
            let asked = zone.asked.iter();
            asked
                .filter(|(asked, of)| asked == name && *of == kind)
                .count()
        })
    }

    /// Every name that was asked for.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.zone(|zone| zone.asked.iter().map(|(name, _)| name.clone()).collect())
    }

    pub(crate) fn over_tcp(&self) -> usize {
        self.zone(|zone| zone.over_tcp)
    }
}

fn answer(zone: &Mutex<Zone>, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let asked = query.name().to_ascii().to_lowercase();
    let asked = asked.trim_end_matches('.').to_owned();
    let kind = query.query_type();
    let mut zone = zone.lock().unwrap();
    zone.asked.push((asked.clone(), kind));
    zone.over_tcp += usize::from(over_tcp);
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    match zone.faults.get(&asked) {
        Some(Fault::Silent) => return None,
        Some(Fault::Fails) => {
            reply.metadata.response_code = ResponseCode::ServFail;
            return reply.to_vec().ok();
        }
        Some(Fault::Long) if !over_tcp => {
            reply.metadata.truncation = true;
            return reply.to_vec().ok();
        }
        _ => {}
    }
    let mut at = asked;
    loop {
        let owner = name(&at);
        if let Some((ttl, records)) = zone.records.get(&(at.clone(), kind)) {
            for record in records {
                reply.add_answer(Record::from_rdata(owner.clone(), *ttl, record.clone()));
            }
        } else if let Some((ttl, records)) = zone.records.get(&(at.clone(), RecordType::CNAME))
            && let Some(RData::CNAME(target)) = records.first()
        {
            reply.add_answer(Record::from_rdata(owner, *ttl, records[0].clone()));
            target
                .0
                .to_ascii()
                .trim_end_matches('.')
                .clone_into(&mut at);
            continue;
        }
        break;
    }
    if reply.answers.is_empty() {
        let known = zone.records.keys().any(|(name, _)| *name == at);
        if !known {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        let nothing = i32::try_from(zone.nothing).unwrap();
        let soa = SOA::new(
            name("ns.test"),
            name("admin.test"),
            1,
            nothing,
            nothing,
            nothing,
            zone.nothing,
        );
        reply.add_authority(Record::from_rdata(
            name("test"),
            zone.nothing,
            RData::SOA(soa),
        ));
    }
    reply.to_vec().ok()
}
