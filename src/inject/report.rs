//! What is said of one pod.

use crate::mesh::{Finding, Origin, Severity};
use crate::resource::codes;

/// Findings of one object.
pub(super) struct Report {
    pub(super) origin: Origin,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(origin: Origin) -> Self {
        let findings = Vec::new();
        Self { origin, findings }
    }

    pub(super) fn failed(&self) -> bool {
        super::failed(&self.findings)
    }

    /// It is written wrongly.
    pub(super) fn wrong(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, codes::SCHEMA, message, hint);
    }

    /// It is known, would change where traffic goes or who may do what, and is not done.
    pub(super) fn refuse(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, codes::NOT_HONOURED, message, hint);
    }

    /// It is known and has no effect.
    pub(super) fn ignore(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, codes::IGNORED, message, hint);
    }

    /// It works, and perhaps not as was meant.
    pub(super) fn warn(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, codes::SCHEMA, message, hint);
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let finding = Finding::new(severity, code, &self.origin, message.into());
        self.findings.push(finding.hint(hint.into()));
    }
}
