//! Names that are proven once: host names, SPIFFE ids, localities.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A fully qualified, lower-case DNS name; may start with `*.`, or be `*` alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not a DNS name.
    #[error("{0:?} is not a DNS name")]
    Host(String),
    /// Not a SPIFFE id of the form `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("{0:?} is not a SPIFFE id of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")]
    Spiffe(String),
}

impl Hostname {
    /// The name of Kubernetes service `name` in `namespace`.
    pub fn service(name: &str, namespace: &str) -> Self {
        Self(format!("{name}.{namespace}.svc.cluster.local").to_ascii_lowercase())
    }

    /// `*`, which is every name.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `other`, or a wildcard that `other` falls under.
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => other.0.len() > suffix.len() && other.0.ends_with(suffix),
            None => self == other,
        }
    }

    /// Whether it covers a name that there is in `names`.
    pub fn covers_any<T>(&self, names: &BTreeMap<Self, T>) -> bool {
        let falls = |name: &Self| self.covers(name);
        names.contains_key(self) || (self.0.starts_with('*') && names.keys().any(falls))
    }

    /// `(name, namespace)` when this is a Kubernetes service name.
    pub fn kubernetes(&self) -> Option<(&str, &str)> {
        let (head, namespace) = self
            .0
            .strip_suffix(".svc.cluster.local")?
            .rsplit_once('.')?;
        (!head.is_empty() && !head.contains('.')).then_some((head, namespace))
    }
}

impl FromStr for Hostname {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        let rest = host.strip_prefix("*.").unwrap_or(&host);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if host == "*" || (host.len() <= 253 && rest.split('.').all(label)) {
            Ok(Self(host))
        } else {
            Err(NameError::Host(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Hostname {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Hostname> for String {
    fn from(host: Hostname) -> Self {
        host.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's proven identity, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT` (Istio's form).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The root of trust, such as `cluster.local`.
    pub trust_domain: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The service account in that namespace.
    pub service_account: String,
}

impl SpiffeId {
    /// What every identity begins with.
    pub const SCHEME: &'static str = "spiffe://";

    /// The identity of `service_account` in `namespace` under `trust_domain`.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parse = || {
            let rest = text.strip_prefix(Self::SCHEME)?;
            let (trust_domain, path) = rest.split_once('/')?;
            let (namespace, service_account) = path.strip_prefix("ns/")?.split_once("/sa/")?;
            let plain = |part: &str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            };
            (plain(trust_domain) && plain(namespace) && plain(service_account))
                .then(|| Self::new(trust_domain, namespace, service_account))
        };
        parse().ok_or_else(|| NameError::Spiffe(text.to_owned()))
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

/// Where something runs; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Locality {
    /// Such as `eu-west-1`.
    pub region: String,
    /// Such as `eu-west-1a`.
    pub zone: String,
    /// Such as a rack.
    pub subzone: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_lowered_and_checked() {
        assert_eq!(
            "Reviews.Prod.".parse::<Hostname>().unwrap().as_str(),
            "reviews.prod"
        );
        assert!("*.example.com".parse::<Hostname>().is_ok());
        for bad in ["", "a..b", "-a", "a b", "a.*.b", "*a.com"] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
        let covers = |a: &str, b: &str| {
            let (a, b): (Hostname, Hostname) = (a.parse().unwrap(), b.parse().unwrap());
            a.covers(&b)
        };
        let names: BTreeMap<Hostname, u8> = [("a.b".parse().unwrap(), 1)].into();
        let any = |host: &str| host.parse::<Hostname>().unwrap().covers_any(&names);
        assert!(any("a.b") && any("*.b") && any("*") && !any("b") && !any("*.a.b"));
        assert!(covers("*", "a.b") && covers("*.b", "a.b") && covers("a.b", "a.b"));
        assert!(!covers("*.b", "b") && !covers("*.b", "ab") && !covers("a.b", "*.b"));
        assert_eq!(
            Hostname::service("reviews", "prod").kubernetes(),
            Some(("reviews", "prod"))
        );
    }

    #[test]
    fn spiffe_ids_round_trip_and_refuse_other_forms() {
        let text = "spiffe://cluster.local/ns/default/sa/reviews";
        assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        for bad in [
            "spiffe://td/ns/a/sa/b/c",
            "spiffe:///ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns//sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
