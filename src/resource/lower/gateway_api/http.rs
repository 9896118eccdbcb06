//! Rules of HTTPRoutes and GRPCRoutes as rules of the mesh.

use std::sync::Arc;
use std::time::Duration;

use super::backends::Backends;
use super::order::Width;
use crate::mesh::Severity;
use crate::mesh::filter::HttpFilter;
use crate::mesh::route::{
    Action, Forward, Match, Missing, PathMatch, PathRewrite, Redirect, Respond, Retry, RetryOn,
    Rewrite,
};
use crate::mesh::session::{SessionBy, SessionCookie, StatefulSession, cookie_path};
use crate::mesh::world::{MirrorTarget, RouteTarget, Rule, SourceMatch};
use crate::resource::codes;
use crate::resource::gateway_api::{
    GrpcRoute, HttpRoute, PathModifier, RedirectTo, RouteBackend, RouteFilters, RouteRetry,
    SessionPersistence,
};
use crate::resource::object::Object;

/// Retries of a rule that names no number (Istio's default).
const ATTEMPTS: u32 = 2;

/// A rule with its place among those of its route.
#[derive(Debug, Clone)]
pub(super) struct Ordered {
    pub(super) width: Width,
    pub(super) rule: Rule,
}

/// What HTTPRoutes and GRPCRoutes say alike.
struct Parts<'p> {
    path: String,
    name: String,
    filters: &'p RouteFilters,
    backends: &'p [RouteBackend],
    timeout: Option<Duration>,
    retry: Option<Retry>,
    session: Option<&'p SessionPersistence>,
    /// What callers get for a backend that is no good.
    missing: Missing,
}

pub(super) fn http(route: &HttpRoute, backends: &mut Backends<'_>) -> Vec<Ordered> {
    let mut rules = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let each = rule.try_timeout.filter(|each| !each.is_zero());
        let parts = Parts {
            path: format!("spec.rules[{index}]"),
            name: named(backends, &rule.name, index),
            filters: &rule.filters,
            backends: &rule.backends,
            timeout: rule.timeout.filter(|whole| !whole.is_zero()),
            retry: Some(retry(rule.retry.as_ref(), each)),
            session: rule.session.as_ref(),
            missing: Missing::Internal,
        };
        let made = parts.meaning(backends);
        for condition in &rule.matches {
            rules.push(Ordered {
                width: Width::http(condition),
                rule: parts.rule(&made, condition, backends),
            });
        }
    }
    rules
}

pub(super) fn grpc(route: &GrpcRoute, backends: &mut Backends<'_>) -> Vec<Ordered> {
    let mut rules = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let parts = Parts {
            path: format!("spec.rules[{index}]"),
            name: named(backends, &rule.name, index),
            filters: &rule.filters,
            backends: &rule.backends,
            timeout: None,
            retry: Some(Retry::default()),
            session: rule.session.as_ref(),
            // UNAVAILABLE, as callers are told.
            missing: Missing::Unavailable,
        };
        let made = parts.meaning(backends);
        for condition in &rule.matches {
            rules.push(Ordered {
                width: Width::grpc(condition),
                rule: parts.rule(&made, &condition.matches, backends),
            });
        }
    }
    rules
}

/// The name that a rule was given, else Istio's.
fn named(backends: &Backends<'_>, name: &str, index: usize) -> String {
    let metadata = &backends.object.metadata;
    match name {
        "" => format!("{}.{}.{index}", metadata.namespace, metadata.name),
        name => name.to_owned(),
    }
}

fn retry(written: Option<&RouteRetry>, each: Option<Duration>) -> Retry {
    let default = Retry {
        per_try_timeout: each,
        ..Retry::default()
    };
    let Some(written) = written else {
        return default;
    };
    let mut on = default.on.clone();
    // Connections that break, and tries that take too long.
    on.push(RetryOn::Reset);
    Retry {
        attempts: written.attempts.unwrap_or(ATTEMPTS),
        on,
        status_codes: written.codes.clone(),
        base_interval: written.backoff.unwrap_or(default.base_interval),
        min_interval: written.backoff.unwrap_or_default(),
        ..default
    }
}

/// What a rule does, whichever of its conditions holds.
struct Meaning {
    filters: RouteFilters,
    targets: Vec<RouteTarget>,
    mirrors: Vec<MirrorTarget>,
}

impl Parts<'_> {
    fn meaning(&self, backends: &mut Backends<'_>) -> Meaning {
        let mut filters = self.filters.clone();
        let mut mirrors: Vec<MirrorTarget> = Vec::new();
        for mirror in &self.filters.mirrors {
            mirrors.extend(backends.mirror(mirror, &self.path));
        }
        let mut targets = Vec::new();
        let mut refused = false;
        let alone = self.backends.iter().filter(|to| to.weight > 0).count() == 1;
        for (index, backend) in self.backends.iter().enumerate() {
            let path = format!("{}.backendRefs[{index}]", self.path);
            let own = &backend.filters;
            let plain = RouteFilters {
                headers: own.headers.clone(),
                ..RouteFilters::default()
            };
            if *own != plain && alone && backend.weight > 0 {
                // What is done for the only backend is done for the rule.
                for mirror in &own.mirrors {
                    mirrors.extend(backends.mirror(mirror, &path));
                }
                filters.redirect = own.redirect.clone().or(filters.redirect);
                filters.rewrite = own.rewrite.clone().or(filters.rewrite);
                filters.cors = own.cors.clone().or(filters.cors);
            } else if *own != plain && backend.weight > 0 {
                let message = "only headers can be edited for one of several backends";
                let path = format!("{path}.filters");
                let finding =
                    backends
                        .object
                        .finding(Severity::Error, codes::NOT_HONOURED, &path, message);
                let hint = "write the filter into the rule, or a rule with one backend";
                backends.findings.push(finding.hint(hint));
                let unsupported = ("UnsupportedValue", message.to_owned());
                backends.unsupported.get_or_insert(unsupported);
                refused = true;
            }
            targets.push(backends.target(backend, &path));
        }
        Meaning {
            filters,
            // Nothing is half-done: such a rule sends nothing anywhere.
            targets: if refused { Vec::new() } else { targets },
            mirrors,
        }
    }

    /// How requests that fulfil `condition` stay together.
    fn session(&self, condition: &Match, object: &Object) -> Option<HttpFilter> {
        // Rules share no sessions.
        let made_up = || {
            let metadata = &object.metadata;
            let (namespace, name) = (&metadata.namespace, &metadata.name);
            let whole = format!("{}/{namespace}/{name}/{}", object.kind, self.name);
            format!("session-{:016x}", fingerprint(whole.as_bytes()))
        };
        let by = match self.session? {
            SessionPersistence::Header(name) => {
                let name = name.clone();
                SessionBy::Header(name.unwrap_or_else(|| format!("x-{}", made_up())))
            }
            SessionPersistence::Cookie {
                name,
                path,
                lifetime,
            } => SessionBy::Cookie(SessionCookie {
                name: name.clone().unwrap_or_else(made_up),
                ttl: lifetime.unwrap_or_default(),
                path: path.clone().unwrap_or_else(|| cookie_path(condition)),
                // What the API would have, where nothing speaks against it.
                attributes: vec![("SameSite".to_owned(), "Strict".to_owned())],
            }),
        };
        let session = StatefulSession::by(by);
        Some(HttpFilter::StatefulSession(Arc::new(session)))
    }

    fn rule(&self, made: &Meaning, condition: &Match, backends: &Backends<'_>) -> Rule {
        let Meaning {
            filters,
            targets,
            mirrors,
        } = made;
        let mut redirect_to_port = false;
        let mut to = targets.clone();
        let action = if let Some(redirect) = &filters.redirect {
            to.clear();
            redirect_to_port = redirect.port.is_none() && redirect.scheme.is_none();
            Action::Redirect(redirected(redirect, condition))
        } else if targets.iter().all(|target| target.weight == 0) {
            to.clear();
            Action::Respond(Respond {
                status: self.missing.status(),
                body: String::new(),
            })
        } else {
            let rewrite = filters.rewrite.as_ref();
            Action::Forward(Forward {
                timeout: self.timeout,
                retry: self.retry.clone(),
                rewrite: Rewrite {
                    path: rewrite.and_then(|to| to.path.as_ref()).map(modified),
                    authority: rewrite.and_then(|to| to.hostname.clone()),
                },
                filters: filters
                    .cors
                    .iter()
                    .cloned()
                    .map(|cors| HttpFilter::Cors(cors.into()))
                    .chain(self.session(condition, backends.object))
                    .collect(),
                missing: self.missing,
                ..Forward::default()
            })
        };
        Rule {
            route: crate::mesh::Route {
                name: self.name.clone(),
                matches: condition.clone(),
                action,
                headers: filters.headers.clone(),
                origin: backends.object.origin_of(&self.path),
            },
            port: None,
            mirrors: if to.is_empty() {
                Vec::new()
            } else {
                mirrors.clone()
            },
            targets: to,
            source: SourceMatch::default(),
            redirect_to_port,
        }
    }
}

/// The same for the same bytes for ever (FNV-1a).
fn fingerprint(bytes: &[u8]) -> u64 {
    let basis = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(basis, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn modified(to: &PathModifier) -> PathRewrite {
    match to {
        PathModifier::Full(path) => PathRewrite::Full(path.clone()),
        PathModifier::Prefix(prefix) => PathRewrite::Prefix(prefix.clone()),
    }
}

fn redirected(to: &RedirectTo, condition: &Match) -> Redirect {
    let (path, prefix) = match &to.path {
        Some(PathModifier::Full(path)) => (Some(path.clone()), None),
        Some(PathModifier::Prefix(prefix)) if matches!(condition.path, PathMatch::Segments(_)) => {
            (None, Some(prefix.clone()))
        }
        _ => (None, None),
    };
    // Who is sent to another scheme is sent to its own port.
    let usual = to.scheme.as_deref().map(|scheme| match scheme {
        "https" => 443,
        _ => 80,
    });
    Redirect {
        status: to.status,
        scheme: to.scheme.clone(),
        authority: to.hostname.clone(),
        port: to.port.or(usual),
        path,
        prefix,
    }
}
