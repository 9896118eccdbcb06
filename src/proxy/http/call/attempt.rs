//! One try at one endpoint.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::mesh::LoadBalancer;
use crate::mesh::cluster::UpstreamProtocol;
use crate::rt;

use super::super::super::balance::outlier::{self, Detector, Outcome};
use super::super::super::connect::Target;
use super::super::super::limit::count;
use super::super::super::pool;
use super::super::super::tables::EndpointEntry;
use super::super::super::timer::Alarm;
use super::super::drive::{Drive, End, Relay, SeenHead, nothing_written};
use super::super::edits::Edits;
use super::super::leg::Leg;
use super::super::plan::HeadOut;
use super::super::respond::{Failure, http_status};
use super::begin::Up;
use super::clock::{Late, Progress};
use super::hedge::Racer;
use super::mirror;
use super::tries::{Calling, Tried};

/// A try that is on its way.
pub(super) struct Flight<'c> {
    pub(super) up: Up,
    pub(super) target: Target<'c>,
    pub(super) active: Option<Active<'c>>,
}

/// Counts a request of an endpoint.
pub(super) struct Active<'e>(&'e EndpointEntry);

impl<'e> Active<'e> {
    fn new(entry: &'e EndpointEntry) -> Self {
        entry.state.active.fetch_add(1, Ordering::Relaxed);
        entry.state.requests.fetch_add(1, Ordering::Relaxed);
        Self(entry)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.state.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'c> Calling<'c> {
    /// Sends the request to one endpoint and passes its answer on, unless it is to be tried again.
    pub(super) async fn attempt(&mut self, down: &mut Leg, alarm: &mut Alarm) -> Tried<'c> {
        let call = self.call;
        let begun = if self.tries == 1 || self.clock.is_off() {
            call.begun
        } else {
            rt::now()
        };
        let mut watch = self.clock.watch(begun);
        let deadline = self.clock.before_connection(&watch);
        self.trying = None;
        // The future keeps no more of a flight than its parts.
        let Flight {
            mut up,
            target,
            active,
        } = match alarm.within(deadline, self.prepare()).await {
            Some(Ok(flight)) => flight,
            Some(Err(tried)) => return tried,
            None => {
                if let Some(target) = self.trying {
                    self.judge(&target, Outcome::TooLate, None);
                }
                let late = self.clock.late(rt::now());
                self.note(late);
                return Tried::undelivered(late.failure(self.clock.complete));
            }
        };
        let sent = self.wants_times().then(rt::now);
        let mut telling = call.chosen.telling();
        if let Some(telling) = telling {
            let (link, protocol) = up.speaks();
            telling.connected(link, protocol);
        }
        let relay = self.relay(up.mtls);
        let mut drive = Drive {
            down,
            up: &mut up.leg,
            replay: &mut self.replay,
            relay: &relay,
            uploaded: up.sent_end,
            upload_broke: false,
            seen: None,
            informed: 0,
            asking: &mut self.recoding,
            answering: None,
            keeping: call.chosen.compared().map(|end| Box::new(end.keeping())),
            received: 0,
            sent: 0,
        };
        let mut passed = None;
        let end = poll_fn(|cx| {
            let polled = drive.poll(cx);
            if drive.uploaded
                && let Some(telling) = telling.take()
            {
                telling.sent();
            }
            if !self.mirrored && drive.uploaded {
                self.mirrored = true;
                if !drive.upload_broke {
                    mirror::send(call, drive.replay);
                }
            }
            if let Poll::Ready(end) = polled {
                return Poll::Ready(end);
            }
            let progress = Progress {
                complete: drive.uploaded,
                answered: drive.seen.is_some(),
                moved: drive.received + drive.sent + u64::from(drive.seen.is_some()),
            };
            let late = ready!(watch.poll(cx, &mut self.clock, alarm, progress));
            passed = Some(late);
            let failure = late.failure(drive.uploaded);
            Poll::Ready(match drive.seen {
                None => End::Failed(failure),
                Some(_) => End::Cut(failure),
            })
        })
        .await;
        let uploaded = drive.uploaded && !drive.upload_broke;
        if uploaded && !self.clock.is_off() {
            self.clock.complete(rt::now());
        }
        if let (End::Done, Some(kept), Some(end)) =
            (&end, drive.keeping.take(), call.chosen.compared())
        {
            end.answered(kept, call.worker.comparing());
        }
        let seen = drive.seen;
        self.ended.received += drive.received;
        self.ended.sent += drive.sent;
        if let Some(late) = passed {
            self.note(late);
            if late == Late::Try && uploaded && seen.is_none() && self.may_race() {
                let flight = Flight { up, target, active };
                self.late = Some(Box::new(Racer::late(flight, relay)));
                return Tried::undelivered(Failure::TryTimeout);
            }
        }
        drop(active);
        self.land((up, &target, sent), (end, seen, uploaded), down)
    }

    /// What passes an answer on, for the present try.
    pub(super) fn relay(&self, peer: bool) -> Relay<'c> {
        let call = self.call;
        let edits = self
            .routed
            .forward
            .clusters
            .get(call.chosen.target)
            .map_or_else(Edits::default, |target| {
                Edits::new(
                    &target.headers.response,
                    &self.routed.route.headers.response,
                )
            })
            .with_cookie(call.chosen.hashed())
            .with_granted(call.chosen.granted())
            .with_session(call.chosen.session())
            .answered_by(self.trying.and_then(|target| target.entry));
        Relay {
            edits,
            facts: call.facts,
            begun: call.begun,
            close: call.close || !call.facts.keep,
            peer,
            upgrade: call.chosen.upgrade(),
            chance: self.chance().filter(|_| self.replay.is_whole()),
            marks: call.chosen.marks(),
            attempts: self.routed.attempts.response.then_some(self.tries),
            answering: call.chosen.answering(&call.facts),
            telling: call.chosen.telling(),
        }
    }

    /// Chooses an endpoint, gets a connection to it and puts the request there.
    pub(super) async fn prepare(&mut self) -> Result<Flight<'c>, Tried<'c>> {
        let call = self.call;
        let target = self.target().await.map_err(Tried::undelivered)?;
        self.trying = Some(target);
        self.ended.upstream = Some(target.address);
        let active = target.entry.map(Active::new);
        if let Some(entry) = target.entry {
            self.ended.destination = entry.peer;
            self.refused.push(entry.state.id);
        }
        let cluster = (self.cluster, self.gate);
        let obtained = match call.chosen.head {
            HeadOut::H2(_) if pool::chose_http1(call.worker, self.cluster, &target) => {
                pool::http1(call.worker, call.live, cluster, &target, self.fresh).await
            }
            HeadOut::Text(_) => {
                pool::http1(call.worker, call.live, cluster, &target, self.fresh).await
            }
            HeadOut::H2(_) if self.cluster.config.protocol == UpstreamProtocol::Negotiated => {
                pool::negotiated(call.worker, call.live, cluster, &target, self.fresh).await
            }
            HeadOut::H2(_) => {
                let obtained = pool::http2(call.worker, call.live, cluster, &target).await;
                match obtained {
                    Ok(lease) if call.facts.upgrade => {
                        Box::pin(lease.takes_connect()).await.map(|()| lease)
                    }
                    obtained => obtained,
                }
            }
        };
        let lease = match obtained {
            Ok(lease) => lease,
            Err(failure) => {
                if failure != Failure::Overflow {
                    self.judge(&target, Outcome::Failed, None);
                }
                return Err(Tried::undelivered(failure));
            }
        };
        let kept = lease.was_used();
        match self.begin(lease) {
            Ok(up) => Ok(Flight { up, target, active }),
            Err(failure) => {
                if !kept {
                    self.judge(&target, Outcome::Failed, None);
                }
                Err(Tried {
                    reused: kept,
                    ..Tried::undelivered(failure)
                })
            }
        }
    }

    /// Ends a try: takes note of it, and gives its connection back where that can be used again.
    pub(super) fn land(
        &mut self,
        (up, target, sent): (Up, &Target<'c>, Option<Instant>),
        (end, seen, uploaded): (End<'c>, Option<SeenHead>, bool),
        down: &Leg,
    ) -> Tried<'c> {
        if let Some(seen) = seen {
            self.ended.status = seen.status;
            self.ended.grpc_status = seen.grpc_status;
            self.ended.flag = seen.flag;
            self.ended.close |= seen.close || !uploaded || !down.is_drained();
            self.ended.upstream_time = Some(seen.at.duration_since(self.call.begun));
        }
        if self.call.facts.grpc && self.ended.grpc_status.is_none() {
            self.ended.grpc_status = up.leg.grpc_status();
        }
        if let Some(telling) = self.call.chosen.telling() {
            telling.ended(up.leg.seen_trailers());
        }
        if let Some(outcome) = self.outcome(seen, &end) {
            let took = sent.zip(seen).map(|(sent, seen)| seen.at - sent);
            self.judge(target, outcome, took);
        }
        let (delivered, reused) = (!nothing_written(&up.leg), up.reused);
        if matches!(end, End::Switched) {
            self.ended.status = 101;
            self.ended.switched = Some((up.leg, up.shared));
        } else if matches!(end, End::Done)
            && uploaded
            && seen.is_some_and(|seen| seen.reusable)
            && let (Leg::H1(leg), Some(tag)) = (up.leg, up.tag)
            && leg.input.is_empty()
            && !leg.ended
        {
            let most = self.cluster.config.limits.max_requests_per_connection;
            self.call.worker.pools.give_back(leg, tag, most);
        }
        Tried {
            end,
            delivered,
            reused,
        }
    }

    /// Counts a limit that was passed.
    pub(super) fn note(&self, late: Late) {
        let stats = &self.gate.counters.stats;
        match late {
            Late::Request => count(&stats.upstream_rq_timeout),
            Late::Try => count(&stats.upstream_rq_per_try_timeout),
            Late::TryIdle => count(&stats.upstream_rq_per_try_idle_timeout),
            Late::Stream => count(&stats.upstream_rq_max_duration_reached),
            Late::Idle | Late::Arrival => {}
        }
    }

    /// What a try says of the endpoint; nothing when it ended for other reasons.
    fn outcome(&self, seen: Option<SeenHead>, end: &End<'_>) -> Option<Outcome> {
        // A call is as good as its own status, wherever that stood.
        let answered = |status| match self.ended.grpc_status {
            Some(grpc) if self.call.facts.grpc => Outcome::Status(http_status(grpc)),
            _ => Outcome::Status(status),
        };
        match (end, seen) {
            // Nothing that the endpoint could help.
            (
                End::CallerGone
                | End::Failed(
                    Failure::BadBody
                    | Failure::BodyTooLarge
                    | Failure::RequestTimeout
                    | Failure::StreamIdle { complete: false }
                    | Failure::MaxDuration { complete: false },
                ),
                _,
            ) => None,
            (End::Retry(status, _), _) => Some(Outcome::Status(*status)),
            (
                End::Failed(
                    Failure::Timeout
                    | Failure::TryTimeout
                    | Failure::TryIdle
                    | Failure::StreamIdle { .. }
                    | Failure::MaxDuration { .. },
                ),
                _,
            ) => Some(Outcome::TooLate),
            (End::Failed(_) | End::Cut(_), _) => Some(Outcome::Failed),
            (_, Some(seen)) => Some(answered(seen.status)),
            (_, None) => None,
        }
    }

    /// Whether somebody goes by how long endpoints take.
    fn wants_times(&self) -> bool {
        let outlier = self.cluster.outlier.as_deref();
        outlier.is_some_and(Detector::wants_times)
            || self.cluster.config.load_balancer == LoadBalancer::PeakEwma
    }

    /// Takes note of how long an endpoint took (Peak EWMA).
    fn observe(&self, entry: &EndpointEntry, outcome: Outcome, took: Option<Duration>) {
        let config = &self.cluster.config;
        let took = match outcome {
            // What fails fast must not look fast.
            Outcome::Failed | Outcome::TooLate => Some(config.connect_timeout),
            Outcome::Status(_) | Outcome::Connected => took,
        };
        if let Some(took) = took {
            let now = self.call.worker.shared.millis(rt::now());
            let latency = &entry.state.latency;
            latency.observe(took, now, config.balancing.decay);
        }
    }

    /// Tells outlier detection how a try went; `took` is the time to the answer's head.
    pub(super) fn judge(&self, target: &Target<'_>, outcome: Outcome, took: Option<Duration>) {
        if self.cluster.config.load_balancer == LoadBalancer::PeakEwma
            && let Some(entry) = target.entry
        {
            self.observe(entry, outcome, took);
        }
        if let (Some(_), Some(entry)) = (&self.cluster.outlier, target.entry) {
            let now = || self.call.worker.shared.millis(rt::now());
            outlier::record(self.cluster, entry, (outcome, took), now);
        }
    }
}
