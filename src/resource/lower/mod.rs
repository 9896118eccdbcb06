//! Objects to a world: what people wrote, with references resolved.
//!
//! Nothing is half-applied here and nothing fails: a broken reference stays in the world as a target
//! that is invalid, with its weight, so that requests sent there fail closed, and is a finding too.

mod address;
mod authentication;
mod bound;
mod delegate;
mod destinations;
mod gateways;
mod imported;
mod ingress;
mod merge;
mod routes;
mod services;
mod streams;
mod sidecars;
mod workloads;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::object::{Kind, Object, Objects};
use crate::mesh::world::Config;
use crate::mesh::{Finding, Hostname, Instance, Service, World};

/// The instances of a world, by namespace and name.
pub type Instances = Arc<BTreeMap<(String, String), Arc<Instance>>>;

/// The world that `objects` mean, with what runs.
pub fn lower(objects: &Objects, instances: Instances) -> (World, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut services = services::lower(objects, &mut findings);
    imported::mark(objects, &mut services, &mut findings);
    let destinations = destinations::lower(objects, &services, &mut findings);
    let credentials = gateways::credentials(objects);
    let mut config = Config {
        gateways: gateways::lower(objects, &credentials, &mut findings),
        credentials,
        services,
        destinations,
        authentication: authentication::lower(objects),
        workloads: workloads::lower(objects),
        sidecars: sidecars::lower(objects, &mut findings),
        ..Config::default()
    };
    (config.routes, config.bound) = routes::lower(objects, &config, &mut findings);
    imported::add(objects, &mut config, &mut findings);
    let edge = [("istio".to_owned(), "ingressgateway".to_owned())];
    ingress::add(objects, &mut config, edge.into(), &mut findings);
    findings.sort_by(|a, b| {
        let place = |f: &Finding| (f.origin.file.clone(), f.origin.line, f.origin.column);
        place(a).cmp(&place(b)).then_with(|| a.cmp(b))
    });
    findings.dedup();
    let world = World {
        config: Arc::new(config),
        instances,
    };
    (world, findings)
}

/// The objects whose body `pick` wants, the oldest first.
fn of_kind<'a, T>(
    objects: &'a Objects,
    pick: impl Fn(&'a Kind) -> Option<&'a T>,
) -> Vec<(&'a Object, &'a T)> {
    let mut found: Vec<(&Object, &T)> = objects
        .values()
        .filter_map(|object| Some((&**object, pick(&object.body)?)))
        .collect();
    found.sort_by(|(a, _), (b, _)| a.seniority().cmp(&b.seniority()));
    found
}

type Services = BTreeMap<Hostname, Arc<Service>>;

/// The full name of `host` as written in `namespace`. A name without dots is a service of that
/// namespace; `name.namespace` and `name.namespace.svc` are taken for a service where there is one.
fn resolve(host: &str, namespace: &str, services: &Services) -> Option<Hostname> {
    if host == "*" || host.starts_with("*.") {
        return host.parse().ok();
    }
    let parts: Vec<&str> = host.split('.').collect();
    let guess = match parts.as_slice() {
        [name] => return Some(Hostname::service(name, namespace)),
        [name, namespace] | [name, namespace, "svc"] => Hostname::service(name, namespace),
        _ => return host.parse().ok(),
    };
    if services.contains_key(&guess) {
        Some(guess)
    } else {
        host.parse().ok()
    }
}

/// The service that was meant by a host that does not exist.
fn similar<'a>(host: &Hostname, services: &'a Services) -> Option<&'a Service> {
    let (name, namespace) = host.kubernetes().unwrap_or((host.as_str(), ""));
    let elsewhere = services.values().find(|service| service.name == name);
    elsewhere
        .or_else(|| {
            let near = super::suggest::nearest(
                name,
                services.values().map(|service| service.name.as_str()),
            )?;
            let named = |service: &&Arc<Service>| service.name == near;
            services
                .values()
                .find(|service| named(service) && service.namespace == namespace)
                .or_else(|| services.values().find(named))
        })
        .map(|service| &**service)
}
