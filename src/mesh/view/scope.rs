//! What people want, as a workload with a Sidecar knows it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::mesh::node::Application;
use crate::mesh::policy::Says;
use crate::mesh::route::Action;
use crate::mesh::sidecar::{Ingress, IngressEndpoint, Sidecar};
use crate::mesh::world::{Config, HostRoutes};
use crate::mesh::{Cluster, Hostname, Node, Service};

/// No namespace is called so: what is exported to it is known to nobody.
const NOBODY: &str = "~";

/// Services and routes that `sidecar` lets workloads of namespace `own` know. What its routes lead to
/// stays, though nobody knows it by name.
pub(super) fn known(config: &Config, sidecar: &Sidecar, own: &str) -> Config {
    let routes: BTreeMap<Hostname, Arc<HostRoutes>> = config
        .routes
        .iter()
        .filter(|(host, routes)| {
            sidecar.knows_at_all(own, &routes.origin.namespace, host)
                && (routes.export.is_empty() || routes.export.contains(own))
        })
        .map(|(host, routes)| (host.clone(), Arc::clone(routes)))
        .collect();
    let mut led_to: BTreeSet<Hostname> =
        routes.values().flat_map(|routes| led_to(routes)).collect();
    let asked = asked(config);
    led_to.extend(asked.iter().map(|(host, _)| host.clone()));
    let services = config.services.iter().filter_map(|(host, service)| {
        let knows = |port: u16| sidecar.knows(own, port, (&service.namespace, host));
        let kept = service.ports.iter().filter(|port| knows(port.port)).count();
        let all = kept == service.ports.len();
        let changed = match (kept, led_to.contains(host)) {
            _ if all => return Some((host.clone(), Arc::clone(service))),
            (0, false) => return None,
            (0, true) => Service {
                export: BTreeSet::from([NOBODY.to_owned()]),
                ..Service::clone(service)
            },
            _ => {
                let mut some = Service::clone(service);
                let is_asked = |port: u16| asked.contains(&(host.clone(), port));
                some.ports
                    .retain(|port| knows(port.port) || is_asked(port.port));
                some
            }
        };
        Some((host.clone(), Arc::new(changed)))
    });
    Config {
        services: services.collect(),
        outbound: sidecar.outbound.unwrap_or(config.outbound),
        routes,
        ..config.clone()
    }
}

/// The hosts that requests of `routes` and their copies go to.
fn led_to(routes: &HostRoutes) -> Vec<Hostname> {
    let mut hosts = Vec::new();
    for rule in &routes.rules {
        hosts.extend(rule.targets.iter().map(|target| target.host.clone()));
        if let Action::Forward(forward) = &rule.route.action {
            let mirrors = forward.mirrors.iter();
            let named = mirrors.filter_map(|mirror| mirror.cluster.rsplit('|').next());
            hosts.extend(named.filter_map(|host| host.parse().ok()));
        }
    }
    hosts
}

/// Services and ports that policies ask whether requests may be made.
fn asked(config: &Config) -> BTreeSet<(Hostname, u16)> {
    let policies = config.policies.iter();
    let asked = policies.filter_map(|policy| {
        let Says::Authorization(policy) = &policy.says else {
            return None;
        };
        let how = policy.asks()?.how.as_ref()?;
        let mut parts = how.asks.cluster().split('|');
        let host = parts.next_back()?.parse().ok()?;
        Some((host, parts.nth(1)?.parse().ok()?))
    });
    asked.collect()
}

/// Whether the service of `cluster` is in `config`.
pub(super) fn holds(config: &Config, cluster: &Cluster) -> bool {
    cluster.service.as_ref().is_none_or(|of| {
        let service = config.services.get(&of.host);
        service.is_some_and(|service| service.ports.iter().any(|port| port.port == of.port))
    })
}

/// `node` with the ports that `sidecar` takes calls at.
pub(super) fn ports<'n>(node: &'n Node, sidecar: &Sidecar) -> Cow<'n, Node> {
    if sidecar.ingress.is_empty() {
        return Cow::Borrowed(node);
    }
    let applications = sidecar.ingress.iter().map(|port| application(node, port));
    Cow::Owned(Node {
        applications: applications.collect(),
        ..node.clone()
    })
}

fn application(node: &Node, ingress: &Ingress) -> Application {
    let known = |port: u16| {
        let mut all = node.applications.iter();
        all.find(|application| application.port == port)
    };
    // Where nothing is redirected, ports are elsewhere than the manifest says.
    let moved = |port: u16| known(port).filter(|_| !node.transparent);
    let at = |address: SocketAddr| moved(address.port()).map_or(address, |known| known.address);
    let own = known(ingress.port);
    Application {
        port: ingress.port,
        name: own.map_or_else(|| ingress.name.clone(), |own| own.name.clone()),
        bind: own.map_or_else(
            || SocketAddr::new(node.address, ingress.port),
            |own| own.bind,
        ),
        address: match ingress.endpoint {
            Some(IngressEndpoint::Loopback(address)) => at(address),
            Some(IngressEndpoint::Own(port)) => at(SocketAddr::new(node.address, port)),
            None => own.map_or_else(
                || {
                    let nobody_said = if node.transparent {
                        Ipv4Addr::UNSPECIFIED
                    } else {
                        Ipv4Addr::LOCALHOST
                    };
                    SocketAddr::new(nobody_said.into(), ingress.port)
                },
                |own| own.address,
            ),
        },
        protocol: ingress.protocol,
    }
}
