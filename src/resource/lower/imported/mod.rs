//! What other meshes' objects say of calls to a service: TrafficSplits, ServiceProfiles, and Linkerd's
//! annotations of Services.
//!
//! Together they are the rules of a host, as in Linkerd: a profile says which requests there are and how
//! they are tried, a split where they go. A VirtualService for the host goes before all of them, which
//! is said. What limits endpoints and retries lies under every DestinationRule ([`Baseline`]).
//!
//! [`Baseline`]: crate::mesh::baseline::Baseline

mod annotations;
mod opaque;
mod profiles;
mod splits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::annotations::Annotated;
use self::profiles::Profiles;
use self::splits::Splits;
use crate::mesh::route::{
    Action, Deadlines, Forward, HeaderEdits, HeaderMatch, Match, PathMatch, Retry, TextMatch,
};
use crate::mesh::world::{Config, HostRoutes, RouteTarget, Rule, SourceMatch, StreamRule};
use crate::mesh::{Finding, Hostname, Origin, Protocol, Route, Service, Severity};
use crate::resource::codes;
use crate::resource::linkerd::within_target;
use crate::resource::object::{Object, Objects};

pub(super) use opaque::mark;

/// How requests are bounded and tried again.
#[derive(Debug, Clone, Default, PartialEq)]
struct Care {
    name: String,
    timeout: Option<Duration>,
    idle: Option<Duration>,
    retry: Option<Retry>,
    origin: Origin,
}

/// Adds the rules of hosts, and what lies under rules, to `config`.
pub(super) fn add(objects: &Objects, config: &mut Config, findings: &mut Vec<Finding>) {
    let splits = splits::read(objects, config, findings);
    let profiles = profiles::read(objects, config, findings);
    let annotated = annotations::read(objects, config, findings);
    let hosts: BTreeSet<Hostname> = splits
        .keys()
        .chain(profiles.keys())
        .chain(annotated.keys())
        .cloned()
        .collect();
    for host in hosts {
        let Some(service) = config.services.get(&host).cloned() else {
            continue;
        };
        let found = Found {
            service: &service,
            splits: splits.get(&host),
            profiles: profiles.get(&host),
            annotated: annotated.get(&host),
            usual: config.baseline.retry.clone(),
        };
        let written = config.routes.get(&host);
        if let Some(routes) = written.filter(|routes| !routes.rules.is_empty()) {
            found.overruled(&routes.origin, findings);
            continue;
        }
        if let Some(routes) = written.filter(|routes| !routes.export.is_empty()) {
            found.unseen(routes, findings);
        }
        found.hides(findings);
        let mut streams = written.map(|routes| routes.streams.clone());
        // Connections are not shown to more namespaces than who wrote of them wanted.
        let export = written.map(|routes| routes.export.clone());
        let rules = found.rules();
        let own = found.streams();
        let streams = match &mut streams {
            Some(streams) if !streams.is_empty() => std::mem::take(streams),
            _ => own,
        };
        if rules.is_empty() && streams.is_empty() {
            continue;
        }
        let routes = HostRoutes {
            rules,
            streams,
            export: export.unwrap_or_default(),
            origin: found.origin(),
        };
        config.routes.insert(host, Arc::new(routes));
    }
}

/// All that is said of one host.
struct Found<'a> {
    service: &'a Service,
    splits: Option<&'a Splits<'a>>,
    profiles: Option<&'a Profiles<'a>>,
    annotated: Option<&'a Annotated<'a>>,
    /// What is tried again where nothing is said.
    usual: Option<Retry>,
}

impl Found<'_> {
    /// The objects, each with the field that says something of routes.
    fn said(&self) -> Vec<(&Object, &'static str)> {
        let splits = self.splits.iter().flat_map(|splits| splits.all());
        let splits = splits.map(|split| (split.object, "spec.service"));
        let profiles = self.profiles.iter().flat_map(|profiles| profiles.all());
        let profiles = profiles.filter(|profile| profile.routes_any());
        let profiles = profiles.map(|profile| (profile.object, "spec"));
        let annotated = self.annotated.iter();
        let annotated = annotated.map(|annotated| (annotated.object, "metadata.annotations"));
        splits.chain(profiles).chain(annotated).collect()
    }

    fn origin(&self) -> Origin {
        let said = self.said();
        let first = said.first().map(|(object, _)| object.origin.clone());
        first.unwrap_or_else(|| self.service.origin.clone())
    }

    /// Says that rules which somebody wrote for the host go before these.
    fn overruled(&self, by: &Origin, findings: &mut Vec<Finding>) {
        for (object, path) in self.said() {
            let message = format!(
                "requests to {} are routed by {by}, so this has no effect on them",
                self.service.host
            );
            let code = codes::OVERRULED;
            let finding = object.finding(Severity::Warning, code, path, message);
            findings.push(finding.hint(
                "write the same into the VirtualService and remove this, or remove the host from it",
            ));
        }
    }

    /// Says that this has no effect in namespaces that do not see what is written of connections to the host.
    fn unseen(&self, by: &HostRoutes, findings: &mut Vec<Finding>) {
        let namespaces: Vec<&str> = by.export.iter().map(String::as_str).collect();
        for (object, path) in self.said() {
            let message = format!(
                "{} says where connections to {} go, and is exported to {} only, so this has no effect elsewhere",
                by.origin,
                self.service.host,
                namespaces.join(", ")
            );
            let code = codes::OVERRULED;
            let finding = object.finding(Severity::Warning, code, path, message);
            findings.push(finding.hint("export the VirtualService to all (exportTo: [\"*\"])"));
        }
    }

    /// Says what a profile goes before.
    fn hides(&self, findings: &mut Vec<Finding>) {
        let profile = self.profiles.and_then(|profiles| profiles.own.as_ref());
        if let (Some(profile), Some(annotated)) = (profile, self.annotated)
            && profile.routes_any()
        {
            let message = format!(
                "ServiceProfile {} says how requests are tried, so the annotations of retries and timeouts have no effect",
                profile.object.metadata.name
            );
            let code = codes::OVERRULED;
            let path = "metadata.annotations";
            let object = annotated.object;
            let finding = object.finding(Severity::Warning, code, path, message);
            findings.push(finding.hint("keep one of the two"));
        }
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let plain = Care {
            retry: self.usual.clone(),
            name: "default".to_owned(),
            origin: self.origin(),
            ..Care::default()
        };
        let profiles = self.profiles.iter().flat_map(|profiles| profiles.all());
        let mut own = false;
        for profile in profiles.filter(|profile| profile.routes_any()) {
            let client = profile.client.as_deref();
            own |= client.is_none();
            for (care, conditions) in &profile.routes {
                for condition in conditions {
                    self.split(
                        condition,
                        care,
                        client,
                        profile.targets.as_ref(),
                        &mut rules,
                    );
                }
            }
            let all = Match::default();
            self.split(&all, &plain, client, profile.targets.as_ref(), &mut rules);
        }
        if !own {
            let care = self.annotated.map_or(&plain, |annotated| &annotated.care);
            let all = Match::default();
            self.split(&all, care, None, None, &mut rules);
        }
        // What says nothing is no rule.
        let says = |rule: &Rule| {
            let to_itself = rule.targets.len() == 1
                && rule.targets.iter().all(|to| to.host == self.service.host);
            let Action::Forward(forward) = &rule.route.action else {
                return true;
            };
            let usual = Forward {
                retry: self.usual.clone(),
                ..Forward::default()
            };
            !to_itself || rule.route.matches != Match::default() || *forward != usual
        };
        if rules.iter().any(says) {
            rules
        } else {
            Vec::new()
        }
    }

    /// The rules for requests that fulfil `condition`: those that are split by what they are, then all.
    fn split(
        &self,
        condition: &Match,
        care: &Care,
        client: Option<&str>,
        overrides: Option<&Vec<RouteTarget>>,
        rules: &mut Vec<Rule>,
    ) {
        let mut add = |matches: Match, targets: &[(Option<u16>, Vec<RouteTarget>)]| {
            for (port, targets) in targets {
                rules.push(rule(
                    matches.clone(),
                    care,
                    client,
                    (*port, targets.clone()),
                ));
            }
        };
        for split in self.splits.iter().flat_map(|splits| &splits.some) {
            for own in &split.conditions {
                if let Some(both) = together(condition, own) {
                    add(both, &split.targets);
                }
            }
        }
        let all = self.splits.and_then(|splits| splits.all.as_ref());
        match (all, overrides) {
            (Some(split), _) => add(condition.clone(), &split.targets),
            (None, Some(targets)) => add(condition.clone(), &[(None, targets.clone())]),
            (None, None) => {
                let itself = target(self.service.host.clone(), None, 1);
                add(condition.clone(), &[(None, vec![itself])]);
            }
        }
    }

    /// Splits of what is no HTTP.
    fn streams(&self) -> Vec<StreamRule> {
        let Some(split) = self.splits.and_then(|splits| splits.all.as_ref()) else {
            return Vec::new();
        };
        let carried = |port: u16| {
            let mut ports = self.service.ports.iter();
            ports.find(|known| known.port == port)
        };
        let mut streams = Vec::new();
        for (port, targets) in &split.targets {
            let number = port.or_else(|| targets.first().and_then(|target| target.port));
            let Some(known) = number.and_then(carried) else {
                continue;
            };
            let server_names = match known.protocol {
                Protocol::Tcp => Vec::new(),
                // Any name.
                Protocol::Tls => vec![Hostname::any().to_string()],
                _ => continue,
            };
            streams.push(StreamRule {
                server_names,
                destinations: Vec::new(),
                port: Some(known.port),
                source: SourceMatch::default(),
                targets: targets.clone(),
                origin: split.object.origin.clone(),
            });
        }
        streams
    }
}

/// What fulfils both conditions. A second condition on the path is one on path and query.
fn together(one: &Match, other: &Match) -> Option<Match> {
    let mut both = one.clone();
    both.headers.extend(other.headers.iter().cloned());
    if other.path == PathMatch::default() {
        return Some(both);
    }
    if both.path == PathMatch::default() {
        both.path = other.path.clone();
        return Some(both);
    }
    let PathMatch::Regex(pattern) = &other.path else {
        return None;
    };
    both.headers.push(HeaderMatch {
        name: ":path".to_owned(),
        value: TextMatch::Regex(within_target(pattern)?),
        invert: false,
    });
    Some(both)
}

fn target(host: Hostname, port: Option<u16>, weight: u32) -> RouteTarget {
    RouteTarget {
        host,
        subset: String::new(),
        port,
        weight,
        headers: HeaderEdits::default(),
        invalid: None,
    }
}

fn rule(
    matches: Match,
    care: &Care,
    client: Option<&str>,
    (port, targets): (Option<u16>, Vec<RouteTarget>),
) -> Rule {
    Rule {
        route: Route {
            name: care.name.clone(),
            matches,
            action: Action::Forward(Forward {
                timeout: care.timeout,
                retry: care.retry.clone(),
                deadlines: Deadlines {
                    idle: care.idle,
                    ..Deadlines::default()
                },
                ..Forward::default()
            }),
            headers: HeaderEdits::default(),
            origin: care.origin.clone(),
        },
        port,
        targets,
        source: SourceMatch {
            namespace: client.map(str::to_owned),
            ..SourceMatch::default()
        },
        mirrors: Vec::new(),
        redirect_to_port: false,
    }
}

/// By host.
type ByHost<T> = BTreeMap<Hostname, T>;
