//! Objects to a world: what people wrote, with references resolved.
//!
//! Nothing is half-applied here and nothing fails: a broken reference stays in the world as a target
//! that is invalid, with its weight, so that requests sent there fail closed, and is a finding too.

mod address;
mod authentication;
mod bound;
mod delegate;
mod destinations;
mod gateway_api;
mod gateways;
mod merge;
mod policies;
mod routes;
mod services;
mod streams;
mod sidecars;
mod workloads;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use gateway_api::{Condition, ParentVerdict, Verdict, Verdicts};

use super::object::{Kind, Object, Objects};
use crate::mesh::world::Config;
pub use crate::mesh::world::Instances;
use crate::mesh::{Finding, Hostname, Service, World};

/// The world that `objects` mean, with what runs.
pub fn lower(objects: &Objects, instances: Instances) -> (World, Vec<Finding>) {
    let mut findings = Vec::new();
    let services = services::lower(objects, &mut findings);
    let destinations = destinations::lower(objects, &services, &mut findings);
    let credentials = gateways::credentials(objects);
    let mut config = Config {
        gateways: gateways::lower(objects, &credentials, &mut findings),
        credentials,
        services,
        destinations,
        authentication: authentication::lower(objects),
        workloads: workloads::lower(objects, &mut findings),
        sidecars: sidecars::lower(objects, &mut findings),
        ..Config::default()
    };
    let mut around = policies::Around {
        config: &config,
        findings: &mut findings,
    };
    let own = policies::lower(objects, &mut around);
    let faults = policies::faults(objects, &mut around);
    (config.policies, config.faults) = (own, faults);
    (config.routes, config.bound) = routes::lower(objects, &config, &mut findings);
    let around = gateway_api::Around {
        objects,
        services: &config.services,
        credentials: &config.credentials,
        instances: &instances,
    };
    let lowered = gateway_api::lower(&around, &mut config.routes, &mut findings);
    config.listening = lowered.gateways;
    config.backend_security = lowered.backend_security;
    config.grpc = lowered.grpc;
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

/// What is said of every object of the Gateway API in its status.
pub(super) fn verdicts(objects: &Objects, instances: &Instances) -> Verdicts {
    let mut findings = Vec::new();
    let services = services::lower(objects, &mut findings);
    let credentials = gateways::credentials(objects);
    let around = gateway_api::Around {
        objects,
        services: &services,
        credentials: &credentials,
        instances,
    };
    gateway_api::lower(&around, &mut BTreeMap::new(), &mut findings).verdicts
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
