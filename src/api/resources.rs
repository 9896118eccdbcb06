//! Configuration: applying, reading, deleting.

use serde::{Deserialize, Serialize};

use crate::mesh::Finding;

/// `POST /resources`: manifests as they were written, so that findings can name lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyRequest {
    /// Each file with its name.
    pub sources: Vec<SourceText>,
    /// For objects that name none.
    pub namespace: String,
    /// Only says what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Goes over errors about references, which fail closed until what they name exists.
    #[serde(default)]
    pub force: bool,
    /// Who asks, for the history.
    #[serde(default)]
    pub who: String,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceText {
    /// Path, or `<stdin>`.
    pub name: String,
    /// YAML or JSON, several documents allowed.
    pub text: String,
}

/// What an apply or delete did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReport {
    /// The revision that holds it; the one before when nothing changed.
    pub revision: u64,
    /// Object by object, in the order of the files.
    pub objects: Vec<ObjectOutcome>,
    /// Warnings and notes; errors refuse the whole request, but for those that were forced.
    pub findings: Vec<Finding>,
    /// How the proxies took it.
    pub convergence: Convergence,
}

/// What happened to one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectOutcome {
    /// Such as `VirtualService`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What was done.
    pub outcome: Outcome,
}

/// What was done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was different.
    Configured,
    /// It was the same.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// An object that was written to the API server, or removed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    /// Such as `VirtualService`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The version that it got; none when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// `POST /convergence`: waits until what was written to the API server is with the proxies of this replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConvergenceRequest {
    /// What was written.
    pub written: Vec<Written>,
}

/// When every proxy had acknowledged a change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Convergence {
    /// Connected proxies.
    pub proxies: usize,
    /// Those that acknowledged in time.
    pub acknowledged: usize,
    /// Those that refused, `name: reason`.
    pub rejected: Vec<String>,
    /// From the commit to the median acknowledgement.
    pub median_ms: f64,
    /// From the commit to the last acknowledgement.
    pub last_ms: f64,
}

/// `GET /resources/{kind}`: one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceReport {
    /// Such as `VirtualService`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// When it was first applied.
    pub created_unix_ms: u64,
    /// When it was last changed.
    pub changed_unix_ms: u64,
    /// The revision that last changed it.
    pub revision: u64,
    /// The object itself.
    pub object: serde_json::Value,
}

/// `GET /history`: one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Its number.
    pub revision: u64,
    /// When.
    pub at_unix_ms: u64,
    /// Who asked.
    pub who: String,
    /// What for, such as `apply` or `canary set reviews v1=50 v3=50`.
    pub what: String,
    /// Objects with what was done to each.
    pub objects: Vec<ObjectOutcome>,
}
