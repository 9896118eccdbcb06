//! What a connection between two ends is protected by, as its own handshake says, and the connections and
//! requests that are counted by that.

use std::borrow::Cow;
use std::sync::Arc;

use super::recorder::LinkCells;
use super::{PeerId, Protocol, Reporter, ServiceId};

/// Why nothing of the mesh protects a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Told by the called side: it takes plaintext beside mTLS, and the caller began none.
    Permissive,
    /// mTLS is switched off: by a PeerAuthentication where the called side tells, by a DestinationRule
    /// where the caller does.
    Disabled,
    /// Told by the caller: nobody says that the endpoint speaks mTLS.
    NoPeer,
    /// Told by the caller: the endpoint is no workload of the mesh.
    External,
    /// Told by the caller: the application chose an address that the mesh knows nothing of.
    Passthrough,
    /// Told by a gateway: its server takes plaintext.
    Gateway,
}

impl Why {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Disabled => "disabled",
            Self::NoPeer => "no_mtls_at_endpoint",
            Self::External => "external",
            Self::Passthrough => "passthrough",
            Self::Gateway => "gateway",
        }
    }
}

/// How the bytes of a connection are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// mTLS, with a certificate of the mesh at both ends.
    MutualTls,
    /// TLS that this proxy began or ended, with somebody outside the mesh.
    Tls,
    /// TLS of the applications themselves, that proxies carry and do not look into.
    Carried,
    /// None.
    Plain(Why),
}

impl Protection {
    /// The value of `connection_security_policy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Tls => "tls",
            Self::Carried => "application_tls",
            Self::Plain(_) => "none",
        }
    }
}

/// What a connection is protected by. Versions, suites and groups are TLS' own numbers; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// By whom.
    pub protection: Protection,
    /// Version of TLS.
    pub version: u16,
    /// Cipher suite.
    pub cipher: u16,
    /// Group of the key exchange.
    pub group: u16,
}

impl Link {
    /// Without TLS that this proxy knows the inside of.
    pub fn bare(protection: Protection) -> Self {
        Self {
            protection,
            version: 0,
            cipher: 0,
            group: 0,
        }
    }

    /// Names and values of its labels.
    pub(crate) fn labels(self) -> [(&'static str, String); 4] {
        let reason = match self.protection {
            Protection::Plain(why) => why.name(),
            _ => "",
        };
        [
            (TLS_VERSION, version_name(self.version).into_owned()),
            (TLS_CIPHER, cipher_name(self.cipher).into_owned()),
            (TLS_GROUP, group_name(self.group).into_owned()),
            (REASON, reason.to_owned()),
        ]
    }
}

/// Label: the version of TLS.
pub const TLS_VERSION: &str = "tls_version";
/// Label: the cipher suite, by IANA's name.
pub const TLS_CIPHER: &str = "tls_cipher";
/// Label: the group of the key exchange, by OpenSSL's name.
pub const TLS_GROUP: &str = "tls_group";
/// Label: why there is no TLS.
pub const REASON: &str = "plaintext_reason";

fn number(number: u16) -> Cow<'static, str> {
    match number {
        0 => Cow::Borrowed(""),
        other => Cow::Owned(format!("0x{other:04X}")),
    }
}

/// A version as OpenSSL writes it.
pub fn version_name(version: u16) -> Cow<'static, str> {
    Cow::Borrowed(match version {
        0x0303 => "TLSv1.2",
        0x0304 => "TLSv1.3",
        other => return number(other),
    })
}

/// A cipher suite as IANA writes it.
pub fn cipher_name(cipher: u16) -> Cow<'static, str> {
    Cow::Borrowed(match cipher {
        0x1301 => "TLS_AES_128_GCM_SHA256",
        0x1302 => "TLS_AES_256_GCM_SHA384",
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
        0xC02B => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        0xC02C => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        0xC02F => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        0xC030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        0xCCA8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xCCA9 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        other => return number(other),
    })
}

/// A group as OpenSSL writes it.
pub fn group_name(group: u16) -> Cow<'static, str> {
    Cow::Borrowed(match group {
        0x0017 => "secp256r1",
        0x0018 => "secp384r1",
        0x0019 => "secp521r1",
        0x001D => "X25519",
        0x001E => "X448",
        0x0200 => "MLKEM512",
        0x0201 => "MLKEM768",
        0x0202 => "MLKEM1024",
        0x11EB => "SecP256r1MLKEM768",
        0x11EC => "X25519MLKEM768",
        0x11ED => "SecP384r1MLKEM1024",
        other => return number(other),
    })
}

/// The label set of connections that carry HTTP, or of those that a gateway's callers made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey {
    /// Who reports.
    pub reporter: Reporter,
    /// Who called.
    pub source: PeerId,
    /// Who answered.
    pub destination: PeerId,
    /// What was called.
    pub service: ServiceId,
    /// What is spoken.
    pub protocol: Protocol,
    /// What protects it.
    pub link: Link,
}

impl LinkKey {
    /// The key that stands for this one when there are too many: only what has few values stays.
    pub(crate) fn folded(self) -> Self {
        Self {
            source: PeerId(0),
            destination: PeerId(0),
            service: ServiceId(0),
            ..self
        }
    }
}

/// One connection that is counted while it lasts.
#[derive(Debug)]
pub struct Linked(Arc<LinkCells>);

impl Linked {
    /// Counts that it began.
    pub(crate) fn new(cells: Arc<LinkCells>) -> Self {
        cells.opened.add(1);
        Self(cells)
    }

    /// A request went over it.
    pub fn request(&self) {
        self.0.requests.add(1);
    }

    /// So many bytes went over it, from the caller and to the caller.
    pub fn moved(&self, received: u64, sent: u64) {
        self.0.received.add(received);
        self.0.sent.add(sent);
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.0.closed.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_keeps_its_number() {
        assert_eq!(version_name(0), "");
        assert_eq!(version_name(0x0304), "TLSv1.3");
        assert_eq!(cipher_name(0x1304), "0x1304");
        assert_eq!(group_name(0x11EC), "X25519MLKEM768");
    }
}
