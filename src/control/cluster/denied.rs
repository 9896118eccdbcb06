//! What the API server does not let the control plane do: each thing is said once, until it may be done.

use std::collections::BTreeSet;

use crate::source::kubernetes::cluster::ClusterError;

/// How it is mended.
pub(super) const HINT: &str = "`meshctl install --target kubernetes` again restores its rights; `meshctl check` names what is missing";

/// What one task was denied.
#[derive(Debug, Default)]
pub(super) struct Denied(BTreeSet<String>);

impl Denied {
    /// Whether `error` says that we may not do `what`; the first time that is said. The API server's words have
    /// the verb and the resource.
    pub(super) fn is(&mut self, what: &str, error: &ClusterError) -> bool {
        if !error.lacks_rights() {
            return false;
        }
        if self.0.insert(what.to_owned()) {
            tracing::warn!(what, %error, hint = HINT, "the control plane may not do this; the mesh runs on without it");
        }
        true
    }

    /// It may be done.
    pub(super) fn may(&mut self, what: &str) {
        if self.0.remove(what) {
            tracing::info!(what, "the control plane may do this again");
        }
    }
}
