//! Backends of Ingresses: services of their namespace.

use crate::mesh::route::HeaderEdits;
use crate::mesh::world::RouteTarget;
use crate::mesh::{Finding, Hostname, Protocol, Service, Severity};
use crate::resource::codes;
use crate::resource::kube::{BackendPort, IngressBackend};
use crate::resource::lower::{Services, similar};
use crate::resource::object::Object;

/// The backends of one Ingress.
pub(super) struct Backends<'a, 'f> {
    pub(super) object: &'a Object,
    pub(super) services: &'a Services,
    pub(super) findings: &'f mut Vec<Finding>,
}

impl Backends<'_, '_> {
    /// The backend that is written at `path`; `None` for what is no service. What does not exist is
    /// reported, and answers 503.
    pub(super) fn target(&mut self, backend: &IngressBackend, path: &str) -> Option<RouteTarget> {
        let object = self.object;
        let IngressBackend::Service { name, port } = backend else {
            let path = format!("{path}.resource");
            let message = "a backend that is no Service is not honoured by meshctl";
            let code = codes::NOT_HONOURED;
            let finding = object.finding(Severity::Error, code, &path, message);
            self.findings
                .push(finding.hint("service: {name: NAME, port: {number: PORT}}"));
            return None;
        };
        let host = Hostname::service(name, &object.metadata.namespace);
        let mut target = RouteTarget {
            host,
            subset: String::new(),
            port: match port {
                BackendPort::Number(number) => Some(*number),
                BackendPort::Name(_) => None,
            },
            weight: 1,
            headers: HeaderEdits::default(),
            invalid: None,
        };
        let (field, message, hint) = match self.services.get(&target.host) {
            None => (
                "service.name",
                format!("service {} does not exist", target.host),
                similar(&target.host, self.services)
                    .filter(|service| service.namespace == object.metadata.namespace)
                    .map(|service| format!("did you mean {}?", service.name)),
            ),
            Some(service) => {
                if let Some(number) = number(service, port) {
                    target.port = Some(number);
                    return Some(target);
                }
                let shown = match port {
                    BackendPort::Number(number) => number.to_string(),
                    BackendPort::Name(name) => format!("{name:?}"),
                };
                let known = service.ports.iter();
                let known = known.map(|port| match port.name.as_str() {
                    "" => port.port.to_string(),
                    name => format!("{} ({name})", port.port),
                });
                let known: Vec<String> = known.collect();
                (
                    "service.port",
                    format!("service {} has no port {shown}", service.host),
                    Some(format!("its ports: {}", known.join(", "))),
                )
            }
        };
        // A port that nothing has, so that it is not taken for the one that was asked for.
        target.port = target.port.or(Some(0));
        target.invalid = Some(message.clone());
        let path = format!("{path}.{field}");
        let code = codes::MISSING_REFERENCE;
        let mut finding = object.finding(Severity::Error, code, &path, message);
        finding.hint = hint;
        self.findings.push(finding);
        Some(target)
    }
}

/// The number of a port that the mesh carries.
fn number(service: &Service, port: &BackendPort) -> Option<u16> {
    let mut carried = service
        .ports
        .iter()
        .filter(|port| port.protocol != Protocol::Udp);
    let found = match port {
        BackendPort::Number(number) => carried.find(|known| known.port == *number),
        BackendPort::Name(name) => carried.find(|known| known.name == *name),
    };
    found.map(|port| port.port)
}
