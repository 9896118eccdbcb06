//! From turns to figures, and the sentence that they come to.

use std::time::Duration;

use serde::Serialize;

use crate::cli::load::Tally;
use crate::cli::render::{Cell, Column, Grid, Page, Render, number};

/// How a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// To the application itself.
    Direct,
    /// Through the sidecar beside the application, in plaintext.
    OneHop,
    /// Through both sidecars, with mutual TLS between them.
    TwoHops,
}

impl Kind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::OneHop => "through one sidecar",
            Self::TwoHops => "through two, mutual TLS",
        }
    }
}

/// One path, measured once.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) kind: Kind,
    /// At an even pace.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// As fast as answers come: how many, in what time, for how much CPU of the sidecars.
    pub(super) answered: u64,
    pub(super) took: Duration,
    pub(super) cpu: Option<Duration>,
    /// Bytes that the sidecars kept resident.
    pub(super) memory: Option<u64>,
    /// Requests and failures of both halves.
    pub(super) counted: Tally,
}

/// All paths, measured close to each other.
pub(super) type Round = Vec<Turn>;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BenchReport {
    /// The application that was there; absent: one that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Times that each path was measured; figures are medians of these.
    rounds: usize,
    /// Requests a second while latency was measured.
    rate_per_second: u32,
    connections: usize,
    /// How far medians of direct calls lay apart: less than this is no difference.
    noise_ms: f64,
    paths: Vec<Figures>,
    /// Requests that failed, on any path.
    pub(crate) failed: u64,
    /// What it comes to, in a sentence.
    verdict: String,
}

/// One path.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    path: Kind,
    requests: u64,
    failed: u64,
    /// Why, by status or error.
    #[serde(skip_serializing_if = "String::is_empty")]
    reasons: String,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    /// Against direct calls of the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    added_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added_p99_ms: Option<f64>,
    /// Answers a second, as fast as they come.
    requests_per_second: f64,
    /// Of the sidecars.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_micros_per_request: Option<f64>,
    /// Of the sidecars.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mib: Option<f64>,
}

/// What the rounds come to.
pub(super) fn summary(
    target: Option<String>,
    rate_per_second: u32,
    connections: usize,
    rounds: &[Round],
) -> BenchReport {
    let kinds = rounds.first().into_iter().flatten().map(|turn| turn.kind);
    let paths: Vec<Figures> = kinds.map(|kind| figures(kind, rounds)).collect();
    let direct: Vec<f64> = of(Kind::Direct, rounds).map(|turn| turn.p50_ms).collect();
    let spread = direct.iter().copied().fold(f64::MIN, f64::max)
        - direct.iter().copied().fold(f64::MAX, f64::min);
    let noise_ms = micros(spread.max(0.0));
    let failed = paths.iter().map(|figures| figures.failed).sum();
    BenchReport {
        target,
        rounds: rounds.len(),
        rate_per_second,
        connections,
        noise_ms,
        failed,
        verdict: verdict(&paths, noise_ms, failed),
        paths,
    }
}

fn of(kind: Kind, rounds: &[Round]) -> impl Iterator<Item = &Turn> {
    let turns = move |round: &'_ Round| round.iter().position(|turn| turn.kind == kind);
    rounds
        .iter()
        .filter_map(move |round| round.get(turns(round)?))
}

fn figures(kind: Kind, rounds: &[Round]) -> Figures {
    let over = |figure: &dyn Fn(&Turn) -> Option<f64>| median(of(kind, rounds).filter_map(figure));
    let added = |figure: fn(&Turn) -> f64| {
        if kind == Kind::Direct {
            return None;
        }
        let pairs = of(kind, rounds).zip(of(Kind::Direct, rounds));
        median(pairs.map(|(turn, direct)| figure(turn) - figure(direct))).map(micros)
    };
    let mut counted = Tally::default();
    for turn in of(kind, rounds) {
        counted.merge(turn.counted.clone());
    }
    let per_request = |turn: &Turn| {
        let micros = turn.cpu?.as_secs_f64() * 1e6;
        (turn.answered > 0).then(|| micros / number::float(turn.answered))
    };
    let rate = |turn: &Turn| Some(number::float(turn.answered) / turn.took.as_secs_f64().max(1e-9));
    let memory = |turn: &Turn| {
        let bytes = turn.memory.filter(|bytes| *bytes > 0)?;
        Some(number::float(bytes) / f64::from(1 << 20))
    };
    Figures {
        path: kind,
        requests: counted.requests,
        failed: counted.failed,
        reasons: counted.why(),
        latency_p50_ms: over(&|turn| Some(turn.p50_ms)).unwrap_or(0.0),
        latency_p99_ms: over(&|turn| Some(turn.p99_ms)).unwrap_or(0.0),
        added_p50_ms: added(|turn| turn.p50_ms),
        added_p99_ms: added(|turn| turn.p99_ms),
        requests_per_second: over(&rate).unwrap_or(0.0),
        cpu_micros_per_request: over(&per_request),
        memory_mib: over(&memory),
    }
}

/// Milliseconds to the microsecond, which is what latencies are taken in.
fn micros(ms: f64) -> f64 {
    (ms * 1_000.0).round() / 1_000.0
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) && middle > 0 {
        return Some(f64::midpoint(
            *sorted.get(middle - 1)?,
            *sorted.get(middle)?,
        ));
    }
    sorted.get(middle).copied()
}

fn verdict(paths: &[Figures], noise_ms: f64, failed: u64) -> String {
    if failed > 0 {
        let all: u64 = paths.iter().map(|figures| figures.requests).sum();
        return format!("{failed} of {all} calls failed, so the figures say little.");
    }
    let Some(two) = paths.iter().find(|figures| figures.path == Kind::TwoHops) else {
        return "Nothing was measured.".to_owned();
    };
    let (p50, p99) = (
        two.added_p50_ms.unwrap_or(0.0),
        two.added_p99_ms.unwrap_or(0.0),
    );
    let median = if p50 > noise_ms {
        format!("add {p50:.2} ms to the median call")
    } else {
        format!("add less to the median call than this machine's own noise ({noise_ms:.2} ms)")
    };
    let slowest = if p99 > 0.0 {
        format!("{p99:.2} ms to the slowest in a hundred")
    } else {
        "nothing to the slowest in a hundred".to_owned()
    };
    let cost = match two.cpu_micros_per_request {
        Some(micros) if micros > 0.0 => format!(
            "; they take {micros:.0} µs of CPU for it, so one core carries about {} such calls a second",
            rounded(1e6 / micros)
        ),
        _ => String::new(),
    };
    format!("Two sidecars with mutual TLS {median} and {slowest}{cost}.")
}

/// Two digits that count, as the figure has no more: `17,000`.
fn rounded(value: f64) -> String {
    let digits = format!("{value:.0}").len();
    let unit = 10_f64.powi(i32::try_from(digits.saturating_sub(2)).unwrap_or(0));
    let digits = format!("{:.0}", (value / unit).round() * unit);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Render for BenchReport {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("PATH"),
            Column::number("P50"),
            Column::number("P99"),
            Column::number("+P50"),
            Column::number("+P99"),
            Column::number("CPU/REQ"),
            Column::number("MEMORY"),
            Column::number("RPS"),
            Column::number("REQUESTS").when(page.wide),
            Column::number("FAILED").when(page.wide || self.failed > 0),
        ]);
        for figures in &self.paths {
            grid.row([
                figures.path.words().into(),
                number::latency(figures.latency_p50_ms).into(),
                number::latency(figures.latency_p99_ms).into(),
                Cell::maybe(figures.added_p50_ms, added),
                Cell::maybe(figures.added_p99_ms, added),
                Cell::maybe(figures.cpu_micros_per_request, |micros| {
                    format!("{micros:.1}µs")
                }),
                Cell::maybe(figures.memory_mib, |mib| format!("{mib:.1}MiB")),
                number::rate(figures.requests_per_second).into(),
                figures.requests.to_string().into(),
                figures.failed.to_string().into(),
            ]);
        }
        let mut text = grid.draw(page);
        for figures in self.paths.iter().filter(|figures| figures.failed > 0) {
            text.push_str(&format!("{}: {}\n", figures.path.words(), figures.reasons));
        }
        text.push_str(&format!("\n{}\n", self.verdict));
        text
    }

    fn names(&self) -> Vec<String> {
        let names = self
            .paths
            .iter()
            .map(|figures| figures.path.words().to_owned());
        names.collect()
    }
}

/// A difference, with its sign.
fn added(ms: f64) -> String {
    format!("{ms:+.2}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(kind: Kind, p50_ms: f64, cpu_micros: u64) -> Turn {
        Turn {
            kind,
            p50_ms,
            p99_ms: p50_ms * 2.0,
            answered: 1_000,
            took: Duration::from_secs(1),
            cpu: (cpu_micros > 0).then(|| Duration::from_micros(cpu_micros * 1_000)),
            memory: None,
            counted: Tally {
                requests: 1_500,
                ..Tally::default()
            },
        }
    }

    #[test]
    fn a_round_is_compared_with_itself() {
        // The machine slows down: what the mesh adds does not.
        let rounds: Vec<Round> = [0.1, 0.5, 0.9]
            .map(|slow| {
                vec![
                    turn(Kind::Direct, slow, 0),
                    turn(Kind::OneHop, slow + 0.1, 20),
                    turn(Kind::TwoHops, slow + 1.25, 58),
                ]
            })
            .into();
        let report = summary(None, 500, 8, &rounds);
        assert!((report.paths[2].added_p50_ms.unwrap() - 1.25).abs() < 1e-9);
        assert!((report.noise_ms - 0.8).abs() < 1e-9);
        assert_eq!(report.paths[0].added_p50_ms, None);
        assert_eq!(report.paths[1].requests, 4_500);
        assert_eq!(
            report.verdict,
            "Two sidecars with mutual TLS add 1.25 ms to the median call and 2.50 ms to the slowest in a hundred; \
             they take 58 µs of CPU for it, so one core carries about 17,000 such calls a second."
        );
    }

    #[test]
    fn less_than_noise_is_no_difference() {
        let rounds: Vec<Round> = [0.1, 0.9]
            .map(|slow| {
                vec![
                    turn(Kind::Direct, slow, 0),
                    turn(Kind::TwoHops, slow + 0.2, 0),
                ]
            })
            .into();
        let report = summary(None, 500, 8, &rounds);
        assert!(
            report.verdict.contains("own noise (0.80 ms)"),
            "{}",
            report.verdict
        );
    }

    #[test]
    fn failures_are_not_averaged_away() {
        let mut bad = turn(Kind::TwoHops, 0.2, 10);
        bad.counted.failed = 3;
        let report = summary(None, 500, 8, &[vec![turn(Kind::Direct, 0.1, 0), bad]]);
        assert_eq!(report.failed, 3);
        assert_eq!(
            report.verdict,
            "3 of 3000 calls failed, so the figures say little."
        );
    }
}
