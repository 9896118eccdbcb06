//! What an outside signer answers, held against what it was asked before anybody gets it.
//!
//! Owns what is handed out of an answer: a leaf for the key and the identity that were asked for, with no name, no
//! power and no more time than that, and what leads from it to a root that is configured. A signer that was taken over
//! can still name workloads, since that is its office; what it cannot do is to be believed by mistake: a wrong name on a
//! right key would let a workload act as another.

use std::net::IpAddr;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::issuer::{CLOCK_SKEW, DEFAULT_LIFETIME, Issued, LONGEST_LIFETIME};
use super::material::{certificate_pem, certificates, validity};
use super::verify::Trust;
use super::{Revoked, hex, rfc3339};
use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;

/// Certificates in an answer at most.
const MOST_CERTIFICATES: usize = 10;
/// How much later than asked a leaf may end: clocks differ, and signers count from their own.
const LEEWAY: Duration = Duration::from_mins(5);
/// Longer serial numbers are none (RFC 5280 4.1.2.2).
const MOST_SERIAL_BYTES: usize = 20;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The request that was sent, PKCS #10 in PEM.
    pub csr: &'a str,
    /// The identity that the caller has proven.
    pub id: &'a SpiffeId,
    /// DNS names that the leaf may have, too.
    pub dns: &'a [String],
    /// Addresses that it may have, too.
    pub ips: &'a [IpAddr],
    /// The life that was asked for.
    pub lifetime: Duration,
}

/// The life to ask for: zero is [`DEFAULT_LIFETIME`], and none is longer than [`LONGEST_LIFETIME`].
pub fn lifetime(wanted: Duration) -> Duration {
    match wanted {
        Duration::ZERO => DEFAULT_LIFETIME,
        wanted => wanted.min(LONGEST_LIFETIME),
    }
}

/// Why an answer is not handed out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unfit {
    /// There is no certificate in it.
    #[error("the answer has no certificate")]
    Empty,
    /// It cannot be read.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// There are too many certificates in it.
    #[error("the answer has more than {MOST_CERTIFICATES} certificates")]
    TooMany,
    /// For the key of somebody else.
    #[error("the certificate is for another key than that of the request")]
    OtherKey,
    /// Its names are not what was proven.
    #[error("the certificate names {found}, and {asked} was asked for")]
    OtherNames {
        /// What it names.
        found: String,
        /// What was proven.
        asked: Box<SpiffeId>,
    },
    /// It may do more than prove an identity.
    #[error("the certificate may be used for more than was asked: {0}")]
    TooMuch(&'static str),
    /// It may do less.
    #[error("the certificate cannot be used in a handshake: {0}")]
    TooLittle(&'static str),
    /// Its time does not include now.
    #[error("the certificate is valid from {0} to {1}, which is not now")]
    NotNow(String, String),
    /// It lasts longer than was asked.
    #[error("the certificate lasts until {0}, longer than was asked")]
    TooLong(String),
    /// Its serial number is none.
    #[error("the serial number of the certificate is not one")]
    Serial,
    /// It does not lead to a root that is believed.
    #[error("the certificate does not lead to a root that is configured: {0}")]
    Foreign(String),
}

/// A leaf that may be handed out.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The leaf and what leads to the root, which is not among it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The root that it leads to.
    pub root: CertificateDer<'static>,
    /// DNS names that it has, of those that were asked for.
    pub names: Vec<String>,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// End of validity, milliseconds since the epoch.
    pub not_after: UnixMillis,
}

impl Answer {
    /// Takes `texts` (PEM, the leaf first) when they are what was `asked` and lead to one of `roots` by what is not
    /// `revoked`.
    pub fn judge(
        texts: &[String],
        asked: &Asked<'_>,
        (roots, revoked): (&[CertificateDer<'static>], &Revoked),
        now: UnixMillis,
    ) -> Result<Self, Unfit> {
        let mut all = Vec::new();
        for text in texts {
            let read = certificates(text).map_err(|error| Unfit::Unreadable(error.to_string()))?;
            all.extend(read);
            if all.len() > MOST_CERTIFICATES {
                return Err(Unfit::TooMany);
            }
        }
        let leaf = all.first().cloned().ok_or(Unfit::Empty)?;
        let (rest, parsed) = x509_parser::parse_x509_certificate(&leaf)
            .map_err(|error| Unfit::Unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(Unfit::Unreadable("bytes after the certificate".to_owned()));
        }
        is_for_key_of(&parsed, asked.csr)?;
        let names = names_only(&parsed, asked)?;
        may_only_prove(&parsed)?;
        let not_after = lasts(&leaf, asked.lifetime, now)?;
        let serial = parsed.raw_serial();
        if serial.is_empty()
            || serial.len() > MOST_SERIAL_BYTES
            || serial.iter().all(|byte| *byte == 0)
        {
            return Err(Unfit::Serial);
        }
        // Peers have the roots, or must not learn them this way.
        let chain: Vec<_> = std::iter::once(leaf.clone())
            .chain(all.into_iter().skip(1).filter(|one| !roots.contains(one)))
            .collect();
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now));
        let mut reason = "there is none".to_owned();
        for root in roots {
            let trust = Trust::new(
                std::slice::from_ref(root),
                &asked.id.trust_domain,
                vec![asked.id.clone()],
            );
            let trust = trust.and_then(|trust| trust.revoking(revoked));
            let trust = trust.map_err(|error| Unfit::Foreign(error.to_string()))?;
            match trust.accepts(&chain, at) {
                Ok(_) => {
                    return Ok(Self {
                        names,
                        serial: hex(serial),
                        chain: chain.clone(),
                        root: root.clone(),
                        not_after,
                    });
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(Unfit::Foreign(reason))
    }

    /// As the certificate service answers: the root comes last.
    pub fn issued(&self) -> Issued {
        let all = self.chain.iter().chain([&self.root]);
        Issued {
            chain_pem: all.map(certificate_pem).collect(),
            serial: self.serial.clone(),
            not_after: self.not_after,
        }
    }
}

/// Type and bits of the key both count.
fn is_for_key_of(leaf: &X509Certificate<'_>, csr: &str) -> Result<(), Unfit> {
    let request = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes());
    let request = request.map_err(|_| Unfit::OtherKey)?;
    let (_, request) = X509CertificationRequest::from_der(&request).map_err(|_| Unfit::OtherKey)?;
    let same = leaf.public_key().raw == request.certification_request_info.subject_pki.raw;
    same.then_some(()).ok_or(Unfit::OtherKey)
}

/// The DNS names that it has.
fn names_only(leaf: &X509Certificate<'_>, asked: &Asked<'_>) -> Result<Vec<String>, Unfit> {
    let other = |found: String| Unfit::OtherNames {
        // A stranger's text goes into the log.
        found: found
            .chars()
            .take(300)
            .filter(|one| !one.is_control())
            .collect(),
        asked: Box::new(asked.id.clone()),
    };
    let names = leaf
        .subject_alternative_name()
        .map_err(|error| Unfit::Unreadable(error.to_string()))?
        .ok_or_else(|| other("nobody".to_owned()))?;
    let names = &names.value.general_names;
    let id = asked.id.to_string();
    let (mut proven, mut dns) = (0, Vec::new());
    for name in names {
        let fits = match name {
            GeneralName::URI(uri) if *uri == id => {
                proven += 1;
                true
            }
            GeneralName::DNSName(name) => {
                dns.push((*name).to_owned());
                asked.dns.iter().any(|dns| dns == name)
            }
            GeneralName::IPAddress(bytes) => asked.ips.iter().any(|ip| match ip {
                IpAddr::V4(ip) => ip.octets() == *bytes,
                IpAddr::V6(ip) => ip.octets() == *bytes,
            }),
            _ => false,
        };
        if !fits {
            return Err(other(name.to_string()));
        }
    }
    match proven {
        1 => Ok(dns),
        0 => Err(other("nobody".to_owned())),
        _ => Err(other("the identity more than once".to_owned())),
    }
}

fn may_only_prove(leaf: &X509Certificate<'_>) -> Result<(), Unfit> {
    let unreadable = |error: x509_parser::error::X509Error| Unfit::Unreadable(error.to_string());
    if leaf.is_ca() {
        return Err(Unfit::TooMuch("it is an authority's"));
    }
    if let Some(usage) = leaf.key_usage().map_err(unreadable)? {
        if usage.value.key_cert_sign() || usage.value.crl_sign() {
            return Err(Unfit::TooMuch("its key usage lets it sign certificates"));
        }
        if !usage.value.digital_signature() {
            return Err(Unfit::TooLittle("its key usage lacks digitalSignature"));
        }
    }
    if let Some(usage) = leaf.extended_key_usage().map_err(unreadable)? {
        let usage = usage.value;
        let more = usage.any
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing
            || !usage.other.is_empty();
        if more {
            return Err(Unfit::TooMuch("it has other purposes than TLS"));
        }
        if !(usage.server_auth && usage.client_auth) {
            return Err(Unfit::TooLittle("it is not for servers and clients both"));
        }
    }
    Ok(())
}

fn lasts(
    leaf: &CertificateDer<'_>,
    lifetime: Duration,
    now: UnixMillis,
) -> Result<UnixMillis, Unfit> {
    let (begin, end) = validity(leaf).map_err(|error| Unfit::Unreadable(error.to_string()))?;
    if now < begin || now >= end {
        return Err(Unfit::NotNow(rfc3339(begin), rfc3339(end)));
    }
    let most = lifetime.saturating_add(LEEWAY.max(CLOCK_SKEW)).as_millis();
    if u128::from(end - now) > most {
        return Err(Unfit::TooLong(rfc3339(end)));
    }
    Ok(end)
}

#[cfg(test)]
mod tests;
