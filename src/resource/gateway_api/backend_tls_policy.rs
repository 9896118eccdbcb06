//! BackendTLSPolicy.

use super::reference::{ObjectRef, hostname, precise_hostname, word};
use crate::mesh::origination::NameMatch;
use crate::resource::reader::{Fields, Value};

/// How gateways speak TLS to services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendTlsPolicy {
    /// The services, and which of their ports.
    pub targets: Vec<PolicyTarget>,
    /// Who issues certificates that are believed.
    pub roots: PolicyRoots,
    /// The server name that is asked for, and must be in the certificate where `names` is empty.
    pub hostname: String,
    /// One of these must be in the certificate.
    pub names: Vec<NameMatch>,
}

/// What a policy is for, beside it in its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTarget {
    /// The object.
    pub to: ObjectRef,
    /// A port of it, by name; all when absent.
    pub section: Option<String>,
}

/// Who issues certificates that are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyRoots {
    /// Those in these objects.
    Named(Vec<ObjectRef>),
    /// A set that is known by name.
    WellKnown(String),
}

impl Default for PolicyRoots {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl PolicyRoots {
    /// Whom the proxy's machine trusts.
    pub const SYSTEM: &'static str = "System";
}

pub(in crate::resource) fn backend_tls_policy(fields: &Fields<'_>) -> BackendTlsPolicy {
    let Some(spec) = fields.require("spec") else {
        return BackendTlsPolicy::default();
    };
    let spec = spec.fields();
    let mut policy = BackendTlsPolicy {
        targets: targets(&spec),
        ..BackendTlsPolicy::default()
    };
    if let Some(value) = spec.require("validation") {
        validation(&value, &mut policy);
    }
    if let Some(options) = spec.get("options") {
        for (name, value) in options.entries() {
            value.warn(
                crate::resource::codes::IGNORED,
                format!("option {name} is not known here and has no effect"),
                "remove it: versions and suites are the proxy's own",
            );
        }
    }
    spec.finish();
    policy
}

fn targets(spec: &Fields<'_>) -> Vec<PolicyTarget> {
    let written = spec.list("targetRefs");
    if written.is_empty() {
        spec.value.error_hint(
            "a policy needs a target",
            "targetRefs: [{group: \"\", kind: Service, name: …}]",
        );
    }
    let mut targets: Vec<PolicyTarget> = Vec::new();
    for value in &written {
        let fields = value.fields();
        let to = local_ref(&fields);
        let section = fields.text("sectionName").filter(|text| !text.is_empty());
        fields.finish();
        let Some(to) = to else { continue };
        let target = PolicyTarget { to, section };
        let mut others = targets.iter().filter(|other| other.to == target.to);
        if others.any(|other| {
            other.section == target.section || other.section.is_some() != target.section.is_some()
        }) {
            value.error_hint(
                "references to one target must each have a sectionName of their own",
                "write another sectionName in each, or one reference without",
            );
        }
        targets.push(target);
    }
    targets
}

fn validation(value: &Value<'_>, policy: &mut BackendTlsPolicy) {
    let fields = value.fields();
    let refs = fields.list("caCertificateRefs");
    let named: Vec<ObjectRef> = refs
        .iter()
        .filter_map(|value| {
            let fields = value.fields();
            let found = local_ref(&fields);
            fields.finish();
            found
        })
        .collect();
    let known = fields
        .text("wellKnownCACertificates")
        .filter(|text| !text.is_empty());
    if refs.is_empty() == known.is_none() {
        value.error_hint(
            "whom to believe must be said once",
            "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: …}], or wellKnownCACertificates: System",
        );
    }
    policy.roots = match known {
        Some(known) => PolicyRoots::WellKnown(known),
        None => PolicyRoots::Named(named),
    };
    let host = fields.require("hostname");
    policy.hostname = host
        .and_then(|value| precise_hostname(&value))
        .unwrap_or_default();
    policy.names = fields
        .list("subjectAltNames")
        .iter()
        .filter_map(subject)
        .collect();
    fields.finish();
}

/// A reference to an object beside the policy, in its namespace.
fn local_ref(fields: &Fields<'_>) -> Option<ObjectRef> {
    let text = |field| fields.require(field).and_then(|value| value.text());
    let (group, kind, name) = (text("group"), text("kind"), text("name"));
    Some(ObjectRef {
        group: group?,
        kind: kind?,
        namespace: None,
        name: name?,
    })
}

/// One of `subjectAltNames`.
fn subject(value: &Value<'_>) -> Option<NameMatch> {
    let fields = value.fields();
    let kind = fields.require("type");
    let kind = kind.and_then(|value| word(&value, &["Hostname", "URI"]));
    let (host, uri) = (fields.get("hostname"), fields.get("uri"));
    fields.finish();
    let (own, other) = match kind? {
        "Hostname" => (host, uri),
        _ => (uri, host),
    };
    let (Some(own), None) = (&own, &other) else {
        value.error_hint(
            "the field that goes with the type must be there, and no other",
            "{type: Hostname, hostname: shop.example.com}, or {type: URI, uri: spiffe://…}",
        );
        return None;
    };
    let name = if kind == Some("Hostname") {
        let name = hostname(own)?.to_string();
        if name.starts_with('*') {
            own.refuse(
                "to believe whoever has some name below another is not honoured by meshctl",
                "write the names, each as it stands in certificates",
            );
        }
        name
    } else {
        let text = own.text()?;
        if !text.contains("://") {
            own.error_hint(
                format!("{text:?} is no URI with an authority"),
                "such as spiffe://example.com/backend",
            );
        }
        text
    };
    Some(NameMatch::Exact(name))
}
