//! Routes whose parent is a Service: for calls inside the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::http::Ordered;
use crate::mesh::route::{Action, HeaderEdits, Respond};
use crate::mesh::world::{HostRoutes, Rule, SourceMatch};
use crate::mesh::{Finding, Hostname, Origin, Service, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{ParentRef, any};
use crate::resource::lower::Services;
use crate::resource::object::{Key, Object, Objects};

/// The rules of a route for a Service.
pub(super) struct Attached<'a> {
    pub(super) object: &'a Object,
    pub(super) host: Hostname,
    /// Only for calls to this port.
    pub(super) port: Option<u16>,
    /// Only for callers of this namespace, where the route is in another than the Service.
    pub(super) consumer: Option<String>,
    /// In the order of the route.
    pub(super) rules: Vec<Ordered>,
}

/// The ports that a route is for; `None` is all.
type Ports = Vec<Option<u16>>;

/// The ports that a route for a Service is for, or why there are none.
pub(super) fn attach(
    route: &Object,
    parent: &ParentRef,
    services: &Services,
) -> Result<(Hostname, Ports), (&'static str, String)> {
    let own = &route.metadata.namespace;
    let host = Hostname::service(&parent.to.name, parent.to.namespace(own));
    let Some(service) = services.get(&host) else {
        let message = format!("service {host} does not exist, so nothing is routed there");
        return Err(("NoMatchingParent", message));
    };
    if parent.section.is_none() && parent.port.is_none() {
        return Ok((host, vec![None]));
    }
    let meant = service.ports.iter().filter(|port| {
        parent
            .section
            .as_ref()
            .is_none_or(|name| *name == port.name)
            && parent.port.is_none_or(|number| number == port.port)
    });
    let ports: Ports = meant.map(|port| Some(port.port)).collect();
    if ports.is_empty() {
        let message = format!("service {host} has no port of that name and number");
        return Err(("NoMatchingParent", message));
    }
    Ok((host, ports))
}

/// Puts the rules of `attached` in front of those of VirtualServices: callers of a namespace that has
/// routes of its own for a host get those alone, and everybody else those of the host's namespace.
pub(super) fn lower(
    attached: Vec<Attached<'_>>,
    services: &Services,
    objects: &Objects,
    routes: &mut BTreeMap<Hostname, Arc<HostRoutes>>,
    findings: &mut Vec<Finding>,
) {
    // Routes of a caller's own come first, as None sorts before what there is.
    type Group = (std::cmp::Reverse<Option<String>>, Option<u16>);
    let mut hosts: BTreeMap<Hostname, BTreeMap<Group, Vec<Attached<'_>>>> = BTreeMap::new();
    for one in attached {
        let group = (std::cmp::Reverse(one.consumer.clone()), one.port);
        let groups = hosts.entry(one.host.clone()).or_default();
        groups.entry(group).or_default().push(one);
    }
    for (host, groups) in hosts {
        let Some(service) = services.get(&host) else {
            continue;
        };
        let mut rules = Vec::new();
        let mut covered = BTreeSet::new();
        // A port may have routes by itself and as one of all.
        let ports: BTreeSet<Option<u16>> = groups.keys().map(|(_, port)| *port).collect();
        let consumers: BTreeSet<std::cmp::Reverse<Option<String>>> = groups
            .keys()
            .map(|(consumer, _)| consumer.clone())
            .collect();
        for consumer in consumers {
            for port in ports.iter().rev() {
                let meant =
                    |group: &Group| group.0 == consumer && (group.1.is_none() || group.1 == *port);
                let own: Vec<&Attached<'_>> = groups
                    .iter()
                    .filter(|(group, _)| meant(group))
                    .flat_map(|(_, own)| own)
                    .collect();
                if own.is_empty() {
                    continue;
                }
                let source = SourceMatch {
                    namespace: consumer.0.clone(),
                    ..SourceMatch::default()
                };
                let own = sorted(&own, *port, &source);
                let takes_all = |rule: &Rule| rule.route.matches == any();
                let rest = (!own.iter().any(takes_all)).then(|| unmatched(service, *port, source));
                rules.extend(own);
                rules.extend(rest);
                if consumer.0.is_none() {
                    covered.insert(*port);
                }
            }
        }
        let before = routes.remove(&host);
        if let Some(before) = &before {
            overridden((&host, before), objects, &covered, findings);
            rules.extend(before.rules.iter().map(|rule| {
                let mut rule = rule.clone();
                if rule.source.namespaces.is_empty() {
                    rule.source.namespaces.clone_from(&before.export);
                }
                rule
            }));
        }
        let streams = before.as_ref().map(|before| before.streams.clone());
        routes.insert(
            host,
            Arc::new(HostRoutes {
                rules,
                streams: streams.unwrap_or_default(),
                export: BTreeSet::new(),
                origin: service.origin.clone(),
            }),
        );
    }
}

fn sorted(own: &[&Attached<'_>], port: Option<u16>, source: &SourceMatch) -> Vec<Rule> {
    let mut ordered: Vec<(&Ordered, &Object, usize)> = own
        .iter()
        .flat_map(|one| {
            let rules = one.rules.iter().enumerate();
            rules.map(|(at, rule)| (rule, one.object, at))
        })
        .collect();
    ordered.sort_by(|(a, of, at), (b, other, place)| {
        let first = (a.width, of.seniority(), *at);
        first.cmp(&(b.width, other.seniority(), *place))
    });
    ordered
        .into_iter()
        .map(|(ordered, ..)| Rule {
            port,
            source: source.clone(),
            ..ordered.rule.clone()
        })
        .collect()
}

/// A Service that has routes takes no request that none of them is for.
fn unmatched(service: &Service, port: Option<u16>, source: SourceMatch) -> Rule {
    Rule {
        route: crate::mesh::Route {
            name: "unmatched".to_owned(),
            matches: any(),
            action: Action::Respond(Respond {
                status: 404,
                body: String::new(),
            }),
            headers: HeaderEdits::default(),
            origin: Origin::clone(&service.origin),
        },
        port,
        targets: Vec::new(),
        source,
        mirrors: Vec::new(),
        redirect_to_port: false,
    }
}

/// Says of a VirtualService that its rules have no effect any more.
fn overridden(
    (host, before): (&Hostname, &HostRoutes),
    objects: &Objects,
    covered: &BTreeSet<Option<u16>>,
    findings: &mut Vec<Finding>,
) {
    let whole = covered.contains(&None);
    let gone = |rule: &&Rule| whole || (rule.port.is_some() && covered.contains(&rule.port));
    let origins: BTreeSet<Key> = before
        .rules
        .iter()
        .filter(gone)
        .map(|rule| Key {
            kind: rule.route.origin.kind.clone(),
            namespace: rule.route.origin.namespace.clone(),
            name: rule.route.origin.name.clone(),
        })
        .collect();
    for key in origins {
        if let Some(object) = objects.get(&key) {
            let message = format!(
                "routes whose parent is the Service stand before these for {host}, which have no effect"
            );
            let finding =
                object.finding(Severity::Warning, codes::OVERRIDDEN, "spec.http", message);
            findings.push(finding.hint("write them as an HTTPRoute, or remove its parentRef"));
        }
    }
}
