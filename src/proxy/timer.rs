//! Deadlines that cost nothing while they are kept.
//!
//! Setting and clearing a timer for each request costs 5 % of it. An alarm is set once and left
//! alone while deadlines only move later; when it goes off early it is set again.

use std::future::Future as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::rt;

/// A timer that is kept for a connection's life.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    timer: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl Alarm {
    /// Ready at `deadline` or later.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let (timer, armed) = self
            .timer
            .get_or_insert_with(|| (Box::pin(sleep_until(deadline)), deadline));
        if *armed > deadline {
            timer.as_mut().reset(deadline);
            *armed = deadline;
        }
        while timer.as_mut().poll(cx).is_ready() {
            if rt::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
            *armed = deadline;
        }
        Poll::Pending
    }

    /// The result of `work`, or `None` when `deadline` comes first.
    pub(crate) async fn within<T>(
        &mut self,
        deadline: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let Some(deadline) = deadline else {
            return Some(work.await);
        };
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            self.poll(cx, deadline).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_is_kept_and_one_that_moves_sooner_too() {
        let mut alarm = Alarm::default();
        let start = rt::now();
        let at = |millis| Some(start + Duration::from_millis(millis));
        assert_eq!(alarm.within(at(1000), async { 1 }).await, Some(1));
        let never = std::future::pending::<()>;
        assert_eq!(alarm.within(at(50), never()).await, None);
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert_eq!(alarm.within(at(2000), never()).await, None);
        assert!(start.elapsed() >= Duration::from_secs(2));
    }
}
