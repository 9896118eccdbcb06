//! What a request's time is limited by.
//!
//! As in Envoy, a route's timeout and a try's limit begin when the caller has sent the whole
//! request: a slow upload is not the endpoint's fault. The limit of a try ends with the first byte
//! of an answer, that of the route with the last.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::rt;

use super::super::super::timer::Alarm;
use super::super::respond::Failure;

/// The limits of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    /// For the whole request with its retries.
    pub(super) timeout: Option<Duration>,
    /// Nothing may move for longer.
    pub(super) idle: Option<Duration>,
    /// When the caller must have sent everything.
    pub(super) arrives: Option<Instant>,
    /// For each try.
    pub(super) per_try: Option<Duration>,
    /// For each try, without anything from the endpoint.
    pub(super) per_try_idle: Option<Duration>,
    /// The end of the longest life.
    pub(super) stream_ends: Option<Instant>,
    /// The end by `timeout`, once the request is complete.
    pub(super) ends: Option<Instant>,
    /// The caller has sent everything.
    pub(super) complete: bool,
}

/// Which limit was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    Request,
    Arrival,
    Try,
    TryIdle,
    Idle,
    Stream,
}

/// The limits of one try.
#[derive(Debug)]
pub(super) struct Watch {
    ends: Option<Instant>,
    /// Something limits it.
    on: bool,
    complete: bool,
    moved: u64,
    since: Instant,
}

/// How far a try is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The whole request went up.
    pub(super) complete: bool,
    /// An answer has begun.
    pub(super) answered: bool,
    /// Grows with whatever moves, either way.
    pub(super) moved: u64,
}

impl Clock {
    /// Takes note that the caller has sent everything.
    pub(super) fn complete(&mut self, now: Instant) {
        if !self.complete {
            self.complete = true;
            self.ends = self.timeout.map(|timeout| now + timeout);
        }
    }

    /// Nothing limits the request.
    pub(super) fn is_off(&self) -> bool {
        self.timeout.is_none()
            && self.idle.is_none()
            && self.arrives.is_none()
            && self.per_try.is_none()
            && self.per_try_idle.is_none()
            && self.stream_ends.is_none()
    }

    /// The limits of a try that begins at `begun`.
    pub(super) fn watch(&self, begun: Instant) -> Watch {
        Watch {
            ends: self
                .per_try
                .filter(|_| self.complete)
                .map(|limit| begun + limit),
            on: !self.is_off(),
            complete: self.complete,
            moved: 0,
            since: begun,
        }
    }

    /// The limits of the request alone, from `now`.
    pub(super) fn watch_whole(&self, now: Instant) -> Watch {
        Watch {
            ends: None,
            complete: true,
            ..self.watch(now)
        }
    }

    /// What limits the way to a connection.
    pub(super) fn before_connection(&self, watch: &Watch) -> Option<Instant> {
        soonest([self.ends, self.stream_ends, watch.ends])
    }

    /// Which limit was passed on the way to a connection.
    pub(super) fn late(&self, now: Instant) -> Late {
        let passed = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        if passed(self.ends) {
            Late::Request
        } else if passed(self.stream_ends) {
            Late::Stream
        } else {
            Late::Try
        }
    }

    /// What is left of `limit`s at `now`, for those further on; the soonest end of the request and
    /// of its present try. `hedged` tries may go on when their own time is over.
    pub(super) fn left(&self, now: Instant, hedged: bool) -> Option<Duration> {
        let whole = match self.ends {
            Some(ends) => Some(ends.saturating_duration_since(now)),
            None => self.timeout,
        };
        match self.per_try.filter(|_| !hedged || whole.is_none()) {
            Some(this) => Some(whole.map_or(this, |whole| whole.min(this))),
            None => whole,
        }
    }
}

impl Watch {
    /// Ready with the limit that `progress` has passed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        clock: &mut Clock,
        alarm: &mut Alarm,
        progress: Progress,
    ) -> Poll<Late> {
        if !self.on {
            return Poll::Pending;
        }
        if progress.complete && !self.complete {
            self.complete = true;
            let now = rt::now();
            clock.complete(now);
            self.ends = clock.per_try.map(|limit| now + limit);
        }
        let mut idle = None;
        let mut try_idle = None;
        if clock.idle.is_some() || clock.per_try_idle.is_some() {
            if self.moved != progress.moved {
                self.moved = progress.moved;
                self.since = rt::now();
            }
            idle = clock.idle.map(|limit| self.since + limit);
            try_idle = clock
                .per_try_idle
                .filter(|_| self.complete)
                .map(|limit| self.since + limit);
        }
        let this = self.ends.filter(|_| !progress.answered);
        let arrives = clock
            .arrives
            .filter(|_| !progress.answered && !progress.complete);
        let ends = [
            (clock.ends, Late::Request),
            (clock.stream_ends, Late::Stream),
            (arrives, Late::Arrival),
            (this, Late::Try),
            (try_idle, Late::TryIdle),
            (idle, Late::Idle),
        ];
        let soonest = ends
            .into_iter()
            .filter_map(|(end, late)| end.map(|end| (end, late)))
            .min_by_key(|(end, _)| *end);
        match soonest {
            Some((end, late)) => alarm.poll(cx, end).map(|()| late),
            None => Poll::Pending,
        }
    }
}

fn soonest<const N: usize>(ends: [Option<Instant>; N]) -> Option<Instant> {
    ends.into_iter().flatten().min()
}

impl Late {
    /// What the caller is told. `complete` says that it had sent the whole request.
    pub(super) fn failure(self, complete: bool) -> Failure {
        match self {
            Self::Request => Failure::Timeout,
            Self::Arrival => Failure::RequestTimeout,
            Self::Try => Failure::TryTimeout,
            Self::TryIdle => Failure::TryIdle,
            Self::Idle => Failure::StreamIdle { complete },
            Self::Stream => Failure::MaxDuration { complete },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(watch: &mut Watch, clock: &mut Clock, alarm: &mut Alarm, at: Progress) -> Option<Late> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match watch.poll(&mut cx, clock, alarm, at) {
            Poll::Ready(late) => Some(late),
            Poll::Pending => None,
        }
    }

    fn at(complete: bool, answered: bool, moved: u64) -> Progress {
        Progress {
            complete,
            answered,
            moved,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_runs_once_the_request_is_complete() {
        let second = Duration::from_secs(1);
        let mut clock = Clock {
            timeout: Some(second * 10),
            per_try: Some(second * 3),
            ..Clock::default()
        };
        let mut alarm = Alarm::default();
        let mut watch = clock.watch(rt::now());
        assert_eq!(clock.left(rt::now(), false), Some(second * 3));
        tokio::time::advance(second * 60).await;
        assert_eq!(
            poll(&mut watch, &mut clock, &mut alarm, at(false, false, 1)),
            None
        );
        assert_eq!(
            poll(&mut watch, &mut clock, &mut alarm, at(true, false, 2)),
            None
        );
        tokio::time::advance(second * 4).await;
        let late = poll(&mut watch, &mut clock, &mut alarm, at(true, false, 2));
        assert_eq!(late, Some(Late::Try));
        // An answer has begun in time: only the whole counts.
        assert_eq!(
            poll(&mut watch, &mut clock, &mut alarm, at(true, true, 2)),
            None
        );
        assert_eq!(clock.left(rt::now(), true), Some(second * 6));
        tokio::time::advance(second * 7).await;
        let late = poll(&mut watch, &mut clock, &mut alarm, at(true, true, 3));
        assert_eq!(late, Some(Late::Request));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_moves_puts_the_idle_limit_off() {
        let second = Duration::from_secs(1);
        let mut clock = Clock {
            idle: Some(second * 5),
            ..Clock::default()
        };
        let mut alarm = Alarm::default();
        let mut watch = clock.watch(rt::now());
        for moved in 1..5 {
            tokio::time::advance(second * 4).await;
            let late = poll(&mut watch, &mut clock, &mut alarm, at(false, false, moved));
            assert_eq!(late, None);
        }
        tokio::time::advance(second * 6).await;
        let late = poll(&mut watch, &mut clock, &mut alarm, at(false, false, 4));
        assert_eq!(late, Some(Late::Idle));
    }
}
