//! Health of an installation.

use serde::{Deserialize, Serialize};

/// What `check` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// In order; a section may be empty.
    pub sections: Vec<CheckSection>,
}

/// Some checks about one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckSection {
    /// Such as `store`.
    pub name: String,
    /// In order.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What should be so, in a sentence.
    pub text: String,
    /// Whether it is.
    pub status: CheckStatus,
    /// What was found; empty when all is well.
    #[serde(default)]
    pub detail: String,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, but look at it.
    Warning,
    /// Does not work.
    Failed,
}

impl CheckReport {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.sections
            .iter()
            .flat_map(|section| &section.checks)
            .all(|check| check.status != CheckStatus::Failed)
    }
}
