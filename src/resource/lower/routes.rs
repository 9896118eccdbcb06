//! Where requests go: VirtualServices, by host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{of_kind, resolve, similar};
use crate::mesh::filter::HttpFilter;
use crate::mesh::route::{Action, Forward, HeaderEdits, PathMatch, PathRewrite, Retry, Rewrite};
use crate::mesh::world::{
    Config, HostRoutes, MirrorTarget, RouteTarget, Rule, SourceMatch, StreamRule,
};
use crate::mesh::{Finding, Hostname, Protocol, Route, Service, ServicePort, Severity};
use crate::resource::codes;
use crate::resource::istio::{
    Destination, HttpAction, HttpMatch, HttpRoute, RouteDestination, StreamMatch, UriRewrite,
    VirtualService,
};
use crate::resource::object::{Kind, Object, Objects};
use crate::resource::suggest::nearest;

/// All sidecars, among gateways.
const MESH: &str = "mesh";

pub(super) fn lower(
    objects: &Objects,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> BTreeMap<Hostname, Arc<HostRoutes>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::VirtualService(service) => Some(service),
        _ => None,
    });
    let mut routes: BTreeMap<Hostname, Arc<HostRoutes>> = BTreeMap::new();
    for (object, service) in written {
        let mut lowering = Lowering {
            object,
            config,
            findings,
        };
        let rules = lowering.rules(service);
        let streams = lowering.streams(service);
        if rules.is_empty() && streams.is_empty() {
            continue;
        }
        let own = Arc::new(HostRoutes {
            rules,
            streams,
            export: export(service, &object.metadata.namespace),
            origin: object.origin.clone(),
        });
        for (index, host) in lowering.hosts(service) {
            if let Some(other) = routes.get(&host) {
                let message = format!("{host} has routes already, of {}", other.origin);
                findings.push(
                    object
                        .finding(
                            Severity::Error,
                            codes::DUPLICATE_HOST,
                            &format!("spec.hosts[{index}]"),
                            message,
                        )
                        .hint("put all routes of a host into one VirtualService"),
                );
            } else {
                routes.insert(host, Arc::clone(&own));
            }
        }
    }
    routes
}

fn export(service: &VirtualService, namespace: &str) -> BTreeSet<String> {
    if service.export_to.iter().any(|to| to == "*") {
        return BTreeSet::new();
    }
    service
        .export_to
        .iter()
        .map(|to| if to == "." { namespace } else { to })
        .map(str::to_owned)
        .collect()
}

struct Lowering<'a, 'f> {
    object: &'a Object,
    config: &'a Config,
    findings: &'f mut Vec<Finding>,
}

impl Lowering<'_, '_> {
    fn hosts(&mut self, service: &VirtualService) -> Vec<(usize, Hostname)> {
        let services = &self.config.services;
        let mut hosts = Vec::new();
        for (index, written) in service.hosts.iter().enumerate() {
            let Some(host) = resolve(written, &self.object.metadata.namespace, services) else {
                continue;
            };
            let known = services.keys().any(|service| host.covers(service));
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
                finding.hint = similar(&host, services)
                    .map(|service| format!("did you mean {}?", service.host));
                self.findings.push(finding);
            }
            hosts.push((index, host));
        }
        hosts
    }

    /// Whether rules for `gateways` are for sidecars; others are reported.
    fn for_mesh(&mut self, gateways: &[String], path: &str) -> bool {
        let mesh = gateways.is_empty() || gateways.iter().any(|name| name == MESH);
        let others: Vec<&str> = gateways
            .iter()
            .map(String::as_str)
            .filter(|name| *name != MESH)
            .collect();
        if !others.is_empty() {
            let (message, hint) = if mesh {
                (
                    format!(
                        "meshctl runs no gateways yet: nothing is routed at {}",
                        others.join(", ")
                    ),
                    "calls inside the mesh are routed by this rule all the same",
                )
            } else {
                (
                    format!(
                        "the rule is for {} only, and meshctl runs no gateways yet, so it has no effect",
                        others.join(", ")
                    ),
                    "add mesh to the gateways for calls inside the mesh",
                )
            };
            self.findings.push(
                self.object
                    .finding(Severity::Warning, codes::GATEWAY_NOT_FOUND, path, message)
                    .hint(hint),
            );
        }
        mesh
    }

    /// Whether rules that say nothing else are for sidecars.
    fn mesh(&mut self, service: &VirtualService) -> bool {
        self.for_mesh(&service.gateways, "spec.gateways")
    }

    fn rules(&mut self, service: &VirtualService) -> Vec<Rule> {
        let mesh = self.mesh(service);
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
                        self.for_mesh(&condition.gateways, &path)
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
            let targets = match &route.action {
                HttpAction::Route(destinations) => self.targets(destinations, &path),
                _ => Vec::new(),
            };
            let mirrors: Vec<MirrorTarget> = route
                .mirrors
                .iter()
                .map(|mirror| MirrorTarget {
                    target: self.target(&mirror.to, &format!("{path}.{}", mirror.path)),
                    share: mirror.share,
                })
                .collect();
            for condition in matches {
                let to = (targets.clone(), mirrors.clone());
                rules.push(self.rule(route, condition, to, &path));
            }
        }
        rules
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
            HttpAction::Route(_) => Action::Forward(Forward {
                clusters: Vec::new(),
                timeout: route.timeout,
                retry: match &route.retries {
                    None => Some(Retry::default()),
                    Some(written) => written.clone(),
                },
                rewrite: Rewrite {
                    path: rewrite(route, &condition.matches.path),
                    authority: route.rewrite_authority.clone(),
                },
                filters: {
                    let cors = route.cors.iter().cloned().map(HttpFilter::Cors);
                    let fault = route.fault.iter().cloned().map(HttpFilter::Fault);
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
            },
            mirrors,
            redirect_to_port: matches!(route.action, HttpAction::Redirect(_, true)),
        }
    }

    /// The destinations of the route at `path`.
    fn targets(&mut self, destinations: &[RouteDestination], path: &str) -> Vec<RouteTarget> {
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

    /// The rules for bytes.
    fn streams(&mut self, service: &VirtualService) -> Vec<StreamRule> {
        let mesh = self.mesh(service);
        let mut rules = Vec::new();
        let tls = service.tls.iter().enumerate().map(|route| (true, route));
        let tcp = service.tcp.iter().enumerate().map(|route| (false, route));
        for (tls, (index, route)) in tls.chain(tcp) {
            let path = format!("spec.{}[{index}]", if tls { "tls" } else { "tcp" });
            let mut matches = Vec::new();
            if route.matches.is_empty() {
                matches.extend(mesh.then(StreamMatch::default));
            }
            for (number, found) in route.matches.iter().enumerate() {
                let at = format!("{path}.match[{number}]");
                let gateways = format!("{at}.gateways");
                let wanted = if found.gateways.is_empty() {
                    mesh
                } else {
                    self.for_mesh(&found.gateways, &gateways)
                };
                if wanted {
                    self.named(service, found, &at);
                    matches.push(found.clone());
                }
            }
            if matches.is_empty() {
                continue;
            }
            self.carried(service, (tls, &matches), &path);
            let targets = self.targets(&route.destinations, &path);
            rules.extend(matches.into_iter().map(|found| StreamRule {
                server_names: found.server_names,
                destinations: found.destinations,
                port: found.port,
                source: SourceMatch {
                    labels: found.source_labels,
                    namespace: found.source_namespace,
                },
                targets: targets.clone(),
                origin: self.object.origin_of(&path),
            }));
        }
        rules
    }

    /// Server names must be among the hosts.
    fn named(&mut self, service: &VirtualService, found: &StreamMatch, path: &str) {
        let namespace = &self.object.metadata.namespace;
        let hosts: Vec<Hostname> = service
            .hosts
            .iter()
            .filter_map(|host| resolve(host, namespace, &self.config.services))
            .collect();
        for (index, name) in found.server_names.iter().enumerate() {
            let Ok(name) = name.parse::<Hostname>() else {
                continue;
            };
            if !hosts.iter().any(|host| *host == name || host.covers(&name)) {
                let path = format!("{path}.sniHosts[{index}]");
                let message = format!("server name {name} is none of the hosts");
                let hint = "add it to the hosts of the VirtualService";
                let finding = self
                    .object
                    .finding(Severity::Error, codes::SCHEMA, &path, message);
                self.findings.push(finding.hint(hint));
            }
        }
    }

    /// Whether any port of a host carries what a route for bytes is for; else it is reported.
    fn carried(
        &mut self,
        service: &VirtualService,
        (tls, matches): (bool, &[StreamMatch]),
        path: &str,
    ) {
        let services = &self.config.services;
        let namespace = &self.object.metadata.namespace;
        let hosts = service.hosts.iter();
        let known: Vec<&Service> = hosts
            .filter_map(|host| resolve(host, namespace, services))
            .flat_map(|host| {
                let of = services.iter().filter(move |(own, _)| host.covers(own));
                of.map(|(_, service)| &**service)
            })
            .collect();
        let carries = |port: &ServicePort| match port.protocol {
            Protocol::Tls => tls,
            Protocol::Tcp => !tls,
            // Where requests have rules, what is none of them goes to the service itself.
            Protocol::Auto => !tls && service.http.is_empty(),
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Udp => false,
        };
        let meant = |port: &ServicePort| {
            let mut ports = matches.iter().map(|found| found.port);
            ports.any(|wanted| wanted.is_none_or(|wanted| wanted == port.port))
        };
        let mut ports = known.iter().flat_map(|service| &service.ports);
        if known.is_empty() || ports.any(|port| meant(port) && carries(port)) {
            return;
        }
        let (what, hint) = if tls {
            (
                "no port of the hosts carries TLS of the application's own, so the route has no effect",
                "name the port tls-… or https-…, or write an http or tcp route",
            )
        } else {
            (
                "no port of the hosts carries bytes, so the route has no effect",
                "name the port tcp-…, or write an http or tls route",
            )
        };
        self.findings.push(
            self.object
                .finding(Severity::Warning, codes::SCHEMA_WARNING, path, what)
                .hint(hint),
        );
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

    fn fault(&self, target: &RouteTarget) -> Option<Fault> {
        let host = &target.host;
        let Some(service) = self.config.services.get(host) else {
            return Some(Fault {
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
            return Some(Fault {
                code: codes::MISSING_REFERENCE,
                field: "port",
                message: format!("service {host} has no port {port}"),
                hint: Some(format!("its ports: {}", list(&carried))),
            });
        }
        let destination = self.config.destination(host);
        if !target.subset.is_empty() {
            let subsets: Vec<&str> = destination
                .iter()
                .flat_map(|destination| destination.subsets.keys())
                .map(String::as_str)
                .collect();
            if !subsets.contains(&target.subset.as_str()) {
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
                return Some(Fault {
                    code: codes::MISSING_REFERENCE,
                    field: "subset",
                    message: format!("service {host} has no subset {:?}", target.subset),
                    hint: Some(hint),
                });
            }
        }
        if target.port.is_none() && carried.len() > 1 {
            return Some(Fault {
                code: codes::PORT_NEEDED,
                field: "port",
                message: format!("service {host} has several ports, and the destination says none"),
                hint: Some(format!("port: {{number: …}}, one of {}", list(&carried))),
            });
        }
        None
    }
}

struct Fault {
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
