//! Everything one proxy needs, in the mesh's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Assignment, Cluster, Listener, RouteTable};

/// The configuration of one proxy. Endpoints stand apart from the rest, because a restarted pod
/// must dirty one assignment and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// By name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// By name.
    pub routes: BTreeMap<String, Arc<RouteTable>>,
    /// By name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// By cluster name.
    pub endpoints: BTreeMap<String, Arc<Assignment>>,
}
