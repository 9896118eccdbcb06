//! VirtualService.

use super::http_route::{HttpRoute, http_route};
use super::stream_route::{StreamRoute, stream_route};
use crate::mesh::Hostname;
use crate::resource::reader::{Fields, Value};

/// A VirtualService.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VirtualService {
    /// As written; short names are of the rule's own namespace. None is a delegate, which is in force
    /// where others lead to it.
    pub hosts: Vec<String>,
    /// As written; empty is `mesh`.
    pub gateways: Vec<String>,
    /// Namespaces that see it: names, `.` and `*`; empty is `*`.
    pub export_to: Vec<String>,
    /// The first match wins.
    pub http: Vec<HttpRoute>,
    /// Bytes of TLS, by server name.
    pub tls: Vec<StreamRoute>,
    /// Bytes.
    pub tcp: Vec<StreamRoute>,
}

pub(in crate::resource) fn virtual_service(fields: &Fields<'_>) -> VirtualService {
    let Some(spec) = fields.require("spec") else {
        return VirtualService::default();
    };
    let spec = spec.fields();
    let hosts = spec.list("hosts");
    if hosts.is_empty() {
        delegate(&spec);
    }
    let streams = |name: &'static str, tls| {
        let list = spec.list(name);
        list.iter().map(|value| stream_route(value, tls)).collect()
    };
    let service = VirtualService {
        hosts: hosts.iter().filter_map(host).collect(),
        gateways: spec.text_list("gateways"),
        export_to: spec.text_list("exportTo"),
        http: spec.list("http").iter().map(http_route).collect(),
        tls: streams("tls", true),
        tcp: streams("tcp", false),
    };
    if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
        spec.value.error_hint(
            "a VirtualService needs a route",
            "http: [{route: [{destination: {host: reviews}}]}]",
        );
    }
    spec.finish();
    service
}

/// What may not stand in a delegate.
fn delegate(spec: &Fields<'_>) {
    let none = |fields: &Fields<'_>, name: &'static str| {
        if let Some(value) = fields.get(name) {
            value.error_hint(
                format!("a VirtualService without hosts, to which others delegate, has no {name}"),
                "give it hosts, such as hosts: [reviews], or remove this",
            );
        }
    };
    for name in ["gateways", "tls", "tcp"] {
        none(spec, name);
    }
    for route in spec.list("http") {
        let fields = route.fields();
        none(&fields, "delegate");
        for condition in fields.list("match") {
            none(&condition.fields(), "gateways");
        }
    }
}

/// A host name, short or full; addresses are for gateways only.
pub(super) fn host(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.parse::<Hostname>().is_err() || text.parse::<std::net::IpAddr>().is_ok() {
        value.error_hint(
            format!("{text:?} is not a host name"),
            "such as reviews, reviews.prod, or reviews.prod.svc.cluster.local",
        );
        return None;
    }
    Some(text)
}
