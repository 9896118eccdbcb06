//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Services, address, exported, of_kind};
use crate::mesh::service::Resolution;
use crate::mesh::session::{SessionBy, SessionCookie, StatefulSession, is_name};
use crate::mesh::{Finding, Hostname, Service, ServicePort, Severity};
use crate::resource::codes;
use crate::resource::istio::ServiceEntry;
use crate::resource::kube::{ClusterIp, SERVICE_NAME, Service as Written};
use crate::resource::object::{Kind, Object, Objects};

/// Istio's label for sessions by a cookie: its name, and its path behind a colon.
const SESSION_COOKIE: &str = "istio.io/persistent-session";
/// Istio's label for sessions by a header.
const SESSION_HEADER: &str = "istio.io/persistent-session-header";
/// On Services: the namespaces that see it (Istio's).
const EXPORT_TO: &str = "networking.istio.io/exportTo";

pub(super) fn lower(objects: &Objects, usual: &[String], findings: &mut Vec<Finding>) -> Services {
    let written = of_kind(objects, |kind| match kind {
        Kind::Service(service) => Some(service),
        _ => None,
    });
    let mut services = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, Hostname> = BTreeMap::new();
    for (object, service) in written {
        let metadata = &object.metadata;
        let host = Hostname::service(&metadata.name, &metadata.namespace);
        if let Some(name) = &service.external_name {
            let message = format!("a service that stands for {name} is not honoured yet");
            findings.push(
                object
                    .finding(
                        Severity::Warning,
                        codes::IGNORED,
                        "spec.externalName",
                        message,
                    )
                    .hint(format!("call {name} by its own name; such calls pass")),
            );
            continue;
        }
        let addresses = match &service.cluster_ip {
            ClusterIp::Fixed(fixed) => claim(
                (object, "spec.clusterIP"),
                &host,
                fixed,
                &mut owners,
                findings,
            ),
            ClusterIp::Allocated | ClusterIp::Headless => Vec::new(),
        };
        let ports = service.ports.iter().map(|port| ServicePort {
            name: port.name.clone(),
            port: port.port,
            target: port.target.clone(),
            protocol: port.protocol,
        });
        services.insert(
            host.clone(),
            Service {
                host,
                name: metadata.name.clone(),
                namespace: metadata.namespace.clone(),
                ports: ports.collect(),
                selector: selector(object, service),
                addresses,
                headless: service.cluster_ip == ClusterIp::Headless,
                export: exported(&shown(object), usual, &metadata.namespace),
                distribution: service.distribution,
                session: session(object, findings),
                external: None,
                origin: object.origin.clone(),
            },
        );
    }
    // What is given an address here is called by what has the addresses of the cluster.
    let only_v6 = !owners.is_empty() && owners.keys().all(IpAddr::is_ipv6);
    entries(objects, usual, (&mut services, &mut owners), findings);
    // In the order of names, so that who meets whom does not depend on ages.
    let mut taken: BTreeSet<IpAddr> = owners.into_keys().collect();
    for service in services.values_mut() {
        if service.addresses.is_empty() && !service.headless && can_be_asked_for(service) {
            service
                .addresses
                .extend(address::allocate(&service.host, only_v6, &mut taken));
        }
    }
    services
        .into_iter()
        .map(|(host, service)| (host, Arc::new(service)))
        .collect()
}

/// Gives `host` those of the addresses that nobody has yet.
fn claim(
    (object, path): (&Object, &str),
    host: &Hostname,
    written: &[IpAddr],
    owners: &mut BTreeMap<IpAddr, Hostname>,
    findings: &mut Vec<Finding>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in written {
        if let Some(owner) = owners.get(address) {
            let message = format!("{address} is the address of {owner} already");
            findings.push(
                object
                    .finding(Severity::Error, codes::ADDRESS_CONFLICT, path, message)
                    .hint("remove it, and the mesh gives it an address"),
            );
        } else {
            owners.insert(*address, host.clone());
            addresses.push(*address);
        }
    }
    addresses
}

/// Whether a name server could give an address for it: not for a wildcard, nor where calls go to
/// addresses that callers know.
fn can_be_asked_for(service: &Service) -> bool {
    let elsewhere = service.external.as_ref();
    !service.host.as_str().starts_with('*')
        && elsewhere.is_none_or(|external| external.resolution != Resolution::None)
}

/// Hosts outside the mesh, and those that it has by other means. A service of that name goes before,
/// then the oldest entry.
fn entries(
    objects: &Objects,
    usual: &[String],
    (services, owners): (
        &mut BTreeMap<Hostname, Service>,
        &mut BTreeMap<IpAddr, Hostname>,
    ),
    findings: &mut Vec<Finding>,
) {
    let written = of_kind(objects, |kind| match kind {
        Kind::ServiceEntry(entry) => Some(entry),
        _ => None,
    });
    for (object, entry) in written {
        for (at, host) in entry.hosts.iter().enumerate() {
            if let Some(other) = services.get(host) {
                let path = format!("spec.hosts[{at}]");
                let message = format!("{host} is what {} says already", other.origin);
                findings.push(
                    object
                        .finding(Severity::Warning, codes::HOST_CONFLICT, &path, message)
                        .hint("this entry has no effect on it: remove the host from one of them"),
                );
                continue;
            }
            // Of hosts that share an address only requests can be told apart, and those by their host.
            let written = if at == 0 { &entry.addresses[..] } else { &[] };
            let addresses = claim((object, "spec.addresses"), host, written, owners, findings);
            let export = exported(&entry.export_to, usual, &object.metadata.namespace);
            services.insert(
                host.clone(),
                external((object, export), entry, (host, addresses), findings),
            );
        }
    }
}

fn external(
    (object, export): (&Object, BTreeSet<String>),
    entry: &ServiceEntry,
    (host, addresses): (&Hostname, Vec<IpAddr>),
    findings: &mut Vec<Finding>,
) -> Service {
    let own = &object.metadata.namespace;
    Service {
        host: host.clone(),
        name: host.to_string(),
        namespace: own.clone(),
        ports: entry.ports.clone(),
        selector: entry.selector.clone(),
        addresses,
        headless: false,
        export,
        distribution: None,
        session: session(object, findings),
        // What is chosen by labels are instances like any other's.
        external: entry
            .selector
            .is_empty()
            .then(|| Box::new(entry.external.clone())),
        origin: object.origin.clone(),
    }
}

/// How callers of a Service or ServiceEntry keep their sessions, by Istio's labels.
fn session(object: &Object, findings: &mut Vec<Finding>) -> Option<Arc<StatefulSession>> {
    let labels = &object.metadata.labels;
    let (label, by) = if let Some(cookie) = labels.get(SESSION_COOKIE) {
        let (name, path) = cookie.split_once(':').unwrap_or((cookie, "/"));
        let cookie = SessionCookie {
            name: name.to_owned(),
            path: path.to_owned(),
            ..SessionCookie::default()
        };
        (SESSION_COOKIE, SessionBy::Cookie(cookie))
    } else {
        let name = labels.get(SESSION_HEADER)?.to_ascii_lowercase();
        (SESSION_HEADER, SessionBy::Header(name))
    };
    let (name, path) = match &by {
        SessionBy::Cookie(cookie) => (&cookie.name, cookie.path.as_str()),
        SessionBy::Header(name) => (name, "/"),
    };
    if !is_name(name) || !path.starts_with('/') {
        let written = labels.get(label).map_or("", String::as_str);
        let message = format!("{written:?} names no session, so there is none");
        let path = format!("metadata.labels.{label}");
        let finding = object.finding(Severity::Warning, codes::IGNORED, &path, message);
        let hint = match by {
            SessionBy::Cookie(_) => "write the name of a cookie, and a path behind a colon",
            SessionBy::Header(_) => "write the name of a header",
        };
        findings.push(finding.hint(hint));
        return None;
    }
    Some(Arc::new(StatefulSession::by(by)))
}

/// To whom a Service is shown: by an annotation, as it has no field for it.
fn shown(object: &Object) -> Vec<String> {
    let written = object.metadata.annotations.get(EXPORT_TO);
    let names = written.iter().flat_map(|names| names.split(','));
    let names = names.map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// A service without a selector is backed by the instances that name it, as endpoint slices do.
fn selector(object: &Object, service: &Written) -> BTreeMap<String, String> {
    if service.selector.is_empty() {
        BTreeMap::from([(SERVICE_NAME.to_owned(), object.metadata.name.clone())])
    } else {
        service.selector.clone()
    }
}
