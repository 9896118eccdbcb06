//! Certificates with keys that are made here: for programs that cannot ask for themselves, and for Envoys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::identity::{AuditEntry, AuditEvent, IdentityReport, IdentityRequest};
use crate::api::{Problem, Reason};
use crate::control::signer::{Issuer, SignError, Signer};
use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;
use crate::{tls, xds};

use super::{Secrets, Trust};

/// Identities that wait for the signer at most; the others ask again with the next push.
const MOST_WANTED: usize = 1_024;
/// Of those, asked for in one go.
const MOST_IN_TURN: usize = 16;

/// Certificates that were made for Envoys: a new one for every question would be a rotation with every push.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    entries: BTreeMap<SpiffeId, Entry>,
    /// The signer is to be asked for these.
    wanted: BTreeSet<SpiffeId>,
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
        let material = self.issuer().pair(&id, lifetime).await.map_err(|error| {
            let hint = match error {
                SignError::Own(_) => "look at the log of the control plane",
                _ => "see `meshctl check`: certificates that are in use stay good meanwhile",
            };
            Problem::new(Reason::Internal, error.to_string()).hint(hint)
        })?;
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

    /// Asks the signer for what Envoys wait for. Whether they are to be told of something.
    pub async fn sign_wanted(self: &Arc<Self>) -> bool {
        let now = self.wall.millis();
        let wanted: Vec<SpiffeId> = {
            let mut made = self.made();
            std::mem::take(&mut made.wanted).into_iter().collect()
        };
        let due = self.made().entries.values().any(|entry| entry.renew <= now);
        let some = !wanted.is_empty();
        for few in wanted.chunks(MOST_IN_TURN) {
            let asking = few.iter().map(|id| self.sign_for_envoy(id));
            futures_util::future::join_all(asking).await;
        }
        // Who got nothing asks again by that.
        some || due
    }

    async fn sign_for_envoy(self: &Arc<Self>, id: &SpiffeId) {
        let made = self.issuer().pair(id, tls::issuer::DEFAULT_LIFETIME).await;
        let Ok(material) = made else {
            // It is in the log.
            return;
        };
        let issued = self.issued(id, &material, &id.to_string());
        if let Err(error) = self.append(vec![issued]).await {
            tracing::error!(%error, "cannot write the audit log");
            return;
        }
        let entry = entry(&material, self.wall.millis());
        self.made().entries.insert(id.clone(), entry);
    }

    /// Other roots are believed now: everything is made anew, and where a signer has to be asked the old stays until
    /// it has answered.
    pub(super) fn forget_made(&self) {
        let mut made = self.made();
        match self.signer {
            None => made.entries.clear(),
            Some(_) => made.entries.values_mut().for_each(|entry| entry.renew = 0),
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
