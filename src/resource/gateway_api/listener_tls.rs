//! What happens to TLS at a listener, and what its callers must show.

use super::gateway::Protocol;
use super::reference::{ObjectRef, object_ref, word};
use crate::resource::reader::Value;

/// Istio's option that makes a listener one of an east-west gateway.
const LISTENER_PROTOCOL: &str = "gateway.istio.io/listener-protocol";

/// What happens to TLS at a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerTls {
    /// Somebody has said so.
    pub said: bool,
    /// It goes on as it is; else it ends here.
    pub passthrough: bool,
    /// That of the mesh goes on to the service that its server name says, and no other does (Istio's option).
    pub auto: bool,
    /// What is shown to callers.
    pub certificates: Vec<ObjectRef>,
}

/// What callers must show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientValidation {
    /// Who must have signed it.
    pub roots: Vec<ObjectRef>,
    /// Who has none that is good is let in too, and is nobody.
    pub insecure: bool,
}

/// What callers of one port must show; nothing, where that is what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortValidation {
    /// The port.
    pub port: u16,
    /// What they must show.
    pub validation: Option<ClientValidation>,
}

pub(super) fn listener_tls(value: &Value<'_>, protocol: Option<&Protocol>) -> ListenerTls {
    let fields = value.fields();
    let written = fields.get("mode");
    let mode = written
        .as_ref()
        .and_then(|value| word(value, &["Terminate", "Passthrough"]));
    let passthrough = mode == Some("Passthrough");
    if let (true, Some(Protocol::Https), Some(value)) = (passthrough, protocol, &written) {
        value.error_hint(
            "TLS of a listener of protocol HTTPS ends there",
            "write protocol: TLS to let it pass, or mode: Terminate",
        );
    }
    let refs = fields.list("certificateRefs");
    let certificates: Vec<ObjectRef> = refs
        .iter()
        .filter_map(|value| {
            let fields = value.fields();
            let found = object_ref(&fields, "", "Secret");
            fields.finish();
            found
        })
        .collect();
    let options = fields.get("options");
    let mut auto = false;
    if let Some(options) = &options {
        for (name, value) in options.entries() {
            if name == LISTENER_PROTOCOL && value.tree.text() == Some("auto-passthrough") {
                auto = true;
                if !passthrough {
                    value.error_hint(
                        "mTLS that goes on to the service that its server name says does not end here",
                        "mode: Passthrough",
                    );
                }
                continue;
            }
            value.warn(
                crate::resource::codes::IGNORED,
                format!("option {name} is not known here and has no effect"),
                "versions and suites of TLS are set by a Gateway of networking.istio.io",
            );
        }
    }
    let no_options = options.is_none_or(|options| options.entries().is_empty());
    if !passthrough && refs.is_empty() && no_options {
        value.error_hint(
            "there is no certificate to end TLS with",
            "certificateRefs: [{name: …}], a Secret of type kubernetes.io/tls",
        );
    }
    if let (true, Some(first)) = (passthrough, refs.first()) {
        first.warn(
            crate::resource::codes::IGNORED,
            "TLS that passes needs no certificate here",
            "remove certificateRefs",
        );
    }
    fields.finish();
    ListenerTls {
        said: mode.is_some(),
        passthrough,
        auto,
        certificates,
    }
}

/// `TLSConfig` of a frontend.
pub(super) fn validation(value: &Value<'_>) -> Option<ClientValidation> {
    let fields = value.fields();
    let found = fields.get("validation").map(|value| {
        let fields = value.fields();
        let refs = fields.list("caCertificateRefs");
        if refs.is_empty() {
            value.error_hint(
                "nobody is named whom to believe",
                "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: …}]",
            );
        }
        let roots = refs.iter().filter_map(|value| {
            let fields = value.fields();
            let found = object_ref(&fields, "", "ConfigMap");
            fields.finish();
            found
        });
        let roots = roots.collect();
        let mode = fields.get("mode");
        let mode = mode.and_then(|value| {
            let mode = word(&value, &["AllowValidOnly", "AllowInsecureFallback"])?;
            if mode == "AllowInsecureFallback" {
                value.warn(
                    crate::resource::codes::INSECURE_CALLERS,
                    "callers without a good certificate are let in, and the application must tell them apart",
                    "write AllowValidOnly",
                );
            }
            Some(mode)
        });
        fields.finish();
        ClientValidation {
            roots,
            insecure: mode == Some("AllowInsecureFallback"),
        }
    });
    fields.finish();
    found
}

pub(super) fn per_port(value: &Value<'_>) -> Option<PortValidation> {
    let fields = value.fields();
    let port = fields.require("port").and_then(|value| value.port());
    let tls = fields.require("tls");
    let validation = tls.and_then(|value| validation(&value));
    fields.finish();
    Some(PortValidation {
        port: port?,
        validation,
    })
}
