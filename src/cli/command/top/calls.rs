//! Live calls, counted by who called whom and what: pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::api::tap::Call;
use crate::cli::render::{Cell, Column, Grid, Page, Render, number, stats};

/// Rows that are kept; the one that was silent for longest makes room.
const ROWS: usize = 500;
/// Calls of a row that are kept.
const RECENT: usize = 50;

/// What makes calls one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Key {
    pub(super) source: String,
    /// Who answered, else the service that was meant.
    pub(super) destination: String,
    pub(super) method: String,
    pub(super) path: String,
}

/// The calls of a row.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) key: Key,
    pub(super) count: u64,
    #[serde(rename = "bestMs")]
    pub(super) best: f64,
    #[serde(rename = "worstMs")]
    pub(super) worst: f64,
    #[serde(rename = "lastMs")]
    pub(super) last: f64,
    #[serde(skip)]
    pub(super) good: u64,
    pub(super) success_percent: f64,
    /// Newest last.
    #[serde(skip)]
    pub(super) recent: VecDeque<Call>,
    /// Number of the last call among all.
    #[serde(skip)]
    seen: u64,
}

/// A column that rows can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Source,
    Destination,
    Method,
    Path,
    Count,
    Best,
    Worst,
    Last,
    Success,
}

impl By {
    pub(super) const ALL: [Self; 9] = [
        Self::Source,
        Self::Destination,
        Self::Method,
        Self::Path,
        Self::Count,
        Self::Best,
        Self::Worst,
        Self::Last,
        Self::Success,
    ];

    pub(super) const fn header(self) -> &'static str {
        match self {
            Self::Source => "SOURCE",
            Self::Destination => "DESTINATION",
            Self::Method => "METHOD",
            Self::Path => "PATH",
            Self::Count => "COUNT",
            Self::Best => "BEST",
            Self::Worst => "WORST",
            Self::Last => "LAST",
            Self::Success => "SUCCESS",
        }
    }

    /// The capital letter that chooses it.
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Source => 'F',
            Self::Destination => 'D',
            Self::Method => 'M',
            Self::Path => 'P',
            Self::Count => 'C',
            Self::Best => 'B',
            Self::Worst => 'W',
            Self::Last => 'L',
            Self::Success => 'S',
        }
    }

    /// Of figures the telling end comes first.
    pub(super) const fn descending(self) -> bool {
        matches!(self, Self::Count | Self::Best | Self::Worst | Self::Last)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Calls {
    rows: BTreeMap<Key, Row>,
    seen: u64,
}

impl Calls {
    /// Counts a call.
    pub(super) fn add(&mut self, call: Call) {
        self.seen += 1;
        let destination = [&call.destination, &call.service, &call.authority];
        let destination = destination.into_iter().find(|name| !name.is_empty());
        let key = Key {
            source: call.source.clone(),
            destination: destination.cloned().unwrap_or_default(),
            method: call.method.clone(),
            path: call.path.clone(),
        };
        if !self.rows.contains_key(&key) && self.rows.len() >= ROWS {
            let oldest = self.rows.values().min_by_key(|row| row.seen);
            if let Some(oldest) = oldest.map(|row| row.key.clone()) {
                self.rows.remove(&oldest);
            }
        }
        let row = self.rows.entry(key.clone()).or_insert_with(|| Row {
            key,
            count: 0,
            best: f64::INFINITY,
            worst: 0.0,
            last: 0.0,
            good: 0,
            success_percent: 0.0,
            recent: VecDeque::new(),
            seen: 0,
        });
        row.count += 1;
        row.seen = self.seen;
        row.best = row.best.min(call.duration_ms);
        row.worst = row.worst.max(call.duration_ms);
        row.last = call.duration_ms;
        row.good += u64::from(succeeded(&call));
        row.success_percent = 100.0 * number::float(row.good) / number::float(row.count);
        row.recent.push_back(call);
        if row.recent.len() > RECENT {
            row.recent.pop_front();
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Row> {
        self.rows.get(key)
    }

    /// Rows that pass, in order.
    pub(super) fn shown(
        &self,
        passes: &dyn Fn(&str) -> bool,
        by: By,
        backwards: bool,
    ) -> Vec<&Row> {
        let text = |row: &Row| {
            let Key {
                source,
                destination,
                method,
                path,
            } = &row.key;
            format!("{source} {destination} {method} {path}")
        };
        let mut rows: Vec<&Row> = self
            .rows
            .values()
            .filter(|row| passes(&text(row)))
            .collect();
        rows.sort_by(|a, b| {
            let order = compare(by, a, b);
            let order = if backwards { order.reverse() } else { order };
            order.then_with(|| a.key.cmp(&b.key))
        });
        rows
    }
}

/// As for `stats`: below 500, and status 0 in gRPC.
fn succeeded(call: &Call) -> bool {
    (1..500).contains(&call.status) && call.grpc_status.unwrap_or(0) == 0
}

fn compare(by: By, a: &Row, b: &Row) -> Ordering {
    match by {
        By::Source => a.key.source.cmp(&b.key.source),
        By::Destination => a.key.destination.cmp(&b.key.destination),
        By::Method => a.key.method.cmp(&b.key.method),
        By::Path => a.key.path.cmp(&b.key.path),
        By::Count => a.count.cmp(&b.count),
        By::Best => a.best.total_cmp(&b.best),
        By::Worst => a.worst.total_cmp(&b.worst),
        By::Last => a.last.total_cmp(&b.last),
        By::Success => a.success_percent.total_cmp(&b.success_percent),
    }
}

/// What `--batch --calls` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallsReport {
    pub(super) window_seconds: u64,
    pub(super) rows: Vec<Row>,
}

impl CallsReport {
    pub(super) fn new(calls: &Calls, window_seconds: u64) -> Self {
        let rows = calls.shown(&|_| true, By::Count, true);
        Self {
            window_seconds,
            rows: rows.into_iter().cloned().collect(),
        }
    }
}

impl Render for CallsReport {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("SOURCE"),
            Column::long("DESTINATION"),
            Column::text("METHOD"),
            Column::long("PATH"),
            Column::number("COUNT"),
            Column::number("BEST"),
            Column::number("WORST"),
            Column::number("LAST"),
            Column::number("SUCCESS"),
        ]);
        for row in &self.rows {
            grid.row([
                row.key.source.as_str().into(),
                row.key.destination.as_str().into(),
                row.key.method.as_str().into(),
                row.key.path.as_str().into(),
                row.count.to_string().into(),
                Cell::from(number::latency(row.best)),
                number::latency(row.worst).into(),
                number::latency(row.last).into(),
                stats::success(Some(row.success_percent)),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.key.path.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.rows.is_empty().then_some("No calls in this time")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn call(path: &str, status: u16, duration_ms: f64) -> Call {
        Call {
            source: "productpage-v1.default".to_owned(),
            destination: "reviews-v1.default".to_owned(),
            service: "reviews.default".to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            authority: "reviews:9080".to_owned(),
            status,
            duration_ms,
            ..Call::default()
        }
    }

    #[test]
    fn calls_alike_are_one_row() {
        let mut calls = Calls::default();
        for (status, ms) in [(200, 3.0), (503, 9.0), (404, 1.0), (0, 2.0)] {
            calls.add(call("/a", status, ms));
        }
        calls.add(call("/b", 200, 5.0));
        let rows = calls.shown(&|_| true, By::Count, true);
        assert_eq!(rows.len(), 2);
        let row = rows[0];
        assert_eq!(
            (row.count, row.best, row.worst, row.last),
            (4, 1.0, 9.0, 2.0)
        );
        // Broken off and 503 are no success, 404 is.
        assert!((row.success_percent - 50.0).abs() < f64::EPSILON);
        assert_eq!(row.recent.len(), 4);
        assert_eq!(
            calls
                .shown(&|text| text.contains("/b"), By::Path, false)
                .len(),
            1
        );
    }

    #[test]
    fn what_was_silent_for_longest_makes_room() {
        let mut calls = Calls::default();
        for number in 0..=ROWS {
            calls.add(call(&format!("/{number}"), 200, 1.0));
            if number == 0 {
                continue;
            }
            calls.add(call("/0", 200, 1.0));
        }
        let rows = calls.shown(&|_| true, By::Count, true);
        assert_eq!(rows.len(), ROWS);
        assert_eq!(rows[0].key.path, "/0");
        assert!(rows.iter().all(|row| row.key.path != "/1"));
        assert_eq!(rows[0].recent.len(), RECENT);
    }
}
