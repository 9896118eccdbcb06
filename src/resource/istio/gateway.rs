//! Gateway.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::mesh::credential::{
    CIPHER_SUITES, CertificateSource, ClientTrust, RootsSource, Stapling, TlsVersion,
};
use crate::mesh::gateway::ServerHost;
use crate::mesh::sidecar::Space;
use crate::mesh::{Hostname, OwnTls};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// A Gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gateway {
    /// Labels of the proxies that serve it.
    pub selector: BTreeMap<String, String>,
    /// In order.
    pub servers: Vec<GatewayServer>,
}

/// One port for some hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayServer {
    /// Of the server, else of its port.
    pub name: String,
    /// The port.
    pub port: u16,
    /// The address that is listened on.
    pub bind: Option<IpAddr>,
    /// What is spoken.
    pub protocol: GatewayProtocol,
    /// It is gRPC as browsers speak it.
    pub grpc_web: bool,
    /// For whom.
    pub hosts: Vec<ServerHost>,
    /// What happens to TLS.
    pub tls: GatewayTls,
}

/// What is spoken at a port of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayProtocol {
    /// Requests.
    Http,
    /// Requests in TLS.
    Https,
    /// Bytes in TLS.
    Tls,
    /// Bytes.
    Tcp,
}

/// What happens to TLS at a port of a gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayTls {
    /// There is none.
    None {
        /// Requests are redirected to it.
        redirect: bool,
    },
    /// It goes on as it is.
    Passthrough,
    /// That of the mesh goes on as it is, to the service that its server name says.
    AutoPassthrough,
    /// It ends with the mesh's certificates.
    Mesh,
    /// It ends with certificates of its own.
    Own(Box<OwnTls>),
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Passthrough,
    AutoPassthrough,
    Simple,
    Mutual,
    OptionalMutual,
    Mesh,
}

pub(in crate::resource) fn gateway(fields: &Fields<'_>) -> Gateway {
    let Some(spec) = fields.require("spec") else {
        return Gateway::default();
    };
    let spec = spec.fields();
    let servers = spec.list("servers");
    if servers.is_empty() {
        spec.value.error_hint(
            "a Gateway needs a server",
            "servers: [{port: {number: 80, protocol: HTTP, name: http}, hosts: [\"*\"]}]",
        );
    }
    let gateway = Gateway {
        selector: spec.texts("selector"),
        servers: servers.iter().filter_map(server).collect(),
    };
    spec.finish();
    gateway
}

fn server(value: &Value<'_>) -> Option<GatewayServer> {
    let fields = value.fields();
    let port = fields.require("port").and_then(|value| port(&value));
    let spoken = value.tree.get("port");
    let spoken = spoken.and_then(|port| port.get("protocol")?.text());
    let grpc_web = spoken.is_some_and(|text| text.eq_ignore_ascii_case("GRPC-WEB"));
    let name = fields.text("name").unwrap_or_default();
    let bind = fields.get("bind").and_then(|value| {
        let text = value.text()?;
        text.parse::<IpAddr>()
            .map_err(|_| {
                value.refuse(
                    format!("{text:?} is not honoured: only an IP address can be listened on"),
                    "remove it: the proxy listens on its own address",
                );
            })
            .ok()
    });
    fields.ignore("defaultEndpoint", "Istio has no meaning for it either");
    let hosts = fields.list("hosts");
    if hosts.is_empty() {
        value.error_hint("a server needs a host", "hosts: [\"*\"]");
    }
    let hosts = hosts.iter().filter_map(host).collect();
    let protocol = port.as_ref().map(|(_, _, protocol)| *protocol);
    let found = match (fields.get("tls"), protocol) {
        (Some(written), Some(protocol)) => tls(&written, protocol),
        (None, Some(GatewayProtocol::Https | GatewayProtocol::Tls)) => {
            value.error_hint(
                "a port with TLS must say what happens to it",
                "tls: {mode: SIMPLE, credentialName: my-certificate}, or protocol: HTTP",
            );
            None
        }
        _ => Some(GatewayTls::None { redirect: false }),
    };
    fields.finish();
    let (number, port_name, protocol) = port?;
    Some(GatewayServer {
        name: if name.is_empty() { port_name } else { name },
        port: number,
        bind,
        protocol,
        grpc_web,
        hosts,
        tls: found?,
    })
}

fn port(value: &Value<'_>) -> Option<(u16, String, GatewayProtocol)> {
    let fields = value.fields();
    let number = fields.require("number").and_then(|value| value.port());
    let protocol = fields.require("protocol").and_then(|value| {
        let text = value.text()?;
        match text.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Some(GatewayProtocol::Http),
            "HTTPS" => Some(GatewayProtocol::Https),
            "TLS" => Some(GatewayProtocol::Tls),
            "TCP" | "MONGO" | "MYSQL" | "REDIS" => Some(GatewayProtocol::Tcp),
            _ => {
                value.error(format!(
                    "expected one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, found {text:?}"
                ));
                None
            }
        }
    });
    let name = fields.text("name").unwrap_or_default();
    fields.ignore("targetPort", "Istio has no meaning for it either");
    fields.finish();
    Some((number?, name, protocol?))
}

/// `HOST` or `NAMESPACE/HOST`.
fn host(value: &Value<'_>) -> Option<ServerHost> {
    let text = value.text()?;
    let (space, name) = match text.split_once('/') {
        None | Some(("*", _)) => (Space::Any, text.strip_prefix("*/").unwrap_or(&text)),
        Some((".", name)) => (Space::Own, name),
        Some((namespace, name)) => (Space::Named(namespace.to_owned()), name),
    };
    match name.parse::<Hostname>() {
        Ok(host) if name == "*" || name.contains('.') => Some(ServerHost { space, host }),
        Ok(_) => {
            value.warn(
                codes::SCHEMA_WARNING,
                format!("{name:?} is a short name, which callers from outside do not use"),
                "write the host as callers do, such as shop.example.com",
            );
            name.parse().ok().map(|host| ServerHost { space, host })
        }
        Err(error) => {
            value.error(error.to_string());
            None
        }
    }
}

/// What a server says of its TLS beside the mode and the redirect.
const OF_TLS: [&str; 14] = [
    "credentialName",
    "credentialNames",
    "serverCertificate",
    "privateKey",
    "tlsCertificates",
    "caCertificates",
    "caCertCredentialName",
    "caCrl",
    "subjectAltNames",
    "verifyCertificateHash",
    "verifyCertificateSpki",
    "minProtocolVersion",
    "maxProtocolVersion",
    "cipherSuites",
];

fn tls(value: &Value<'_>, protocol: GatewayProtocol) -> Option<GatewayTls> {
    let fields = value.fields();
    let redirect = fields.boolean("httpsRedirect").unwrap_or(false);
    let secure = matches!(protocol, GatewayProtocol::Https | GatewayProtocol::Tls);
    let mode = fields.get("mode").map(|mode| {
        mode.choice(&[
            ("PASSTHROUGH", Mode::Passthrough),
            ("AUTO_PASSTHROUGH", Mode::AutoPassthrough),
            ("SIMPLE", Mode::Simple),
            ("MUTUAL", Mode::Mutual),
            ("OPTIONAL_MUTUAL", Mode::OptionalMutual),
            ("ISTIO_MUTUAL", Mode::Mesh),
        ])
    });
    if redirect && secure {
        value.error_hint(
            "httpsRedirect is for ports without TLS",
            "move it to a server whose protocol is HTTP",
        );
    }
    if redirect && protocol == GatewayProtocol::Tcp {
        value.error_hint("bytes cannot be redirected", "protocol: HTTP");
    }
    if !secure {
        if mode.is_some() {
            value.error_hint(
                "a port without TLS has no mode of it",
                "protocol: HTTPS, or only httpsRedirect",
            );
            // What belongs to the mode is no mistake of its own.
            fields.accept(&OF_TLS);
        }
        for field in OF_TLS {
            if let (None, Some(value)) = (&mode, fields.get(field)) {
                value.error_hint(
                    format!("a port without TLS has no {field}"),
                    "protocol: HTTPS and a mode, or only httpsRedirect",
                );
            }
        }
        fields.finish();
        return Some(GatewayTls::None { redirect });
    }
    // Istio's first value, and so its default.
    let mode = mode.unwrap_or(Some(Mode::Passthrough));
    let own = own(value, &fields, mode);
    fields.finish();
    match mode? {
        Mode::Passthrough => Some(GatewayTls::Passthrough),
        Mode::AutoPassthrough => Some(GatewayTls::AutoPassthrough),
        Mode::Mesh => Some(GatewayTls::Mesh),
        Mode::Simple | Mode::Mutual | Mode::OptionalMutual => {
            own.map(Box::new).map(GatewayTls::Own)
        }
    }
}

fn own(value: &Value<'_>, fields: &Fields<'_>, mode: Option<Mode>) -> Option<OwnTls> {
    let names = fields.text_list("subjectAltNames");
    let certificate_hashes = fields.text_list("verifyCertificateHash");
    let key_hashes = fields.text_list("verifyCertificateSpki");
    let min_version = fields
        .get("minProtocolVersion")
        .map(|value| version(&value));
    let max_version = fields
        .get("maxProtocolVersion")
        .map(|value| version(&value));
    let cipher_suites = suites(fields);
    let credential = fields.text("credentialName");
    let mut certificates: Vec<CertificateSource> = credential
        .iter()
        .cloned()
        .chain(fields.text_list("credentialNames"))
        .map(CertificateSource::Secret)
        .collect();
    let files = (fields.text("serverCertificate"), fields.text("privateKey"));
    match files {
        (Some(chain), Some(key)) => certificates.push(CertificateSource::Files {
            chain,
            key,
            staple: None,
        }),
        (None, None) => {}
        _ => value.error_hint(
            "a certificate needs its key, and a key its certificate",
            "serverCertificate: /etc/certs/tls.crt and privateKey: /etc/certs/tls.key",
        ),
    }
    for value in fields.list("tlsCertificates") {
        let fields = value.fields();
        let chain = fields.require("serverCertificate").and_then(|v| v.text());
        let key = fields.require("privateKey").and_then(|v| v.text());
        fields.ignore(
            "caCertificates",
            "roots of callers are in tls.caCertificates",
        );
        fields.finish();
        if let (Some(chain), Some(key)) = (chain, key) {
            certificates.push(CertificateSource::Files {
                chain,
                key,
                staple: None,
            });
        }
    }
    let ca_file = fields.text("caCertificates");
    let crl = fields.text("caCrl");
    let ca_secret = fields.text("caCertCredentialName");
    let ends = matches!(
        mode,
        Some(Mode::Simple | Mode::Mutual | Mode::OptionalMutual)
    );
    if !ends {
        let written = !certificates.is_empty() || ca_file.is_some() || ca_secret.is_some();
        if written && mode.is_some() {
            value.error_hint(
                "certificates are only shown where TLS ends with them",
                "mode: SIMPLE or MUTUAL, or remove them",
            );
        }
        return None;
    }
    if certificates.is_empty() {
        value.error_hint(
            "TLS that ends here needs a certificate",
            "credentialName: NAME of a Secret of type kubernetes.io/tls, or serverCertificate and privateKey",
        );
        return None;
    }
    let asks = matches!(mode, Some(Mode::Mutual | Mode::OptionalMutual));
    let roots = match (ca_secret, ca_file, &credential) {
        (Some(name), _, _) => Some(RootsSource::Secret(name)),
        (None, Some(path), _) => Some(RootsSource::File { path, crl }),
        (None, None, Some(name)) => Some(RootsSource::Secret(name.clone())),
        (None, None, None) => None,
    };
    let clients = match (asks, roots) {
        (true, Some(roots)) => Some(ClientTrust {
            roots,
            optional: mode == Some(Mode::OptionalMutual),
            unverified: false,
            names,
            certificate_hashes,
            key_hashes,
        }),
        (true, None) => {
            value.error_hint(
                "callers' certificates must be held against something",
                "caCertificates: /etc/certs/ca.crt, or credentialName of a Secret with ca.crt",
            );
            None
        }
        (false, _) => {
            if !(names.is_empty() && certificate_hashes.is_empty() && key_hashes.is_empty()) {
                value.error_hint(
                    "callers show no certificate in this mode, so it cannot be looked at",
                    "mode: MUTUAL",
                );
            }
            None
        }
    };
    Some(OwnTls {
        certificates,
        clients,
        min_version: min_version.flatten().unwrap_or_default(),
        max_version: max_version.flatten(),
        cipher_suites,
        stapling: Stapling::default(),
    })
}

fn version(value: &Value<'_>) -> Option<TlsVersion> {
    match value.text()?.as_str() {
        "TLS_AUTO" => None,
        "TLSV1_2" => Some(TlsVersion::V12),
        "TLSV1_3" => Some(TlsVersion::V13),
        old @ ("TLSV1_0" | "TLSV1_1") => {
            value.refuse(
                format!("{old} is not honoured: it is broken"),
                "TLSV1_2 is the least",
            );
            None
        }
        other => {
            value.error(format!(
                "expected one of TLS_AUTO, TLSV1_2, TLSV1_3, found {other:?}"
            ));
            None
        }
    }
}

/// Unknown suites are left out, as in Istio; none left is an error.
fn suites(fields: &Fields<'_>) -> Vec<String> {
    let written = fields.list("cipherSuites");
    let mut known = Vec::new();
    for value in &written {
        let Some(name) = value.text() else { continue };
        if CIPHER_SUITES.contains(&name.as_str()) {
            known.push(name);
        } else {
            value.warn(
                codes::IGNORED,
                format!("cipher suite {name:?} is not spoken and has no effect"),
                format!("those of TLS 1.2 are {}", CIPHER_SUITES.join(", ")),
            );
        }
    }
    if known.is_empty()
        && let Some(first) = written.first()
    {
        first.error_hint(
            "none of the cipher suites is spoken",
            CIPHER_SUITES.join(", "),
        );
    }
    known
}
