//! TLS to servers that are no peers of the mesh: whom to ask for, whom to believe, what to show.
//!
//! Beside [`super::cluster::ClientTls`], the mesh's own, in which certificates say who a workload is.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// TLS that a proxy begins where its application did not (DestinationRule `SIMPLE` and `MUTUAL`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origination {
    /// Whom it asks for.
    pub asks: Asks,
    /// Whom it believes; `None` is anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What it shows where it is asked who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Shown>,
}

/// What a proxy shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shown {
    /// The view's secret of this name.
    Secret(String),
    /// This.
    Pair(KeyPair),
}

/// The server name that is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Asks {
    /// That of the request as it leaves; of bytes, that of the service (Envoy: `auto_sni`).
    #[default]
    Requested,
    /// Always this; none when empty.
    Name(String),
}

/// Which servers are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// Who may have issued its certificate.
    pub roots: Roots,
    /// Certificates that are so no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Pem>,
    /// Whom the certificate must name.
    pub names: Named,
}

/// Who issues certificates that are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Roots {
    /// Whom the proxy's machine trusts.
    System,
    /// These.
    Given(Pem),
}

/// Whom a server's certificate must name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Named {
    /// Whom [`Asks::Requested`] asks for (Envoy: `auto_san_validation`).
    Asked,
    /// One of these; none is anybody.
    Any(Vec<NameMatch>),
}

/// A name in a certificate: a DNS name, an address, or a URI.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NameMatch {
    /// This one. A certificate for `*.suffix` has every name with one more label.
    Exact(String),
    /// One that begins so; never an address.
    Prefix(String),
}

/// Of what kind a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// A DNS name.
    Dns,
    /// A URI, such as a SPIFFE id.
    Uri,
    /// An address.
    Address(IpAddr),
}

impl NameMatch {
    /// Of what kind, by its form.
    pub fn kind(&self) -> NameKind {
        match self {
            Self::Exact(name) | Self::Prefix(name) if name.contains("://") => NameKind::Uri,
            Self::Exact(name) => name.parse().map_or(NameKind::Dns, NameKind::Address),
            Self::Prefix(_) => NameKind::Dns,
        }
    }
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPair {
    /// The certificate first, then what leads to a root.
    pub chain: Pem,
    /// The private key.
    pub key: Pem,
}

/// Where a PEM text is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pem {
    /// In a file on the proxy's machine, which may change.
    File(String),
    /// Here.
    Inline(String),
}

/// A text may be a key, and is not shown.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Inline(_) => f.write_str("Inline(..)"),
        }
    }
}

impl Origination {
    /// Every text that it is made of.
    pub fn texts(&self) -> impl Iterator<Item = &Pem> {
        let verify = self.verify.iter();
        let believed = verify.flat_map(|verify| {
            let roots = match &verify.roots {
                Roots::System => None,
                Roots::Given(roots) => Some(roots),
            };
            roots.into_iter().chain(&verify.revoked)
        });
        let shown = self.certificate.iter().filter_map(|shown| match shown {
            Shown::Pair(pair) => Some([&pair.chain, &pair.key]),
            Shown::Secret(_) => None,
        });
        believed.chain(shown.flatten())
    }

    /// The name of the secret that it needs from the control plane.
    pub fn secret(&self) -> Option<&str> {
        match self.certificate.as_ref()? {
            Shown::Secret(name) => Some(name),
            Shown::Pair(_) => None,
        }
    }
}
