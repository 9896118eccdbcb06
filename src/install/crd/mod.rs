//! The definitions of the kinds that the mesh reads, as an API server takes them.
//!
//! They are written in `assets/crds/*.schema`, in a notation of our own (`notation`), and made into
//! CustomResourceDefinitions of `apiextensions.k8s.io/v1` here (`expand`). An API server drops every
//! field that a definition does not know, so a kind of somebody else's is written down whole, also
//! what is not read here: the objects of an Istio that comes later survive.
//!
//! Defined are all kinds that `resource` reads and Kubernetes does not have. Of the kinds that are
//! refused by name, `EnvoyFilter` and `WasmPlugin` are defined too: charts bring them, and whoever
//! applies one is told the native way, where a cluster without the kind says only that it has no match
//! for it. The others are gone from where they came from, or too young for anybody to bring them.

mod expand;
mod notation;
#[cfg(test)]
mod tests;

use serde_json::Value;

/// A file of definitions: its name, and its text.
const FILES: [(&str, &str); 4] = [
    (
        "istio.schema",
        include_str!("../../../assets/crds/istio.schema"),
    ),
    (
        "gateway-api.schema",
        include_str!("../../../assets/crds/gateway-api.schema"),
    ),
    (
        "meshctl.schema",
        include_str!("../../../assets/crds/meshctl.schema"),
    ),
    (
        "imported.schema",
        include_str!("../../../assets/crds/imported.schema"),
    ),
];

/// A mistake in a file of definitions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
struct Fault {
    line: usize,
    message: String,
}

/// Every CustomResourceDefinition, in the order of the files.
///
/// # Panics
///
/// When a file that is built in is not in its notation, which tests exclude.
pub fn crds() -> Vec<Value> {
    let all = FILES.iter().flat_map(|(name, text)| {
        definitions(text).unwrap_or_else(|fault| unreadable(name, &fault))
    });
    all.collect()
}

#[expect(
    clippy::panic,
    reason = "the files are built in, and tests read each of them"
)]
fn unreadable(name: &str, fault: &Fault) -> Vec<Value> {
    panic!("{name}, {fault}")
}

/// The definitions of one file.
fn definitions(text: &str) -> Result<Vec<Value>, Fault> {
    expand::expand(&notation::read(text)?)
}
