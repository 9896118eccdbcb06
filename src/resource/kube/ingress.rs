//! Ingress and IngressClass.

use crate::mesh::Hostname;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Node;

/// An Ingress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingress {
    /// `ingressClassName`.
    pub class: Option<String>,
    /// What requests get for which there is no path.
    pub default: Option<IngressBackend>,
    /// In order.
    pub rules: Vec<IngressRule>,
    /// In order.
    pub tls: Vec<IngressTls>,
}

/// The paths of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressRule {
    /// The host, or `*.` and one label less; `None` is every host.
    pub host: Option<Hostname>,
    /// In order; none leaves the host to the default backend.
    pub paths: Vec<IngressPath>,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressPath {
    /// As written; empty is every path.
    pub path: String,
    /// How it is meant.
    pub kind: PathType,
    /// Who answers.
    pub backend: IngressBackend,
}

/// How a path is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathType {
    /// The whole path.
    Exact,
    /// Its first elements.
    Prefix,
    /// As the controller likes.
    ImplementationSpecific,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngressBackend {
    /// A service of the Ingress's namespace.
    Service {
        /// Its name.
        name: String,
        /// Its port.
        port: BackendPort,
    },
    /// Another object.
    Resource,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendPort {
    /// By its number.
    Number(u16),
    /// By its name.
    Name(String),
}

/// A certificate for some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressTls {
    /// None is every host.
    pub hosts: Vec<Hostname>,
    /// Name of a Secret.
    pub secret: Option<String>,
}

/// An IngressClass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngressClass {
    /// Who serves Ingresses of the class.
    pub controller: String,
    /// What the controller is told beside.
    pub parameters: Option<ClassParameters>,
}

/// The object that a class refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassParameters {
    /// Group of its kind.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
}

/// Reads an Ingress; `old` is the form from before `networking.k8s.io/v1`.
pub(in crate::resource) fn ingress(fields: &Fields<'_>, old: bool) -> Ingress {
    let Some(spec) = fields.require("spec") else {
        return Ingress::default();
    };
    let spec = spec.fields();
    let default = if old { "backend" } else { "defaultBackend" };
    let default = spec.get(default);
    let written = spec.list("rules");
    if default.is_none() && written.is_empty() {
        spec.value.error_hint(
            "an Ingress needs rules or a default backend",
            "defaultBackend: {service: {name: shop, port: {number: 80}}}",
        );
    }
    let ingress = Ingress {
        class: spec.text("ingressClassName"),
        default: default.and_then(|value| backend(&value, old)),
        rules: written.iter().map(|value| rule(value, old)).collect(),
        tls: spec.list("tls").iter().map(tls).collect(),
    };
    spec.finish();
    ingress
}

pub(in crate::resource) fn ingress_class(fields: &Fields<'_>) -> IngressClass {
    let Some(spec) = fields.require("spec") else {
        return IngressClass::default();
    };
    let spec = spec.fields();
    let class = IngressClass {
        controller: spec
            .require("controller")
            .and_then(|value| value.text())
            .unwrap_or_default(),
        parameters: spec.get("parameters").and_then(|value| {
            let fields = value.fields();
            let group = fields.text("apiGroup").unwrap_or_default();
            let kind = fields.require("kind").and_then(|value| value.text());
            let name = fields.require("name").and_then(|value| value.text());
            let namespaced = fields
                .get("scope")
                .and_then(|value| value.choice(&[("Cluster", false), ("Namespace", true)]));
            let namespace = fields.text("namespace");
            if namespace.is_some() != (namespaced == Some(true)) {
                value.error_hint(
                    "a namespace is written where the scope is Namespace, and only there",
                    "scope: Namespace and namespace: NAME",
                );
            }
            fields.finish();
            Some(ClassParameters {
                group,
                kind: kind?,
                name: name?,
                namespace,
            })
        }),
    };
    spec.finish();
    class
}

/// A host name of callers: no address, and a wildcard only as its first label.
fn host(value: &Value<'_>) -> Option<Hostname> {
    let text = value.text()?;
    match text.parse::<Hostname>() {
        Ok(host) if host.as_str() != "*" && text.parse::<std::net::IpAddr>().is_err() => Some(host),
        _ => {
            value.error_hint(
                format!("{text:?} is not a host of an Ingress"),
                "such as shop.example.com or *.example.com; leave it out for every host",
            );
            None
        }
    }
}

fn rule(value: &Value<'_>, old: bool) -> IngressRule {
    let fields = value.fields();
    let host = fields
        .get("host")
        .filter(|value| value.tree.text() != Some(""))
        .and_then(|value| host(&value));
    let paths = fields.get("http").map(|value| {
        let fields = value.fields();
        let written = fields.list("paths");
        if written.is_empty() {
            value.error_hint(
                "http needs a path",
                "paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]",
            );
        }
        fields.finish();
        written.iter().filter_map(|value| path(value, old)).collect()
    });
    fields.finish();
    IngressRule {
        host,
        paths: paths.unwrap_or_default(),
    }
}

fn path(value: &Value<'_>, old: bool) -> Option<IngressPath> {
    let fields = value.fields();
    let written = fields.get("path");
    let path = written.as_ref().and_then(Value::text).unwrap_or_default();
    let choices = [
        ("Exact", PathType::Exact),
        ("Prefix", PathType::Prefix),
        ("ImplementationSpecific", PathType::ImplementationSpecific),
    ];
    let kind = match fields.get("pathType") {
        Some(value) => value.choice(&choices),
        // What the old versions took it for.
        None if old => Some(PathType::ImplementationSpecific),
        None => {
            value.error_hint(
                "field \"pathType\" is missing",
                "pathType: Prefix, or Exact",
            );
            None
        }
    };
    let bare = path.is_empty() && kind == Some(PathType::ImplementationSpecific);
    if kind.is_some() && !bare && !path.starts_with('/') {
        let at = written.as_ref().unwrap_or(value);
        at.error_hint(
            format!("expected a path that begins with '/', found {path:?}"),
            "path: /",
        );
    }
    let backend = fields
        .require("backend")
        .and_then(|value| backend(&value, old));
    fields.finish();
    Some(IngressPath {
        path,
        kind: kind?,
        backend: backend?,
    })
}

fn backend(value: &Value<'_>, old: bool) -> Option<IngressBackend> {
    let fields = value.fields();
    let resource = fields.get("resource").map(|value| {
        let fields = value.fields();
        fields.accept(&["apiGroup", "kind", "name"]);
        fields.finish();
    });
    let service = if old {
        let name = fields.text("serviceName");
        let port = fields
            .get("servicePort")
            .and_then(|value| match &value.tree.node {
                Node::Text(text) => Some(BackendPort::Name(text.clone())),
                _ => value.port().map(BackendPort::Number),
            });
        name.map(|name| (name, port))
    } else {
        fields.get("service").map(|value| {
            let fields = value.fields();
            let name = fields.require("name").and_then(|value| value.text());
            let port = fields.require("port").and_then(|value| port(&value));
            fields.finish();
            (name.unwrap_or_default(), port)
        })
    };
    fields.finish();
    match (service, resource) {
        (Some((name, Some(port))), None) => Some(IngressBackend::Service { name, port }),
        (None, Some(())) => Some(IngressBackend::Resource),
        // The reader has said so.
        (Some((_, None)), None) if !old => None,
        _ => {
            value.error_hint(
                "a backend is one service, with a port",
                if old {
                    "serviceName: shop and servicePort: 80"
                } else {
                    "service: {name: shop, port: {number: 80}}"
                },
            );
            None
        }
    }
}

fn port(value: &Value<'_>) -> Option<BackendPort> {
    let fields = value.fields();
    let number = fields.get("number");
    let name = fields.get("name");
    fields.finish();
    match (number, name) {
        (Some(number), None) => number.port().map(BackendPort::Number),
        (None, Some(name)) => name.text().map(BackendPort::Name),
        _ => {
            value.error_hint("a port has either a number or a name", "port: {number: 80}");
            None
        }
    }
}

fn tls(value: &Value<'_>) -> IngressTls {
    let fields = value.fields();
    let hosts = fields.list("hosts");
    let tls = IngressTls {
        hosts: hosts.iter().filter_map(host).collect(),
        secret: fields.text("secretName").filter(|name| !name.is_empty()),
    };
    fields.finish();
    tls
}
