//! Objects to a world: what people wrote, with references resolved.
//!
//! Nothing is half-applied here and nothing fails: a broken reference stays in the world as a target
//! that is invalid, with its weight, so that requests sent there fail closed, and is a finding too.

mod address;
mod authentication;
mod bound;
mod credentials;
mod delegate;
mod destinations;
mod gateway_api;
mod gateways;
mod imported;
mod ingress;
mod merge;
mod metrics;
mod named;
mod policies;
mod providers;
mod routes;
mod services;
mod streams;
mod sidecars;
mod access_log;
mod told;
mod tracing;
mod tunnels;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use gateway_api::{Condition, ParentVerdict, Verdict, Verdicts};

use super::istio::MeshConfig;
use super::object::{Key, Kind, Object, Objects};
use crate::mesh::baseline::Baseline;
use crate::mesh::destinations::ROOTS;
use crate::mesh::world::Config;
pub use crate::mesh::world::Instances;
use crate::mesh::{Finding, Hostname, Service, World};
pub use gateway_api::CONTROLLER;
pub use ingress::served_ingresses;
pub use named::named;

/// The world that `objects` mean, with what runs.
pub fn lower(objects: &Objects, instances: Instances) -> (World, Vec<Finding>) {
    let mut findings = Vec::new();
    let mesh = mesh_config(objects);
    let mut services = services::lower(objects, &mesh.service_export, &mut findings);
    imported::mark(objects, &mut services, &mut findings);
    let exports = &mesh.destination_export;
    let credentials = gateways::credentials(objects);
    let around = (&services, &credentials);
    let destinations = destinations::lower(objects, around, exports, &mut findings);
    let mut config = Config {
        gateways: gateways::lower(objects, &credentials, &mut findings),
        credentials,
        services,
        destinations,
        baseline: baseline(&mesh),
        outbound: mesh.outbound.unwrap_or_default(),
        authentication: authentication::lower(objects),
        workloads: workloads::lower(objects, &mut findings),
        sidecars: sidecars::lower(objects, &mut findings),
        ..Config::default()
    };
    let mut around = policies::Around {
        objects,
        config: &config,
        mesh: &mesh,
        findings: &mut findings,
    };
    let own = policies::lower(&mut around);
    let faults = policies::faults(&mut around);
    let comparisons = policies::comparisons(&mut around);
    let spans = tracing::lower(&mut around);
    let logs = access_log::lower(&mut around);
    let metrics = metrics::lower(&mut around);
    (config.policies, config.faults, config.comparisons) = (own, faults, comparisons);
    config.tracing = spans;
    config.access_log = logs;
    config.metrics = metrics;
    (config.routes, config.bound) =
        routes::lower(objects, &config, &mesh.route_export, &mut findings);
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
    imported::add(objects, &mut config, &mut findings);
    ingress::add(objects, &mut config, edge(&mesh), &mut findings);
    tunnels::check(&config, &mut findings);
    gateways::unreached(objects, &config, &mut findings);
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
    let exports = mesh_config(objects).service_export;
    let services = services::lower(objects, &exports, &mut findings);
    let credentials = gateways::credentials(objects);
    let around = gateway_api::Around {
        objects,
        services: &services,
        credentials: &credentials,
        instances,
    };
    gateway_api::lower(&around, &mut BTreeMap::new(), &mut findings).verdicts
}

/// What somebody wrote for the whole mesh: in our own root namespace, else in Istio's.
pub fn mesh_config(objects: &Objects) -> MeshConfig {
    let written = ROOTS.iter().find_map(|namespace| {
        let key = Key {
            kind: "ConfigMap".to_owned(),
            namespace: (*namespace).to_owned(),
            name: "istio".to_owned(),
        };
        match &objects.get(&key)?.body {
            Kind::ConfigMap(map) => map.mesh.as_deref().cloned(),
            _ => None,
        }
    });
    written.unwrap_or_default()
}

/// Labels of the proxies that serve Ingresses where no class says others.
fn edge(mesh: &MeshConfig) -> BTreeMap<String, String> {
    let served = mesh.ingress.as_deref().unwrap_or("ingressgateway");
    [("istio".to_owned(), served.to_owned())].into()
}

fn baseline(mesh: &MeshConfig) -> Baseline {
    let usual = Baseline::default();
    Baseline {
        connect_timeout: mesh.connect_timeout,
        h2_upgrade: mesh.h2_upgrade,
        auto_mtls: mesh.auto_mtls.unwrap_or(usual.auto_mtls),
        retry: mesh.retry.clone().unwrap_or(usual.retry),
        connection_pool: mesh.connection_pool.clone(),
        outlier: mesh.outlier.clone(),
        locality: mesh.locality.clone(),
        detect_timeout: mesh.detect_timeout.unwrap_or_default(),
        path: mesh.path.unwrap_or_default(),
        services: BTreeMap::new(),
    }
}

/// The namespaces that see what is exported to `written`, or else to `usual`, by an object of `own`;
/// empty is all. No namespace is called `~`.
fn exported(written: &[String], usual: &[String], own: &str) -> BTreeSet<String> {
    let names = if written.is_empty() { usual } else { written };
    if names.iter().any(|to| to == "*") {
        return BTreeSet::new();
    }
    let names = names.iter().map(|to| if to == "." { own } else { to });
    names.map(str::to_owned).collect()
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
