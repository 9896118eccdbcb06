//! `tls` of a DestinationRule's policy.

use crate::mesh::SpiffeId;
use crate::mesh::origination::{
    Asks, KeyPair, NameMatch, Named, Origination, Pem, Roots, Shown, Verify,
};
use crate::mesh::world::TlsPolicy;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// Istio's word for the roots of the proxy's machine.
const SYSTEM: &str = "system";

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Disable,
    IstioMutual,
    Simple,
    Mutual,
}

/// `code` is that of a policy that does not say whom it believes, which depends on where it stands.
pub(super) fn tls(value: &Value<'_>, code: &str) -> Option<TlsPolicy> {
    let fields = value.fields();
    let mode = fields.require("mode").and_then(|value| {
        value.choice(&[
            ("DISABLE", Mode::Disable),
            ("ISTIO_MUTUAL", Mode::IstioMutual),
            ("SIMPLE", Mode::Simple),
            ("MUTUAL", Mode::Mutual),
        ])
    });
    let found = match mode? {
        mode @ (Mode::Disable | Mode::IstioMutual) => {
            for name in [
                "clientCertificate",
                "privateKey",
                "caCertificates",
                "caCrl",
                "credentialName",
                "insecureSkipVerify",
            ] {
                fields.refuse(name, "certificates are the mesh's own");
            }
            let sni = fields.text("sni").unwrap_or_default();
            let principals = fields.list("subjectAltNames");
            let principals = principals.iter().filter_map(principal).collect();
            if mode == Mode::Disable {
                TlsPolicy::Disable
            } else {
                TlsPolicy::Mutual { sni, principals }
            }
        }
        mode => {
            let origination = originate(value, &fields, mode == Mode::Mutual, code);
            TlsPolicy::Originate(Box::new(origination))
        }
    };
    fields.finish();
    Some(found)
}

/// A workload of the mesh has one name, and it is of this form.
fn principal(value: &Value<'_>) -> Option<SpiffeId> {
    let text = value.text()?;
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            value.error(format!("{error}"));
            None
        }
    }
}

fn originate(value: &Value<'_>, fields: &Fields<'_>, mutual: bool, code: &str) -> Origination {
    fields.refuse(
        "credentialName",
        "write files of the proxy's machine: caCertificates, clientCertificate, privateKey",
    );
    let certificate = certificate(value, fields, mutual);
    let names: Vec<String> = fields.text_list("subjectAltNames");
    let sni = fields.text("sni").filter(|name| !name.is_empty());
    let anybody = fields.boolean("insecureSkipVerify").unwrap_or_default();
    let roots = file(fields, "caCertificates");
    let revoked = file(fields, "caCrl").map(Pem::File);
    if anybody {
        let said = [roots.is_some(), revoked.is_some(), !names.is_empty()];
        if said.contains(&true) {
            value.error_hint(
                "insecureSkipVerify believes anybody",
                "remove it, or caCertificates, caCrl and subjectAltNames",
            );
        }
    } else if roots.is_none() {
        value.warn(
            code,
            "without caCertificates a server is believed by the roots of the proxy's machine",
            "name a file with the roots that issue its certificate, or write caCertificates: system",
        );
    }
    if !anybody && sni.is_some() && names.is_empty() {
        value.warn(
            codes::IGNORED,
            "with sni and without subjectAltNames the certificate may name anybody, as in Istio",
            "add subjectAltNames, or remove sni: then it must name the host that is asked for",
        );
    }
    let asks_by_request = sni.is_none();
    let verify = (!anybody).then(|| Verify {
        roots: match roots {
            Some(path) if path != SYSTEM => Roots::Given(Pem::File(path)),
            _ => Roots::System,
        },
        revoked,
        names: if names.is_empty() && asks_by_request {
            Named::Asked
        } else {
            Named::Any(names.into_iter().map(NameMatch::Exact).collect())
        },
    });
    Origination {
        asks: sni.map_or(Asks::Requested, Asks::Name),
        verify,
        certificate: certificate.map(Shown::Pair),
    }
}

fn certificate(value: &Value<'_>, fields: &Fields<'_>, mutual: bool) -> Option<KeyPair> {
    let (chain, key) = (
        file(fields, "clientCertificate"),
        file(fields, "privateKey"),
    );
    if mutual && (chain.is_none() || key.is_none()) && fields.get("credentialName").is_none() {
        value.error_hint(
            "mode MUTUAL needs a certificate to show",
            "clientCertificate and privateKey: files of the proxy's machine",
        );
    }
    if !mutual && (chain.is_some() || key.is_some()) {
        value.error_hint("mode SIMPLE shows no certificate", "write mode: MUTUAL");
    }
    mutual.then_some(KeyPair {
        chain: Pem::File(chain?),
        key: Pem::File(key?),
    })
}

/// A path; nothing counts as none, as in Istio.
fn file(fields: &Fields<'_>, name: &'static str) -> Option<String> {
    let value = fields.get(name)?;
    let path = value.text().filter(|path| !path.is_empty())?;
    if !path.starts_with('/') && path != SYSTEM {
        value.error_hint(
            format!("{path:?} is no absolute path"),
            "a file on the proxy's machine, such as /etc/certs/ca.pem",
        );
    }
    Some(path)
}
