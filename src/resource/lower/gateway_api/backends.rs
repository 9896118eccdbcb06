//! Where rules of routes send requests.

use super::grants::Grants;
use crate::mesh::route::HeaderEdits;
use crate::mesh::world::{MirrorTarget, RouteTarget};
use crate::mesh::{Finding, Hostname, Protocol, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{BackendRef, GROUP, Mirror, ParentRef, RouteBackend};
use crate::resource::lower::{Services, similar};
use crate::resource::object::Object;

/// Resolves the backends of one route.
pub(super) struct Backends<'b> {
    pub(super) object: &'b Object,
    /// Such as `HTTPRoute`.
    pub(super) kind: &'static str,
    /// What the route is attached to.
    pub(super) parents: &'b [ParentRef],
    pub(super) services: &'b Services,
    pub(super) grants: &'b Grants<'b>,
    pub(super) findings: &'b mut Vec<Finding>,
    /// For the condition `ResolvedRefs`: the first fault.
    pub(super) unresolved: Option<(&'static str, String)>,
    /// What the route asks for and is not honoured: it is not accepted.
    pub(super) unsupported: Option<(&'static str, String)>,
}

struct Fault {
    reason: &'static str,
    code: &'static str,
    field: &'static str,
    message: String,
    hint: Option<String>,
}

impl Backends<'_> {
    /// A backend of the rule at `path`. One that is no good keeps its share.
    pub(super) fn target(&mut self, backend: &RouteBackend, path: &str) -> RouteTarget {
        RouteTarget {
            weight: backend.weight,
            headers: backend.filters.headers.clone(),
            ..self.resolve(&backend.to, path)
        }
    }

    /// Where copies go. One that is no good goes nowhere.
    pub(super) fn mirror(&mut self, mirror: &Mirror, path: &str) -> Option<MirrorTarget> {
        let path = format!("{path}.filters[{}].requestMirror.backendRef", mirror.index);
        let target = self.resolve(&mirror.to, &path);
        target.invalid.is_none().then_some(MirrorTarget {
            target,
            share: mirror.share,
        })
    }

    fn resolve(&mut self, to: &BackendRef, path: &str) -> RouteTarget {
        let own = &self.object.metadata.namespace;
        let namespace = to.to.namespace(own);
        // No name ends so (RFC 2606): nothing is ever sent there.
        let nowhere = format!("{}.{namespace}.invalid", to.to.name);
        let mut target = RouteTarget {
            host: nowhere
                .parse()
                .unwrap_or_else(|_| Hostname::service("invalid", "invalid")),
            subset: String::new(),
            port: to.port,
            weight: 1,
            headers: HeaderEdits::default(),
            invalid: None,
        };
        match self.host(to, namespace) {
            Ok(host) => target.host = host,
            Err(fault) => {
                let path = format!("{path}{}", fault.field);
                let severity = Severity::Error;
                let mut finding = self
                    .object
                    .finding(severity, fault.code, &path, &*fault.message);
                finding.hint = fault.hint;
                self.findings.push(finding);
                target.invalid = Some(fault.message.clone());
                self.unresolved.get_or_insert((fault.reason, fault.message));
            }
        }
        target
    }

    fn host(&self, to: &BackendRef, namespace: &str) -> Result<Hostname, Fault> {
        let own = &self.object.metadata.namespace;
        let host = if to.to.is("", "Service") {
            Hostname::service(&to.to.name, namespace)
        } else if to.to.is("networking.istio.io", "Hostname") {
            // Istio's: any host that is known by a ServiceEntry or a Service.
            to.to.name.parse().map_err(|_| Fault {
                reason: "InvalidKind",
                code: codes::SCHEMA,
                field: ".name",
                message: format!("{:?} is no host name", to.to.name),
                hint: None,
            })?
        } else {
            return Err(Fault {
                reason: "InvalidKind",
                code: codes::INVALID_REFERENCE_KIND,
                field: ".kind",
                message: format!("requests cannot be sent to a {}", to.to.kind),
                hint: Some("name a Service, without group and kind".to_owned()),
            });
        };
        // Who calls the Service that is the parent may go on to it.
        let itself = self.parents.iter().any(|parent| {
            let parent = &parent.to;
            parent.is("", "Service")
                && to.to.is("", "Service")
                && (parent.namespace(own), &parent.name) == (namespace, &to.to.name)
        });
        if !itself && !self.grants.permit((GROUP, self.kind, own), &to.to) {
            return Err(Fault {
                reason: "RefNotPermitted",
                code: codes::NOT_PERMITTED,
                field: "",
                message: format!(
                    "no ReferenceGrant in namespace {namespace} lets this route use Service {}",
                    to.to.name
                ),
                hint: Some(format!(
                    "write one there, from {{group: {GROUP}, kind: {}, namespace: {own}}} to {{group: \"\", kind: Service}}",
                    self.kind
                )),
            });
        }
        let Some(service) = self.services.get(&host) else {
            return Err(Fault {
                reason: "BackendNotFound",
                code: codes::MISSING_REFERENCE,
                field: ".name",
                message: format!("service {host} does not exist"),
                hint: similar(&host, self.services)
                    .map(|service| format!("did you mean {}?", service.host)),
            });
        };
        let carried: Vec<u16> = service
            .ports
            .iter()
            .filter(|port| port.protocol != Protocol::Udp)
            .map(|port| port.port)
            .collect();
        match to.port {
            Some(port) if !carried.contains(&port) => {
                let udp = service.ports.iter().any(|known| known.port == port);
                let ports: Vec<String> = carried.iter().map(u16::to_string).collect();
                Err(Fault {
                    reason: if udp {
                        "UnsupportedProtocol"
                    } else {
                        "BackendNotFound"
                    },
                    code: codes::MISSING_REFERENCE,
                    field: ".port",
                    message: format!("service {host} has no port {port} that is carried"),
                    hint: Some(format!("its ports: {}", ports.join(", "))),
                })
            }
            _ => Ok(host),
        }
    }
}
