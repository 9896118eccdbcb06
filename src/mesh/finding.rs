//! What is wrong with what people wrote, as data.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a fact comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Origin {
    /// Kind of the object, such as `VirtualService`.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// The file it was read from, or a name such as `<stdin>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// Line in that file, from 1; 0 is unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: u32,
    /// Column in that line, from 1; 0 is unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub column: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}")?;
            if self.line > 0 {
                write!(f, ":{}:{}", self.line, self.column.max(1))?;
            }
            if !self.kind.is_empty() {
                f.write_str(" ")?;
            }
        }
        if !self.kind.is_empty() {
            f.write_str(&self.kind)?;
            match (self.namespace.as_str(), self.name.as_str()) {
                (_, "") => {}
                ("", name) => write!(f, " {name}")?,
                (namespace, name) => write!(f, " {namespace}/{name}")?,
            }
        }
        Ok(())
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Works, but probably not as meant.
    Warning,
    /// Cannot be honoured; refused.
    Error,
}

/// One thing that is wrong, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable code: Istio's (`IST0101`) where one fits, else ours (`MSH0001`).
    pub code: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The path in the document, such as `spec.http[0].route[1].weight`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Where it was written.
    pub origin: Origin,
}

impl Finding {
    /// A finding without a path or hint.
    pub fn new(
        severity: Severity,
        code: &str,
        origin: &Origin,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code: code.to_owned(),
            message: message.into(),
            hint: None,
            path: String::new(),
            origin: origin.clone(),
        }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the path in the document.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}: {severity} [{}]", self.origin, self.code)?;
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}
