//! A key with its certificates: checked when read, one file on disk, never printed.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    UnixTime,
};
use zeroize::Zeroizing;

use super::Revoked;
use super::issuer::{issuer_of, subject_of};
use super::kept::Secret;
use super::verify::{Trust, name_of};
use super::{Error, provider, rfc3339};
use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;
use crate::rt::disk::write_private;

/// The file inside the directory given to [`Material::store`]. One file, so that key and
/// certificate change in one rename: chain first, then the key, then the roots.
pub const IDENTITY_FILE: &str = "identity.pem";

/// Larger files are not identities.
const MOST_BYTES: u64 = 256 * 1024;

/// An identity that can be proven.
pub struct Material {
    /// Leaf first, then what leads to a root; may end in the root itself.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: Secret,
    /// Roots that peers are verified against; more than one while roots are rotated.
    pub roots: Vec<CertificateDer<'static>>,
    /// What of those roots is believed no more.
    pub revoked: Revoked,
    /// The name in the leaf.
    pub id: SpiffeId,
    /// Begin of the leaf's validity, milliseconds since the epoch.
    pub not_before: UnixMillis,
    /// End of the leaf's validity, milliseconds since the epoch.
    pub not_after: UnixMillis,
}

/// The parts as PEM texts, for files that other programs read.
pub struct Pems {
    /// The chain, leaf first.
    pub chain: String,
    /// The private key; secret.
    pub key: String,
    /// The roots.
    pub roots: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("id", &self.id.to_string())
            .field("chain", &self.chain.len())
            .field("roots", &self.roots.len())
            .field("not_before", &rfc3339(self.not_before))
            .field("not_after", &rfc3339(self.not_after))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pems { .. }")
    }
}

impl Clone for Material {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone(),
            roots: self.roots.clone(),
            revoked: self.revoked.clone(),
            id: self.id.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

impl Material {
    /// Puts the parts together; refuses a key of another certificate and a leaf without exactly one
    /// SPIFFE id. Says nothing about time and trust: [`Material::check`] does.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let missing = |what: &str| Error::Pem {
            what: what.to_owned(),
        };
        let leaf = chain.first().ok_or_else(|| missing("no certificate"))?;
        if roots.is_empty() {
            return Err(missing("no root certificate"));
        }
        let id = name_of(leaf)?;
        let (not_before, not_after) = validity(leaf)?;
        match rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(Error::KeyMismatch { id }),
            Err(_) => return Err(missing("the private key cannot be read")),
        }
        Ok(Self {
            chain,
            key: key.into(),
            roots,
            revoked: Revoked::default(),
            id,
            not_before,
            not_after,
        })
    }

    /// Whether peers would accept this identity at `now`.
    pub fn check(&self, now: UnixMillis) -> Result<(), Error> {
        let id = || self.id.clone();
        if now >= self.not_after {
            let at = rfc3339(self.not_after);
            return Err(Error::Expired { id: id(), at });
        }
        if now < self.not_before {
            let at = rfc3339(self.not_before);
            return Err(Error::NotYetValid { id: id(), at });
        }
        let trust = Trust::new(&self.roots, &self.id.trust_domain, vec![id()])?;
        let trust = trust.revoking(&self.revoked)?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now));
        trust
            .accepts(&self.chain, now)
            .map(|_| ())
            .map_err(|error| Error::Foreign {
                id: id(),
                reason: error.to_string(),
            })
    }

    /// The name of who signed it, as it is encoded; that of the root when nothing stands in between.
    pub fn issuer(&self) -> Option<Vec<u8>> {
        self.chain.last().and_then(issuer_of)
    }

    /// Whether it is of the first of its roots, by name.
    pub fn is_of_first_root(&self) -> bool {
        let first = self.roots.first().and_then(subject_of);
        first.is_some() && first == self.issuer()
    }

    /// Reads what [`Material::to_pem`] wrote: certificates before the key are the chain, those
    /// after it are roots.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let (mut chain, mut roots, mut key) = (Vec::new(), Vec::new(), None);
        let mut revoked = Revoked::default();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|error| Error::Pem {
                what: format!("not PEM: {error}"),
            })?;
            match (kind, &key) {
                (SectionKind::Certificate, None) => chain.push(CertificateDer::from(der)),
                (SectionKind::Certificate, Some(_)) => roots.push(CertificateDer::from(der)),
                (SectionKind::Crl, _) => revoked.push(der),
                (_, Some(_)) => {
                    return Err(Error::Pem {
                        what: "more than one private key".to_owned(),
                    });
                }
                (kind, None) => key = private_key(kind, der),
            }
        }
        let key = key.ok_or_else(|| Error::Pem {
            what: "no private key".to_owned(),
        })?;
        let mut material = Self::new(chain, key, roots)?;
        material.revoked = revoked;
        Ok(material)
    }

    /// From the three texts that other programs use; nothing but certificates may stand in `chain`
    /// and `roots`.
    pub fn from_pems(pems: &Pems) -> Result<Self, Error> {
        let key = PrivateKeyDer::from_pem_slice(pems.key.as_bytes()).map_err(|_| Error::Pem {
            what: "no private key".to_owned(),
        })?;
        Self::new(certificates(&pems.chain)?, key, certificates(&pems.roots)?)
    }

    /// The parts as texts.
    pub fn to_pems(&self) -> Pems {
        let join = |certs: &[CertificateDer<'_>]| certs.iter().map(certificate_pem).collect();
        let (label, der) = match &*self.key {
            PrivateKeyDer::Pkcs1(key) => ("RSA PRIVATE KEY", key.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(key) => ("EC PRIVATE KEY", key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => ("PRIVATE KEY", key.secret_pkcs8_der()),
            // The enum may grow; an empty block is refused when read back.
            _ => ("PRIVATE KEY", &[][..]),
        };
        Pems {
            chain: join(&self.chain),
            key: pem_block(label, der),
            roots: join(&self.roots),
        }
    }

    /// All in one text: chain, key, roots, what is revoked. Secret.
    pub fn to_pem(&self) -> String {
        let Pems { chain, key, roots } = self.to_pems();
        let key = Zeroizing::new(key);
        [&*chain, &*key, &*roots, &*self.revoked.to_pem()].concat()
    }

    /// Reads the identity in `dir` and refuses one that could not be used at `now`.
    pub fn load(dir: &Path, now: UnixMillis) -> Result<Self, Error> {
        let path = dir.join(IDENTITY_FILE);
        let disk = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                path: path.display().to_string(),
            },
            _ => disk_error("read", &path, source),
        };
        if fs::metadata(&path).map_err(disk)?.len() > MOST_BYTES {
            return Err(Error::Pem {
                what: format!("{} is too large for an identity", path.display()),
            });
        }
        let text = Zeroizing::new(fs::read(&path).map_err(disk)?);
        let material = Self::from_pem(&text)?;
        material.check(now)?;
        Ok(material)
    }

    /// Writes the identity to `dir`, readable by its owner only; a crash leaves the old or the new.
    pub fn store(&self, dir: &Path) -> Result<PathBuf, Error> {
        let path = dir.join(IDENTITY_FILE);
        let text = Zeroizing::new(self.to_pem());
        write_private(&path, text.as_bytes())
            .map_err(|source| disk_error("write", &path, source))?;
        Ok(path)
    }
}

/// All certificates of a PEM text, in order; at least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certs = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Pem {
            what: format!("not PEM: {error}"),
        })?;
    if certs.is_empty() {
        return Err(Error::Pem {
            what: "no certificate".to_owned(),
        });
    }
    Ok(certs)
}

/// One certificate as PEM.
pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem_block("CERTIFICATE", certificate)
}

/// Begin and end of a certificate's validity.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(UnixMillis, UnixMillis), Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| Error::Certificate {
            reason: error.to_string(),
        })?;
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let validity = parsed.validity();
    Ok((
        millis(validity.not_before.timestamp()),
        millis(validity.not_after.timestamp()),
    ))
}

fn private_key(kind: SectionKind, der: Vec<u8>) -> Option<PrivateKeyDer<'static>> {
    match kind {
        SectionKind::PrivateKey => Some(PrivatePkcs8KeyDer::from(der).into()),
        SectionKind::EcPrivateKey => Some(PrivateSec1KeyDer::from(der).into()),
        SectionKind::RsaPrivateKey => Some(PrivatePkcs1KeyDer::from(der).into()),
        _ => None,
    }
}

pub(super) fn pem_block(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut body = String::with_capacity(text.len() + text.len() / 64);
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            body.push('\n');
        }
        body.push(letter);
    }
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

pub(crate) fn disk_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Disk {
        action,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::super::Authority;
    use super::*;

    const NOW: UnixMillis = 1_800_000_000_000;
    const DAY: Duration = Duration::from_hours(24);

    fn material() -> Material {
        let ca = Authority::generate("cluster.local", NOW).unwrap();
        ca.issue_pair(&SpiffeId::new("cluster.local", "shop", "cart"), DAY, NOW)
            .unwrap()
    }

    #[test]
    fn round_trips_through_one_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("proxy/cart");
        let material = material();
        fs::create_dir_all(&dir).unwrap();
        // A leftover with a wide mode must not make the key readable.
        fs::write(dir.join("identity.new"), "left over").unwrap();
        let path = material.store(&dir).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Material::load(&dir, NOW).unwrap();
        assert_eq!(read.id, material.id);
        assert_eq!(read.chain, material.chain);
        assert_eq!(read.roots, material.roots);
        assert_eq!(*read.key, *material.key);
        assert_eq!(read.not_after, material.not_after);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn refuses_what_could_not_be_used() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Material::load(dir.path(), NOW),
            Err(Error::Missing { .. })
        ));
        let (one, other) = (material(), material());
        one.store(dir.path()).unwrap();
        let late = NOW + 2 * 86_400_000;
        let error = Material::load(dir.path(), late).unwrap_err();
        assert!(matches!(error, Error::Expired { .. }), "{error}");
        assert!(error.hint().is_some());
        assert!(matches!(
            Material::load(dir.path(), NOW - 86_400_000),
            Err(Error::NotYetValid { .. })
        ));
        let mixed = Material::new(one.chain.clone(), other.key.clone_key(), one.roots.clone());
        assert!(matches!(mixed, Err(Error::KeyMismatch { .. })));
        let foreign = Material::new(one.chain, one.key.clone_key(), other.roots).unwrap();
        assert!(matches!(foreign.check(NOW), Err(Error::Foreign { .. })));
        fs::write(dir.path().join(IDENTITY_FILE), "garbage").unwrap();
        assert!(matches!(
            Material::load(dir.path(), NOW),
            Err(Error::Pem { .. })
        ));
    }

    #[test]
    fn debug_never_shows_the_key() {
        let material = material();
        let key: String = material.to_pems().key.lines().skip(1).take(1).collect();
        let shown = format!("{material:?} {:?}", material.to_pems());
        assert!(!shown.contains(&key), "{shown}");
        assert!(shown.contains("spiffe://cluster.local/ns/shop/sa/cart"));
    }

    proptest! {
        #[test]
        fn any_text_for_pem_is_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..512),
            body in "[A-Za-z0-9+/=\n]{0,200}",
        ) {
            prop_assert!(Material::from_pem(&bytes).is_err());
            let pem = format!(
                "-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n\
                 -----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
            );
            prop_assert!(Material::from_pem(pem.as_bytes()).is_err());
        }
    }
}
