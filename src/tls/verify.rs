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
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::verified::{Verified, fingerprint};
use super::{Error, Revoked, config::Pin};
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
        Some(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => {
            "the peer's certificate has been revoked".to_owned()
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
    revoked: Vec<CertRevocationList<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Chains of clients that were found good under all of the above.
    clients: Verified,
    /// The same of servers.
    servers: Verified,
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
            revoked: Vec::new(),
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms,
            clients: Verified::default(),
            servers: Verified::default(),
        })
    }

    /// The same, and what is revoked is refused.
    pub(super) fn revoking(mut self, revoked: &Revoked) -> Result<Self, Error> {
        self.revoked = revoked.parsed()?;
        Ok(self)
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
        let lists: Vec<_> = self.revoked.iter().collect();
        // A list stays in force until the next one comes: its end says nothing.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        cert.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            intermediates,
            now,
            usage,
            revocation,
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

    /// As [`Self::check`], but for chains that are known to be good.
    fn admit(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        (usage, verified): (KeyUsage, &Verified),
    ) -> Result<(), rustls::Error> {
        let chain = fingerprint(leaf, intermediates);
        if verified.holds(&chain, now) {
            return Ok(());
        }
        self.check(leaf, intermediates, now, usage)?;
        verified.add(chain, leaf, intermediates, now);
        Ok(())
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
pub(super) fn refused_by_pki(error: webpki::Error) -> rustls::Error {
    let certificate = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::CertRevoked => CertificateError::Revoked,
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
        let server = (KeyUsage::server_auth(), &self.servers);
        self.admit(end_entity, intermediates, now, server)
            .map(|()| ServerCertVerified::assertion())
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
        let client = (KeyUsage::client_auth(), &self.clients);
        self.admit(end_entity, intermediates, now, client)
            .map(|()| ClientCertVerified::assertion())
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

/// First contact: the root is known by fingerprint (or file), the server must be `principal`; without one, the
/// control plane of the trust domain that its certificate names, which the pinned root vouches for.
#[derive(Debug)]
pub(super) struct Pinned {
    pin: Pin,
    principal: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    pub(super) fn new(pin: Pin, principal: SpiffeId) -> Self {
        Self::of(pin, Some(principal))
    }

    pub(super) fn control_plane(pin: Pin) -> Self {
        Self::of(pin, None)
    }

    fn of(pin: Pin, principal: Option<SpiffeId>) -> Self {
        Self {
            pin,
            principal,
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms,
        }
    }

    fn trust(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
    ) -> Result<Trust, rustls::Error> {
        let principal = match &self.principal {
            Some(principal) => principal.clone(),
            None => name_of(leaf)
                .map(|id| super::control_plane_id(&id.trust_domain))
                .map_err(|_| Refusal::NotOneName(0))?,
        };
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
        let domain = principal.trust_domain.clone();
        Trust::new(&pinned, &domain, vec![principal])
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
        self.trust(end_entity, intermediates)?
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
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::issuer::Authority;
    use super::*;

    /// In seconds; certificates begin two minutes before they are asked for.
    const NOW: u64 = 1_800_000_000;

    /// A mesh's root, what trusts it, and the chain of a workload for an hour from [`NOW`].
    fn mesh() -> (Authority, Trust, Vec<CertificateDer<'static>>) {
        let ca = Authority::generate("cluster.local", NOW * 1000).unwrap();
        let trust = Trust::new(&[ca.root().clone()], "cluster.local", Vec::new()).unwrap();
        let cart = SpiffeId::new("cluster.local", "shop", "cart");
        let hour = Duration::from_hours(1);
        let chain = ca.issue_pair(&cart, hour, NOW * 1000).unwrap().chain;
        (ca, trust, chain)
    }

    fn as_client(trust: &Trust, chain: &[CertificateDer<'_>], at: u64) -> bool {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        trust
            .verify_client_cert(&chain[0], &chain[1..], now)
            .is_ok()
    }

    #[test]
    fn a_known_chain_is_good_as_long_as_an_unknown_one() {
        let (ca, known, chain) = mesh();
        assert!(as_client(&known, &chain, NOW));
        let name = fingerprint(&chain[0], &chain[1..]);
        for at in [
            0,
            NOW - 121,
            NOW - 120,
            NOW + 3600,
            NOW + 3601,
            u64::MAX / 2,
        ] {
            let fresh = Trust::new(&[ca.root().clone()], "cluster.local", Vec::new()).unwrap();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
            let good = as_client(&fresh, &chain, at);
            assert_eq!(known.clients.holds(&name, now), good, "at {at}");
            assert_eq!(as_client(&known, &chain, at), good, "at {at}");
        }
    }

    #[test]
    fn what_is_known_is_known_of_the_whole_chain_and_of_one_purpose() {
        let (_ca, trust, chain) = mesh();
        assert!(as_client(&trust, &chain, NOW));
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let name = fingerprint(&chain[0], &chain[1..]);
        assert!(trust.clients.holds(&name, now));
        assert!(!trust.servers.holds(&name, now));
        // The signature is the last part of a certificate.
        let mut forged = chain[0].to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(!as_client(&trust, &[forged.into()], NOW));
        let (_other_ca, other_trust, other) = mesh();
        assert!(!as_client(&trust, &other, NOW));
        assert!(!as_client(&other_trust, &chain, NOW));
        // What was refused is not known the next time.
        assert!(!as_client(&trust, &other, NOW));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (_ca, _trust, chain) = mesh();
        let known = Verified::default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        for number in 0..10_000_u32 {
            let mut name = [0; 32];
            name[..4].copy_from_slice(&number.to_be_bytes());
            known.add(name, &chain[0], &[], now);
            assert!(known.holds(&name, now));
            assert!(known.len() <= 4096);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_for_a_certificate_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            prop_assert_eq!(peer_id(&[CertificateDer::from(bytes)]), None);
        }
    }
}
