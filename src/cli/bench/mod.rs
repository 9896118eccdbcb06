//! What the mesh costs here: the same calls directly, through one sidecar, and through two with mutual TLS.
//!
//! Owns the paths, the turns they are measured in, and the sentence at the end. The mesh is a throw-away one of real
//! processes, as `up` runs them.

mod report;
mod stand;

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::load::{self, Tally};
use crate::cli::progress::Progress;
use crate::cli::throwaway::interrupted;
use crate::rt::{now, usage};

pub(crate) use report::BenchReport;
pub(crate) use stand::{Target, target};

use report::{Round, Turn, summary};
use stand::{Path, Stand};

/// Times that each path is measured.
const ROUNDS: u32 = 5;
/// Less than this says nothing: fifteen turns, each in two halves.
pub(crate) const SHORTEST: Duration = Duration::from_secs(6);
/// Requests through each path before anything is counted, for connections, sessions and caches.
const WARM: u64 = 200;

/// What to measure.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The application; one of ours without it.
    pub(crate) target: Option<Target>,
    /// All paths together.
    pub(crate) length: Duration,
    /// Requests a second, for latency.
    pub(crate) rate: u32,
    /// Connections at once.
    pub(crate) connections: usize,
}

/// Measures, and leaves nothing behind.
pub(crate) async fn run(cx: &Context, asked: &Asked) -> Result<BenchReport, CliError> {
    let mut stand = Stand::new()?;
    let result = tokio::select! {
        measured = measure(cx, asked, &mut stand) => measured,
        () = interrupted() => Err(CliError::failed("interrupted")),
    };
    let cleaned = stand.clear().await;
    let report = result?;
    cleaned?;
    Ok(report)
}

async fn measure(cx: &Context, asked: &Asked, stand: &mut Stand) -> Result<BenchReport, CliError> {
    let begun = now();
    let progress = Progress::new(&cx.out);
    let step = progress.step("Start a mesh: control plane, two sidecars");
    let paths = stand.start(asked).await?;
    step.done(&format!("{:.1} s", begun.elapsed().as_secs_f64()));

    let step = progress.step("Measure");
    for path in &paths {
        let tally = load::burst(&path.plan, WARM).await;
        if tally.failed == tally.requests {
            return Err(CliError::failed(format!(
                "no call {} is answered: {}",
                path.kind.words(),
                tally.why()
            )));
        }
    }
    let turn = asked.length / (ROUNDS * 2 * u32::try_from(paths.len()).unwrap_or(3));
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        step.update(&format!("round {} of {ROUNDS}", number + 1));
        let mut round = Round::default();
        for path in &paths {
            round.push(take_turn(path, asked.rate, turn).await);
        }
        rounds.push(round);
    }
    step.done(&format!("{ROUNDS} rounds"));
    let of = asked.target.as_ref().map(ToString::to_string);
    Ok(summary(of, asked.rate, asked.connections, &rounds))
}

/// One path, once: at an even pace, then as fast as answers come.
async fn take_turn(path: &Path, rate: u32, length: Duration) -> Turn {
    let paced = load::paced(&path.plan, rate, length).await;
    let (before, begun) = (cpu(path), now());
    let running = load::start(path.plan.clone());
    tokio::time::sleep(length).await;
    let fast = running.stop().await;
    let (after, took) = (cpu(path), begun.elapsed());
    let memory: Option<u64> = path
        .sidecars
        .iter()
        .map(|pid| usage::resident_of(*pid))
        .sum();
    let mut counted = Tally {
        requests: paced.requests,
        failed: paced.failed,
        reasons: paced.reasons.clone(),
        ..Tally::default()
    };
    let answered = fast.requests - fast.failed;
    counted.merge(Tally {
        micros: Vec::new(),
        ..fast
    });
    Turn {
        kind: path.kind,
        p50_ms: paced.percentile_ms(50),
        p99_ms: paced.percentile_ms(99),
        answered,
        took,
        cpu: before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before)),
        memory,
        counted,
    }
}

/// What the sidecars of a path have used so far; none where there is none of them.
fn cpu(path: &Path) -> Option<Duration> {
    if path.sidecars.is_empty() {
        return None;
    }
    path.sidecars.iter().map(|pid| usage::cpu_of(*pid)).sum()
}
