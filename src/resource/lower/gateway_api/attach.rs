//! Which routes are attached to which listeners.

use std::collections::BTreeMap;

use super::listeners::{Gateways, Judged, JudgedListener};
use super::verdict::{Condition, ParentVerdict};
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{From, GROUP, ParentRef};
use crate::resource::object::{Kind, Object, Objects};

/// A route of any kind, as far as its parents are concerned.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) object: &'a Object,
    /// Such as `HTTPRoute`.
    pub(super) kind: &'static str,
    pub(super) parents: &'a [ParentRef],
    pub(super) hostnames: &'a [Hostname],
}

/// A place where a route is attached.
pub(super) struct Attachment<'a> {
    /// The Gateway.
    pub(super) gateway: (&'a str, &'a str),
    /// Index of the listener.
    pub(super) listener: usize,
    /// The hosts that the route has there.
    pub(super) hosts: Vec<Hostname>,
}

/// What is said of one parent of a route.
pub(super) enum Said {
    /// It is none of ours.
    Nothing,
    /// It takes the route, or does not.
    Parent(&'static str, Option<(&'static str, String)>),
    /// It is a Service.
    Service,
}

/// A listener: its Gateway's namespace and name, and its place among the others.
type ListenerAt<'a> = ((&'a str, &'a str), usize);

/// Attaches routes, the oldest first.
pub(super) struct Attaching<'a, 'g> {
    pub(super) objects: &'a Objects,
    pub(super) gateways: &'g mut Gateways<'a>,
    /// Kinds and hosts of the routes that are attached to each listener, for those that cannot be there
    /// together.
    pub(super) taken: BTreeMap<ListenerAt<'a>, Vec<(&'static str, Vec<Hostname>)>>,
}

impl<'a> Attaching<'a, '_> {
    /// Attaches `route` to the parent at `index`.
    pub(super) fn parent(
        &mut self,
        route: Route<'a>,
        index: usize,
        into: &mut Vec<Attachment<'a>>,
        findings: &mut Vec<Finding>,
    ) -> Said {
        let Some(parent) = route.parents.get(index) else {
            return Said::Nothing;
        };
        let path = format!("spec.parentRefs[{index}]");
        let mut say = |severity, code: &str, message: &str, hint: &str| {
            let finding = route.object.finding(severity, code, &path, message);
            findings.push(finding.hint(hint));
        };
        if parent.to.is("", "Service") {
            return Said::Service;
        }
        let own = route.object.metadata.namespace.as_str();
        let namespace = parent.to.namespace(own);
        let name = parent.to.name.as_str();
        if !parent.to.is(GROUP, "Gateway") {
            let message = format!(
                "a {kind} is no parent of routes here",
                kind = parent.to.kind
            );
            let hint = "name a Gateway, or a Service for calls inside the mesh";
            say(
                Severity::Error,
                codes::INVALID_REFERENCE_KIND,
                &message,
                hint,
            );
            return Said::Nothing;
        }
        let Some((&key, judged)) = self.gateways.get_key_value(&(namespace, name)) else {
            let exists = self.objects.values().any(|object| {
                matches!(object.body, Kind::ListeningGateway(_))
                    && object.metadata.namespace == namespace
                    && object.metadata.name == name
            });
            if !exists {
                let message = format!(
                    "Gateway {namespace}/{name} does not exist, so nothing is routed there"
                );
                let hint = "write the Gateway, or correct name and namespace";
                say(Severity::Warning, codes::MISSING_REFERENCE, &message, hint);
            }
            return Said::Nothing;
        };
        let controller = judged.controller;
        let refused = match self.listeners(route, parent, key) {
            Ok(attached) => {
                into.extend(attached);
                None
            }
            Err((reason, message)) => {
                let hint = match reason {
                    "NoMatchingParent" => "name a listener of the Gateway, by its name and port",
                    "NoMatchingListenerHostname" => "add the host to a listener of the Gateway",
                    _ => "let a listener's allowedRoutes take it",
                };
                say(Severity::Warning, codes::NOT_ATTACHED, &message, hint);
                Some((reason, message))
            }
        };
        Said::Parent(controller, refused)
    }

    /// The listeners of a Gateway that take `route`, or why none does.
    fn listeners(
        &mut self,
        route: Route<'a>,
        parent: &ParentRef,
        key: (&'a str, &'a str),
    ) -> Result<Vec<Attachment<'a>>, (&'static str, String)> {
        let name = || format!("Gateway {}/{}", key.0, key.1);
        let Some(judged) = self.gateways.get(&key) else {
            return Err(("NoMatchingParent", name()));
        };
        let meant: Vec<usize> = judged
            .listeners
            .iter()
            .enumerate()
            .filter(|(_, judged)| {
                let listener = judged.listener;
                parent
                    .section
                    .as_ref()
                    .is_none_or(|name| *name == listener.name)
                    && parent.port.is_none_or(|port| port == listener.port)
            })
            .map(|(index, _)| index)
            .collect();
        if meant.is_empty() {
            let message = format!("{} has no listener of that name and port", name());
            return Err(("NoMatchingParent", message));
        }
        let allowed: Vec<(usize, Hostname)> = meant
            .into_iter()
            .filter_map(|index| Some((index, judged.listeners.get(index)?)))
            .filter(|(_, listener)| self.allows(judged, listener, route))
            .map(|(index, listener)| (index, listener.host()))
            .collect();
        if allowed.is_empty() {
            let message = format!(
                "no listener of {} takes a {} of namespace {}",
                name(),
                route.kind,
                route.object.metadata.namespace
            );
            return Err(("NotAllowedByListeners", message));
        }
        let mut attached = Vec::new();
        let mut crowded = false;
        for (listener, host) in allowed {
            let hosts = met(&host, route.hostnames);
            if hosts.is_empty() {
                continue;
            }
            if self.is_crowded((key, listener), route.kind, &hosts) {
                crowded = true;
                continue;
            }
            let place = self.taken.entry((key, listener)).or_default();
            place.push((route.kind, hosts.clone()));
            attached.push(Attachment {
                gateway: key,
                listener,
                hosts,
            });
        }
        for at in &attached {
            let judged = self.gateways.get_mut(&key);
            if let Some(listener) = judged.and_then(|judged| judged.listeners.get_mut(at.listener))
            {
                listener.attached += 1;
            }
        }
        match (attached.is_empty(), crowded) {
            (false, _) => Ok(attached),
            (true, true) => Err((
                "NotAllowedByListeners",
                format!(
                    "{} has an older route of another kind for these hosts",
                    name()
                ),
            )),
            (true, false) => Err((
                "NoMatchingListenerHostname",
                format!("no listener of {} is for any of the hosts", name()),
            )),
        }
    }

    /// Whether a route of the other kind for requests is there first for some of the same hosts.
    fn is_crowded(
        &self,
        place: ((&'a str, &'a str), usize),
        kind: &str,
        hosts: &[Hostname],
    ) -> bool {
        let other = match kind {
            "HTTPRoute" => "GRPCRoute",
            "GRPCRoute" => "HTTPRoute",
            _ => return false,
        };
        let all = self.taken.get(&place).into_iter().flatten();
        let mut theirs = all
            .filter(|(kind, _)| *kind == other)
            .flat_map(|(_, hosts)| hosts);
        theirs.any(|theirs| {
            let mut own = hosts.iter();
            own.any(|own| own.covers(theirs) || theirs.covers(own) || own == theirs)
        })
    }

    /// Whether a listener takes routes of this kind and namespace.
    fn allows(&self, judged: &Judged<'_>, listener: &JudgedListener<'_>, route: Route<'_>) -> bool {
        let kind = listener
            .kinds
            .iter()
            .any(|kind| kind.group == GROUP && kind.kind == route.kind);
        let namespace = route.object.metadata.namespace.as_str();
        let from = match &listener.listener.allowed.from {
            From::Same => namespace == judged.object.metadata.namespace,
            From::All => true,
            From::None => false,
            From::Selector(selector) => selector.holds(&self.labels(namespace)),
        };
        kind && from
    }

    /// The labels of a namespace, with the one that every namespace has.
    fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let known = self.objects.values().find(|object| {
            matches!(object.body, Kind::Namespace(_)) && object.metadata.name == namespace
        });
        let mut labels = known.map_or_else(BTreeMap::new, |known| known.metadata.labels.clone());
        labels.insert(
            "kubernetes.io/metadata.name".to_owned(),
            namespace.to_owned(),
        );
        labels
    }
}

/// The hosts of a route that a listener for `host` has: the narrower of both.
fn met(host: &Hostname, hostnames: &[Hostname]) -> Vec<Hostname> {
    if hostnames.is_empty() {
        return vec![host.clone()];
    }
    let mut hosts: Vec<Hostname> = hostnames
        .iter()
        .filter_map(|own| {
            if host.covers(own) || host == own {
                Some(own.clone())
            } else {
                own.covers(host).then(|| host.clone())
            }
        })
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// What is said of a route for a parent.
pub(super) fn verdict(
    parent: &ParentRef,
    controller: &str,
    refused: Option<(&'static str, String)>,
    unresolved: Option<(&'static str, String)>,
) -> ParentVerdict {
    ParentVerdict {
        parent: parent.clone(),
        controller: controller.to_owned(),
        conditions: vec![
            Condition::new("Accepted", refused, "Accepted"),
            Condition::new("ResolvedRefs", unresolved, "ResolvedRefs"),
        ],
    }
}
