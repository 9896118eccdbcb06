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

/// How far the replacement of the mesh's root has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RotationPhase {
    /// There is one root.
    Steady,
    /// The next root is believed beside the one that signs.
    Introduced,
    /// The new root signs, and the old one is still believed.
    Replaced,
}

impl std::fmt::Display for RotationPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Introduced => "introduced",
            Self::Replaced => "replaced",
        })
    }
}

/// A step from one phase to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RotationStep {
    /// Make another root and have everybody believe it too.
    Introduce,
    /// Have it sign, and everybody renew.
    Replace,
    /// Believe the old root no more.
    Finish,
    /// Forget a root that was introduced and has signed nothing.
    Abandon,
}

impl std::fmt::Display for RotationStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Introduce => "introduce",
            Self::Replace => "replace",
            Self::Finish => "finish",
            Self::Abandon => "abandon",
        })
    }
}

/// `POST /trust/rotation`: takes a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationRequest {
    /// Which.
    pub step: RotationStep,
    /// Take it though proxies lag behind, which then cannot reach others.
    #[serde(default)]
    pub force: bool,
}

/// `GET /trust`: the mesh's roots, and who has come how far with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustReport {
    /// How far a replacement has come.
    pub phase: RotationPhase,
    /// SHA-256 of the certificates that are believed; the one that signs first.
    pub roots: Vec<String>,
    /// Connected proxies that get their trust from here.
    pub connected: usize,
    /// Those that have not said yet that they believe all of these roots, by name.
    pub not_believing: Vec<String>,
    /// Those whose own certificate is not of the root that signs, by name.
    pub not_renewed: Vec<String>,
}

/// `POST /trust/revocations`: believes certificates no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationRequest {
    /// Serial numbers in hexadecimal.
    pub serials: Vec<String>,
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationReport {
    /// How many certificates are revoked now.
    pub revoked: usize,
    /// How many proxies have said that they go by it.
    pub believing: usize,
    /// Connected proxies that have not said so yet, by name.
    pub not_believing: Vec<String>,
}
