//! Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::mesh::Protocol;
use crate::mesh::service::{Distribution, TargetPort};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Node;

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// In order.
    pub ports: Vec<Port>,
    /// Labels that a pod must carry; an empty selector chooses nothing.
    pub selector: BTreeMap<String, String>,
    /// Its virtual addresses.
    pub cluster_ip: ClusterIp,
    /// `type: ExternalName`: the name that it stands for.
    pub external_name: Option<String>,
    /// Which endpoints callers prefer.
    pub distribution: Option<Distribution>,
}

/// Where a service's virtual address comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClusterIp {
    /// Given by the mesh.
    #[default]
    Allocated,
    /// `None`: callers are given the pods themselves.
    Headless,
    /// Written in the manifest.
    Fixed(Vec<IpAddr>),
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Empty when there is one port only.
    pub name: String,
    /// The port that callers use.
    pub port: u16,
    /// The container's port; the same number when nothing is written.
    pub target: TargetPort,
    /// What is spoken there.
    pub protocol: Protocol,
}

pub(in crate::resource) fn service(fields: &Fields<'_>) -> Service {
    let Some(spec) = fields.require("spec") else {
        return Service::default();
    };
    let spec = spec.fields();
    spec.accept(&[
        "allocateLoadBalancerNodePorts",
        "externalIPs",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "internalTrafficPolicy",
        "ipFamilies",
        "ipFamilyPolicy",
        "loadBalancerClass",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
        "publishNotReadyAddresses",
        "sessionAffinityConfig",
        "topologyKeys",
    ]);
    let distribution = spec
        .get("trafficDistribution")
        .and_then(|value| distribution(&value));
    if let Some(affinity) = spec.get("sessionAffinity")
        && affinity.text().as_deref() == Some("ClientIP")
    {
        affinity.warn(
            codes::IGNORED,
            "session affinity has no effect on calls inside the mesh",
            "remove it, or keep it for callers outside the mesh",
        );
    }
    let kind = spec.get("type").and_then(|value| {
        value.choice(&[
            ("ClusterIP", "ClusterIP"),
            ("NodePort", "NodePort"),
            ("LoadBalancer", "LoadBalancer"),
            ("ExternalName", "ExternalName"),
        ])
    });
    let external_name = spec.text("externalName");
    let written = spec.list("ports");
    let ports: Vec<Port> = written
        .iter()
        .filter_map(|value| port(value, written.len()))
        .collect();
    let claims = ports.iter().map(|port| {
        (
            port.port,
            port.name.as_str(),
            port.protocol == Protocol::Udp,
        )
    });
    unique(&written, &claims.collect::<Vec<_>>());
    let headless_or_external = kind == Some("ExternalName");
    if written.is_empty()
        && !headless_or_external
        && spec.text("clusterIP").as_deref() != Some("None")
    {
        spec.value
            .error_hint("a service needs a port", "ports: [{name: http, port: 80}]");
    }
    let service = Service {
        ports,
        selector: spec.texts("selector"),
        cluster_ip: cluster_ip(&spec),
        external_name: headless_or_external.then_some(external_name).flatten(),
        distribution,
    };
    spec.finish();
    service
}

fn distribution(value: &Value<'_>) -> Option<Distribution> {
    let found = value.choice(&[
        ("PreferClose", Distribution::SameZone),
        ("PreferSameZone", Distribution::SameZone),
        ("PreferSameNode", Distribution::SameNode),
    ]);
    if found == Some(Distribution::SameNode) {
        value.warn(
            codes::IGNORED,
            "meshctl does not know yet which machine an endpoint runs on; those nearest beside are preferred",
            "write PreferSameZone",
        );
    }
    found
}

fn cluster_ip(spec: &Fields<'_>) -> ClusterIp {
    let mut written: Vec<Value<'_>> = spec.get("clusterIP").into_iter().collect();
    let more = spec.list("clusterIPs");
    if !more.is_empty() {
        written = more;
    }
    let mut addresses = Vec::new();
    for value in &written {
        match value.text().as_deref() {
            Some("None") => return ClusterIp::Headless,
            Some("") | None => {}
            Some(text) => match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => value.error_hint(
                    format!("expected an address, found {text:?}"),
                    "such as 10.0.0.1, None (headless), or nothing at all",
                ),
            },
        }
    }
    if addresses.is_empty() {
        ClusterIp::Allocated
    } else {
        ClusterIp::Fixed(addresses)
    }
}

fn port(value: &Value<'_>, of: usize) -> Option<Port> {
    let fields = value.fields();
    fields.accept(&["nodePort"]);
    let name = fields.text("name").unwrap_or_default();
    if name.is_empty() && of > 1 {
        value.error_hint(
            "a port needs a name where a service has several",
            "the name also says what is spoken: http, http-web, grpc, tcp-db …",
        );
    }
    let port = fields.require("port").and_then(|value| value.port());
    let target = fields.get("targetPort").and_then(|value| target(&value));
    let transport = fields
        .get("protocol")
        .and_then(|value| value.choice(&[("TCP", "TCP"), ("UDP", "UDP"), ("SCTP", "SCTP")]));
    let declared = fields.text("appProtocol");
    fields.finish();
    let port = port?;
    Some(Port {
        protocol: protocol(
            transport == Some("TCP") || transport.is_none(),
            declared.as_deref(),
            &name,
            port,
        ),
        name,
        port,
        target: target.unwrap_or(TargetPort::Number(port)),
    })
}

/// A number, or the name of a container port.
pub(super) fn target(value: &Value<'_>) -> Option<TargetPort> {
    if let Node::Text(text) = &value.tree.node {
        // Kubernetes takes a name only; a number in quotes names nothing.
        if text.is_empty() || text.bytes().all(|byte| byte.is_ascii_digit()) {
            value.error_hint(
                format!("expected a port or the name of one, found {text:?}"),
                "write a number without quotes",
            );
            return None;
        }
        return Some(TargetPort::Name(text.clone()));
    }
    value.port().map(TargetPort::Number)
}

/// Istio's protocol selection: `appProtocol`, else the port's name before the first `-`, else by port
/// where a server speaks first, else detection.
fn protocol(tcp: bool, declared: Option<&str>, name: &str, port: u16) -> Protocol {
    if !tcp {
        return Protocol::Udp;
    }
    let prefix = match declared {
        Some(declared) => declared.to_ascii_lowercase(),
        None if name.to_ascii_lowercase().starts_with("grpc-web") => "grpc-web".to_owned(),
        None => name
            .split('-')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase(),
    };
    match prefix.as_str() {
        "http" | "kubernetes.io/ws" => Protocol::Http,
        "grpc-web" => Protocol::GrpcWeb,
        "http2" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ if matches!(port, 25 | 53 | 3306 | 27017) => Protocol::Tcp,
        _ => Protocol::Auto,
    }
}

/// Reports numbers and names that come twice. `ports` are number, name, and whether it is UDP, of each
/// of `written`.
pub(in crate::resource) fn unique(written: &[Value<'_>], ports: &[(u16, &str, bool)]) {
    // A port with an error is missing from `ports`; then there is an error already.
    if written.len() != ports.len() {
        return;
    }
    for (index, (value, (port, name, udp))) in written.iter().zip(ports).enumerate() {
        let before = ports.get(..index).unwrap_or_default();
        if before
            .iter()
            .any(|(other, _, as_udp)| other == port && as_udp == udp)
        {
            value.error_hint(
                format!("port {port} is written twice"),
                "remove one of them",
            );
        } else if !name.is_empty() && before.iter().any(|(_, other, _)| other == name) {
            value.error_hint(
                format!("two ports are named {name:?}"),
                "give one of them another name",
            );
        }
    }
}
