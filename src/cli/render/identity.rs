//! Certificates and tokens.

use crate::api::identity::{IdentityReport, TokenReport};

use super::{Page, Render, number};

impl Render for TokenReport {
    /// The secret alone: it goes into a variable or a file; the facts are told beside it.
    fn text(&self, _: &Page) -> String {
        format!("{}\n", self.token)
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

impl Render for IdentityReport {
    /// Key and chain in PEM, which is what other programs read.
    fn text(&self, _: &Page) -> String {
        format!("{}{}", self.key_pem, self.chain_pem)
    }

    fn names(&self) -> Vec<String> {
        vec![self.spiffe_id.clone()]
    }
}

/// `good for 23h59m, until 2026-01-31T12:00:00Z`.
pub(crate) fn lifetime(expires_unix_ms: u64, now_unix_ms: u64) -> String {
    format!(
        "good for {}, until {}",
        number::until(expires_unix_ms, now_unix_ms),
        number::moment(expires_unix_ms)
    )
}
