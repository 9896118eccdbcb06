//! The book of who may use the API over TCP: every change of it is in the store before anybody goes by it, and in
//! the audit log before anybody is told.

use std::time::Duration;

use crate::api::access::{AccessEntry, AccessReport, AccessRequest, GrantRequest};
use crate::api::identity::{AuditEntry, AuditEvent};
use crate::api::{Problem, Reason};
use crate::control::access::{AccessBook, AccessError, Spec};
use crate::control::index::{encode, problem};
use crate::mesh::SpiffeId;
use crate::rt::Reader;
use crate::source::store::{Batch, Store, StoreError, Tree};
use crate::tls;

use super::Trust;

/// Key of the book in its tree.
const ACCESS: &[u8] = b"access";

/// Reads the book that is in `store`.
pub(super) fn open(store: &Store) -> Result<AccessBook, StoreError> {
    // One that cannot be read lets nobody in; the socket is there to say anew who may.
    Ok(store
        .get(Tree::Identity, ACCESS)?
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default())
}

fn refused(error: &AccessError) -> Problem {
    Problem::new(Reason::Invalid, error.to_string()).hint(error.hint())
}

impl Trust {
    /// Who may, for whoever judges requests.
    pub fn access(&self) -> Reader<AccessBook> {
        self.access.reader()
    }

    /// Everybody who may, without secrets.
    pub fn accesses(&self) -> Vec<AccessEntry> {
        self.access.load().list(self.wall.millis())
    }

    /// Keeps `book`, then goes by it.
    async fn keep_access(&self, book: AccessBook) -> Result<(), Problem> {
        let mut batch = Batch::new();
        batch.put(Tree::Identity, ACCESS, encode(&book)?);
        let kept = self.store.commit_async(batch).await;
        kept.map_err(|error| problem(&error))?;
        self.access.publish(book);
        Ok(())
    }

    /// Makes a token for the API; the answer holds the only copy of its secret.
    pub async fn create_access(
        &self,
        request: &AccessRequest,
        by: &str,
    ) -> Result<AccessReport, Problem> {
        let _one_at_a_time = self.access_change.lock().await;
        let now = self.wall.millis();
        let spec = Spec {
            role: request.role,
            lifetime: Duration::from_secs(request.ttl_seconds),
            by: by.to_owned(),
        };
        let mut book = AccessBook::clone(&self.access.load());
        let root = tls::sha256(self.authority().root());
        let token = book
            .create(&request.name, spec, root, now)
            .map_err(|error| refused(&error))?;
        self.keep_access(book).await?;
        let report = AccessReport {
            id: token.id.clone(),
            token: token.to_string(),
            role: request.role,
            expires_unix_ms: now.saturating_add(request.ttl_seconds.saturating_mul(1_000)),
        };
        self.audited(vec![AuditEntry {
            token: report.id.clone(),
            by: by.to_owned(),
            detail: format!("{} for {}", request.role, request.name),
            expires_unix_ms: report.expires_unix_ms,
            ..AuditEntry::new(now, AuditEvent::AccessGranted)
        }])
        .await?;
        Ok(report)
    }

    /// Lets an identity in by its certificate.
    pub async fn grant_access(&self, request: &GrantRequest, by: &str) -> Result<(), Problem> {
        let id: SpiffeId = request.spiffe_id.parse().map_err(|_| {
            let message = format!("{:?} is not a SPIFFE id", request.spiffe_id);
            Problem::new(Reason::Invalid, message)
                .hint("such as spiffe://cluster.local/ns/ops/sa/anna")
        })?;
        let _one_at_a_time = self.access_change.lock().await;
        let now = self.wall.millis();
        let spec = Spec {
            role: request.role,
            lifetime: Duration::from_secs(request.ttl_seconds),
            by: by.to_owned(),
        };
        let mut book = AccessBook::clone(&self.access.load());
        let expires = book
            .grant(&id, self.authority().trust_domain(), spec, now)
            .map_err(|error| refused(&error))?;
        self.keep_access(book).await?;
        self.audited(vec![AuditEntry {
            identity: id.to_string(),
            by: by.to_owned(),
            detail: request.role.to_string(),
            expires_unix_ms: expires,
            ..AuditEntry::new(now, AuditEvent::AccessGranted)
        }])
        .await
    }

    /// Lets the bearer of a token, or an identity, in no more.
    pub async fn revoke_access(&self, id: &str, by: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.access_change.lock().await;
        let mut book = AccessBook::clone(&self.access.load());
        let role = book.revoke(id).ok_or_else(|| {
            Problem::new(Reason::NotFound, format!("nobody is let in as {id}"))
                .hint("see `meshctl access list`")
        })?;
        self.keep_access(book).await?;
        let (token, identity) = if id.starts_with("spiffe:") {
            ("", id)
        } else {
            (id, "")
        };
        self.audited(vec![AuditEntry {
            token: token.to_owned(),
            identity: identity.to_owned(),
            by: by.to_owned(),
            detail: role.to_string(),
            ..AuditEntry::new(self.wall.millis(), AuditEvent::AccessRevoked)
        }])
        .await
    }

    /// Refuses a way in that nobody but the owner of the socket may give: an identity that may use the API.
    pub(in crate::control) fn not_of_access(
        &self,
        namespace: &str,
        account: &str,
    ) -> Result<(), Problem> {
        let id = SpiffeId::new(self.authority().trust_domain(), namespace, account);
        let trusted = self.trusted.iter();
        let trusted = trusted.filter(|(of, name)| of == namespace && name == account);
        if trusted.count() > 0 {
            return Err(Problem::new(
                Reason::Denied,
                format!("{id} may have certificates signed for anybody, so only the owner of the control plane gives it out"),
            )
            .hint("do it where the control plane runs"));
        }
        if self.access.load().role_of(&id, self.wall.millis()).is_err() {
            return Ok(());
        }
        Err(Problem::new(
            Reason::Denied,
            format!("{id} may use the API, so only the owner of the control plane gives it out"),
        )
        .hint("do it where the control plane runs"))
    }

    /// Notes what is asked of the API; fails when it cannot be, so that nothing is done that is not noted.
    pub(in crate::control) async fn note(
        &self,
        event: AuditEvent,
        by: &str,
        what: String,
    ) -> Result<(), Problem> {
        self.audited(vec![AuditEntry {
            by: by.to_owned(),
            detail: what,
            ..AuditEntry::new(self.wall.millis(), event)
        }])
        .await
    }
}
