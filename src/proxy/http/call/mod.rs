//! Sending a request to endpoints of its cluster until one answers.
//!
//! A request is delivered a second time only when its policy says so, or when the first delivery
//! cannot have been processed: nothing was written, or a kept connection had died under it and the
//! method may be repeated.
//!
//! [`forward`] takes a place in the cluster and hands over to `tries`, which makes one try after the
//! other; `attempt` is one try, `target` chooses where it goes, `begin` puts it on a connection,
//! `clock` says when it has taken too long, `again` whether another may be made, `hedge` lets
//! several go on beside each other, and `mirror` sends copies.

pub(crate) mod again;
mod attempt;
mod begin;
mod clock;
mod ended;
mod hedge;
pub(crate) mod compare;
mod mirror;
mod target;
mod tries;

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::mesh::route::Missing;
use crate::telemetry::ServiceId;

use super::super::context::{Conn, Live, Worker};
use super::super::observe;
use super::super::tables::RetryTable;
use super::super::timer::Alarm;
use super::Framing;
use super::leg::{Leg, Recoding};
use super::plan::{Chosen, Facts, Routed};
use super::recode::{Recoder, WebRequest};
use super::replay::Replay;
use super::respond::Failure;

pub(crate) use begin::write_text as write_head;
use clock::Clock;
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

impl Call<'_> {
    /// Tells the filters how the request ended.
    pub(crate) fn passed(&self, ended: &Ended) {
        if let Some(passed) = self.chosen.passed()
            && ended.failure.is_none()
            && !ended.broken
        {
            passed.answered();
        }
    }

    /// The limits of the request: its route's, or its own where it may say.
    fn clock(&self, routed: Routed<'_>, policy: Option<&RetryTable>) -> Clock {
        let deadlines = &routed.forward.deadlines;
        let listener = &self.conn.http().options.timeouts;
        let control = self.chosen.control();
        let own = |pick: fn(&super::control::Control) -> Option<Duration>| control.and_then(pick);
        let some = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let timeout = own(|control| control.timeout)
            .or(routed.forward.timeout)
            .and_then(some);
        let max_stream = own(|control| control.max_stream)
            .or(deadlines.max_stream)
            .or(listener.max_stream)
            .and_then(some);
        let per_try = own(|control| control.per_try)
            .or(policy.and_then(|policy| policy.per_try))
            .and_then(some)
            // One that is no shorter says nothing (Envoy).
            .filter(|limit| timeout.is_none_or(|timeout| *limit < timeout));
        let mut clock = Clock {
            timeout,
            idle: deadlines.idle.or(listener.stream_idle).and_then(some),
            arrives: listener.request.map(|limit| self.begun + limit),
            per_try,
            per_try_idle: policy.and_then(|policy| policy.per_try_idle),
            stream_ends: max_stream.map(|longest| self.begun + longest),
            ..Clock::default()
        };
        if self.facts.framing == Framing::None {
            clock.complete(self.begun);
        }
        clock
    }
}

/// Sends the request on and passes the answer to `down`.
pub(crate) async fn forward(call: &Call<'_>, down: &mut Leg, alarm: &mut Alarm) -> Ended {
    let tables = &call.live.tables;
    let Some(cluster) = tables.cluster(Some(call.chosen.cluster)) else {
        return Ended::new(ServiceId::default()).fail(Failure::NoCluster(Missing::default()));
    };
    let Some(routed) = call.chosen.at.routed(call.live) else {
        return Ended::new(cluster.service).fail(Failure::NoRoute);
    };
    let mut ended = Ended::new(cluster.service);
    observe::arrived(call.worker, call.live, call.conn, cluster.service);
    if !call.conn.inbound() {
        ended.route = routed.table.label;
    }
    if cluster.drops() {
        return ended.fail(Failure::Dropped);
    }
    let gate = cluster.gate(routed.forward.priority);
    let Some(_place) = gate.request() else {
        return ended.fail(Failure::Overflow);
    };
    let held = call.chosen.held();
    ended.received += u64::try_from(held.len()).unwrap_or(0);
    let route_policy = routed.table.retry.as_ref();
    let policy = match call.chosen.control() {
        Some(control) => control.retry.over(route_policy),
        None => route_policy,
    };
    let mut ended = Calling {
        call,
        cluster,
        gate,
        routed,
        clock: call.clock(routed, policy),
        policy,
        left: policy.map_or(0, |policy| policy.attempts),
        ended,
        replay: Replay::after(routed.forward.replay_limit, held),
        recoding: call
            .facts
            .recodes()
            .then(|| Box::new(Recoding::new(Recoder::WebRequest(WebRequest::default())))),
        refused: SmallVec::new(),
        trying: None,
        slot: None,
        tries: 0,
        fresh: false,
        reached: false,
        after_timeout: false,
        late: None,
        mirrored: false,
    }
    .run(down, alarm)
    .await;
    ended.told = call.chosen.told();
    ended
}
