//! One question to whoever answers, by the cluster that it is: its endpoints, its mTLS, its connections.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::route::{Missing, Priority};

use super::super::super::balance::Wish;
use super::super::super::context::{Conn, Live, Worker, introduction};
use super::super::super::pool::{self, Lease, Tag};
use super::super::super::tables::ClusterTable;
use super::super::Framing;
use super::super::call::{pick, write_head};
use super::super::drive::h2_failure;
use super::super::fields::{Fields, PEER, scan};
use super::super::h1::body::BodyReader;
use super::super::h1::parse;
use super::super::h2::block::Block;
use super::super::leg::{H2Leg, Leg, Piece, Writer, pump};
use super::super::respond::Failure;

/// Most of an answer's body.
pub(super) const MOST: usize = 256 * 1024;
/// Informational answers before an answer.
const MAX_INFORMATIONAL: u8 = 16;

/// A question as it is sent.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) cluster: String,
    pub(super) head: Block,
    pub(super) body: Vec<u8>,
    /// Only HTTP/2 will do.
    pub(super) grpc: bool,
}

impl Put {
    /// Its answer has no body.
    fn is_head(&self) -> bool {
        self.head.method() == b"HEAD"
    }
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    /// Wherever it stood.
    pub(super) grpc_status: Option<u8>,
}

impl Got {
    /// The first value of a field.
    pub(super) fn first(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_slice())
    }
}

/// Sends `put` and waits for the answer. A kept connection that had died is tried again once.
pub(super) async fn exchange(
    around: (&Rc<Worker>, &Rc<Live>, &Conn),
    put: Put,
) -> Result<Got, Failure> {
    let (_, live, _) = around;
    let cluster = live
        .tables
        .named_cluster(&put.cluster)
        .ok_or(Failure::NoCluster(Missing::default()))?;
    if cluster.drops() {
        return Err(Failure::Dropped);
    }
    let gate = cluster.gate(Priority::Default);
    let _place = gate.request().ok_or(Failure::Overflow)?;
    match once(around, cluster, &put, false).await {
        Err((Failure::Broken | Failure::RefusedStream, true)) => {
            once(around, cluster, &put, true).await
        }
        answer => answer,
    }
    .map_err(|(failure, _)| failure)
}

/// One try; of one that failed, whether the connection had been kept.
async fn once(
    (worker, live, conn): (&Rc<Worker>, &Rc<Live>, &Conn),
    cluster: &ClusterTable,
    put: &Put,
    fresh: bool,
) -> Result<Got, (Failure, bool)> {
    let new = |failure: Failure| (failure, false);
    let gate = cluster.gate(Priority::Default);
    let target = pick(cluster, Wish::default(), worker)
        .map_err(new)?
        .on_behalf(cluster, conn)
        .asked_for(cluster, || put.head.authority());
    let at = (cluster, gate);
    let lease = match cluster.config.protocol {
        UpstreamProtocol::Http2 => pool::http2(worker, live, at, &target).await,
        UpstreamProtocol::Negotiated if !pool::chose_http1(worker, cluster, &target) => {
            pool::negotiated(worker, live, at, &target, fresh).await
        }
        _ if put.grpc => pool::http2(worker, live, at, &target).await,
        _ => pool::http1(worker, live, at, &target, fresh).await,
    };
    let lease = lease.map_err(new)?;
    let kept = lease.was_used();
    let got = match lease {
        // gRPC is spoken by HTTP/2 only.
        Lease::H1(..) if put.grpc => return Err(new(Failure::BadResponse)),
        Lease::H1(mut leg, mut tag) => {
            leg.begin(Writer::Plain);
            leg.reader = BodyReader::default();
            leg.out.clear();
            write_head(&put.head, Framing::None, &mut leg.out);
            if tag.mtls && tag.uses == 0 {
                let own = introduction(&worker.shared.options.workload);
                leg.out
                    .extend_from_slice(format!("{PEER}: {own}\r\n").as_bytes());
            }
            leg.out.extend_from_slice(b"\r\n");
            leg.push(&put.body);
            tag.uses = tag.uses.saturating_add(1);
            text(worker, cluster, (Leg::H1(leg), tag), put.is_head()).await
        }
        Lease::H2(shared) => {
            let end = put.body.is_empty();
            let uses = shared.uses.get();
            let opened = shared.client.open((end, put.is_head()), |out| {
                out.request(&put.head);
                if shared.mtls && uses == 0 {
                    let own = introduction(&worker.shared.options.workload);
                    out.field(PEER.as_bytes(), own.as_bytes(), false);
                }
            });
            shared.uses.set(uses.saturating_add(1));
            match opened {
                Ok(stream) => {
                    let mut leg = H2Leg::new(stream, end);
                    leg.push(&put.body);
                    stream_of(Leg::H2(leg)).await
                }
                Err(error) => Err(h2_failure(error)),
            }
        }
    };
    got.map_err(|failure| (failure, kept))
}

/// Sends what was pushed.
async fn send(up: &mut Leg) -> Result<(), Failure> {
    let mut moved = 0;
    // What whoever answers does not read says nothing: it may answer all the same.
    let sent = poll_fn(|cx| pump(cx, &mut Leg::Nobody, up, &mut moved, None)).await;
    sent.map_err(|_| Failure::Broken)
}

async fn stream_of(mut up: Leg) -> Result<Got, Failure> {
    let sent = send(&mut up).await;
    let Leg::H2(leg) = &up else {
        return Err(Failure::BadResponse);
    };
    let mut informed = 0;
    let mut got = loop {
        let (head, _) = poll_fn(|cx| leg.poll_head(cx)).await.map_err(h2_failure)?;
        if head.status >= 200 {
            break read(Fields::Block(&head), (head.status, false))?.0;
        }
        informed += 1;
        if informed > MAX_INFORMATIONAL {
            return Err(Failure::BadResponse);
        }
    };
    // One who has answered need not have read to the end.
    drop(sent);
    gather(&mut up, &mut got).await?;
    got.grpc_status = got.grpc_status.or(up.grpc_status());
    Ok(got)
}

async fn text(
    worker: &Worker,
    cluster: &ClusterTable,
    (mut up, tag): (Leg, Tag),
    bodiless: bool,
) -> Result<Got, Failure> {
    let sent = send(&mut up).await;
    let mut informed = 0;
    let (mut got, reusable) = loop {
        let Leg::H1(leg) = &mut up else {
            return Err(Failure::BadResponse);
        };
        if !leg.input.is_empty() {
            let head = parse::response(leg.input.data(), |head| {
                let (got, framing, keeps) = read(head.fields, (head.status, bodiless))?;
                Ok::<_, Failure>((got, framing, keeps && head.http11, head.length))
            })?;
            if let Some(head) = head {
                let (got, framing, keeps, length) = head?;
                leg.input.consume(length);
                if got.status >= 200 {
                    leg.reader = BodyReader::new(framing, false);
                    break (got, keeps && framing != Framing::Close);
                }
                informed += 1;
                if got.status == 101 || informed > MAX_INFORMATIONAL {
                    return Err(Failure::BadResponse);
                }
                continue;
            }
        }
        match poll_fn(|cx| leg.poll_fill(cx)).await {
            Ok(0) if leg.input.is_empty() => return Err(Failure::Broken),
            Ok(0) => return Err(Failure::BadResponse),
            Ok(_) => {}
            Err(_) => return Err(Failure::Broken),
        }
    };
    gather(&mut up, &mut got).await?;
    if let (Leg::H1(leg), true) = (up, reusable && sent.is_ok())
        && leg.input.is_empty()
        && !leg.ended
    {
        let most = cluster.config.limits.max_requests_per_connection;
        worker.pools.give_back(leg, tag, most);
    }
    Ok(got)
}

/// A head, how its body ends, and whether the connection may carry another question.
fn read(
    fields: Fields<'_>,
    (status, bodiless): (u16, bool),
) -> Result<(Got, Framing, bool), Failure> {
    let scan = scan(fields).map_err(|_| Failure::BadResponse)?;
    let mut got = Got {
        status,
        grpc_status: scan.grpc_status,
        ..Got::default()
    };
    fields.each(|name, value| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !scan.connection.nominates(name.as_bytes()) {
            got.fields.push((name, value.to_vec()));
        }
    });
    let framing = scan.response_framing(status, bodiless);
    Ok((got, framing, !scan.connection.close))
}

/// Reads the body.
async fn gather(up: &mut Leg, got: &mut Got) -> Result<(), Failure> {
    poll_fn(|cx| {
        loop {
            match std::task::ready!(up.poll_piece(cx)) {
                Ok(Piece::End) => return Poll::Ready(Ok(())),
                Ok(Piece::Data) => {
                    let data = up.data();
                    if got.body.len() + data.len() > MOST {
                        return Poll::Ready(Err(Failure::BadResponse));
                    }
                    got.body.extend_from_slice(data);
                    let count = data.len();
                    up.consume(count);
                }
                Err(_) => return Poll::Ready(Err(Failure::Broken)),
            }
        }
    })
    .await
}
