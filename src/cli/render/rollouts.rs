//! Rollouts: a tree of steps with the figures of each, and what came of past ones.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Cell, Column, Grid, Page, Render, Tone, number};
use crate::api::canary::{CanaryStatus, VersionStatus};
use crate::api::rollouts::{Rollout, RolloutList, RolloutStep};
use crate::mesh::rollout::{Measure, Phase, StepState, Verdict};

/// How a service's canary stands: the run, and the split that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RolloutStatus {
    #[serde(flatten)]
    pub(crate) rollout: Rollout,
    /// What each version got in the last minute; empty where requests are not split.
    pub(crate) versions: Vec<VersionStatus>,
    /// The object that holds the split.
    pub(crate) split: String,
}

/// A service that is split, with its run if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) split: CanaryStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rollout: Option<Rollout>,
}

/// Sign and tone of a phase; the sign never stands alone.
pub(crate) const fn sign(phase: Phase) -> (&'static str, Tone) {
    match phase {
        Phase::Initialized | Phase::Progressing | Phase::Promoting => ("◌", Tone::Hint),
        Phase::Waiting => ("◷", Tone::Warn),
        Phase::Paused => ("॥", Tone::Warn),
        Phase::Succeeded => ("✔", Tone::Good),
        Phase::RolledBack => ("✖", Tone::Bad),
        Phase::Inconclusive => ("?", Tone::Warn),
    }
}

const fn step_sign(state: StepState) -> (&'static str, &'static str, Tone) {
    match state {
        StepState::Pending => ("·", "to come", Tone::Faint),
        StepState::Running => ("◌", "running", Tone::Hint),
        StepState::Passed => ("✔", "passed", Tone::Good),
        StepState::Failed => ("✖", "failed", Tone::Bad),
        StepState::Skipped => ("↷", "skipped", Tone::Faint),
    }
}

/// The tree of one run.
pub(crate) fn tree(rollout: &Rollout, page: &Page) -> String {
    let paint = page.paint;
    let mut out = String::new();
    let (mark, tone) = sign(rollout.phase);
    let phase = paint.tone(tone, format!("{mark} {}", rollout.phase.name()));
    let mut line = |name: &str, value: &str| {
        // Writing into a String cannot fail.
        let _infallible = writeln!(out, "{name:<10} {value}").is_ok();
    };
    line(
        "Name:",
        &format!("{}.{}", rollout.service, rollout.namespace),
    );
    line("Status:", &phase);
    line("Reason:", &rollout.reason);
    if !rollout.message.is_empty() {
        line("Trouble:", &paint.bad(&rollout.message));
    }
    line(
        "Canary:",
        &format!(
            "{} beside {}, {} %",
            rollout.canary, rollout.stable, rollout.weight
        ),
    );
    line("Strategy:", &strategy(rollout));
    line(
        "Failures:",
        &format!("{} of {}", rollout.failures, rollout.max_failures),
    );
    let end = rollout.ended_unix_ms.unwrap_or(page.now_unix_ms);
    line(
        "Began:",
        &format!(
            "{} ago by {}, {}",
            number::age(rollout.started_unix_ms, page.now_unix_ms),
            if rollout.who.is_empty() {
                "?"
            } else {
                &rollout.who
            },
            if rollout.ended_unix_ms.is_some() {
                format!("took {}", number::age(rollout.started_unix_ms, end))
            } else {
                "under way".to_owned()
            }
        ),
    );
    let last = rollout.steps.len();
    let _infallible = writeln!(out, "\n⟳ {}", paint.strong(&rollout.service)).is_ok();
    for (at, step) in rollout.steps.iter().enumerate() {
        branch(&mut out, (at + 1, at + 1 == last), step, page);
    }
    out
}

fn strategy(rollout: &Rollout) -> String {
    let mut words = vec![match rollout.strategy.as_str() {
        "abTest" => "A/B".to_owned(),
        "blueGreen" => "blue/green".to_owned(),
        _ => "weights".to_owned(),
    }];
    if !rollout.matches.is_empty() {
        words.push(format!("for {}", rollout.matches.join(" and ")));
    }
    if let Some(cookie) = &rollout.affinity_cookie {
        words.push(format!("affinity by cookie {cookie}"));
    }
    words.push(format!("a look every {} s", rollout.interval_seconds));
    words.join(", ")
}

fn branch(out: &mut String, (number, last): (usize, bool), step: &RolloutStep, page: &Page) {
    let (arm, trunk) = if last {
        ("└──", "   ")
    } else {
        ("├──", "│  ")
    };
    let (mark, word, tone) = step_sign(step.state);
    let share = if step.mirror {
        "copies".to_owned()
    } else {
        format!("{} %", step.weight)
    };
    let gate = if step.gate { "  gate" } else { "" };
    let time = step.started_unix_ms.map(|started| {
        let end = step.ended_unix_ms.unwrap_or(page.now_unix_ms);
        format!("  {}", number::age(started, end))
    });
    let head = page.paint.tone(tone, format!("{mark} {word}"));
    let _infallible = writeln!(
        out,
        "{arm}{number:>2}  {share:<7} {head}{}{gate}",
        page.paint.faint(time.unwrap_or_default())
    )
    .is_ok();
    let leaves = step.measures.len();
    for (at, measure) in step.measures.iter().enumerate() {
        let arm = if at + 1 == leaves {
            "└──"
        } else {
            "├──"
        };
        let _infallible = writeln!(out, "{trunk} {arm}{}", figures(measure, page)).is_ok();
    }
}

/// A metric with its figures.
fn figures(measure: &Measure, page: &Page) -> String {
    let (mark, word, tone) = match measure.verdict {
        Verdict::Pass => ("✔", "pass", Tone::Good),
        Verdict::Fail => ("✖", "fail", Tone::Bad),
        Verdict::Unproven => ("?", "unproven", Tone::Warn),
        Verdict::NoData => ("·", "too few", Tone::Faint),
    };
    let show = |value: f64| {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let with_unit = |value: f64| format!("{} {}", show(value), measure.unit);
    let mut words = vec![measure.value.map_or_else(|| "-".to_owned(), with_unit)];
    if let Some(bound) = measure.bound {
        words.push(format!("{} {}", measure.bound_is, show(bound)));
    }
    if let Some(baseline) = measure.baseline {
        words.push(format!("stable {}", show(baseline)));
    }
    words.push(format!("{} requests", measure.requests));
    format!(
        "{} {:<13} {}",
        page.paint.tone(tone, format!("{mark} {word:<8}")),
        measure.metric,
        words.join(" · ")
    )
}

impl Render for RolloutStatus {
    fn text(&self, page: &Page) -> String {
        let mut out = tree(&self.rollout, page);
        if !self.versions.is_empty() {
            out.push('\n');
            out.push_str(&super::canary::versions(&self.versions, page));
        }
        out
    }

    fn names(&self) -> Vec<String> {
        self.rollout.names()
    }
}

impl Render for Rollout {
    fn text(&self, page: &Page) -> String {
        tree(self, page)
    }

    fn names(&self) -> Vec<String> {
        vec![format!("{}.{}", self.service, self.namespace)]
    }
}

impl Render for RolloutList {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("SERVICE"),
            Column::text("CANARY"),
            Column::text("RESULT"),
            Column::number("STEP"),
            Column::number("BEGAN"),
            Column::number("TOOK"),
            Column::long("REASON"),
        ]);
        for run in &self.rollouts {
            let (mark, tone) = sign(run.phase);
            let end = run.ended_unix_ms.unwrap_or(page.now_unix_ms);
            grid.row([
                format!("{}.{}", run.service, run.namespace).into(),
                format!("{} → {}", run.stable, run.canary).into(),
                Cell::new(format!("{mark} {}", run.phase.name()), tone),
                format!("{}/{}", run.step, run.steps.len()).into(),
                number::age(run.started_unix_ms, page.now_unix_ms).into(),
                number::age(run.started_unix_ms, end).into(),
                run.reason.as_str().into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.rollouts.iter().flat_map(Render::names).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.rollouts
            .is_empty()
            .then_some("No canary was ever begun")
    }
}
