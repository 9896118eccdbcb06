//! Encoded resources by kind and name, with versions that are hashes of their content.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest;
use bytes::Bytes;

/// A kind of resource, in the order in which changes are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SDS.
    Secret,
}

impl Kind {
    /// In push order.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
        Self::Secret,
    ];

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// By type URL, whatever its prefix.
    pub fn of(type_url: &str) -> Option<Self> {
        let name = type_url.rsplit('/').next();
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url().rsplit('/').next() == name)
    }

    /// `CDS`, `EDS`, `LDS`, `RDS`, `SDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::Secret => "SDS",
        }
    }

    /// Whether a client that names nothing gets everything, and absence means deletion.
    pub fn wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// One encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Hash of `bytes` (hex), so that equal content is never sent twice, across restarts too.
    pub version: String,
    /// The encoded message, without `Any`.
    pub bytes: Bytes,
}

impl Resource {
    /// A resource whose version is the hash of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            version: hash(&bytes),
            bytes,
        }
    }
}

/// Half of SHA-256, in hex: long enough that no two contents meet, short enough for logs.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .take(16)
        .fold(String::with_capacity(32), |mut hex, byte| {
            // Writing to a `String` cannot fail.
            let _infallible = write!(hex, "{byte:02x}").is_ok();
            hex
        })
}

/// Everything that one client may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By kind, then by name.
    pub resources: BTreeMap<Kind, BTreeMap<String, Resource>>,
}

impl Snapshot {
    /// Adds or replaces a resource.
    pub fn insert(&mut self, kind: Kind, name: impl Into<String>, bytes: impl Into<Bytes>) {
        self.resources
            .entry(kind)
            .or_default()
            .insert(name.into(), Resource::new(bytes));
    }

    /// The resource of that kind and name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.resources.get(&kind)?.get(name)
    }

    /// All of one kind, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&String, &Resource)> {
        self.resources.get(&kind).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_urls_are_compared_after_the_last_slash() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.type_url()), Some(kind));
            let name = kind.type_url().rsplit('/').next().unwrap();
            assert_eq!(Kind::of(&format!("other.example/x/{name}")), Some(kind));
        }
        assert_eq!(Kind::of("type.googleapis.com/envoy.Other"), None);
    }

    #[test]
    fn versions_are_hashes_of_content() {
        assert_eq!(Resource::new("a"), Resource::new("a"));
        assert_ne!(Resource::new("a").version, Resource::new("b").version);
        assert_eq!(
            Resource::new("abc").version,
            "ba7816bf8f01cfea414140de5dae2223"
        );
    }
}
