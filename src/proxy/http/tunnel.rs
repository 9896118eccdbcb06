//! Connections that stop being HTTP: `Upgrade` and CONNECT.

use std::rc::Rc;
use std::time::Duration;

use crate::mesh::ClusterKind;
use crate::telemetry::Flag;

use super::super::balance::Wish;
use super::super::connect::{self, dial};
use super::super::context::{Conn, Live, Worker};
use super::super::stream::Stream;
use super::super::tcp;
use super::super::tls::Speak;
use super::call::{Ended, pick};
use super::leg::H1Leg;
use super::plan::Chosen;
use super::respond::Failure;

/// A tunnel on which nothing moves is closed after this long (Istio's default for TCP).
const IDLE: Duration = Duration::from_hours(1);

/// Opens the endpoint's side of a CONNECT.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    live: &Live,
    conn: &Conn,
    chosen: &Chosen,
) -> (Ended, Option<Stream>) {
    let Some(cluster) = live.tables.cluster(Some(chosen.cluster)) else {
        let ended = Ended::new(crate::telemetry::ServiceId::default());
        return (ended.fail(Failure::NoCluster), None);
    };
    let mut ended = Ended::new(cluster.service);
    let target = if cluster.config.kind == ClusterKind::OriginalDestination {
        connect::meant(worker, live, None, &chosen.authority).await
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
            (ended, Some(dialed.stream))
        }
        Err(failure) => (ended.fail(failure), None),
    }
}

/// Copies both ways until both sides have ended. What was read already goes first.
pub(crate) async fn run(down: &mut H1Leg, up: &mut H1Leg, ended: &mut Ended) {
    // Heads that still wait are written before anything else.
    let flushed = std::future::poll_fn(|cx| down.poll_flush(cx)).await;
    if flushed.is_err() {
        return;
    }
    let mut counts = tcp::Counts::default();
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
    tcp::relay(down_side, up_side, patience, &mut counts, |_, _| {}).await;
    ended.received += counts.received;
    ended.sent += counts.sent;
}
