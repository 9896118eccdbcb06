//! Proofs that a certificate is not revoked, which its server shows along with it.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::sign::CertifiedKey;

use super::Error;
use crate::mesh::credential::Stapling;
use crate::mesh::ocsp::{NameHash, Staple, Unusable, leaf_names};
use crate::rt::UnixMillis;

/// What of proofs there is for a certificate, and whether it may be shown without.
#[derive(Debug, Default)]
pub(super) struct Stapled {
    /// The certificate with its proof, and how long that holds.
    with: Option<(Arc<CertifiedKey>, Staple)>,
    /// Nothing else is shown.
    only: bool,
}

impl Stapled {
    /// Holds `response` (empty: none) against the leaf of `key`. One that cannot be used is an error where
    /// the certificate is not shown without, and else left out with a word in the log.
    pub(super) fn new(
        name: &str,
        key: &CertifiedKey,
        response: &[u8],
        policy: Stapling,
    ) -> Result<Self, Error> {
        let leaf = key.cert.first().map_or(&[][..], |leaf| leaf.as_ref());
        let must = policy == Stapling::Must || wants_staple(leaf);
        let only = must || (policy == Stapling::Strict && !response.is_empty());
        let refused = |reason: &str| Error::Pem {
            what: format!("{name}: no OCSP response to show with it: {reason}"),
        };
        if response.is_empty() {
            return if must {
                Err(refused("there is none, and one must be"))
            } else {
                Ok(Self::default())
            };
        }
        match checked(response, leaf) {
            Ok(staple) => {
                let stapled = CertifiedKey {
                    cert: key.cert.clone(),
                    key: Arc::clone(&key.key),
                    ocsp: Some(response.to_vec()),
                };
                Ok(Self {
                    with: Some((Arc::new(stapled), staple)),
                    only,
                })
            }
            Err(reason) if only => Err(refused(&reason.to_string())),
            Err(reason) => {
                tracing::warn!(name, %reason, "an OCSP response is left out");
                Ok(Self::default())
            }
        }
    }

    /// Whether the certificate may be shown at a time.
    pub(super) fn may_be_shown(&self, now: UnixMillis) -> bool {
        !self.only || self.key(now).is_some()
    }

    /// The certificate with a proof that holds at a time.
    pub(super) fn key(&self, now: UnixMillis) -> Option<&Arc<CertifiedKey>> {
        let (key, staple) = self.with.as_ref()?;
        staple.holds(now).then_some(key)
    }
}

fn checked(response: &[u8], leaf: &[u8]) -> Result<Staple, Unusable> {
    let staple = Staple::for_certificate(response, leaf)?;
    let algorithm = match staple.hash {
        NameHash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        NameHash::Sha256 => &digest::SHA256,
        NameHash::Other => return Ok(staple),
    };
    let issuer = leaf_names(leaf).map_or(&[][..], |names| names.issuer);
    if digest::digest(algorithm, issuer).as_ref() == staple.issuer {
        Ok(staple)
    } else {
        Err(Unusable::OtherCertificate)
    }
}

/// Whether a certificate says that it must not be believed without a proof (RFC 7633).
fn wants_staple(leaf: &[u8]) -> bool {
    /// `id-pe-tlsfeature`, and `status_request` within.
    const FEATURE: &str = "1.3.6.1.5.5.7.1.24";
    const STATUS_REQUEST: [u8; 3] = [0x02, 0x01, 0x05];
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else {
        return false;
    };
    parsed.extensions().iter().any(|extension| {
        extension.oid.to_id_string() == FEATURE
            && extension
                .value
                .windows(STATUS_REQUEST.len())
                .any(|part| part == STATUS_REQUEST)
    })
}
