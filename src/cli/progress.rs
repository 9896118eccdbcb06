//! Steps that take a while: a spinner on a terminal, a line each when they are done.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::out::Out;

/// Tells of steps on standard error.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    out: &'a Out,
}

/// One step that has begun.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    out: &'a Out,
    bar: ProgressBar,
    what: String,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(out: &'a Out) -> Self {
        Self { out }
    }

    /// Begins a step.
    pub(crate) fn step(&self, what: impl Into<String>) -> Step<'a> {
        let what = what.into();
        let bar = if self.out.progress {
            let bar = ProgressBar::new_spinner().with_message(what.clone());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            ProgressBar::hidden()
        };
        Step {
            out: self.out,
            bar,
            what,
        }
    }
}

impl Step<'_> {
    /// Changes what the spinner says.
    pub(crate) fn update(&self, words: &str) {
        self.bar.set_message(format!("{}: {words}", self.what));
    }

    /// Ends the step well.
    pub(crate) fn done(self, detail: &str) {
        self.bar.finish_and_clear();
        let mark = self.out.talk().good("✓");
        let space = if detail.is_empty() { "" } else { "  " };
        let detail = self.out.talk().faint(detail);
        self.out
            .note(&format!("{mark} {}{space}{detail}", self.what));
    }

    /// Ends the step badly; the error is told by whoever gets it.
    pub(crate) fn failed(self) {
        self.bar.finish_and_clear();
        let mark = self.out.talk().bad("×");
        self.out.note(&format!("{mark} {}", self.what));
    }
}
