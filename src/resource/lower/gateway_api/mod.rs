//! The Gateway API: which Gateways are served, which routes are attached to them or to Services, what
//! all of it means, and what its status is.
//!
//! Objects are judged in one go, so that what is served and what the status says cannot disagree.
//! Broken references stay in the world as targets that answer 500 (the API's rule).

mod attach;
mod backends;
mod certificates;
mod classes;
mod clients;
mod grants;
mod http;
mod listeners;
mod mesh;
mod order;
mod policies;
mod streams;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::gateways::Credentials;
use super::of_kind;
use crate::mesh::backend_tls::BackendSecurity;
use crate::mesh::gateway::{Attached, Gateway, GatewayName};
use crate::mesh::world::{HostRoutes, Instances, RouteTarget, Rule, of_namespace, selects};
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{GROUP, PolicyRoots};
use crate::resource::object::{Kind, Object, Objects};
use attach::{Attaching, Attachment, Route, Said};
use backends::Backends;
use classes::Classes;
use grants::Grants;
use http::Ordered;
use listeners::{Bench, Gateways, Judged};

pub use classes::CONTROLLER;
pub(in crate::resource) use verdict::{Condition, ParentVerdict, Verdict, Verdicts};

/// Label of the proxies that serve a Gateway.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What there is besides.
pub(super) struct Around<'a> {
    pub(super) objects: &'a Objects,
    pub(super) services: &'a super::Services,
    pub(super) credentials: &'a Credentials,
    pub(super) instances: &'a Instances,
}

/// What the API's objects come to.
#[derive(Default)]
pub(super) struct Lowered {
    pub(super) gateways: BTreeMap<GatewayName, Arc<Gateway>>,
    pub(super) verdicts: Verdicts,
    pub(super) backend_security: BackendSecurity,
    /// Ports of services that calls of gRPC are routed to at Gateways.
    pub(super) grpc: BTreeSet<(Hostname, u16)>,
}

/// A route that is attached somewhere, with its rules.
struct Placed<'a> {
    object: &'a Object,
    at: Vec<Attachment<'a>>,
    rules: Vec<Ordered>,
    /// Where its connections go, where it is for those.
    streams: Vec<RouteTarget>,
}

impl Placed<'_> {
    /// Everything that it sends somewhere.
    fn targets(&self) -> impl Iterator<Item = &RouteTarget> {
        let rules = self.rules.iter().map(|ordered| &ordered.rule);
        let requests = rules.flat_map(|rule| {
            let copies = rule.mirrors.iter().map(|mirror| &mirror.target);
            rule.targets.iter().chain(copies)
        });
        requests.chain(&self.streams)
    }
}

/// Lowers the Gateways, and adds rules for Services to `routes`.
pub(super) fn lower(
    around: &Around<'_>,
    routes: &mut BTreeMap<Hostname, Arc<HostRoutes>>,
    findings: &mut Vec<Finding>,
) -> Lowered {
    let objects = around.objects;
    let mut verdicts = Verdicts::default();
    let classes = Classes::of(objects);
    classes.judge(&mut verdicts, findings);
    let grants = Grants::of(objects);
    let bench = Bench {
        grants: &grants,
        credentials: around.credentials,
    };
    let written = of_kind(objects, |kind| match kind {
        Kind::ListeningGateway(gateway) => Some(gateway),
        _ => None,
    });
    let mut judged: Gateways<'_> = BTreeMap::new();
    for (object, gateway) in written {
        if let Some(controller) = classes.controller(object, gateway, findings) {
            let metadata = &object.metadata;
            let key = (metadata.namespace.as_str(), metadata.name.as_str());
            judged.insert(
                key,
                Judged::new((object, gateway, controller), &bench, findings),
            );
        }
    }
    let mut attaching = Attaching {
        objects,
        gateways: &mut judged,
        taken: BTreeMap::new(),
    };
    let mut placed: Vec<Placed<'_>> = Vec::new();
    let mut inside: Vec<mesh::Attached<'_>> = Vec::new();
    let mut streams: Vec<streams::Inside<'_>> = Vec::new();
    for route in in_order(objects) {
        let mut backends = Backends {
            object: route.object,
            kind: route.kind,
            parents: route.parents,
            services: around.services,
            grants: &grants,
            findings: &mut *findings,
            unresolved: None,
            unsupported: None,
        };
        let rules = match &route.object.body {
            Kind::HttpRoute(body) => http::http(body, &mut backends),
            Kind::GrpcRoute(body) => http::grpc(body, &mut backends),
            _ => Vec::new(),
        };
        let written = streams::backends(&route.object.body);
        let targets = streams::targets(written, &mut backends);
        let (unresolved, unsupported) = (backends.unresolved, backends.unsupported);
        let mut at = Vec::new();
        let mut parents = Vec::new();
        for (index, parent) in route.parents.iter().enumerate() {
            let (controller, refused) = match attaching.parent(route, index, &mut at, findings) {
                Said::Nothing => continue,
                Said::Parent(controller, refused) => (controller, refused),
                Said::Service => {
                    let into = (&mut inside, &mut streams);
                    let refused = in_mesh(route, index, around.services, (&rules, &targets), into);
                    if let Some((_, message)) = &refused {
                        let path = format!("spec.parentRefs[{index}]");
                        let severity = Severity::Warning;
                        let code = codes::NOT_ATTACHED;
                        let finding = route.object.finding(severity, code, &path, &**message);
                        findings.push(finding.hint("name a Service, and a port that it has"));
                    }
                    (CONTROLLER, refused)
                }
            };
            let refused = refused.or_else(|| unsupported.clone());
            let said = attach::verdict(parent, controller, refused, unresolved.clone());
            parents.push(said);
        }
        if !parents.is_empty() {
            let key = route.object.key();
            verdicts.of.insert(key, Verdict::Route(parents));
        }
        placed.push(Placed {
            object: route.object,
            at,
            rules,
            streams: targets,
        });
    }
    mesh::lower(inside, around.services, objects, routes, findings);
    streams::inside(streams, around.services, routes);
    let judging = (&bench, &judged, &*placed);
    let backend_security = policies::lower(around, judging, &mut verdicts, findings);
    let calls = placed
        .iter()
        .filter(|route| matches!(route.object.body, Kind::GrpcRoute(_)) && !route.at.is_empty());
    let grpc = calls
        .flat_map(Placed::targets)
        .filter_map(|target| Some((target.host.clone(), target.port?)))
        .collect();
    let mut gateways = BTreeMap::new();
    for ((namespace, name), judged) in &judged {
        let selector = BTreeMap::from([(GATEWAY_NAME.to_owned(), (*name).to_owned())]);
        let serving = of_namespace(around.instances, namespace)
            .filter(|instance| selects(&selector, &instance.labels));
        let proxies = serving.map(|instance| instance.address).collect();
        let verdict = judged.verdict(proxies, findings);
        let verdict = Verdict::Gateway(verdict);
        verdicts.of.insert(judged.object.key(), verdict);
        let servers = judged.servers().into_iter().map(|(listener, mut server)| {
            let host = server.hosts.first().map(|of| of.host.clone());
            server.attached = Some(Attached {
                hosts: by_host(host, &placed, ((namespace, name), listener)),
                streams: streams::at_listener(&placed, ((namespace, name), listener)),
            });
            server
        });
        gateways.insert(
            ((*namespace).to_owned(), (*name).to_owned()),
            Arc::new(Gateway {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
                selector,
                local: true,
                client_certificate: judged.shows.clone().and_then(Result::ok),
                servers: servers.collect(),
                origin: judged.object.origin.clone(),
            }),
        );
    }
    Lowered {
        gateways,
        verdicts,
        backend_security,
        grpc,
    }
}

/// Tells of everything that Gateways of our classes, and policies for backends, name and may name: kind, namespace
/// and name of Secrets and ConfigMaps.
pub(super) fn named(objects: &Objects, tell: &mut dyn FnMut(&str, &str, &str)) {
    let classes = Classes::of(objects);
    let grants = Grants::of(objects);
    let mut unsaid = Vec::new();
    for object in objects.values() {
        let own = object.metadata.namespace.as_str();
        match &object.body {
            Kind::ListeningGateway(gateway) => {
                if classes.controller(object, gateway, &mut unsaid).is_none() {
                    continue;
                }
                let listeners = gateway.listeners.iter();
                let shown = listeners.filter_map(|one| one.tls.as_ref());
                let shown = shown.flat_map(|tls| &tls.certificates);
                let shown = shown.chain(&gateway.client_certificate);
                let ports = gateway.ports.iter().map(|port| &port.validation);
                let roots = ports.chain([&gateway.validation]).flatten();
                let roots = roots.flat_map(|validation| &validation.roots);
                for to in shown.filter(|to| to.is("", "Secret")).chain(roots) {
                    let read = to.is("", "Secret") || to.is("", "ConfigMap");
                    if read && grants.permit((GROUP, "Gateway", own), to) {
                        tell(&to.kind, to.namespace(own), &to.name);
                    }
                }
            }
            Kind::BackendTlsPolicy(policy) => {
                if let PolicyRoots::Named(roots) = &policy.roots {
                    for to in roots.iter().filter(|to| to.is("", "ConfigMap")) {
                        tell(&to.kind, own, &to.name);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Routes of all kinds, the oldest first.
fn in_order(objects: &Objects) -> Vec<Route<'_>> {
    let mut routes: Vec<Route<'_>> = objects
        .values()
        .filter_map(|object| {
            let (kind, parents, hostnames) = match &object.body {
                Kind::HttpRoute(route) => ("HTTPRoute", &route.parents, &*route.hostnames),
                Kind::GrpcRoute(route) => ("GRPCRoute", &route.parents, &*route.hostnames),
                Kind::TlsRoute(route) => ("TLSRoute", &route.parents, &*route.hostnames),
                Kind::TcpRoute(route) => ("TCPRoute", &route.parents, &[][..]),
                _ => return None,
            };
            Some(Route {
                object,
                kind,
                parents,
                hostnames,
            })
        })
        .collect();
    routes.sort_by(|a, b| a.object.seniority().cmp(&b.object.seniority()));
    routes
}

/// Attaches a route to a Service; gives why not.
fn in_mesh<'a>(
    route: Route<'a>,
    index: usize,
    services: &super::Services,
    (rules, targets): (&[Ordered], &[RouteTarget]),
    (into, streams): (&mut Vec<mesh::Attached<'a>>, &mut Vec<streams::Inside<'a>>),
) -> Option<(&'static str, String)> {
    let parent = route.parents.get(index)?;
    let own = &route.object.metadata.namespace;
    let (host, ports) = match mesh::attach(route.object, parent, services) {
        Ok(found) => found,
        Err(refused) => return Some(refused),
    };
    let consumer = (parent.to.namespace(own) != own).then(|| own.clone());
    for port in ports {
        if matches!(route.kind, "TLSRoute" | "TCPRoute") {
            streams.push(streams::Inside {
                object: route.object,
                host: host.clone(),
                port,
                consumer: consumer.clone(),
                targets: targets.to_vec(),
            });
            continue;
        }
        into.push(mesh::Attached {
            object: route.object,
            host: host.clone(),
            port,
            consumer: consumer.clone(),
            rules: rules.to_vec(),
        });
    }
    None
}

/// The rules of a listener by host. What is for a wider host of it stands behind.
fn by_host(
    own: Option<Hostname>,
    placed: &[Placed<'_>],
    place: ((&str, &str), usize),
) -> BTreeMap<Hostname, Vec<Rule>> {
    // Who has what host here.
    let mut claims: BTreeMap<&Hostname, Vec<&Placed<'_>>> = BTreeMap::new();
    for route in placed {
        let here = route.at.iter();
        let here = here.filter(|at| (at.gateway, at.listener) == place);
        for host in here.flat_map(|at| &at.hosts) {
            let all = claims.entry(host).or_default();
            if !all.iter().any(|other| std::ptr::eq(*other, route)) {
                all.push(route);
            }
        }
    }
    // Also where nothing is attached: requests for it are nobody else's.
    let mut hosts: BTreeMap<Hostname, Vec<Rule>> = BTreeMap::new();
    hosts.extend(own.map(|own| (own, Vec::new())));
    hosts.extend(claims.keys().map(|host| ((*host).clone(), Vec::new())));
    let wide: Vec<&Hostname> = claims
        .keys()
        .copied()
        .filter(|host| host.as_str().starts_with('*'))
        .collect();
    for (host, rules) in &mut hosts {
        let mut covering: Vec<&Hostname> = wide
            .iter()
            .copied()
            .filter(|wide| *wide != host && wide.covers(host))
            .collect();
        covering.extend(claims.get_key_value(host).map(|(host, _)| *host));
        covering.sort_by_key(|host| order::narrowness(host));
        let mut seen: Vec<&Placed<'_>> = Vec::new();
        for claim in covering {
            let fresh: Vec<&Placed<'_>> = claims
                .get(claim)
                .into_iter()
                .flatten()
                .copied()
                .filter(|route| !seen.iter().any(|other| std::ptr::eq(*other, *route)))
                .collect();
            rules.extend(merged(&fresh));
            seen.extend(fresh);
        }
    }
    hosts
}

/// The rules of some routes, the narrowest first, and of equals that of the oldest.
fn merged(routes: &[&Placed<'_>]) -> Vec<Rule> {
    let mut all: Vec<(&Ordered, &Object, usize)> = routes
        .iter()
        .flat_map(|route| {
            let rules = route.rules.iter().enumerate();
            rules.map(|(at, rule)| (rule, route.object, at))
        })
        .collect();
    all.sort_by(|(a, of, at), (b, other, place)| {
        let first = (a.width, of.seniority(), *at);
        first.cmp(&(b.width, other.seniority(), *place))
    });
    all.into_iter().map(|(one, ..)| one.rule.clone()).collect()
}
