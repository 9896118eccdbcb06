//! Effective routes.

use std::collections::BTreeMap;

use crate::api::routes::{BackendReport, FaultReport, MirrorReport, RouteReport};
use crate::mesh::filter::{AbortWith, HttpFilter};
use crate::mesh::route::{Action, Mirror, Route, Share, explain};
use crate::mesh::view::Stream;
use crate::mesh::{
    Chain, ChainAction, Health, Listener, Node, Origin, Router, Service, View, World,
};

use super::short;

/// Requests of the last minute by service (`name.namespace`) and version.
pub type Measured = BTreeMap<String, BTreeMap<String, u64>>;

/// The routes to `service` (or to all) as `node` has them.
pub fn routes(
    world: &World,
    node: &Node,
    only: Option<&Service>,
    measured: &Measured,
) -> Vec<RouteReport> {
    let view = world.view(node);
    let mut out = Vec::new();
    for service in world.config.services.values() {
        if only.is_some_and(|only| only.host != service.host) {
            continue;
        }
        for port in &service.ports {
            let streams = world.streams(node, service, port);
            if !port.protocol.is_http() && !streams.is_empty() {
                let own = (short(service), port.port);
                let streams = streams.iter().enumerate();
                out.extend(streams.map(|of| carried(&view, &own, of, measured)));
                continue;
            }
            let Some(table) = view.routes.get(&port.port.to_string()) else {
                continue;
            };
            let router = Router::new(table);
            let authority = format!("{}:{}", service.host, port.port);
            let Some(host) = router
                .host(authority.as_bytes())
                .and_then(|index| table.hosts.get(index))
            else {
                continue;
            };
            for (index, route) in host.routes.iter().enumerate() {
                out.push(describe(
                    &view,
                    &short(service),
                    port.port,
                    (index, route),
                    measured,
                ));
            }
        }
    }
    out
}

/// What the gateway `node` does with what comes to each of its ports.
pub fn gateway_routes(world: &World, node: &Node, measured: &Measured) -> Vec<RouteReport> {
    let view = world.view(node);
    let mut out = Vec::new();
    let mut listeners: Vec<&Listener> = view.listeners.values().map(|found| &**found).collect();
    listeners.sort_by_key(|listener| listener.bind.port());
    for listener in listeners {
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            let from = out.len();
            of_chain(&view, (listener, chain), measured, &mut out);
            for route in out.iter_mut().skip(from) {
                route.gateway = format!("{}.{}", node.name, node.namespace);
            }
        }
    }
    out
}

fn of_chain(
    view: &View,
    (listener, chain): (&Listener, &Chain),
    measured: &Measured,
    out: &mut Vec<RouteReport>,
) {
    let port = listener.bind.port();
    match &chain.action {
        ChainAction::Http { routes, .. } | ChainAction::Detect { routes, .. } => {
            let hosts = view.routes.get(routes).map(|table| table.hosts.iter());
            for host in hosts.into_iter().flatten() {
                let asked = host.domains.first().map_or("*", String::as_str);
                let routes = host.routes.iter().enumerate();
                out.extend(routes.map(|of| describe(view, asked, port, of, measured)));
            }
        }
        ChainAction::Tcp { clusters, .. } => {
            let names = match chain.matches.server_names.as_slice() {
                [] => "*".to_owned(),
                names => names.join(", "),
            };
            let stream = Stream {
                clusters: clusters.clone(),
                matches: Vec::new(),
                origin: Origin::default(),
            };
            out.push(carried(view, &(names, port), (0, &stream), measured));
        }
    }
}

/// A rule for bytes.
fn carried(
    view: &View,
    (service, port): &(String, u16),
    (index, stream): (usize, &Stream),
    measured: &Measured,
) -> RouteReport {
    let sum: u64 = stream.clusters.iter().map(|(_, w)| u64::from(*w)).sum();
    RouteReport {
        gateway: String::new(),
        service: service.clone(),
        port: *port,
        index,
        name: String::new(),
        matches: stream.matches.clone(),
        action: "carry".to_owned(),
        backends: stream
            .clusters
            .iter()
            .map(|(cluster, weight)| backend(view, cluster, *weight, sum, measured))
            .collect(),
        mirrors: Vec::new(),
        faults: Vec::new(),
        origins: Vec::new(),
        timeout_ms: None,
        retries: 0,
        origin: stream.origin.to_string(),
    }
}

pub(super) fn describe(
    view: &View,
    service: &str,
    port: u16,
    (index, route): (usize, &Route),
    measured: &Measured,
) -> RouteReport {
    let mirrors = match &route.action {
        Action::Forward(forward) => forward
            .mirrors
            .iter()
            .map(|mirror| self::mirror(view, mirror))
            .collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    };
    let (action, timeout, retries, backends) = match &route.action {
        Action::Forward(forward) => {
            let sum: u64 = forward.clusters.iter().map(|c| u64::from(c.weight)).sum();
            let backends = forward
                .clusters
                .iter()
                .map(|target| backend(view, &target.cluster, target.weight, sum, measured))
                .collect();
            (
                "forward".to_owned(),
                forward.timeout,
                forward.retry.as_ref().map_or(0, |retry| retry.attempts),
                backends,
            )
        }
        Action::Redirect(redirect) => (
            format!(
                "redirect {} {}{}",
                redirect.status,
                redirect.authority.as_deref().unwrap_or(""),
                redirect
                    .path
                    .as_ref()
                    .or(redirect.prefix.as_ref())
                    .map_or("", String::as_str)
            ),
            None,
            0,
            Vec::new(),
        ),
        Action::Respond(respond) => (format!("respond {}", respond.status), None, 0, Vec::new()),
    };
    RouteReport {
        gateway: String::new(),
        service: service.to_owned(),
        port,
        index,
        name: route.name.clone(),
        matches: explain::narrowing(&route.matches),
        action,
        backends,
        mirrors,
        faults: faults(route),
        origins: origins(route),
        timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        retries,
        origin: route.origin.to_string(),
    }
}

/// Service and subset of a cluster, `outbound|PORT|SUBSET|HOST`, also of one that the view does not
/// hold.
fn parts(view: &View, name: &str) -> (String, String) {
    let mut parts = name.split('|').skip(2);
    let subset = parts.next().unwrap_or_default().to_owned();
    let host = parts.next().unwrap_or_default();
    let known = view.clusters.get(name);
    let known = known.and_then(|cluster| cluster.service.as_ref());
    let subset = known.map_or(subset, |service| service.subset.clone());
    let service = known.map_or_else(
        || host.trim_end_matches(".svc.cluster.local").to_owned(),
        |service| format!("{}.{}", service.name, service.namespace),
    );
    (service, subset)
}

fn percent(share: Share) -> f64 {
    let (parts, of) = (u64::from(share.parts), u64::from(share.of));
    crate::aggregate::report::percent(parts, of).unwrap_or(0.0)
}

fn faults(route: &Route) -> Vec<FaultReport> {
    let Action::Forward(forward) = &route.action else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for filter in &forward.filters {
        let HttpFilter::Fault(fault) = filter else {
            continue;
        };
        out.extend(fault.delay.map(|delay| FaultReport {
            what: format!("delay {}ms", delay.time.as_millis()),
            percent: percent(delay.share),
        }));
        out.extend(fault.abort.map(|abort| FaultReport {
            what: match abort.with {
                AbortWith::Http(status) => format!("abort {status}"),
                AbortWith::Grpc(status) => format!("abort grpc-status {status}"),
            },
            percent: percent(abort.share),
        }));
    }
    out
}

fn origins(route: &Route) -> Vec<String> {
    let Action::Forward(forward) = &route.action else {
        return Vec::new();
    };
    let policies = forward.filters.iter().filter_map(|filter| match filter {
        HttpFilter::Cors(policy) => Some(&policy.origins),
        _ => None,
    });
    policies.flatten().map(ToString::to_string).collect()
}

fn mirror(view: &View, mirror: &Mirror) -> MirrorReport {
    let (service, subset) = parts(view, &mirror.cluster);
    MirrorReport {
        cluster: mirror.cluster.clone(),
        service,
        subset,
        percent: percent(mirror.share),
        invalid: (!view.clusters.contains_key(&mirror.cluster))
            .then(|| "the destination does not exist; nothing is copied".to_owned()),
    }
}

fn backend(view: &View, name: &str, weight: u32, sum: u64, measured: &Measured) -> BackendReport {
    let cluster = view.clusters.get(name);
    let endpoints = view
        .endpoints
        .get(name)
        .map_or(&[][..], |assignment| &assignment.endpoints);
    let (service, subset) = parts(view, name);
    let versions: Vec<&str> = endpoints
        .iter()
        .map(|endpoint| endpoint.workload.version.as_str())
        .collect();
    let measured_percent = measured.get(&service).and_then(|counts| {
        let part = counts
            .iter()
            .filter(|(version, _)| versions.contains(&version.as_str()))
            .map(|(_, count)| count)
            .sum();
        crate::aggregate::report::percent(part, counts.values().sum())
    });
    BackendReport {
        cluster: name.to_owned(),
        service,
        subset,
        weight,
        share_percent: if sum == 0 {
            0.0
        } else {
            crate::aggregate::report::percent(u64::from(weight), sum).unwrap_or(0.0)
        },
        measured_percent,
        ready: endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Healthy)
            .count(),
        endpoints: endpoints.len(),
        invalid: cluster
            .is_none()
            .then(|| "the destination does not exist; requests are answered 503".to_owned()),
    }
}
