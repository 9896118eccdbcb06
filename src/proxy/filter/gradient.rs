//! Envoy's gradient controller: how many requests at once, from how their latency changes.
//!
//! In windows of `update_interval` latencies are gathered, and the limit becomes
//! `gradient × limit + √(gradient × limit)` with `gradient = best × (1 + buffer) / latency`, between
//! a half and two. The best latency is measured again from time to time, with few requests at once.
//! Requests only add to counters; whoever ends one after a window is over works the next limit out.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::mesh::filter::AdaptiveConcurrency as Config;
use crate::telemetry::registry::to_float;

/// Latencies are kept by size: 16 steps for each doubling, so within 5 %.
const STEPS: u64 = 16;
const SIZES: usize = 16 * 40;
/// Windows at the lowest limit after which the best latency is doubted.
const DOUBT: u32 = 5;

/// The controller. Times are in microseconds since the proxy began.
#[derive(Debug)]
pub(crate) struct Gradient {
    config: Config,
    active: AtomicU32,
    limit: AtomicU32,
    /// Best latency; 0 is not known yet.
    best: AtomicU64,
    /// The best latency is being measured, with the limit that comes back afterwards.
    measuring: AtomicBool,
    kept: AtomicU32,
    at_lowest: AtomicU32,
    /// When the window ends.
    window_ends: AtomicU64,
    /// When the best latency is to be measured again.
    measure_at: AtomicU64,
    samples: Vec<AtomicU32>,
    count: AtomicU32,
    /// Somebody works out the next limit.
    busy: AtomicBool,
    pub(crate) refused: AtomicU64,
}

impl Gradient {
    pub(crate) fn new(config: &Config, now: u64) -> Self {
        let fixed = config.min_rtt_fixed.map_or(0, micros);
        let measuring = fixed == 0;
        let gradient = Self {
            config: config.clone(),
            active: AtomicU32::new(0),
            limit: AtomicU32::new(config.min_concurrency.max(1)),
            best: AtomicU64::new(fixed),
            measuring: AtomicBool::new(measuring),
            kept: AtomicU32::new(config.min_concurrency.max(1)),
            at_lowest: AtomicU32::new(0),
            window_ends: AtomicU64::new(now.saturating_add(micros(config.update_interval))),
            measure_at: AtomicU64::new(u64::MAX),
            samples: (0..SIZES).map(|_| AtomicU32::new(0)).collect(),
            count: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        };
        if !measuring {
            gradient.schedule(now, 0.0);
        }
        gradient
    }

    /// Whether a request may pass; one that does must be given to [`Gradient::done`] or
    /// [`Gradient::gone`].
    pub(crate) fn enter(&self) -> bool {
        if self.active.fetch_add(1, Ordering::Relaxed) < self.limit.load(Ordering::Relaxed) {
            return true;
        }
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// A request has ended without an answer: its time says nothing.
    pub(crate) fn gone(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request was answered after `latency`. `chance` is uniform in 0..1.
    pub(crate) fn done(&self, latency: u64, now: u64, chance: f64) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(sample) = self.samples.get(size_of_latency(latency)) {
            sample.fetch_add(1, Ordering::Relaxed);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let measuring = self.measuring.load(Ordering::Relaxed);
        let due = if measuring {
            count >= self.config.min_rtt_requests
        } else {
            now >= self.window_ends.load(Ordering::Relaxed)
                || now >= self.measure_at.load(Ordering::Relaxed)
        };
        if due && !self.busy.swap(true, Ordering::Acquire) {
            self.update(measuring, now, chance);
            self.busy.store(false, Ordering::Release);
        }
    }

    /// The present limit.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Requests now.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    fn update(&self, measuring: bool, now: u64, chance: f64) {
        let latency = self.aggregate();
        self.window_ends.store(
            now.saturating_add(micros(self.config.update_interval)),
            Ordering::Relaxed,
        );
        if measuring {
            if latency > 0 {
                self.best.store(latency, Ordering::Relaxed);
            }
            self.measuring.store(false, Ordering::Relaxed);
            self.at_lowest.store(0, Ordering::Relaxed);
            let kept = self.kept.load(Ordering::Relaxed);
            self.limit.store(kept, Ordering::Relaxed);
            self.schedule(now, chance);
            return;
        }
        if latency > 0 {
            self.move_limit(latency);
        }
        let doubted =
            self.at_lowest.load(Ordering::Relaxed) >= DOUBT && self.config.min_rtt_fixed.is_none();
        if doubted || now >= self.measure_at.load(Ordering::Relaxed) {
            self.kept.store(self.limit(), Ordering::Relaxed);
            let lowest = self.config.min_concurrency.max(1);
            self.limit.store(lowest, Ordering::Relaxed);
            self.measuring.store(true, Ordering::Relaxed);
        }
    }

    fn move_limit(&self, latency: u64) {
        let config = &self.config;
        let lowest = config.min_concurrency.max(1);
        let best = to_float(self.best.load(Ordering::Relaxed));
        let good = best * (1.0 + f64::from(config.buffer_milli) / 100_000.0);
        let gradient = (good / to_float(latency.max(1))).clamp(0.5, 2.0);
        let shrunk = gradient * f64::from(self.limit());
        let wanted = shrunk + shrunk.sqrt();
        let limit = whole(wanted).clamp(lowest, config.max_limit.max(lowest));
        self.limit.store(limit, Ordering::Relaxed);
        if limit == lowest {
            self.at_lowest.fetch_add(1, Ordering::Relaxed);
        } else {
            self.at_lowest.store(0, Ordering::Relaxed);
        }
    }

    /// When the best latency is measured next; never where it is fixed.
    fn schedule(&self, now: u64, chance: f64) {
        let at = match (self.config.min_rtt_interval, self.config.min_rtt_fixed) {
            (Some(interval), None) => {
                let jitter = f64::from(self.config.jitter_milli) / 100_000.0 * chance;
                now.saturating_add(micros(interval.mul_f64(1.0 + jitter)))
            }
            _ => u64::MAX,
        };
        self.measure_at.store(at, Ordering::Relaxed);
    }

    /// The latency of the window that counts, and a new window. 0 without samples.
    fn aggregate(&self) -> u64 {
        let mut counts = Vec::with_capacity(SIZES);
        let mut total = 0_u64;
        for sample in &self.samples {
            let count = u64::from(sample.swap(0, Ordering::Relaxed));
            total += count;
            counts.push(count);
        }
        self.count.store(0, Ordering::Relaxed);
        let share = u64::from(self.config.percentile_milli.min(100_000));
        let rank = (total * share).div_ceil(100_000).max(1);
        let mut seen = 0;
        for (size, count) in counts.into_iter().enumerate() {
            seen += count;
            if count > 0 && seen >= rank {
                return latency_of_size(size);
            }
        }
        0
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The place of a latency: its highest bit and the four below.
fn size_of_latency(latency: u64) -> usize {
    let latency = latency.max(1);
    let high = u64::from(latency.ilog2());
    let low = if high >= 4 {
        (latency >> (high - 4)) - STEPS
    } else {
        (latency << (4 - high)) - STEPS
    };
    usize::try_from(high * STEPS + low)
        .unwrap_or(SIZES)
        .min(SIZES - 1)
}

/// The middle of a place.
fn latency_of_size(size: usize) -> u64 {
    let size = u64::try_from(size).unwrap_or(0);
    let (high, low) = (size / STEPS, size % STEPS);
    if high >= 4 {
        ((STEPS + low) << (high - 4)) + (1 << (high - 4)) / 2
    } else {
        (STEPS + low) >> (4 - high)
    }
}

/// Down to a whole number; there is no conversion from floats that cannot go wrong.
fn whole(number: f64) -> u32 {
    format!("{:.0}", number.floor()).parse().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn config() -> Config {
        Config {
            min_rtt_requests: 10,
            ..Config::default()
        }
    }

    /// Lets `limit` requests at once take `latency` until `until`, one batch after the other.
    fn run(gradient: &Gradient, now: &mut u64, latency: impl Fn(u32) -> u64, until: u64) {
        while *now < until {
            let mut entered = 0;
            while entered < 2_000 && gradient.enter() {
                entered += 1;
            }
            let latency = latency(entered);
            *now += latency;
            for _ in 0..entered {
                gradient.done(latency, *now, 0.0);
            }
        }
    }

    #[test]
    fn grows_while_nothing_gets_slower_and_shrinks_when_it_does() {
        let gradient = Gradient::new(&config(), 0);
        let mut now = 0;
        assert_eq!(gradient.limit(), 3);
        run(&gradient, &mut now, |_| 10_000, 20_000_000);
        assert!(gradient.limit() > 500, "{}", gradient.limit());
        // Ten times as slow: halved in each window, plus the headroom.
        run(&gradient, &mut now, |_| 100_000, 21_500_000);
        assert!(gradient.limit() <= 6, "{}", gradient.limit());
    }

    #[test]
    fn settles_where_the_application_does_not_queue() {
        let gradient = Gradient::new(&config(), 0);
        let mut now = 0;
        // Ten at once are served in 10 ms, and more wait in turn.
        let queue = |active: u32| 10_000 * u64::from(active.div_ceil(10).max(1));
        run(&gradient, &mut now, queue, 30_000_000);
        assert!((5..=20).contains(&gradient.limit()), "{}", gradient.limit());
    }

    #[test]
    fn the_best_latency_is_measured_again() {
        let gradient = Gradient::new(&config(), 0);
        let mut now = 0;
        run(&gradient, &mut now, |_| 10_000, 50_000_000);
        let before = gradient.best.load(Ordering::Relaxed);
        // From here on it is slower for good; after the interval that is the new best.
        run(&gradient, &mut now, |_| 40_000, 200_000_000);
        let after = gradient.best.load(Ordering::Relaxed);
        assert!(before < 11_000 && after > 38_000, "{before} {after}");
        assert!(gradient.limit() > 100, "{}", gradient.limit());
    }

    #[test]
    fn a_fixed_best_latency_is_never_measured() {
        let fixed = Config {
            min_rtt_fixed: Some(Duration::from_millis(5)),
            ..config()
        };
        let gradient = Gradient::new(&fixed, 0);
        assert!(!gradient.measuring.load(Ordering::Relaxed));
        let mut now = 0;
        run(&gradient, &mut now, |_| 50_000, 100_000_000);
        assert_eq!(gradient.best.load(Ordering::Relaxed), 5_000);
    }

    #[test]
    fn what_left_without_an_answer_gives_its_place_back() {
        let gradient = Gradient::new(&config(), 0);
        assert!((0..3).all(|_| gradient.enter()));
        assert!(!gradient.enter());
        gradient.gone();
        assert!(gradient.enter());
        assert_eq!(
            (gradient.active(), gradient.refused.load(Ordering::Relaxed)),
            (3, 1)
        );
    }

    proptest! {
        #[test]
        fn latencies_are_kept_within_five_percent(latency in 1..1_u64 << 39) {
            let kept = latency_of_size(size_of_latency(latency));
            let off = kept.abs_diff(latency);
            prop_assert!(off * 20 <= latency + 20, "{} became {}", latency, kept);
        }
    }
}
