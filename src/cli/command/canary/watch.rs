//! `canary watch`: a rollout as it goes, until it is over.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::rollouts::Rollout;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::logging;
use crate::cli::render::rollouts::{sign, tree};
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
                let text = tree(rollout, &page);
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
