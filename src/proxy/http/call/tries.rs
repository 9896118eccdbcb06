//! One try after the other, and the decision about another.

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::mesh::route::RetryOn;
use crate::rt::Backoff;
use crate::telemetry::Flag;

use super::super::super::limit;
use super::super::super::tables::ClusterTable;
use super::super::super::timer::Alarm;
use super::super::drive::End;
use super::super::leg::Leg;
use super::super::plan::Routed;
use super::super::replay::Replay;
use super::super::respond::Failure;
use super::{Call, Ended};

/// A request under way.
pub(super) struct Calling<'c> {
    pub(super) call: &'c Call<'c>,
    pub(super) cluster: &'c ClusterTable,
    pub(super) routed: Routed<'c>,
    pub(super) deadline: Option<Instant>,
    pub(super) ended: Ended,
    pub(super) replay: Replay,
    /// Endpoints that this request has failed at.
    pub(super) refused: SmallVec<[u64; 4]>,
    pub(super) tries: u32,
    /// Kept connections are not to be trusted any more.
    pub(super) fresh: bool,
}

/// How one try ended, for the decision about another.
pub(super) struct Tried {
    pub(super) end: End,
    /// The endpoint may have begun to process it.
    pub(super) delivered: bool,
    /// It went over a connection that had been kept.
    pub(super) reused: bool,
}

impl Calling<'_> {
    pub(super) async fn run(mut self, down: &mut Leg, alarm: &mut Alarm) -> Ended {
        let retry = self.routed.table.retry.as_ref();
        let mut backoff = retry.map(|retry| Backoff::new(retry.base, retry.base * 10));
        let mut left = retry.map_or(0, |retry| retry.attempts);
        let mut held = None;
        loop {
            self.tries += 1;
            let tried = self.attempt(down, alarm, left > 0).await;
            drop(held.take());
            let failure = match tried.end {
                End::Done | End::Switched => return self.ended,
                End::Cut => return self.cut(&Failure::Broken),
                End::CallerGone => {
                    self.ended.broken = true;
                    return self.ended.fail(Failure::CallerGone).unanswered();
                }
                End::Retry(status) => Err(status),
                End::Failed(failure) => Ok(failure),
            };
            let unprocessed = !tried.delivered || matches!(failure, Ok(Failure::RefusedStream));
            let stale = tried.reused
                && matches!(failure, Ok(Failure::Broken | Failure::RefusedStream))
                && (unprocessed || self.call.facts.idempotent);
            if stale && !self.fresh && self.replay.is_whole() {
                // The kept connection had died under the request; that says nothing about the endpoint.
                self.fresh = true;
                self.refused.clear();
                continue;
            }
            let again = left > 0
                && self.replay.is_whole()
                && match &failure {
                    Err(_) => true,
                    Ok(failure) => retry.is_some_and(|retry| {
                        failure.reply().retry.iter().any(|on| retry.on(*on))
                            || (!tried.delivered && retry.on(RetryOn::ResetBeforeRequest))
                    }),
                };
            if again {
                held = limit::hold(
                    &self.cluster.counters.retries,
                    self.cluster.config.limits.max_retries,
                );
                if held.is_some() {
                    left -= 1;
                    self.ended.retries += 1;
                    let wait = backoff
                        .as_mut()
                        .map_or(Duration::ZERO, |backoff| backoff.next(fastrand::f64()));
                    let pause = tokio::time::sleep(wait);
                    if alarm.within(self.deadline, pause).await.is_some() {
                        continue;
                    }
                    return self.ended.fail(Failure::Timeout);
                }
            }
            return match failure {
                // An answer that was held back for another try that may not be made.
                Err(_) => self.ended.fail(Failure::Overflow),
                Ok(failure) => {
                    let retried = self.tries > 1 && left == 0 && retry.is_some();
                    let mut ended = self.ended.fail(failure);
                    if retried && ended.flag != Flag::Ut {
                        ended.flag = Flag::Urx;
                    }
                    ended
                }
            };
        }
    }

    /// Ends an answer that had begun.
    fn cut(mut self, failure: &Failure) -> Ended {
        let reply = failure.reply();
        self.ended.flag = reply.flag;
        self.ended.details = "upstream_reset_after_response_started{connection_termination}";
        self.ended.broken = true;
        self.ended.close = true;
        self.ended
    }
}
