//! Gateway.

use std::net::IpAddr;

use super::GROUP;
use super::listener_tls::{self, ClientValidation, ListenerTls, PortValidation};
use super::reference::{ObjectRef, hostname, object_ref, word};
use crate::mesh::Hostname;
use crate::resource::labels::{LabelSelector, label_selector};
use crate::resource::reader::{Fields, Value};

/// A Gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gateway {
    /// Name of its class.
    pub class: String,
    /// In order.
    pub listeners: Vec<Listener>,
    /// Where it is to be reached.
    pub addresses: Vec<AddressRequest>,
    /// What callers of all HTTPS ports must show, and of some.
    pub validation: Option<ClientValidation>,
    /// In place of `validation`, by port.
    pub ports: Vec<PortValidation>,
    /// What backends are shown where a policy says that they are spoken to in TLS.
    pub client_certificate: Option<ObjectRef>,
    /// Parameters are referred to, of which there are none here.
    pub parameters: bool,
}

impl Gateway {
    /// Whether callers of some port need no good certificate where one is asked for.
    pub fn lets_in_anybody(&self) -> bool {
        let ports = self.ports.iter().map(|port| &port.validation);
        let mut all = ports.chain([&self.validation]).flatten();
        all.any(|validation| validation.insecure)
    }
}

/// An address that a Gateway is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressRequest {
    /// This one.
    Ip(IpAddr),
    /// Any of a kind.
    Any,
    /// Of a type that is not served.
    Other(String),
}

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique in the Gateway.
    pub name: String,
    /// For requests to this host; for all when absent.
    pub hostname: Option<Hostname>,
    /// The port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// What happens to TLS.
    pub tls: Option<ListenerTls>,
    /// Who may attach routes.
    pub allowed: AllowedRoutes,
}

/// What is spoken at a listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Requests.
    Http,
    /// Requests in TLS.
    Https,
    /// TLS.
    Tls,
    /// Bytes.
    Tcp,
    /// Something that is not served.
    Other(String),
}

impl Protocol {
    /// As it is written.
    pub fn name(&self) -> &str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Other(name) => name,
        }
    }
}

/// Which routes a listener takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AllowedRoutes {
    /// From where.
    pub from: From,
    /// Of which kinds; those of its protocol when absent.
    pub kinds: Vec<RouteKind>,
}

/// Namespaces whose routes are taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum From {
    /// That of the Gateway.
    #[default]
    Same,
    /// All.
    All,
    /// None.
    None,
    /// Those with these labels.
    Selector(LabelSelector),
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteKind {
    /// Its group.
    pub group: String,
    /// Its name.
    pub kind: String,
}

pub(in crate::resource) fn gateway(fields: &Fields<'_>) -> Gateway {
    let Some(spec) = fields.require("spec") else {
        return Gateway::default();
    };
    let spec = spec.fields();
    let class = spec
        .require("gatewayClassName")
        .and_then(|value| value.text());
    let written = spec.list("listeners");
    if written.is_empty() {
        spec.value.error_hint(
            "a Gateway needs a listener",
            "listeners: [{name: http, port: 80, protocol: HTTP}]",
        );
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for value in &written {
        let Some(listener) = listener(value) else {
            continue;
        };
        if listeners.iter().any(|other| other.name == listener.name) {
            value.error_hint(
                format!("there are two listeners {:?}", listener.name),
                "give each a name of its own",
            );
        }
        let same = |other: &Listener| {
            (other.port, &other.protocol, &other.hostname)
                == (listener.port, &listener.protocol, &listener.hostname)
        };
        if listeners.iter().any(same) {
            value.error_hint(
                "another listener has the same port, protocol and hostname",
                "give each a hostname of its own, or write one listener",
            );
        }
        listeners.push(listener);
    }
    let addresses = spec.list("addresses").iter().filter_map(address).collect();
    let (validation, ports, client_certificate) = spec
        .get("tls")
        .map(|value| gateway_tls(&value))
        .unwrap_or_default();
    let mut parameters = false;
    if let Some(value) = spec.get("infrastructure") {
        let fields = value.fields();
        for field in ["labels", "annotations"] {
            if let Some(value) = fields.get(field) {
                value.warn(
                    crate::resource::codes::IGNORED,
                    format!("{field} are for what is made for a Gateway in a cluster"),
                    "it is for what runs a proxy for each Gateway, in a cluster; elsewhere proxies are started by `meshctl proxy --gateway`, with --labels",
                );
            }
        }
        parameters = fields.get("parametersRef").is_some();
        fields.finish();
    }
    if let Some(value) = spec.get("allowedListeners") {
        listener_sets(&value);
    }
    if let Some(value) = spec.get("defaultScope")
        && value.text().is_some_and(|scope| scope != "None")
    {
        value.refuse(
            "\"defaultScope\" is not honoured: no Gateway here is a default one",
            "name the Gateway among parentRefs of each route",
        );
    }
    spec.finish();
    Gateway {
        class: class.unwrap_or_default(),
        listeners,
        addresses,
        validation,
        ports,
        client_certificate,
        parameters,
    }
}

/// There are no ListenerSets here, so to allow none is all that can be done.
fn listener_sets(value: &Value<'_>) {
    let fields = value.fields();
    if let Some(namespaces) = fields.get("namespaces") {
        let within = namespaces.fields();
        if let Some(from) = within.get("from")
            && word(&from, &["All", "Selector", "Same", "None"]).is_some_and(|from| from != "None")
        {
            from.refuse(
                "listeners of ListenerSets are not honoured by meshctl yet",
                "write them into the Gateway, and None here",
            );
        }
        within.ignore("selector", "no ListenerSets are taken");
        within.finish();
    }
    fields.finish();
}

/// What callers must show, at all ports and at some, and what backends are shown.
fn gateway_tls(
    value: &Value<'_>,
) -> (
    Option<ClientValidation>,
    Vec<PortValidation>,
    Option<ObjectRef>,
) {
    let fields = value.fields();
    let shown = fields.get("backend").and_then(|value| {
        let fields = value.fields();
        let shown = fields.get("clientCertificateRef").and_then(|value| {
            let fields = value.fields();
            let found = object_ref(&fields, "", "Secret");
            fields.finish();
            found
        });
        fields.finish();
        shown
    });
    let found = fields.get("frontend").map(|value| {
        let fields = value.fields();
        let default = fields.require("default");
        let default = default.and_then(|value| listener_tls::validation(&value));
        let ports = fields.list("perPort");
        let ports: Vec<PortValidation> = ports.iter().filter_map(listener_tls::per_port).collect();
        fields.finish();
        (default, ports)
    });
    fields.finish();
    let (validation, ports) = found.unwrap_or_default();
    (validation, ports, shown)
}

fn address(value: &Value<'_>) -> Option<AddressRequest> {
    let fields = value.fields();
    let kind = fields
        .text("type")
        .unwrap_or_else(|| "IPAddress".to_owned());
    let text = fields.get("value");
    fields.finish();
    let text = text.filter(|value| value.tree.text() != Some(""));
    Some(match (kind.as_str(), text) {
        ("IPAddress", None) => AddressRequest::Any,
        ("IPAddress", Some(value)) => {
            let text = value.text()?;
            let Ok(ip) = text.parse() else {
                value.error_hint(format!("{text:?} is no IP address"), "such as 192.0.2.1");
                return None;
            };
            AddressRequest::Ip(ip)
        }
        (other, _) => AddressRequest::Other(other.to_owned()),
    })
}

fn listener(value: &Value<'_>) -> Option<Listener> {
    let fields = value.fields();
    let name = fields.require("name").and_then(|value| value.text());
    let port = fields.require("port").and_then(|value| value.port());
    let protocol = fields.require("protocol").and_then(|value| {
        Some(match value.text()?.as_str() {
            "HTTP" => Protocol::Http,
            "HTTPS" => Protocol::Https,
            "TLS" => Protocol::Tls,
            "TCP" => Protocol::Tcp,
            other => Protocol::Other(other.to_owned()),
        })
    });
    let bytes = matches!(&protocol, Some(Protocol::Tcp))
        || protocol == Some(Protocol::Other("UDP".to_owned()));
    let host = fields
        .get("hostname")
        .filter(|value| value.tree.text() != Some(""));
    let host = host.and_then(|value| {
        if bytes {
            value.error_hint(
                "bytes are for no hostname",
                "remove it, or write protocol: HTTP",
            );
        }
        hostname(&value)
    });
    let tls = fields.get("tls").map(|value| {
        if bytes || protocol == Some(Protocol::Http) {
            value.error_hint(
                "there is no TLS at a listener of this protocol",
                "remove it, or write protocol: HTTPS or TLS",
            );
        }
        listener_tls::listener_tls(&value, protocol.as_ref())
    });
    if protocol == Some(Protocol::Tls) && tls.as_ref().is_none_or(|tls| !tls.said) {
        value.error_hint(
            "a listener of protocol TLS must say what happens to it",
            "tls: {mode: Passthrough}, or mode: Terminate with certificateRefs",
        );
    }
    let allowed = fields.get("allowedRoutes").map(|value| allowed(&value));
    fields.finish();
    Some(Listener {
        name: name?,
        hostname: host,
        port: port?,
        protocol: protocol?,
        tls,
        allowed: allowed.unwrap_or_default(),
    })
}

fn allowed(value: &Value<'_>) -> AllowedRoutes {
    let fields = value.fields();
    let from = fields.get("namespaces").map(|value| {
        let within = value.fields();
        let from = within
            .get("from")
            .and_then(|value| word(&value, &["All", "Selector", "Same", "None"]));
        let selector = within.get("selector");
        within.finish();
        match (from, selector) {
            (Some("Selector"), Some(selector)) => From::Selector(label_selector(&selector)),
            (Some("Selector"), None) => {
                value.error_hint(
                    "a selector is missing",
                    "selector: {matchLabels: {…}}, or from: All",
                );
                From::None
            }
            (from, selector) => {
                if let Some(selector) = selector {
                    selector.warn(
                        crate::resource::codes::IGNORED,
                        "a selector has no effect without `from: Selector`",
                        "write from: Selector, or remove it",
                    );
                }
                match from {
                    Some("All") => From::All,
                    Some("None") => From::None,
                    _ => From::Same,
                }
            }
        }
    });
    let kinds = fields.list("kinds");
    let kinds = kinds.iter().filter_map(|value| {
        let fields = value.fields();
        let group = fields.text("group").unwrap_or_else(|| GROUP.to_owned());
        let kind = fields.require("kind").and_then(|value| value.text());
        fields.finish();
        Some(RouteKind { group, kind: kind? })
    });
    let kinds = kinds.collect();
    fields.finish();
    AllowedRoutes {
        from: from.unwrap_or_default(),
        kinds,
    }
}
