//! TrafficSplits, by the host whose calls they split.

use super::{ByHost, target};
use crate::mesh::route::{HeaderMatch, Match, PathMatch, Pattern, TextMatch};
use crate::mesh::world::{Config, RouteTarget};
use crate::mesh::{Finding, Hostname, Protocol, Severity};
use crate::resource::codes;
use crate::resource::lower::{of_kind, resolve, similar};
use crate::resource::object::{Key, Kind, Object, Objects};
use crate::resource::smi::{GroupMatch, TrafficSplit};

/// The splits of one host.
pub(super) struct Splits<'a> {
    /// Of some requests, the oldest first.
    pub(super) some: Vec<Split<'a>>,
    /// Of every call that is left.
    pub(super) all: Option<Split<'a>>,
}

impl<'a> Splits<'a> {
    pub(super) fn all(&self) -> impl Iterator<Item = &Split<'a>> {
        self.some.iter().chain(&self.all)
    }
}

/// One split.
pub(super) struct Split<'a> {
    pub(super) object: &'a Object,
    /// Any of these; none is every call.
    pub(super) conditions: Vec<Match>,
    /// By port of the host where it has several.
    pub(super) targets: Vec<(Option<u16>, Vec<RouteTarget>)>,
}

pub(super) fn read<'a>(
    objects: &'a Objects,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> ByHost<Splits<'a>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::TrafficSplit(split) => Some(split),
        _ => None,
    });
    let mut by_host: ByHost<Splits<'a>> = ByHost::new();
    for (object, split) in written {
        let namespace = &object.metadata.namespace;
        let services = &config.services;
        let host = resolve(&split.service, namespace, services);
        let Some(host) = host.filter(|host| services.contains_key(host)) else {
            let message = format!(
                "{} is no service of the mesh, so nothing is split",
                split.service
            );
            let code = codes::UNKNOWN_ROUTE_HOST;
            let mut finding = object.finding(Severity::Warning, code, "spec.service", message);
            let near = similar(&Hostname::service(&split.service, namespace), services);
            finding.hint = Some(near.map_or_else(
                || "write the Service, or correct its name".to_owned(),
                |service| format!("did you mean {}?", service.name),
            ));
            findings.push(finding);
            continue;
        };
        let conditions = conditions(objects, object, split, findings);
        if !split.groups.is_empty() && conditions.is_empty() {
            continue;
        }
        let own = Split {
            object,
            conditions,
            targets: targets(object, split, &host, config, findings),
        };
        let splits = by_host.entry(host.clone()).or_insert(Splits {
            some: Vec::new(),
            all: None,
        });
        if !own.conditions.is_empty() {
            splits.some.push(own);
        } else if let Some(first) = &splits.all {
            let message = format!(
                "every call to {host} is split by {} already, so this has no effect",
                first.object.origin
            );
            let code = codes::OVERRULED;
            let finding = object.finding(Severity::Warning, code, "spec.service", message);
            findings.push(finding.hint("remove one of them"));
        } else {
            splits.all = Some(own);
        }
    }
    by_host
}

/// The requests that `split` is for.
fn conditions(
    objects: &Objects,
    object: &Object,
    split: &TrafficSplit,
    findings: &mut Vec<Finding>,
) -> Vec<Match> {
    let mut found = Vec::new();
    for (index, name) in split.groups.iter().enumerate() {
        let key = Key {
            kind: "HTTPRouteGroup".to_owned(),
            namespace: object.metadata.namespace.clone(),
            name: name.clone(),
        };
        let group = objects.get(&key).map(|object| &object.body);
        if let Some(Kind::HttpRouteGroup(group)) = group {
            found.extend(group.matches.iter().map(requests));
        } else {
            let message =
                format!("HTTPRouteGroup {name} does not exist, so none of its requests is split");
            let path = format!("spec.matches[{index}].name");
            let code = codes::MISSING_REFERENCE;
            let finding = object.finding(Severity::Warning, code, &path, message);
            findings.push(finding.hint("write the group in the namespace of the split"));
        }
    }
    found
}

fn requests(group: &GroupMatch) -> Match {
    let mut matches = Match::default();
    // Its expression is bound to the beginning of the path only.
    let whole = |pattern: &Pattern| Pattern::new(&format!("(?:{}).*", pattern.as_str())).ok();
    if let Some(pattern) = &group.path {
        let pattern = whole(pattern).unwrap_or_else(|| pattern.clone());
        matches.path = PathMatch::Regex(pattern);
    }
    let methods = group
        .methods
        .iter()
        .map(|method| method.to_ascii_uppercase());
    let methods: Vec<String> = methods.collect();
    let one_of = match methods.as_slice() {
        [] => None,
        [one] => Some(TextMatch::Exact(one.clone())),
        several => Pattern::new(&several.join("|")).ok().map(TextMatch::Regex),
    };
    matches.headers.extend(one_of.map(|value| HeaderMatch {
        name: ":method".to_owned(),
        value,
        invert: false,
    }));
    let headers = group.headers.iter();
    matches
        .headers
        .extend(headers.map(|(name, pattern)| HeaderMatch {
            name: if name == "host" { ":authority" } else { name }.to_owned(),
            value: TextMatch::Regex(pattern.clone()),
            invert: false,
        }));
    matches
}

/// Where calls go, by port of the host: a backend is called at the port that its caller named (SMI).
fn targets(
    object: &Object,
    split: &TrafficSplit,
    host: &Hostname,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> Vec<(Option<u16>, Vec<RouteTarget>)> {
    let ports: Vec<u16> = config
        .services
        .get(host)
        .into_iter()
        .flat_map(|service| &service.ports)
        .filter(|port| port.protocol != Protocol::Udp)
        .map(|port| port.port)
        .collect();
    let several = ports.len() > 1;
    let mut all = Vec::new();
    for port in ports {
        let mut targets = Vec::new();
        for (index, backend) in split.backends.iter().enumerate() {
            let namespace = &object.metadata.namespace;
            let services = &config.services;
            let named = resolve(&backend.service, namespace, services);
            let named = named.unwrap_or_else(|| Hostname::service("invalid", "invalid"));
            let mut to = target(named, Some(port), backend.weight);
            let service = services.get(&to.host);
            let broken = match service {
                None => Some((
                    format!("service {} does not exist", to.host),
                    similar(&to.host, services)
                        .map(|service| format!("did you mean {}?", service.host)),
                )),
                Some(service) if !service.ports.iter().any(|known| known.port == port) => {
                    let known = service.ports.iter().map(|port| port.port.to_string());
                    Some((
                        format!("service {} has no port {port}, which {host} has", to.host),
                        Some(format!(
                            "give it the port, beside {}",
                            known.collect::<Vec<_>>().join(", ")
                        )),
                    ))
                }
                Some(_) => None,
            };
            if let Some((message, hint)) = broken {
                to.invalid = Some(message.clone());
                let path = format!("spec.backends[{index}].service");
                let code = codes::MISSING_REFERENCE;
                let mut finding = object.finding(Severity::Error, code, &path, message);
                finding.hint = hint;
                findings.push(finding);
            }
            targets.push(to);
        }
        all.push((several.then_some(port), targets));
    }
    all
}
