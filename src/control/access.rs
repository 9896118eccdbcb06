//! Who may use the API over TCP, and as what: bearers of tokens, and identities of the mesh.
//!
//! Owns the book and its rules; `trust` keeps it in the store. Of tokens only hashes are kept. The book is judged
//! anew for each request, so what is revoked or over is refused from the next one on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::api::access::{AccessEntry, AccessKind, Role};
use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;
use crate::tls::{self, AccessToken, control_plane_id, hex, rfc3339};

/// Tokens and grants that a book holds at most, expired ones included.
const MOST: usize = 1_000;
/// The longest life of a token.
const LONGEST: Duration = Duration::from_hours(90 * 24);
/// How long expired tokens stay in the book, so that their use gets a clear answer.
const REMEMBERED: Duration = Duration::from_hours(7 * 24);

/// Everybody who may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessBook {
    /// By the token's id.
    tokens: BTreeMap<String, Record>,
    /// By the SPIFFE id.
    grants: BTreeMap<String, Record>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// SHA-256 of a token's secret, hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    secret_sha256: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    role: Role,
    /// Not valid from here on; 0 is for ever.
    expires_at_ms: UnixMillis,
    created_at_ms: UnixMillis,
    created_by: String,
}

impl Record {
    fn over(&self, now: UnixMillis) -> bool {
        self.expires_at_ms != 0 && now >= self.expires_at_ms
    }
}

/// What is to be given.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What they may do.
    pub role: Role,
    /// For how long.
    pub lifetime: Duration,
    /// Who gives it.
    pub by: String,
}

/// Why somebody is not let in, or may not be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// No such token, or a wrong secret; which of the two is not told.
    #[error("this token is not known here")]
    Unknown,
    /// Too late.
    #[error("token {id} expired at {at}")]
    Expired {
        /// The token's id.
        id: String,
        /// When, RFC 3339.
        at: String,
    },
    /// A certificate of the mesh, and nobody has said that its owner may.
    #[error("{0} may not use the API")]
    NotGranted(SpiffeId),
    /// What was to be given cannot be.
    #[error("{0}")]
    Spec(String),
}

impl AccessError {
    /// What a person can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed(_) => {
                "copy the whole token, from ma_ to its last digit".to_owned()
            }
            Self::Unknown => {
                "it was revoked, or is of another mesh; make one with `meshctl access create` where the control plane runs".to_owned()
            }
            Self::Expired { .. } => {
                "make a new one with `meshctl access create` where the control plane runs".to_owned()
            }
            Self::NotGranted(id) => format!(
                "let it in with `meshctl access grant {id} --role viewer` where the control plane runs"
            ),
            Self::Spec(_) => "see `meshctl access --help`".to_owned(),
        }
    }
}

fn wrong<T>(why: &str) -> Result<T, AccessError> {
    Err(AccessError::Spec(why.to_owned()))
}

impl AccessBook {
    /// Makes a token for the API; the answer holds the only copy of its secret. `root` is the SHA-256 of the
    /// mesh's root certificate.
    pub fn create(
        &mut self,
        name: &str,
        spec: Spec,
        root: [u8; 32],
        now: UnixMillis,
    ) -> Result<AccessToken, AccessError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return wrong("a name is of letters, digits and -_.@, at most 64");
        }
        if spec.lifetime.is_zero() || spec.lifetime > LONGEST {
            return wrong("a token is good for 1s to 90 days");
        }
        let expires = now.saturating_add(millis(spec.lifetime));
        self.room(&spec, now)?;
        let token = AccessToken::generate(Some(root))
            .map_err(|error| AccessError::Spec(error.to_string()))?;
        let record = Record {
            secret_sha256: hex(&tls::sha256(&token.secret)),
            name: name.to_owned(),
            role: spec.role,
            expires_at_ms: expires,
            created_at_ms: now,
            created_by: spec.by,
        };
        self.tokens.insert(token.id.clone(), record);
        Ok(token)
    }

    /// Lets `id` in by its certificate; gives when that ends, 0 for never.
    pub fn grant(
        &mut self,
        id: &SpiffeId,
        trust_domain: &str,
        spec: Spec,
        now: UnixMillis,
    ) -> Result<UnixMillis, AccessError> {
        if id.trust_domain != trust_domain {
            return wrong("certificates of other trust domains are not believed");
        }
        if *id == control_plane_id(trust_domain) {
            return wrong("the control plane does not ask itself");
        }
        let expires = match millis(spec.lifetime) {
            0 => 0,
            life => now.saturating_add(life),
        };
        if !self.grants.contains_key(&id.to_string()) {
            self.room(&spec, now)?;
        }
        let record = Record {
            secret_sha256: String::new(),
            name: String::new(),
            role: granted(spec.role)?,
            expires_at_ms: expires,
            created_at_ms: now,
            created_by: spec.by,
        };
        self.grants.insert(id.to_string(), record);
        Ok(expires)
    }

    fn room(&mut self, spec: &Spec, now: UnixMillis) -> Result<(), AccessError> {
        granted(spec.role)?;
        let remembered = millis(REMEMBERED);
        let fresh = |record: &Record| {
            record.expires_at_ms == 0 || record.expires_at_ms.saturating_add(remembered) > now
        };
        self.tokens.retain(|_, record| fresh(record));
        self.grants.retain(|_, record| fresh(record));
        if self.tokens.len() + self.grants.len() >= MOST {
            return wrong("there are too many already; revoke some");
        }
        Ok(())
    }

    /// Takes back a token or what was granted to an identity; the role that it had.
    pub fn revoke(&mut self, id: &str) -> Option<Role> {
        let record = self.tokens.remove(id).or_else(|| self.grants.remove(id));
        record.map(|record| record.role)
    }

    /// Who shows `token`, and as what: name and role.
    pub fn bearer(
        &self,
        token: &AccessToken,
        now: UnixMillis,
    ) -> Result<(String, Role), AccessError> {
        // An unknown id costs as much as a wrong secret.
        let shown = hex(&tls::sha256(&token.secret));
        let nobody = "0".repeat(64);
        let record = self.tokens.get(&token.id);
        let kept = record.map_or(nobody.as_str(), |record| &record.secret_sha256);
        let same =
            aws_lc_rs::constant_time::verify_slices_are_equal(shown.as_bytes(), kept.as_bytes());
        let (Some(record), Ok(())) = (record, same) else {
            return Err(AccessError::Unknown);
        };
        if record.over(now) {
            return Err(AccessError::Expired {
                id: token.id.clone(),
                at: rfc3339(record.expires_at_ms),
            });
        }
        Ok((format!("token {} ({})", record.name, token.id), record.role))
    }

    /// What `id`, which a handshake has proven, may do.
    pub fn role_of(&self, id: &SpiffeId, now: UnixMillis) -> Result<Role, AccessError> {
        let record = self.grants.get(&id.to_string());
        let record = record.filter(|record| !record.over(now));
        record.map_or_else(
            || Err(AccessError::NotGranted(id.clone())),
            |found| Ok(found.role),
        )
    }

    /// Everybody, tokens first, without secrets.
    pub fn list(&self, now: UnixMillis) -> Vec<AccessEntry> {
        let entry = |kind| {
            move |(id, record): (&String, &Record)| AccessEntry {
                id: id.clone(),
                kind,
                name: record.name.clone(),
                role: record.role,
                expired: record.over(now),
                expires_unix_ms: record.expires_at_ms,
                created_unix_ms: record.created_at_ms,
                created_by: record.created_by.clone(),
            }
        };
        let tokens = self.tokens.iter().map(entry(AccessKind::Token));
        tokens
            .chain(self.grants.iter().map(entry(AccessKind::Certificate)))
            .collect()
    }
}

/// Refuses what is given to nobody.
fn granted(role: Role) -> Result<Role, AccessError> {
    match role {
        Role::Viewer | Role::Operator => Ok(role),
        Role::Owner => wrong("a role is viewer or operator"),
    }
}

fn millis(duration: Duration) -> UnixMillis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_800_000_000_000;

    fn spec(role: Role) -> Spec {
        Spec {
            role,
            lifetime: Duration::from_hours(1),
            by: "root".to_owned(),
        }
    }

    #[test]
    fn a_token_is_good_for_its_role_until_it_ends_or_is_revoked() {
        let mut book = AccessBook::default();
        let token = book.create("ci", spec(Role::Viewer), [7; 32], NOW).unwrap();
        let as_viewer = Ok((format!("token ci ({})", token.id), Role::Viewer));
        assert_eq!(book.bearer(&token, NOW + 1), as_viewer);
        let mut forged = token.clone();
        forged.secret[31] ^= 1;
        assert_eq!(book.bearer(&forged, NOW), Err(AccessError::Unknown));
        // The hash of nothing that anybody can show.
        forged.id = "000000000000".to_owned();
        assert_eq!(book.bearer(&forged, NOW), Err(AccessError::Unknown));
        let late = book.bearer(&token, NOW + 3_600_000).unwrap_err();
        assert!(matches!(late, AccessError::Expired { .. }), "{late}");
        assert!(
            !serde_json::to_string(&book)
                .unwrap()
                .contains(&hex(&token.secret))
        );
        let read: AccessBook =
            serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
        assert_eq!(read, book);
        assert_eq!(book.revoke(&token.id), Some(Role::Viewer));
        assert_eq!(book.bearer(&token, NOW), Err(AccessError::Unknown));
        assert_eq!(book.revoke(&token.id), None);
    }

    #[test]
    fn only_identities_that_were_let_in_may() {
        let mut book = AccessBook::default();
        let ops = SpiffeId::new("cluster.local", "ops", "anna");
        let other = SpiffeId::new("cluster.local", "ops", "annabel");
        let ends = book.grant(&ops, "cluster.local", spec(Role::Operator), NOW);
        assert_eq!(ends, Ok(NOW + 3_600_000));
        assert_eq!(book.role_of(&ops, NOW), Ok(Role::Operator));
        assert_eq!(
            book.role_of(&other, NOW),
            Err(AccessError::NotGranted(other))
        );
        assert!(book.role_of(&ops, NOW + 3_600_000).is_err());
        assert_eq!(book.revoke(&ops.to_string()), Some(Role::Operator));
        assert!(book.role_of(&ops, NOW).is_err());
    }

    #[test]
    fn what_nobody_is_given_is_refused() {
        let mut book = AccessBook::default();
        assert!(book.create("ci", spec(Role::Owner), [7; 32], NOW).is_err());
        assert!(
            book.create("a b", spec(Role::Viewer), [7; 32], NOW)
                .is_err()
        );
        for lifetime in [Duration::ZERO, LONGEST + Duration::from_secs(1)] {
            let spec = Spec {
                lifetime,
                ..spec(Role::Viewer)
            };
            assert!(book.create("ci", spec, [7; 32], NOW).is_err());
        }
        let foreign = SpiffeId::new("other", "ops", "anna");
        let own = control_plane_id("cluster.local");
        for id in [foreign, own] {
            assert!(
                book.grant(&id, "cluster.local", spec(Role::Viewer), NOW)
                    .is_err()
            );
        }
        let anna = SpiffeId::new("cluster.local", "ops", "anna");
        assert!(
            book.grant(&anna, "cluster.local", spec(Role::Owner), NOW)
                .is_err()
        );
        assert_eq!(book, AccessBook::default());
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = AccessBook::default();
        for _ in 0..MOST {
            book.create("ci", spec(Role::Viewer), [7; 32], NOW).unwrap();
        }
        assert!(book.create("ci", spec(Role::Viewer), [7; 32], NOW).is_err());
        let later = NOW + millis(REMEMBERED) + 3_600_000;
        book.create("ci", spec(Role::Viewer), [7; 32], later)
            .unwrap();
        assert_eq!(book.list(later).len(), 1);
    }
}
