//! Gateways: which of their listeners are served, and with what.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::gateways::Credentials;
use super::certificates;
use super::grants::Grants;
use super::verdict::{Condition, GatewayVerdict, ListenerVerdict};
use crate::mesh::credential::CertificateSource;
use crate::mesh::gateway::{Server, ServerHost, ServerSecurity, Serves};
use crate::mesh::sidecar::Space;
use crate::mesh::{Finding, Hostname, OwnTls, Secret, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{AddressRequest, GROUP, Gateway, Listener, Protocol, RouteKind};
use crate::resource::object::Object;

/// Namespace and name of a Secret, or the reason and the message of why there is none.
type Shows = Result<(String, String), (&'static str, String)>;

/// A Gateway that is served here.
pub(super) struct Judged<'a> {
    pub(super) object: &'a Object,
    pub(super) gateway: &'a Gateway,
    /// Who of us serves it.
    pub(super) controller: &'static str,
    /// The whole of it can be served.
    pub(super) accepted: Option<(&'static str, String)>,
    /// The Secret that backends are shown, where there is to be one.
    pub(super) shows: Option<Shows>,
    pub(super) listeners: Vec<JudgedListener<'a>>,
}

/// A listener, and what keeps it from being served.
pub(super) struct JudgedListener<'a> {
    pub(super) listener: &'a Listener,
    /// Kinds of routes that it takes.
    pub(super) kinds: Vec<RouteKind>,
    conflict: Option<(&'static str, String)>,
    accepted: Option<(&'static str, String)>,
    resolved: Option<(&'static str, String)>,
    /// What is spoken, where it is served.
    serves: Option<Serves>,
    overlaps: bool,
    /// Routes that are attached to it.
    pub(super) attached: usize,
}

/// What listeners are judged by.
pub(super) struct Bench<'a> {
    pub(super) grants: &'a Grants<'a>,
    pub(super) credentials: &'a Credentials,
}

/// Kinds of routes that a protocol can have.
fn kinds_of(listener: &Listener) -> &'static [&'static str] {
    match listener.protocol {
        Protocol::Http | Protocol::Https => &["HTTPRoute", "GRPCRoute"],
        Protocol::Tls => &["TLSRoute"],
        Protocol::Tcp => &["TCPRoute"],
        Protocol::Other(_) => &[],
    }
}

impl<'a> Judged<'a> {
    pub(super) fn new(
        (object, gateway, controller): (&'a Object, &'a Gateway, &'static str),
        bench: &Bench<'_>,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut listeners: Vec<JudgedListener<'a>> = Vec::new();
        for (index, listener) in gateway.listeners.iter().enumerate() {
            let path = format!("spec.listeners[{index}]");
            let mut judge = Judge {
                object,
                bench,
                findings: &mut *findings,
                path,
            };
            listeners.push(judge.listener(listener, gateway));
        }
        Self {
            object,
            gateway,
            controller,
            accepted: whole(object, gateway, findings),
            shows: shows(object, gateway, bench, findings),
            listeners,
        }
    }

    /// The servers of those listeners that are served.
    pub(super) fn servers(&self) -> Vec<(usize, Server)> {
        if self.accepted.is_some() {
            return Vec::new();
        }
        let mut binds: Vec<Option<IpAddr>> = self.asked().map(|(_, ip)| Some(ip)).collect();
        if binds.is_empty() {
            binds.push(None);
        }
        let mut servers = Vec::new();
        for (index, judged) in self.listeners.iter().enumerate() {
            let Some(serves) = judged.serves.as_ref().filter(|_| judged.is_served()) else {
                continue;
            };
            for bind in &binds {
                let server = Server {
                    grpc_web: false,
                    name: judged.listener.name.clone(),
                    port: judged.listener.port,
                    bind: *bind,
                    serves: serves.clone(),
                    hosts: vec![ServerHost {
                        space: Space::Any,
                        host: judged.host(),
                    }],
                    attached: None,
                    origin: self.object.origin_of(&format!("spec.listeners[{index}]")),
                };
                servers.push((index, server));
            }
        }
        servers
    }

    /// What is said of it, where proxies at `proxies` serve it.
    pub(super) fn verdict(
        &self,
        proxies: Vec<IpAddr>,
        findings: &mut Vec<Finding>,
    ) -> GatewayVerdict {
        let whole = self.accepted.as_ref();
        let listeners = self.listeners.iter().map(|one| one.verdict(whole));
        let listeners: Vec<ListenerVerdict> = listeners.collect();
        let all = self.listeners.len();
        let valid = self.listeners.iter().filter(|one| one.is_valid()).count();
        let some = || format!("{} of {all} listeners are not valid", all - valid);
        let accepted = match &self.accepted {
            Some(fault) => Condition::new("Accepted", Some(fault.clone()), ""),
            None if valid == 0 => {
                Condition::new("Accepted", Some(("ListenersNotValid", some())), "")
            }
            None if valid < all => Condition {
                message: some(),
                ..Condition::new("Accepted", None, "ListenersNotValid")
            },
            None => Condition::new("Accepted", None, "Accepted"),
        };
        let served = self.listeners.iter().any(JudgedListener::is_served);
        let programmed = if !accepted.holds {
            Some(("Invalid", accepted.message.clone()))
        } else if !served {
            Some(("Invalid", "no listener is served".to_owned()))
        } else if proxies.is_empty() {
            let name = &self.object.metadata.name;
            let message = format!("no proxy serves it: run `meshctl proxy --gateway {name}`");
            Some(("AddressNotAssigned", message))
        } else {
            self.unusable(&proxies, findings)
        };
        let unresolved = self.listeners.iter().find_map(|one| one.resolved.as_ref());
        let unresolved = unresolved.map(|(_, message)| ("ListenersNotResolved", message.clone()));
        let shows = self.shows.as_ref();
        let resolved = shows.and_then(|shows| shows.clone().err()).or(unresolved);
        let mut conditions = vec![
            accepted,
            Condition::new("Programmed", programmed, "Programmed"),
            Condition::new("ResolvedRefs", resolved, "ResolvedRefs"),
        ];
        if self.gateway.lets_in_anybody() {
            conditions.push(Condition {
                message: "callers are let in without a certificate that is good".to_owned(),
                ..Condition::new(
                    "InsecureFrontendValidationMode",
                    None,
                    "ConfigurationChanged",
                )
            });
        }
        GatewayVerdict {
            conditions,
            addresses: self.assigned(proxies),
            listeners,
        }
    }

    /// The addresses that are asked for, each with its place among them.
    fn asked(&self) -> impl Iterator<Item = (usize, IpAddr)> {
        let asked = self.gateway.addresses.iter().enumerate();
        asked.filter_map(|(index, address)| match address {
            AddressRequest::Ip(ip) => Some((index, *ip)),
            AddressRequest::Any | AddressRequest::Other(_) => None,
        })
    }

    /// Of the addresses of its proxies those that it is to have: all, where it asks for none.
    fn assigned(&self, mut proxies: Vec<IpAddr>) -> Vec<IpAddr> {
        if self.asked().next().is_some() {
            proxies.retain(|own| self.asked().any(|(_, asked)| asked == *own));
        }
        proxies
    }

    /// Addresses that are asked for and that no proxy has.
    fn unusable(
        &self,
        proxies: &[IpAddr],
        findings: &mut Vec<Finding>,
    ) -> Option<(&'static str, String)> {
        let mut first = None;
        for (index, ip) in self.asked().filter(|(_, ip)| !proxies.contains(ip)) {
            let message = format!("no proxy that serves it has address {ip}");
            let path = format!("spec.addresses[{index}]");
            let (severity, code) = (Severity::Warning, codes::ADDRESS_NOT_USABLE);
            let finding = self.object.finding(severity, code, &path, &*message);
            let name = &self.object.metadata.name;
            let hint = format!(
                "run `meshctl proxy --gateway {name} --address {ip}` where it is, or remove it"
            );
            findings.push(finding.hint(hint));
            first.get_or_insert(("AddressNotUsable", message));
        }
        first
    }
}

impl JudgedListener<'_> {
    /// The host that it is for.
    pub(super) fn host(&self) -> Hostname {
        self.listener.hostname.clone().unwrap_or_else(any_host)
    }

    /// Whether what it says can be served.
    fn is_valid(&self) -> bool {
        self.conflict.is_none() && self.accepted.is_none()
    }

    /// Whether what it refers to is there, too.
    fn is_served(&self) -> bool {
        self.is_valid() && self.serves.is_some()
    }

    /// What is said of it, where the Gateway as such is refused for `whole`.
    fn verdict(&self, whole: Option<&(&'static str, String)>) -> ListenerVerdict {
        let conflicted = match &self.conflict {
            Some((reason, message)) => Condition {
                kind: "Conflicted",
                holds: true,
                reason,
                message: message.clone(),
            },
            None => Condition {
                kind: "Conflicted",
                holds: false,
                reason: "NoConflicts",
                message: String::new(),
            },
        };
        let refused = self.conflict.clone().or_else(|| self.accepted.clone());
        let programmed = (whole.is_some() || !self.is_served()).then(|| {
            let why = refused.as_ref().or(self.resolved.as_ref()).or(whole);
            let message = why.map(|(_, message)| message.clone());
            ("Invalid", message.unwrap_or_default())
        });
        let mut conditions = vec![
            Condition::new("Accepted", refused, "Accepted"),
            Condition::new("Programmed", programmed, "Programmed"),
            Condition::new("ResolvedRefs", self.resolved.clone(), "ResolvedRefs"),
            conflicted,
        ];
        if self.overlaps {
            conditions.push(Condition {
                kind: "OverlappingTLSConfig",
                holds: true,
                reason: "OverlappingHostnames",
                message: "another listener of this port is for some of the same hosts".to_owned(),
            });
        }
        ListenerVerdict {
            name: self.listener.name.clone(),
            kinds: self.kinds.clone(),
            attached: self.attached,
            conditions,
        }
    }
}

/// The host of a listener that names none.
pub(super) fn any_host() -> Hostname {
    "*".parse()
        .unwrap_or_else(|_| Hostname::service("any", "any"))
}

/// What keeps all of a Gateway from being served.
fn whole(
    object: &Object,
    gateway: &Gateway,
    findings: &mut Vec<Finding>,
) -> Option<(&'static str, String)> {
    let mut refuse = |path: &str, message: String, hint: &str| {
        let finding = object.finding(Severity::Warning, codes::NOT_ACCEPTED, path, &*message);
        findings.push(finding.hint(format!("{hint}; until then the Gateway is not served")));
        message
    };
    if gateway.parameters {
        let message = "parameters of a Gateway are not honoured: there are none here".to_owned();
        let path = "spec.infrastructure.parametersRef";
        let message = refuse(path, message, "remove parametersRef");
        return Some(("InvalidParameters", message));
    }
    let mut addresses = gateway.addresses.iter().enumerate();
    addresses.find_map(|(index, address)| match address {
        AddressRequest::Other(kind) => {
            let message = format!("addresses of type {kind} are not honoured");
            let path = format!("spec.addresses[{index}]");
            let hint = "write an address of type IPAddress that a proxy of it has, or none";
            Some(("UnsupportedAddress", refuse(&path, message, hint)))
        }
        AddressRequest::Ip(_) | AddressRequest::Any => None,
    })
}

/// The Secret that backends are shown. Where it cannot be had they are shown nothing, and those that want
/// a certificate refuse.
fn shows(
    object: &Object,
    gateway: &Gateway,
    bench: &Bench<'_>,
    findings: &mut Vec<Finding>,
) -> Option<Shows> {
    let to = gateway.client_certificate.as_ref()?;
    let found = certificates::named(object, to, bench);
    Some(found.map_err(|fault| {
        let path = "spec.tls.backend.clientCertificateRef";
        let (severity, code) = fault.kind;
        let finding = object.finding(severity, code, path, &*fault.message);
        findings.push(finding.hint(fault.hint("until then backends are shown none")));
        let reason = if fault.forbidden {
            "RefNotPermitted"
        } else {
            "InvalidClientCertificateRef"
        };
        (reason, fault.message)
    }))
}

/// Judges one listener.
struct Judge<'j> {
    object: &'j Object,
    bench: &'j Bench<'j>,
    findings: &'j mut Vec<Finding>,
    path: String,
}

impl Judge<'_> {
    fn say(
        &mut self,
        (severity, code): (Severity, &str),
        field: &str,
        message: &str,
        hint: impl Into<String>,
    ) {
        let path = format!("{}{field}", self.path);
        let finding = self.object.finding(severity, code, &path, message);
        self.findings.push(finding.hint(hint));
    }

    fn listener<'a>(&mut self, listener: &'a Listener, gateway: &Gateway) -> JudgedListener<'a> {
        let mut judged = JudgedListener {
            listener,
            kinds: Vec::new(),
            conflict: self.conflict(listener, gateway),
            accepted: None,
            resolved: None,
            serves: None,
            overlaps: overlaps(listener, gateway),
            attached: 0,
        };
        if let Protocol::Other(name) = &listener.protocol {
            let message = format!("protocol {name} is not served");
            let hint = "one of HTTP, HTTPS, TLS, TCP";
            let kind = (Severity::Warning, codes::LISTENER_INVALID);
            self.say(kind, ".protocol", &message, hint);
            judged.accepted = Some(("UnsupportedProtocol", message));
        }
        self.kinds(&mut judged);
        judged.serves = self.serves(listener, gateway, &mut judged);
        judged
    }

    /// Other listeners with which this one cannot share its port.
    fn conflict(
        &mut self,
        listener: &Listener,
        gateway: &Gateway,
    ) -> Option<(&'static str, String)> {
        let shape = |protocol: &Protocol| match protocol {
            Protocol::Http => 0,
            Protocol::Https | Protocol::Tls => 1,
            Protocol::Tcp => 2,
            Protocol::Other(_) => 3,
        };
        let mut others = gateway
            .listeners
            .iter()
            .filter(|other| other.port == listener.port && other.name != listener.name);
        let conflict = others.find_map(|other| {
            // UDP has ports of its own.
            let apart = shape(&other.protocol) == 3 || shape(&listener.protocol) == 3;
            if apart {
                None
            } else if shape(&other.protocol) != shape(&listener.protocol) {
                let message = format!(
                    "listener {:?} speaks {} at the same port",
                    other.name,
                    other.protocol.name()
                );
                Some(("ProtocolConflict", message))
            } else if other.hostname == listener.hostname {
                let message = format!("listener {:?} is for the same host and port", other.name);
                Some(("HostnameConflict", message))
            } else {
                None
            }
        });
        if let Some((_, message)) = &conflict {
            let hint = "give it a port or a hostname of its own; until then neither is served";
            let kind = (Severity::Warning, codes::LISTENER_INVALID);
            self.say(kind, "", message, hint);
        }
        conflict
    }

    /// The kinds of routes that are taken: what is asked for, as far as the protocol can have it.
    fn kinds(&mut self, judged: &mut JudgedListener<'_>) {
        let possible = kinds_of(judged.listener);
        let asked = &judged.listener.allowed.kinds;
        if asked.is_empty() {
            judged.kinds = possible
                .iter()
                .map(|kind| RouteKind {
                    group: GROUP.to_owned(),
                    kind: (*kind).to_owned(),
                })
                .collect();
            return;
        }
        for (index, kind) in asked.iter().enumerate() {
            if kind.group == GROUP && possible.contains(&kind.kind.as_str()) {
                if !judged.kinds.contains(kind) {
                    judged.kinds.push(kind.clone());
                }
                continue;
            }
            let message = format!(
                "a listener of protocol {} takes no {}",
                judged.listener.protocol.name(),
                kind.kind
            );
            let hint = match possible {
                [] => "write a protocol that is served".to_owned(),
                possible => format!("one of {}", possible.join(", ")),
            };
            let field = format!(".allowedRoutes.kinds[{index}]");
            let kind = (Severity::Error, codes::INVALID_REFERENCE_KIND);
            self.say(kind, &field, &message, hint);
            judged.resolved = Some(("InvalidRouteKinds", message));
        }
    }

    fn serves(
        &mut self,
        listener: &Listener,
        gateway: &Gateway,
        judged: &mut JudgedListener<'_>,
    ) -> Option<Serves> {
        let http = match listener.protocol {
            Protocol::Http => return Some(Serves::Http { redirect: false }),
            Protocol::Tcp => return Some(Serves::Tcp),
            Protocol::Other(_) => return None,
            Protocol::Https => true,
            Protocol::Tls => false,
        };
        let Some(tls) = &listener.tls else {
            let message = "there is no certificate to end TLS with".to_owned();
            let hint = "tls: {certificateRefs: [{name: …}]}";
            let kind = (Severity::Warning, codes::LISTENER_INVALID);
            self.say(kind, "", &message, hint);
            judged.resolved = Some(("InvalidCertificateRef", message));
            return None;
        };
        if tls.passthrough {
            return Some(if tls.auto {
                Serves::MeshPassthrough
            } else {
                Serves::Passthrough
            });
        }
        let mut certificates = Vec::new();
        for index in 0..tls.certificates.len() {
            match self.certificate(tls, index) {
                Ok((namespace, name)) => {
                    let name = Secret::name_of(&namespace, &name);
                    certificates.push(CertificateSource::Secret(name));
                }
                Err(fault) => judged.resolved = Some(fault),
            }
        }
        if certificates.is_empty() {
            return None;
        }
        let asked = if http {
            super::clients::of(self.object, (listener, gateway), self.bench)
        } else {
            // What callers must show is said of requests only.
            Ok(None)
        };
        let clients = match asked {
            Ok(clients) => clients,
            Err(faults) => {
                for fault in &faults.told {
                    self.findings.push(fault.clone());
                }
                judged.resolved = Some(faults.resolved);
                if faults.none_left {
                    let message = "no certificate is there to hold callers' against".to_owned();
                    judged.accepted = Some(("NoValidCACertificate", message));
                    return None;
                }
                faults.clients
            }
        };
        let security = ServerSecurity::Own(Box::new(OwnTls {
            certificates,
            clients,
            ..OwnTls::default()
        }));
        Some(if http {
            Serves::Https(security)
        } else {
            Serves::Tls(security)
        })
    }

    /// The Secret that is named at `index`.
    fn certificate(
        &mut self,
        tls: &crate::resource::gateway_api::ListenerTls,
        index: usize,
    ) -> Result<(String, String), (&'static str, String)> {
        let Some(to) = tls.certificates.get(index) else {
            return Err(("InvalidCertificateRef", String::new()));
        };
        certificates::named(self.object, to, self.bench).map_err(|fault| {
            let field = format!(".tls.certificateRefs[{index}]");
            let hint = fault.hint("until then nobody is served here");
            self.say(fault.kind, &field, &fault.message, hint);
            let reason = if fault.forbidden {
                "RefNotPermitted"
            } else {
                "InvalidCertificateRef"
            };
            (reason, fault.message)
        })
    }
}

/// Whether TLS of another listener of the port ends for some of the same hosts.
fn overlaps(listener: &Listener, gateway: &Gateway) -> bool {
    let host = |of: &Listener| of.hostname.clone().unwrap_or_else(any_host);
    let own = host(listener);
    listener.protocol == Protocol::Https
        && gateway.listeners.iter().any(|other| {
            let theirs = host(other);
            other.name != listener.name
                && other.port == listener.port
                && other.protocol == Protocol::Https
                && (own.covers(&theirs) || theirs.covers(&own))
        })
}

/// Gateways by namespace and name.
pub(super) type Gateways<'a> = BTreeMap<(&'a str, &'a str), Judged<'a>>;
