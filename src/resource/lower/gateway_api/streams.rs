//! Routes of connections: of listeners of Gateways, and of services for calls inside the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Placed;
use super::backends::Backends;
use crate::mesh::world::{HostRoutes, RouteTarget, SourceMatch, StreamRule};
use crate::mesh::{Hostname, Service};
use crate::resource::gateway_api::RouteBackend;
use crate::resource::object::{Kind, Object};

/// A route of connections whose parent is a Service.
pub(super) struct Inside<'a> {
    pub(super) object: &'a Object,
    pub(super) host: Hostname,
    /// Only for connections to this port.
    pub(super) port: Option<u16>,
    /// Only for callers of this namespace, where the route is in another than the Service.
    pub(super) consumer: Option<String>,
    pub(super) targets: Vec<RouteTarget>,
}

/// The backends of a route of connections; none for others.
pub(super) fn backends(body: &Kind) -> &[RouteBackend] {
    match body {
        Kind::TlsRoute(route) => &route.backends,
        Kind::TcpRoute(route) => &route.backends,
        _ => &[],
    }
}

/// Where they lead.
pub(super) fn targets(written: &[RouteBackend], backends: &mut Backends<'_>) -> Vec<RouteTarget> {
    let each = written.iter().enumerate();
    each.map(|(index, backend)| {
        let path = format!("spec.rules[0].backendRefs[{index}]");
        backends.target(backend, &path)
    })
    .collect()
}

/// The rules of a listener: by server name, and of bytes that of the oldest route.
pub(super) fn at_listener(placed: &[Placed<'_>], place: ((&str, &str), usize)) -> Vec<StreamRule> {
    let of_streams = placed.iter().filter(|route| !route.streams.is_empty());
    of_streams
        .flat_map(|route| {
            let here = route.at.iter();
            let here = here.filter(|at| (at.gateway, at.listener) == place);
            here.map(|at| rule(route.object, &at.hosts, &route.streams))
        })
        .collect()
}

fn rule(object: &Object, hosts: &[Hostname], targets: &[RouteTarget]) -> StreamRule {
    StreamRule {
        server_names: match &object.body {
            Kind::TlsRoute(_) => hosts.iter().map(Hostname::to_string).collect(),
            _ => Vec::new(),
        },
        destinations: Vec::new(),
        port: None,
        source: SourceMatch::default(),
        targets: targets.to_vec(),
        origin: object.origin_of("spec.rules[0]"),
    }
}

/// Puts the rules of routes in front of those of VirtualServices, those of a caller's own namespace first.
pub(super) fn inside(
    mut attached: Vec<Inside<'_>>,
    services: &super::super::Services,
    routes: &mut BTreeMap<Hostname, Arc<HostRoutes>>,
) {
    attached.sort_by(|a, b| {
        let key = |one: &Inside<'_>| (one.host.clone(), one.consumer.is_none());
        key(a)
            .cmp(&key(b))
            .then_with(|| a.object.seniority().cmp(&b.object.seniority()))
    });
    let hosts: BTreeSet<Hostname> = attached.iter().map(|one| one.host.clone()).collect();
    for host in hosts {
        let Some(service) = services.get(&host) else {
            continue;
        };
        let own = attached.iter().filter(|one| one.host == host);
        let mut rules: Vec<StreamRule> = own
            .map(|one| StreamRule {
                port: one.port,
                source: SourceMatch {
                    namespace: one.consumer.clone(),
                    ..SourceMatch::default()
                },
                ..rule(one.object, &names(one.object), &one.targets)
            })
            .collect();
        let mut all = routes
            .remove(&host)
            .map_or_else(|| nothing(service), |before| (*before).clone());
        // Who sees the rules that were there stays as it was.
        rules.extend(all.streams.into_iter().map(|mut rule| {
            if rule.source.namespaces.is_empty() {
                rule.source.namespaces.clone_from(&all.export);
            }
            rule
        }));
        for rule in &mut all.rules {
            if rule.source.namespaces.is_empty() {
                rule.source.namespaces.clone_from(&all.export);
            }
        }
        all.streams = rules;
        all.export = BTreeSet::new();
        routes.insert(host, Arc::new(all));
    }
}

/// The server names of a route itself: inside the mesh no listener narrows them.
fn names(object: &Object) -> Vec<Hostname> {
    match &object.body {
        Kind::TlsRoute(route) => route.hostnames.clone(),
        _ => Vec::new(),
    }
}

fn nothing(service: &Service) -> HostRoutes {
    HostRoutes {
        rules: Vec::new(),
        streams: Vec::new(),
        export: BTreeSet::new(),
        origin: service.origin.clone(),
    }
}
