//! Certificates that are not the mesh's own: what a gateway shows to the world, and whom it asks for
//! one.
//!
//! Listeners name credentials; the texts stand apart ([`Secret`]), because they change by themselves
//! and must be seen by nobody who only looks at a configuration.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// TLS that a listener terminates with certificates of its own, for callers from outside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnTls {
    /// The first whose key the caller can verify is shown; of several the one with the name that the
    /// caller asks for.
    pub certificates: Vec<CertificateSource>,
    /// What callers must show; nothing when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientTrust>,
    /// The oldest version. Default 1.2 (Istio's at gateways).
    pub min_version: TlsVersion,
    /// The newest version; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_version: Option<TlsVersion>,
    /// Suites of TLS 1.2, in OpenSSL's names; all that are safe when empty. Those of 1.3 stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// When a certificate is shown only with a proof that it is not revoked.
    #[serde(skip_serializing_if = "Stapling::is_default")]
    pub stapling: Stapling,
}

/// When a certificate is shown only with a proof that it is not revoked (Envoy's `ocsp_staple_policy`).
/// Certificates that say so themselves (`status_request`, RFC 7633) need one in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stapling {
    /// With one where there is one that holds, else without.
    #[default]
    Lenient,
    /// Where there is one it must hold.
    Strict,
    /// There must be one that holds.
    Must,
}

impl Stapling {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateSource {
    /// The view's secret of this name.
    Secret(String),
    /// PEM files on the proxy's machine, read again when they change.
    Files {
        /// Leaf first.
        chain: String,
        /// The leaf's key.
        key: String,
        /// An OCSP response for it, in DER.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        staple: Option<String>,
    },
}

/// What callers must show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTrust {
    /// Who must have signed it.
    pub roots: RootsSource,
    /// Callers without one are served too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Callers with a bad one are served too, as if they had shown none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// DNS names and URIs of which it must carry one; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// SHA-256 of certificates, in hexadecimal, of which it must be one; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_hashes: Vec<String>,
    /// SHA-256 of public keys, in Base64, of which it must have one; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_hashes: Vec<String>,
}

/// Where root certificates are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RootsSource {
    /// The view's secret of this name.
    Secret(String),
    /// A PEM file on the proxy's machine, read again when it changes.
    File {
        /// The roots.
        path: String,
        /// Revoked certificates, as a file of certificate revocation lists.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        crl: Option<String>,
    },
}

/// The suites of TLS 1.2 that are spoken, in OpenSSL's names.
pub const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Versions of TLS that are spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// What kind of name in a certificate a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// `spiffe://…`, `https://…`.
    Uri,
    /// `somebody@somewhere`.
    Email,
    /// An IP address.
    Address,
    /// Anything else.
    Dns,
}

impl NameKind {
    /// The kind of `name`.
    pub fn of(name: &str) -> Self {
        if name.contains("://") {
            Self::Uri
        } else if name.contains('@') {
            Self::Email
        } else if name.parse::<std::net::IpAddr>().is_ok() {
            Self::Address
        } else {
            Self::Dns
        }
    }
}

impl CertificateSource {
    /// The name of its text among a view's secrets: for files Istio's.
    pub fn name(&self) -> String {
        match self {
            Self::Secret(name) => name.clone(),
            Self::Files { chain, key, staple } => {
                let staple = staple.iter().map(|path| format!("~{path}"));
                format!("file-cert:{chain}~{key}{}", staple.collect::<String>())
            }
        }
    }
}

impl RootsSource {
    /// The name of its text among a view's secrets: for files Istio's.
    pub fn name(&self) -> String {
        match self {
            Self::Secret(name) => name.clone(),
            Self::File { path, crl: None } => format!("file-root:{path}"),
            Self::File {
                path,
                crl: Some(crl),
            } => format!("file-root:{path}~{crl}"),
        }
    }
}

impl OwnTls {
    /// Names of the secrets that it needs from the control plane.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Secret(name) => Some(name.as_str()),
            CertificateSource::Files { .. } => None,
        });
        let roots = self
            .clients
            .iter()
            .filter_map(|clients| match &clients.roots {
                RootsSource::Secret(name) => Some(name.as_str()),
                RootsSource::File { .. } => None,
            });
        certificates.chain(roots)
    }
}

/// The text of a credential. Neither printed nor written with a configuration.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Something to show.
    Certificate {
        /// PEM, leaf first.
        chain: String,
        /// PEM of the leaf's key.
        key: String,
        /// An OCSP response for it, in DER; empty when there is none.
        staple: Vec<u8>,
    },
    /// Something to hold others against.
    Roots {
        /// PEM.
        certificates: String,
        /// PEM of revocation lists; empty when there are none.
        crl: String,
    },
}

impl Secret {
    /// The name of `NAMESPACE/NAME` among a view's secrets, in Istio's form.
    pub fn name_of(namespace: &str, name: &str) -> String {
        format!("kubernetes://{namespace}/{name}")
    }

    /// As [`Secret::name_of`], for what callers are held against.
    pub fn roots_of(namespace: &str, name: &str) -> String {
        format!("kubernetes://{namespace}/{name}-cacert")
    }

    /// As [`Secret::name_of`], of one in the namespace of whoever asks (Istio's form).
    pub fn name_of_own(name: &str) -> String {
        format!("kubernetes://{name}")
    }

    /// As [`Secret::name_of_own`], for what servers are held against.
    pub fn roots_of_own(name: &str) -> String {
        format!("kubernetes://{name}-cacert")
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "certificate",
            Self::Roots { .. } => "roots",
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl Serialize for Secret {
    /// What it is, and none of what it says.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.kind())
    }
}
