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
    /// The gateway that the account may serve, with the Secrets that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// How it stands with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TokenState {
    /// It can be used.
    Open,
    /// It was used as often as it may be.
    Spent,
    /// Its time is over.
    Expired,
}

/// One of `GET /tokens`: a token without its secret, which is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenEntry {
    /// Public part.
    pub id: String,
    /// The identity that it stands for.
    pub spiffe_id: String,
    /// The gateway that the account may serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// How it stands with it.
    pub state: TokenState,
    /// How often it was used.
    pub used: usize,
    /// How often it can still be used.
    pub uses_left: u32,
    /// When it ends.
    pub expires_unix_ms: u64,
    /// When it was made.
    pub created_unix_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// When it was last used; 0 is never.
    pub used_unix_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuditEvent {
    /// A certificate was given out.
    CertificateIssued,
    /// A certificate was asked for in vain.
    CertificateRefused,
    /// A certificate is believed no more.
    CertificateRevoked,
    /// A join token was made.
    TokenCreated,
    /// A join token was used.
    TokenUsed,
    /// A join token was shown in vain.
    TokenRefused,
    /// A join token was taken back.
    TokenRevoked,
    /// The replacement of the root took a step.
    RootRotated,
    /// Somebody was let into the API over TCP.
    AccessGranted,
    /// Somebody is let in no more.
    AccessRevoked,
    /// Somebody asked the API for what they may not, or without a proof that is good.
    AccessRefused,
    /// Something was asked of the API that changes the mesh.
    ApiWrite,
    /// What requests may hold secrets in was asked of the API.
    ApiRead,
}

impl AuditEvent {
    /// Whether nothing came of it.
    pub fn refused(self) -> bool {
        matches!(
            self,
            Self::CertificateRefused | Self::TokenRefused | Self::AccessRefused
        )
    }
}

/// One of `GET /audit`: a line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// When.
    pub at_unix_ms: u64,
    /// What.
    pub event: AuditEvent,
    /// Whose certificate, or for whom the token is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Serial number of the certificate, in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Id of the token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// Who asked: a user of the machine, an identity, or `token`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why, or which step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// When the certificate or token ends; 0 where neither was made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expires_unix_ms: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl AuditEntry {
    /// Something that happened, of which nothing more is known.
    pub fn new(at_unix_ms: u64, event: AuditEvent) -> Self {
        Self {
            at_unix_ms,
            event,
            identity: String::new(),
            serial: String::new(),
            token: String::new(),
            by: String::new(),
            detail: String::new(),
            expires_unix_ms: 0,
        }
    }
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
