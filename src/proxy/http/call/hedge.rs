//! Hedging: a try that takes longer than its limit goes on beside the next one, and the first good
//! answer counts.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use crate::rt;

use super::super::super::balance::outlier::Outcome;
use super::super::super::connect::Target;
use super::super::super::timer::Alarm;
use super::super::drive::{Drive, End, Relay, SeenHead};
use super::super::leg::{Leg, Recoding};
use super::super::replay::Replay;
use super::attempt::{Active, Flight};
use super::begin::Up;
use super::clock::{Clock, Progress};
use super::tries::{Calling, Tried};

/// One of several tries.
pub(super) struct Racer<'c> {
    up: Up,
    target: Target<'c>,
    relay: Relay<'c>,
    _active: Option<Active<'c>>,
    /// Its request has gone up.
    uploaded: bool,
    seen: Option<SeenHead>,
    /// What its answer's body goes through.
    answering: Option<Box<Recoding>>,
    sent: u64,
    /// When another is to begin beside it.
    ends: Option<Instant>,
}

/// How a race ended.
enum Over<'c> {
    /// With the end of this one.
    By(Box<Racer<'c>>, End<'c>),
    /// The last one to begin is late too.
    Due,
    /// Nobody is left; the last one ended so.
    Lost(Tried<'c>),
}

type Next<'n, 'c> = Pin<Box<dyn Future<Output = Result<Flight<'c>, Tried<'c>>> + 'n>>;

impl<'c> Racer<'c> {
    /// A try whose time is over.
    pub(super) fn late(flight: Flight<'c>, relay: Relay<'c>) -> Self {
        Self {
            uploaded: true,
            ..Self::new(flight, relay, None)
        }
    }

    fn new(flight: Flight<'c>, relay: Relay<'c>, ends: Option<Instant>) -> Self {
        Self {
            up: flight.up,
            target: flight.target,
            relay,
            _active: flight.active,
            uploaded: false,
            seen: None,
            answering: None,
            sent: 0,
            ends,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, down: &mut Leg, whole: &mut Replay) -> Poll<End<'c>> {
        let mut drive = Drive {
            down,
            up: &mut self.up.leg,
            replay: whole,
            relay: &self.relay,
            uploaded: self.uploaded,
            upload_broke: false,
            seen: self.seen,
            informed: 0,
            // It went up whole before there were several.
            asking: &mut None,
            answering: self.answering.take(),
            keeping: None,
            received: 0,
            sent: self.sent,
        };
        let polled = drive.poll(cx);
        self.uploaded = drive.uploaded;
        self.seen = drive.seen;
        self.sent = drive.sent;
        self.answering = drive.answering;
        polled
    }
}

impl<'c> Calling<'c> {
    /// Whether another try can begin beside the present one.
    pub(super) fn may_race(&self) -> bool {
        self.hedges() && self.left > 0 && self.replay.is_whole() && !self.call.facts.upgrade
    }

    /// Lets `first`, which is late, go on beside further tries until one has answered well.
    pub(super) async fn race(
        &mut self,
        first: Racer<'c>,
        down: &mut Leg,
        alarm: &mut Alarm,
    ) -> Tried<'c> {
        let mut racers: SmallVec<[Racer<'c>; 2]> = smallvec![first];
        let mut slots: SmallVec<[_; 2]> = SmallVec::new();
        loop {
            let mut wait = None;
            if let Some(Ok(again)) = self.chance().map(|chance| chance.hedge()) {
                self.left = self.left.saturating_sub(1);
                self.ended.retries += 1;
                self.tries += 1;
                self.after_timeout = true;
                slots.push(again.held);
                wait = Some(again.wait);
            }
            let over = self.round(&mut racers, wait, down, alarm).await;
            match over {
                Over::Due => {}
                Over::Lost(tried) => return tried,
                Over::By(racer, end) => {
                    let Racer {
                        up,
                        target,
                        seen,
                        sent,
                        ..
                    } = *racer;
                    self.ended.upstream = Some(target.address);
                    if let Some(entry) = target.entry {
                        self.ended.destination = entry.peer;
                    }
                    self.ended.sent += sent;
                    return self.land((up, &target, None), (end, seen, true), down);
                }
            }
        }
    }

    /// Lets `racers` run, and one more begin after `wait`, until one has ended well or all have
    /// failed, or yet another is due.
    async fn round(
        &mut self,
        racers: &mut SmallVec<[Racer<'c>; 2]>,
        wait: Option<Duration>,
        down: &mut Leg,
        alarm: &mut Alarm,
    ) -> Over<'c> {
        let mut clock = Clock {
            per_try_idle: None,
            ..self.clock
        };
        let mut watch = clock.watch_whole(rt::now());
        let chance = self.chance();
        let relay = self.relay(false);
        let more = self.left > 0;
        let mut whole = Replay::new(None);
        let mut failed: SmallVec<[(Target<'c>, Outcome); 2]> = SmallVec::new();
        let mut late = None;
        let mut last = None;
        let this = &mut *self;
        let mut next: Option<Next<'_, 'c>> = wait.map(|wait| {
            let begin: Next<'_, 'c> = Box::pin(async move {
                tokio::time::sleep(wait).await;
                this.prepare().await
            });
            begin
        });
        let over = poll_fn(|cx| {
            if let Some(beginning) = &mut next
                && let Poll::Ready(begun) = beginning.as_mut().poll(cx)
            {
                next = None;
                match begun {
                    Ok(flight) => {
                        let ends = clock
                            .per_try
                            .filter(|_| more)
                            .map(|limit| rt::now() + limit);
                        let relay = Relay {
                            peer: flight.up.mtls,
                            edits: relay.edits.answered_by(flight.target.entry),
                            ..relay
                        };
                        racers.push(Racer::new(flight, relay, ends));
                    }
                    Err(tried) => last = Some(tried),
                }
            }
            let mut at = 0;
            let mut winner = None;
            loop {
                let alone = racers.len() == 1 && next.is_none();
                let Some(racer) = racers.get_mut(at) else {
                    break;
                };
                racer.relay.chance = chance.map(|chance| chance.beside(!alone));
                match racer.poll(cx, down, &mut whole) {
                    Poll::Pending if racer.seen.is_some() => {
                        winner = Some(at);
                        break;
                    }
                    Poll::Pending => at += 1,
                    Poll::Ready(end) => {
                        let racer = racers.remove(at);
                        let outcome = match &end {
                            End::Retry(status, _) => Some(Outcome::Status(*status)),
                            End::Failed(_) => Some(Outcome::Failed),
                            _ => None,
                        };
                        let others = !racers.is_empty() || next.is_some();
                        match outcome {
                            Some(outcome) if others => failed.push((racer.target, outcome)),
                            _ => return Poll::Ready(Over::By(Box::new(racer), end)),
                        }
                    }
                }
            }
            if let Some(at) = winner {
                let kept = racers.remove(at);
                racers.clear();
                racers.push(kept);
                next = None;
            }
            let Some(newest) = racers.last() else {
                return match last.take() {
                    Some(tried) if next.is_none() => Poll::Ready(Over::Lost(tried)),
                    _ => Poll::Pending,
                };
            };
            let progress = Progress {
                complete: true,
                answered: newest.seen.is_some(),
                moved: newest.sent + u64::from(newest.seen.is_some()),
            };
            if let Poll::Ready(passed) = watch.poll(cx, &mut clock, alarm, progress) {
                late = Some(passed);
                let failure = passed.failure(true);
                let end = match newest.seen {
                    None => End::Failed(failure),
                    Some(_) => End::Cut(failure),
                };
                return match racers.pop() {
                    Some(racer) => Poll::Ready(Over::By(Box::new(racer), end)),
                    None => Poll::Pending,
                };
            }
            match newest
                .ends
                .filter(|_| newest.seen.is_none() && next.is_none())
            {
                Some(ends) => alarm.poll(cx, ends).map(|()| Over::Due),
                None => Poll::Pending,
            }
        })
        .await;
        drop(next);
        if let Some(late) = late {
            self.note(late);
        }
        for (target, outcome) in failed {
            self.judge(&target, outcome, None);
        }
        over
    }
}
