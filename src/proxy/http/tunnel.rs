//! Connections that stop being HTTP: `Upgrade` and CONNECT.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::mesh::ClusterKind;
use crate::mesh::route::Missing;
use crate::rt;
use crate::telemetry::{Flag, Linked, Protection, Protocol};

use super::super::balance::Wish;
use super::super::connect::{self, dial};
use super::super::context::{Conn, Live, Worker};
use super::super::observe;
use super::super::stream::Stream;
use super::super::tcp;
use super::super::timer::Alarm;
use super::super::tls::Speak;
use super::call::{Ended, pick};
use super::leg::{Leg, pump};
use super::plan::Chosen;
use super::respond::Failure;

/// A tunnel on which nothing moves is closed after this long (Istio's default for TCP).
const IDLE: Duration = Duration::from_hours(1);

/// The endpoint's side of a CONNECT, and what counts it.
pub(crate) type Opened = (Stream, Option<Linked>);

/// Opens the endpoint's side of a CONNECT.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    live: &Live,
    conn: &Conn,
    chosen: &Chosen,
) -> (Ended, Option<Opened>) {
    let Some(cluster) = live.tables.cluster(Some(chosen.cluster)) else {
        let ended = Ended::new(crate::telemetry::ServiceId::default());
        return (ended.fail(Failure::NoCluster(Missing::default())), None);
    };
    let mut ended = Ended::new(cluster.service);
    let target = if cluster.config.kind == ClusterKind::OriginalDestination {
        connect::meant(worker, live, None, chosen.authority()).await
    } else {
        pick(cluster, Wish::default(), worker)
    }
    .map(|target| target.on_behalf(cluster, conn));
    let dialed = match target {
        Ok(target) => {
            ended.upstream = Some(target.address);
            if let Some(entry) = target.entry {
                ended.destination = entry.peer;
            }
            dial(worker, live, cluster, &target, Speak::Bytes).await
        }
        Err(failure) => Err(failure),
    };
    match dialed {
        Ok(dialed) => {
            ended.status = 200;
            ended.flag = Flag::None;
            ended.upstream_local = dialed.local;
            ended.mtls = dialed.link.protection == Protection::MutualTls;
            let link = observe::dialed(worker, live, cluster, (&dialed, Protocol::Tcp));
            (ended, Some((dialed.stream, link)))
        }
        Err(failure) => (ended.fail(failure), None),
    }
}

/// Copies both ways until both sides have ended. What was read already goes first.
pub(crate) async fn run((down, up): (&mut Leg, &mut Leg), ended: &mut Ended, link: Option<Linked>) {
    let mut counts = tcp::Counts::default();
    match (down, up) {
        (Leg::H1(down), Leg::H1(up)) => {
            // Heads that still wait are written before anything else.
            let flushed = poll_fn(|cx| down.poll_flush(cx)).await;
            if flushed.is_err() {
                return;
            }
            let down_side = tcp::Side {
                io: &mut down.io,
                input: &mut down.input,
            };
            let up_side = tcp::Side {
                io: &mut up.io,
                input: &mut up.input,
            };
            let patience = tcp::Patience {
                idle: IDLE,
                until: None,
            };
            let report = |received, sent| {
                if let Some(link) = &link {
                    link.moved(received, sent);
                }
            };
            tcp::relay(down_side, up_side, patience, &mut counts, report).await;
        }
        (down, up) => {
            down.stop_framing();
            up.stop_framing();
            carry(down, up, &mut counts).await;
            if let Some(link) = &link {
                link.moved(counts.received, counts.sent);
            }
        }
    }
    ended.received += counts.received;
    ended.sent += counts.sent;
}

/// Copies between legs of which one at least is a stream of HTTP/2.
async fn carry(down: &mut Leg, up: &mut Leg, counts: &mut tcp::Counts) {
    let mut alarm = Alarm::default();
    let (mut gone_up, mut come_down) = (false, false);
    let mut moved = (0, rt::now());
    poll_fn(|cx| {
        let before = counts.received + counts.sent;
        let ways = [
            one_way(
                cx,
                (&mut *down, &mut *up),
                &mut gone_up,
                &mut counts.received,
            ),
            one_way(cx, (&mut *up, &mut *down), &mut come_down, &mut counts.sent),
        ];
        if ways.contains(&Way::Broken) {
            return Poll::Ready(());
        }
        if gone_up && come_down {
            return Poll::Ready(());
        }
        let now = counts.received + counts.sent;
        if now != before || moved.0 != now {
            moved = (now, rt::now());
        }
        alarm.poll(cx, moved.1 + IDLE)
    })
    .await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Broken,
}

/// Moves what there is in one direction, and its end.
fn one_way(
    cx: &mut Context<'_>,
    (from, to): (&mut Leg, &mut Leg),
    done: &mut bool,
    count: &mut u64,
) -> Way {
    if *done {
        return Way::Open;
    }
    match pump(cx, from, to, count, None) {
        Poll::Ready(Ok(())) => *done = to.poll_end(cx).is_ready(),
        Poll::Ready(Err(_)) => return Way::Broken,
        Poll::Pending => {}
    }
    Way::Open
}
