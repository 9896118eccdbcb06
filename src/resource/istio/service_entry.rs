//! ServiceEntry.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::mesh::service::{Entry, External, Resolution, TargetPort};
use crate::mesh::{Hostname, Locality, Protocol, ServicePort};
use crate::resource::kube::unique;
use crate::resource::reader::{Fields, Value};

/// A ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// At least one.
    pub hosts: Vec<Hostname>,
    /// Virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// In order.
    pub ports: Vec<ServicePort>,
    /// Where its hosts are.
    pub external: External,
    /// Labels of the workloads that back it; none: what `external` says.
    pub selector: BTreeMap<String, String>,
    /// Namespaces that see it, as written (`.` is its own, `*` all); empty is all.
    pub export_to: Vec<String>,
}

const MESH_INTERNAL: bool = true;

pub(in crate::resource) fn service_entry(fields: &Fields<'_>) -> ServiceEntry {
    let Some(spec) = fields.require("spec") else {
        return ServiceEntry::default();
    };
    let spec = spec.fields();
    let hosts = hosts(&spec);
    let addresses = addresses(&spec);
    let written = spec.list("ports");
    let ports: Vec<ServicePort> = written.iter().filter_map(port).collect();
    let claims = ports
        .iter()
        .map(|port| (port.port, port.name.as_str(), false));
    unique(&written, &claims.collect::<Vec<_>>());
    let internal = spec.get("location").and_then(|value| {
        value.choice(&[
            ("MESH_EXTERNAL", !MESH_INTERNAL),
            ("MESH_INTERNAL", MESH_INTERNAL),
        ])
    });
    let resolution = resolution(&spec);
    let endpoints: Vec<Entry> = spec
        .list("endpoints")
        .iter()
        .filter_map(|value| endpoint(value, resolution, &ports))
        .collect();
    let selector = spec
        .get("workloadSelector")
        .map(|value| {
            let fields = value.fields();
            let labels = fields.texts("labels");
            if labels.is_empty() {
                value.error_hint("it chooses nothing", "labels: {app: …}");
            }
            fields.finish();
            labels
        })
        .unwrap_or_default();
    let names = spec.text_list("subjectAltNames");
    consistent(&spec, &hosts, &endpoints, (resolution, &selector));
    let export_to = spec.text_list("exportTo");
    spec.finish();
    ServiceEntry {
        hosts,
        addresses,
        ports,
        external: External {
            internal: internal.unwrap_or_default(),
            resolution,
            endpoints,
            names,
        },
        selector,
        export_to,
    }
}

fn hosts(spec: &Fields<'_>) -> Vec<Hostname> {
    let written = spec.list("hosts");
    if written.is_empty() {
        spec.value
            .error_hint("a ServiceEntry needs a host", "hosts: [api.example.com]");
    }
    let mut hosts: Vec<Hostname> = Vec::new();
    for value in &written {
        let Some(text) = value.text() else { continue };
        match text.parse::<Hostname>() {
            Ok(host) if host.as_str() == "*" => value.error_hint(
                "\"*\" would be every host",
                "name the domain, such as \"*.example.com\"",
            ),
            Ok(host) if hosts.contains(&host) => {
                value.error_hint(format!("{host} is written twice"), "remove one of them");
            }
            Ok(host) => hosts.push(host),
            Err(error) => value.error(error.to_string()),
        }
    }
    hosts
}

fn addresses(spec: &Fields<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for value in spec.list("addresses") {
        let Some(text) = value.text() else { continue };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text.as_str(), None),
        };
        match address.parse::<IpAddr>() {
            Ok(address) => {
                let whole = if address.is_ipv4() { "32" } else { "128" };
                if length.is_some_and(|length| length != whole) {
                    value.refuse(
                        format!("a range of addresses ({text}) is not honoured by meshctl yet"),
                        "write the addresses one by one",
                    );
                }
                addresses.push(address);
            }
            Err(_) => value.error_hint(
                format!("expected an address, found {text:?}"),
                "such as 10.1.2.3, or nothing at all: the mesh gives it one",
            ),
        }
    }
    addresses
}

fn port(value: &Value<'_>) -> Option<ServicePort> {
    let fields = value.fields();
    let number = fields.require("number").and_then(|value| value.port());
    let name = fields.require("name").and_then(|value| value.text());
    let protocol = fields.get("protocol").and_then(|value| protocol(&value));
    let target = fields.port("targetPort");
    fields.finish();
    let (number, name) = (number?, name?);
    Some(ServicePort {
        name,
        port: number,
        target: TargetPort::Number(target.unwrap_or(number)),
        protocol: protocol.unwrap_or_default(),
    })
}

pub(super) fn protocol(value: &Value<'_>) -> Option<Protocol> {
    let text = value.text()?;
    let known = match text.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP_PROXY" => Protocol::Http,
        "GRPC-WEB" => Protocol::GrpcWeb,
        "HTTP2" => Protocol::Http2,
        "GRPC" => Protocol::Grpc,
        "HTTPS" | "TLS" => Protocol::Tls,
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => Protocol::Tcp,
        _ => {
            value.error(format!(
                "expected one of HTTP, HTTPS, HTTP2, GRPC, MONGO, TCP, TLS, found {text:?}"
            ));
            return None;
        }
    };
    Some(known)
}

fn resolution(spec: &Fields<'_>) -> Resolution {
    let Some(value) = spec.get("resolution") else {
        return Resolution::None;
    };
    if value.tree.text() == Some("DYNAMIC_DNS") {
        value.refuse(
            "\"DYNAMIC_DNS\" is not honoured by meshctl yet",
            "DNS for hosts that are known, NONE for the others",
        );
        return Resolution::None;
    }
    let found = value.choice(&[
        ("NONE", Resolution::None),
        ("STATIC", Resolution::Static),
        ("DNS", Resolution::Dns),
        ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
    ]);
    found.unwrap_or_default()
}

fn endpoint(value: &Value<'_>, resolution: Resolution, ports: &[ServicePort]) -> Option<Entry> {
    let fields = value.fields();
    let address = fields.require("address").and_then(|value| {
        let text = value.text()?;
        let is_address = text.parse::<IpAddr>().is_ok();
        match resolution {
            Resolution::Static if text.starts_with("unix://") => {
                value.refuse(
                    "a Unix socket is not honoured by meshctl yet",
                    "an address and ports",
                );
                None
            }
            Resolution::Static if !is_address => {
                value.error_hint(
                    format!("expected an address, found {text:?}"),
                    "names need resolution: DNS",
                );
                None
            }
            _ if is_address
                || text
                    .parse::<Hostname>()
                    .is_ok_and(|name| !name.as_str().starts_with('*')) =>
            {
                Some(text)
            }
            _ => {
                value.error(format!("{text:?} is neither an address nor a DNS name"));
                None
            }
        }
    });
    let mut own = BTreeMap::new();
    if let Some(value) = fields.get("ports") {
        for (name, value) in value.entries() {
            if !ports.iter().any(|port| port.name == name) {
                value.error_hint(
                    format!("no port is named {name:?}"),
                    "name a port of spec.ports",
                );
            }
            own.extend(value.port().map(|port| (name.to_owned(), port)));
        }
    }
    let entry = Entry {
        address: address.clone().unwrap_or_default(),
        ports: own,
        labels: fields.texts("labels"),
        locality: locality(&fields.text("locality").unwrap_or_default()),
        weight: fields.count("weight", u32::MAX).unwrap_or(1),
        account: fields.text("serviceAccount").unwrap_or_default(),
    };
    fields.ignore("network", "meshctl reaches all endpoints directly");
    fields.finish();
    address.map(|_| entry)
}

/// `region/zone/subzone`, as far as it is known.
pub(super) fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    }
}

/// Istio's own rules of what goes together.
fn consistent(
    spec: &Fields<'_>,
    hosts: &[Hostname],
    endpoints: &[Entry],
    (resolution, selector): (Resolution, &BTreeMap<String, String>),
) {
    let at = |field| spec.get(field).unwrap_or_else(|| spec.value.clone());
    let wildcard = hosts.iter().any(|host| host.as_str().starts_with('*'));
    if !selector.is_empty() && !endpoints.is_empty() {
        at("workloadSelector").error_hint(
            "a ServiceEntry has endpoints or a workloadSelector",
            "remove one of them",
        );
    }
    match resolution {
        Resolution::None if !endpoints.is_empty() => at("endpoints").error_hint(
            "endpoints have no effect with resolution NONE: calls go where callers mean",
            "resolution: STATIC for addresses, DNS for names",
        ),
        Resolution::Static if endpoints.is_empty() && selector.is_empty() => at("resolution")
            .error_hint(
                "resolution STATIC needs endpoints",
                "endpoints: [{address: 10.1.2.3}]",
            ),
        Resolution::Dns | Resolution::DnsRoundRobin if endpoints.is_empty() && wildcard => {
            at("hosts").error_hint(
                "a wildcard is no name that can be asked for",
                "name the host, add endpoints, or write resolution: NONE",
            );
        }
        Resolution::DnsRoundRobin if endpoints.len() > 1 => at("endpoints").error_hint(
            "resolution DNS_ROUND_ROBIN has one endpoint at most",
            "resolution: DNS",
        ),
        _ => {}
    }
}
