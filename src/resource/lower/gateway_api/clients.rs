//! What callers of a listener must show.

use super::listeners::Bench;
use crate::mesh::credential::{ClientTrust, RootsSource};
use crate::mesh::{Finding, Secret, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{ClientValidation, GROUP, Gateway, Listener, ObjectRef};
use crate::resource::object::Object;

/// What is wrong with the roots that callers are held against.
pub(super) struct Faults {
    pub(super) told: Vec<Finding>,
    /// For the condition `ResolvedRefs`.
    pub(super) resolved: (&'static str, String),
    /// Nothing is left to hold callers against.
    pub(super) none_left: bool,
    pub(super) clients: Option<ClientTrust>,
}

/// Callers of `listener` must show this; nothing, where nothing is asked for.
pub(super) fn of(
    object: &Object,
    (listener, gateway): (&Listener, &Gateway),
    bench: &Bench<'_>,
) -> Result<Option<ClientTrust>, Box<Faults>> {
    let mut ports = gateway.ports.iter().enumerate();
    let own = ports.find(|(_, port)| port.port == listener.port);
    let (validation, path) = if let Some((at, port)) = own {
        let path = format!("spec.tls.frontend.perPort[{at}].tls.validation");
        (port.validation.as_ref(), path)
    } else {
        let path = "spec.tls.frontend.default.validation".to_owned();
        (gateway.validation.as_ref(), path)
    };
    let Some(ClientValidation { roots, insecure }) = validation else {
        return Ok(None);
    };
    let mut found: Vec<String> = Vec::new();
    let mut told = Vec::new();
    let mut resolved = None;
    for (index, to) in roots.iter().enumerate() {
        let path = format!("{path}.caCertificateRefs[{index}]");
        match root(object, to, bench) {
            Ok(name) => found.push(name),
            Err(Fault {
                reason,
                kind: (severity, code),
                message,
                hint,
            }) => {
                let finding = object.finding(severity, code, &path, &*message);
                told.push(finding.hint(hint));
                resolved = Some((reason, message));
            }
        }
    }
    if let (Some(_), Some(more)) = (found.first(), found.get(1)) {
        let message = format!("roots of one place are used, and {more} is another");
        let path = format!("{path}.caCertificateRefs[1]");
        let finding = object.finding(Severity::Error, codes::NOT_HONOURED, &path, &*message);
        told.push(finding.hint("put all roots into one ConfigMap"));
        resolved = Some(("InvalidCACertificateRef", message));
    }
    let clients = found.first().map(|name| ClientTrust {
        roots: RootsSource::Secret(name.clone()),
        optional: *insecure,
        unverified: *insecure,
        names: Vec::new(),
        certificate_hashes: Vec::new(),
        key_hashes: Vec::new(),
    });
    match resolved {
        None => Ok(clients),
        Some(resolved) => Err(Box::new(Faults {
            told,
            resolved,
            none_left: clients.is_none(),
            clients,
        })),
    }
}

struct Fault {
    reason: &'static str,
    kind: (Severity, &'static str),
    message: String,
    hint: String,
}

/// The name of the roots in `to` among a view's secrets.
fn root(object: &Object, to: &ObjectRef, bench: &Bench<'_>) -> Result<String, Fault> {
    let own = &object.metadata.namespace;
    let namespace = to.namespace(own);
    let name = if to.is("", "ConfigMap") {
        super::super::gateways::config_map(&to.name)
    } else if to.is("", "Secret") {
        to.name.clone()
    } else {
        return Err(Fault {
            reason: "InvalidCACertificateKind",
            kind: (Severity::Error, codes::INVALID_REFERENCE_KIND),
            message: format!(
                "roots are in a ConfigMap or a Secret, and not in a {}",
                to.kind
            ),
            hint: "write group: \"\", kind: ConfigMap".to_owned(),
        });
    };
    if !bench.grants.permit((GROUP, "Gateway", own), to) {
        return Err(Fault {
            reason: "RefNotPermitted",
            kind: (Severity::Error, codes::NOT_PERMITTED),
            message: format!(
                "no ReferenceGrant in namespace {namespace} lets this Gateway use {} {}",
                to.kind, to.name
            ),
            hint: format!(
                "write one there, from {{group: {GROUP}, kind: Gateway, namespace: {own}}} to {{group: \"\", kind: {}}}",
                to.kind
            ),
        });
    }
    let known = bench.credentials.get(&(namespace.to_owned(), name.clone()));
    match known.and_then(|known| known.roots.as_deref()) {
        Some(Secret::Roots { certificates, .. })
            if certificates.contains("-----BEGIN CERTIFICATE-----") =>
        {
            Ok(Secret::roots_of(namespace, &name))
        }
        _ => Err(Fault {
            reason: "InvalidCACertificateRef",
            kind: (Severity::Warning, codes::MISSING_REFERENCE),
            message: format!(
                "no {} {namespace}/{} has certificates in PEM as ca.crt",
                to.kind, to.name
            ),
            hint: "make it, with ca.crt; until then nobody is served here".to_owned(),
        }),
    }
}
