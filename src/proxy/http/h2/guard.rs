//! What a peer may do that costs us and gives nobody anything.
//!
//! Each kind of frame that can be sent for nothing has an account: it fills with time and with
//! useful frames, and a frame that finds it empty ends the connection with ENHANCE_YOUR_CALM. Kinds
//! that Envoy knows have Envoy's limits.

use std::time::Duration;

use tokio::time::Instant;

/// Kinds of abuse, each with the name that counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Streams that the peer cancelled or made us reset (CVE-2023-44487, CVE-2025-8671).
    Resets,
    /// PING.
    Pings,
    /// SETTINGS.
    Settings,
    /// Frames without payload that end nothing.
    Empty,
    /// PRIORITY.
    Priority,
    /// WINDOW_UPDATE.
    Windows,
    /// CONTINUATION (CVE-2024-27316).
    Continuations,
    /// Frames of kinds that nobody knows, or for streams that are gone.
    Strays,
    /// Answers to PING, SETTINGS and bad streams that the peer does not read.
    Unread,
}

impl Flood {
    /// Envoy's detail, or its counter's name where it has none.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::Resets => "http2.too_many_premature_resets",
            Self::Pings => "http2.inbound_ping_flood",
            Self::Settings => "http2.inbound_settings_flood",
            Self::Empty => "http2.inbound_empty_frames_flood",
            Self::Priority => "http2.inbound_priority_frames_flood",
            Self::Windows => "http2.inbound_window_update_frames_flood",
            Self::Continuations => "http2.inbound_continuation_flood",
            Self::Strays => "http2.inbound_stray_frames_flood",
            Self::Unread => "http2.outbound_control_flood",
        }
    }
}

/// An account that fills with time.
#[derive(Debug, Clone, Copy)]
struct Account {
    left: u32,
    most: u32,
    /// Units that come back each second.
    rate: u32,
    since: Option<Instant>,
}

impl Account {
    const fn new(most: u32, rate: u32) -> Self {
        Self {
            left: most,
            most,
            rate,
            since: None,
        }
    }

    fn earn(&mut self, units: u32) {
        self.left = self.left.saturating_add(units).min(self.most);
    }

    fn spend(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let earned =
            now.saturating_duration_since(since).as_millis() * u128::from(self.rate) / 1000;
        if earned > 0 {
            self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
            self.since = Some(now);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// The accounts of a connection.
#[derive(Debug)]
pub(crate) struct Guard {
    resets: Account,
    pings: Account,
    settings: Account,
    strays: Account,
    empty: u32,
    priorities: u32,
    windows: u32,
    /// Streams that were opened.
    opened: u32,
    /// DATA frames that were sent.
    sent: u32,
    limits: GuardLimits,
}

/// Limits that can be configured; the defaults are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuardLimits {
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    pub(crate) empty: u32,
    /// `max_inbound_priority_frames_per_stream`.
    pub(crate) priority_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`.
    pub(crate) windows_per_data: u32,
    /// `max_outbound_control_frames`.
    pub(crate) unread: u32,
    /// `stream_reset_burst` and, each second, `stream_reset_rate`. By default at once what Envoy
    /// takes (`premature_reset_total_stream_count`), and then what nghttp2 does.
    pub(crate) resets: (u32, u32),
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            empty: 1,
            priority_per_stream: 100,
            windows_per_data: 10,
            unread: 1000,
            resets: (500, 33),
        }
    }
}

impl Guard {
    pub(crate) fn new(limits: GuardLimits) -> Self {
        Self {
            resets: Account::new(limits.resets.0, limits.resets.1),
            pings: Account::new(500, 50),
            settings: Account::new(100, 5),
            strays: Account::new(1000, 330),
            empty: 0,
            priorities: 0,
            windows: 0,
            opened: 0,
            sent: 0,
            limits,
        }
    }

    /// A stream was opened.
    pub(crate) fn opened(&mut self) {
        self.opened = self.opened.saturating_add(1);
        self.pings.earn(1);
    }

    /// A DATA frame was sent.
    pub(crate) fn sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
        self.pings.earn(1);
    }

    /// A frame with a payload came.
    pub(crate) fn received(&mut self) {
        self.empty = 0;
        self.pings.earn(1);
    }

    pub(crate) fn reset(&mut self, now: Instant) -> Result<(), Flood> {
        let fits = self.resets.spend(now);
        fits.then_some(()).ok_or(Flood::Resets)
    }

    pub(crate) fn ping(&mut self, now: Instant) -> Result<(), Flood> {
        let fits = self.pings.spend(now);
        fits.then_some(()).ok_or(Flood::Pings)
    }

    pub(crate) fn settings(&mut self, now: Instant) -> Result<(), Flood> {
        let fits = self.settings.spend(now);
        fits.then_some(()).ok_or(Flood::Settings)
    }

    pub(crate) fn stray(&mut self, now: Instant) -> Result<(), Flood> {
        let fits = self.strays.spend(now);
        fits.then_some(()).ok_or(Flood::Strays)
    }

    pub(crate) fn empty(&mut self) -> Result<(), Flood> {
        self.empty += 1;
        (self.empty <= self.limits.empty)
            .then_some(())
            .ok_or(Flood::Empty)
    }

    pub(crate) fn priority(&mut self) -> Result<(), Flood> {
        self.priorities = self.priorities.saturating_add(1);
        let allowed = self
            .limits
            .priority_per_stream
            .saturating_mul(self.opened.saturating_add(1));
        (self.priorities <= allowed)
            .then_some(())
            .ok_or(Flood::Priority)
    }

    pub(crate) fn window(&mut self) -> Result<(), Flood> {
        self.windows = self.windows.saturating_add(1);
        let frames = self.limits.windows_per_data.saturating_mul(self.sent);
        let allowed = self
            .opened
            .saturating_add(frames)
            .saturating_mul(2)
            .saturating_add(5);
        (self.windows <= allowed)
            .then_some(())
            .ok_or(Flood::Windows)
    }

    /// `count` answers wait to be written.
    pub(crate) fn unread(&self, count: u32) -> Result<(), Flood> {
        (count <= self.limits.unread)
            .then_some(())
            .ok_or(Flood::Unread)
    }
}

/// A header block must be complete within this (ours; Envoy has no limit by default), as must every
/// frame but DATA.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;

    #[test]
    fn resets_come_in_bursts_and_at_a_rate() {
        let mut guard = Guard::new(GuardLimits::default());
        let now = rt::now();
        assert!((0..500).all(|_| guard.reset(now).is_ok()));
        assert_eq!(guard.reset(now), Err(Flood::Resets));
        let later = now + Duration::from_secs(1);
        assert!((0..33).all(|_| guard.reset(later).is_ok()));
        assert_eq!(guard.reset(later), Err(Flood::Resets));
        // Slow drops still add up.
        for n in 1..100 {
            let at = later + Duration::from_millis(31 * n);
            assert!(guard.reset(at).is_ok(), "{n}");
        }
    }

    #[test]
    fn window_updates_are_paid_for_by_data() {
        let mut guard = Guard::new(GuardLimits::default());
        assert!((0..5).all(|_| guard.window().is_ok()));
        assert_eq!(guard.window(), Err(Flood::Windows));
        guard.sent();
        assert!((0..19).all(|_| guard.window().is_ok()));
        assert_eq!(guard.window(), Err(Flood::Windows));
    }

    #[test]
    fn empty_frames_count_in_a_row() {
        let mut guard = Guard::new(GuardLimits::default());
        assert!(guard.empty().is_ok());
        guard.received();
        assert!(guard.empty().is_ok());
        assert_eq!(guard.empty(), Err(Flood::Empty));
    }
}
