//! An authority that people bring along, in the layout of Istio's `cacerts`: a certificate below a root whose key
//! is kept elsewhere.
//!
//! Owns what makes a good one: the key is the certificate's, the chain leads to a root that is given, and what it
//! would issue is believed by the same verification that proxies use. So a mistake is found when it is put in
//! place, not in the next handshake.

use rustls_pki_types::CertificateDer;
use zeroize::Zeroize as _;

use super::issuer::{issuer_of, subject_of};
use super::material::certificates;
use super::sealed::{Passphrase, key_from_pem};
use super::{Authority, Error, control_plane_id};
use crate::rt::UnixMillis;

/// Certificates between the authority and its root at most.
const MOST_BETWEEN: usize = 8;

/// The texts of the four files.
#[derive(Clone, PartialEq, Eq)]
pub struct Plugged {
    /// `ca-cert.pem`: the certificate that signs.
    pub certificate: String,
    /// `ca-key.pem`: its key; secret.
    pub key: String,
    /// `cert-chain.pem`: what leads from it to a root, in any order; may name both ends too.
    pub chain: String,
    /// `root-cert.pem`: who is believed; several while roots are replaced.
    pub roots: String,
}

impl std::fmt::Debug for Plugged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plugged { .. }")
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Plugged {
    /// The authority that they make, when everything fits.
    pub fn authority(
        &self,
        trust_domain: &str,
        passphrase: Option<&Passphrase>,
        now: UnixMillis,
    ) -> Result<Authority, Error> {
        let of = |file: &str, error: Error| Error::Authority {
            reason: format!("{file}: {error}"),
        };
        let read = |file: &str, text: &str| certificates(text).map_err(|error| of(file, error));
        let own = read("ca-cert.pem", &self.certificate)?;
        let own = own.into_iter().next().ok_or_else(|| Error::Authority {
            reason: "ca-cert.pem: no certificate in it".to_owned(),
        })?;
        let roots = read("root-cert.pem", &self.roots)?;
        let between = match self.chain.trim() {
            "" => Vec::new(),
            _ => read("cert-chain.pem", &self.chain)?,
        };
        let (chain, root) = lead(own, &between, &roots)?;
        let others = roots.into_iter().filter(|other| *other != root).collect();
        let mut key =
            key_from_pem(&self.key, passphrase).map_err(|error| of("ca-key.pem", error))?;
        let authority = Authority::from_parts(trust_domain, chain, &key);
        key.zeroize();
        let authority = authority?.believing(others);
        // Path lengths, name constraints, dates and signatures: as whoever is shown a certificate of it judges.
        let id = control_plane_id(trust_domain);
        let tried = authority.issue_pair(&id, std::time::Duration::ZERO, now)?;
        tried.check(now).map_err(|error| Error::Authority {
            reason: format!("what it issues is not believed under root-cert.pem: {error}"),
        })?;
        Ok(authority)
    }
}

/// The chain from `own` to one of `roots`, by names, and that root.
fn lead(
    own: CertificateDer<'static>,
    between: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<(Vec<CertificateDer<'static>>, CertificateDer<'static>), Error> {
    let mut chain = vec![own];
    loop {
        let last = chain
            .last()
            .cloned()
            .unwrap_or_else(|| CertificateDer::from(Vec::new()));
        if roots.contains(&last) {
            return Ok((chain, last));
        }
        let issuer = issuer_of(&last);
        let above = |one: &&CertificateDer<'static>| {
            issuer.is_some() && subject_of(one) == issuer && !chain.contains(one)
        };
        // A root ends the chain, so it goes before a certificate of the same name that is not one.
        let next = roots
            .iter()
            .find(above)
            .or_else(|| between.iter().find(above));
        let Some(next) = next.filter(|_| chain.len() <= MOST_BETWEEN) else {
            return Err(Error::Authority {
                reason: "cert-chain.pem does not lead from ca-cert.pem to a certificate of root-cert.pem".to_owned(),
            });
        };
        chain.push(next.clone());
    }
}
