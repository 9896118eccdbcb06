//! What `top` shows, and what keys do to it. Pure: no terminal, no clock.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::api::Version;
use crate::api::stats::{StatsReport, StatsRow};

/// Points of a sparkline that are kept.
const HISTORY: usize = 60;

/// Steps of the interval, for `+` and `-`.
const INTERVALS_MS: [u64; 6] = [250, 500, 1_000, 2_000, 5_000, 10_000];

/// A column that rows can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Service,
    Version,
    Rate,
    Success,
    P50,
    P95,
    P99,
    Mtls,
}

impl Sort {
    pub(super) const ALL: [Self; 8] = [
        Self::Service,
        Self::Version,
        Self::Rate,
        Self::Success,
        Self::P50,
        Self::P95,
        Self::P99,
        Self::Mtls,
    ];

    pub(super) const fn header(self) -> &'static str {
        match self {
            Self::Service => "SERVICE",
            Self::Version => "VERSION",
            Self::Rate => "RPS",
            Self::Success => "SUCCESS",
            Self::P50 => "P50",
            Self::P95 => "P95",
            Self::P99 => "P99",
            Self::Mtls => "MTLS",
        }
    }

    /// The capital letter that chooses it.
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Service => 'N',
            Self::Version => 'V',
            Self::Rate => 'R',
            Self::Success => 'S',
            Self::P50 => 'L',
            Self::P95 => 'M',
            Self::P99 => 'H',
            Self::Mtls => 'T',
        }
    }

    /// Names read upwards from A; of figures the telling end comes first.
    const fn descending(self) -> bool {
        matches!(self, Self::Rate | Self::P50 | Self::P95 | Self::P99)
    }
}

/// What a key led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Draw again.
    Redraw,
    /// Leave.
    Quit,
}

/// Everything that is on the screen.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a mode of its own that a key turns"
)]
#[derive(Debug)]
pub(super) struct State {
    rows: Vec<StatsRow>,
    rates: BTreeMap<(String, String), VecDeque<f64>>,
    pub(super) context: String,
    pub(super) server: Option<Version>,
    pub(super) proxies: Option<usize>,
    pub(super) trouble: Option<String>,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    pub(super) filter: String,
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) selected: usize,
    pub(super) interval: Duration,
    pub(super) window: Duration,
    /// Rows that fit, as last drawn; for page up and down.
    pub(super) page: usize,
}

impl State {
    pub(super) fn new(context: &str, window: Duration, interval: Duration) -> Self {
        Self {
            rows: Vec::new(),
            rates: BTreeMap::new(),
            context: context.to_owned(),
            server: None,
            proxies: None,
            trouble: None,
            sort: Sort::Rate,
            reverse: false,
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            selected: 0,
            interval: interval.clamp(Duration::from_millis(100), Duration::from_mins(1)),
            window,
            page: 10,
        }
    }

    /// Takes a new report; ignored while paused.
    pub(super) fn update(&mut self, report: StatsReport) {
        if self.paused {
            return;
        }
        self.trouble = None;
        let key = |row: &StatsRow| (row.service.clone(), row.version.clone());
        for row in &report.rows {
            self.rates.entry(key(row)).or_default();
        }
        for (name, rates) in &mut self.rates {
            let row = report.rows.iter().find(|row| key(row) == *name);
            rates.push_back(row.map_or(0.0, |row| row.requests_per_second));
            if rates.len() > HISTORY {
                rates.pop_front();
            }
        }
        // A version that is gone leaves no line for ever.
        self.rates
            .retain(|name, _| report.rows.iter().any(|row| key(row) == *name));
        self.rows = report.rows;
        self.clamp();
    }

    /// Rows that pass the filter, in order.
    pub(super) fn shown(&self) -> Vec<&StatsRow> {
        let (wanted, invert) = match self.filter.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (self.filter.as_str(), false),
        };
        let mut rows: Vec<&StatsRow> = self
            .rows
            .iter()
            .filter(|row| {
                let name = format!("{} {}", row.service, row.version);
                wanted.is_empty() || name.contains(wanted) != invert
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = self.compare(a, b);
            let order = if self.backwards() {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| (&a.service, &a.version).cmp(&(&b.service, &b.version)))
        });
        rows
    }

    /// Whether the natural order is turned round.
    fn backwards(&self) -> bool {
        self.sort.descending() != self.reverse
    }

    fn compare(&self, a: &StatsRow, b: &StatsRow) -> Ordering {
        let figure = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            // Without a figure comes last, whichever way the order goes.
            (a, b) => {
                let order = b.is_some().cmp(&a.is_some());
                if self.backwards() {
                    order.reverse()
                } else {
                    order
                }
            }
        };
        match self.sort {
            Sort::Service => a.service.cmp(&b.service),
            Sort::Version => a.version.cmp(&b.version),
            Sort::Rate => a.requests_per_second.total_cmp(&b.requests_per_second),
            Sort::Success => figure(a.success_percent, b.success_percent),
            Sort::P50 => figure(a.latency_p50_ms, b.latency_p50_ms),
            Sort::P95 => figure(a.latency_p95_ms, b.latency_p95_ms),
            Sort::P99 => figure(a.latency_p99_ms, b.latency_p99_ms),
            Sort::Mtls => figure(a.mtls_percent, b.mtls_percent),
        }
    }

    /// Requests a second over all rows.
    pub(super) fn total(&self) -> f64 {
        self.rows.iter().map(|row| row.requests_per_second).sum()
    }

    /// The last `width` rates of a row as bars, oldest first.
    pub(super) fn sparkline(&self, row: &StatsRow, width: usize) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let Some(rates) = self.rates.get(&(row.service.clone(), row.version.clone())) else {
            return String::new();
        };
        let top = rates.iter().copied().fold(0.0, f64::max);
        let skip = rates.len().saturating_sub(width);
        rates
            .iter()
            .skip(skip)
            .map(|rate| {
                // Thresholds rather than a cast: a rate is at most `top`.
                let level = (1_u32..8)
                    .filter(|step| rate * 8.0 > top * f64::from(*step))
                    .count();
                BARS.get(level).copied().unwrap_or('█')
            })
            .collect()
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Effect {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Effect::Redraw;
        }
        if self.help {
            self.help = false;
            return Effect::Redraw;
        }
        let last = self.shown().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Effect::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('j') | KeyCode::Down => self.selected = self.selected.saturating_add(1),
            KeyCode::Char('k') | KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Char('g') | KeyCode::Home => self.selected = 0,
            KeyCode::Char('G') | KeyCode::End => self.selected = last,
            KeyCode::PageDown => self.selected = self.selected.saturating_add(self.page),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(self.page),
            KeyCode::Char('s') => {
                let at = Sort::ALL
                    .iter()
                    .position(|sort| *sort == self.sort)
                    .unwrap_or(0);
                self.sort_by(
                    Sort::ALL
                        .into_iter()
                        .cycle()
                        .nth(at + 1)
                        .unwrap_or(Sort::Rate),
                );
            }
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('+' | '=') => self.step_interval(false),
            KeyCode::Char('-') => self.step_interval(true),
            KeyCode::Char(letter) => {
                if let Some(sort) = Sort::ALL.into_iter().find(|sort| sort.letter() == letter) {
                    self.sort_by(sort);
                }
            }
            _ => {}
        }
        self.clamp();
        Effect::Redraw
    }

    /// The same column again turns the order round.
    fn sort_by(&mut self, sort: Sort) {
        self.reverse = self.sort == sort && !self.reverse;
        self.sort = sort;
        self.selected = 0;
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.len() < 64 => self.filter.push(letter),
            _ => {}
        }
        self.selected = 0;
    }

    fn step_interval(&mut self, longer: bool) {
        let now = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let next = if longer {
            INTERVALS_MS.iter().find(|ms| **ms > now)
        } else {
            INTERVALS_MS.iter().rev().find(|ms| **ms < now)
        };
        if let Some(ms) = next {
            self.interval = Duration::from_millis(*ms);
        }
    }

    fn clamp(&mut self) {
        self.selected = self.selected.min(self.shown().len().saturating_sub(1));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn row(
        service: &str,
        version: &str,
        rate: f64,
        p99: Option<f64>,
    ) -> StatsRow {
        StatsRow {
            service: service.to_owned(),
            version: version.to_owned(),
            requests_per_second: rate,
            requests: 10,
            success_percent: p99.map(|_| 100.0),
            latency_p50_ms: p99.map(|p99| p99 / 4.0),
            latency_p95_ms: p99.map(|p99| p99 / 2.0),
            latency_p99_ms: p99,
            mtls_percent: p99.map(|_| 100.0),
            ..StatsRow::default()
        }
    }

    pub(in super::super) fn state() -> State {
        let mut state = State::new("default", Duration::from_secs(10), Duration::from_secs(1));
        for step in 1..=8 {
            state.update(StatsReport {
                window_seconds: 10,
                at_unix_ms: 0,
                rows: vec![
                    row("reviews.default", "v1", 10.0 * f64::from(step), Some(12.0)),
                    row("reviews.default", "v3", 5.0, Some(40.0)),
                    row("details.default", "v1", 0.0, None),
                ],
            });
        }
        state
    }

    fn press(state: &mut State, keys: &str) -> Effect {
        let mut effect = Effect::Redraw;
        for letter in keys.chars() {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            effect = state.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        effect
    }

    fn names(state: &State) -> Vec<String> {
        state
            .shown()
            .iter()
            .map(|row| format!("{}/{}", row.service.split('.').next().unwrap(), row.version))
            .collect()
    }

    #[test]
    fn rows_are_sorted_as_asked_and_without_a_figure_last() {
        let mut state = state();
        assert_eq!(names(&state), ["reviews/v1", "reviews/v3", "details/v1"]);
        press(&mut state, "H");
        assert_eq!(names(&state), ["reviews/v3", "reviews/v1", "details/v1"]);
        press(&mut state, "H");
        assert_eq!(names(&state), ["reviews/v1", "reviews/v3", "details/v1"]);
        press(&mut state, "N");
        assert_eq!(names(&state), ["details/v1", "reviews/v1", "reviews/v3"]);
        press(&mut state, "s");
        assert_eq!(state.sort, Sort::Version);
    }

    #[test]
    fn a_filter_is_typed_kept_and_cleared() {
        let mut state = state();
        press(&mut state, "/v3q\n");
        assert!(names(&state).is_empty());
        press(&mut state, "\u{1b}/v3\n");
        assert_eq!(names(&state), ["reviews/v3"]);
        press(&mut state, "\u{1b}/!v3\n");
        assert_eq!(names(&state), ["reviews/v1", "details/v1"]);
        assert_eq!(press(&mut state, "\u{1b}"), Effect::Redraw);
        assert_eq!(press(&mut state, "\u{1b}"), Effect::Quit);
    }

    #[test]
    fn moving_stays_inside_and_pausing_keeps_the_figures() {
        let mut state = state();
        press(&mut state, "jjjjj");
        assert_eq!(state.selected, 2);
        press(&mut state, "kkkkk");
        assert_eq!(state.selected, 0);
        press(&mut state, "Gp");
        assert_eq!(state.selected, 2);
        state.update(StatsReport {
            window_seconds: 1,
            at_unix_ms: 0,
            rows: vec![],
        });
        assert_eq!(names(&state).len(), 3);
        press(&mut state, "++");
        assert_eq!(state.interval, Duration::from_millis(250));
        press(&mut state, "-----");
        assert_eq!(state.interval, Duration::from_secs(10));
        assert_eq!(press(&mut state, "q"), Effect::Quit);
    }

    #[test]
    fn a_sparkline_shows_the_last_rates() {
        let state = state();
        let shown = state.shown();
        assert_eq!(state.sparkline(shown[0], 8), "▁▂▃▄▅▆▇█");
        assert_eq!(state.sparkline(shown[0], 3), "▆▇█");
        assert_eq!(state.sparkline(shown[2], 3), "▁▁▁");
    }
}
