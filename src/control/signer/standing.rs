//! Whether a signer is asked now: one that does not answer is left alone for a while that grows.
//!
//! Knows no clock and no wire: the time and the chance are handed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::rt::Backoff;

/// How long a signer that does not answer is left alone, at first and at most.
const ALONE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What is known of how the signer answers.
#[derive(Debug)]
pub(super) struct Standing {
    alone: Backoff,
    /// Nobody asks before.
    until: Option<Instant>,
    /// Why it did not answer last.
    away: Option<String>,
    /// How often it was found away.
    found: u64,
}

/// A request that may be made, and what was known when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asking(u64);

impl Standing {
    /// Of a signer that was never asked.
    pub(super) fn new() -> Self {
        Self {
            alone: Backoff::new(ALONE.0, ALONE.1),
            until: None,
            away: None,
            found: 0,
        }
    }

    /// Begins a request, or says why the signer is left alone. Where it did not answer before, who may ask is the only
    /// one for as long as a request may take (`call`).
    pub(super) fn ask(&mut self, now: Instant, call: Duration) -> Result<Asking, String> {
        if let Some(away) = &self.away {
            if self.until.is_some_and(|until| now < until) {
                return Err(away.clone());
            }
            self.until = Some(now + call);
        }
        Ok(Asking(self.found))
    }

    /// Whether a request that has waited for its place is still worth it; why not.
    pub(super) fn still(&self, asking: Asking) -> Result<(), String> {
        match &self.away {
            Some(away) if asking.0 != self.found => Err(away.clone()),
            _ => Ok(()),
        }
    }

    /// There was no answer. Those who asked together are one failure, not many: the pause grows once.
    pub(super) fn failed(&mut self, asking: Asking, reason: &str, now: Instant, chance: f64) {
        if asking.0 != self.found {
            return;
        }
        self.found += 1;
        self.until = Some(now + self.alone.next(chance));
        self.away = Some(reason.to_owned());
    }

    /// There was one.
    pub(super) fn answered(&mut self) {
        self.alone.reset();
        (self.until, self.away) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Duration = Duration::from_secs(8);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_up_to_its_bound_and_starts_over() {
        let (mut standing, mut now) = (Standing::new(), Instant::now());
        for pause in [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            let asking = standing.ask(now, CALL).unwrap();
            standing.failed(asking, "gone", now, 1.0);
            let early = standing.ask(now + millis(pause - 1), CALL);
            assert_eq!(early, Err("gone".to_owned()), "{pause}");
            now += millis(pause);
        }
        standing.ask(now, CALL).unwrap();
        standing.answered();
        // Nobody is alone any more, and the next pause is the first one.
        let asking = standing.ask(now, CALL).unwrap();
        assert_eq!(standing.ask(now, CALL), Ok(asking));
        standing.failed(asking, "gone again", now, 0.0);
        assert!(standing.ask(now + millis(124), CALL).is_err());
        assert!(standing.ask(now + millis(125), CALL).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_looks_whether_it_is_back_and_the_others_are_told_at_once() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        let asking = standing.ask(now, CALL).unwrap();
        standing.failed(asking, "gone", now, 1.0);
        let later = now + millis(250);
        let probe = standing.ask(later, CALL).unwrap();
        assert_eq!(standing.ask(later, CALL), Err("gone".to_owned()));
        assert!(standing.still(probe).is_ok());
        // One that is never heard of again is followed by another.
        assert!(standing.ask(later + CALL, CALL).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_asked_together_are_one_failure() {
        let (mut standing, now) = (Standing::new(), Instant::now());
        let all: Vec<_> = (0..100).map(|_| standing.ask(now, CALL).unwrap()).collect();
        for asking in &all {
            standing.failed(*asking, "gone", now, 1.0);
        }
        assert!(standing.ask(now + millis(250), CALL).is_ok());
        // Who waited for a place meanwhile need not try.
        assert_eq!(standing.still(all[99]), Err("gone".to_owned()));
    }
}
