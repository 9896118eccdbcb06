//! What `top` shows, and what keys do to it. Pure: no terminal, no clock.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use regex::RegexBuilder;

use crate::api::Version;
use crate::api::stats::{StatsReport, StatsRow};
use crate::api::tap::Call;

use super::super::stats::{self, Query};
use super::calls::{By, Calls, Key, Row};

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
    /// Something else is looked at: ask anew.
    Ask,
    /// Leave.
    Quit,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Level {
    /// Services and their versions.
    Services,
    /// Who calls a service.
    Sources(String),
    /// Live calls around a service, or all.
    Calls(Option<String>),
    /// The last calls that are alike.
    Recent(Option<String>, Key),
}

/// Calls around a service, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around(pub(super) Option<String>);

fn tapped(level: &Level) -> Option<Around> {
    match level {
        Level::Calls(of) | Level::Recent(of, _) => Some(Around(of.clone())),
        Level::Services | Level::Sources(_) => None,
    }
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
    /// What is looked at, and what that was reached from.
    levels: Vec<(Level, usize)>,
    pub(super) calls: Calls,
    pub(super) by: By,
    pub(super) wide: bool,
    /// Rows of all namespaces, whatever `-n` says.
    pub(super) all_namespaces: bool,
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
            levels: vec![(Level::Services, 0)],
            calls: Calls::default(),
            by: By::Count,
            wide: false,
            all_namespaces: false,
        }
    }

    /// Begins with something else.
    pub(super) fn begin(&mut self, level: Level) {
        self.levels = vec![(level, 0)];
    }

    /// What is looked at.
    pub(super) fn level(&self) -> &Level {
        self.levels
            .last()
            .map_or(&Level::Services, |(level, _)| level)
    }

    /// Takes a call; ignored while paused.
    pub(super) fn call(&mut self, call: Call) {
        if !self.paused {
            self.calls.add(call);
        }
    }

    /// Which calls are looked at, if any are.
    pub(super) fn tapped(&self) -> Option<Around> {
        tapped(self.level())
    }

    /// What is asked for by who looks at figures, where `first` is what it began with.
    pub(super) fn asked(&self, first: &Query) -> Option<Query> {
        let query = Query {
            everywhere: self.all_namespaces,
            ..first.clone()
        };
        match self.level() {
            Level::Services => Some(query),
            Level::Sources(service) => {
                let service = service.split_once('.');
                Some(Query {
                    service: service.map(|(name, of)| (name.to_owned(), of.to_owned())),
                    by: vec![stats::By::Source],
                    ..query
                })
            }
            Level::Calls(_) | Level::Recent(..) => None,
        }
    }

    fn enter(&mut self, level: Level) -> Effect {
        if tapped(&level) != self.tapped() {
            self.calls = Calls::default();
        }
        if let Some((_, selected)) = self.levels.last_mut() {
            *selected = self.selected;
        }
        self.levels.push((level, 0));
        self.selected = 0;
        self.turned()
    }

    /// Back to what this was reached from.
    fn back(&mut self) -> Effect {
        if self.levels.len() < 2 {
            return Effect::Quit;
        }
        self.levels.pop();
        self.selected = self.levels.last().map_or(0, |(_, selected)| *selected);
        self.turned()
    }

    /// Figures of something else are not those of this.
    fn turned(&mut self) -> Effect {
        if self.tapped().is_none() {
            self.rows.clear();
            self.rates.clear();
        }
        self.filter.clear();
        self.trouble = None;
        Effect::Ask
    }

    /// Looks closer at the selected row.
    fn closer(&mut self) -> Effect {
        let next = match self.level() {
            Level::Services => {
                let rows = self.shown();
                rows.get(self.selected)
                    .map(|row| Level::Sources(row.service.clone()))
            }
            Level::Sources(service) => Some(Level::Calls(Some(service.clone()))),
            Level::Calls(of) => {
                let rows = self.shown_calls();
                let of = of.clone();
                rows.get(self.selected)
                    .map(|row| Level::Recent(of, row.key.clone()))
            }
            Level::Recent(..) => None,
        };
        next.map_or(Effect::Redraw, |next| self.enter(next))
    }

    /// Live calls of what is selected.
    fn tap(&mut self) -> Effect {
        let next = match self.level() {
            Level::Services => {
                let rows = self.shown();
                Level::Calls(rows.get(self.selected).map(|row| row.service.clone()))
            }
            Level::Sources(service) => Level::Calls(Some(service.clone())),
            Level::Calls(_) | Level::Recent(..) => return Effect::Redraw,
        };
        self.enter(next)
    }

    /// Rows of calls that pass the filter, in order.
    pub(super) fn shown_calls(&self) -> Vec<&Row> {
        let passes = self.passes();
        let backwards = self.by.descending() != self.reverse;
        self.calls.shown(&passes, self.by, backwards)
    }

    /// The last calls that are alike, newest first.
    pub(super) fn recent(&self) -> Vec<&Call> {
        match self.level() {
            Level::Recent(_, key) => {
                let row = self.calls.get(key);
                row.map_or_else(Vec::new, |row| row.recent.iter().rev().collect())
            }
            _ => Vec::new(),
        }
    }

    /// Rows of what is looked at.
    fn count(&self) -> usize {
        match self.level() {
            Level::Services | Level::Sources(_) => self.shown().len(),
            Level::Calls(_) => self.shown_calls().len(),
            Level::Recent(..) => self.recent().len(),
        }
    }

    /// Columns of what is looked at that rows can be sorted by, with their letters.
    pub(super) fn columns(&self) -> Vec<(char, &'static str)> {
        match self.level() {
            Level::Services | Level::Sources(_) => Sort::ALL
                .map(|sort| (sort.letter(), self.head(sort)))
                .into(),
            Level::Calls(_) => By::ALL.map(|by| (by.letter(), by.header())).into(),
            Level::Recent(..) => Vec::new(),
        }
    }

    /// The head of a column of figures.
    pub(super) fn head(&self, sort: Sort) -> &'static str {
        match (self.level(), sort) {
            (Level::Sources(_), Sort::Version) => "SOURCE",
            _ => sort.header(),
        }
    }

    /// The column by which rows of a service are told apart.
    pub(super) fn part<'r>(&self, row: &'r StatsRow) -> &'r str {
        match self.level() {
            Level::Sources(_) => &row.source,
            _ => &row.version,
        }
    }

    /// What the filter says of a text: a regular expression, or the text itself where it is none.
    fn passes(&self) -> impl Fn(&str) -> bool + use<> {
        let (wanted, invert) = match self.filter.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (self.filter.as_str(), false),
        };
        let compiled = |text: &str| RegexBuilder::new(text).case_insensitive(true).build().ok();
        let pattern = compiled(wanted).or_else(|| compiled(&regex::escape(wanted)));
        let any = wanted.is_empty();
        move |text| {
            any || pattern
                .as_ref()
                .is_some_and(|pattern| pattern.is_match(text) != invert)
        }
    }

    /// Takes a new report; ignored while paused.
    pub(super) fn update(&mut self, report: StatsReport) {
        if self.paused {
            return;
        }
        self.trouble = None;
        let by_source = matches!(self.level(), Level::Sources(_));
        let key = |row: &StatsRow| {
            let part = if by_source { &row.source } else { &row.version };
            (row.service.clone(), part.clone())
        };
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
        let passes = self.passes();
        let mut rows: Vec<&StatsRow> = self
            .rows
            .iter()
            .filter(|row| passes(&format!("{} {}", row.service, self.part(row))))
            .collect();
        rows.sort_by(|a, b| {
            let order = self.compare(a, b);
            let order = if self.backwards() {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| (&a.service, self.part(a)).cmp(&(&b.service, self.part(b))))
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
            Sort::Version => self.part(a).cmp(self.part(b)),
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
        let Some(rates) = self
            .rates
            .get(&(row.service.clone(), self.part(row).to_owned()))
        else {
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
        let last = self.count().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return self.back(),
            KeyCode::Esc if self.filter.is_empty() => return self.back(),
            KeyCode::Enter => return self.closer(),
            KeyCode::Char('t') => return self.tap(),
            KeyCode::Char('w') => self.wide = !self.wide,
            KeyCode::Char('0') => {
                self.all_namespaces = !self.all_namespaces;
                return Effect::Ask;
            }
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
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('+' | '=') => self.step_interval(false),
            KeyCode::Char('-') => self.step_interval(true),
            KeyCode::Char(letter) => self.sort_by_letter(letter),
            _ => {}
        }
        self.clamp();
        Effect::Redraw
    }

    fn sort_by_next(&mut self) {
        let now = match self.level() {
            Level::Services | Level::Sources(_) => self.sort.letter(),
            Level::Calls(_) | Level::Recent(..) => self.by.letter(),
        };
        let columns = self.columns();
        let at = columns
            .iter()
            .position(|(letter, _)| *letter == now)
            .unwrap_or(0);
        if let Some((next, _)) = columns.iter().cycle().nth(at + 1) {
            self.sort_by_letter(*next);
        }
    }

    fn sort_by_letter(&mut self, letter: char) {
        match self.level() {
            Level::Services | Level::Sources(_) => {
                let sort = Sort::ALL.into_iter().find(|sort| sort.letter() == letter);
                if let Some(sort) = sort {
                    self.sort_by(sort);
                }
            }
            Level::Calls(_) => {
                if let Some(by) = By::ALL.into_iter().find(|by| by.letter() == letter) {
                    self.reverse = self.by == by && !self.reverse;
                    self.by = by;
                    self.selected = 0;
                }
            }
            Level::Recent(..) => {}
        }
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
        self.selected = self.selected.min(self.count().saturating_sub(1));
    }
}

#[cfg(test)]
pub(super) mod tests;
