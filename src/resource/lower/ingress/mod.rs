//! Ingresses: a gateway for each group of proxies that serve them, and what is routed there.
//!
//! All Ingresses of a group are one table: of the paths of a host the longest goes first, and an exact
//! one before a prefix (Kubernetes' rule); what is equal in that is of the oldest object. What no path
//! takes is the default backend's, which stands behind every host.

mod annotations;
mod backends;
mod classes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::backends::Backends;
use self::classes::{Classes, Selector};
use super::gateways::missing;
use super::of_kind;
use crate::mesh::credential::CertificateSource;
use crate::mesh::gateway::{
    Bound, Gateway, GatewayName, Server, ServerHost, ServerSecurity, Serves,
};
use crate::mesh::route::{
    Action, Forward, HeaderEdits, HeaderMatch, Match, PathMatch, Pattern, Respond, Retry, TextMatch,
};
use crate::mesh::sidecar::Space;
use crate::mesh::world::{Config, RouteTarget, Rule, SourceMatch};
use crate::mesh::{Finding, Hostname, Origin, OwnTls, Route, Severity};
use crate::resource::codes;
use crate::resource::kube::{Ingress, IngressPath, IngressTls, PathType};
use crate::resource::object::{Key, Kind, Object, Objects};

/// Where Ingresses are served: by no field of theirs, so always here (Kubernetes).
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// In place of a namespace, for gateways that nobody wrote. It sorts behind those that somebody did, so
/// what these claim is theirs; and no object has it.
const NOBODY: &str = "~ingress";

/// The Ingresses of one group of proxies, the oldest first.
type Group<'a> = Vec<(&'a Object, &'a Ingress)>;

/// Adds what Ingresses mean to `config`, for proxies with the labels `selector` where no class says
/// others.
pub(super) fn add(
    objects: &Objects,
    config: &mut Config,
    selector: Selector,
    findings: &mut Vec<Finding>,
) {
    let written = of_kind(objects, |kind| match kind {
        Kind::Ingress(ingress) => Some(ingress),
        _ => None,
    });
    let classes = Classes::new(objects, config, selector, findings);
    let mut groups: BTreeMap<Selector, Group<'_>> = BTreeMap::new();
    for (object, ingress) in written {
        let Some(selector) = classes.of(object, ingress, findings) else {
            continue;
        };
        if !annotations::judged(object, findings) {
            groups.entry(selector).or_default().push((object, ingress));
        }
    }
    for (selector, group) in groups {
        let labels: Vec<&str> = selector.values().map(String::as_str).collect();
        let name = (NOBODY.to_owned(), labels.join("-"));
        let (gateway, bound) = lowered(&name, selector, &group, config, findings);
        config.gateways.insert(name.clone(), Arc::new(gateway));
        config.bound.insert(name, bound);
    }
}

/// The Ingresses that are served here, with the labels of the proxies that do.
pub fn served_ingresses(objects: &Objects, config: &Config) -> Vec<(Key, Selector)> {
    let mut unsaid = Vec::new();
    let mesh = super::mesh_config(objects);
    let classes = Classes::new(objects, config, super::edge(&mesh), &mut unsaid);
    let written = of_kind(objects, |kind| match kind {
        Kind::Ingress(ingress) => Some(ingress),
        _ => None,
    });
    let mut served = Vec::new();
    for (object, ingress) in written {
        if let Some(selector) = classes.of(object, ingress, &mut unsaid)
            && !annotations::judged(object, &mut unsaid)
        {
            served.push((object.key(), selector));
        }
    }
    served
}

fn lowered(
    (namespace, name): &GatewayName,
    selector: Selector,
    group: &Group<'_>,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> (Gateway, Vec<Arc<Bound>>) {
    let origin = group.first().map(|(object, _)| object.origin.clone());
    let origin = origin.unwrap_or_default();
    let mut servers = vec![Server {
        name: "http".to_owned(),
        port: HTTP_PORT,
        bind: None,
        serves: Serves::Http { redirect: false },
        grpc_web: false,
        hosts: vec![everybody()],
        attached: None,
        origin: origin.clone(),
    }];
    servers.extend(secured(group, config, findings));
    let gateway = Gateway {
        namespace: namespace.clone(),
        name: name.clone(),
        selector,
        local: false,
        client_certificate: None,
        servers,
        origin,
    };
    (gateway, bound(group, config, findings))
}

fn everybody() -> ServerHost {
    server_host(None)
}

fn server_host(host: Option<&Hostname>) -> ServerHost {
    ServerHost {
        space: Space::Any,
        host: host.cloned().unwrap_or_else(Hostname::any),
    }
}

/// A server for each certificate. Of two for one host the oldest object's is shown.
fn secured(group: &Group<'_>, config: &Config, findings: &mut Vec<Finding>) -> Vec<Server> {
    let mut servers = Vec::new();
    let mut shown: BTreeMap<Hostname, (&str, &Origin)> = BTreeMap::new();
    for (object, ingress) in group {
        for (index, tls) in ingress.tls.iter().enumerate() {
            let path = format!("spec.tls[{index}]");
            let Some(secret) = &tls.secret else {
                let message = "without a secretName there is no certificate to show, so nobody is served by TLS here";
                let code = codes::MISSING_REFERENCE;
                let finding = object.finding(Severity::Warning, code, &path, message);
                findings
                    .push(finding.hint("secretName: NAME of a Secret of type kubernetes.io/tls"));
                continue;
            };
            for host in claimed(tls) {
                match shown.get(&host) {
                    Some((other, of)) if other != secret => {
                        let message = format!(
                            "{host} is shown the certificate {other:?} of {of} already, and not this one"
                        );
                        let code = codes::INGRESS_CONFLICT;
                        let finding = object.finding(Severity::Warning, code, &path, message);
                        findings
                            .push(finding.hint("name one Secret for the host in all Ingresses"));
                    }
                    Some(_) => {}
                    None => {
                        shown.insert(host, (secret, &object.origin));
                    }
                }
            }
            let own = OwnTls {
                certificates: vec![CertificateSource::Secret(secret.clone())],
                ..OwnTls::default()
            };
            missing(
                object,
                &own,
                (&path, "secretName"),
                &config.credentials,
                findings,
            );
            let metadata = &object.metadata;
            let hosts: Vec<ServerHost> = claimed(tls)
                .iter()
                .map(|host| server_host(Some(host)))
                .collect();
            servers.push(Server {
                name: format!("https-{index}.{}.{}", metadata.name, metadata.namespace),
                port: HTTPS_PORT,
                bind: None,
                serves: Serves::Https(ServerSecurity::Own(Box::new(own))),
                grpc_web: false,
                hosts,
                attached: None,
                origin: object.origin_of(&path),
            });
        }
    }
    servers
}

/// The hosts that a certificate is for.
fn claimed(tls: &IngressTls) -> Vec<Hostname> {
    if tls.hosts.is_empty() {
        vec![Hostname::any()]
    } else {
        tls.hosts.clone()
    }
}

/// One path of one host.
struct Entry<'a> {
    object: &'a Object,
    at: String,
    path: PathMatch,
    target: RouteTarget,
}

impl Entry<'_> {
    /// What goes first: the longest path, and of those the exact one.
    fn rank(&self) -> (std::cmp::Reverse<usize>, bool) {
        let (text, prefix) = match &self.path {
            PathMatch::Exact(text) => (text.as_str(), false),
            // `/` is no element.
            PathMatch::Segments(text) | PathMatch::Prefix(text) => {
                (text.trim_end_matches('/'), true)
            }
            PathMatch::Regex(pattern) => (pattern.as_str(), true),
        };
        (std::cmp::Reverse(text.len()), prefix)
    }
}

/// The routes of every host of a group.
fn bound(group: &Group<'_>, config: &Config, findings: &mut Vec<Finding>) -> Vec<Arc<Bound>> {
    let mut by_host: BTreeMap<Hostname, Vec<Entry<'_>>> = BTreeMap::new();
    // Who has a default backend, the hosts of that object, and where it leads.
    let mut defaults: Vec<(&Object, BTreeSet<Hostname>, RouteTarget)> = Vec::new();
    for (object, ingress) in group {
        let mut backends = Backends {
            object,
            services: &config.services,
            findings,
        };
        let mut hosts = BTreeSet::new();
        for (index, rule) in ingress.rules.iter().enumerate() {
            let host = rule.host.clone().unwrap_or_else(Hostname::any);
            hosts.insert(host.clone());
            let entries = by_host.entry(host).or_default();
            for (number, path) in rule.paths.iter().enumerate() {
                let at = format!("spec.rules[{index}].http.paths[{number}]");
                let Some(target) = backends.target(&path.backend, &format!("{at}.backend")) else {
                    continue;
                };
                let matched = path_match(path);
                let open = path.kind == PathType::ImplementationSpecific;
                if let (true, PathMatch::Exact(text)) = (open, &matched) {
                    let message = format!("{text} is taken for the whole path, as Istio takes it");
                    let at = format!("{at}.path");
                    let code = codes::INGRESS_PATH;
                    let finding = object.finding(Severity::Info, code, &at, message);
                    backends.findings.push(finding.hint(
                        "write pathType: Prefix for what is below it too, or pathType: Exact",
                    ));
                }
                entries.push(Entry {
                    object,
                    path: matched,
                    target,
                    at,
                });
            }
        }
        if let Some(backend) = &ingress.default
            && let Some(target) = backends.target(backend, "spec.defaultBackend")
        {
            if ingress.rules.is_empty()
                && let Some((first, ..)) = defaults.iter().find(|(_, of, _)| of.is_empty())
            {
                let message = format!(
                    "what no rule takes goes to the default backend of {} already, and not to this one",
                    first.origin
                );
                let code = codes::INGRESS_CONFLICT;
                let path = "spec.defaultBackend";
                let finding = object.finding(Severity::Warning, code, path, message);
                findings.push(finding.hint("remove one of them, or give this one a host"));
            }
            defaults.push((object, hosts, target));
        }
    }
    // Every host, so that defaults have a place.
    by_host.entry(Hostname::any()).or_default();
    let hosts: Vec<Hostname> = by_host.keys().cloned().collect();
    let mut made: Vec<Arc<Bound>> = Vec::new();
    let mut open = Vec::new();
    // `*` sorts before all others, and is what wildcards fall back to.
    for host in hosts {
        let entries = by_host.remove(&host).unwrap_or_default();
        let mut rules = paths(&host, entries, findings);
        let own = defaults.iter().find(|(_, of, _)| of.contains(&host));
        let last = own.or_else(|| defaults.iter().find(|(_, of, _)| of.is_empty()));
        let last = last.or_else(|| defaults.first());
        match last {
            Some((object, _, target)) => rules.push(rule(
                object,
                "spec.defaultBackend",
                condition(&host, PathMatch::default()),
                target.clone(),
            )),
            // A host of rules answers by itself, and leaves nothing to rules for every host.
            None if host.as_str() != "*" && !open.is_empty() => {
                rules.push(nothing(condition(&host, PathMatch::default())));
            }
            None => {}
        }
        if host.as_str() == "*" {
            open.clone_from(&rules);
        } else if host.as_str().starts_with('*') {
            rules.extend(open.iter().cloned());
        }
        if rules.is_empty() {
            continue;
        }
        made.push(Arc::new(Bound {
            namespace: NOBODY.to_owned(),
            hosts: vec![host],
            origin: rules
                .first()
                .map(|rule| rule.route.origin.clone())
                .unwrap_or_default(),
            rules,
            streams: Vec::new(),
            export: BTreeSet::new(),
        }));
    }
    // The narrowest first, so that what is for every host stands behind.
    made.reverse();
    made
}

/// The rules of one host, in the order in which they are looked at. Of two for one path the oldest
/// object's is in force.
fn paths(host: &Hostname, mut entries: Vec<Entry<'_>>, findings: &mut Vec<Finding>) -> Vec<Rule> {
    // Stable, so those of one rank stay in order of age.
    entries.sort_by_key(Entry::rank);
    let mut rules = Vec::new();
    let mut taken: Vec<(PathMatch, Origin)> = Vec::new();
    for entry in entries {
        let Entry {
            object,
            at,
            path,
            target,
        } = entry;
        if let Some((_, of)) = taken.iter().find(|(known, _)| *known == path) {
            let shown = if host.as_str() == "*" {
                "every host".to_owned()
            } else {
                host.to_string()
            };
            let message =
                format!("this path of {shown} is that of {of} already, and has no effect");
            let code = codes::INGRESS_CONFLICT;
            let path = format!("{at}.path");
            let finding = object.finding(Severity::Warning, code, &path, message);
            findings.push(finding.hint("remove one of the two paths, or give it another host"));
            continue;
        }
        taken.push((path.clone(), object.origin_of(&at)));
        rules.push(rule(object, &at, condition(host, path), target));
    }
    rules
}

/// Istio's reading of each type.
fn path_match(path: &IngressPath) -> PathMatch {
    let text = path.path.clone();
    match path.kind {
        PathType::Exact => PathMatch::Exact(text),
        PathType::Prefix => match text.trim_end_matches('/') {
            "" => PathMatch::default(),
            elements => PathMatch::Segments(elements.to_owned()),
        },
        PathType::ImplementationSpecific if text.is_empty() => PathMatch::default(),
        PathType::ImplementationSpecific => {
            let prefix = text.strip_suffix(".*").or_else(|| text.strip_suffix("/*"));
            match prefix {
                Some("") => PathMatch::default(),
                Some(prefix) => PathMatch::Prefix(prefix.to_owned()),
                None => PathMatch::Exact(text),
            }
        }
    }
}

/// Requests for `path` of `host`. A wildcard of an Ingress stands for one label, and that of a table for
/// any number.
fn condition(host: &Hostname, path: PathMatch) -> Match {
    let one_label = host.as_str().strip_prefix("*.").and_then(|suffix| {
        let suffix = suffix.replace('.', "\\.");
        Pattern::new(&format!("(?i:[^.:]+\\.{suffix}\\.?)(?::[0-9]+)?")).ok()
    });
    let headers = one_label.map(|pattern| HeaderMatch {
        name: ":authority".to_owned(),
        value: TextMatch::Regex(pattern),
        invert: false,
    });
    Match {
        path,
        headers: headers.into_iter().collect(),
        ..Match::default()
    }
}

fn rule(object: &Object, at: &str, matches: Match, target: RouteTarget) -> Rule {
    Rule {
        route: Route {
            name: format!("{}/{}", object.metadata.namespace, object.metadata.name),
            matches,
            action: Action::Forward(Forward {
                retry: Some(Retry::default()),
                ..Forward::default()
            }),
            headers: HeaderEdits::default(),
            origin: object.origin_of(at),
        },
        port: None,
        targets: vec![target],
        source: SourceMatch::default(),
        mirrors: Vec::new(),
        redirect_to_port: false,
    }
}

fn nothing(matches: Match) -> Rule {
    Rule {
        route: Route {
            name: "no-path".to_owned(),
            matches,
            action: Action::Respond(Respond {
                status: 404,
                body: String::new(),
            }),
            headers: HeaderEdits::default(),
            origin: Origin::default(),
        },
        port: None,
        targets: Vec::new(),
        source: SourceMatch::default(),
        mirrors: Vec::new(),
        redirect_to_port: false,
    }
}
