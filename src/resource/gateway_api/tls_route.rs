//! TLSRoute.

use super::reference::{ParentRef, RouteBackend, hostnames, parents};
use super::tcp_route::{backends, only_rule};
use crate::mesh::Hostname;
use crate::resource::reader::Fields;

/// A TLSRoute: connections by the server name that their TLS asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsRoute {
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Server names; for all of its parents when empty.
    pub hostnames: Vec<Hostname>,
    /// Where connections go.
    pub backends: Vec<RouteBackend>,
}

pub(in crate::resource) fn tls_route(fields: &Fields<'_>) -> TlsRoute {
    let Some(spec) = fields.require("spec") else {
        return TlsRoute::default();
    };
    let spec = spec.fields();
    let names = hostnames(&spec);
    if spec.list("hostnames").is_empty() {
        spec.value.error_hint(
            "a TLSRoute is for the server names that it lists",
            "hostnames: [shop.example.com]",
        );
    }
    let route = TlsRoute {
        parents: parents(&spec),
        hostnames: names,
        backends: only_rule(&spec, backends),
    };
    spec.finish();
    route
}
