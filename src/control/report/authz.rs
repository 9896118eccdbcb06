//! Who may call whom: a call judged without making it, and policies for what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::authz::{AuthzCheck, AuthzReport, AuthzSuggestion, Uncovered};
use crate::mesh::authorization::explain::explain;
use crate::mesh::authorization::{At, Authorization};
use crate::mesh::claims::Claims;
use crate::mesh::http::PathOptions;
use crate::mesh::path::{loosest, normalise};
use crate::mesh::policy::{Place, in_force};
use crate::mesh::rbac::Facts;
use crate::mesh::route::Request;
use crate::mesh::route::matching::split_query;
use crate::mesh::service::TargetPort;
use crate::mesh::world::{MtlsMode, selects};
use crate::mesh::{Instance, Protocol, Service, World};

use super::caller;

/// Why there is no judgement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Nobody of this name.
    #[error("no service and no workload {0} runs")]
    NoTarget(String),
    /// Nobody of this name.
    #[error("no workload {0} runs")]
    NoCaller(String),
    /// Nobody answers for it.
    #[error("no instance stands behind service {0}")]
    NoInstance(String),
    /// There is none.
    #[error("service {service} has no port {port}")]
    NoPort {
        /// Its name.
        service: String,
        /// What was asked for.
        port: u16,
    },
    /// Something that was asked with is not what it should be.
    #[error("{0}")]
    Invalid(String),
}

struct Asked<'a> {
    check: &'a AuthzCheck,
    host: String,
    path: Vec<u8>,
    headers: Vec<(String, String)>,
    claims: Option<Claims>,
}

impl Request for Asked<'_> {
    fn method(&self) -> &[u8] {
        self.check.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        b"http"
    }

    fn path_and_query(&self) -> &[u8] {
        &self.path
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (own, value) in &self.headers {
            if own == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }

    fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }
}

/// What is called.
struct Called<'w> {
    instance: &'w Arc<Instance>,
    port: u16,
    protocol: Protocol,
    host: String,
}

fn called<'w>(world: &'w World, check: &AuthzCheck) -> Result<Called<'w>, CheckError> {
    let (name, namespace) = check
        .to
        .split_once('.')
        .unwrap_or((&check.to, &check.namespace));
    let mut services = world.config.services.values();
    let service = services.find(|of| of.name == name && of.namespace == namespace);
    let Some(service) = service else {
        let mut instances = world.instances.values();
        let found = instances
            .find(|of| of.namespace == namespace && (of.name == name || of.workload == name));
        let instance = found.ok_or_else(|| CheckError::NoTarget(check.to.clone()))?;
        let port = check.port;
        let protocol = front(world, instance, port)
            .first()
            .map(|(_, protocol)| *protocol);
        return Ok(Called {
            instance,
            port,
            protocol: protocol.unwrap_or(Protocol::Auto),
            host: name.to_owned(),
        });
    };
    let mut instances = world.instances.values();
    let instance = instances
        .find(|of| {
            of.namespace == service.namespace
                && !service.selector.is_empty()
                && selects(&service.selector, &of.labels)
        })
        .ok_or_else(|| CheckError::NoInstance(check.to.clone()))?;
    let mut ports = service.ports.iter();
    let port = match check.port {
        0 => ports
            .clone()
            .find(|port| port.protocol.is_http())
            .or_else(|| ports.next()),
        wanted => ports.find(|port| port.port == wanted),
    };
    let port = port.ok_or_else(|| CheckError::NoPort {
        service: check.to.clone(),
        port: check.port,
    })?;
    let target = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => instance.port_names.get(name).copied().unwrap_or(port.port),
    };
    Ok(Called {
        instance,
        port: target,
        protocol: port.protocol,
        host: service.name.clone(),
    })
}

/// The services in front of a port of an instance, and what they say is spoken.
fn front<'w>(world: &'w World, instance: &Instance, port: u16) -> Vec<(&'w Service, Protocol)> {
    let services = world.config.services.values().filter(|service| {
        service.namespace == instance.namespace
            && !service.selector.is_empty()
            && selects(&service.selector, &instance.labels)
    });
    let leads = |target: &TargetPort| match target {
        TargetPort::Number(number) => *number == port,
        TargetPort::Name(name) => instance.port_names.get(name) == Some(&port),
    };
    services
        .filter_map(|service| {
            let mut ports = service.ports.iter();
            let found = ports.find(|own| leads(&own.target))?;
            Some((&**service, found.protocol))
        })
        .collect()
}

/// Judges a call.
pub fn check(world: &World, check: &AuthzCheck) -> Result<AuthzReport, CheckError> {
    let called = called(world, check)?;
    let instance = called.instance;
    let invalid = |what: String| CheckError::Invalid(what);
    let (principal, own) = if check.from.is_empty() {
        (None, IpAddr::from(Ipv4Addr::UNSPECIFIED))
    } else {
        let node = caller(world, &check.from, &check.namespace)
            .ok_or_else(|| CheckError::NoCaller(check.from.clone()))?;
        let found = world
            .instances
            .get(&(node.namespace.clone(), node.name.clone()));
        // Who has no proxy of the mesh proves nothing.
        let proves = found.is_none_or(|of| of.mtls);
        let domain = &world.config.trust_domain;
        let id = crate::mesh::SpiffeId::new(domain, &node.namespace, &node.service_account);
        (proves.then(|| id.to_string()), node.address)
    };
    let address = match check.from_ip.as_str() {
        "" => own,
        text => text
            .parse()
            .map_err(|_| invalid(format!("{text:?} is not an IP address")))?,
    };
    let mode = world
        .config
        .authentication
        .mode(&instance.namespace, &instance.labels, called.port);
    let principal = principal.filter(|_| mode != MtlsMode::Disable && instance.mtls);
    let target = if check.path.is_empty() {
        "/"
    } else {
        &check.path
    };
    if !target.starts_with('/') {
        return Err(invalid(format!(
            "{target:?} is not a path: it begins with /"
        )));
    }
    let path = normalise(target.as_bytes(), PathOptions::default())
        .map_err(|_| invalid(format!("{target:?} is refused whoever asks for it")))?
        .into_owned();
    let asked = Asked {
        check,
        host: if check.host.is_empty() {
            called.host.clone()
        } else {
            check.host.clone()
        },
        headers: check
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
        claims: match &check.claims {
            None => None,
            Some(Value::Object(map)) => Some(Claims::new(map.clone())),
            Some(_) => return Err(invalid("claims are a JSON object".to_owned())),
        },
        path,
    };
    let bytes = matches!(called.protocol, Protocol::Tcp | Protocol::Tls);
    let fronts = front(world, instance, called.port);
    let hosts: Vec<_> = fronts.iter().map(|(of, _)| of.host.clone()).collect();
    let workload = crate::mesh::policy::Workload {
        namespace: &instance.namespace,
        labels: &instance.labels,
    };
    let force = in_force(&world.config.policies, workload, Place::Port(&hosts));
    let policies: Vec<&Authorization> = force.authorization.iter().map(|of| &**of).collect();
    let at = At {
        trust_domain: &world.config.trust_domain,
        port: Some(called.port),
        bytes,
    };
    let (bare, _) = split_query(&asked.path);
    let loose = loosest(bare);
    let facts = Facts {
        request: if bytes { None } else { Some(&asked) },
        principal: principal.as_deref(),
        direct: address,
        remote: address,
        local: SocketAddr::new(instance.address, called.port),
        server_name: None,
        loose_path: loose.as_deref(),
    };
    let mut trace = explain(&policies, at, &facts);
    if mode == MtlsMode::Strict && principal.is_none() {
        trace.allowed = false;
        "mTLS is STRICT there, and the caller has no identity of the mesh"
            .clone_into(&mut trace.because);
    } else if !instance.mtls && !policies.is_empty() {
        trace.allowed = true;
        "no proxy of the mesh stands before the workload, so nobody judges"
            .clone_into(&mut trace.because);
    }
    Ok(AuthzReport {
        principal: principal.unwrap_or_default(),
        workload: format!("{}.{}", instance.workload, instance.namespace),
        port: called.port,
        bytes,
        mtls: match mode {
            MtlsMode::Strict => "STRICT",
            MtlsMode::Permissive => "PERMISSIVE",
            MtlsMode::Disable => "DISABLE",
        }
        .to_owned(),
        path: String::from_utf8_lossy(&asked.path).into_owned(),
        trace,
    })
}

/// Policies that let pass who `called`: pairs of a service and a calling workload, `name.namespace` each.
pub fn suggest(world: &World, calls: &BTreeSet<(String, String)>) -> AuthzSuggestion {
    let mut suggestion = AuthzSuggestion::default();
    let mut by_service: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (service, source) in calls {
        let mut uncovered = |reason: &str| {
            suggestion.uncovered.push(Uncovered {
                service: service.clone(),
                source: source.clone(),
                reason: reason.to_owned(),
            });
        };
        if source.is_empty() {
            uncovered("it is not of the mesh, or shows no identity");
            continue;
        }
        let (name, namespace) = source.split_once('.').unwrap_or((source, ""));
        let mut instances = world.instances.values();
        let found = instances.find(|of| of.namespace == namespace && of.workload == name);
        match found {
            None => {
                uncovered("no instance of it runs any more, so its service account is not known");
            }
            Some(of) if !of.mtls => {
                uncovered("it has no proxy of the mesh, so it proves no identity");
            }
            Some(of) => {
                let domain = &world.config.trust_domain;
                let id = of.identity(domain).to_string();
                let id = id
                    .strip_prefix(crate::mesh::SpiffeId::SCHEME)
                    .unwrap_or(&id);
                by_service.entry(service).or_default().insert(id.to_owned());
            }
        }
    }
    for (service, principals) in by_service {
        let (name, namespace) = service.split_once('.').unwrap_or((service, "default"));
        let mut services = world.config.services.values();
        let known = services.find(|of| of.name == name && of.namespace == namespace);
        let Some(known) = known.filter(|of| !of.selector.is_empty()) else {
            suggestion.uncovered.push(Uncovered {
                service: service.to_owned(),
                source: String::new(),
                reason: "it chooses no workloads of the mesh".to_owned(),
            });
            continue;
        };
        suggestion.policies.push(json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("{name}-callers"), "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": known.selector},
                "action": "ALLOW",
                "rules": [{"from": [{"source": {"principals": principals}}]}],
            },
        }));
    }
    suggestion
}
