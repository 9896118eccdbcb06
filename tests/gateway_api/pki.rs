//! Authorities and certificates that the tests hand out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub(crate) pem: String,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for these names, of which those with a scheme are URIs.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        let mut params = CertificateParams::default();
        let san = |name: &&str| {
            if name.contains("://") {
                SanType::URI((*name).try_into().unwrap())
            } else {
                SanType::DnsName((*name).try_into().unwrap())
            }
        };
        params.subject_alt_names = names.iter().map(san).collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        Pair {
            chain: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Everything that is signed for a run.
pub(crate) struct Pki {
    /// Behind what gateways show, and what backends speak.
    pub(crate) ca: Authority,
    /// Behind callers of one listener, of another, and of nothing that is used here.
    pub(crate) callers: Authority,
    pub(crate) other_callers: Authority,
    pub(crate) stranger: Authority,
    pairs: BTreeMap<&'static str, Pair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let ca = Authority::new("conformance");
        let callers = Authority::new("callers");
        let other_callers = Authority::new("other callers");
        let pairs = BTreeMap::from([
            (
                "listener",
                ca.issue(&[
                    "*.org",
                    "example.org",
                    "second-example.org",
                    "unknown-example.org",
                    "*.wildcard.org",
                    "https-listener.org",
                    "secure.test.com",
                ]),
            ),
            (
                "backend",
                ca.issue(&[
                    "abc.example.com",
                    "other.example.com",
                    "spiffe://abc.example.com/test-identity",
                ]),
            ),
            (
                "terminate",
                ca.issue(&["tls.example.com", "terminate.example.com"]),
            ),
            ("gateway", ca.issue(&["gateway.example.com"])),
            ("caller", callers.issue(&["caller.example.com"])),
            ("other-caller", other_callers.issue(&["caller.example.com"])),
        ]);
        Self {
            ca,
            callers,
            other_callers,
            stranger: Authority::new("stranger"),
            pairs,
        }
    }

    pub(crate) fn pair(&self, name: &str) -> &Pair {
        &self.pairs[name]
    }
}

/// A Secret of type `kubernetes.io/tls`.
pub(crate) fn secret(namespace: &str, name: &str, pair: &Pair) -> String {
    let head = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         type: kubernetes.io/tls\nstringData:\n"
    );
    head + &block("tls.crt", &pair.chain) + &block("tls.key", &pair.key)
}

/// A ConfigMap with authorities to trust.
pub(crate) fn trusted(namespace: &str, name: &str, pem: &str) -> String {
    let head = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata:\n"
    );
    head + &block("ca.crt", pem)
}

fn block(key: &str, text: &str) -> String {
    let mut out = format!("  {key}: |\n");
    for line in text.lines() {
        writeln!(out, "    {line}").unwrap();
    }
    out
}
