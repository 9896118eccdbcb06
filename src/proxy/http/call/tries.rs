//! One try after the other.

use smallvec::SmallVec;

use crate::telemetry::Flag;

use super::super::super::connect::Target;
use super::super::super::limit::{Gate, Held, count};
use super::super::super::tables::{ClusterTable, RetryTable};
use super::super::super::timer::Alarm;
use super::super::drive::End;
use super::super::leg::{Leg, Recoding};
use super::super::plan::Routed;
use super::super::replay::Replay;
use super::super::respond::Failure;
use super::again::{Again, Chance, No};
use super::clock::Clock;
use super::hedge::Racer;
use super::{Call, Ended};

/// A request under way.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a request, each asked for by name"
)]
pub(super) struct Calling<'c> {
    pub(super) call: &'c Call<'c>,
    pub(super) cluster: &'c ClusterTable,
    pub(super) gate: Gate<'c>,
    pub(super) routed: Routed<'c>,
    pub(super) clock: Clock,
    /// When to try again.
    pub(super) policy: Option<&'c RetryTable>,
    /// Tries that may follow the present one.
    pub(super) left: u32,
    pub(super) ended: Ended,
    pub(super) replay: Replay,
    /// What the request's body goes through on its way.
    pub(super) recoding: Option<Box<Recoding>>,
    /// Endpoints that this request has been sent to.
    pub(super) refused: SmallVec<[u64; 2]>,
    /// Where the present try goes, once that is known.
    pub(super) trying: Option<Target<'c>>,
    /// The place of the present try among the cluster's retries.
    pub(super) slot: Option<Held<'c>>,
    pub(super) tries: u32,
    /// Kept connections are not to be trusted any more.
    pub(super) fresh: bool,
    /// A try may have been processed.
    pub(super) reached: bool,
    /// The try before took too long.
    pub(super) after_timeout: bool,
    /// The present try has taken too long, and may go on beside others.
    pub(super) late: Option<Box<Racer<'c>>>,
    /// There are no copies to be sent any more.
    pub(super) mirrored: bool,
}

/// How one try ended, for the decision about another.
pub(super) struct Tried<'c> {
    pub(super) end: End<'c>,
    /// The endpoint may have begun to process it.
    pub(super) delivered: bool,
    /// It went over a connection that had been kept.
    pub(super) reused: bool,
}

impl Tried<'_> {
    pub(super) fn undelivered(failure: Failure) -> Self {
        Self {
            end: End::Failed(failure),
            delivered: false,
            reused: false,
        }
    }
}

impl<'c> Calling<'c> {
    pub(super) async fn run(mut self, down: &mut Leg, alarm: &mut Alarm) -> Ended {
        loop {
            self.tries += 1;
            let mut tried = self.attempt(down, alarm).await;
            self.slot = None;
            if let Some(first) = self.late.take() {
                tried = Box::pin(self.race(*first, down, alarm)).await;
            }
            let again = match tried.end {
                End::Done | End::Switched => {
                    if self.ended.retries > 0 && self.ended.status < 500 {
                        count(&self.gate.counters.stats.upstream_rq_retry_success);
                    }
                    return self.ended;
                }
                End::Cut(failure) => return self.cut(&failure),
                End::CallerGone => {
                    self.ended.broken = true;
                    return self.ended.fail(Failure::CallerGone).unanswered();
                }
                End::Retry(_, Some(again)) => {
                    self.reached = true;
                    self.after_timeout = false;
                    again
                }
                // Held back for another try that then did not come about.
                End::Retry(_, None) => return self.give_up(Failure::TryTimeout, No::NotMeant),
                End::Failed(failure) => {
                    let unprocessed = !tried.delivered
                        || matches!(failure, Failure::RefusedStream | Failure::Undelivered);
                    let harmless = self.call.facts.idempotent;
                    let stale = tried.reused
                        && matches!(failure, Failure::Broken | Failure::RefusedStream)
                        && (unprocessed || harmless)
                        && !self.fresh
                        && self.replay.is_whole();
                    let facts = (tried.delivered, harmless, self.replay.is_whole());
                    let chance = self.chance();
                    let meant = chance.is_some_and(|chance| chance.means(&failure, facts));
                    if stale {
                        // The kept connection had died under the request; that says nothing about
                        // the endpoint.
                        self.fresh = true;
                        self.refused.clear();
                        // An endpoint that may have seen it sees it as often as the policy says.
                        if unprocessed || !meant {
                            continue;
                        }
                    }
                    self.reached |= !unprocessed;
                    let answer = match chance {
                        Some(chance) => chance.failure(&failure, facts).map(|again| Again {
                            wait: match self.policy {
                                Some(policy) if stale => policy.min,
                                _ => again.wait,
                            },
                            ..again
                        }),
                        None => Err(No::NotMeant),
                    };
                    match answer {
                        Ok(again) => {
                            self.after_timeout =
                                matches!(failure, Failure::TryTimeout | Failure::TryIdle);
                            again
                        }
                        Err(why) => return self.give_up(failure, why),
                    }
                }
            };
            self.left = self.left.saturating_sub(1);
            self.ended.retries += 1;
            let Again { held, wait } = again;
            self.slot = Some(held);
            let pause = tokio::time::sleep(wait);
            let deadline = self
                .clock
                .ends
                .into_iter()
                .chain(self.clock.stream_ends)
                .min();
            if alarm.within(deadline, pause).await.is_none() {
                let late = self.clock.late(crate::rt::now());
                return self.ended.fail(late.failure(true));
            }
        }
    }

    /// Whether a try that takes too long goes on beside the next.
    pub(super) fn hedges(&self) -> bool {
        let own = self.call.chosen.control().and_then(|control| control.hedge);
        own.unwrap_or(self.routed.forward.hedge) && self.call.facts.idempotent
    }

    /// The chance of another try, where there is a policy.
    pub(super) fn chance(&self) -> Option<Chance<'c>> {
        let policy = self.policy?;
        let counts = (self.left, self.ended.retries);
        Some(Chance::new(self.call.worker, policy, self.gate, counts))
    }

    fn give_up(self, failure: Failure, why: No) -> Ended {
        let failure = if self.reached {
            failure.after_another()
        } else {
            failure
        };
        let mut ended = self.ended.fail(failure);
        match why {
            No::Spent if ended.flag != Flag::Ut && ended.retries > 0 => ended.flag = Flag::Urx,
            No::Overflow if ended.flag != Flag::Ut => ended.flag = Flag::Uo,
            No::NotMeant | No::UnderWay | No::Spent | No::Overflow => {}
        }
        ended
    }

    /// Ends an answer that had begun.
    fn cut(mut self, failure: &Failure) -> Ended {
        let reply = failure.reply();
        self.ended.flag = reply.flag;
        self.ended.details = match failure {
            Failure::Broken => "upstream_reset_after_response_started{connection_termination}",
            Failure::Reset | Failure::RefusedStream => {
                "upstream_reset_after_response_started{remote_reset}"
            }
            Failure::BadResponse => "upstream_reset_after_response_started{protocol_error}",
            _ => reply.details,
        };
        self.ended.broken = true;
        self.ended.close = true;
        self.ended
    }
}
