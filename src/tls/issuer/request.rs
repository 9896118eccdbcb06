//! Requests for certificates, as they come from others.

use std::net::IpAddr;

use rcgen::{CertificateSigningRequestParams, PublicKeyData as _, SanType};

use super::super::{Error, sha256};

/// Larger requests are not requests.
const MOST_REQUEST_BYTES: usize = 16 * 1024;

/// SHA-256 of the public key in `csr_pem`, after checking that the request is one that
/// `Authority::sign` takes: ask before a token is spent on it.
pub fn request_key(csr_pem: &str) -> Result<[u8; 32], Error> {
    read_request(csr_pem).map(|csr| sha256(csr.public_key.der_bytes()))
}

/// DNS names and addresses that `csr_pem` asks for: nobody is given them for having asked.
pub fn request_names(csr_pem: &str) -> Result<(Vec<String>, Vec<IpAddr>), Error> {
    let csr = read_request(csr_pem)?;
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for name in csr.params.subject_alt_names {
        match name {
            SanType::DnsName(name) => dns.push(name.as_str().to_owned()),
            SanType::IpAddress(ip) => ips.push(ip),
            _ => {}
        }
    }
    Ok((dns, ips))
}

pub(super) fn read_request(csr_pem: &str) -> Result<CertificateSigningRequestParams, Error> {
    let wrong = |reason: &str| Error::Request {
        reason: reason.to_owned(),
    };
    if csr_pem.len() > MOST_REQUEST_BYTES {
        return Err(wrong("it is larger than 16 KiB"));
    }
    CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
        wrong(match error {
            rcgen::Error::InvalidCertificationRequestSignature => {
                "its signature does not match its key"
            }
            rcgen::Error::UnsupportedExtension => "it asks for an extension that is not known",
            rcgen::Error::UnsupportedSignatureAlgorithm => {
                "its key is of a kind that is not supported"
            }
            _ => "it is not a PKCS #10 request in PEM",
        })
    })
}
