//! What calls were routed by under the last configuration, and what of it holds under the next.
//!
//! A table is made of the services at its port, of the rules for these, and of what those lead to. So
//! where two configurations are held beside each other, all but a few hosts are known to be as they
//! were, and are not made again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outbound::{self, HTTP_PORT};
use super::plan::only;
use crate::mesh::sharing::differing;
use crate::mesh::world::{Config, HostRoutes};
use crate::mesh::{Hostname, Node, Route, Service, ServicePort, View};

/// Tables that stay, and what of them does not.
pub(super) type Kept = BTreeMap<String, Vec<Rerouted>>;

/// What a workload's calls are routed by, beside another that it was routed by before.
#[derive(Debug)]
pub struct Routing {
    /// What is made anew.
    pub view: View,
    /// Tables that stay, by name, but for the routes of these hosts.
    pub kept: BTreeMap<String, Vec<Rerouted>>,
    /// What the next is held against.
    pub base: Base,
}

/// Routes of a host that take the place of others.
#[derive(Debug, Clone, PartialEq)]
pub struct Rerouted {
    /// The host.
    pub name: String,
    /// Its routes as they were.
    pub was: Vec<Route>,
    /// Its routes.
    pub is: Vec<Route>,
}

/// What tables were made of.
#[derive(Debug, Clone)]
pub struct Base {
    /// As the workload knows it.
    config: Arc<Config>,
    /// Their names.
    tables: BTreeSet<String>,
    /// By what callers were told apart.
    asked: Asked,
}

/// Labels that rules ask callers for, and those of the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) labels: BTreeSet<String>,
    pub(super) own: BTreeMap<String, String>,
}

/// What of the last configuration holds.
pub(super) struct Held<'a> {
    base: &'a Base,
    /// Ports whose services differ, or hosts beside these.
    ports: BTreeSet<u16>,
    /// Hosts whose routes may differ.
    hosts: BTreeSet<&'a Hostname>,
}

/// What calls of `node` are routed by, held against what others like it were routed by before.
pub(super) fn held_against(
    base: Option<&Base>,
    config: Arc<Config>,
    node: &Node,
    asked: Asked,
) -> Routing {
    let (mut view, mut kept) = (View::default(), BTreeMap::new());
    // Who is like it now may not have been so when other labels were asked for.
    let base = base.filter(|base| only(&node.labels, &base.asked.labels) == base.asked.own);
    let held = base.and_then(|base| base.under(&config));
    outbound::add(&config, node, held.as_ref(), (&mut view, &mut kept));
    let tables = view.routes.keys().chain(kept.keys()).cloned().collect();
    Routing {
        view,
        kept,
        base: Base {
            config,
            tables,
            asked,
        },
    }
}

impl Base {
    /// What holds under `config`; nothing where anything may differ.
    fn under<'a>(&'a self, config: &'a Config) -> Option<Held<'a>> {
        let before = &*self.config;
        // Faults and comparisons are put over whole tables.
        let over = |config: &Config| !config.faults.is_empty() || !config.comparisons.is_empty();
        let injected = over(config) || over(before);
        if config.tracing != before.tracing
            || config.access_log != before.access_log
            || config.metrics != before.metrics
        {
            return None;
        }
        if config.outbound != before.outbound || config.baseline != before.baseline || injected {
            return None;
        }
        let mut held = Held {
            base: self,
            ports: BTreeSet::new(),
            hosts: BTreeSet::new(),
        };
        for host in differing(&config.services, &before.services) {
            let both = [config.services.get(host), before.services.get(host)];
            let ports = both.into_iter().flatten().flat_map(|own| &own.ports);
            held.ports.extend(ports.map(|port| port.port));
            // Whether it stands for a service tells a host from those outside.
            held.ports.insert(HTTP_PORT);
            held.hosts.insert(host);
        }
        for host in config.destinations.changed(&before.destinations) {
            if host.as_str().starts_with('*') {
                return None;
            }
            held.hosts.insert(host);
        }
        let targets = held.hosts.clone();
        let led = config.routes.iter();
        let led = led.filter(|(_, routes)| leads_to(routes, &targets));
        let differ = differing(&config.routes, &before.routes);
        for host in differ.into_iter().chain(led.map(|(host, _)| host)) {
            if host.as_str().starts_with('*') {
                return None;
            }
            if !config.services.contains_key(host) {
                held.ports.insert(HTTP_PORT);
            }
            held.hosts.insert(host);
        }
        Some(held)
    }
}

/// Whether `routes` send something to one of `hosts`.
fn leads_to(routes: &HostRoutes, hosts: &BTreeSet<&Hostname>) -> bool {
    let mut rules = routes.rules.iter();
    rules.any(|rule| {
        let copies = rule.mirrors.iter().map(|mirror| &mirror.target);
        let mut targets = rule.targets.iter().chain(copies);
        targets.any(|target| hosts.contains(&target.host))
    })
}

impl Held<'_> {
    /// The hosts of the table of `port`, whose services these are, that are routed in another way, if
    /// all else of it holds. `routes` are those of a configuration.
    pub(super) fn rerouted<'s>(
        &self,
        (port, table): (u16, &str),
        config: &Config,
        services: impl Iterator<Item = (&'s Service, &'s ServicePort)>,
        routes: impl Fn(&Config, &Service, &ServicePort) -> Vec<Route>,
    ) -> Option<Vec<Rerouted>> {
        if self.ports.contains(&port) || !self.base.tables.contains(table) {
            return None;
        }
        let touched = services.filter(|(service, _)| self.hosts.contains(&service.host));
        let rerouted = touched.map(|(service, own)| Rerouted {
            name: outbound::host_name(service, port),
            was: routes(&self.base.config, service, own),
            is: routes(config, service, own),
        });
        Some(rerouted.filter(|host| host.was != host.is).collect())
    }
}
