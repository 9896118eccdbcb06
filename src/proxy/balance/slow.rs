//! Slow start: what a new endpoint gets of its weight (Envoy's arithmetic).

use crate::mesh::balancing::SlowStart;

use super::float;

/// Shortest time between two steps, in milliseconds.
const SHORTEST_STEP: u64 = 100;

/// The share of its weight that an endpoint of `age` milliseconds gets, and in how long that grows.
pub(crate) fn share(slow: &SlowStart, age: u64) -> (f64, Option<u64>) {
    let window = u64::try_from(slow.window.as_millis()).unwrap_or(u64::MAX);
    if age >= window {
        return (1.0, None);
    }
    // Envoy counts whole seconds from one on.
    let passed = float(age.max(1000).min(window)) / float(window.max(1));
    let aggression = f64::from(slow.aggression.max(1)) / 1000.0;
    let grown = passed.powf(1.0 / aggression);
    let least = f64::from(slow.min_weight_percent) / 100.0;
    let step = (window / 50).max(SHORTEST_STEP).min(window - age).max(1);
    (grown.max(least).min(1.0), Some(step))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_endpoint_grows_into_its_weight() {
        let slow = SlowStart {
            window: Duration::from_mins(1),
            aggression: 1000,
            min_weight_percent: 10,
        };
        let part = |slow: &SlowStart, age| share(slow, age).0;
        assert!((part(&slow, 0) - 0.1).abs() < 1e-9);
        assert!((part(&slow, 30_000) - 0.5).abs() < 1e-9);
        assert_eq!(share(&slow, 60_000), (1.0, None));
        assert_eq!(share(&slow, 0).1, Some(1_200));
        let eager = SlowStart {
            aggression: 2000,
            ..slow
        };
        assert!((part(&eager, 15_000) - 0.5).abs() < 1e-9);
    }
}
