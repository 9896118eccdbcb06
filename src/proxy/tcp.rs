//! Bytes, carried as they are, each direction until it ends.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::mesh::ClusterKind;
use crate::mesh::route::Priority;
use crate::rt;
use crate::telemetry::{AccessRecord, Flag, PeerId};

use super::balance::outlier::{self, Outcome};
use super::buffer::Buffer;
use super::connect::{self, Target, dial};
use super::context::{Conn, Live, Worker};
use super::http::call::pick;
use super::http::respond::Failure;
use super::observe::TcpReport;
use super::stream::Stream;
use super::timer::Alarm;
use super::tls::Speak;

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

/// One direction. False in the result of [`Way::poll`] is a broken connection.
struct Way {
    stage: Stage,
    unpushed: bool,
}

impl Way {
    fn new() -> Self {
        Self {
            stage: Stage::Copying,
            unpushed: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<'_>,
        to: &mut Side<'_>,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.stage {
                Stage::Copying => {
                    while !from.input.is_empty() {
                        let count = ready!(to.io.poll_send(cx, from.input.data()))?;
                        if count == 0 {
                            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                        }
                        from.input.consume(count);
                        *moved += u64::try_from(count).unwrap_or(0);
                        self.unpushed = true;
                    }
                    match from.io.poll_fill(cx, from.input) {
                        Poll::Ready(Ok(0)) => self.stage = Stage::Closing,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {
                            from.input.release();
                            if self.unpushed {
                                ready!(to.io.poll_push(cx))?;
                                self.unpushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Closing => {
                    ready!(Pin::new(&mut *to.io).poll_shutdown(cx))?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Copies both ways until both have ended, one breaks, or nothing moves for `idle` (zero is for
/// ever). `report` is told what moved since it was last called.
pub(crate) async fn relay(
    mut down: Side<'_>,
    mut up: Side<'_>,
    idle: Duration,
    counts: &mut Counts,
    report: impl Fn(u64, u64),
) {
    let mut upward = Way::new();
    let mut downward = Way::new();
    let mut alarm = Alarm::default();
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
            (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_)))
            | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ if idle.is_zero() => Poll::Pending,
            _ => alarm.poll(cx, last + idle),
        }
    })
    .await;
}

/// Carries a caller's connection to an endpoint of `cluster`.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    live: Rc<Live>,
    conn: &Conn,
    (mut stream, mut first): (Stream, Buffer),
    (cluster, idle): (Option<usize>, Duration),
) {
    let Some(cluster) = live.tables.cluster(cluster) else {
        let service = crate::telemetry::ServiceId::default();
        let whom = (service, PeerId::default());
        refused(worker, &live, conn, whom, &Failure::NoCluster);
        return;
    };
    let mut target_of = None;
    let dialed = match target(worker, &live, conn, cluster).await {
        Ok(target) => {
            target_of = Some(target);
            match cluster.gate(Priority::Default).connection() {
                Some(slot) => dial(worker, &live, cluster, &target, Speak::Bytes)
                    .await
                    .map(|dialed| (dialed, slot)),
                None => Err(Failure::Overflow),
            }
        }
        Err(failure) => Err(failure),
    };
    let peer = target_of
        .and_then(|target| target.entry)
        .map_or_else(PeerId::default, |entry| entry.peer);
    if let Some(entry) = target_of.and_then(|target| target.entry) {
        let outcome = match &dialed {
            Ok(_) => Some(Outcome::Connected),
            // That says nothing of the endpoint.
            Err(Failure::Overflow) => None,
            Err(_) => Some(Outcome::Failed),
        };
        if let Some(outcome) = outcome {
            outlier::record(cluster, entry, (outcome, None), || {
                worker.shared.millis(rt::now())
            });
        }
    }
    let (mut dialed, _slot) = match dialed {
        Ok(dialed) => dialed,
        Err(failure) => {
            refused(worker, &live, conn, (cluster.service, peer), &failure);
            return;
        }
    };
    let report = TcpReport::open(worker, &live, conn, peer, (cluster.service, Flag::None));
    let upstream_cluster = cluster.config.name.clone();
    let upstream_host = target_of.map_or_else(String::new, |target| target.address.to_string());
    // The relay may last for days; the tables of its begin must not.
    drop(live);
    let mut answer = Buffer::default();
    let mut counts = Counts::default();
    relay(
        Side {
            io: &mut stream,
            input: &mut first,
        },
        Side {
            io: &mut dialed.stream,
            input: &mut answer,
        },
        idle,
        &mut counts,
        |received, sent| {
            report.cells.received.add(received);
            report.cells.sent.add(sent);
        },
    )
    .await;
    let record = AccessRecord {
        received: counts.received,
        sent: counts.sent,
        upstream_cluster,
        upstream_host,
        ..AccessRecord::default()
    };
    report.close(worker, conn, record);
}

async fn target<'t>(
    worker: &Rc<Worker>,
    live: &Live,
    conn: &Conn,
    cluster: &'t super::tables::ClusterTable,
) -> Result<Target<'t>, Failure> {
    if cluster.config.kind == ClusterKind::OriginalDestination {
        let address = connect::meant(worker, live, conn.meant, b"").await?;
        return Ok(Target {
            address,
            entry: None,
        });
    }
    pick(cluster, &[])
}

fn refused(
    worker: &Worker,
    live: &Live,
    conn: &Conn,
    (service, peer): (crate::telemetry::ServiceId, PeerId),
    failure: &Failure,
) {
    let reply = failure.reply();
    let report = TcpReport::open(worker, live, conn, peer, (service, reply.flag));
    let record = AccessRecord {
        flag: reply.flag,
        upstream_failure: failure.transport_reason(),
        ..AccessRecord::default()
    };
    report.close(worker, conn, record);
}
