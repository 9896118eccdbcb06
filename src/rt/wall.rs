//! Calendar time behind a seam: certificates and tokens expire in tests too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMillis = u64;

/// Where calendar time comes from.
#[derive(Debug, Clone, Default)]
pub enum Wall {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that a test moves.
    Fixed(Arc<AtomicU64>),
}

impl Wall {
    /// A clock that stands at `millis` until [`Wall::advance`].
    pub fn fixed(millis: UnixMillis) -> Self {
        Self::Fixed(Arc::new(AtomicU64::new(millis)))
    }

    /// Now, in milliseconds since the epoch.
    pub fn millis(&self) -> UnixMillis {
        match self {
            Self::System => u64::try_from(Self::since_epoch().as_millis()).unwrap_or(u64::MAX),
            Self::Fixed(millis) => millis.load(Ordering::Relaxed),
        }
    }

    /// Now, in microseconds since the epoch.
    pub fn micros(&self) -> u64 {
        match self {
            Self::System => u64::try_from(Self::since_epoch().as_micros()).unwrap_or(u64::MAX),
            Self::Fixed(millis) => millis.load(Ordering::Relaxed).saturating_mul(1_000),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    fn since_epoch() -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap_or(Duration::ZERO)
    }

    /// Now, as the standard library's type.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.millis())
    }

    /// Moves a fixed clock forward; does nothing to the machine's.
    pub fn advance(&self, by: Duration) {
        if let Self::Fixed(millis) = self {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            millis.fetch_add(by, Ordering::Relaxed);
        }
    }
}
