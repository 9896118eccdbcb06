//! Certificates with keys that are made here: for programs that cannot ask for themselves, and for Envoys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::api::identity::{AuditEntry, AuditEvent, IdentityReport, IdentityRequest};
use crate::api::{Problem, Reason};
use crate::control::signer::{Issuer, SignError, Signer};
use crate::mesh::SpiffeId;
use crate::rt::{Backoff, Tasks, UnixMillis};
use crate::{tls, xds};

use super::{Secrets, Trust};

/// Identities that wait for the signer at most: as many as there may be connections that prove one.
const MOST_WANTED: usize = 20_000;
/// Of those, asked for in one go.
const MOST_IN_TURN: usize = 16;
/// How long an identity waits that the signer refused, or gave what cannot be handed out, at first and at most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// The same where the signer did not answer: once it does, everybody is to be served soon.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Certificates that were made for Envoys: a new one for every question would be a rotation with every push.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    entries: BTreeMap<SpiffeId, Entry>,
    /// The signer is to be asked for these.
    wanted: BTreeSet<SpiffeId>,
    /// Those of them that got nothing, until it worked.
    refused: BTreeMap<SpiffeId, Refused>,
    /// When what the signer is shown was written last.
    stamps: Vec<Option<SystemTime>>,
}

/// An identity for which the signer is not asked for a while.
#[derive(Debug)]
struct Refused {
    backoff: Backoff,
    until: UnixMillis,
    /// Whether the signer had not answered.
    away: bool,
}

impl Book {
    /// Nobody waits any longer for having been refused: something has changed.
    fn forgive(&mut self) {
        self.refused.clear();
    }

    /// Adds those whose certificates are to be renewed. Whether anybody wants one.
    fn want_due(&mut self, now: UnixMillis) -> bool {
        let due = self.entries.iter().filter(|(_, entry)| entry.renew <= now);
        self.wanted.extend(due.map(|(id, _)| id.clone()));
        !self.wanted.is_empty()
    }

    /// For whom the signer is asked now. Who has left is forgotten, but comes back no sooner for that.
    fn turn(&mut self, present: &BTreeSet<SpiffeId>, now: UnixMillis) -> Vec<SpiffeId> {
        self.wanted.retain(|id| present.contains(id));
        self.refused
            .retain(|id, refused| present.contains(id) || refused.until > now);
        let refused = &self.refused;
        let waits = |id: &&SpiffeId| refused.get(*id).is_some_and(|refused| refused.until > now);
        let turn = self.wanted.iter().filter(|id| !waits(id));
        turn.cloned().collect()
    }

    /// It got one.
    fn serve(&mut self, id: &SpiffeId, entry: Entry) {
        self.wanted.remove(id);
        self.refused.remove(id);
        self.entries.insert(id.clone(), entry);
    }

    /// It got none.
    fn refuse(&mut self, id: &SpiffeId, away: bool, now: UnixMillis, chance: f64) {
        let (base, most) = if away { AWAY } else { REFUSED };
        let refused = self.refused.remove(id).filter(|before| before.away == away);
        let mut refused = refused.unwrap_or_else(|| Refused {
            backoff: Backoff::new(base, most),
            until: now,
            away,
        });
        let wait = refused.backoff.next(chance).as_millis();
        refused.until = now.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX));
        self.refused.insert(id.clone(), refused);
    }
}

#[derive(Debug, Clone)]
struct Entry {
    renew: UnixMillis,
    ends: UnixMillis,
    certificate: (String, Vec<u8>),
}

impl Trust {
    /// Who signs.
    pub fn issuer(self: &Arc<Self>) -> Issuer {
        Issuer::new(self.authority_fn(), self.signer.clone(), self.wall.clone())
    }

    /// The outside signer, where there is one.
    pub fn signer(&self) -> Option<&Arc<Signer>> {
        self.signer.as_ref()
    }

    /// Accounts that may ask for anybody.
    pub fn trusted(&self) -> Arc<[(String, String)]> {
        Arc::clone(&self.trusted)
    }

    /// Where the own certificate of a port is kept for a start without the signer.
    pub fn kept_in(&self, port: &str) -> Option<PathBuf> {
        self.signer.as_ref().map(|_| self.keep.join(port))
    }

    /// Issues a certificate with a key made here, for programs that cannot ask for themselves.
    pub async fn issue(
        self: &Arc<Self>,
        request: &IdentityRequest,
        by: &str,
    ) -> Result<IdentityReport, Problem> {
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
        let lifetime = Duration::from_secs(request.ttl_seconds);
        let material = match self.issuer().pair(&id, lifetime).await {
            Ok(material) => material,
            Err(error) => {
                self.note_refused(&id, by, &error).await;
                let hint = match error {
                    SignError::Own(_) => "look at the log of the control plane",
                    _ => "see `meshctl check`: certificates that are in use stay good meanwhile",
                };
                return Err(Problem::new(Reason::Internal, error.to_string()).hint(hint));
            }
        };
        self.audited(vec![self.issued(&id, &material, by)]).await?;
        let pems = material.to_pems();
        Ok(IdentityReport {
            spiffe_id: id.to_string(),
            chain_pem: pems.chain.clone(),
            key_pem: pems.key.clone(),
            roots_pem: self.authority().roots_pem(),
            expires_unix_ms: material.not_after,
        })
    }

    /// What an Envoy of identity `id` asks for by SDS: `default` (its certificate and key) and
    /// `ROOTCA`, as Istio names them.
    /// The same until half of the certificate's life is over. Where a signer is to be asked first, it is empty, or
    /// the present one, and [`Trust::sign_wanted`] asks.
    pub fn secrets(&self, id: &SpiffeId) -> Result<Secrets, tls::Error> {
        let now = self.wall.millis();
        let mut made = self.made();
        made.entries.retain(|_, entry| entry.ends > now);
        let known = made.entries.get(id).cloned();
        let entry = match (known, &self.signer) {
            (Some(entry), _) if entry.renew > now => entry,
            (known, Some(_)) => {
                if made.wanted.len() < MOST_WANTED {
                    made.wanted.insert(id.clone());
                }
                match known {
                    Some(entry) => entry,
                    None => return Ok(Vec::new()),
                }
            }
            (_, None) => {
                let lifetime = tls::issuer::DEFAULT_LIFETIME;
                let material = self.authority().issue_pair(id, lifetime, now)?;
                self.audit
                    .append(&[self.issued(id, &material, &id.to_string())])
                    .map_err(|error| tls::Error::Authority {
                        reason: format!("the audit log cannot be written: {error}"),
                    })?;
                let entry = entry(&material, now);
                made.entries.insert(id.clone(), entry.clone());
                entry
            }
        };
        let authority = self.authority();
        let roots = (authority.roots_pem(), authority.revoked().to_pem());
        Ok(vec![
            entry.certificate,
            xds::encode::secret::roots(&roots.0, &roots.1),
        ])
    }

    /// Asks the signer for what Envoys wait for: new certificates, and such whose half life is over. Who got nothing
    /// waits longer each time. Only for who is `present`, as far as it is known who is. Whether somebody got one.
    pub async fn sign_wanted(self: &Arc<Self>, present: impl Fn() -> BTreeSet<SpiffeId>) -> bool {
        self.forgive_changed().await;
        let now = self.wall.millis();
        if !self.made().want_due(now) {
            return false;
        }
        let present = present();
        let turn = self.made().turn(&present, now);
        let mut some = false;
        for few in turn.chunks(MOST_IN_TURN) {
            let asking = few.iter().map(|id| self.sign_for_envoy(id));
            let made = futures_util::future::join_all(asking).await;
            some |= made.contains(&true);
        }
        some
    }

    /// What the signer is shown may have been why it refused.
    async fn forgive_changed(self: &Arc<Self>) {
        let Some(signer) = self.signer.clone() else {
            return;
        };
        let stamps = Tasks::blocking(move || signer.stamps()).await;
        let mut made = self.made();
        if let Some(stamps) = stamps
            && stamps != made.stamps
        {
            made.stamps = stamps;
            made.forgive();
        }
    }

    /// Whether there is one now.
    async fn sign_for_envoy(self: &Arc<Self>, id: &SpiffeId) -> bool {
        let pair = self.issuer().pair(id, tls::issuer::DEFAULT_LIFETIME).await;
        let material = match pair {
            Ok(material) => material,
            Err(error) => {
                let away = matches!(error, SignError::Away { .. });
                let (now, chance) = (self.wall.millis(), fastrand::f64());
                self.made().refuse(id, away, now, chance);
                self.note_refused(id, &id.to_string(), &error).await;
                return false;
            }
        };
        let issued = self.issued(id, &material, &id.to_string());
        if let Err(error) = self.append(vec![issued]).await {
            tracing::error!(%error, "cannot write the audit log");
            return false;
        }
        let entry = entry(&material, self.wall.millis());
        self.made().serve(id, entry);
        true
    }

    /// Why there is no certificate, for who reads the audit log.
    async fn note_refused(self: &Arc<Self>, id: &SpiffeId, by: &str, error: &SignError) {
        let entry = AuditEntry {
            identity: id.to_string(),
            by: by.to_owned(),
            detail: error.to_string(),
            ..AuditEntry::new(self.wall.millis(), AuditEvent::CertificateRefused)
        };
        if let Err(error) = self.append(vec![entry]).await {
            tracing::error!(%error, "cannot write the audit log");
        }
    }

    /// Other roots are believed now: everything is made anew, and where a signer has to be asked the old stays until
    /// it has answered.
    pub(super) fn forget_made(&self) {
        let mut made = self.made();
        if self.signer.is_some() {
            made.forgive();
            made.entries.values_mut().for_each(|entry| entry.renew = 0);
        } else {
            made.entries.clear();
        }
    }

    fn made(&self) -> MutexGuard<'_, Book> {
        // Entries are replaced whole, so a panic in between leaves nothing half made.
        self.made.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A certificate whose key was made here.
    fn issued(&self, id: &SpiffeId, material: &tls::Material, by: &str) -> AuditEntry {
        let leaf = material.chain.first();
        let signer = self.signer.as_ref();
        AuditEntry {
            identity: id.to_string(),
            serial: leaf.map(tls::serial_of).unwrap_or_default(),
            by: by.to_owned(),
            detail: signer
                .map(|signer| format!("signed by {}", signer.name()))
                .unwrap_or_default(),
            expires_unix_ms: material.not_after,
            ..AuditEntry::new(self.wall.millis(), AuditEvent::CertificateIssued)
        }
    }
}

fn entry(material: &tls::Material, now: UnixMillis) -> Entry {
    let pems = material.to_pems();
    Entry {
        renew: now + material.not_after.saturating_sub(now) / 2,
        ends: material.not_after,
        certificate: xds::encode::secret::certificate(&pems.chain, &pems.key),
    }
}

#[cfg(test)]
mod tests {
    use crate::control::trust::CaOptions;
    use crate::rt::Wall;
    use crate::source::store::Store;

    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "shop", account)
    }

    #[test]
    fn who_was_refused_waits_longer_each_time_up_to_a_bound_and_alone() {
        let (cart, pay) = (id("cart"), id("pay"));
        let present = BTreeSet::from([cart.clone(), pay.clone()]);
        let (mut book, mut now) = (Book::default(), 1_000_000);
        book.wanted.insert(cart.clone());
        let waits = |away: bool| -> Vec<u64> {
            let most = if away { AWAY.1 } else { REFUSED.1 };
            let most = u64::try_from(most.as_millis()).unwrap();
            let doubling = std::iter::successors(Some(1_000_u64), |wait| Some(wait * 2));
            doubling.map(|wait| wait.min(most)).take(12).collect()
        };
        for away in [false, true, false] {
            // Another kind of failure begins anew.
            for wait in waits(away) {
                assert_eq!(book.turn(&present, now), std::slice::from_ref(&cart));
                book.refuse(&cart, away, now, 1.0);
                assert!(book.turn(&present, now + wait - 1).is_empty(), "{wait}");
                now += wait;
            }
        }
        // Half of a wait is chance, so that many refused at once do not come at once.
        book.forgive();
        book.refuse(&cart, false, now, 0.0);
        assert!(book.turn(&present, now + 499).is_empty());
        assert_eq!(book.turn(&present, now + 500), std::slice::from_ref(&cart));
        // Nobody else waits for it.
        book.refuse(&cart, false, now, 1.0);
        book.wanted.insert(pay.clone());
        assert_eq!(book.turn(&present, now), [pay]);
    }

    #[test]
    fn what_works_what_changes_and_who_leaves_end_the_waiting() {
        let cart = id("cart");
        let (present, nobody) = (BTreeSet::from([cart.clone()]), BTreeSet::new());
        let (mut book, now) = (Book::default(), 1_000_000);
        let refused = |book: &mut Book| {
            book.wanted.insert(cart.clone());
            for _ in 0..10 {
                book.refuse(&cart, false, now, 1.0);
            }
            assert!(book.turn(&present, now + 299_999).is_empty());
        };
        let certificate = |renew| Entry {
            renew,
            ends: now * 2,
            certificate: (String::new(), Vec::new()),
        };
        // It works: wanted no more until half of its life is over, and the first wait is short again.
        refused(&mut book);
        book.serve(&cart, certificate(now + 10));
        assert!(!book.want_due(now + 9));
        assert!(book.want_due(now + 10));
        assert_eq!(book.turn(&present, now + 10), std::slice::from_ref(&cart));
        book.refuse(&cart, false, now, 1.0);
        assert_eq!(
            book.turn(&present, now + 1_000),
            std::slice::from_ref(&cart)
        );
        // Configuration changes.
        refused(&mut book);
        book.forgive();
        assert_eq!(book.turn(&present, now), std::slice::from_ref(&cart));
        // Its proxies leave: neither asked for nor remembered, however long the signer refuses.
        refused(&mut book);
        assert!(book.turn(&nobody, now + 1_000).is_empty());
        book.wanted.insert(cart.clone());
        assert!(book.turn(&present, now + 2_000).is_empty());
        assert!(book.turn(&nobody, now + 300_000).is_empty());
        assert!(book.wanted.is_empty() && book.refused.is_empty());
    }

    #[test]
    fn an_envoy_keeps_its_certificate_until_half_of_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let wall = Wall::fixed(1_800_000_000_000);
        let trust = Trust::open(
            Store::memory(),
            dir.path(),
            "cluster.local",
            &CaOptions::default(),
            wall.clone(),
        )
        .unwrap();
        let id = SpiffeId::new("cluster.local", "shop", "cart");
        let first = trust.secrets(&id).unwrap();
        wall.advance(Duration::from_hours(1));
        assert_eq!(trust.secrets(&id).unwrap(), first);
        wall.advance(Duration::from_hours(12));
        assert_ne!(trust.secrets(&id).unwrap(), first);
    }
}
