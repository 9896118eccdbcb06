//! Who is at the other end: chain, purpose and the one SPIFFE id; DNS names play no part.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{Error, config::Pin};
use crate::mesh::SpiffeId;

/// Why a certificate that chains to our root is refused all the same.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("certificate has {0} URI names; an identity has exactly one, a SPIFFE id")]
    NotOneName(usize),
    #[error("{0} is not of trust domain {1}")]
    ForeignDomain(SpiffeId, String),
    #[error("peer is {0}, expected {1}")]
    Principal(SpiffeId, String),
    #[error("the peer did not send the pinned root certificate")]
    PinMissing,
}

/// rustls prints the reasons of others with `{:?}`.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// The identity that a presented chain names; `None` without exactly one URI name that is a SPIFFE
/// id. Says nothing about validity: call it on chains that a handshake has verified.
pub fn peer_id(chain: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    name_of(chain.first()?).ok()
}

/// Whether the other end was refused for being somebody else than was expected, which it stays.
pub fn is_stranger(error: &std::io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Other(_) | CertificateError::UnknownIssuer
        ))
    )
}

/// Why a handshake failed, in words for a log or an access-log field: the reason of our own
/// verification without rustls' wrapping, otherwise rustls' text or the system's.
pub fn explain(error: &std::io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            other.0.to_string()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the peer's certificate was not issued by the mesh's root".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => {
            "the peer's certificate has expired".to_owned()
        }
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

/// The SPIFFE id in the only URI name of `leaf`.
pub(super) fn name_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    let cert = EndEntityCert::try_from(leaf).map_err(|error| Error::Certificate {
        reason: error.to_string(),
    })?;
    one_name(&cert).map_err(|_| Error::NoIdentity {
        found: cert.valid_uri_names().count(),
    })
}

fn one_name(cert: &EndEntityCert<'_>) -> Result<SpiffeId, Refusal> {
    let mut names = cert.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name.parse().map_err(|_| Refusal::NotOneName(1)),
        (None, _) => Err(Refusal::NotOneName(0)),
        (Some(_), Some(_)) => Err(Refusal::NotOneName(2 + names.count())),
    }
}

/// What a peer must prove. One struct for both directions, so that they cannot drift apart.
pub(super) struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    subjects: Vec<DistinguishedName>,
    domain: String,
    /// Acceptable servers; empty means any of the trust domain.
    principals: Vec<SpiffeId>,
    /// A server that also talks to clients that have no certificate yet.
    client_optional: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("trust_domain", &self.domain)
            .field("principals", &self.principals)
            .field("anchors", &self.anchors.len())
            .finish_non_exhaustive()
    }
}

impl Trust {
    pub(super) fn new(
        roots: &[CertificateDer<'_>],
        trust_domain: &str,
        principals: Vec<SpiffeId>,
    ) -> Result<Self, Error> {
        let anchors = roots
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::Certificate {
                reason: error.to_string(),
            })?;
        if anchors.is_empty() {
            return Err(Error::Pem {
                what: "no root certificate".to_owned(),
            });
        }
        Ok(Self {
            subjects: anchors
                .iter()
                .map(|anchor| DistinguishedName::in_sequence(anchor.subject.as_ref()))
                .collect(),
            anchors,
            domain: trust_domain.to_owned(),
            principals,
            client_optional: false,
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms,
        })
    }

    pub(super) fn with_optional_client(mut self) -> Self {
        self.client_optional = true;
        self
    }

    /// Chain, validity and purpose, then the name. A leaf that lists purposes must list this one; one
    /// that lists none is good for all (RFC 5280 4.2.1.12; SPIFFE X509-SVID leaves them optional).
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<SpiffeId, rustls::Error> {
        let cert = EndEntityCert::try_from(leaf).map_err(refused_by_pki)?;
        cert.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(refused_by_pki)?;
        let id = one_name(&cert)?;
        if self.principals.is_empty() {
            if id.trust_domain != self.domain {
                return Err(Refusal::ForeignDomain(id, self.domain.clone()).into());
            }
        } else if !self.principals.contains(&id) {
            let mut expected: Vec<String> = self
                .principals
                .iter()
                .take(3)
                .map(ToString::to_string)
                .collect();
            if self.principals.len() > 3 {
                expected.push(format!("{} more", self.principals.len() - 3));
            }
            return Err(Refusal::Principal(id, expected.join(" or ")).into());
        }
        Ok(id)
    }

    /// Whether `chain` is one that this mesh's servers and clients would accept at `now`.
    pub(super) fn accepts(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<SpiffeId, rustls::Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.check(leaf, intermediates, now, KeyUsage::server_auth())?;
        self.check(leaf, intermediates, now, KeyUsage::client_auth())
    }
}

/// Keeps the reasons that have an alert of their own; the rest is told in words.
fn refused_by_pki(error: webpki::Error) -> rustls::Error {
    let certificate = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    rustls::Error::InvalidCertificate(certificate)
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now, KeyUsage::server_auth())
            .map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.client_optional
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now, KeyUsage::client_auth())
            .map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// First contact: the root is known by fingerprint (or file), the server must be `principal`.
#[derive(Debug)]
pub(super) struct Pinned {
    pin: Pin,
    principal: SpiffeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    pub(super) fn new(pin: Pin, principal: SpiffeId) -> Self {
        Self {
            pin,
            principal,
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms,
        }
    }

    fn trust(&self, sent: &[CertificateDer<'_>]) -> Result<Trust, rustls::Error> {
        let pinned: Vec<CertificateDer<'_>> = match &self.pin {
            Pin::Roots(roots) => roots.clone(),
            Pin::Fingerprint(expected) => sent
                .iter()
                .filter(|cert| super::sha256(cert) == *expected)
                .cloned()
                .collect(),
        };
        if pinned.is_empty() {
            return Err(Refusal::PinMissing.into());
        }
        Trust::new(
            &pinned,
            &self.principal.trust_domain,
            vec![self.principal.clone()],
        )
        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.trust(intermediates)?
            .check(end_entity, intermediates, now, KeyUsage::server_auth())
            .map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_for_a_certificate_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            prop_assert_eq!(peer_id(&[CertificateDer::from(bytes)]), None);
        }
    }
}
