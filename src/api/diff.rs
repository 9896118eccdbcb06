//! What a change of configuration would do, or did.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mesh::Finding;

use super::resources::{HistoryEntry, Outcome, SourceText};
use super::routes::RouteReport;

/// `POST /diff`: what applying files would change, or going back to a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffRequest {
    /// Each file with its name.
    #[serde(default)]
    pub sources: Vec<SourceText>,
    /// For objects that name none.
    #[serde(default)]
    pub namespace: String,
    /// In place of files: the revision to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffReport {
    /// Objects that change, by kind and name.
    pub objects: Vec<ObjectDiff>,
    /// Proxies whose configuration changes; those that change alike are told once.
    pub proxies: Vec<ProxyDiff>,
    /// Proxies whose configuration stays as it is.
    pub unchanged_proxies: usize,
    /// What is wrong then and was not before.
    pub findings: Vec<Finding>,
    /// Whether the change would be refused for an error among these.
    pub refused: bool,
}

/// What becomes of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDiff {
    /// Such as `VirtualService`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Created, configured or deleted.
    pub outcome: Outcome,
    /// Field by field; values of secrets are masked.
    pub fields: Vec<FieldDiff>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldDiff {
    /// Such as `spec.http[0].route[1].weight`; indexes are those after the change, where it is there.
    pub path: String,
    /// Absent: it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Absent: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// What changes for some proxies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyDiff {
    /// `name.namespace` of each.
    pub proxies: Vec<String>,
    /// Where they listen.
    pub listeners: Vec<PartDiff>,
    /// Where requests go, by host.
    pub routes: Vec<RouteDiff>,
    /// What they call.
    pub clusters: Vec<PartDiff>,
    /// Who answers.
    pub endpoints: Vec<PartDiff>,
}

/// What becomes of a listener, a cluster, or a cluster's endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartDiff {
    /// Its name.
    pub name: String,
    /// Created, configured or deleted.
    pub outcome: Outcome,
    /// Field by field; none for what is created or deleted.
    pub fields: Vec<FieldDiff>,
}

/// What becomes of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteDiff {
    /// The route tables that have it.
    pub tables: Vec<String>,
    /// The virtual host.
    pub host: String,
    /// Created, configured or deleted. One that changes its place among others is both of the last.
    pub outcome: Outcome,
    /// What it does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RouteReport>,
    /// What it would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RouteReport>,
    /// Field by field; none for what is created or deleted.
    pub fields: Vec<FieldDiff>,
}

/// `GET /history?diff=true`: one change with what it did to each object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionReport {
    /// Who, when, what for.
    #[serde(flatten)]
    pub entry: HistoryEntry,
    /// Object by object.
    pub changes: Vec<ObjectDiff>,
}

/// `POST /rollback`: go back to what a revision left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackRequest {
    /// Its number; 0 is before the first change.
    pub revision: u64,
    /// Who asks, for the history.
    #[serde(default)]
    pub who: String,
}
