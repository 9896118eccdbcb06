//! Sending a request to endpoints of its cluster until one answers.
//!
//! A request is delivered a second time only when its policy says so, or when the first delivery
//! cannot have been processed: nothing was written, or a kept connection had died under it and the
//! method may be repeated.
//!
//! [`forward`] takes a place in the cluster and hands over to `tries`, which decides about another
//! try; `attempt` is one try, `begin` puts the request on a connection, `target` chooses where to.

mod attempt;
mod begin;
mod ended;
mod target;
mod tries;

use std::rc::Rc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::telemetry::ServiceId;

use super::super::context::{Conn, Live, Worker};
use super::super::limit;
use super::super::timer::Alarm;
use super::leg::Leg;
use super::plan::{Chosen, Facts};
use super::replay::Replay;
use super::respond::Failure;

pub(crate) use ended::Ended;
pub(crate) use target::pick;
use tries::Calling;

/// A request to be sent on, with what it needs.
pub(crate) struct Call<'c> {
    pub(crate) worker: &'c Rc<Worker>,
    pub(crate) live: &'c Rc<Live>,
    pub(crate) conn: &'c Conn,
    pub(crate) facts: Facts,
    pub(crate) chosen: &'c Chosen,
    pub(crate) begun: Instant,
    /// The caller's connection ends with this request.
    pub(crate) close: bool,
}

/// Sends the request on and passes the answer to `down`.
pub(crate) async fn forward(call: &Call<'_>, down: &mut Leg, alarm: &mut Alarm) -> Ended {
    let tables = &call.live.tables;
    let Some(cluster) = tables.cluster(Some(call.chosen.cluster)) else {
        return Ended::new(ServiceId::default()).fail(Failure::NoCluster);
    };
    let Some(routed) = call.chosen.at.routed(call.live) else {
        return Ended::new(cluster.service).fail(Failure::NoRoute);
    };
    let mut ended = Ended::new(cluster.service);
    if !call.conn.inbound() {
        ended.route = routed.table.label;
    }
    let limits = &cluster.config.limits;
    let Some(_place) = limit::hold(&cluster.counters.requests, limits.max_requests) else {
        cluster.counters.overflowed.fetch_add(1, Ordering::Relaxed);
        return ended.fail(Failure::Overflow);
    };
    Calling {
        call,
        cluster,
        routed,
        deadline: routed.forward.timeout.map(|timeout| call.begun + timeout),
        ended,
        replay: Replay::default(),
        refused: SmallVec::new(),
        tries: 0,
        fresh: false,
    }
    .run(down, alarm)
    .await
}
