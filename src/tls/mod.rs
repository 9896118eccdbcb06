//! Identities on the wire: SPIFFE verification, keys and certificates, issuing, join tokens' text.
//!
//! Owns everything that decides *who is at the other end*. What that peer may do is policy (`mesh`),
//! when a certificate is fetched is the proxy's business (`proxy::identity`), and who may have one is
//! the control plane's (`control::ca`, `control::token`).
//!
//! # Threat model
//!
//! `docs/threat-model.md` lists attackers and attacks with the test that tries each. What this layer
//! answers for:
//!
//! - An identity is the SPIFFE id in the one URI name of a certificate that chains to a root of the mesh; DNS
//!   names and common names are never looked at.
//! - [`server_config`] lets nobody in without one, and goes no lower than TLS 1.2; [`client_config`] takes only
//!   the identities that the caller names; first contact is pinned ([`Pin`]) to the root *and* to the control
//!   plane's own id ([`control_plane_id`]).
//! - [`Authority::sign`] takes the id from the caller's proof; a request contributes its public key alone.
//! - What an outside signer answers is held against what was asked ([`answer`]) before anybody gets it.
//! - A ticket resumes a session for ten minutes or a tenth of the certificate's life at most, and never past
//!   a change of trust, since each configuration has ticket keys of its own.
//! - Revoked serial numbers are held against every chain, and connections that are open are cut.
//! - Servers outside the mesh ([`outside`]) are believed by the policy's roots only, and shown nothing of ours.
//! - Keys are in files of mode 0600, the signing key under a passphrase where one is given ([`Passphrase`]), and
//!   never in `Debug`, logs or errors.
//!
//! That a chain is good is found out once for each configuration and remembered until the first of its
//! certificates ends; that the peer holds the key is proved in every handshake.
//!
//! All cryptography is aws-lc-rs, named explicitly, so that no process-wide default can change it;
//! the hybrid post-quantum key exchange X25519MLKEM768 is offered first.

pub mod access;
pub mod answer;
pub mod ca_api;
mod config;
pub mod csr;
pub mod issuer;
pub mod join;
mod kept;
pub mod material;
mod own;
pub mod outside;
mod plugged;
mod revoked;
mod sealed;
mod staple;
mod tickets;
mod verified;
mod verify;

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;

pub use access::AccessToken;
pub use config::{
    Pin, api_client_config, bootstrap_config, client_config, server_config,
    server_config_optional_client,
};
pub use csr::Request;
pub use issuer::{Authority, Issued, KeyType};
pub use join::JoinToken;
pub use kept::Secret;
pub use material::Material;
pub use own::{OwnServer, own_server_config};
pub use plugged::Plugged;
pub use revoked::{Revoked, key_of};
pub use sealed::{Passphrase, is_sealed};
pub use verify::{explain, is_stranger, peer_id};

/// Namespace of the control plane's own identity.
pub const CONTROL_PLANE_NAMESPACE: &str = "meshctl-system";
/// Service account of the control plane's own identity.
pub const CONTROL_PLANE_ACCOUNT: &str = "meshctl";

/// The identity that the control plane of `trust_domain` proves to its proxies.
pub fn control_plane_id(trust_domain: &str) -> SpiffeId {
    SpiffeId::new(trust_domain, CONTROL_PLANE_NAMESPACE, CONTROL_PLANE_ACCOUNT)
}

/// The one provider of cryptography. AES with 128 bits comes first, as in BoringSSL and Go: SHA-384, which
/// goes with 256 bits, is a fifth of a handshake's instructions.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let is_aes_128 = |name: CipherSuite| {
        matches!(
            name,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite.suite()));
    Arc::new(provider)
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    // The lengths are equal by the algorithm's definition; `zip` needs no proof of it.
    out.iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    out
}

/// SHA-256 of a certificate's DER in lower-case hexadecimal, as `openssl x509 -fingerprint -sha256` without colons.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(&sha256(certificate))
}

/// The serial number of a certificate in lower-case hexadecimal; empty for what is no certificate.
pub fn serial_of(certificate: &CertificateDer<'_>) -> String {
    x509_parser::parse_x509_certificate(certificate)
        .map_or_else(|_| String::new(), |(_, parsed)| hex(parsed.raw_serial()))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}").is_ok();
        text
    })
}

/// Bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(bytes)
}

/// Why an identity, its files or a request for one cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// No identity has been stored there yet.
    #[error("no identity at {path}")]
    Missing {
        /// The file looked for.
        path: String,
    },
    /// The disk refused.
    #[error("cannot {action} {path}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The text is not PEM, or lacks a part.
    #[error("{what}")]
    Pem {
        /// What is wrong.
        what: String,
    },
    /// A certificate cannot be read.
    #[error("not an X.509 certificate: {reason}")]
    Certificate {
        /// The parser's words.
        reason: String,
    },
    /// The certificate names nobody, or several.
    #[error("certificate has {found} URI names; an identity has exactly one, a SPIFFE id")]
    NoIdentity {
        /// How many URI names there are.
        found: usize,
    },
    /// Its time is over.
    #[error("certificate of {id} expired at {at}")]
    Expired {
        /// Whose it is.
        id: SpiffeId,
        /// The end, RFC 3339.
        at: String,
    },
    /// Its time has not come, or this machine's clock is behind.
    #[error("certificate of {id} is not valid before {at}")]
    NotYetValid {
        /// Whose it is.
        id: SpiffeId,
        /// The begin, RFC 3339.
        at: String,
    },
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate of {id}")]
    KeyMismatch {
        /// Whose certificate it is.
        id: SpiffeId,
    },
    /// Signed by someone else.
    #[error("certificate of {id} was not issued by the mesh's root: {reason}")]
    Foreign {
        /// Whom it names.
        id: SpiffeId,
        /// The verifier's words.
        reason: String,
    },
    /// The certificate of the authority itself cannot sign.
    #[error("cannot use this certificate as an authority: {reason}")]
    Authority {
        /// Why not.
        reason: String,
    },
    /// The signing request cannot be honoured.
    #[error("certificate request refused: {reason}")]
    Request {
        /// Why not.
        reason: String,
    },
    /// The text is not a join token.
    #[error("not a join token: {reason}")]
    Token {
        /// Which part is wrong.
        reason: &'static str,
    },
    /// The text is not a token for the API.
    #[error("not a token for the API: {reason}")]
    AccessToken {
        /// Which part is wrong.
        reason: &'static str,
    },
    /// rustls refused the configuration.
    #[error("cannot configure TLS")]
    Config(#[from] rustls::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("join with a token: `meshctl token create`"),
            Self::Expired { .. } => Some(
                "the workload must join again with a new token: `meshctl token create`; also compare the clocks",
            ),
            Self::NotYetValid { .. } => {
                Some("compare this machine's clock with the control plane's")
            }
            Self::Foreign { .. } => Some(
                "it comes from another mesh or from before a reinstall; join again with a new token",
            ),
            Self::Token { .. } => {
                Some("a token looks like mj_ID_SECRET_FINGERPRINT; copy all of it")
            }
            _ => None,
        }
    }
}

/// RFC 3339 for messages.
pub(crate) fn rfc3339(at: UnixMillis) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|at| jiff::Timestamp::from_millisecond(at).ok())
        .map_or_else(|| format!("{at} ms"), |at| at.to_string())
}
