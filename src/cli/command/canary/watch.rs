//! `canary watch`: a rollout as it goes, until it is over.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::rollouts::Rollout;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::logging;
use crate::cli::render::rollouts::{sign, tree, tree_within};
use crate::cli::settings::Format;
use crate::mesh::rollout::Phase;
use crate::rt::now;

/// Between two questions: what is drawn changes five times a second at most.
const PACE: Duration = Duration::from_millis(200);

/// Shows it until it is over, `timeout` has passed, or somebody interrupts.
pub(super) async fn watch(
    cx: &Context,
    namespace: &str,
    service: &str,
    timeout: Option<Duration>,
) -> Result<Exit, CliError> {
    let end = logging::asked_to_end();
    tokio::pin!(end);
    let deadline = timeout.map(|timeout| now() + timeout);
    let mut screen = Screen::default();
    let question = path(&["rollouts", namespace, service], &[]);
    let mut seen: Option<Rollout> = None;
    loop {
        match cx.client.get::<Rollout>(&question).await {
            Ok(rollout) => {
                if seen.as_ref() != Some(&rollout) || screen.lively(cx) {
                    screen.show(cx, seen.as_ref(), &rollout)?;
                }
                if rollout.phase.is_end() && rollout.applied {
                    return Ok(match rollout.phase {
                        Phase::Succeeded => Exit::Ok,
                        _ => Exit::Problem,
                    });
                }
                seen = Some(rollout);
            }
            // One that was there comes back, and the rollout goes on.
            Err(CliError::Unreachable { .. }) if seen.is_some() => {}
            Err(error) => return Err(error),
        }
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            () = &mut end => return Ok(Exit::Ok),
            () = late => {
                return Err(CliError::Timeout {
                    what: format!("the canary of {service}"),
                    after: timeout.unwrap_or_default(),
                });
            }
        }
    }
}

/// `text` with lines of at most so many columns, so that each is one on the terminal, too.
fn clipped(text: &str, columns: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let (mut shown, mut escaped) = (0, false);
        for letter in line.chars() {
            if letter == '\u{1b}' {
                escaped = true;
            }
            if escaped {
                out.push(letter);
                // What sets colours ends with this.
                escaped = letter != 'm';
            } else if shown < columns {
                shown += 1;
                out.push(letter);
            }
        }
        out.push('\n');
    }
    out
}

/// What is on the terminal.
#[derive(Default)]
struct Screen {
    /// Lines that were drawn last.
    lines: usize,
    drawn: Option<Instant>,
}

impl Screen {
    /// Whether ages are worth another frame: once a second.
    fn lively(&self, cx: &Context) -> bool {
        cx.out.for_people()
            && cx.settings.stdout_terminal
            && self
                .drawn
                .is_none_or(|drawn| drawn.elapsed() >= Duration::from_secs(1))
    }

    fn show(
        &mut self,
        cx: &Context,
        before: Option<&Rollout>,
        rollout: &Rollout,
    ) -> Result<(), CliError> {
        match cx.out.format() {
            Format::Table | Format::Wide if cx.settings.stdout_terminal => {
                let mut page = cx.out.page().clone();
                page.now_unix_ms = cx.wall.millis();
                // A terminal may be made larger or smaller meanwhile.
                let size = crossterm::terminal::size().ok();
                let text = match size {
                    Some((columns, lines)) => {
                        page.width = Some(columns);
                        let lines = usize::from(lines).saturating_sub(1);
                        clipped(&tree_within(rollout, &page, lines), columns.into())
                    }
                    None => tree(rollout, &page),
                };
                // Up to the first line of the last frame, and away with what is below.
                let back = match self.lines {
                    0 => String::new(),
                    lines => format!("\u{1b}[{lines}F\u{1b}[J"),
                };
                self.lines = text.lines().count();
                self.drawn = Some(now());
                cx.out.data(&format!("{back}{text}"))
            }
            Format::Table | Format::Wide => {
                let same = before.is_some_and(|before| {
                    (before.phase, before.step, &before.reason, before.weight)
                        == (rollout.phase, rollout.step, &rollout.reason, rollout.weight)
                });
                if same {
                    return Ok(());
                }
                let (mark, _) = sign(rollout.phase);
                cx.out.data(&format!(
                    "{mark} {:<12} step {}/{} {:>3} %  {}\n",
                    rollout.phase.name(),
                    rollout.step,
                    rollout.steps.len(),
                    rollout.weight,
                    rollout.reason
                ))
            }
            Format::Name => cx.out.data(&format!("{}\n", rollout.phase.name())),
            Format::Yaml => cx.out.structure(rollout),
            Format::Json | Format::Sarif => {
                let line = serde_json::to_string(rollout)
                    .map_err(|error| CliError::failed(format!("cannot write it: {error}")))?;
                cx.out.data(&format!("{line}\n"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rollouts::RolloutStep;
    use crate::cli::render::{Page, Paint};
    use crate::mesh::rollout::{Measure, StepState, Verdict};

    fn page() -> Page {
        Page {
            width: Some(80),
            wide: false,
            paint: Paint::new(false),
            now_unix_ms: 1_800_000_100_000,
        }
    }

    fn rollout(steps: u32, at: usize) -> Rollout {
        let measure = Measure {
            metric: "success-rate".to_owned(),
            value: Some(100.0),
            bound: Some(99.0),
            bound_is: "min".to_owned(),
            unit: "%".to_owned(),
            baseline: None,
            verdict: Verdict::Pass,
            requests: 500,
            chance: 1.0,
            why: String::new(),
            different: None,
            places: Vec::new(),
        };
        let steps = (1..=steps).map(|number| RolloutStep {
            weight: number,
            state: match usize::try_from(number).unwrap() {
                number if number < at => StepState::Passed,
                number if number == at => StepState::Running,
                _ => StepState::Pending,
            },
            started_unix_ms: Some(1_800_000_000_000),
            measures: vec![measure.clone(), measure.clone()],
            ..RolloutStep::default()
        });
        Rollout {
            service: "shop".to_owned(),
            namespace: "default".to_owned(),
            reason: "success-rate is 94.64 %, and 100 % of the stable version (56 and 1615 requests): failed check 1 of 2".to_owned(),
            phase: Phase::Progressing,
            step: at,
            steps: steps.collect(),
            next_look_unix_ms: Some(1_800_000_112_000),
            ..Rollout::default()
        }
    }

    #[test]
    fn what_is_drawn_fits_the_terminal_and_shows_the_step_that_is_done() {
        for (steps, at, lines) in [(5, 2, 60), (10, 7, 24), (100, 50, 24), (100, 100, 16)] {
            let text = clipped(&tree_within(&rollout(steps, at), &page(), lines), 80);
            assert!(text.lines().count() <= lines, "{text}");
            assert!(
                text.lines().all(|line| line.chars().count() <= 80),
                "{text}"
            );
            let running = format!("{at:>2}  {:<7} ◌ running", format!("{at} %"));
            assert!(text.contains(&running), "{text}");
            assert!(text.contains("next look in 12s"), "{text}");
        }
        // Where there is room all figures are there, else those of the step under way, and far steps are counted.
        let figures = |text: &str| text.matches("success-rate  100").count();
        let drawn = |steps, at, lines| tree_within(&rollout(steps, at), &page(), lines);
        assert_eq!(figures(&drawn(5, 2, 60)), 10);
        let short = drawn(10, 7, 24);
        assert_eq!(figures(&short), 2);
        assert!(
            drawn(100, 50, 24).contains("more"),
            "{}",
            drawn(100, 50, 24)
        );
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(
            clipped("\u{1b}[31mfail\u{1b}[0med", 4),
            "\u{1b}[31mfail\u{1b}[0m\n"
        );
    }
}
