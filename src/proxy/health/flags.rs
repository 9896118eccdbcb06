//! Why an endpoint is left out, beside what discovery says of it.

use std::sync::atomic::{AtomicU8, Ordering};

/// A reason to leave an endpoint out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It fails its active health checks, or has not passed one yet.
    FailedCheck,
    /// It was ejected.
    Outlier,
    /// It has not been checked yet.
    Pending,
    /// Its last check was not answered in time; it counts as failed besides.
    CheckTimeout,
    /// It is checked at all; no reason by itself.
    Watched,
    /// It is no longer of its cluster: connections to it are not worth keeping.
    Gone,
}

/// The reasons that hold now. Written rarely, read for every choice.
#[derive(Debug, Default)]
pub(crate) struct Flags(AtomicU8);

impl Why {
    const fn bit(self) -> u8 {
        match self {
            Self::FailedCheck => 1,
            Self::Outlier => 2,
            Self::Pending => 4,
            Self::CheckTimeout => 8,
            Self::Watched => 16,
            Self::Gone => 32,
        }
    }
}

impl Flags {
    /// Whether it must not be chosen.
    pub(crate) fn is_out(&self) -> bool {
        self.0.load(Ordering::Relaxed) & (Why::FailedCheck.bit() | Why::Outlier.bit()) != 0
    }

    pub(crate) fn holds(&self, why: Why) -> bool {
        self.0.load(Ordering::Relaxed) & why.bit() != 0
    }

    /// Sets or clears `why`. True when that was news.
    pub(crate) fn set(&self, why: Why, on: bool) -> bool {
        let before = if on {
            self.0.fetch_or(why.bit(), Ordering::Relaxed)
        } else {
            self.0.fetch_and(!why.bit(), Ordering::Relaxed)
        };
        (before & why.bit() != 0) != on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_once_and_none_hides_another() {
        let flags = Flags::default();
        assert!(flags.set(Why::Outlier, true) && !flags.set(Why::Outlier, true));
        assert!(flags.set(Why::FailedCheck, true));
        assert!(flags.set(Why::Outlier, false) && !flags.set(Why::Outlier, false));
        assert!(flags.is_out() && !flags.holds(Why::Outlier));
        assert!(flags.set(Why::FailedCheck, false));
        flags.set(Why::Pending, true);
        assert!(!flags.is_out());
    }
}
