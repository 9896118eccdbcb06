//! Effective routes, and why a request goes where it goes.

use std::collections::BTreeMap;

use crate::api::registry::EndpointReport;
use crate::api::routes::{BackendReport, ExplainReport, ExplainRequest, RouteReport};
use crate::mesh::route::{Action, Route, explain};
use crate::mesh::{Health, Node, Request, Router, Service, View, World};

use super::{find_service, short};

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

pub(super) fn describe(
    view: &View,
    service: &str,
    port: u16,
    (index, route): (usize, &Route),
    measured: &Measured,
) -> RouteReport {
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
                redirect.path.as_deref().unwrap_or("")
            ),
            None,
            0,
            Vec::new(),
        ),
        Action::Respond(respond) => (format!("respond {}", respond.status), None, 0, Vec::new()),
    };
    RouteReport {
        service: service.to_owned(),
        port,
        index,
        name: route.name.clone(),
        matches: explain::narrowing(&route.matches),
        action,
        backends,
        timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        retries,
        origin: route.origin.to_string(),
    }
}

fn backend(view: &View, name: &str, weight: u32, sum: u64, measured: &Measured) -> BackendReport {
    let cluster = view.clusters.get(name);
    let endpoints = view
        .endpoints
        .get(name)
        .map_or(&[][..], |assignment| &assignment.endpoints);
    // outbound|PORT|SUBSET|HOST, also for clusters that the view does not hold.
    let mut parts = name.split('|').skip(2);
    let subset = parts.next().unwrap_or_default().to_owned();
    let host = parts.next().unwrap_or_default();
    let service = cluster
        .and_then(|cluster| cluster.service.as_ref())
        .map_or_else(
            || host.trim_end_matches(".svc.cluster.local").to_owned(),
            |service| format!("{}.{}", service.name, service.namespace),
        );
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

/// A request as `explain` was asked about it.
struct Asked {
    method: String,
    authority: String,
    scheme: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request for Asked {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }

    fn path_and_query(&self) -> &[u8] {
        self.target.as_bytes()
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (key, value) in &self.headers {
            if key == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

/// Walks the tables of `node` with the request that was asked about. `Err` says what is wrong with it.
pub fn explain_request(
    world: &World,
    node: &Node,
    request: &ExplainRequest,
    measured: &Measured,
) -> Result<ExplainReport, String> {
    let (scheme, rest) = request
        .url
        .split_once("://")
        .unwrap_or(("http", request.url.as_str()));
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(at).unwrap_or((rest, ""));
    if authority.is_empty() {
        return Err(format!("{:?} names no host", request.url));
    }
    let port = match authority.rsplit_once(':') {
        Some((_, port)) => port
            .parse::<u16>()
            .map_err(|_| format!("{port:?} is not a port"))?,
        None => find_service(world, authority, &request.namespace)
            .and_then(|service| match service.ports.as_slice() {
                [only] => Some(only.port),
                ports => ports.iter().find(|port| port.port == 80).map(|p| p.port),
            })
            .unwrap_or(80),
    };
    let asked = Asked {
        method: request.method.to_ascii_uppercase(),
        authority: authority.to_ascii_lowercase(),
        scheme: scheme.to_owned(),
        target: if target.is_empty() {
            "/".to_owned()
        } else {
            target.to_owned()
        },
        headers: request
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
    };
    let view = world.view(node);
    let mut report = ExplainReport {
        from: format!("{}.{}", node.name, node.namespace),
        table: port.to_string(),
        host: None,
        routes: Vec::new(),
        outcome: None,
        endpoints: Vec::new(),
        answer: None,
    };
    let Some(table) = view.routes.get(&report.table) else {
        report.answer = Some(format!(
            "no service of the mesh has port {port}: the connection is passed on as it is"
        ));
        return Ok(report);
    };
    let router = Router::new(table);
    let trace = explain::explain(&router, &asked);
    report.host = trace.host;
    report.routes = trace.routes;
    let Some(found) = router.find(&asked) else {
        report.answer = Some(match report.host {
            Some(_) => "404 (NR route_not_found): no route matches".to_owned(),
            None => "404 (NR route_not_found): no service has this host".to_owned(),
        });
        return Ok(report);
    };
    let service = found.host.name.split(':').next().unwrap_or_default();
    let service =
        find_service(world, service, &request.namespace).map_or_else(|| service.to_owned(), short);
    let outcome = describe(
        &view,
        &service,
        port,
        (found.route_index, found.route),
        measured,
    );
    report.endpoints = outcome
        .backends
        .iter()
        .map(|backend| endpoints(&view, backend, port))
        .collect();
    report.answer = match &found.route.action {
        Action::Forward(forward) if forward.clusters.is_empty() => {
            Some("503 (NC cluster_not_found): the route has no destination".to_owned())
        }
        Action::Forward(_) => None,
        Action::Redirect(redirect) => Some(format!("{} by the proxy itself", redirect.status)),
        Action::Respond(respond) => Some(format!("{} by the proxy itself", respond.status)),
    };
    report.outcome = Some(outcome);
    Ok(report)
}

fn endpoints(view: &View, backend: &BackendReport, port: u16) -> Vec<EndpointReport> {
    view.endpoints
        .get(&backend.cluster)
        .map_or(&[][..], |assignment| &assignment.endpoints)
        .iter()
        .map(|endpoint| EndpointReport {
            service: backend.service.clone(),
            port,
            address: endpoint.address.to_string(),
            instance: endpoint.workload.instance.clone(),
            version: endpoint.workload.version.clone(),
            health: endpoint.health,
            mtls: endpoint.mtls,
            weight: endpoint.weight,
        })
        .collect()
}
