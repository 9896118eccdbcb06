//! Rollouts: a tree of steps with the figures of each, and what came of past ones.

use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::wrap::wrap;
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
        StepState::Stopped => ("■", "stopped", Tone::Warn),
    }
}

/// The tree of one run.
pub(crate) fn tree(rollout: &Rollout, page: &Page) -> String {
    let mut out = head(rollout, page);
    steps(&mut out, rollout, page, (0..usize::MAX, true));
    if page.wide {
        events(&mut out, rollout, page);
    }
    out
}

/// The same within so many lines: first without the figures of steps that are behind, then without steps that are far.
pub(crate) fn tree_within(rollout: &Rollout, page: &Page, lines: usize) -> String {
    let head = head(rollout, page);
    let with = |which: (Range<usize>, bool)| {
        let mut out = head.clone();
        steps(&mut out, rollout, page, which);
        (out.lines().count() <= lines).then_some(out)
    };
    if let Some(fits) = with((0..usize::MAX, true)).or_else(|| with((0..usize::MAX, false))) {
        return fits;
    }
    let at = rollout.step.saturating_sub(1);
    let mut best = with((at..at + 1, false)).unwrap_or_else(|| head.clone());
    for more in 1..rollout.steps.len() {
        // What comes is worth more than what is behind.
        let first = at.saturating_sub(more / 3);
        match with((first..at + 1 + more, false)) {
            Some(fits) => best = fits,
            None => break,
        }
    }
    best
}

/// What is to be said of a run before its steps.
fn head(rollout: &Rollout, page: &Page) -> String {
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
    line("Reason:", &beside(&rollout.reason, page));
    if !rollout.message.is_empty() {
        line("Trouble:", &paint.bad(beside(&rollout.message, page)));
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
    let _infallible = writeln!(out, "\n⟳ {}", paint.strong(&rollout.service)).is_ok();
    out
}

/// Text behind a name, broken so that it stays beside it.
fn beside(text: &str, page: &Page) -> String {
    const NAME: usize = 11;
    match page.width.map(usize::from) {
        Some(width) if width > NAME * 3 => {
            let between = format!("\n{:NAME$}", "");
            wrap(text, width - NAME).replace('\n', &between)
        }
        _ => text.to_owned(),
    }
}

/// Steps within a range, with the figures of each, or of the one that is done alone.
fn steps(out: &mut String, rollout: &Rollout, page: &Page, (range, all): (Range<usize>, bool)) {
    let last = rollout.steps.len();
    let left_out = |out: &mut String, count: usize, arm: &str| {
        if count > 0 {
            let words = page.paint.faint(format!("… {count} more"));
            let _infallible = writeln!(out, "{arm}    {words}").is_ok();
        }
    };
    left_out(out, range.start.min(last), "│");
    for (at, step) in rollout.steps.iter().enumerate() {
        if range.contains(&at) {
            let figures = all || at + 1 == rollout.step;
            let number = (at + 1, at + 1 == last);
            branch(out, rollout, (number, step, figures), page);
        }
    }
    left_out(out, last.saturating_sub(range.end), "└");
}

/// What happened, the newest last.
fn events(out: &mut String, rollout: &Rollout, page: &Page) {
    if rollout.events.is_empty() {
        return;
    }
    out.push('\n');
    for event in &rollout.events {
        let age = number::age(event.at_unix_ms, page.now_unix_ms);
        let age = page.paint.faint(format!("{age:>5} ago"));
        let _infallible = writeln!(out, "{age}  {}", event.what).is_ok();
    }
}

fn strategy(rollout: &Rollout) -> String {
    let mut words = vec![match rollout.strategy.as_str() {
        "abTest" => "A/B".to_owned(),
        "blueGreen" => "blue/green".to_owned(),
        "shadow" => "shadow diff".to_owned(),
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

fn branch(
    out: &mut String,
    rollout: &Rollout,
    ((number, last), step, with_figures): ((usize, bool), &RolloutStep, bool),
    page: &Page,
) {
    let (arm, trunk) = if last {
        ("└──", "   ")
    } else {
        ("├──", "│  ")
    };
    let (mark, word, tone) = match step.state {
        StepState::Pending if rollout.phase.is_end() => ("·", "not reached", Tone::Faint),
        state => step_sign(state),
    };
    let share = if step.mirror {
        match step.mirror_percent {
            None | Some(100) => "copies".to_owned(),
            Some(percent) => format!("copies of {percent} %"),
        }
    } else {
        format!("{} %", step.weight)
    };
    let gate = if step.gate { "  gate" } else { "" };
    let time = step.started_unix_ms.map(|started| {
        let end = step.ended_unix_ms.unwrap_or(page.now_unix_ms);
        format!("  {}", number::age(started, end))
    });
    // What is wanted of a run that is looked at every half a minute is when.
    let look = rollout
        .next_look_unix_ms
        .filter(|_| step.state == StepState::Running);
    let look = look.map_or_else(String::new, |at| {
        format!("  next look in {}", number::age(page.now_unix_ms, at))
    });
    let head = page.paint.tone(tone, format!("{mark} {word}"));
    let _infallible = writeln!(
        out,
        "{arm}{number:>2}  {share:<7} {head}{}{gate}",
        page.paint.faint(time.unwrap_or_default() + &look)
    )
    .is_ok();
    if !with_figures {
        return;
    }
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
    match measure.different {
        Some(different) => words.push(format!("{different} of {} compared", measure.requests)),
        None => words.push(format!("{} requests", measure.requests)),
    }
    if !measure.places.is_empty() {
        let places = measure.places.iter();
        let places: Vec<String> = places
            .map(|place| format!("{} ({})", place.at, place.count))
            .collect();
        words.push(places.join(", "));
    }
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
