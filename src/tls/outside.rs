//! Servers that are no peers of the mesh: when they are believed, and what is shown to them.
//!
//! Here names are DNS names and whatever else a policy names, checked as in Envoy, and the roots are
//! the policy's. Nothing of the mesh's own identities is trusted or shown.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::material::certificates;
use super::{Error, provider};
use crate::mesh::origination::{NameKind, NameMatch, Named};

/// Where systems keep the roots that they trust.
pub const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Who issues certificates that are believed.
#[derive(Clone)]
pub struct Anchors(Arc<Vec<TrustAnchor<'static>>>);

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({})", self.0.len())
    }
}

impl Anchors {
    /// Every certificate of a PEM text, which must all be readable.
    pub fn read(pem: &str) -> Result<Self, Error> {
        let anchors = certificates(pem)?
            .iter()
            .map(anchor)
            .collect::<Result<Vec<_>, _>>();
        anchors
            .map(|anchors| Self(Arc::new(anchors)))
            .map_err(|error| Error::Certificate {
                reason: error.to_string(),
            })
    }

    /// As [`Anchors::read`], leaving out what cannot be read: a machine's collection holds much.
    pub fn read_some(pem: &str) -> Result<Self, Error> {
        let anchors: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .filter_map(|certificate| anchor(&certificate.ok()?).ok())
            .collect();
        if anchors.is_empty() {
            return Err(Error::Pem {
                what: "no certificate".to_owned(),
            });
        }
        Ok(Self(Arc::new(anchors)))
    }
}

fn anchor(certificate: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, webpki::Error> {
    webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned())
}

/// Whom a server must prove to be.
#[derive(Debug)]
pub struct Believes {
    /// By whose word.
    pub anchors: Anchors,
    /// Lists of certificates that are revoked, as PEM. Where there are some, each issuer needs one.
    pub revoked: Option<String>,
    /// Whom its certificate must name.
    pub names: Named,
}

/// For a client outside the mesh that believes as it is told (`None`: anybody) and shows the
/// certificate of `shows`, chain and key as PEM.
pub fn outside_config(
    believes: Option<Believes>,
    shows: Option<(&str, &str)>,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>, Error> {
    let trust: Arc<dyn ServerCertVerifier> = match believes {
        Some(believes) => Arc::new(Outside::new(believes)?),
        None => Arc::new(Anybody(algorithms())),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(trust);
    let mut config = match shows {
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Error::Pem {
                what: "no private key".to_owned(),
            })?;
            config.with_client_auth_cert(certificates(chain)?, key)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Why a handshake with a server outside the mesh failed, in words.
pub fn explain_outside(error: &std::io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the server's certificate was not issued by a root that is trusted".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => {
            "the server's certificate has expired".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => {
            "the server's certificate has been revoked".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownRevocationStatus)) => {
            "no list of revocations says anything of the server's certificate".to_owned()
        }
        _ => super::explain(error),
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

/// The certificate names somebody else.
#[derive(Clone, thiserror::Error)]
#[error("the server's certificate is not for {0}")]
struct Misnamed(String);

/// rustls prints the reasons of others with `{:?}`.
impl fmt::Debug for Misnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Outside {
    anchors: Anchors,
    revoked: Vec<CertRevocationList<'static>>,
    names: Named,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside")
            .field("anchors", &self.anchors)
            .field("revoked", &self.revoked.len())
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Outside {
    fn new(believes: Believes) -> Result<Self, Error> {
        let revoked = believes.revoked.as_deref().map(revocations).transpose()?;
        Ok(Self {
            anchors: believes.anchors,
            revoked: revoked.unwrap_or_default(),
            names: believes.names,
            algorithms: algorithms(),
        })
    }

    fn chains(
        &self,
        cert: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // Fails only where there is no list, which is no check.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .build()
        });
        cert.verify_for_usage(
            self.algorithms.all,
            &self.anchors.0,
            intermediates,
            now,
            KeyUsage::server_auth(),
            revocation,
            None,
        )
        .map(|_| ())
    }

    fn is_named(&self, cert: &EndEntityCert<'_>, asked: &ServerName<'_>) -> Result<(), Misnamed> {
        match &self.names {
            Named::Asked => cert
                .verify_is_valid_for_subject_name(asked)
                .map_err(|_| Misnamed(asked.to_str().into_owned())),
            Named::Any(names) if names.is_empty() => Ok(()),
            Named::Any(names) if names.iter().any(|name| names_it(cert, name)) => Ok(()),
            Named::Any(names) => {
                let mut wanted: Vec<String> = names.iter().take(3).map(shown).collect();
                if names.len() > 3 {
                    wanted.push(format!("{} more", names.len() - 3));
                }
                Err(Misnamed(wanted.join(" or ")))
            }
        }
    }
}

fn shown(name: &NameMatch) -> String {
    match name {
        NameMatch::Exact(name) => name.clone(),
        NameMatch::Prefix(begin) => format!("{begin}..."),
    }
}

fn names_it(cert: &EndEntityCert<'_>, name: &NameMatch) -> bool {
    match (name.kind(), name) {
        (NameKind::Address(_) | NameKind::Dns, NameMatch::Exact(name)) => {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| cert.verify_is_valid_for_subject_name(&name).is_ok())
        }
        (_, NameMatch::Prefix(begin)) => {
            let mut all = cert.valid_dns_names().chain(cert.valid_uri_names());
            all.any(|found| found.starts_with(begin.as_str()))
        }
        (NameKind::Uri, NameMatch::Exact(name)) => {
            cert.valid_uri_names().any(|found| found == name)
        }
    }
}

fn revocations(pem: &str) -> Result<Vec<CertRevocationList<'static>>, Error> {
    let bad = |what: String| Error::Pem { what };
    let lists = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .map(|list| {
            let list = list.map_err(|error| bad(format!("not PEM: {error}")))?;
            OwnedCertRevocationList::from_der(&list)
                .map(CertRevocationList::from)
                .map_err(|error| bad(format!("a list of revocations cannot be read: {error}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if lists.is_empty() {
        return Err(bad("no list of revocations".to_owned()));
    }
    Ok(lists)
}

impl ServerCertVerifier for Outside {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let cert = EndEntityCert::try_from(end_entity).map_err(refused)?;
        self.chains(&cert, intermediates, now).map_err(refused)?;
        self.is_named(&cert, server_name).map_err(|misnamed| {
            let other = CertificateError::Other(OtherError(Arc::new(misnamed)));
            rustls::Error::InvalidCertificate(other)
        })?;
        Ok(ServerCertVerified::assertion())
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

fn refused(error: webpki::Error) -> rustls::Error {
    let certificate = match error {
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        other => return super::verify::refused_by_pki(other),
    };
    rustls::Error::InvalidCertificate(certificate)
}

/// Believes anybody, as it was told to (`insecureSkipVerify`); the server has the key of what it shows.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
