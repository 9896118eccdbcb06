//! Policies of the mesh's own kinds: their targets resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Services, of_kind, similar};
use crate::mesh::gateway::{GatewayName, Serves};
use crate::mesh::policy::{Injected, Policy, Says, Whom};
use crate::mesh::world::Config;
use crate::mesh::{Finding, Hostname, Protocol, Severity};
use crate::resource::codes;
use crate::resource::object::{Kind, Object, Objects};
use crate::resource::policy::{Target, Targets};

/// What stands around policies.
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) findings: &'a mut Vec<Finding>,
}

pub(super) fn lower(objects: &Objects, around: &mut Around<'_>) -> Vec<Arc<Policy>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::RateLimitPolicy(_) | Kind::CompressionPolicy(_) | Kind::HeaderPolicy(_) => Some(kind),
        _ => None,
    });
    let mut all: Vec<Arc<Policy>> = Vec::new();
    for (object, kind) in written {
        let (targets, says) = match kind {
            Kind::RateLimitPolicy(policy) => {
                let mut limit = (*policy.limit).clone();
                let metadata = &object.metadata;
                limit.stat_prefix = format!("{}.{}", metadata.namespace, metadata.name);
                (&policy.targets, Says::RateLimit(Arc::new(limit)))
            }
            Kind::CompressionPolicy(policy) => {
                (&policy.targets, Says::Compression(policy.how.clone()))
            }
            Kind::HeaderPolicy(policy) => (&policy.targets, Says::Headers(policy.edits.clone())),
            _ => continue,
        };
        let policy = Policy {
            namespace: object.metadata.namespace.clone(),
            whom: around.whom(object, targets),
            says,
            origin: object.origin.clone(),
        };
        if let Some(other) = all.iter().find(|other| excludes(other, &policy)) {
            let message = format!(
                "{} {}/{} is for the same and older, so this one has no effect",
                object.kind, other.origin.namespace, other.origin.name
            );
            around.report(
                object,
                (codes::POLICY_WITHOUT_EFFECT, "spec"),
                message,
                || "put both into one policy, or choose workloads by other labels".to_owned(),
            );
        }
        all.push(Arc::new(policy));
    }
    all
}

/// Faults that are injected, by service.
pub(super) fn faults(
    objects: &Objects,
    around: &mut Around<'_>,
) -> BTreeMap<Hostname, Arc<Injected>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::FaultInjection(injection) => Some(injection),
        _ => None,
    });
    let mut all: BTreeMap<Hostname, Arc<Injected>> = BTreeMap::new();
    for (object, injection) in written {
        let host = Hostname::service(&injection.service, &object.metadata.namespace);
        around.service(object, &host, "spec.service");
        if let Some(other) = all.get(&host) {
            let message = format!(
                "{} {}/{} is for the same Service and older, so this one has no effect",
                object.kind, other.origin.namespace, other.origin.name
            );
            around.report(
                object,
                (codes::POLICY_WITHOUT_EFFECT, "spec.service"),
                message,
                || "clear the other first, or put both into one".to_owned(),
            );
            continue;
        }
        let injected = Injected {
            fault: Arc::clone(&injection.fault),
            until_unix_ms: injection.until_unix_ms,
            origin: object.origin.clone(),
        };
        all.insert(host, Arc::new(injected));
    }
    all
}

/// Whether the older `other` leaves nothing to `policy`.
fn excludes(other: &Policy, policy: &Policy) -> bool {
    let alike = matches!(
        (&other.says, &policy.says),
        (Says::RateLimit(_), Says::RateLimit(_)) | (Says::Compression(_), Says::Compression(_))
    );
    alike && other.namespace == policy.namespace && other.whom == policy.whom
}

impl Around<'_> {
    fn report(
        &mut self,
        object: &Object,
        (code, path): (&str, &str),
        message: String,
        hint: impl FnOnce() -> String,
    ) {
        let finding = object.finding(Severity::Warning, code, path, message);
        self.findings.push(finding.hint(hint()));
    }

    fn whom(&mut self, object: &Object, targets: &Targets) -> Whom {
        let targets = match targets {
            Targets::All => return Whom::All,
            Targets::Workloads(labels) => return Whom::Workloads(labels.clone()),
            Targets::Objects(targets) => targets,
        };
        let (mut services, mut gateways) = (BTreeSet::new(), BTreeSet::new());
        for (at, target) in targets.iter().enumerate() {
            let path = format!("spec.targetRefs[{at}].name");
            let namespace = &object.metadata.namespace;
            match target {
                Target::Service(name) => {
                    let host = Hostname::service(name, namespace);
                    self.service(object, &host, &path);
                    services.insert(host);
                }
                Target::Gateway(name) => {
                    let name = (namespace.clone(), name.clone());
                    self.gateway(object, &name, &path);
                    gateways.insert(name);
                }
            }
        }
        Whom::Targets { services, gateways }
    }

    fn service(&mut self, object: &Object, host: &Hostname, path: &str) {
        let services: &Services = &self.config.services;
        let Some(service) = services.get(host) else {
            let near = similar(host, services).map(|service| service.name.clone());
            let message =
                format!("Service {host} does not exist, so the policy is for nothing there");
            let code = codes::MISSING_REFERENCE;
            return self.report(object, (code, path), message, || match near {
                Some(near) => format!("did you mean {near}?"),
                None => "apply the Service, or correct its name".to_owned(),
            });
        };
        let requests =
            |protocol: Protocol| !matches!(protocol, Protocol::Tcp | Protocol::Tls | Protocol::Udp);
        if !service.ports.iter().any(|port| requests(port.protocol)) {
            let message =
                format!("no port of Service {host} speaks HTTP, so the policy has no effect there");
            let code = codes::POLICY_WITHOUT_REQUESTS;
            self.report(object, (code, path), message, || {
                "name the port of the Service http, http2 or grpc, or set its appProtocol"
                    .to_owned()
            });
        }
    }

    fn gateway(&mut self, object: &Object, name: &GatewayName, path: &str) {
        let Some(gateway) = self.config.gateways.get(name) else {
            let message = format!(
                "Gateway {}/{} does not exist, so the policy is for nothing there",
                name.0, name.1
            );
            let code = codes::MISSING_REFERENCE;
            return self.report(object, (code, path), message, || {
                "write the Gateway, or correct its name".to_owned()
            });
        };
        let mut servers = gateway.servers.iter();
        if !servers.any(|server| matches!(server.serves, Serves::Http { .. } | Serves::Https(_))) {
            let message = format!(
                "no server of Gateway {}/{} takes requests, so the policy has no effect there",
                name.0, name.1
            );
            let code = codes::POLICY_WITHOUT_REQUESTS;
            self.report(object, (code, path), message, || {
                "give it a server of protocol HTTP or HTTPS".to_owned()
            });
        }
    }
}
