//! What a certificate says, as far as logs tell of it.

use crate::mesh::access_log::operators::Detail;
use crate::rt::UnixMillis;

/// What a certificate says, in Envoy's forms; lists are parted by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whom it is for, as RFC 2253 writes it.
    pub subject: String,
    /// By whom, likewise.
    pub issuer: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// SHA-1 of it, likewise.
    pub fingerprint_1: String,
    /// SHA-256 of it, likewise.
    pub fingerprint_256: String,
    /// All of it, in URL encoding.
    pub pem: String,
    /// When it begins to be valid.
    pub begins: UnixMillis,
    /// When it ends.
    pub ends: UnixMillis,
    /// Names that are URIs.
    pub uris: String,
    /// Names that are hosts.
    pub dns: String,
    /// Names that are addresses.
    pub ips: String,
    /// Names that are addresses of mail.
    pub emails: String,
    /// SHA-1 of each of its chain.
    pub chain_fingerprints_1: String,
    /// SHA-256 of each of its chain.
    pub chain_fingerprints_256: String,
    /// The number of each of its chain.
    pub chain_serials: String,
}

impl Shown {
    /// One of the things that it says.
    pub fn detail(&self, detail: Detail) -> &str {
        match detail {
            Detail::Subject => &self.subject,
            Detail::Issuer => &self.issuer,
            Detail::Serial => &self.serial,
            Detail::Fingerprint1 => &self.fingerprint_1,
            Detail::Fingerprint256 => &self.fingerprint_256,
            Detail::Pem => &self.pem,
            Detail::Uris => &self.uris,
            Detail::Dns => &self.dns,
            Detail::Ips => &self.ips,
            Detail::Emails => &self.emails,
            Detail::ChainFingerprints1 => &self.chain_fingerprints_1,
            Detail::ChainFingerprints256 => &self.chain_fingerprints_256,
            Detail::ChainSerials => &self.chain_serials,
        }
    }
}
