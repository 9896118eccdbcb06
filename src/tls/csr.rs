//! The asking side of a certificate: a key that never leaves this machine, and a request for it.

use std::fmt;
use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::kept::Pair;
use super::material::certificates;
use super::{Error, Material, sha256};
use crate::mesh::SpiffeId;

/// A new ECDSA P-256 key and the request to certify it.
pub struct Request {
    key: Pair,
    pem: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Request { .. }")
    }
}

impl Request {
    /// A request that asks for `id`; ours ignores the wish, other authorities may want to see it.
    pub fn new(id: &SpiffeId) -> Result<Self, Error> {
        Self::named(id, &[], &[])
    }

    /// The same with names beside the id.
    pub fn named(id: &SpiffeId, dns: &[String], ips: &[IpAddr]) -> Result<Self, Error> {
        let wrong = |error: rcgen::Error| Error::Request {
            reason: error.to_string(),
        };
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(wrong)?)];
        for name in dns {
            let name = name.as_str().try_into().map_err(wrong)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let ips = ips.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(ips);
        let pem = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(wrong)?;
        Ok(Self {
            key: key.into(),
            pem,
        })
    }

    /// The request, PKCS #10 in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the public key: the same for every repetition of this request.
    pub fn key_sha256(&self) -> [u8; 32] {
        sha256(self.key.der_bytes())
    }

    /// Joins the key with the authority's answer (leaf first, root last). The answer's last element
    /// is the root; `known` are roots that stay trusted beside it.
    pub fn material(
        &self,
        chain_pem: &[String],
        known: &[CertificateDer<'static>],
    ) -> Result<Material, Error> {
        let mut chain = Vec::new();
        // An element may hold several blocks; the count below bounds them.
        for element in chain_pem {
            chain.extend(certificates(element)?);
        }
        if chain.len() < 2 || chain.len() > 10 {
            return Err(Error::Pem {
                what: format!("an answer of {} certificates", chain.len()),
            });
        }
        let mut roots: Vec<_> = chain.pop().into_iter().collect();
        roots.extend(
            known
                .iter()
                .filter(|root| !roots.contains(root))
                .cloned()
                .collect::<Vec<_>>(),
        );
        self.with(chain, roots)
    }

    /// Joins the key with a chain, the leaf first, and the roots that are believed.
    pub fn with(
        &self,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Material, Error> {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        Material::new(chain, key, roots)
    }
}
