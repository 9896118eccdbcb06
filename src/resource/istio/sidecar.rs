//! Sidecar.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::service_entry::protocol;
use crate::mesh::Hostname;
use crate::mesh::Protocol;
use crate::mesh::sidecar::{Egress, EgressHost, Ingress, IngressEndpoint, Space};
use crate::mesh::world::OutboundPolicy;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// A Sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// Labels of its workloads; none: all of the namespace.
    pub selector: BTreeMap<String, String>,
    /// What they know; none: everything.
    pub egress: Vec<Egress>,
    /// Where they take calls; none: wherever services say.
    pub ingress: Vec<Ingress>,
    /// What happens to calls to hosts that are not known.
    pub outbound: Option<OutboundPolicy>,
}

pub(in crate::resource) fn sidecar(fields: &Fields<'_>) -> Sidecar {
    let Some(spec) = fields.get("spec") else {
        return Sidecar::default();
    };
    let spec = spec.fields();
    let selector = spec.get("workloadSelector").map(|value| {
        let fields = value.fields();
        let labels = fields.texts("labels");
        fields.finish();
        labels
    });
    let listeners = spec.list("egress");
    let egress: Vec<Egress> = listeners.iter().map(egress).collect();
    for (index, (value, listener)) in listeners.iter().zip(&egress).enumerate() {
        if listener.port.is_none() && index + 1 < listeners.len() {
            value.error_hint(
                "one without a port is for all other ports, and so the last",
                "move it to the end, or add port: {number: …}",
            );
        }
    }
    let written = spec.list("ingress");
    let ingress: Vec<Ingress> = written.iter().filter_map(ingress).collect();
    for (index, value) in written.iter().enumerate() {
        let before = ingress.get(..index).unwrap_or_default();
        if ingress
            .get(index)
            .is_some_and(|own| before.iter().any(|other| other.port == own.port))
        {
            value.error_hint("this port is written twice", "remove one of them");
        }
    }
    spec.ignore(
        "inboundConnectionPool",
        "limits are where calls are made: DestinationRule connectionPool",
    );
    let outbound = spec
        .get("outboundTrafficPolicy")
        .and_then(|value| outbound(&value));
    spec.finish();
    Sidecar {
        selector: selector.unwrap_or_default(),
        egress,
        ingress,
        outbound,
    }
}

fn outbound(value: &Value<'_>) -> Option<OutboundPolicy> {
    let fields = value.fields();
    fields.refuse("egressProxy", "write a VirtualService for the hosts");
    let mode = fields.get("mode");
    // Istio's default where the policy is written without a mode.
    let found = mode.map_or(Some(OutboundPolicy::RegistryOnly), |value| {
        value.choice(&[
            ("REGISTRY_ONLY", OutboundPolicy::RegistryOnly),
            ("ALLOW_ANY", OutboundPolicy::AllowAny),
        ])
    });
    fields.finish();
    found
}

/// Redirected or not, nothing else is listened on than what the proxy listens on anyway.
fn capture(fields: &Fields<'_>) {
    fields.refuse("bind", "calls are taken where they are redirected from");
    if let Some(value) = fields.get("captureMode")
        && let Some(false) = value.choice(&[("DEFAULT", true), ("IPTABLES", true), ("NONE", false)])
    {
        value.refuse(
            "\"NONE\" is not honoured by meshctl yet",
            "remove it: callers without redirection use the proxy as an HTTP proxy",
        );
    }
}

fn egress(value: &Value<'_>) -> Egress {
    let fields = value.fields();
    let port = fields.get("port").and_then(|value| {
        let found = port(&value);
        // Its name is only a name.
        if let Some((_, name, _)) = &found
            && !name.is_empty()
        {
            value.warn(
                codes::IGNORED,
                "the name of a port has no meaning here",
                "remove it: hosts are chosen by number",
            );
        }
        found
    });
    capture(&fields);
    let hosts = fields.list("hosts");
    if hosts.is_empty() {
        value.error_hint("it names no host", "hosts: [\"./*\"]");
    }
    fields.finish();
    Egress {
        port: port.map(|(number, _, _)| number),
        hosts: hosts.iter().filter_map(host).collect(),
    }
}

/// `NAMESPACE/HOST`; one that is nobody's is none.
fn host(value: &Value<'_>) -> Option<EgressHost> {
    let text = value.text()?;
    let Some((space, name)) = text.split_once('/') else {
        value.error_hint(
            format!("{text:?} names no namespace"),
            format!("\"./{text}\" for the own one, \"*/{text}\" for all"),
        );
        return None;
    };
    let host = match name.parse::<Hostname>() {
        Ok(host) => host,
        Err(error) => {
            value.error(error.to_string());
            return None;
        }
    };
    if name != "*" && !name.contains('.') {
        value.error_hint(
            format!("{name:?} is no full name"),
            format!("such as {name}.default.svc.cluster.local"),
        );
    }
    let (excluded, space) = match space {
        "~" if name == "*" => return None,
        "~" => {
            value.error_hint(
                "\"~\" is nobody, and has no host",
                "\"~/*\", or a namespace",
            );
            return None;
        }
        other => match other.strip_prefix('~') {
            Some(named) => (true, named),
            None => (false, other),
        },
    };
    Some(EgressHost {
        excluded,
        space: match space {
            "*" => Space::Any,
            "." => Space::Own,
            named => Space::Named(named.to_owned()),
        },
        host,
    })
}

fn port(value: &Value<'_>) -> Option<(u16, String, Protocol)> {
    let fields = value.fields();
    let number = fields.require("number").and_then(|value| value.port());
    let spoken = fields
        .get("protocol")
        .and_then(|value| protocol(&value))
        .unwrap_or_default();
    let name = fields.text("name").unwrap_or_default();
    fields.ignore("targetPort", "Istio has no meaning for it either");
    fields.finish();
    Some((number?, name, spoken))
}

fn ingress(value: &Value<'_>) -> Option<Ingress> {
    let fields = value.fields();
    let port = fields.require("port").and_then(|value| port(&value));
    capture(&fields);
    fields.refuse(
        "tls",
        "callers of the mesh use its mTLS: see PeerAuthentication",
    );
    fields.ignore(
        "connectionPool",
        "limits are where calls are made: DestinationRule connectionPool",
    );
    let endpoint = fields
        .get("defaultEndpoint")
        .and_then(|value| endpoint(&value));
    fields.finish();
    let (port, name, protocol) = port?;
    Some(Ingress {
        port,
        name,
        protocol,
        endpoint,
    })
}

fn endpoint(value: &Value<'_>) -> Option<IngressEndpoint> {
    let text = value.text().filter(|text| !text.is_empty())?;
    if text.starts_with("unix:") {
        value.refuse(
            "a Unix socket is not honoured by meshctl yet",
            "127.0.0.1 and a port",
        );
        return None;
    }
    let known = |address: &SocketAddr| {
        let loopback = match address.ip() {
            IpAddr::V4(ip) => ip.octets() == [127, 0, 0, 1],
            IpAddr::V6(ip) => ip.is_loopback(),
        };
        loopback || address.ip().is_unspecified()
    };
    match text.parse::<SocketAddr>().ok().filter(known) {
        Some(address) if address.ip().is_unspecified() => {
            Some(IngressEndpoint::Own(address.port()))
        }
        Some(address) => Some(IngressEndpoint::Loopback(address)),
        None => {
            value.error_hint(
                format!("{text:?} is nowhere that the application may listen"),
                "127.0.0.1:PORT, [::1]:PORT, or 0.0.0.0:PORT for the workload's own address",
            );
            None
        }
    }
}
