//! Certificates that Gateways name: the Secrets that hold them.

use super::listeners::Bench;
use crate::mesh::{Secret, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{GROUP, ObjectRef};
use crate::resource::object::Object;

/// Why a certificate cannot be had.
pub(super) struct Fault {
    /// It is there, and not for this Gateway.
    pub(super) forbidden: bool,
    pub(super) kind: (Severity, &'static str),
    pub(super) message: String,
    hint: String,
    /// It works once somebody makes it.
    missing: bool,
}

impl Fault {
    /// What to do, and what is so `meanwhile` where that is to make something.
    pub(super) fn hint(&self, meanwhile: &str) -> String {
        if self.missing {
            format!("{}; {meanwhile}", self.hint)
        } else {
            self.hint.clone()
        }
    }
}

/// Namespace and name of the Secret that Gateway `object` names, which holds a certificate and its key.
pub(super) fn named(
    object: &Object,
    to: &ObjectRef,
    bench: &Bench<'_>,
) -> Result<(String, String), Fault> {
    let own = &object.metadata.namespace;
    let namespace = to.namespace(own).to_owned();
    if !to.is("", "Secret") {
        return Err(Fault {
            forbidden: false,
            kind: (Severity::Error, codes::INVALID_REFERENCE_KIND),
            message: format!("a certificate is in a Secret, and not in a {}", to.kind),
            hint: "remove group and kind".to_owned(),
            missing: false,
        });
    }
    if !bench.grants.permit((GROUP, "Gateway", own), to) {
        return Err(Fault {
            forbidden: true,
            kind: (Severity::Error, codes::NOT_PERMITTED),
            message: format!(
                "no ReferenceGrant in namespace {namespace} lets this Gateway use Secret {}",
                to.name
            ),
            hint: format!(
                "write one there, from {{group: {GROUP}, kind: Gateway, namespace: {own}}} to {{group: \"\", kind: Secret}}"
            ),
            missing: false,
        });
    }
    let known = bench.credentials.get(&(namespace.clone(), to.name.clone()));
    let fault = match known.and_then(|known| known.certificate.as_deref()) {
        None => "with tls.crt and tls.key exists",
        Some(Secret::Certificate { chain, key, .. })
            if chain.contains("-----BEGIN CERTIFICATE-----")
                && key.contains("PRIVATE KEY-----") =>
        {
            return Ok((namespace, to.name.clone()));
        }
        Some(_) => "has a certificate and a key in PEM",
    };
    Err(Fault {
        forbidden: false,
        kind: (Severity::Warning, codes::MISSING_REFERENCE),
        message: format!("no Secret {namespace}/{} {fault}", to.name),
        hint: "make it, of type kubernetes.io/tls".to_owned(),
        missing: true,
    })
}
