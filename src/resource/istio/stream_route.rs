//! TCP and TLS routes of a VirtualService: where bytes go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::http_route::{RouteDestination, destinations};
use crate::mesh::Hostname;
use crate::resource::reader::Value;

/// One TCP or TLS route.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRoute {
    /// Any suffices; none is every connection.
    pub matches: Vec<StreamMatch>,
    /// By weight.
    pub destinations: Vec<RouteDestination>,
}

/// One `match` of a TCP or TLS route; all of its conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamMatch {
    /// TLS server names, exact or `*.suffix`; of TLS routes only.
    pub server_names: Vec<String>,
    /// Networks that the caller means.
    pub destinations: Vec<IpNet>,
    /// Only for connections to this port.
    pub port: Option<u16>,
    /// Only for callers with these labels.
    pub source_labels: BTreeMap<String, String>,
    /// Only for callers in this namespace.
    pub source_namespace: Option<String>,
    /// Instead of the gateways of the VirtualService.
    pub gateways: Vec<String>,
}

/// `tls` routes are told by their server names.
pub(super) fn stream_route(value: &Value<'_>, tls: bool) -> StreamRoute {
    let fields = value.fields();
    let written = fields.list("match");
    if tls && written.is_empty() {
        value.error_hint(
            "a TLS route needs the server names that it is for",
            "match: [{sniHosts: [db.example.com]}]",
        );
    }
    let route = StreamRoute {
        matches: written
            .iter()
            .map(|value| stream_match(value, tls))
            .collect(),
        destinations: fields
            .require("route")
            .map(|value| destinations(&value, false))
            .unwrap_or_default(),
    };
    fields.finish();
    route
}

fn stream_match(value: &Value<'_>, tls: bool) -> StreamMatch {
    let fields = value.fields();
    let mut server_names = Vec::new();
    if tls {
        let names = fields.list("sniHosts");
        if names.is_empty() {
            value.error_hint(
                "a TLS match needs server names",
                "sniHosts: [db.example.com]",
            );
        }
        server_names.extend(names.iter().filter_map(server_name));
    } else {
        fields.refuse("sourceSubnet", "choose callers by sourceLabels");
    }
    let found = StreamMatch {
        server_names,
        destinations: fields
            .list("destinationSubnets")
            .iter()
            .filter_map(subnet)
            .collect(),
        port: fields.port("port"),
        source_labels: fields.texts("sourceLabels"),
        source_namespace: fields.text("sourceNamespace"),
        gateways: fields.text_list("gateways"),
    };
    fields.finish();
    found
}

fn server_name(value: &Value<'_>) -> Option<String> {
    let name = value.text()?.to_ascii_lowercase();
    if name.parse::<Hostname>().is_err() {
        value.error_hint(
            format!("{name:?} is not a server name"),
            "such as db.example.com or *.example.com",
        );
        return None;
    }
    Some(name)
}

/// A network, or one address.
fn subnet(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let found = text.parse().ok().or_else(one);
    if found.is_none() {
        value.error_hint(
            format!("{text:?} is not a network"),
            "such as 10.1.0.0/16 or 10.1.2.3",
        );
    }
    found.map(|net: IpNet| net.trunc())
}
