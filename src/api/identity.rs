//! Join tokens and certificates.

use serde::{Deserialize, Serialize};

/// `POST /tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequest {
    /// Namespace that the bearer may claim.
    pub namespace: String,
    /// Service account that the bearer may claim.
    pub service_account: String,
    /// How often it may be used.
    pub uses: u32,
    /// How long it is good for, in seconds.
    pub ttl_seconds: u64,
}

/// A token, shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenReport {
    /// Public part, for revocation and audit.
    pub id: String,
    /// The secret itself.
    pub token: String,
    /// The identity that it stands for.
    pub spiffe_id: String,
    /// When it ends.
    pub expires_unix_ms: u64,
}

impl std::fmt::Debug for TokenReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReport")
            .field("id", &self.id)
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

/// `POST /identities`: asks for a certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityRequest {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Lifetime in seconds; 0 is the default of 24 h.
    #[serde(default)]
    pub ttl_seconds: u64,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityReport {
    /// The identity.
    pub spiffe_id: String,
    /// Leaf first, root last.
    pub chain_pem: String,
    /// Private key; treat as a secret.
    pub key_pem: String,
    /// The roots to trust.
    pub roots_pem: String,
    /// When it ends.
    pub expires_unix_ms: u64,
}

impl std::fmt::Debug for IdentityReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityReport")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}
