//! Who may use the API over TCP.

use serde::{Deserialize, Serialize};

/// What a caller of the API may do; a greater one may do all that a lesser one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Look, at everything but secrets.
    Viewer,
    /// And change the mesh.
    Operator,
    /// And say who else may. Nobody is given this: it is who may open the API's Unix socket.
    Owner,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        })
    }
}

/// `POST /access/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRequest {
    /// Whom it is for, for lists and the audit log.
    pub name: String,
    /// What its bearer may do: viewer or operator.
    pub role: Role,
    /// How long it is good for, in seconds.
    pub ttl_seconds: u64,
}

/// A token, shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessReport {
    /// Public part, for revocation and audit.
    pub id: String,
    /// The secret itself.
    pub token: String,
    /// What its bearer may do.
    pub role: Role,
    /// When it ends.
    pub expires_unix_ms: u64,
}

impl std::fmt::Debug for AccessReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessReport")
            .field("id", &self.id)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// `POST /access/grants`: lets an identity of the mesh in by its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantRequest {
    /// The identity.
    pub spiffe_id: String,
    /// What it may do: viewer or operator.
    pub role: Role,
    /// How long, in seconds; 0 is until it is revoked.
    #[serde(default)]
    pub ttl_seconds: u64,
}

/// How somebody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessKind {
    /// By a token.
    Token,
    /// By a certificate of the mesh.
    Certificate,
}

/// One of `GET /access`: somebody who may use the API over TCP. Secrets are kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessEntry {
    /// Id of a token, or the SPIFFE id of whom a certificate is of.
    pub id: String,
    /// How.
    pub kind: AccessKind,
    /// Whom a token is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Whether its time is over.
    pub expired: bool,
    /// When it ends; 0 is never.
    pub expires_unix_ms: u64,
    /// When it was given.
    pub created_unix_ms: u64,
    /// Who gave it.
    pub created_by: String,
}

/// `GET /access/self`: who asks, as the control plane sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhoAmI {
    /// A user of the machine, a token or an identity.
    pub name: String,
    /// What they may do.
    pub role: Role,
}
