//! The server's side of TLS with certificates that are not the mesh's, for callers from outside.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use x509_parser::extensions::GeneralName;

use super::material::certificates;
use super::staple::Stapled;
use super::tickets::{LONGEST, ShortTickets};
use super::{Error, hex, provider, sha256};
use crate::mesh::credential::{CIPHER_SUITES, ClientTrust, NameKind, TlsVersion};
use crate::mesh::{OwnTls, Secret};
use crate::rt::Wall;

/// What [`CIPHER_SUITES`] are on the wire.
const SUITES: [CipherSuite; CIPHER_SUITES.len()] = [
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The server's side for callers from outside.
#[derive(Debug)]
pub struct OwnServer {
    /// What handshakes are made with.
    pub config: Arc<ServerConfig>,
    /// Whom callers are held against, where they are asked for a certificate.
    callers: Option<Arc<Callers>>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl OwnServer {
    /// What of a caller's `chain` may be believed after a handshake: all, or nothing.
    ///
    /// Where bad certificates are let in, a handshake says nothing of one, and neither does a session
    /// that was resumed, so it is held against the roots here.
    pub fn verified<'c>(
        &self,
        chain: &'c [CertificateDer<'c>],
        wall: &Wall,
    ) -> &'c [CertificateDer<'c>] {
        match &self.callers {
            Some(callers) if callers.trust.unverified && !callers.believes(chain, wall) => &[],
            _ => chain,
        }
    }

    /// Whether a caller who has shown `chain` (nothing, where it is empty) would be let in. Where bad
    /// certificates are, `good` says whether this one was believed, which it must be still.
    pub fn admits(&self, (chain, good): (&[CertificateDer<'_>], bool), wall: &Wall) -> bool {
        let Some(callers) = &self.callers else {
            return true;
        };
        let trust = &callers.trust;
        if chain.is_empty() {
            return trust.optional;
        }
        (trust.unverified && !good) || callers.believes(chain, wall)
    }

    /// Whether this version and suite, by their numbers on the wire, may be agreed on.
    pub fn speaks(&self, version: u16, suite: u16) -> bool {
        let mut versions = self.versions.iter();
        let mut suites = self.config.crypto_provider().cipher_suites.iter();
        versions.any(|known| u16::from(known.version) == version)
            && suites.any(|known| u16::from(known.suite()) == suite)
    }
}

/// What a listener shows and asks for as `own` says, with the texts that `secret` finds by name. One
/// that is missing is an error: there is nothing to fall back to.
pub fn own_server_config(
    own: &OwnTls,
    alpn: &[String],
    secret: impl Fn(&str) -> Option<Arc<Secret>>,
) -> Result<OwnServer, Error> {
    let provider = limited(own)?;
    let mut keys = Vec::with_capacity(own.certificates.len());
    for source in &own.certificates {
        let name = source.name();
        match secret(&name).as_deref() {
            Some(Secret::Certificate { chain, key, staple }) => {
                let mut named = Named::new(&name, chain, key, &provider)?;
                named.stapled = Stapled::new(&name, &named.key, staple, own.stapling)?;
                keys.push(named);
            }
            _ => return Err(absent(&name)),
        }
    }
    let versions = versions(own);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)?;
    let mut asked = None;
    let builder = match &own.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let name = clients.roots.name();
            match secret(&name).as_deref() {
                Some(Secret::Roots { certificates, crl }) => {
                    let callers = Arc::new(Callers::new(clients, certificates, crl, &provider)?);
                    asked = Some(Arc::clone(&callers));
                    builder.with_client_cert_verifier(callers)
                }
                _ => return Err(absent(&name)),
            }
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown {
        keys,
        wall: Wall::System,
    }));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.ignore_client_order = true;
    config.ticketer = Arc::new(ShortTickets::new(LONGEST, Wall::System)?);
    config.send_tls13_tickets = 1;
    Ok(OwnServer {
        config: Arc::new(config),
        callers: asked,
        versions,
    })
}

fn absent(name: &str) -> Error {
    Error::Pem {
        what: format!("there is no credential {name}"),
    }
}

/// The provider with what may be spoken.
fn limited(own: &OwnTls) -> Result<Arc<CryptoProvider>, Error> {
    if own.cipher_suites.is_empty() {
        return Ok(provider());
    }
    let asked: Vec<CipherSuite> = own
        .cipher_suites
        .iter()
        .filter_map(|name| {
            let at = CIPHER_SUITES.iter().position(|known| known == name)?;
            SUITES.get(at).copied()
        })
        .collect();
    if asked.is_empty() {
        return Err(Error::Pem {
            what: "none of the cipher suites is known".to_owned(),
        });
    }
    let mut provider = CryptoProvider::clone(&provider());
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || asked.contains(&suite.suite()));
    Ok(Arc::new(provider))
}

fn versions(own: &OwnTls) -> Vec<&'static SupportedProtocolVersion> {
    let within =
        |version| own.min_version <= version && own.max_version.is_none_or(|max| version <= max);
    [
        (TlsVersion::V13, &rustls::version::TLS13),
        (TlsVersion::V12, &rustls::version::TLS12),
    ]
    .into_iter()
    .filter(|(version, _)| within(*version))
    .map(|(_, version)| version)
    .collect()
}

/// A certificate with its key and the names that it is for.
#[derive(Debug)]
struct Named {
    key: Arc<CertifiedKey>,
    /// Lower case; `*.suffix` stands for one label.
    names: Vec<String>,
    stapled: Stapled,
}

impl Named {
    fn new(name: &str, chain: &str, key: &str, provider: &CryptoProvider) -> Result<Self, Error> {
        let within = |error: Error| Error::Pem {
            what: format!("{name}: {error}"),
        };
        let chain = certificates(chain).map_err(within)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Error::Pem {
            what: format!("{name}: no private key"),
        })?;
        let names = chain.first().map(dns_names).unwrap_or_default();
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| Error::Pem {
            what: format!("{name}: {error}"),
        })?;
        Ok(Self {
            key: Arc::new(key),
            names,
            stapled: Stapled::default(),
        })
    }

    fn is_for(&self, wanted: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix('*') {
            Some(suffix) => wanted
                .strip_suffix(suffix)
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            None => name == wanted,
        })
    }
}

fn dns_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    names(leaf)
        .into_iter()
        .filter(|(kind, _)| *kind == NameKind::Dns)
        .map(|(_, name)| name.to_ascii_lowercase())
        .collect()
}

/// Every name in a certificate, with its kind.
fn names(leaf: &CertificateDer<'_>) -> Vec<(NameKind, String)> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let named = names.value.general_names.iter();
    named
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((NameKind::Dns, (*name).to_owned())),
            GeneralName::URI(name) => Some((NameKind::Uri, (*name).to_owned())),
            GeneralName::RFC822Name(name) => Some((NameKind::Email, (*name).to_owned())),
            GeneralName::IPAddress(bytes) => Some((NameKind::Address, address(bytes)?)),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
    four.or_else(|_| sixteen()).ok().map(|ip| ip.to_string())
}

/// Which certificate a caller is shown.
#[derive(Debug)]
struct Shown {
    keys: Vec<Named>,
    wall: Wall,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let now = self.wall.millis();
        let usable = |named: &&Named| {
            named.key.key.choose_scheme(schemes).is_some() && named.stapled.may_be_shown(now)
        };
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let fits = |named: &&Named| asked.as_deref().is_some_and(|name| named.is_for(name));
        let keys = &self.keys;
        // The last resort fails in the handshake, which tells the caller why.
        let anything = || {
            let shown = keys.first();
            shown.filter(|named| named.stapled.may_be_shown(now))
        };
        keys.iter()
            .filter(usable)
            .find(fits)
            .or_else(|| keys.iter().find(usable))
            .or_else(anything)
            .map(|named| named.stapled.key(now).unwrap_or(&named.key))
            .map(Arc::clone)
    }
}

/// Why a caller's certificate is refused though its chain is good.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the caller's certificate has none of the names that are let in")]
    Name,
    #[error("the caller's certificate is none of those that are let in")]
    Hash,
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

/// Holds callers against roots, and then against names and hashes.
#[derive(Debug)]
struct Callers {
    chains: Arc<dyn ClientCertVerifier>,
    trust: ClientTrust,
}

impl Callers {
    fn new(
        trust: &ClientTrust,
        roots: &str,
        crl: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for root in certificates(roots)? {
            store.add(root).map_err(|error| Error::Certificate {
                reason: error.to_string(),
            })?;
        }
        let mut lists = Vec::new();
        if !crl.is_empty() {
            for list in CertificateRevocationListDer::pem_slice_iter(crl.as_bytes()) {
                lists.push(list.map_err(|error| Error::Pem {
                    what: format!("the revocation list is not PEM: {error}"),
                })?);
            }
        }
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .with_crls(lists);
        if trust.optional {
            builder = builder.allow_unauthenticated();
        }
        let chains = builder.build().map_err(|error| Error::Pem {
            what: format!("the roots of callers cannot be used: {error}"),
        })?;
        Ok(Self {
            chains,
            trust: trust.clone(),
        })
    }

    /// Whether `chain` stands the test now.
    fn believes(&self, chain: &[CertificateDer<'_>], wall: &Wall) -> bool {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall.millis()));
        let judged = chain.split_first();
        judged.is_some_and(|(leaf, rest)| self.judge(leaf, rest, now).is_ok())
    }

    /// Holds a certificate against the roots, and against names and hashes.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chains.verify_client_cert(leaf, intermediates, now)?;
        self.lets_in(leaf)?;
        Ok(verified)
    }

    fn lets_in(&self, leaf: &CertificateDer<'_>) -> Result<(), Refusal> {
        let trust = &self.trust;
        if !trust.names.is_empty() {
            let carried = names(leaf);
            let one = trust.names.iter().any(|wanted| {
                let kind = NameKind::of(wanted);
                carried.iter().any(|(of, name)| {
                    *of == kind
                        && match kind {
                            NameKind::Dns => name.eq_ignore_ascii_case(wanted),
                            _ => name == wanted,
                        }
                })
            });
            if !one {
                return Err(Refusal::Name);
            }
        }
        if !trust.certificate_hashes.is_empty() {
            let hash = hex(&sha256(leaf));
            let same = |wanted: &String| wanted.replace(':', "").eq_ignore_ascii_case(&hash);
            if !trust.certificate_hashes.iter().any(same) {
                return Err(Refusal::Hash);
            }
        }
        if !trust.key_hashes.is_empty() {
            let (_, parsed) =
                x509_parser::parse_x509_certificate(leaf).map_err(|_| Refusal::Hash)?;
            let hash =
                base64::engine::general_purpose::STANDARD.encode(sha256(parsed.public_key().raw));
            if !trust.key_hashes.contains(&hash) {
                return Err(Refusal::Hash);
            }
        }
        Ok(())
    }
}

impl ClientCertVerifier for Callers {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // That the caller has the key is checked all the same, so a certificate that is found good
        // afterwards is the caller's own.
        if self.trust.unverified {
            return Ok(ClientCertVerified::assertion());
        }
        self.judge(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
