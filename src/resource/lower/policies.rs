//! Policies of the mesh's own kinds and RequestAuthentications: their targets resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Services, of_kind, providers, similar};
use crate::mesh::authorization::{Authorization, PolicyAction};
use crate::mesh::gateway::{GatewayName, Serves};
use crate::mesh::policy::{Attached, AttachedTo, Injected, Policy, Says, Whom};
use crate::mesh::shadow::Comparison;
use crate::mesh::world::Config;
use crate::mesh::{Finding, Hostname, Origin, Protocol, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{GROUP, Listener, ParentRef, Protocol as Speaks};
use crate::resource::istio::MeshConfig;
use crate::resource::object::{Key, Kind, Object, Objects};
use crate::resource::policy::{Target, Targets};

/// Has a policy's outcome only counted (Istio's).
const DRY_RUN: &str = "istio.io/dry-run";

/// What stands around policies.
pub(super) struct Around<'a> {
    pub(super) objects: &'a Objects,
    pub(super) config: &'a Config,
    pub(super) mesh: &'a MeshConfig,
    pub(super) findings: &'a mut Vec<Finding>,
}

pub(super) fn lower(around: &mut Around<'_>) -> Vec<Arc<Policy>> {
    let written = of_kind(around.objects, |kind| match kind {
        Kind::RateLimitPolicy(_)
        | Kind::CompressionPolicy(_)
        | Kind::HeaderPolicy(_)
        | Kind::RequestAuthentication(_)
        | Kind::AuthorizationPolicy(_) => Some(kind),
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
            Kind::RequestAuthentication(policy) if !policy.rules.is_empty() => {
                let rules = Arc::new(policy.rules.clone());
                (&policy.targets, Says::Tokens(rules))
            }
            Kind::AuthorizationPolicy(policy) => {
                let metadata = &object.metadata;
                let authorization = Authorization {
                    namespace: metadata.namespace.clone(),
                    name: metadata.name.clone(),
                    action: policy.action,
                    dry_run: around.dry_run(object, policy.action),
                    provider: policy
                        .provider
                        .as_deref()
                        .map(|name| providers::resolve(around, object, name)),
                    rules: policy.rules.clone(),
                };
                (
                    &policy.targets,
                    Says::Authorization(Arc::new(authorization)),
                )
            }
            _ => continue,
        };
        let policy = Policy {
            namespace: object.metadata.namespace.clone(),
            whom: around.whom(
                object,
                targets,
                !matches!(kind, Kind::AuthorizationPolicy(_)),
            ),
            says,
            origin: object.origin.clone(),
        };
        if let Some((other, at)) = all.iter().find_map(|other| excluded(other, &policy)) {
            let whom = at.as_ref().map_or("the same", String::as_str);
            let there = if at.is_some() { " there" } else { "" };
            let message = format!(
                "{} {}/{} is for {whom} and older, so this one has no effect{there}",
                object.kind, other.origin.namespace, other.origin.name
            );
            let path = if at.is_some() {
                "spec.targetRefs"
            } else {
                "spec"
            };
            around.report(
                object,
                (codes::POLICY_WITHOUT_EFFECT, path),
                message,
                || match at {
                    Some(_) => "put both into one policy, or name other targets".to_owned(),
                    None => {
                        "put both into one policy, or choose workloads by other labels".to_owned()
                    }
                },
            );
        }
        around.one_way(object, &policy, &all);
        all.push(Arc::new(policy));
    }
    all
}

/// Faults that are injected, by service.
pub(super) fn faults(around: &mut Around<'_>) -> BTreeMap<Hostname, Arc<Injected>> {
    let written = of_kind(around.objects, |kind| match kind {
        Kind::FaultInjection(injection) => Some(injection),
        _ => None,
    });
    let mut all: BTreeMap<Hostname, Arc<Injected>> = BTreeMap::new();
    for (object, injection) in written {
        let host = Hostname::service(&injection.service, &object.metadata.namespace);
        around.service(object, &host, "spec.service", true);
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

/// How answers to copies are compared, by service.
pub(super) fn comparisons(around: &mut Around<'_>) -> BTreeMap<Hostname, Arc<Comparison>> {
    let written = of_kind(around.objects, |kind| match kind {
        Kind::ShadowDiff(diff) => Some(diff),
        _ => None,
    });
    let mut all: BTreeMap<Hostname, (Arc<Comparison>, &Origin)> = BTreeMap::new();
    for (object, diff) in written {
        let namespace = &object.metadata.namespace;
        let host = Hostname::service(&diff.service, namespace);
        around.service(object, &host, "spec.service", true);
        if let Some((_, other)) = all.get(&host) {
            let message = format!(
                "{} {}/{} is for the same Service and older, so this one has no effect",
                object.kind, other.namespace, other.name
            );
            around.report(
                object,
                (codes::POLICY_WITHOUT_EFFECT, "spec.service"),
                message,
                || "put both into one, or delete one of them".to_owned(),
            );
            continue;
        }
        let how = Comparison {
            service: format!("{}.{namespace}", diff.service),
            ..(*diff.how).clone()
        };
        all.insert(host, (Arc::new(how), &object.origin));
    }
    all.into_iter()
        .map(|(host, (how, _))| (host, how))
        .collect()
}

/// The older `other` where it leaves nothing to `policy`, and the target that both are for, if they are
/// for targets.
fn excluded<'o>(other: &'o Policy, policy: &Policy) -> Option<(&'o Policy, Option<String>)> {
    let alike = matches!(
        (&other.says, &policy.says),
        (Says::RateLimit(_), Says::RateLimit(_)) | (Says::Compression(_), Says::Compression(_))
    );
    if !alike || other.namespace != policy.namespace {
        return None;
    }
    match (&other.whom, &policy.whom) {
        (Whom::Targets { .. }, Whom::Targets { .. }) => {
            let all = targets(&policy.whom);
            let both = targets(&other.whom).into_iter().find(|to| all.contains(to));
            both.map(|both| (other, Some(both)))
        }
        (one, another) => (one == another).then_some((other, None)),
    }
}

/// What a policy is for, in words.
fn targets(whom: &Whom) -> Vec<String> {
    let Whom::Targets {
        services,
        gateways,
        attached,
    } = whom
    else {
        return Vec::new();
    };
    let services = services.iter().map(|host| format!("Service {host}"));
    let gateways = gateways
        .iter()
        .map(|(namespace, name)| format!("Gateway {namespace}/{name} of networking.istio.io"));
    let attached = attached.iter().map(ToString::to_string);
    services.chain(gateways).chain(attached).collect()
}

/// Whether a policy is for routes.
fn routes(whom: &Whom) -> bool {
    let is_route = |to: &Attached| to.kind != AttachedTo::Gateway;
    matches!(whom, Whom::Targets { attached, .. } if attached.iter().any(is_route))
}

/// The Gateways of the Gateway API where a policy for targets acts.
fn gateways(whom: &Whom, objects: &Objects) -> BTreeSet<GatewayName> {
    let mut all = BTreeSet::new();
    let Whom::Targets { attached, .. } = whom else {
        return all;
    };
    for to in attached {
        let own = || (to.namespace.clone(), to.name.clone());
        let key = |kind: &str| Key {
            kind: kind.to_owned(),
            namespace: to.namespace.clone(),
            name: to.name.clone(),
        };
        let route = match to.kind {
            AttachedTo::Gateway => {
                all.insert(own());
                continue;
            }
            AttachedTo::HttpRoute | AttachedTo::GrpcRoute => objects.get(&key(to.kind.as_str())),
        };
        let parents = match route.map(|route| &route.body) {
            Some(Kind::HttpRoute(route)) => &route.parents,
            Some(Kind::GrpcRoute(route)) => &route.parents,
            _ => continue,
        };
        let named = parents.iter().filter(|parent| is_gateway(parent));
        all.extend(named.map(|parent| {
            let namespace = parent.to.namespace(&to.namespace).to_owned();
            (namespace, parent.to.name.clone())
        }));
    }
    all
}

fn is_gateway(parent: &ParentRef) -> bool {
    parent.to.is(GROUP, "Gateway")
}

fn at_gateway(parents: &[ParentRef]) -> bool {
    parents.iter().any(is_gateway)
}

impl Around<'_> {
    /// Whether a policy is only counted.
    fn dry_run(&mut self, object: &Object, action: PolicyAction) -> bool {
        match object.metadata.annotations.get(DRY_RUN).map(String::as_str) {
            None | Some("false") => false,
            Some("true") if action == PolicyAction::Custom => {
                let message = "of CUSTOM there is no dry run, so the policy is in force";
                let path = format!("metadata.annotations.{DRY_RUN}");
                let code = codes::SCHEMA_WARNING;
                self.report(object, (code, &path), message.to_owned(), || {
                    "remove the annotation, or the policy".to_owned()
                });
                false
            }
            Some("true") => true,
            Some(other) => {
                let message = format!(
                    "{other:?} is neither \"true\" nor \"false\", so the policy is in force"
                );
                let path = format!("metadata.annotations.{DRY_RUN}");
                let code = codes::SCHEMA_WARNING;
                self.report(object, (code, &path), message, || {
                    format!("{DRY_RUN}: \"true\"")
                });
                false
            }
        }
    }

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

    /// `of_requests`: it says nothing of bytes.
    pub(super) fn whom(&mut self, object: &Object, targets: &Targets, of_requests: bool) -> Whom {
        let targets = match targets {
            Targets::All => return Whom::All,
            Targets::Workloads(labels) => return Whom::Workloads(labels.clone()),
            Targets::Objects(targets) => targets,
        };
        let (mut services, mut gateways) = (BTreeSet::new(), BTreeSet::new());
        let mut attached = BTreeSet::new();
        for (at, target) in targets.iter().enumerate() {
            let path = format!("spec.targetRefs[{at}].name");
            let namespace = &object.metadata.namespace;
            match target {
                Target::Service(name) => {
                    let host = Hostname::service(name, namespace);
                    self.service(object, &host, &path, of_requests);
                    services.insert(host);
                }
                Target::Gateway(name) => {
                    let name = (namespace.clone(), name.clone());
                    self.gateway(object, &name, &path, of_requests);
                    gateways.insert(name);
                }
                Target::Attached {
                    kind,
                    name,
                    section,
                } => {
                    let to = Attached {
                        kind: *kind,
                        namespace: namespace.clone(),
                        name: name.clone(),
                        section: section.clone(),
                    };
                    self.attached(object, &to, &format!("spec.targetRefs[{at}]"), of_requests);
                    attached.insert(to);
                }
            }
        }
        Whom::Targets {
            services,
            gateways,
            attached,
        }
    }

    /// Looks for what of the Gateway API a policy is for.
    fn attached(&mut self, object: &Object, to: &Attached, path: &str, of_requests: bool) {
        let kind = match to.kind {
            AttachedTo::Gateway => "Gateway.gateway.networking.k8s.io",
            AttachedTo::HttpRoute | AttachedTo::GrpcRoute => to.kind.as_str(),
        };
        let key = Key {
            kind: kind.to_owned(),
            namespace: to.namespace.clone(),
            name: to.name.clone(),
        };
        let Some(target) = self.objects.get(&key) else {
            let what = Attached {
                section: None,
                ..to.clone()
            };
            let message = format!("{what} does not exist, so the policy is for nothing there");
            let code = codes::MISSING_REFERENCE;
            return self.report(object, (code, &format!("{path}.name")), message, || {
                format!("write the {}, or correct its name", to.kind.as_str())
            });
        };
        // Names of sections, and whether requests come to each.
        let (sections, what): (Vec<(&str, bool)>, &str) = match &target.body {
            Kind::ListeningGateway(gateway) => {
                let listeners = gateway.listeners.iter();
                let requests = |of: &Listener| matches!(of.protocol, Speaks::Http | Speaks::Https);
                let named = listeners.map(|of| (of.name.as_str(), requests(of)));
                (named.collect(), "listener")
            }
            Kind::HttpRoute(route) => {
                let served = at_gateway(&route.parents);
                let rules = route.rules.iter();
                (
                    rules.map(|rule| (rule.name.as_str(), served)).collect(),
                    "rule",
                )
            }
            Kind::GrpcRoute(route) => {
                let served = at_gateway(&route.parents);
                let rules = route.rules.iter();
                (
                    rules.map(|rule| (rule.name.as_str(), served)).collect(),
                    "rule",
                )
            }
            _ => return,
        };
        let meant = |name: &str| to.section.as_ref().is_none_or(|section| section == name);
        let mut some = sections.iter().filter(|(name, _)| meant(name)).peekable();
        if let (Some(section), None) = (&to.section, some.peek()) {
            let message = format!(
                "{} {}/{} has no {what} {section:?}, so the policy is for nothing there",
                to.kind.as_str(),
                to.namespace,
                to.name
            );
            let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
            let names = names.into_iter().filter(|name| !name.is_empty());
            let known = names.collect::<Vec<_>>().join(", ");
            let code = codes::MISSING_REFERENCE;
            return self.report(
                object,
                (code, &format!("{path}.sectionName")),
                message,
                || match known.as_str() {
                    "" => format!("give the {what} that name, or leave sectionName out"),
                    known => format!("known there: {known}"),
                },
            );
        }
        if of_requests && !some.any(|(_, requests)| *requests) {
            let code = codes::POLICY_WITHOUT_REQUESTS;
            let (message, hint) = match to.kind {
                AttachedTo::Gateway => (
                    format!(
                        "no listener of {to} takes requests, so the policy has no effect there"
                    ),
                    "name a listener of protocol HTTP or HTTPS",
                ),
                AttachedTo::HttpRoute | AttachedTo::GrpcRoute => (
                    format!("{to} is attached to no Gateway, where policies of routes act"),
                    "attach it to a Gateway, or let the policy be for the Service",
                ),
            };
            self.report(object, (code, path), message, || hint.to_owned());
        }
    }

    /// The answers of a listener are compressed in one way, whatever the routes there.
    fn one_way(&mut self, object: &Object, policy: &Policy, others: &[Arc<Policy>]) {
        let Says::Compression(how) = &policy.says else {
            return;
        };
        let own = gateways(&policy.whom, self.objects);
        let other = others.iter().find(|other| {
            let differs = matches!(&other.says, Says::Compression(other) if other.enabled && how.enabled && other != how);
            differs
                && (routes(&other.whom) || routes(&policy.whom))
                && !gateways(&other.whom, self.objects).is_disjoint(&own)
        });
        let Some(other) = other else {
            return;
        };
        let message = format!(
            "{} {}/{} compresses answers of the same Gateway in another way, and a listener has one: that of its own policy, else of the first route",
            object.kind, other.origin.namespace, other.origin.name
        );
        let code = codes::POLICY_IN_PART;
        self.report(object, (code, "spec"), message, || {
            "write the same fields into both policies, and only what is for whom differently"
                .to_owned()
        });
    }

    fn service(&mut self, object: &Object, host: &Hostname, path: &str, of_requests: bool) {
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
        if of_requests && !service.ports.iter().any(|port| requests(port.protocol)) {
            let message =
                format!("no port of Service {host} speaks HTTP, so the policy has no effect there");
            let code = codes::POLICY_WITHOUT_REQUESTS;
            self.report(object, (code, path), message, || {
                "name the port of the Service http, http2 or grpc, or set its appProtocol"
                    .to_owned()
            });
        }
    }

    fn gateway(&mut self, object: &Object, name: &GatewayName, path: &str, of_requests: bool) {
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
        if of_requests
            && !servers
                .any(|server| matches!(server.serves, Serves::Http { .. } | Serves::Https(_)))
        {
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
