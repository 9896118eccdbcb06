//! The mesh's authority and its join tokens, as this control plane holds them.
//!
//! The signing key is a file of mode 0600 beside the store, never in it; the token book is in the
//! store and a use is committed before the certificate is made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::api::identity::{
    IdentityReport, IdentityRequest, RotationPhase, RotationStep, TokenReport, TokenRequest,
};
use crate::api::{Problem, Reason};
use crate::mesh::SpiffeId;
use crate::rt::{self, Published, Reader, Tasks, UnixMillis, Wall};
use crate::source::store::{Batch, Store, StoreError, Tree};
use crate::tls::{self, Authority, Revoked};
use crate::xds::snapshot::{Resource, Sheet};
use crate::xds::{self, Kind};

use super::ca::{AuditFn, RedeemError, RedeemFn};
use super::index::{encode, problem};
use super::rotation::{Files, Held};
use super::serve_tls::{AuthorityFn, RevokedFn};
use super::token::{Presented, TokenBook, TokenSpec};

/// Key of the token book in its tree.
const TOKENS: &[u8] = b"tokens";
/// Key of what is revoked.
const REVOKED: &[u8] = b"revoked";

/// What is revoked, and the lists that say so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RevokedBook {
    /// Serial numbers, and since when they are revoked.
    serials: Vec<(String, UnixMillis)>,
    /// Lists are counted.
    number: u64,
    /// Fingerprints of the roots that the lists are of.
    roots: Vec<String>,
    /// The lists as PEM; none while nothing is revoked.
    lists: String,
}

impl RevokedBook {
    /// The same, signed by who is believed now, without what has ended long since.
    fn signed(&self, held: &Held, now: UnixMillis) -> Result<Self, tls::Error> {
        let longest = u64::try_from(tls::issuer::LONGEST_LIFETIME.as_millis()).unwrap_or(u64::MAX);
        let mut next = self.clone();
        next.serials
            .retain(|(_, since)| since.saturating_add(longest) > now);
        next.roots = fingerprints(held);
        next.number += 1;
        next.lists = if next.serials.is_empty() {
            String::new()
        } else {
            held.lists(&next.serials, next.number, now)?
        };
        Ok(next)
    }
}

fn fingerprints(held: &Held) -> Vec<String> {
    let roots = held.authority.roots();
    roots.iter().map(tls::fingerprint).collect()
}

/// Why the authority could not be opened.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate and key do not make an authority.
    #[error("{}: {source}", path.display())]
    Authority {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: Box<tls::Error>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process ends.
    #[error("the control plane is stopping")]
    Interrupted,
}

/// The authority and the tokens.
#[derive(Debug)]
pub struct Trust {
    files: Files,
    current: Published<Current>,
    revoked: Mutex<RevokedBook>,
    tokens: Mutex<TokenBook>,
    store: Store,
    wall: Wall,
    /// Secrets that were made for Envoys, and when each is to be made anew: a new one for every
    /// question would be a rotation with every push.
    made: std::sync::Mutex<BTreeMap<SpiffeId, (UnixMillis, Secrets)>>,
}

/// Who signs now, and what is believed.
#[derive(Debug)]
pub struct Current {
    /// It signs.
    pub authority: Arc<Authority>,
    /// How far a replacement of the root has come.
    pub phase: RotationPhase,
    /// The roots as a resource, for clients that are told of them.
    pub roots: Arc<Sheet>,
    /// The version of that.
    pub version: Arc<str>,
    /// The [`tls::key_of`] what is revoked.
    pub revoked: BTreeSet<u64>,
}

impl Current {
    fn new(held: Held, book: &RevokedBook) -> Result<Self, tls::Error> {
        let revoked = Revoked::from_pem(&book.lists)?;
        let (name, bytes) = xds::encode::secret::roots(&held.authority.roots_pem(), &book.lists);
        let resource = Resource::new(bytes);
        let version = Arc::clone(&resource.version);
        let mut sheet = Sheet::default();
        sheet.insert(Kind::Secret, name, resource);
        Ok(Self {
            phase: held.phase,
            roots: Arc::new(sheet),
            version,
            revoked: revoked.keys(),
            authority: Arc::new(held.authority.revoking(revoked)),
        })
    }
}

/// Encoded secrets by name.
pub type Secrets = Vec<(String, Vec<u8>)>;

/// Opens the authority in `dir`, or makes one there when there is none.
pub fn authority(dir: &Path, trust_domain: &str, wall: &Wall) -> Result<Authority, TrustError> {
    let held = Files::new(dir, trust_domain).open(wall.millis())?;
    Ok(held.authority)
}

fn internal(error: &tls::Error) -> Problem {
    Problem::new(Reason::Internal, error.to_string())
}

impl Trust {
    /// Opens the authority in `dir` and the tokens in `store`.
    pub fn open(
        store: Store,
        dir: &Path,
        trust_domain: &str,
        wall: Wall,
    ) -> Result<Self, TrustError> {
        let files = Files::new(dir, trust_domain);
        let held = files.open(wall.millis())?;
        let mut book: RevokedBook = store
            .get(Tree::Identity, REVOKED)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let wrong = |source| TrustError::Authority {
            path: dir.to_owned(),
            source: Box::new(source),
        };
        // A rotation was interrupted, or another authority put in place.
        if !book.serials.is_empty() && book.roots != fingerprints(&held) {
            book = book.signed(&held, wall.millis()).map_err(wrong)?;
        }
        let current = Current::new(held, &book).map_err(wrong)?;
        let tokens = store
            .get(Tree::Identity, TOKENS)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Ok(Self {
            files,
            current: Published::new(current),
            revoked: Mutex::new(book),
            tokens: Mutex::new(tokens),
            store,
            wall,
            made: std::sync::Mutex::default(),
        })
    }

    /// The certificate that signs now.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.current.load().authority)
    }

    /// Who signs and what is believed, and what becomes of it.
    pub fn current(&self) -> Reader<Current> {
        self.current.reader()
    }

    /// Takes one step in the replacement of the root; what is in place already is left as it is.
    pub async fn rotate(&self, step: RotationStep) -> Result<(), Problem> {
        // One change at a time.
        let mut book = self.revoked.lock().await;
        let phase = self.current.load().phase;
        let goes = matches!(
            (step, phase),
            (RotationStep::Introduce, RotationPhase::Steady)
                | (
                    RotationStep::Replace | RotationStep::Abandon,
                    RotationPhase::Introduced
                )
                | (RotationStep::Finish, RotationPhase::Replaced)
        );
        if !goes {
            return Err(Problem::new(
                Reason::Conflict,
                format!("the root is {phase}, so nothing can {step} it"),
            )
            .hint("see `meshctl identity rotate-root --status`"));
        }
        let (files, before, now) = (self.files.clone(), book.clone(), self.wall.millis());
        let done = Tasks::blocking(move || {
            match step {
                RotationStep::Introduce => files.introduce(now),
                RotationStep::Replace => files.replace(&before.serials, before.number + 1, now),
                RotationStep::Finish => files.finish(),
                RotationStep::Abandon => files.abandon(),
            }?;
            files.open(now)
        });
        let held = done
            .await
            .unwrap_or_else(|| Err(TrustError::Interrupted))
            .map_err(|error| Problem::new(Reason::Internal, rt::chain(&error)))?;
        tracing::info!(%step, root = held.authority.root_fingerprint(), "the mesh's root");
        let next = book.signed(&held, now).map_err(|error| internal(&error))?;
        self.put(held, next, &mut book).await
    }

    /// Believes certificates no more, by their serial numbers. Gives how many are revoked now.
    pub async fn revoke(&self, serials: Vec<String>) -> Result<usize, Problem> {
        let mut book = self.revoked.lock().await;
        let (files, now) = (self.files.clone(), self.wall.millis());
        let held = Tasks::blocking(move || files.open(now))
            .await
            .unwrap_or_else(|| Err(TrustError::Interrupted))
            .map_err(|error| Problem::new(Reason::Internal, rt::chain(&error)))?;
        let mut next = book.clone();
        for serial in serials {
            let serial = serial.replace(':', "").to_ascii_lowercase();
            if !next.serials.iter().any(|(known, _)| *known == serial) {
                next.serials.push((serial, now));
            }
        }
        let next = next.signed(&held, now).map_err(|error| {
            Problem::new(Reason::Invalid, error.to_string())
                .hint("`meshctl identity show` prints the serial numbers of certificates")
        })?;
        let count = next.serials.len();
        self.put(held, next, &mut book).await?;
        tracing::info!(revoked = count, "certificates are revoked");
        Ok(count)
    }

    /// Keeps `next`, then goes by it.
    async fn put(
        &self,
        held: Held,
        next: RevokedBook,
        book: &mut RevokedBook,
    ) -> Result<(), Problem> {
        let current = Current::new(held, &next).map_err(|error| internal(&error))?;
        let mut batch = Batch::new();
        batch.put(Tree::Identity, REVOKED, encode(&next)?);
        let kept = self.store.commit_async(batch).await;
        kept.map_err(|error| problem(&error))?;
        *book = next;
        self.current.publish(current);
        self.secrets_made().clear();
        Ok(())
    }

    /// For the services that sign.
    pub fn authority_fn(self: &Arc<Self>) -> AuthorityFn {
        let trust = Arc::clone(self);
        Arc::new(move || trust.authority())
    }

    /// For the port of the services: whose certificate is revoked.
    pub fn revoked_fn(&self) -> RevokedFn {
        let current = self.current.reader();
        Arc::new(move |key| current.peek().revoked.contains(&key))
    }

    /// For the certificate service: takes one use of a token, durably.
    pub fn redeem_fn(self: &Arc<Self>) -> RedeemFn {
        let trust = Arc::clone(self);
        Arc::new(move |presented| {
            let trust = Arc::clone(&trust);
            Box::pin(async move { trust.redeem(presented).await })
        })
    }

    /// For the certificate service: writes each decision to the log and the store's events.
    pub fn audit_fn(self: &Arc<Self>) -> AuditFn {
        let trust = Arc::clone(self);
        Arc::new(move |record| {
            tracing::info!(caller = ?record.caller, outcome = ?record.outcome, "certificate");
            let trust = Arc::clone(&trust);
            let Ok(bytes) = serde_json::to_vec(&record) else {
                return;
            };
            let key = format!("certificate/{:020}/{:08x}", record.at_ms, fastrand::u32(..));
            let mut batch = Batch::new();
            batch.put(Tree::Events, key, bytes);
            // The commit waits for the disk, the certificate need not wait for its record.
            drop(std::thread::spawn(move || {
                if let Err(error) = trust.store.commit(batch) {
                    tracing::error!(%error, "a certificate was issued that the audit log does not hold");
                }
            }));
        })
    }

    async fn redeem(&self, presented: Presented) -> Result<SpiffeId, RedeemError> {
        let mut tokens = self.tokens.lock().await;
        let mut next = tokens.clone();
        let claim = next.redeem_for(&presented, self.wall.millis())?;
        self.keep(&next)
            .await
            .map_err(|problem| RedeemError::Store(problem.message))?;
        *tokens = next;
        Ok(claim.id(self.authority().trust_domain()))
    }

    async fn keep(&self, book: &TokenBook) -> Result<(), Problem> {
        let mut batch = Batch::new();
        batch.put(Tree::Identity, TOKENS, encode(book)?);
        self.store
            .commit_async(batch)
            .await
            .map_err(|error| problem(&error))?;
        Ok(())
    }

    /// Makes a join token; the answer holds the only copy of its secret.
    pub async fn create_token(&self, request: TokenRequest) -> Result<TokenReport, Problem> {
        let now = self.wall.millis();
        let spec = TokenSpec {
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            workload: None,
            uses: request.uses,
            lifetime: Duration::from_secs(request.ttl_seconds),
            created_by: "api".to_owned(),
        };
        let root = tls::sha256(self.authority().root());
        let mut tokens = self.tokens.lock().await;
        let mut next = tokens.clone();
        let token = next
            .create(spec, Some(root), now)
            .map_err(|error| Problem::new(Reason::Invalid, error.to_string()).hint(error.hint()))?;
        self.keep(&next).await?;
        *tokens = next;
        let id = SpiffeId::new(
            self.authority().trust_domain(),
            &request.namespace,
            &request.service_account,
        );
        Ok(TokenReport {
            id: token.id.clone(),
            token: token.to_string(),
            spiffe_id: id.to_string(),
            expires_unix_ms: now.saturating_add(request.ttl_seconds.saturating_mul(1_000)),
        })
    }

    /// Issues a certificate with a key made here, for programs that cannot ask for themselves.
    pub fn issue(&self, request: &IdentityRequest) -> Result<IdentityReport, Problem> {
        let id = SpiffeId::new(
            self.authority().trust_domain(),
            &request.namespace,
            &request.service_account,
        );
        if id.to_string().parse::<SpiffeId>().is_err() {
            return Err(Problem::new(
                Reason::Invalid,
                format!("{id} is not an identity of this mesh"),
            ));
        }
        if id == tls::control_plane_id(self.authority().trust_domain()) {
            return Err(Problem::new(
                Reason::Denied,
                "nobody is given the control plane's own identity",
            ));
        }
        let authority = self.authority();
        let material = authority
            .issue_pair(
                &id,
                Duration::from_secs(request.ttl_seconds),
                self.wall.millis(),
            )
            .map_err(|error| Problem::new(Reason::Internal, error.to_string()))?;
        let pems = material.to_pems();
        Ok(IdentityReport {
            spiffe_id: id.to_string(),
            chain_pem: pems.chain.clone(),
            key_pem: pems.key.clone(),
            roots_pem: authority.roots_pem(),
            expires_unix_ms: material.not_after,
        })
    }

    /// What an Envoy of identity `id` asks for by SDS: `default` (its certificate and key) and
    /// `ROOTCA`, as Istio names them.
    /// The same until half of the certificate's life is over.
    pub fn secrets(&self, id: &SpiffeId) -> Result<Secrets, tls::Error> {
        let now = self.wall.millis();
        let mut made = self.secrets_made();
        made.retain(|_, (renew, _)| *renew > now);
        if let Some((_, secrets)) = made.get(id) {
            return Ok(secrets.clone());
        }
        let authority = self.authority();
        let material = authority.issue_pair(id, tls::issuer::DEFAULT_LIFETIME, now)?;
        let renew = now + material.not_after.saturating_sub(now) / 2;
        let pems = material.to_pems();
        let secrets = vec![
            xds::encode::secret::certificate(&pems.chain, &pems.key),
            xds::encode::secret::roots(&authority.roots_pem(), &authority.revoked().to_pem()),
        ];
        made.insert(id.clone(), (renew, secrets.clone()));
        Ok(secrets)
    }

    fn secrets_made(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, (UnixMillis, Secrets)>> {
        // Entries are replaced whole, so a panic in between leaves nothing half made.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_keeps_its_certificate_until_half_of_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let wall = Wall::fixed(1_800_000_000_000);
        let trust =
            Trust::open(Store::memory(), dir.path(), "cluster.local", wall.clone()).unwrap();
        let id = SpiffeId::new("cluster.local", "shop", "cart");
        let first = trust.secrets(&id).unwrap();
        wall.advance(Duration::from_hours(1));
        assert_eq!(trust.secrets(&id).unwrap(), first);
        wall.advance(Duration::from_hours(12));
        assert_ne!(trust.secrets(&id).unwrap(), first);
    }
}
