//! Bytes, carried as they are, each direction until it ends.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::mesh::ClusterKind;
use crate::mesh::listener::TcpOptions;
use crate::mesh::route::{Missing, Priority};
use crate::rt;
use crate::telemetry::{AccessRecord, Flag, PeerId, ServiceId};

use super::balance::Wish;
use super::balance::hash::source_ip;
use super::balance::outlier::{self, Outcome};
use super::buffer::{Buffer, SMALL};
use super::connect::{self, Dialed, Target, dial};
use super::context::{Conn, Live, Worker};
use super::http::call::pick;
use super::http::respond::Failure;
use super::limit::ConnectionSlot;
use super::observe::TcpReport;
use super::rbac::Denied;
use super::stream::Stream;
use super::tables::ClusterTable;
use super::tables::cluster::EndpointState;
use super::timer::Alarm;
use super::tls::Speak;
use super::tunnel;

/// One side of a relay, with what was read of it already.
pub(crate) struct Side<'s> {
    pub(crate) io: &'s mut Stream,
    pub(crate) input: &'s mut Buffer,
}

/// Bytes moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// From the caller.
    pub(crate) received: u64,
    /// To the caller.
    pub(crate) sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    Closing,
    Done,
}

/// Which end of a relay broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broke {
    /// The one that bytes came from.
    From,
    /// The one that they went to.
    To,
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides have said all.
    Done,
    /// The caller went away.
    CallerBroke,
    /// The endpoint broke off.
    EndpointBroke,
    /// Nothing moved for too long.
    Idle,
    /// It lasted too long.
    TooLong,
}

/// How long a relay may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// While nothing moves; zero is for ever.
    pub(crate) idle: Duration,
    /// At all.
    pub(crate) until: Option<Instant>,
}

/// One direction.
struct Way {
    stage: Stage,
    unpushed: bool,
    /// The last read filled its buffer: the next takes a larger one.
    bulk: bool,
}

impl Way {
    fn new() -> Self {
        Self {
            stage: Stage::Copying,
            unpushed: false,
            bulk: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<'_>,
        to: &mut Side<'_>,
        moved: &mut u64,
    ) -> Poll<Result<(), Broke>> {
        loop {
            match self.stage {
                Stage::Copying => {
                    while !from.input.is_empty() {
                        match ready!(to.io.poll_send(cx, from.input.data())) {
                            Ok(0) | Err(_) => return Poll::Ready(Err(Broke::To)),
                            Ok(count) => {
                                from.input.consume(count);
                                *moved += u64::try_from(count).unwrap_or(0);
                                self.unpushed = true;
                            }
                        }
                    }
                    if self.bulk {
                        from.input.enlarge();
                    }
                    match from.io.poll_fill(cx, from.input) {
                        Poll::Ready(Ok(0)) => self.stage = Stage::Closing,
                        Poll::Ready(Ok(count)) => self.bulk = count >= SMALL,
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Broke::From)),
                        Poll::Pending => {
                            from.input.release();
                            if self.unpushed {
                                ready!(to.io.poll_push(cx)).map_err(|_| Broke::To)?;
                                self.unpushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Closing => {
                    ready!(Pin::new(&mut *to.io).poll_shutdown(cx)).map_err(|_| Broke::To)?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Copies both ways until both have ended, one breaks, or patience ends. `report` is told what
/// moved since it was last called.
pub(crate) async fn relay(
    mut down: Side<'_>,
    mut up: Side<'_>,
    patience: Patience,
    counts: &mut Counts,
    report: impl Fn(u64, u64),
) -> End {
    let mut upward = Way::new();
    let mut downward = Way::new();
    let mut alarm = Alarm::default();
    let Patience { idle, until } = patience;
    let mut last = rt::now();
    poll_fn(|cx| {
        let before = *counts;
        let sent = upward.poll(cx, &mut down, &mut up, &mut counts.received);
        let received = downward.poll(cx, &mut up, &mut down, &mut counts.sent);
        if *counts != before {
            report(counts.received - before.received, counts.sent - before.sent);
            if !idle.is_zero() {
                last = rt::now();
            }
        }
        match (sent, received) {
            (Poll::Ready(Err(Broke::From)), _) | (_, Poll::Ready(Err(Broke::To))) => {
                return Poll::Ready(End::CallerBroke);
            }
            (Poll::Ready(Err(Broke::To)), _) | (_, Poll::Ready(Err(Broke::From))) => {
                return Poll::Ready(End::EndpointBroke);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Done),
            _ => {}
        }
        let still = (!idle.is_zero()).then(|| last + idle);
        let Some(deadline) = still.into_iter().chain(until).min() else {
            return Poll::Pending;
        };
        ready!(alarm.poll(cx, deadline));
        Poll::Ready(if until == Some(deadline) {
            End::TooLong
        } else {
            End::Idle
        })
    })
    .await
}

/// The result of `work`; none when the caller breaks off before. What it says meanwhile is kept in `first`,
/// as far as there is room.
pub(crate) async fn while_there<T>(
    stream: &mut Stream,
    first: &mut Buffer,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let mut listens = true;
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        while listens {
            match stream.poll_fill(cx, first) {
                // One who has said all may wait for an answer.
                Poll::Ready(Ok(0)) => listens = false,
                Poll::Ready(Ok(_)) => listens = first.data().len() < SMALL,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await
}

/// A connection that its endpoint carries, for those who look for the one with the fewest.
struct Carried(Arc<EndpointState>);

impl Carried {
    fn new(state: &Arc<EndpointState>) -> Self {
        state.active.fetch_add(1, Ordering::Relaxed);
        state.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to an endpoint, for one caller. It holds nothing of the tables: it may last for days.
pub(crate) struct Reached {
    pub(crate) dialed: Dialed,
    /// What the endpoint has said already.
    pub(crate) answer: Buffer,
    begun: Instant,
    patience: Patience,
    service: ServiceId,
    /// What the log will say; apart, as most connections have none.
    about: Option<Box<AccessRecord>>,
    _slot: ConnectionSlot,
    _carried: Option<Carried>,
}

/// Why there is none, and whose fault it is.
pub(crate) struct Unreached {
    failure: Failure,
    begun: Instant,
    peer: PeerId,
    service: ServiceId,
    about: Option<Box<AccessRecord>>,
}

/// Connects to an endpoint of `cluster`, in as many attempts as `options` allow.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    live: &Live,
    conn: &Conn,
    (cluster, options): (Option<usize>, &TcpOptions),
) -> Result<Reached, Unreached> {
    let begun = rt::now();
    let Some(cluster) = live.tables.cluster(cluster) else {
        return Err(Unreached {
            failure: Failure::NoCluster(Missing::default()),
            begun,
            peer: PeerId::default(),
            service: ServiceId::default(),
            about: None,
        });
    };
    let (target, tried, reached) = reach(worker, live, conn, cluster, options).await;
    let entry = target.and_then(|target| target.entry);
    let peer = entry.map_or_else(PeerId::default, |entry| entry.peer);
    let service = cluster.service;
    let about = TcpReport::logs(worker, conn).then(|| {
        Box::new(AccessRecord {
            upstream_cluster: cluster.config.name.clone(),
            upstream_host: target.map_or_else(String::new, |target| target.address.to_string()),
            attempts: tried,
            service,
            destination: peer,
            ..AccessRecord::default()
        })
    });
    let (dialed, answer, slot) = match reached {
        Ok(reached) => reached,
        Err(failure) => {
            return Err(Unreached {
                failure,
                begun,
                peer,
                service,
                about,
            });
        }
    };
    let about = about.map(|about| {
        let local = dialed.local.map(|local| local.to_string());
        let registry = &worker.shared.registry;
        let principal = |on: bool| on.then(|| registry.peer_labels(dialed.peer).principal);
        let own = live.identity.as_ref().filter(|_| dialed.mtls);
        Box::new(AccessRecord {
            upstream_local: local.unwrap_or_default(),
            upstream_link: Some(dialed.link),
            upstream_principal: principal(dialed.mtls).unwrap_or_default(),
            own_principal: own.map_or_else(String::new, |own| own.id.clone()),
            connected_time: Some(begun.elapsed()),
            ..*about
        })
    });
    Ok(Reached {
        dialed,
        answer,
        begun,
        patience: Patience {
            idle: options.idle_timeout,
            until: options.max_duration.map(|most| begun + most),
        },
        service,
        about,
        _slot: slot,
        _carried: entry.map(|entry| Carried::new(&entry.state)),
    })
}

/// Carries a caller's connection to an endpoint of a cluster.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    live: Rc<Live>,
    conn: &Conn,
    (stream, first): (Stream, Buffer),
    (cluster, options): (Option<usize>, TcpOptions),
) {
    match Box::pin(open(worker, &live, conn, (cluster, &options))).await {
        Ok(reached) => carry(worker, live, conn, (stream, first), reached).await,
        Err(unreached) => refused(worker, &live, conn, unreached),
    }
}

/// Carries a caller's connection to where it leads.
pub(crate) async fn carry(
    worker: &Rc<Worker>,
    live: Rc<Live>,
    conn: &Conn,
    (mut stream, mut first): (Stream, Buffer),
    mut reached: Reached,
) {
    let whom = (reached.service, Flag::None);
    let to = (reached.dialed.peer, Some(reached.dialed.link));
    let report = TcpReport::open(worker, &live, conn, to, whom).since(reached.begun);
    drop(live);
    let mut counts = Counts::default();
    let end = relay(
        Side {
            io: &mut stream,
            input: &mut first,
        },
        Side {
            io: &mut reached.dialed.stream,
            input: &mut reached.answer,
        },
        reached.patience,
        &mut counts,
        |received, sent| {
            report.cells.received.add(received);
            report.cells.sent.add(sent);
        },
    )
    .await;
    // What one side broke must not look whole to the other.
    let (flag, details) = match end {
        End::Done => (Flag::None, ""),
        End::CallerBroke => {
            reached.dialed.stream.reset();
            (Flag::Dc, "")
        }
        End::EndpointBroke => {
            stream.reset();
            (Flag::Uc, "")
        }
        // In Envoy's words.
        End::Idle => (Flag::None, "tcp_session_idle_timeout"),
        End::TooLong => (Flag::Dt, "max_connection_duration_reached"),
    };
    if let Some(link) = conn.linked.get() {
        link.moved(counts.received, counts.sent);
    }
    let record = AccessRecord {
        received: counts.received,
        sent: counts.sent,
        flag,
        details,
        ..reached.about.take().map(|about| *about).unwrap_or_default()
    };
    report.close(worker, conn, record);
}

/// Connects to an endpoint, and to another when one cannot be connected to. The endpoint is the last
/// that was tried; with how many were.
async fn reach<'l>(
    worker: &Rc<Worker>,
    live: &'l Live,
    conn: &'l Conn,
    cluster: &'l ClusterTable,
    options: &TcpOptions,
) -> (
    Option<Target<'l>>,
    u32,
    Result<(Dialed, Buffer, ConnectionSlot), Failure>,
) {
    let mut refused: SmallVec<[u64; 4]> = SmallVec::new();
    let mut tried = 0;
    let hash = options.hash_source_ip.then(|| source_ip(conn.remote.ip()));
    loop {
        tried += 1;
        let wish = Wish {
            refused: &refused,
            hash,
            ..Wish::default()
        };
        let target = match target(worker, live, conn, cluster, wish).await {
            Ok(target) => target,
            Err(failure) => return (None, tried, Err(failure)),
        };
        let gate = cluster.gate(Priority::Default);
        let Some(slot) = target.slot(cluster, gate.connection()) else {
            return (Some(target), tried, Err(Failure::Overflow));
        };
        let mut dialed = dial(worker, live, cluster, &target, Speak::Bytes).await;
        let mut answer = Buffer::default();
        if let (Ok(made), Some(to)) = (&mut dialed, options.tunnel.as_deref()) {
            let timeout = cluster.config.connect_timeout;
            let asked = tunnel::ask(&mut made.stream, to, timeout);
            match Box::pin(asked).await {
                Ok(said) => answer = said,
                Err(reason) => {
                    let reason = format!("{}: {reason}", target.address);
                    tracing::debug!(reason, "the tunnel cannot be opened");
                    dialed = Err(Failure::Connect(reason));
                }
            }
        }
        if let Some(entry) = target.entry {
            let outcome = match &dialed {
                Ok(_) => Outcome::Connected,
                Err(_) => Outcome::Failed,
            };
            outlier::record(cluster, entry, (outcome, None), || {
                worker.shared.millis(rt::now())
            });
        }
        match dialed {
            Ok(dialed) => return (Some(target), tried, Ok((dialed, answer, slot))),
            Err(failure) if tried >= options.max_connect_attempts => {
                return (Some(target), tried, Err(failure));
            }
            Err(_) => refused.extend(target.entry.map(|entry| entry.state.id)),
        }
    }
}

async fn target<'t>(
    worker: &Rc<Worker>,
    live: &Live,
    conn: &'t Conn,
    cluster: &'t ClusterTable,
    wish: Wish<'_>,
) -> Result<Target<'t>, Failure> {
    if cluster.config.kind == ClusterKind::OriginalDestination {
        let target = connect::meant(worker, live, conn.meant, b"").await?;
        return Ok(target.on_behalf(cluster, conn));
    }
    let target = pick(cluster, wish, worker)?;
    // Where a gateway is among the endpoints of what it carries to, each connection would make another.
    if worker.shared.gateway && target.address == conn.local {
        return Err(Failure::Loop);
    }
    Ok(target.on_behalf(cluster, conn))
}

/// Takes down a caller who may not connect.
pub(crate) fn denied(worker: &Worker, live: &Live, conn: &Conn, denied: Denied) {
    let whom = (ServiceId::default(), denied.flag);
    let to = (PeerId::default(), None);
    let report = TcpReport::open(worker, live, conn, to, whom);
    let record = AccessRecord {
        details: match denied.flag {
            Flag::Uaex => "ext_authz_denied",
            _ => "",
        },
        policy: denied.policy,
        flag: denied.flag,
        ..AccessRecord::default()
    };
    report.close(worker, conn, record);
}

fn refused(worker: &Worker, live: &Live, conn: &Conn, unreached: Unreached) {
    let Unreached {
        failure,
        begun,
        peer,
        service,
        about,
    } = unreached;
    let reply = failure.reply();
    let whom = (service, reply.flag);
    let report = TcpReport::open(worker, live, conn, (peer, None), whom).since(begun);
    let record = AccessRecord {
        flag: reply.flag,
        upstream_failure: failure.transport_reason(),
        ..about.map(|about| *about).unwrap_or_default()
    };
    report.close(worker, conn, record);
}
