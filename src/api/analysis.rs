//! What is wrong with configuration that need not be applied.

use serde::{Deserialize, Serialize};

use crate::mesh::Finding;

use super::resources::SourceText;

/// `POST /analyze`: files over what runs; without any, what runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnalyzeRequest {
    /// Each file with its name.
    pub sources: Vec<SourceText>,
    /// For objects that name none.
    pub namespace: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisReport {
    /// By file and line.
    pub findings: Vec<Finding>,
    /// Findings that are not among them, because someone wants to hear nothing of them.
    pub suppressed: usize,
    /// Files that were read.
    pub files: usize,
    /// Objects that were looked at together.
    pub objects: usize,
}

/// One code that findings may carry, of `analyze --list-analyzers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CodeReport {
    /// Such as `IST0101`.
    pub code: String,
    /// Istio's name where the code is Istio's.
    pub name: String,
    /// How bad it is at worst.
    pub severity: crate::mesh::Severity,
    /// What was found.
    pub about: String,
    /// What to do about it.
    pub help: String,
    /// Whether `apply --force` goes over it.
    pub forced: bool,
}
