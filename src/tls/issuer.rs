//! The certificate authority: a root key that turns proven names into short-lived certificates.
//!
//! Owns what goes into a certificate. Where the root is kept and who has proven which name is the
//! caller's business; so is time.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use super::kept::Pair;
use super::material::{certificate_pem, certificates, validity};
use super::sealed::{self, Passphrase};
use super::{Error, Material, Revoked, control_plane_id, fingerprint, hex, sha256};
use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;

mod request;
mod serial;

pub use request::{request_key, request_names};

use request::read_request;
use serial::{serial, unhex};

/// Life of a certificate when nobody asks for another (Istio: `DEFAULT_WORKLOAD_CERT_TTL`).
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
/// The longest life that is issued (Istio: `MAX_WORKLOAD_CERT_TTL`).
pub const LONGEST_LIFETIME: Duration = Duration::from_hours(90 * 24);
/// How far back a certificate is dated, for peers whose clock is behind (Istio: 2 min).
pub const CLOCK_SKEW: Duration = Duration::from_mins(2);
/// Life of a root that is generated (Istio: `CITADEL_SELF_SIGNED_CA_CERT_TTL`).
const ROOT_LIFETIME: Duration = Duration::from_hours(3650 * 24);

/// A key that the mesh trusts to name workloads.
pub struct Authority {
    trust_domain: String,
    /// None where the key is an outside signer's.
    issuer: Option<Issuer<'static, Pair>>,
    /// The issuing certificate first, the root last; the same one when self-signed.
    chain: Vec<CertificateDer<'static>>,
    /// Believed beside its own root, while one replaces the other.
    others: Vec<CertificateDer<'static>>,
    revoked: Revoked,
    not_after: UnixMillis,
}

/// A certificate for a key that the caller keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM blocks: leaf first, then intermediates, the root last.
    pub chain_pem: Vec<String>,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// End of validity, milliseconds since the epoch, whole seconds.
    pub not_after: UnixMillis,
}

/// What kind of key an authority that is made signs with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256: small, quick, understood everywhere.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// RSA of 2048 bits, for programs that know nothing else.
    Rsa2048,
    /// RSA of 4096 bits.
    Rsa4096,
    /// Ed25519, which browsers and some TLS libraries do not take.
    Ed25519,
}

impl KeyType {
    /// All of them, as they are written.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("ecdsa-p256", Self::EcdsaP256),
        ("ecdsa-p384", Self::EcdsaP384),
        ("rsa2048", Self::Rsa2048),
        ("rsa4096", Self::Rsa4096),
        ("ed25519", Self::Ed25519),
    ];

    fn generate(self) -> Result<KeyPair, Error> {
        let made = match self {
            Self::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            }
            Self::Rsa4096 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_4096)
            }
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        };
        made.map_err(|error| refused(error.to_string()))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("root", &self.root_fingerprint())
            .finish_non_exhaustive()
    }
}

/// What a certificate is for.
struct Leaf<'a> {
    id: &'a SpiffeId,
    dns: &'a [&'a str],
    ips: &'a [IpAddr],
    lifetime: Duration,
}

impl Authority {
    /// A new self-signed root: ECDSA P-256, ten years, no intermediates below it.
    pub fn generate(trust_domain: &str, now: UnixMillis) -> Result<Self, Error> {
        Self::generate_with(trust_domain, KeyType::default(), now)
    }

    /// The same with another kind of key.
    pub fn generate_with(
        trust_domain: &str,
        kind: KeyType,
        now: UnixMillis,
    ) -> Result<Self, Error> {
        // The trust domain becomes part of every name, so it must fit into one.
        let _checked: SpiffeId = control_plane_id(trust_domain)
            .to_string()
            .parse()
            .map_err(|_| refused(format!("{trust_domain:?} is not a trust domain")))?;
        let key = kind.generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain);
        // Two roots of one trust domain must not share a name, or chains are built in vain.
        let tag = sha256(key.der_bytes());
        params.distinguished_name.push(
            DnType::CommonName,
            format!("meshctl root {}", hex(tag.get(..4).unwrap_or_default())),
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        let (begin, end) = (
            now.saturating_sub(millis(CLOCK_SKEW)),
            now.saturating_add(millis(ROOT_LIFETIME)),
        );
        date(&mut params, begin, end)?;
        let root = params
            .self_signed(&key)
            .map_err(|error| refused(error.to_string()))?;
        let (_, not_after) = validity(root.der())?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            chain: vec![root.der().clone()],
            others: Vec::new(),
            revoked: Revoked::default(),
            issuer: Some(Issuer::new(params, key.into())),
            not_after,
        })
    }

    /// An authority from PEM: its certificate (followed by intermediates up to the root, when it is
    /// not self-signed) and its key in PKCS #8. Also takes a root that people bring along.
    pub fn from_pem(trust_domain: &str, cert: &str, key: &str) -> Result<Self, Error> {
        Self::from_sealed_pem(trust_domain, cert, key, None)
    }

    /// The same with a key that may be under a passphrase.
    pub fn from_sealed_pem(
        trust_domain: &str,
        cert: &str,
        key: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, Error> {
        let mut key = sealed::key_from_pem(key, passphrase)?;
        let made = Self::from_parts(trust_domain, certificates(cert)?, &key);
        key.zeroize();
        made
    }

    /// An authority whose chain begins with its own certificate and ends with a root.
    pub(super) fn from_parts(
        trust_domain: &str,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, Error> {
        let issuing = chain
            .first()
            .ok_or_else(|| refused("no certificate".to_owned()))?;
        let key = KeyPair::try_from(key).map_err(|_| Error::Pem {
            what: "the authority's private key cannot be read: ECDSA on P-256, P-384 or P-521, RSA of 2048 to 8192 bits and Ed25519 can".to_owned(),
        })?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(issuing).map_err(|error| Error::Certificate {
                reason: error.to_string(),
            })?;
        if !parsed.is_ca() {
            return Err(refused("it is not a CA certificate".to_owned()));
        }
        let may_sign = parsed.key_usage().ok().flatten();
        if may_sign.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(refused(
                "its key usage does not allow it to sign certificates".to_owned(),
            ));
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(refused("the private key belongs to another one".to_owned()));
        }
        let (_, not_after) = validity(issuing)?;
        let issuer = Issuer::from_ca_cert_der(issuing, Pair::from(key))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            issuer: Some(issuer),
            chain,
            others: Vec::new(),
            revoked: Revoked::default(),
            not_after,
        })
    }

    /// One whose key is kept elsewhere: it says who is believed, the first of `roots` before all, and signs nothing.
    pub fn elsewhere(
        trust_domain: &str,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        for root in &roots {
            let parsed = x509_parser::parse_x509_certificate(root);
            if !parsed.is_ok_and(|(_, parsed)| parsed.is_ca()) {
                return Err(refused("it is not a CA certificate".to_owned()));
            }
        }
        let mut roots = roots.into_iter();
        let first = roots.next();
        let first = first.ok_or_else(|| refused("no certificate".to_owned()))?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            issuer: None,
            not_after: validity(&first)?.1,
            chain: vec![first],
            others: roots.collect(),
            revoked: Revoked::default(),
        })
    }

    /// Whether its key is kept elsewhere.
    pub fn is_elsewhere(&self) -> bool {
        self.issuer.is_none()
    }

    fn signing(&self) -> Result<&Issuer<'static, Pair>, Error> {
        let elsewhere = || refused("its key is kept by an outside signer".to_owned());
        self.issuer.as_ref().ok_or_else(elsewhere)
    }

    /// `(certificates, private key)` as [`Authority::from_pem`] reads them. The second is the
    /// mesh's greatest secret, and empty where it is kept elsewhere.
    pub fn to_pem(&self) -> (String, String) {
        let key = self
            .issuer
            .as_ref()
            .map(|issuer| issuer.key().serialize_pem());
        (
            self.chain.iter().map(certificate_pem).collect(),
            key.unwrap_or_default(),
        )
    }

    /// The same with the key under `passphrase`.
    pub fn to_sealed_pem(&self, passphrase: &Passphrase) -> Result<(String, String), Error> {
        let key = Zeroizing::new(self.signing()?.key().serialize_der());
        let certificates = self.chain.iter().map(certificate_pem).collect();
        Ok((certificates, sealed::seal(&key, passphrase)?))
    }

    /// The trust domain whose names it gives.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The certificate that everybody trusts.
    pub fn root(&self) -> &CertificateDer<'static> {
        // Both constructors put at least one certificate in; an empty one would verify nothing.
        const NONE: &CertificateDer<'static> = &CertificateDer::from_slice(&[]);
        self.chain.last().unwrap_or(NONE)
    }

    /// The root as PEM.
    pub fn root_pem(&self) -> String {
        certificate_pem(self.root())
    }

    /// As it is, with `others` believed beside its own root.
    #[must_use]
    pub fn believing(mut self, others: Vec<CertificateDer<'static>>) -> Self {
        self.others = others;
        self
    }

    /// As it is, with this revoked.
    #[must_use]
    pub fn revoking(mut self, revoked: Revoked) -> Self {
        self.revoked = revoked;
        self
    }

    /// What is revoked.
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// A list of the certificates of its own that are revoked (serial number in hexadecimal, and since when),
    /// as PEM. Lists of one authority are counted by `number`. It ends with the authority.
    pub fn revocation_list(
        &self,
        revoked: &[(String, UnixMillis)],
        number: u64,
        now: UnixMillis,
    ) -> Result<String, Error> {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |millis: UnixMillis| epoch + Duration::from_millis(millis);
        let revoked_certs = revoked
            .iter()
            .map(|(serial, since)| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&unhex(serial)?),
                    revocation_time: at(*since),
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, Error>>()?;
        let params = CertificateRevocationListParams {
            this_update: at(now.saturating_sub(millis(CLOCK_SKEW))),
            next_update: at(self.not_after),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(self.signing()?);
        let list = list.and_then(|list| list.pem());
        list.map_err(|error| refused(error.to_string()))
    }

    /// All certificates that everybody trusts: its own root first.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(self.root())
            .chain(&self.others)
            .cloned()
            .collect()
    }

    /// [`Authority::roots`] as PEM.
    pub fn roots_pem(&self) -> String {
        self.roots().iter().map(certificate_pem).collect()
    }

    /// Whether it issued this leaf, or an authority below the same root did: by names, for a chain that
    /// was verified.
    pub fn is_above(&self, chain: &[CertificateDer<'_>]) -> bool {
        let last = chain.last().and_then(|last| issuer_of(last));
        last.is_some() && last == subject_of(self.root())
    }

    /// SHA-256 of the root in lower-case hexadecimal, as join tokens carry it.
    pub fn root_fingerprint(&self) -> String {
        fingerprint(self.root())
    }

    /// When the authority itself ends, milliseconds since the epoch.
    pub fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// Certifies the key of `csr_pem` as `id`. The request must be signed by its own key; the names
    /// and purposes that it asks for are ignored. `lifetime` is cut at [`LONGEST_LIFETIME`] and at
    /// the authority's own end; zero means [`DEFAULT_LIFETIME`].
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        lifetime: Duration,
        now: UnixMillis,
    ) -> Result<Issued, Error> {
        self.sign_named(csr_pem, id, (&[], &[]), lifetime, now)
    }

    /// The same with names besides, whatever the request asks for.
    pub fn sign_named(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        (dns, ips): (&[String], &[IpAddr]),
        lifetime: Duration,
        now: UnixMillis,
    ) -> Result<Issued, Error> {
        let csr = read_request(csr_pem)?;
        let dns: Vec<&str> = dns.iter().map(String::as_str).collect();
        let leaf = Leaf {
            id,
            dns: &dns,
            ips,
            lifetime,
        };
        let (certificate, serial, not_after) = self.certify(&csr.public_key, &leaf, now)?;
        let chain_pem = std::iter::once(&certificate)
            .chain(&self.chain)
            .map(certificate_pem)
            .collect();
        Ok(Issued {
            chain_pem,
            serial,
            not_after,
        })
    }

    /// A key and certificate for `id`, made here: for proxies that get their keys over SDS.
    pub fn issue_pair(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: UnixMillis,
    ) -> Result<Material, Error> {
        let leaf = Leaf {
            id,
            dns: &[],
            ips: &[],
            lifetime,
        };
        self.pair(&leaf, now)
    }

    /// The control plane's own identity, with names for clients that check those. The chain ends in
    /// the root, so that a joiner who knows its fingerprint can verify the rest.
    pub fn issue_server(
        &self,
        dns: &[&str],
        ips: &[IpAddr],
        lifetime: Duration,
        now: UnixMillis,
    ) -> Result<Material, Error> {
        let id = control_plane_id(&self.trust_domain);
        let leaf = Leaf {
            id: &id,
            dns,
            ips,
            lifetime,
        };
        let mut material = self.pair(&leaf, now)?;
        material.chain.push(self.root().clone());
        Ok(material)
    }

    fn pair(&self, leaf: &Leaf<'_>, now: UnixMillis) -> Result<Material, Error> {
        let key = KeyPair::generate().map_err(|error| refused(error.to_string()))?;
        let key = Pair::from(key);
        let (certificate, _, _) = self.certify(&*key, leaf, now)?;
        let mut chain = vec![certificate];
        // The root itself is not sent: peers have it, or must not learn it this way.
        chain.extend(
            self.chain
                .iter()
                .take(self.chain.len().saturating_sub(1))
                .cloned(),
        );
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut material = Material::new(chain, key, self.roots())?;
        material.revoked = self.revoked.clone();
        Ok(material)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        leaf: &Leaf<'_>,
        now: UnixMillis,
    ) -> Result<(CertificateDer<'static>, String, UnixMillis), Error> {
        if now >= self.not_after {
            return Err(refused("it has expired itself".to_owned()));
        }
        let lifetime = match leaf.lifetime {
            Duration::ZERO => DEFAULT_LIFETIME,
            asked => asked.min(LONGEST_LIFETIME),
        };
        let name = |text: &str| {
            text.try_into()
                .map_err(|_| refused(format!("{text:?} cannot stand in a certificate")))
        };
        let mut params = CertificateParams::default();
        // No subject: the URI is the only name (SPIFFE X509-SVID 4.1), and so critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(name(&leaf.id.to_string())?)];
        for dns in leaf.dns {
            params.subject_alt_names.push(SanType::DnsName(name(dns)?));
        }
        params
            .subject_alt_names
            .extend(leaf.ips.iter().copied().map(SanType::IpAddress));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let serial = serial()?;
        let number = hex(&serial.to_bytes());
        params.serial_number = Some(serial);
        let not_after = now.saturating_add(millis(lifetime)).min(self.not_after) / 1000 * 1000;
        date(
            &mut params,
            now.saturating_sub(millis(CLOCK_SKEW)),
            not_after,
        )?;
        let certificate = params
            .signed_by(key, self.signing()?)
            .map_err(|error| refused(error.to_string()))?;
        Ok((certificate.der().clone(), number, not_after))
    }
}

/// The name of who signed `certificate`, as it is encoded.
pub(super) fn issuer_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.issuer().as_raw().to_vec())
}

/// The name of whom `certificate` is of, as it is encoded.
pub(super) fn subject_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}

fn refused(reason: String) -> Error {
    Error::Authority { reason }
}

fn millis(duration: Duration) -> UnixMillis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Sets the validity; the type of the fields belongs to a crate that is not named here.
fn date(params: &mut CertificateParams, begin: UnixMillis, end: UnixMillis) -> Result<(), Error> {
    // X.509 ends with the year 9999, and the time type panics beyond it.
    const LAST: UnixMillis = 253_402_300_799_000;
    if end > LAST || begin > end {
        return Err(refused("its end is out of range".to_owned()));
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(begin);
    params.not_after = epoch + Duration::from_millis(end);
    Ok(())
}

#[cfg(test)]
mod tests;
