//! Recent latency of an endpoint: Finagle's Peak EWMA. A slower answer counts at once and in full,
//! a faster one by how long ago the last came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The estimate. Shared by all workers; of two that write at once one is lost, which an average bears.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// Seconds, as the bits of a float; zero is unknown.
    seconds: AtomicU64,
    /// When it was last written, in milliseconds since the process began.
    at: AtomicU64,
}

impl Latency {
    /// Takes note of an answer that took `took`. `decay` is how long a latency is remembered.
    pub(crate) fn observe(&self, took: Duration, now: u64, decay: Duration) {
        let took = took.as_secs_f64();
        let old = self.read(now, decay);
        let new = if took > old {
            took
        } else {
            let weight = self.kept(now, decay);
            f64::from_bits(self.seconds.load(Ordering::Relaxed)) * weight + took * (1.0 - weight)
        };
        self.seconds.store(new.to_bits(), Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    /// The estimate in seconds; a silent endpoint is believed to get faster.
    pub(crate) fn read(&self, now: u64, decay: Duration) -> f64 {
        let seconds = f64::from_bits(self.seconds.load(Ordering::Relaxed));
        if seconds > 0.0 {
            seconds * self.kept(now, decay)
        } else {
            0.0
        }
    }

    fn kept(&self, now: u64, decay: Duration) -> f64 {
        let silent = Duration::from_millis(now.saturating_sub(self.at.load(Ordering::Relaxed)));
        (-silent.as_secs_f64() / decay.as_secs_f64().max(1e-9)).exp()
    }
}

/// What calling an endpoint costs: its latency times the requests that would wait.
pub(crate) fn cost(latency: f64, active: u32, weight: u32) -> f64 {
    // An endpoint that is busy and has never answered must not look free (Finagle's penalty).
    const UNKNOWN: f64 = 1e6;
    let latency = match (latency > 0.0, active) {
        (true, _) => latency,
        (false, 0) => 0.0,
        (false, _) => UNKNOWN,
    };
    latency * (f64::from(active) + 1.0) / f64::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn peaks_count_at_once_and_are_forgotten_slowly() {
        let latency = Latency::default();
        latency.observe(10 * MS, 1_000, DECAY);
        latency.observe(500 * MS, 1_001, DECAY);
        assert!((latency.read(1_001, DECAY) - 0.5).abs() < 1e-9);
        latency.observe(10 * MS, 11_001, DECAY);
        let expected = 0.5 / std::f64::consts::E + 0.01 * (1.0 - 1.0 / std::f64::consts::E);
        assert!((latency.read(11_001, DECAY) - expected).abs() < 1e-9);
        assert!(latency.read(100_000, DECAY) < 1e-3);
    }

    #[test]
    fn the_busy_and_unknown_are_dear_and_the_idle_and_unknown_are_tried() {
        assert!(cost(0.0, 0, 1) < cost(0.001, 0, 1));
        assert!(cost(0.0, 1, 1) > cost(1.0, 100, 1));
        assert!(cost(0.001, 1, 1) < cost(0.1, 0, 1));
        assert!(cost(0.01, 3, 4) < cost(0.01, 3, 1));
    }
}
