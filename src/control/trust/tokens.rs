//! The book of join tokens: every change of it is in the store before anybody goes by it.

use std::time::Duration;

use crate::api::identity::{
    AuditEntry, AuditEvent, TokenEntry, TokenReport, TokenRequest, TokenState,
};
use crate::api::{Problem, Reason};
use crate::control::attest::Granted;
use crate::control::ca::RedeemError;
use crate::control::index::{encode, problem};
use crate::control::token::{Presented, TokenBook, TokenSpec};
use crate::mesh::SpiffeId;
use crate::source::store::{Batch, Tree};
use crate::tls;

use super::{TOKENS, Trust};

impl Trust {
    /// The gateways that tokens were made for, of `id`.
    pub fn granted(&self, id: &SpiffeId) -> Granted {
        let of = (id.namespace.clone(), id.service_account.clone());
        self.granted.load().get(&of).cloned().unwrap_or_default()
    }

    pub(super) async fn redeem(&self, presented: Presented) -> Result<SpiffeId, RedeemError> {
        let mut tokens = self.tokens.lock().await;
        let mut next = tokens.clone();
        let claim = next.redeem_for(&presented, self.wall.millis())?;
        self.keep(&next)
            .await
            .map_err(|problem| RedeemError::Store(problem.message))?;
        *tokens = next;
        Ok(claim.id(self.authority().trust_domain()))
    }

    /// Keeps `book`, then goes by it.
    async fn keep(&self, book: &TokenBook) -> Result<(), Problem> {
        let mut batch = Batch::new();
        batch.put(Tree::Identity, TOKENS, encode(book)?);
        self.store
            .commit_async(batch)
            .await
            .map_err(|error| problem(&error))?;
        let grants = book.grants();
        if *self.granted.load() != grants {
            self.granted.publish(grants);
        }
        Ok(())
    }

    fn spiffe(&self, namespace: &str, account: &str) -> String {
        SpiffeId::new(self.authority().trust_domain(), namespace, account).to_string()
    }

    /// All tokens without their secrets, the newest first.
    pub async fn tokens(&self) -> Vec<TokenEntry> {
        let now = self.wall.millis();
        let book = self.tokens.lock().await;
        let mut all: Vec<TokenEntry> = book
            .list()
            .map(|(id, record)| TokenEntry {
                id: id.to_owned(),
                spiffe_id: self.spiffe(&record.namespace, &record.service_account),
                gateway: record.gateway.clone(),
                state: match record.uses_left {
                    0 => TokenState::Spent,
                    _ if record.expires_at_ms <= now => TokenState::Expired,
                    _ => TokenState::Open,
                },
                used: record.uses.len(),
                uses_left: record.uses_left,
                expires_unix_ms: record.expires_at_ms,
                created_unix_ms: record.created_at_ms,
                created_by: record.created_by.clone(),
                used_unix_ms: record.uses.last().map_or(0, |used| used.at_ms),
            })
            .collect();
        all.sort_by(|a, b| (b.created_unix_ms, &a.id).cmp(&(a.created_unix_ms, &b.id)));
        all
    }

    /// Takes a token back, and what it lets its account serve.
    pub async fn revoke_token(&self, id: &str, by: &str) -> Result<(), Problem> {
        let mut tokens = self.tokens.lock().await;
        let mut next = tokens.clone();
        let record = next.revoke(id).ok_or_else(|| {
            Problem::new(Reason::NotFound, format!("there is no join token {id}"))
                .hint("see `meshctl token list`")
        })?;
        self.keep(&next).await?;
        *tokens = next;
        let entry = AuditEntry {
            token: id.to_owned(),
            identity: self.spiffe(&record.namespace, &record.service_account),
            by: by.to_owned(),
            ..AuditEntry::new(self.wall.millis(), AuditEvent::TokenRevoked)
        };
        self.audited(vec![entry]).await
    }

    /// Makes a join token; the answer holds the only copy of its secret.
    pub async fn create_token(
        &self,
        request: TokenRequest,
        by: &str,
    ) -> Result<TokenReport, Problem> {
        let now = self.wall.millis();
        let spec = TokenSpec {
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            workload: None,
            gateway: request.gateway.clone(),
            uses: request.uses,
            lifetime: Duration::from_secs(request.ttl_seconds),
            created_by: by.to_owned(),
        };
        let root = tls::sha256(self.authority().root());
        let mut tokens = self.tokens.lock().await;
        let mut next = tokens.clone();
        let token = next
            .create(spec, Some(root), now)
            .map_err(|error| Problem::new(Reason::Invalid, error.to_string()).hint(error.hint()))?;
        self.keep(&next).await?;
        *tokens = next;
        let report = TokenReport {
            id: token.id.clone(),
            token: token.to_string(),
            spiffe_id: self.spiffe(&request.namespace, &request.service_account),
            expires_unix_ms: now.saturating_add(request.ttl_seconds.saturating_mul(1_000)),
        };
        let gateway = request.gateway.map(|name| format!("gateway {name}"));
        self.audited(vec![AuditEntry {
            token: report.id.clone(),
            identity: report.spiffe_id.clone(),
            by: by.to_owned(),
            detail: gateway.unwrap_or_default(),
            expires_unix_ms: report.expires_unix_ms,
            ..AuditEntry::new(now, AuditEvent::TokenCreated)
        }])
        .await?;
        Ok(report)
    }
}
