//! Copies of requests, whose answers nobody gets.
//!
//! A copy is made from what is kept for another try, at the moment when the whole request has gone
//! up, and runs in a task of its own: the caller waits for nothing of it. Bodies that are not kept
//! whole are not copied, nor is anything while too many copies are under way.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::mesh::route::Priority;
use crate::rt;

use super::super::super::context::{Conn, Live, Worker};
use super::super::super::limit::{ClusterStats, count};
use super::super::super::timer::Alarm;
use super::super::leg::Leg;
use super::super::plan::{Chosen, Facts, MirrorOut, RouteAt};
use super::super::replay::Replay;
use super::clock::Clock;
use super::tries::Calling;
use super::{Call, Ended};

/// Copies of one worker at once; each keeps a body of at most what is kept for another try.
const MOST: usize = 256;

/// Sends the copies of a request that has gone up.
pub(super) fn send(call: &Call<'_>, replay: &Replay) {
    for out in call.chosen.mirrors() {
        let Some(cluster) = call.live.tables.cluster(Some(out.cluster)) else {
            continue;
        };
        let stats = &cluster.counters.stats;
        if !replay.is_whole() || call.worker.mirrors.get() >= MOST {
            count(&stats.upstream_rq_mirror_dropped);
            continue;
        }
        let copy = Copy {
            worker: Rc::clone(call.worker),
            live: Rc::clone(call.live),
            conn: call.conn.shadow(),
            facts: call.facts,
            at: call.chosen.at,
            replay: replay.clone(),
        };
        tokio::task::spawn_local(copy.run(out));
    }
}

struct Copy {
    worker: Rc<Worker>,
    live: Rc<Live>,
    conn: Conn,
    facts: Facts,
    at: RouteAt,
    replay: Replay,
}

/// Counts a copy as gone, however it ends.
struct Gone<'w>(&'w Worker);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let under_way = self.0.mirrors.get();
        self.0.mirrors.set(under_way.saturating_sub(1));
    }
}

impl Copy {
    async fn run(self, out: MirrorOut) {
        self.worker.mirrors.set(self.worker.mirrors.get() + 1);
        let _gone = Gone(&self.worker);
        let Some(cluster) = self.live.tables.cluster(Some(out.cluster)) else {
            return;
        };
        let Some(routed) = self.at.routed(&self.live) else {
            return;
        };
        let stats: &ClusterStats = &cluster.counters.stats;
        let gate = cluster.gate(Priority::Default);
        let Some(_place) = gate.request() else {
            count(&stats.upstream_rq_mirror_dropped);
            return;
        };
        count(&stats.upstream_rq_mirrored);
        let compared = out.compared.clone();
        let chosen = Chosen::mirrored(self.at, out);
        let call = Call {
            worker: &self.worker,
            live: &self.live,
            conn: &self.conn,
            facts: self.facts,
            chosen: &chosen,
            begun: rt::now(),
            close: false,
        };
        // As long as the request itself may take.
        let mut clock = Clock {
            timeout: routed.forward.timeout,
            ..Clock::default()
        };
        clock.complete(call.begun);
        let calling = Calling {
            // What is kept of the body is what went up.
            recoding: None,
            call: &call,
            cluster,
            gate,
            routed,
            clock,
            policy: None,
            left: 0,
            ended: Ended::new(cluster.service),
            replay: self.replay,
            refused: SmallVec::new(),
            trying: None,
            slot: None,
            tries: 0,
            fresh: false,
            reached: false,
            after_timeout: false,
            late: None,
            mirrored: true,
        };
        let ended = calling.run(&mut Leg::Nobody, &mut Alarm::default()).await;
        if let Some(end) = compared {
            end.over(self.worker.comparing());
        }
        tracing::trace!(status = ended.status, "copy of a request ended");
    }
}
