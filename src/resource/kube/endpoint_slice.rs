//! EndpointSlice: addresses behind a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::resource::object::Metadata;
use crate::resource::reader::{Fields, Value};

/// The label by which a slice names its service.
pub(in crate::resource) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Some endpoints of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of the Service, in its namespace; empty when it names none.
    pub service: String,
    /// In order.
    pub endpoints: Vec<SliceEndpoint>,
    /// Name → number; the only port of a service may have the empty name.
    pub ports: BTreeMap<String, u16>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Kubernetes says that all of them are the same; the first is used.
    pub address: IpAddr,
    /// The pod, where there is one.
    pub pod: Option<String>,
    /// Where it is; may be empty.
    pub zone: String,
    /// The machine that it is on; may be empty.
    pub node: String,
    /// It may be called.
    pub ready: bool,
    /// It answers, be it at its end.
    pub serving: bool,
    /// It is at its end.
    pub terminating: bool,
}

pub(in crate::resource) fn endpoint_slice(
    fields: &Fields<'_>,
    metadata: &Metadata,
) -> EndpointSlice {
    let family = fields.require("addressType").and_then(|value| {
        let family = value.choice(&[("IPv4", "IPv4"), ("IPv6", "IPv6"), ("FQDN", "FQDN")])?;
        if family == "FQDN" {
            value.refuse(
                "endpoints that are names are not honoured in slices",
                "write a ServiceEntry (networking.istio.io/v1) with resolution: DNS",
            );
        }
        Some(family)
    });
    let endpoints = fields.list("endpoints");
    let endpoints = endpoints
        .iter()
        .filter_map(|value| endpoint(value, family))
        .collect();
    let ports = fields.list("ports");
    EndpointSlice {
        service: metadata
            .labels
            .get(SERVICE_NAME)
            .cloned()
            .unwrap_or_default(),
        endpoints,
        ports: ports.iter().filter_map(port).collect(),
    }
}

fn endpoint(value: &Value<'_>, family: Option<&str>) -> Option<SliceEndpoint> {
    let fields = value.fields();
    fields.accept(&["hostname", "deprecatedTopology"]);
    fields.ignore(
        "hints",
        "nearer endpoints are preferred by spec.trafficDistribution of the Service",
    );
    let addresses = fields.list("addresses");
    if addresses.is_empty() {
        value.error_hint("an endpoint needs an address", "addresses: [192.0.2.1]");
    }
    let read: Vec<IpAddr> = addresses
        .iter()
        .filter_map(|value| address(value, family?))
        .collect();
    let (mut ready, mut serving, mut terminating) = (None, None, None);
    if let Some(conditions) = fields.get("conditions") {
        let within = conditions.fields();
        ready = within.boolean("ready");
        serving = within.boolean("serving");
        terminating = within.boolean("terminating");
        within.finish();
    }
    let pod = fields.get("targetRef").and_then(|target| {
        let within = target.fields();
        within.accept(&[
            "apiVersion",
            "fieldPath",
            "namespace",
            "resourceVersion",
            "uid",
        ]);
        let (kind, name) = (within.text("kind"), within.text("name"));
        within.finish();
        name.filter(|_| kind.as_deref() == Some("Pod"))
    });
    let endpoint = SliceEndpoint {
        address: *read.first()?,
        pod,
        zone: fields.text("zone").unwrap_or_default(),
        node: fields.text("nodeName").unwrap_or_default(),
        // Unknown is ready, says the API; serving is ready where it is not said.
        ready: ready.unwrap_or(true),
        serving: serving.or(ready).unwrap_or(true),
        terminating: terminating.unwrap_or(false),
    };
    fields.finish();
    Some(endpoint)
}

fn address(value: &Value<'_>, family: &str) -> Option<IpAddr> {
    let text = value.text()?;
    let read: Option<IpAddr> = text.parse().ok();
    let meant = read.filter(|ip| match family {
        "IPv4" => ip.is_ipv4(),
        "IPv6" => ip.is_ipv6(),
        _ => false,
    });
    if meant.is_none() && family != "FQDN" {
        value.error_hint(
            format!("{text:?} is no address of addressType {family}"),
            "write addresses of one family in each slice",
        );
    }
    meant
}

fn port(value: &Value<'_>) -> Option<(String, u16)> {
    let fields = value.fields();
    fields.accept(&["appProtocol"]);
    let name = fields.text("name").unwrap_or_default();
    let port = fields.port("port");
    let transport = fields
        .get("protocol")
        .and_then(|value| value.choice(&[("TCP", "TCP"), ("UDP", "UDP"), ("SCTP", "SCTP")]));
    fields.finish();
    let tcp = matches!(transport, None | Some("TCP"));
    Some((name, port?)).filter(|_| tcp)
}
