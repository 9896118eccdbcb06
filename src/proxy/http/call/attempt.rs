//! One try at one endpoint.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::rt;

use super::super::super::balance::outlier::{self, Outcome};
use super::super::super::connect::Target;
use super::super::super::pool;
use super::super::super::tables::EndpointEntry;
use super::super::super::timer::Alarm;
use super::super::drive::{Drive, End, Relay, SeenHead, nothing_written};
use super::super::head::Edits;
use super::super::leg::Leg;
use super::super::plan::HeadOut;
use super::super::respond::{Failure, http_status};
use super::tries::{Calling, Tried};

struct Active<'e>(&'e EndpointEntry);

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

impl Calling<'_> {
    /// Sends the request to one endpoint and passes its answer on, unless it is to be tried again.
    pub(super) async fn attempt(
        &mut self,
        down: &mut Leg,
        alarm: &mut Alarm,
        may_retry: bool,
    ) -> Tried {
        let undelivered = |failure| Tried {
            end: End::Failed(failure),
            delivered: false,
            reused: false,
        };
        let call = self.call;
        let retry = self.routed.table.retry.as_ref();
        let per_try = retry.and_then(|retry| retry.per_try);
        let try_deadline = per_try.map(|limit| rt::now() + limit);
        let deadline = match (self.deadline, try_deadline) {
            (Some(whole), Some(this)) => Some(whole.min(this)),
            (whole, this) => whole.or(this),
        };
        let too_late = |deadline: Option<Instant>| match deadline {
            Some(deadline) if rt::now() >= deadline => Failure::Timeout,
            _ => Failure::TryTimeout,
        };

        let target = match alarm.within(deadline, self.target()).await {
            Some(Ok(target)) => target,
            Some(Err(failure)) => return undelivered(failure),
            None => return undelivered(too_late(self.deadline)),
        };
        self.ended.upstream = Some(target.address);
        let active = target.entry.map(Active::new);
        if let Some(entry) = target.entry {
            self.ended.destination = entry.peer;
            self.refused.push(entry.state.id);
        }

        let obtained = {
            let (worker, live) = (call.worker, call.live);
            let work = async {
                match call.chosen.head {
                    HeadOut::Text(_) => {
                        pool::http1(worker, live, self.cluster, &target, self.fresh).await
                    }
                    HeadOut::H2(_) => pool::http2(worker, live, self.cluster, &target).await,
                }
            };
            alarm.within(deadline, work).await
        };
        let lease = match obtained {
            Some(Ok(lease)) => lease,
            Some(Err(failure)) => {
                if failure == Failure::Overflow {
                    self.cluster
                        .counters
                        .overflowed
                        .fetch_add(1, Ordering::Relaxed);
                } else {
                    self.judge(&target, Outcome::Failed, None);
                }
                return undelivered(failure);
            }
            None => {
                self.judge(&target, Outcome::TooLate, None);
                return undelivered(too_late(self.deadline));
            }
        };
        let kept = lease.was_used();
        let mut up = match self.begin(lease) {
            Ok(up) => up,
            Err(failure) => {
                if !kept {
                    self.judge(&target, Outcome::Failed, None);
                }
                return Tried {
                    reused: kept,
                    ..undelivered(failure)
                };
            }
        };
        let reused = up.reused;

        let timed = self.cluster.outlier.as_deref();
        let begun = timed
            .filter(|detector| detector.wants_times())
            .map(|_| rt::now());
        let relay_retry = retry.filter(|_| may_retry && self.replay.is_whole());
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
            });
        let mut drive = Drive {
            down,
            up: &mut up.leg,
            replay: &mut self.replay,
            relay: Relay {
                edits,
                facts: call.facts,
                begun: call.begun,
                close: call.close || !call.facts.keep,
                retry: relay_retry,
            },
            uploaded: up.sent_end,
            upload_broke: false,
            seen: None,
            received: 0,
            sent: 0,
        };
        let end = poll_fn(|cx| {
            if let Poll::Ready(end) = drive.poll(cx) {
                return Poll::Ready(end);
            }
            let Some(deadline) = deadline else {
                return Poll::Pending;
            };
            alarm.poll(cx, deadline).map(|()| match drive.seen {
                None => End::Failed(too_late(self.deadline)),
                Some(_) => End::Cut,
            })
        })
        .await;
        let uploaded = drive.uploaded && !drive.upload_broke;
        let seen = drive.seen;
        self.ended.received += drive.received;
        self.ended.sent += drive.sent;
        drop(active);
        if let Some(seen) = seen {
            self.ended.status = seen.status;
            self.ended.grpc_status = seen.grpc_status;
            self.ended.close |= seen.close || !uploaded || !down.is_drained();
            self.ended.upstream_time = Some(seen.at.duration_since(call.begun));
        }
        if call.facts.grpc && self.ended.grpc_status.is_none() {
            self.ended.grpc_status = up.leg.grpc_status();
        }
        if let Some(outcome) = self.outcome(seen, &end) {
            let took = begun.zip(seen).map(|(begun, seen)| seen.at - begun);
            self.judge(&target, outcome, took);
        }
        let delivered = !nothing_written(&up.leg);
        if matches!(end, End::Switched) {
            self.ended.status = 101;
            if let Leg::H1(leg) = up.leg {
                self.ended.switched = Some(leg);
            }
        } else if matches!(end, End::Done)
            && uploaded
            && seen.is_some_and(|seen| seen.reusable)
            && let (Leg::H1(leg), Some(tag)) = (up.leg, up.tag)
            && leg.input.is_empty()
            && !leg.ended
        {
            let most = self.cluster.config.limits.max_requests_per_connection;
            call.worker.pools.give_back(leg, tag, most);
        }
        Tried {
            end,
            delivered,
            reused,
        }
    }

    /// What a try says of the endpoint; nothing when it ended for other reasons.
    fn outcome(&self, seen: Option<SeenHead>, end: &End) -> Option<Outcome> {
        // A call is as good as its own status, wherever that stood.
        let answered = |status| match self.ended.grpc_status {
            Some(grpc) if self.call.facts.grpc => Outcome::Status(http_status(grpc)),
            _ => Outcome::Status(status),
        };
        match (end, seen) {
            (End::CallerGone | End::Failed(Failure::BadBody), _) => None,
            (End::Retry(status), _) => Some(Outcome::Status(*status)),
            (End::Failed(Failure::Timeout | Failure::TryTimeout), _) => Some(Outcome::TooLate),
            (End::Failed(_) | End::Cut, _) => Some(Outcome::Failed),
            (_, Some(seen)) => Some(answered(seen.status)),
            (_, None) => None,
        }
    }

    /// Tells outlier detection how a try went; `took` is the time to the answer's head.
    fn judge(&self, target: &Target<'_>, outcome: Outcome, took: Option<Duration>) {
        if let (Some(_), Some(entry)) = (&self.cluster.outlier, target.entry) {
            let now = || self.call.worker.shared.millis(rt::now());
            outlier::record(self.cluster, entry, (outcome, took), now);
        }
    }
}
