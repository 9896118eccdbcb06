//! Where requests go: VirtualServices, by host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::delegate;
use super::merge::{Part, merge};
use super::{exported, of_kind, resolve, similar};
use crate::mesh::filter::{Fault, HttpFilter};
use crate::mesh::gateway::{Bound, GatewayName};
use crate::mesh::route::{Action, Forward, HeaderEdits, PathMatch, PathRewrite, Rewrite};
use crate::mesh::world::{Config, HostRoutes, MirrorTarget, RouteTarget, Rule, SourceMatch};
use crate::mesh::{Finding, Hostname, Protocol, Route, Severity};
use crate::resource::codes;
use crate::resource::istio::{
    DelegateTo, Destination, HttpAction, HttpMatch, HttpRoute, RouteDestination, UriRewrite,
    VirtualService,
};
use crate::resource::object::{Kind, Object, Objects};
use crate::resource::suggest::nearest;

/// Rules inside the mesh.
type Routes = BTreeMap<Hostname, Arc<HostRoutes>>;
/// Rules at gateways.
type BoundRoutes = BTreeMap<GatewayName, Vec<Arc<Bound>>>;

pub(super) fn lower(
    objects: &Objects,
    config: &Config,
    usual: &[String],
    findings: &mut Vec<Finding>,
) -> (Routes, BoundRoutes) {
    let written = of_kind(objects, |kind| match kind {
        Kind::VirtualService(service) => Some(service),
        _ => None,
    });
    let mut parts: BTreeMap<Hostname, Vec<Part<'_>>> = BTreeMap::new();
    let mut bound: BTreeMap<GatewayName, Vec<Arc<Bound>>> = BTreeMap::new();
    for (object, service) in &written {
        let mut lowering = Lowering {
            object,
            config,
            all: &written,
            usual,
            place: None,
            findings,
        };
        if service.hosts.is_empty() {
            lowering.delegated_to();
            continue;
        }
        for gateway in lowering.gateways(service) {
            lowering.place = Some(gateway.clone());
            let rules = lowering.rules(service);
            let streams = lowering.streams(service);
            if rules.is_empty() && streams.is_empty() {
                continue;
            }
            bound
                .entry(gateway.clone())
                .or_default()
                .push(Arc::new(Bound {
                    namespace: object.metadata.namespace.clone(),
                    hosts: lowering.bound_hosts(service, &gateway),
                    rules,
                    streams,
                    export: exported(&service.export_to, usual, &object.metadata.namespace),
                    origin: object.origin.clone(),
                }));
        }
        lowering.place = None;
        let rules = lowering.rules(service);
        let streams = lowering.streams(service);
        if rules.is_empty() && streams.is_empty() {
            continue;
        }
        let own = Arc::new(HostRoutes {
            rules,
            streams,
            export: exported(&service.export_to, usual, &object.metadata.namespace),
            origin: object.origin.clone(),
        });
        for (index, host) in lowering.hosts(service) {
            parts.entry(host).or_default().push(Part {
                object,
                index,
                routes: Arc::clone(&own),
            });
        }
    }
    let mut routes = BTreeMap::new();
    for (host, mut parts) in parts {
        // One object that names a host twice says nothing new.
        parts.dedup_by_key(|part| std::ptr::from_ref(part.object));
        if let Some(merged) = merge(&host, &parts, findings) {
            routes.insert(host, merged);
        }
    }
    (routes, bound)
}

fn sees(export: &BTreeSet<String>, namespace: &str) -> bool {
    export.is_empty() || export.contains(namespace)
}

/// The meaning of one VirtualService.
pub(super) struct Lowering<'a, 'f> {
    pub(super) object: &'a Object,
    pub(super) config: &'a Config,
    /// All of them.
    all: &'a [(&'a Object, &'a VirtualService)],
    /// Who sees what does not say.
    usual: &'a [String],
    /// What rules are wanted for: a gateway, or the mesh.
    pub(super) place: Option<GatewayName>,
    pub(super) findings: &'f mut Vec<Finding>,
}

impl Lowering<'_, '_> {
    fn hosts(&mut self, service: &VirtualService) -> Vec<(usize, Hostname)> {
        let services = &self.config.services;
        let mut hosts = Vec::new();
        for (index, written) in service.hosts.iter().enumerate() {
            let Some(host) = resolve(written, &self.object.metadata.namespace, services) else {
                continue;
            };
            let known = host.covers_any(services);
            // A server name may be any name.
            if !known && (service.tls.is_empty() || !service.http.is_empty()) {
                let path = format!("spec.hosts[{index}]");
                let message = if service.http.is_empty() {
                    format!("host {host} is no service of the mesh, so its routes have no effect")
                } else {
                    format!(
                        "host {host} is no service of the mesh; its routes are for requests to port 80 that name it"
                    )
                };
                let mut finding = self.object.finding(
                    Severity::Warning,
                    codes::UNKNOWN_ROUTE_HOST,
                    &path,
                    message,
                );
                finding.hint = Some(similar(&host, services).map_or_else(
                    || {
                        // What is meant for callers from outside may be no service.
                        let outside = service.gateways.iter().any(|name| name != "mesh");
                        let mend = if outside {
                            "correct the host, take mesh out of gateways"
                        } else {
                            "correct the host"
                        };
                        format!("{mend}, or apply its Service or ServiceEntry")
                    },
                    |service| format!("did you mean {}?", service.host),
                ));
                self.findings.push(finding);
            }
            hosts.push((index, host));
        }
        hosts
    }

    fn rules(&mut self, service: &VirtualService) -> Vec<Rule> {
        let mesh = self.here(service);
        let mut rules = Vec::new();
        for (index, route) in service.http.iter().enumerate() {
            let path = format!("spec.http[{index}]");
            let matches: Vec<HttpMatch> = if route.matches.is_empty() {
                mesh.then(HttpMatch::default).into_iter().collect()
            } else {
                let mut kept = Vec::new();
                for (number, condition) in route.matches.iter().enumerate() {
                    let path = format!("{path}.match[{number}].gateways");
                    let wanted = if condition.gateways.is_empty() {
                        mesh
                    } else {
                        self.for_place(&condition.gateways, &path)
                    };
                    if wanted {
                        kept.push(condition.clone());
                    }
                }
                kept
            };
            if matches.is_empty() {
                continue;
            }
            let to = self.goals(route, &path);
            if let HttpAction::Delegate(delegate) = &route.action {
                rules.extend(self.delegated((route, delegate), &matches, &to.1, &path));
                continue;
            }
            for condition in matches {
                rules.push(self.rule(route, condition, to.clone(), &path));
            }
        }
        rules
    }

    /// Where requests of the route at `path` go, and copies of them.
    fn goals(&mut self, route: &HttpRoute, path: &str) -> (Vec<RouteTarget>, Vec<MirrorTarget>) {
        let targets = match &route.action {
            HttpAction::Route(destinations) => self.targets(destinations, path),
            _ => Vec::new(),
        };
        let mut mirrors = Vec::new();
        for mirror in &route.mirrors {
            mirrors.push(MirrorTarget {
                target: self.target(&mirror.to, &format!("{path}.{}", mirror.path)),
                share: mirror.share,
            });
        }
        (targets, mirrors)
    }

    /// The rules of the VirtualService that the route at `path` leads to.
    fn delegated(
        &mut self,
        (root, to): (&HttpRoute, &DelegateTo),
        matches: &[HttpMatch],
        mirrors: &[MirrorTarget],
        path: &str,
    ) -> Vec<Rule> {
        let own = &self.object.metadata.namespace;
        let namespace = to.namespace.as_ref().unwrap_or(own);
        let found = self.all.iter().find(|(object, _)| {
            object.metadata.name == to.name && object.metadata.namespace == *namespace
        });
        let name = format!("VirtualService {namespace}/{}", to.name);
        let (message, hint) = match found {
            None => (
                format!("{name} does not exist"),
                "a delegate is a VirtualService without hosts",
            ),
            Some((_, service)) if !service.hosts.is_empty() => (
                format!("{name} has hosts of its own, so nothing can be delegated to it"),
                "remove its hosts",
            ),
            Some((_, service))
                if !sees(&exported(&service.export_to, self.usual, namespace), own) =>
            {
                (
                    format!("{name} is not exported to namespace {own}"),
                    "add the namespace to its exportTo",
                )
            }
            Some((object, service)) => {
                let mut inner = Lowering {
                    object,
                    config: self.config,
                    all: self.all,
                    usual: self.usual,
                    place: self.place.clone(),
                    findings: &mut *self.findings,
                };
                return inner.within(service, root, matches, mirrors);
            }
        };
        let at = format!("{path}.delegate");
        let code = codes::MISSING_REFERENCE;
        let finding = self.object.finding(Severity::Error, code, &at, message);
        self.findings.push(finding.hint(hint));
        Vec::new()
    }

    /// The rules of a delegate, as a part of the route `root` that leads to it by `matches`.
    fn within(
        &mut self,
        service: &VirtualService,
        root: &HttpRoute,
        matches: &[HttpMatch],
        mirrors: &[MirrorTarget],
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (index, route) in service.http.iter().enumerate() {
            let path = format!("spec.http[{index}]");
            let Some(conditions) = delegate::matches(matches, &route.matches) else {
                let message = "no request that gets here by delegation fulfils the conditions of this route, so it has no effect";
                let finding = self.object.finding(
                    Severity::Warning,
                    codes::INEFFECTIVE_MATCH,
                    &format!("{path}.match"),
                    message,
                );
                self.findings.push(
                    finding.hint("narrow what the route that delegates matches, and no other"),
                );
                continue;
            };
            let merged = delegate::route(root, route);
            let (targets, own) = self.goals(route, &path);
            let copies = if own.is_empty() {
                mirrors.to_vec()
            } else {
                own
            };
            for condition in conditions {
                let to = (targets.clone(), copies.clone());
                rules.push(self.rule(&merged, condition, to, &path));
            }
        }
        rules
    }

    /// Reports a delegate that nobody delegates to.
    fn delegated_to(&mut self) {
        let own = &self.object.metadata;
        let leads = |(object, service): &(&Object, &VirtualService)| {
            service.http.iter().any(|route| match &route.action {
                HttpAction::Delegate(to) => {
                    let namespace = to.namespace.as_ref();
                    to.name == own.name
                        && *namespace.unwrap_or(&object.metadata.namespace) == own.namespace
                }
                _ => false,
            })
        };
        if self.all.iter().any(leads) {
            return;
        }
        let finding = self.object.finding(
            Severity::Warning,
            codes::SCHEMA_WARNING,
            "spec",
            "a VirtualService without hosts is for others to delegate to, and none does",
        );
        self.findings
            .push(finding.hint("give it hosts, or name it as the delegate of a route"));
    }

    fn rule(
        &self,
        route: &HttpRoute,
        condition: HttpMatch,
        (targets, mirrors): (Vec<RouteTarget>, Vec<MirrorTarget>),
        path: &str,
    ) -> Rule {
        let action = match &route.action {
            HttpAction::Redirect(redirect, _) => Action::Redirect(redirect.clone()),
            HttpAction::Respond(respond) => Action::Respond(respond.clone()),
            HttpAction::Route(_) | HttpAction::Delegate(_) => Action::Forward(Forward {
                clusters: Vec::new(),
                timeout: route.timeout.filter(|timeout| !timeout.is_zero()),
                retry: match &route.retries {
                    None => self.config.baseline.retry.clone(),
                    Some(written) => written.clone(),
                },
                rewrite: Rewrite {
                    path: rewrite(route, &condition.matches.path),
                    authority: route.rewrite_authority.clone(),
                },
                filters: {
                    let cors = route.cors.iter().cloned().map(HttpFilter::Cors);
                    let faults = route
                        .fault
                        .iter()
                        .filter(|fault| ***fault != Fault::default());
                    let fault = faults.cloned().map(HttpFilter::Fault);
                    cors.chain(fault).collect()
                },
                ..Forward::default()
            }),
        };
        // Istio's name: of the route and of the match, where both have one.
        let name = [route.name.as_str(), condition.name.as_str()]
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect::<Vec<_>>()
            .join(".");
        Rule {
            route: Route {
                name,
                matches: condition.matches,
                action,
                headers: route.headers.clone(),
                origin: self.object.origin_of(path),
            },
            port: condition.port,
            targets,
            source: SourceMatch {
                labels: condition.source_labels,
                namespace: condition.source_namespace,
                ..SourceMatch::default()
            },
            mirrors,
            redirect_to_port: matches!(route.action, HttpAction::Redirect(_, true)),
        }
    }

    /// The destinations of the route at `path`.
    pub(super) fn targets(
        &mut self,
        destinations: &[RouteDestination],
        path: &str,
    ) -> Vec<RouteTarget> {
        let mut targets = Vec::new();
        for (number, destination) in destinations.iter().enumerate() {
            let path = format!("{path}.route[{number}].destination");
            targets.push(RouteTarget {
                weight: destination.weight,
                headers: destination.headers.clone(),
                ..self.target(&destination.to, &path)
            });
        }
        targets
    }

    /// A service that is named at `path`.
    fn target(&mut self, destination: &Destination, path: &str) -> RouteTarget {
        let services = &self.config.services;
        let resolved = resolve(&destination.host, &self.object.metadata.namespace, services);
        let mut target = RouteTarget {
            // The host was read as one, so it resolves; if it ever does not, nothing has this name.
            host: resolved.unwrap_or_else(|| Hostname::service("invalid", "invalid")),
            subset: destination.subset.clone(),
            port: destination.port,
            weight: 1,
            headers: HeaderEdits::default(),
            invalid: None,
        };
        if let Some(fault) = self.fault(&target) {
            // Without a port Istio takes that of the request, which may well exist.
            if fault.code != codes::PORT_NEEDED {
                target.invalid = Some(fault.message.clone());
            }
            let mut finding = self.object.finding(
                Severity::Error,
                fault.code,
                &format!("{path}.{}", fault.field),
                fault.message,
            );
            finding.hint = fault.hint;
            self.findings.push(finding);
        }
        target
    }

    fn fault(&self, target: &RouteTarget) -> Option<Broken> {
        let host = &target.host;
        let Some(service) = self.config.services.get(host) else {
            return Some(Broken {
                code: codes::MISSING_REFERENCE,
                field: "host",
                message: format!("service {host} does not exist"),
                hint: similar(host, &self.config.services)
                    .map(|service| format!("did you mean {}?", service.host)),
            });
        };
        let carried: Vec<u16> = service
            .ports
            .iter()
            .filter(|port| port.protocol != Protocol::Udp)
            .map(|port| port.port)
            .collect();
        let list = |ports: &[u16]| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            ports.join(", ")
        };
        if let Some(port) = target.port
            && !carried.contains(&port)
        {
            return Some(Broken {
                code: codes::MISSING_REFERENCE,
                field: "port",
                message: format!("service {host} has no port {port}"),
                hint: Some(format!("its ports: {}", list(&carried))),
            });
        }
        if !target.subset.is_empty() {
            // Which rule is in force depends on who calls.
            let rules = self.config.destinations.around(host);
            let subsets: BTreeSet<&str> = rules
                .flat_map(|destination| destination.subsets.keys())
                .map(String::as_str)
                .collect();
            if !subsets.contains(target.subset.as_str()) {
                let subsets: Vec<&str> = subsets.into_iter().collect();
                let hint = if subsets.is_empty() {
                    format!("define it in a DestinationRule whose host is {host}")
                } else {
                    nearest(&target.subset, subsets.iter().copied()).map_or_else(
                        || format!("its subsets: {}", subsets.join(", ")),
                        |name| {
                            format!("did you mean {name:?}? its subsets: {}", subsets.join(", "))
                        },
                    )
                };
                return Some(Broken {
                    code: codes::MISSING_REFERENCE,
                    field: "subset",
                    message: format!("service {host} has no subset {:?}", target.subset),
                    hint: Some(hint),
                });
            }
        }
        if target.port.is_none() && carried.len() > 1 {
            return Some(Broken {
                code: codes::PORT_NEEDED,
                field: "port",
                message: format!("service {host} has several ports, and the destination says none"),
                hint: Some(format!("port: {{number: …}}, one of {}", list(&carried))),
            });
        }
        None
    }
}

struct Broken {
    code: &'static str,
    field: &'static str,
    message: String,
    hint: Option<String>,
}

fn rewrite(route: &HttpRoute, path: &PathMatch) -> Option<PathRewrite> {
    match route.rewrite_uri.as_ref()? {
        UriRewrite::Text(text) => Some(match path {
            PathMatch::Prefix(_) | PathMatch::Segments(_) => PathRewrite::Prefix(text.clone()),
            PathMatch::Exact(_) | PathMatch::Regex(_) => PathRewrite::Full(text.clone()),
        }),
        UriRewrite::Regex(pattern, substitution) => Some(PathRewrite::Regex {
            pattern: pattern.clone(),
            substitution: substitution.clone(),
        }),
    }
}
