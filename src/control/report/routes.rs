//! Effective routes.

use std::collections::BTreeMap;

use crate::api::routes::{BackendReport, RouteReport};
use crate::mesh::route::{Action, Route, explain};
use crate::mesh::{Health, Node, Router, Service, View, World};

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
