//! Where output goes: data to stdout, talk to stderr, nothing to a pipe that is closed.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::mesh::{Finding, Severity};
use crate::rt::Wall;

use super::error::CliError;
use super::exit::Exit;
use super::render::{Page, Paint, Render};
use super::settings::{Format, Settings};

/// The two streams and how to write on them.
#[derive(Debug)]
pub(crate) struct Out {
    format: Format,
    page: Page,
    talk: Paint,
    quiet: bool,
    /// Progress is drawn only on a terminal.
    pub(crate) progress: bool,
}

impl Out {
    pub(crate) fn new(settings: &Settings, wall: &Wall) -> Self {
        Self {
            format: settings.format,
            page: Page {
                width: settings.width,
                wide: settings.format == Format::Wide,
                paint: Paint::new(settings.colour_out),
                now_unix_ms: wall.millis(),
            },
            talk: Paint::new(settings.colour_err),
            quiet: settings.quiet,
            progress: settings.stderr_terminal && !settings.quiet && !settings.environment.dumb,
        }
    }

    pub(crate) fn page(&self) -> &Page {
        &self.page
    }

    /// Colours for standard error.
    pub(crate) fn talk(&self) -> Paint {
        self.talk
    }

    /// Whether people read this, rather than programs.
    pub(crate) fn for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// How reports are written.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Writes a report as `-o` asks for it.
    pub(crate) fn report<R: Render>(&self, report: &R) -> Result<(), CliError> {
        match self.format {
            Format::Table | Format::Wide => {
                if let Some(words) = report.empty() {
                    self.note(words);
                    return Ok(());
                }
                self.data(&report.text(&self.page))
            }
            Format::Name => {
                let mut text = report.names().join("\n");
                if !text.is_empty() {
                    text.push('\n');
                }
                self.data(&text)
            }
            Format::Json | Format::Yaml | Format::Sarif => self.structure(report),
        }
    }

    /// Writes `value` as JSON, or as YAML when that was asked for.
    pub(crate) fn structure<S: Serialize>(&self, value: &S) -> Result<(), CliError> {
        let wrong = |reason: String| CliError::failed(format!("cannot write the report: {reason}"));
        let mut text = if self.format == Format::Yaml {
            // Through JSON, so that both say the same and keys keep their order.
            let value = serde_json::to_value(value).map_err(|e| wrong(e.to_string()))?;
            serde_saphyr::to_string(&value).map_err(|e| wrong(e.to_string()))?
        } else {
            serde_json::to_string_pretty(value).map_err(|e| wrong(e.to_string()))?
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.data(&text)
    }

    /// Writes `text` to standard output as it is.
    #[expect(clippy::unused_self, reason = "output goes through whoever holds it")]
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => CliError::ClosedPipe,
                _ => CliError::Output(error),
            })
    }

    /// Says something that is not data, unless `-q`.
    pub(crate) fn note(&self, words: &str) {
        if !self.quiet {
            say(words);
        }
    }

    /// Says what may be wrong, also with `-q`.
    pub(crate) fn warn(&self, words: &str) {
        say(&format!("{} {words}", self.talk.warn("warning:")));
    }

    /// Says where what is wrong with a manifest.
    pub(crate) fn finding(&self, finding: &Finding) {
        if finding.severity == Severity::Info && self.quiet {
            return;
        }
        say(&super::render::resources::finding(finding, self.talk));
    }

    /// Says what went wrong and how to mend it, and gives the exit code for it.
    pub(crate) fn error(&self, error: &CliError) -> Exit {
        if matches!(error, CliError::ClosedPipe) {
            return error.exit();
        }
        say(&format!("{} {}", self.talk.bad("error:"), error.chain()));
        if let CliError::Problem(problem) = error {
            for finding in &problem.findings {
                self.finding(finding);
            }
        }
        if let Some(hint) = error.advice() {
            say(&format!("{} {hint}", self.talk.hint("hint:")));
        }
        error.exit()
    }
}

fn say(words: &str) {
    // Standard error may be closed; there is nobody else to tell.
    let _said = writeln!(io::stderr().lock(), "{words}").is_ok();
}
