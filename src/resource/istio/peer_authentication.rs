//! PeerAuthentication, and what became of the kinds before it.

use std::collections::BTreeMap;

use crate::mesh::world::MtlsMode;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::{Node, Tree};

/// A PeerAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Labels of the workloads; none: the whole namespace.
    pub selector: BTreeMap<String, String>,
    /// `None` inherits.
    pub mode: Option<MtlsMode>,
    /// By container port; `None` inherits.
    pub ports: BTreeMap<u16, Option<MtlsMode>>,
}

pub(in crate::resource) fn peer_authentication(fields: &Fields<'_>) -> PeerAuthentication {
    let Some(spec) = fields.get("spec") else {
        return PeerAuthentication::default();
    };
    let spec = spec.fields();
    let selector = spec
        .get("selector")
        .map(|value| {
            let fields = value.fields();
            let labels = fields.texts("matchLabels");
            fields.finish();
            labels
        })
        .unwrap_or_default();
    let mut ports = BTreeMap::new();
    if let Some(value) = spec.get("portLevelMtls") {
        if selector.is_empty() {
            value.error_hint(
                "modes by port need a selector",
                "selector: {matchLabels: {app: …}}",
            );
        }
        for (port, value) in value.entries() {
            match port.parse::<u16>() {
                Ok(number) if number > 0 => {
                    ports.insert(number, mode(&value));
                }
                _ => value.error(format!("expected a port from 1 to 65535, found {port:?}")),
            }
        }
    }
    let authentication = PeerAuthentication {
        selector,
        mode: spec.get("mtls").and_then(|value| mode(&value)),
        ports,
    };
    spec.finish();
    authentication
}

fn mode(value: &Value<'_>) -> Option<MtlsMode> {
    let fields = value.fields();
    let found = fields.get("mode").and_then(|value| {
        value.choice(&[
            ("UNSET", None),
            ("DISABLE", Some(MtlsMode::Disable)),
            ("PERMISSIVE", Some(MtlsMode::Permissive)),
            ("STRICT", Some(MtlsMode::Strict)),
        ])
    });
    fields.finish();
    found.flatten()
}

/// How to write an old Policy today, from what it says.
pub(in crate::resource) fn modern_policy(tree: &Tree, name: &str, namespace: &str) -> String {
    let spec = tree.get("spec");
    let labels = |tree: &Tree| match &tree.node {
        Node::Map(entries) => entries
            .iter()
            .filter_map(|(key, value)| Some(format!("{}: {}", key.text, value.text()?)))
            .collect::<Vec<_>>()
            .join(", "),
        _ => String::new(),
    };
    let selector = spec
        .and_then(|spec| spec.get("podSelector").or_else(|| spec.get("selector")))
        .map(|selector| labels(selector.get("matchLabels").unwrap_or(selector)))
        .filter(|labels| !labels.is_empty());
    let peers = spec.and_then(|spec| spec.get("peers")).map(|t| &t.node);
    let mode = match peers {
        Some(Node::List(peers)) => peers.iter().find_map(|peer| {
            let inside = peer.get("mtls").and_then(|mtls| mtls.get("mode"));
            inside.or_else(|| peer.get("mode")).and_then(Tree::text)
        }),
        _ => None,
    };
    let mut lines = vec![
        "write it today as".to_owned(),
        "  apiVersion: security.istio.io/v1".to_owned(),
        "  kind: PeerAuthentication".to_owned(),
        "  metadata:".to_owned(),
        format!(
            "    name: {}",
            if name.is_empty() { "default" } else { name }
        ),
    ];
    if !namespace.is_empty() {
        lines.push(format!("    namespace: {namespace}"));
    }
    lines.push("  spec:".to_owned());
    if let Some(selector) = selector {
        lines.push("    selector:".to_owned());
        lines.push(format!("      matchLabels: {{{selector}}}"));
    }
    lines.push("    mtls:".to_owned());
    lines.push(format!("      mode: {}", mode.unwrap_or("STRICT")));
    lines.join("\n")
}
