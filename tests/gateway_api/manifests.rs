//! Manifests, from what differs between them.

use crate::stand::{CLASS, INFRA};

/// A Gateway of these listeners.
pub(crate) fn gateway(name: &str, listeners: &[String]) -> String {
    gateway_with(name, listeners, "")
}

/// The same with more fields of its `spec`.
pub(crate) fn gateway_with(name: &str, listeners: &[String], more: &str) -> String {
    let listeners = listeners.join("\n  - ");
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: {name}, namespace: {INFRA}}}\n\
         spec:\n  gatewayClassName: {CLASS}\n  listeners:\n  - {listeners}\n{more}"
    )
}

/// A listener for routes of its own namespace; a hostname of "" is none.
pub(crate) fn listener(name: &str, port: u16, protocol: &str, hostname: &str) -> String {
    listener_with(name, port, protocol, hostname, "")
}

/// The same with more fields.
pub(crate) fn listener_with(
    name: &str,
    port: u16,
    protocol: &str,
    hostname: &str,
    more: &str,
) -> String {
    let hostname = match hostname {
        "" => String::new(),
        _ => format!(", hostname: '{hostname}'"),
    };
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    format!("{{name: {name}, port: {port}, protocol: {protocol}{hostname}{more}}}")
}

/// A listener with fields of `tls`.
pub(crate) fn tls_listener(
    name: &str,
    port: u16,
    protocol: &str,
    hostname: &str,
    tls: &str,
) -> String {
    listener_with(name, port, protocol, hostname, &format!("tls: {{{tls}}}"))
}

/// A listener of TLS for TLSRoutes alone.
pub(crate) fn tls_routes(name: &str, port: u16, hostname: &str, tls: &str) -> String {
    let more = format!("allowedRoutes: {{kinds: [{{kind: TLSRoute}}]}}, tls: {{{tls}}}");
    listener_with(name, port, "TLS", hostname, &more)
}

/// A rule: its matches, its filters, and where it leads, each as it stands in a flow sequence.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    matches: String,
    filters: String,
    backends: String,
    more: String,
}

pub(crate) fn rule(matches: &str) -> Rule {
    Rule {
        matches: matches.to_owned(),
        ..Rule::default()
    }
}

impl Rule {
    pub(crate) fn filter(mut self, filter: &str) -> Self {
        if !self.filters.is_empty() {
            self.filters += ", ";
        }
        self.filters += filter;
        self
    }

    /// To port 8080 of a service of the namespace.
    pub(crate) fn to(self, service: &str) -> Self {
        self.backend(&format!("{{name: {service}, port: 8080}}"))
    }

    pub(crate) fn backend(mut self, backend: &str) -> Self {
        if !self.backends.is_empty() {
            self.backends += ", ";
        }
        self.backends += backend;
        self
    }

    /// More fields.
    pub(crate) fn with(mut self, more: &str) -> Self {
        self.more += &format!(", {more}");
        self
    }

    fn text(&self) -> String {
        let mut fields = vec![format!("backendRefs: [{}]", self.backends)];
        if !self.matches.is_empty() {
            fields.push(format!("matches: [{}]", self.matches));
        }
        if !self.filters.is_empty() {
            fields.push(format!("filters: [{}]", self.filters));
        }
        format!("{{{}{}}}", fields.join(", "), self.more)
    }
}

/// A path and all below it, or exactly it.
pub(crate) fn prefix(path: &str) -> String {
    format!("{{path: {{type: PathPrefix, value: {path}}}}}")
}

pub(crate) fn exact(path: &str) -> String {
    format!("{{path: {{type: Exact, value: {path}}}}}")
}

/// Fields of requests that must be so.
pub(crate) fn headers(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{{name: {name}, value: {value}}}"))
        .collect();
    format!("{{headers: [{}]}}", fields.join(", "))
}

/// A method of the gRPC service.
pub(crate) fn grpc_method(name: &str) -> String {
    format!(
        "{{method: {{service: {}, method: {name}}}}}",
        crate::case::SERVICE
    )
}

/// An HTTPRoute of the usual namespace whose parents stand in a flow sequence.
pub(crate) fn http_route(name: &str, parents: &str, hostnames: &str, rules: &[Rule]) -> String {
    route(
        ("HTTPRoute", "v1"),
        (INFRA, name),
        parents,
        hostnames,
        rules,
    )
}

pub(crate) fn grpc_route(name: &str, parents: &str, hostnames: &str, rules: &[Rule]) -> String {
    route(
        ("GRPCRoute", "v1"),
        (INFRA, name),
        parents,
        hostnames,
        rules,
    )
}

/// A TLSRoute to one service and port.
pub(crate) fn tls_route(name: &str, parents: &str, hostnames: &str, backend: &str) -> String {
    let rules = [Rule::default().backend(backend)];
    route(
        ("TLSRoute", "v1"),
        (INFRA, name),
        parents,
        hostnames,
        &rules,
    )
}

pub(crate) fn tcp_route(name: &str, parents: &str, backends: &str) -> String {
    let rules = [Rule::default().backend(backends)];
    route(("TCPRoute", "v1alpha2"), (INFRA, name), parents, "", &rules)
}

/// A route of any kind.
pub(crate) fn route(
    (kind, version): (&str, &str),
    (namespace, name): (&str, &str),
    parents: &str,
    hostnames: &str,
    rules: &[Rule],
) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{parents}]\n"
    );
    if !hostnames.is_empty() {
        text += &format!("  hostnames: [{hostnames}]\n");
    }
    text += "  rules:\n";
    for rule in rules {
        text += &format!("  - {}\n", rule.text());
    }
    text
}

/// A ReferenceGrant: who may refer to what.
pub(crate) fn grant(namespace: &str, name: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{from: [{{{from}}}], to: [{{{to}}}]}}\n"
    )
}

/// How connections to a service are secured.
pub(crate) fn policy(name: &str, target: &str, validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{name: {name}, namespace: {INFRA}}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, {target}}}]\n  validation: {{{validation}}}\n"
    )
}

/// Several documents.
pub(crate) fn all(documents: &[String]) -> String {
    documents.join("---\n")
}
