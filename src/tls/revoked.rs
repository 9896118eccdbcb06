//! Certificates that are believed no more though their time is not over.

use std::collections::BTreeSet;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use super::Error;

/// Revocation lists, one for each root that is believed; none where nothing was ever revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    lists: Vec<CertificateRevocationListDer<'static>>,
}

impl Revoked {
    /// From PEM, where nothing else than lists counts.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let lists = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::Pem {
                what: format!("the revocation list is not PEM: {error}"),
            })?;
        let revoked = Self { lists };
        revoked.parsed()?;
        Ok(revoked)
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        let lists = self.lists.iter();
        lists
            .map(|list| super::material::pem_block("X509 CRL", list))
            .collect()
    }

    /// One more list, as DER.
    pub(super) fn push(&mut self, list: Vec<u8>) {
        self.lists.push(list.into());
    }

    /// Whether there are no lists.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// For verification.
    pub(super) fn parsed(&self) -> Result<Vec<CertRevocationList<'static>>, Error> {
        self.lists
            .iter()
            .map(|list| OwnedCertRevocationList::from_der(list).map(Into::into))
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Certificate {
                reason: format!("the revocation list cannot be read: {error}"),
            })
    }

    /// The [`key_of`] each certificate that is revoked.
    pub fn keys(&self) -> BTreeSet<u64> {
        let parsed = self
            .lists
            .iter()
            .filter_map(|list| x509_parser::parse_x509_crl(list).ok());
        parsed
            .flat_map(|(_, list)| {
                let serials = list.iter_revoked_certificates();
                serials
                    .map(|one| tail(one.raw_serial()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

/// What a certificate of the mesh is looked up by: the last 64 bits of its serial number, which the
/// authority draws at random. 0 for what is no certificate.
pub fn key_of(certificate: &CertificateDer<'_>) -> u64 {
    EndEntityCert::try_from(certificate).map_or(0, |certificate| tail(certificate.serial()))
}

fn tail(serial: &[u8]) -> u64 {
    let start = serial.len().saturating_sub(8);
    let last = serial.get(start..).unwrap_or_default();
    last.iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
}
