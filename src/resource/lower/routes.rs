//! Where requests go: VirtualServices, by host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{of_kind, resolve, similar};
use crate::mesh::route::{Action, Forward, PathMatch, PathRewrite, Retry, Rewrite};
use crate::mesh::world::{Config, HostRoutes, RouteTarget, Rule, SourceMatch};
use crate::mesh::{Finding, Hostname, Protocol, Route, Severity};
use crate::resource::codes;
use crate::resource::istio::{
    HttpAction, HttpMatch, HttpRoute, RouteDestination, UriRewrite, VirtualService,
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
        if rules.is_empty() {
            continue;
        }
        let own = Arc::new(HostRoutes {
            rules,
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
            if !services.keys().any(|service| host.covers(service)) {
                let path = format!("spec.hosts[{index}]");
                let message = format!(
                    "host {host} is no service of the mesh; its routes are for requests to port 80 that name it"
                );
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

    fn rules(&mut self, service: &VirtualService) -> Vec<Rule> {
        let mesh = self.for_mesh(&service.gateways, "spec.gateways");
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
                HttpAction::Route(destinations) => destinations
                    .iter()
                    .enumerate()
                    .map(|(number, destination)| {
                        let path = format!("{path}.route[{number}].destination");
                        self.target(destination, &path)
                    })
                    .collect(),
                _ => Vec::new(),
            };
            for condition in matches {
                rules.push(self.rule(route, condition, targets.clone(), &path));
            }
        }
        rules
    }

    fn rule(
        &self,
        route: &HttpRoute,
        condition: HttpMatch,
        targets: Vec<RouteTarget>,
        path: &str,
    ) -> Rule {
        let action = match &route.action {
            HttpAction::Redirect(redirect) => Action::Redirect(redirect.clone()),
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
        }
    }

    fn target(&mut self, destination: &RouteDestination, path: &str) -> RouteTarget {
        let services = &self.config.services;
        let resolved = resolve(&destination.host, &self.object.metadata.namespace, services);
        let mut target = RouteTarget {
            // The host was read as one, so it resolves; if it ever does not, nothing has this name.
            host: resolved.unwrap_or_else(|| Hostname::service("invalid", "invalid")),
            subset: destination.subset.clone(),
            port: destination.port,
            weight: destination.weight,
            headers: destination.headers.clone(),
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
