//! BackendTLSPolicies: how gateways speak to which ports of services.

use std::collections::{BTreeMap, BTreeSet};

use super::listeners::{Bench, Gateways};
use super::verdict::{Condition, ParentVerdict, Verdict, Verdicts};
use super::{Around, Placed};
use crate::mesh::backend_tls::{BackendSecurity, BackendTls};
use crate::mesh::origination::{Asks, NameMatch, Named, Origination, Pem, Roots, Verify};
use crate::mesh::{Finding, Hostname, Secret, Service, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{
    BackendTlsPolicy, GROUP, ObjectRef, ParentRef, PolicyRoots, PolicyTarget,
};
use crate::resource::lower::{of_kind, similar};
use crate::resource::object::{Kind, Object};

/// What is wrong with a policy: the API's reason, and why.
type Fault = (&'static str, String);

/// What policies come to, and what is said of them.
pub(super) fn lower(
    around: &Around<'_>,
    (bench, gateways, placed): (&Bench<'_>, &Gateways<'_>, &[Placed<'_>]),
    verdicts: &mut Verdicts,
    findings: &mut Vec<Finding>,
) -> BackendSecurity {
    let written = of_kind(around.objects, |kind| match kind {
        Kind::BackendTlsPolicy(policy) => Some(policy),
        _ => None,
    });
    let mut claims = Claims::default();
    for (object, policy) in written {
        let mut judge = Judge {
            object,
            around,
            bench,
            findings: &mut *findings,
        };
        let roots = judge.roots(policy);
        let mut hosts = BTreeSet::new();
        let mut conflicted = None;
        for (index, target) in policy.targets.iter().enumerate() {
            let Some((service, ports)) = judge.target(target, index) else {
                continue;
            };
            hosts.insert(service.host.clone());
            let key = (service.host.clone(), target.section.clone());
            if let Some(older) = claims.by.get(&key) {
                let message = format!("{older} is older and for the same target");
                let path = format!("spec.targetRefs[{index}]");
                let finding =
                    object.finding(Severity::Warning, codes::POLICY_CONFLICT, &path, &*message);
                let hint = "remove one of them, or write another sectionName";
                judge.findings.push(finding.hint(hint));
                conflicted = Some(("Conflicted", message));
                continue;
            }
            let metadata = &object.metadata;
            let name = format!("BackendTLSPolicy {}/{}", metadata.namespace, metadata.name);
            claims.by.insert(key, name);
            let level = if target.section.is_some() {
                &mut claims.of_ports
            } else {
                &mut claims.of_services
            };
            let how = match &roots.usable {
                Some(usable) => BackendTls::Originate(Box::new(origination(policy, usable))),
                None => BackendTls::Broken,
            };
            level.extend(ports.map(|port| ((service.host.clone(), port), how.clone())));
        }
        let accepted = conflicted.or(roots.accepted);
        let said: Vec<ParentVerdict> = ancestors(gateways, placed, &hosts)
            .map(|(gateway, controller)| ParentVerdict {
                parent: ParentRef {
                    to: ObjectRef {
                        group: GROUP.to_owned(),
                        kind: "Gateway".to_owned(),
                        namespace: Some(gateway.0.to_owned()),
                        name: gateway.1.to_owned(),
                    },
                    ..ParentRef::default()
                },
                controller: controller.to_owned(),
                conditions: vec![
                    Condition::new("Accepted", accepted.clone(), "Accepted"),
                    Condition::new("ResolvedRefs", roots.resolved.clone(), "ResolvedRefs"),
                ],
            })
            .collect();
        if !said.is_empty() {
            verdicts.of.insert(object.key(), Verdict::Policy(said));
        }
    }
    // What is for a port goes before what is for all.
    let mut all = claims.of_services;
    all.extend(claims.of_ports);
    all
}

/// Who has which target, and how it is spoken to.
#[derive(Default)]
struct Claims {
    by: BTreeMap<(Hostname, Option<String>), String>,
    of_ports: BackendSecurity,
    of_services: BackendSecurity,
}

/// Whom a policy believes.
struct Believed {
    /// What of it can be used.
    usable: Option<Roots>,
    accepted: Option<Fault>,
    resolved: Option<Fault>,
}

/// The Gateways that send requests to one of `hosts`.
fn ancestors<'g>(
    gateways: &'g Gateways<'_>,
    placed: &'g [Placed<'_>],
    hosts: &'g BTreeSet<Hostname>,
) -> impl Iterator<Item = ((&'g str, &'g str), &'static str)> {
    gateways.iter().filter_map(move |(key, judged)| {
        let sends = placed.iter().any(|route| {
            route.at.iter().any(|at| at.gateway == *key)
                && route.targets().any(|target| hosts.contains(&target.host))
        });
        sends.then_some((*key, judged.controller))
    })
}

fn origination(policy: &BackendTlsPolicy, roots: &Roots) -> Origination {
    // Where names are listed, the one that is asked for is not held against the certificate.
    let names = match policy.names.as_slice() {
        [] => vec![NameMatch::Exact(policy.hostname.clone())],
        names => names.to_vec(),
    };
    Origination {
        asks: Asks::Name(policy.hostname.clone()),
        verify: Some(Verify {
            roots: roots.clone(),
            revoked: None,
            names: Named::Any(names),
        }),
        certificate: None,
    }
}

/// Judges one policy.
struct Judge<'j> {
    object: &'j Object,
    around: &'j Around<'j>,
    bench: &'j Bench<'j>,
    findings: &'j mut Vec<Finding>,
}

impl<'j> Judge<'j> {
    fn say(
        &mut self,
        (severity, code): (Severity, &str),
        path: &str,
        message: &str,
        hint: Option<String>,
    ) {
        let mut finding = self.object.finding(severity, code, path, message);
        finding.hint = hint;
        self.findings.push(finding);
    }

    /// The service that a policy is for, and which of its ports.
    fn target(
        &mut self,
        target: &PolicyTarget,
        index: usize,
    ) -> Option<(&'j Service, impl Iterator<Item = u16> + use<'j>)> {
        let path = format!("spec.targetRefs[{index}]");
        if !target.to.is("", "Service") {
            let message = format!(
                "a policy is for a Service, and not for a {}",
                target.to.kind
            );
            let kind = (Severity::Error, codes::INVALID_REFERENCE_KIND);
            let hint = "write group: \"\", kind: Service".to_owned();
            self.say(kind, &format!("{path}.kind"), &message, Some(hint));
            return None;
        }
        let host = Hostname::service(&target.to.name, &self.object.metadata.namespace);
        let kind = (Severity::Warning, codes::MISSING_REFERENCE);
        let services = self.around.services;
        let Some(service) = services.get(&host) else {
            let message = format!("service {host} does not exist, so the policy has no effect");
            let hint =
                similar(&host, services).map(|service| format!("did you mean {}?", service.host));
            self.say(kind, &format!("{path}.name"), &message, hint);
            return None;
        };
        let service: &'j Service = service;
        let section = target.section.clone();
        let meant = move |name: &str| section.as_ref().is_none_or(|own| own == name);
        if !service.ports.iter().any(|port| meant(&port.name)) {
            let names: Vec<&str> = service
                .ports
                .iter()
                .map(|port| port.name.as_str())
                .collect();
            let message = format!("service {host} has no port of that name");
            let hint = format!("its ports: {}", names.join(", "));
            self.say(kind, &format!("{path}.sectionName"), &message, Some(hint));
        }
        let ports = service.ports.iter();
        let ports = ports
            .filter(move |port| meant(&port.name))
            .map(|port| port.port);
        Some((service, ports))
    }

    fn roots(&mut self, policy: &BackendTlsPolicy) -> Believed {
        let refs = match &policy.roots {
            PolicyRoots::WellKnown(known) if known == PolicyRoots::SYSTEM => {
                return Believed {
                    usable: Some(Roots::System),
                    accepted: None,
                    resolved: None,
                };
            }
            PolicyRoots::WellKnown(known) => {
                let message = format!("no set of authorities is known here as {known}");
                let path = "spec.validation.wellKnownCACertificates";
                let hint = "write System, or name a ConfigMap among caCertificateRefs".to_owned();
                let kind = (Severity::Error, codes::NOT_HONOURED);
                self.say(kind, path, &message, Some(hint));
                return Believed {
                    usable: None,
                    accepted: Some(("Invalid", message)),
                    resolved: None,
                };
            }
            PolicyRoots::Named(refs) => refs,
        };
        let mut texts = Vec::new();
        let mut resolved = None;
        for (index, to) in refs.iter().enumerate() {
            match self.root(to, index) {
                Ok(text) => texts.push(text),
                Err(fault) => resolved = Some(fault),
            }
        }
        let none = "no certificate is there to hold the service's against".to_owned();
        Believed {
            accepted: texts.is_empty().then_some(("NoValidCACertificate", none)),
            usable: (!texts.is_empty()).then(|| Roots::Given(Pem::Inline(texts.join("\n")))),
            resolved,
        }
    }

    /// The authorities in one object.
    fn root(&mut self, to: &ObjectRef, index: usize) -> Result<String, Fault> {
        let path = format!("spec.validation.caCertificateRefs[{index}]");
        if !to.is("", "ConfigMap") {
            let message = format!("authorities are in a ConfigMap, and not in a {}", to.kind);
            let kind = (Severity::Error, codes::INVALID_REFERENCE_KIND);
            let hint = "write group: \"\", kind: ConfigMap".to_owned();
            self.say(kind, &format!("{path}.kind"), &message, Some(hint));
            return Err(("InvalidKind", message));
        }
        let namespace = &self.object.metadata.namespace;
        let name = crate::resource::lower::gateways::config_map(&to.name);
        let known = self.bench.credentials.get(&(namespace.clone(), name));
        match known.and_then(|known| known.roots.as_deref()) {
            Some(Secret::Roots { certificates, .. })
                if certificates.contains("-----BEGIN CERTIFICATE-----") =>
            {
                Ok(certificates.clone())
            }
            _ => {
                let message = format!(
                    "no ConfigMap {namespace}/{} has certificates in PEM as ca.crt",
                    to.name
                );
                let hint = "make it, with ca.crt; until then no gateway reaches the service";
                let kind = (Severity::Warning, codes::MISSING_REFERENCE);
                self.say(kind, &path, &message, Some(hint.to_owned()));
                Err(("InvalidCACertificateRef", message))
            }
        }
    }
}
