//! What can be chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use serde_json::{Value, json};
use thiserror::Error;

use super::SYSTEM_NAMESPACE;
use crate::mesh::SpiffeId;

/// Where control planes find what an outside signer is believed by and shown.
pub(super) const SIGNER: &str = "/var/run/secrets/signer";
/// The roots there, as Istio's ConfigMaps have them.
pub(super) const SIGNER_ROOT: &str = "root-cert.pem";
/// The token there.
pub(super) const SIGNER_TOKEN: &str = "istio-token";

/// The revision of who does not say.
pub(super) const DEFAULT_REVISION: &str = "default";

/// A set of settings to begin with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// Two control planes, an ingress gateway, mTLS where the caller can.
    #[default]
    Default,
    /// One control plane, ingress and egress gateways, mTLS required, a talkative log.
    Demo,
    /// One control plane and nothing else.
    Minimal,
}

impl Profile {
    /// As it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Demo => "demo",
            Self::Minimal => "minimal",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Default, Self::Demo, Self::Minimal];
        all.into_iter().find(|profile| profile.name() == name)
    }
}

/// What an installation in a cluster was told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own, as people set them"
)]
pub struct Settings {
    /// What they began with.
    pub profile: Profile,
    /// What was set over the profile, as it was given.
    pub chosen: BTreeMap<String, String>,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Which revision; revisions are side by side.
    pub revision: String,
    /// Image with this program.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Control planes.
    pub replicas: u32,
    /// Replicas of each gateway.
    pub gateway_replicas: u32,
    /// There is a gateway for callers from outside.
    pub ingress: bool,
    /// There is one for calls to outside.
    pub egress: bool,
    /// `LoadBalancer`, `NodePort` or `ClusterIP`, for the ingress gateway.
    pub ingress_type: String,
    /// Secrets of every namespace may be read for gateways; else of the system namespace, and where somebody bound
    /// the role.
    pub gateway_secrets: bool,
    /// Gateways of the Gateway API get a Deployment and a Service.
    pub gateway_deployments: bool,
    /// Pods get their sidecar from a webhook.
    pub injector: bool,
    /// Wrong configuration is refused by a webhook.
    pub validator: bool,
    /// A pod, or configuration, waits for a webhook that does not answer (`Fail`), or goes without (`Ignore`).
    pub failure_policy: String,
    /// Requested by each control plane, and its limit of memory.
    pub cpu: String,
    /// Requested by each control plane.
    pub memory: String,
    /// No control plane gets more.
    pub memory_limit: String,
    /// ConfigMap with the roots of an outside signer.
    pub signer_roots: String,
    /// Other names of the revision, by which namespaces choose it.
    pub tags: Vec<String>,
    /// What the control plane itself reads, as an installation on a machine has it.
    pub values: BTreeMap<String, String>,
}

/// What can be set, with what it means.
pub const KEYS: &[(&str, &str)] = &[
    ("image", "image with this program (meshctl:VERSION)"),
    (
        "imagePullPolicy",
        "Always, IfNotPresent or Never (IfNotPresent)",
    ),
    ("replicas", "control planes (2)"),
    ("gatewayReplicas", "replicas of each gateway (2)"),
    (
        "ingress",
        "a gateway for callers from outside: true or false (true)",
    ),
    (
        "egress",
        "a gateway for calls to outside: true or false (false)",
    ),
    (
        "ingressType",
        "LoadBalancer, NodePort or ClusterIP (LoadBalancer)",
    ),
    (
        "gatewaySecrets",
        "gateways may show Secrets of all namespaces; else the role meshctl-gateway-secrets is to be bound where they are: true or false (true)",
    ),
    (
        "gatewayDeployments",
        "each Gateway of the Gateway API gets a Deployment and a Service: true or false (true)",
    ),
    (
        "injector",
        "pods get their sidecar from a webhook: true or false (true)",
    ),
    (
        "validator",
        "a webhook refuses wrong configuration: true or false (true)",
    ),
    (
        "failurePolicy",
        "what becomes of objects while webhooks do not answer: Fail or Ignore (Fail)",
    ),
    ("cpu", "requested by each control plane (100m)"),
    ("memory", "requested by each control plane (128Mi)"),
    ("memoryLimit", "limit of each control plane (1Gi)"),
    (
        "tags",
        "other names of the revision, by which namespaces choose it, with commas between",
    ),
    ("trustDomain", "the root of identities (cluster.local)"),
    (
        "mtls",
        "what workloads accept by default: strict or permissive (permissive)",
    ),
    ("logLevel", "error, warn, info, debug or trace (info)"),
    (
        "caKeyType",
        "key of a root that is made: ecdsa-p256, ecdsa-p384, rsa2048, rsa4096 or ed25519 (ecdsa-p256)",
    ),
    (
        "caSigner",
        "HOST:PORT of an outside signer, by Istio's CA API, that is shown the control plane's token for istio-ca",
    ),
    (
        "caSignerRoots",
        "ConfigMap of the control plane's namespace with the signer's roots as root-cert.pem (istio-ca-root-cert)",
    ),
    (
        "caSignerName",
        "DNS name or SPIFFE id in the signer's certificate (its host)",
    ),
];

/// Why a setting is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingError {
    /// There is none of this name.
    #[error("there is no setting {0}")]
    Unknown(String),
    /// Its value is not understood.
    #[error("{key}={value} is not understood: expected {expected}")]
    Value {
        /// Which setting.
        key: String,
        /// What was given.
        value: String,
        /// What is understood.
        expected: &'static str,
    },
    /// It means something only with another one, or only without.
    #[error("{0} is set {1} caSigner")]
    Signer(&'static str, &'static str),
}

impl Settings {
    /// What an installation notes of itself, for the next one (and as `install` does on a machine).
    pub(super) fn note(&self) -> String {
        // Pods get the image that the control plane itself is of.
        let mut values = self.values.clone();
        values.insert("image".to_owned(), self.image.clone());
        values.insert("imagePullPolicy".to_owned(), self.pull_policy.clone());
        if self.signer().is_some() {
            for (key, file) in [
                ("caSignerRoot", SIGNER_ROOT),
                ("caSignerToken", SIGNER_TOKEN),
            ] {
                values.insert(key.to_owned(), format!("{SIGNER}/{file}"));
            }
        }
        // By name, as Helm would write it.
        let note = json!({
            "chosen": self.chosen,
            "profile": self.profile.name(),
            "values": values,
            "version": env!("CARGO_PKG_VERSION"),
        });
        let mut text = serde_json::to_string_pretty(&note).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Where an outside signer is, if one signs.
    pub(super) fn signer(&self) -> Option<&str> {
        self.values.get("caSigner").map(String::as_str)
    }

    /// Whether what was set goes together.
    pub fn check(&self) -> Result<(), SettingError> {
        let set = |key: &&str| self.chosen.contains_key(*key);
        let (wants, how) = match self.signer() {
            None => (&["caSignerRoots", "caSignerName"][..], "without"),
            Some(_) => (&["caKeyType"][..], "beside"),
        };
        match wants.iter().find(|key| set(key)) {
            Some(key) => Err(SettingError::Signer(key, how)),
            None => Ok(()),
        }
    }

    /// What [`Self::note`] came from; settings that this release does not know are left out.
    pub fn noted(note: &str) -> Option<Self> {
        let note: Value = serde_json::from_str(note).ok()?;
        let mut settings = Self::new(Profile::named(note.get("profile")?.as_str()?)?);
        for (key, value) in note.get("chosen")?.as_object()? {
            let known = settings.set(key, value.as_str()?);
            if matches!(known, Err(SettingError::Value { .. })) {
                return None;
            }
        }
        Some(settings)
    }

    /// Which release of this program noted it.
    pub fn noted_version(note: &str) -> Option<String> {
        let note: Value = serde_json::from_str(note).ok()?;
        Some(note.get("version")?.as_str()?.to_owned())
    }

    /// A profile's.
    pub fn new(profile: Profile) -> Self {
        let small = profile != Profile::Default;
        let values: &[(&str, &str)] = match profile {
            Profile::Default => &[("mtls", "permissive"), ("logLevel", "info")],
            Profile::Demo => &[("mtls", "strict"), ("logLevel", "debug")],
            Profile::Minimal => &[("mtls", "permissive"), ("logLevel", "warn")],
        };
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Self {
            profile,
            chosen: BTreeMap::new(),
            namespace: SYSTEM_NAMESPACE.to_owned(),
            revision: DEFAULT_REVISION.to_owned(),
            image: format!("meshctl:{}", env!("CARGO_PKG_VERSION")),
            pull_policy: "IfNotPresent".to_owned(),
            replicas: if small { 1 } else { 2 },
            gateway_replicas: if small { 1 } else { 2 },
            ingress: profile != Profile::Minimal,
            egress: profile == Profile::Demo,
            ingress_type: "LoadBalancer".to_owned(),
            gateway_secrets: true,
            gateway_deployments: true,
            injector: true,
            validator: true,
            failure_policy: "Fail".to_owned(),
            cpu: "100m".to_owned(),
            memory: "128Mi".to_owned(),
            memory_limit: "1Gi".to_owned(),
            signer_roots: "istio-ca-root-cert".to_owned(),
            tags: Vec::new(),
            values: values.iter().map(own).collect(),
        }
    }

    /// Sets one of [`KEYS`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
        let wrong = |expected| SettingError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let one_of = |known: &[&str], expected| {
            if known.contains(&value) {
                Ok(value.to_owned())
            } else {
                Err(wrong(expected))
            }
        };
        let flag = || value.parse::<bool>().map_err(|_| wrong("true or false"));
        let count = || match value.parse::<u32>() {
            Ok(count) if (1..=100).contains(&count) => Ok(count),
            _ => Err(wrong("a number from 1 to 100")),
        };
        let quantity = || {
            if is_quantity(value) {
                Ok(value.to_owned())
            } else {
                Err(wrong("a quantity of Kubernetes, such as 100m or 128Mi"))
            }
        };
        match key {
            "image" if is_image(value) => value.clone_into(&mut self.image),
            "image" => return Err(wrong("an image, such as registry.example/meshctl:1.0")),
            "imagePullPolicy" => {
                let known = ["Always", "IfNotPresent", "Never"];
                self.pull_policy = one_of(&known, "Always, IfNotPresent or Never")?;
            }
            "replicas" => self.replicas = count()?,
            "gatewayReplicas" => self.gateway_replicas = count()?,
            "ingress" => self.ingress = flag()?,
            "egress" => self.egress = flag()?,
            "ingressType" => {
                let known = ["LoadBalancer", "NodePort", "ClusterIP"];
                self.ingress_type = one_of(&known, "LoadBalancer, NodePort or ClusterIP")?;
            }
            "gatewaySecrets" => self.gateway_secrets = flag()?,
            "gatewayDeployments" => self.gateway_deployments = flag()?,
            "injector" => self.injector = flag()?,
            "validator" => self.validator = flag()?,
            "failurePolicy" => self.failure_policy = one_of(&["Fail", "Ignore"], "Fail or Ignore")?,
            "cpu" => self.cpu = quantity()?,
            "memory" => self.memory = quantity()?,
            "memoryLimit" => self.memory_limit = quantity()?,
            "tags" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                let names: BTreeSet<&str> = names.collect();
                let label = |name: &&str| is_name(name) && !name.contains('.');
                if !names.iter().all(label) {
                    return Err(wrong("names of lower-case letters, digits and dashes"));
                }
                self.tags = names.into_iter().map(str::to_owned).collect();
                if self.tags.is_empty() {
                    self.chosen.remove(key);
                    return Ok(());
                }
            }
            "trustDomain" if !is_name(value) => return Err(wrong("a DNS name")),
            "mtls" if !matches!(value, "strict" | "permissive") => {
                return Err(wrong("strict or permissive"));
            }
            "logLevel" if !matches!(value, "error" | "warn" | "info" | "debug" | "trace") => {
                return Err(wrong("error, warn, info, debug or trace"));
            }
            "caKeyType"
                if !matches!(
                    value,
                    "ecdsa-p256" | "ecdsa-p384" | "rsa2048" | "rsa4096" | "ed25519"
                ) =>
            {
                return Err(wrong("ecdsa-p256, ecdsa-p384, rsa2048, rsa4096 or ed25519"));
            }
            "caSigner" if !is_host_port(value) => return Err(wrong("HOST:PORT")),
            "caSignerName" if !is_peer(value) => {
                return Err(wrong("a DNS name or a SPIFFE id"));
            }
            "caSignerRoots" if !is_name(value) => return Err(wrong("the name of a ConfigMap")),
            "caSignerRoots" => value.clone_into(&mut self.signer_roots),
            "trustDomain" | "mtls" | "logLevel" | "caKeyType" | "caSigner" | "caSignerName" => {
                self.values.insert(key.to_owned(), value.to_owned());
            }
            _ => return Err(SettingError::Unknown(key.to_owned())),
        }
        self.chosen.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

/// A DNS-1123 subdomain.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The name or address of a host, and a port.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A DNS name or a SPIFFE id.
fn is_peer(text: &str) -> bool {
    is_name(text) || text.parse::<SpiffeId>().is_ok()
}

fn is_image(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    !text.is_empty() && text.len() <= 512 && text.chars().all(inside)
}

/// Digits, perhaps with a fraction, and a unit.
fn is_quantity(text: &str) -> bool {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let known = [
        "", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    number.parse::<f64>().is_ok_and(f64::is_finite) && known.contains(&unit)
}
