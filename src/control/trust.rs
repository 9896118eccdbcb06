//! The mesh's authority and its join tokens, as this control plane holds them.
//!
//! The signing key is a file of mode 0600 beside the store, never in it; the token book is in the
//! store and a use is committed before the certificate is made.

mod access;
mod issue;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::api::identity::{AuditEntry, AuditEvent, RotationPhase, RotationStep};
use crate::api::{Problem, Reason};
use crate::rt::{self, Published, Reader, Tasks, UnixMillis, Wall};
use crate::source::store::{Batch, Store, StoreError, Tree};
use crate::tls::{self, Authority, Plugged, Revoked};
use crate::xds::snapshot::{Resource, Sheet};
use crate::xds::{self, Kind};

use super::access::AccessBook;
use super::attest::Granted;
use super::audit::{Audit, entries};
use super::ca::{AuditFn, RedeemFn};
use super::index::{encode, problem};
pub use super::rotation::CaOptions;
use super::rotation::{Files, Held};
use super::serve_tls::{AuthorityFn, RevokedFn};
use super::signer::Signer;
use super::token::TokenBook;

/// Key of the token book in its tree.
const TOKENS: &[u8] = b"tokens";
/// Key of what is revoked.
const REVOKED: &[u8] = b"revoked";

/// How the root of an authority that is kept elsewhere is replaced.
const PLUGGED_ROOT: &str = "put the next root beside the present one in root-cert.pem, then the certificate and key below it, then leave the next root alone there";
const EXTERNAL_ROOT: &str = "put the next root behind the present one in the file of --ca-signer-root, have the signer sign with it, then put it first, and once everybody has renewed leave it alone there";

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
    /// Last lists of authorities that were plugged in before: what they issued is believed as long as their root
    /// is, and only their own list speaks of it.
    #[serde(default)]
    former: String,
}

/// Longer lists of former authorities are not kept.
const MOST_FORMER: usize = 256 << 10;

impl RevokedBook {
    /// The same, signed by who is believed now, without what has ended long since.
    fn signed(&self, held: &Held, now: UnixMillis) -> Result<Self, tls::Error> {
        let longest = u64::try_from(tls::issuer::LONGEST_LIFETIME.as_millis()).unwrap_or(u64::MAX);
        let mut next = self.clone();
        next.serials
            .retain(|(_, since)| since.saturating_add(longest) > now);
        next.roots = fingerprints(held);
        next.number += 1;
        if held.authority.is_elsewhere() {
            // What the signer revokes stands in its own lists.
            next.lists = held.lists(&[], next.number, now)? + &next.former;
        } else if next.serials.is_empty() {
            next.former.clear();
            next.lists.clear();
        } else {
            next.lists = held.lists(&next.serials, next.number, now)? + &next.former;
        }
        Ok(next)
    }

    /// The same once another authority signs, below the same root perhaps.
    fn of_former(&self) -> Self {
        let mut next = self.clone();
        // `lists` ends with what is in `former` already.
        next.former.clone_from(&next.lists);
        if next.former.len() > MOST_FORMER {
            next.former.clear();
        }
        next
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
    /// The gateways that accounts may serve.
    granted: Published<Grants>,
    /// Who may use the API over TCP.
    access: Published<AccessBook>,
    access_change: Mutex<()>,
    audit: Arc<Audit>,
    store: Store,
    wall: Wall,
    /// Certificates that were made for Envoys.
    made: issue::Made,
    /// Signs in place of a key here.
    signer: Option<Arc<Signer>>,
    /// Where the control plane's own certificates are kept that came from it.
    keep: PathBuf,
    trusted: Arc<[(String, String)]>,
}

/// Gateways that accounts may serve, by namespace and account.
type Grants = BTreeMap<(String, String), Granted>;

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
pub fn authority(
    dir: &Path,
    trust_domain: &str,
    options: &CaOptions,
    wall: &Wall,
) -> Result<Authority, TrustError> {
    let held = Files::new(dir, trust_domain, options).open(wall.millis())?;
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
        options: &CaOptions,
        wall: Wall,
    ) -> Result<Self, TrustError> {
        let files = Files::new(dir, trust_domain, options);
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
        let elsewhere = held.authority.is_elsewhere();
        let own_key = dir.join("ca-key.pem");
        if elsewhere && own_key.exists() {
            tracing::warn!(key = %own_key.display(), "an outside signer signs, and the key of an own authority lies here still; remove it once nothing is of it");
        }
        if elsewhere || !book.serials.is_empty() && book.roots != fingerprints(&held) {
            // A signer's lists are read anew, and are nobody's last ones.
            if files.plugged() && (!elsewhere || book.roots != fingerprints(&held)) {
                book = book.of_former();
            }
            book = book.signed(&held, wall.millis()).map_err(wrong)?;
        }
        let current = Current::new(held, &book).map_err(wrong)?;
        let tokens: TokenBook = store
            .get(Tree::Identity, TOKENS)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let logs = dir.join("audit");
        let audit = Audit::open(&logs).map_err(|source| TrustError::File { path: logs, source })?;
        Ok(Self {
            granted: Published::new(tokens.grants()),
            access: Published::new(access::open(&store)?),
            access_change: Mutex::default(),
            audit: Arc::new(audit),
            files,
            current: Published::new(current),
            revoked: Mutex::new(book),
            tokens: Mutex::new(tokens),
            store,
            wall,
            made: issue::Made::default(),
            signer: options
                .signer
                .clone()
                .map(|signer| Arc::new(Signer::new(signer))),
            keep: dir.join("own"),
            trusted: options.trusted.as_slice().into(),
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
    pub async fn rotate(&self, step: RotationStep, by: &str) -> Result<(), Problem> {
        // One change at a time.
        let mut book = self.revoked.lock().await;
        let phase = self.current.load().phase;
        if self.files.plugged() {
            return Err(Problem::new(
                Reason::Conflict,
                "the authority is kept elsewhere, so its root is not replaced here",
            )
            .hint(if self.files.external() {
                EXTERNAL_ROOT
            } else {
                PLUGGED_ROOT
            }));
        }
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
        let root = held.authority.root_fingerprint();
        tracing::info!(%step, root, "the mesh's root");
        let next = book.signed(&held, now).map_err(|error| internal(&error))?;
        self.put(held, next, &mut book).await?;
        let entry = AuditEntry {
            by: by.to_owned(),
            detail: format!("{step}; root {root} signs"),
            ..AuditEntry::new(now, AuditEvent::RootRotated)
        };
        self.audited(vec![entry]).await
    }

    /// Believes certificates no more, by their serial numbers. Gives how many are revoked now.
    pub async fn revoke(&self, serials: Vec<String>, by: &str) -> Result<usize, Problem> {
        if self.files.external() {
            return Err(Problem::new(
                Reason::Conflict,
                "an outside signer has the key, so no list of what is revoked can be signed here",
            )
            .hint("revoke it at the signer and have its list followed with --ca-signer-crl; until then deny the identity with an AuthorizationPolicy"));
        }
        let mut book = self.revoked.lock().await;
        let (files, now) = (self.files.clone(), self.wall.millis());
        let held = Tasks::blocking(move || files.open(now))
            .await
            .unwrap_or_else(|| Err(TrustError::Interrupted))
            .map_err(|error| Problem::new(Reason::Internal, rt::chain(&error)))?;
        let mut next = book.clone();
        let mut entries = Vec::new();
        for serial in serials {
            let serial = serial.replace(':', "").to_ascii_lowercase();
            entries.push(AuditEntry {
                serial: serial.clone(),
                by: by.to_owned(),
                ..AuditEntry::new(now, AuditEvent::CertificateRevoked)
            });
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
        self.audited(entries).await?;
        Ok(count)
    }

    /// Looks whether what was plugged in is another now than `seen`, and goes by it when it is good; whether it
    /// did.
    pub async fn follow(&self, seen: &mut Option<Plugged>) -> bool {
        let (files, now) = (self.files.clone(), self.wall.millis());
        let texts = Tasks::blocking(move || files.texts()).await;
        let Some(Ok(texts)) = texts else {
            // Being replaced, perhaps; what is in force stays.
            return false;
        };
        if seen.as_ref() == Some(&texts) || seen.replace(texts).is_none() {
            return false;
        }
        let mut book = self.revoked.lock().await;
        let files = self.files.clone();
        let held = Tasks::blocking(move || files.open(now))
            .await
            .unwrap_or_else(|| Err(TrustError::Interrupted));
        let taken = async {
            let held = held.map_err(|error| rt::chain(&error))?;
            let root = held.authority.root_fingerprint();
            let next = if held.authority.is_elsewhere() {
                book.signed(&held, now)
            } else {
                book.of_former().signed(&held, now)
            };
            let next = next.map_err(|error| error.to_string())?;
            self.put(held, next, &mut book)
                .await
                .map_err(|problem| problem.message)?;
            let entry = AuditEntry {
                by: "files".to_owned(),
                detail: format!("another authority was plugged in; root {root} is believed"),
                ..AuditEntry::new(now, AuditEvent::RootRotated)
            };
            self.append(vec![entry])
                .await
                .map_err(|error| error.to_string())
        };
        match taken.await {
            Ok(()) => {
                tracing::info!("another authority signs now");
                true
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "the authority that was plugged in is not taken; the last good one signs"
                );
                false
            }
        }
    }

    /// Whether the authority is kept by others.
    pub fn plugged(&self) -> bool {
        self.files.plugged()
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
        self.forget_made();
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

    /// For the certificate service: writes each decision to the audit log.
    pub fn audit_fn(self: &Arc<Self>) -> AuditFn {
        let trust = Arc::clone(self);
        Arc::new(move |record| {
            let trust = Arc::clone(&trust);
            Box::pin(async move { trust.append(entries(record)).await })
        })
    }

    /// Adds to the audit log; what was given out is durable then.
    async fn append(&self, entries: Vec<AuditEntry>) -> io::Result<()> {
        let audit = Arc::clone(&self.audit);
        let written = Tasks::blocking(move || audit.append(&entries)).await;
        written.unwrap_or_else(|| Err(io::Error::other("the control plane is stopping")))
    }

    /// The same for what is asked for by the API.
    async fn audited(&self, entries: Vec<AuditEntry>) -> Result<(), Problem> {
        let written = self.append(entries).await;
        written.map_err(|error| {
            Problem::new(
                Reason::Internal,
                format!("the audit log cannot be written: {error}"),
            )
            .hint("make room on the disk of the control plane's home")
        })
    }

    /// The newest `most` entries of the audit log not older than `since`, oldest first.
    pub async fn audit(&self, since: UnixMillis, most: usize) -> Result<Vec<AuditEntry>, Problem> {
        let audit = Arc::clone(&self.audit);
        let read = Tasks::blocking(move || audit.read(since, most)).await;
        read.unwrap_or_else(|| Err(io::Error::other("the control plane is stopping")))
            .map_err(|error| {
                let reason = format!("the audit log cannot be read: {error}");
                Problem::new(Reason::Internal, reason)
            })
    }
}
