//! HTTPRoute.

use std::time::Duration;

use super::filters::{RouteFilters, filters};
use super::http_match::{any, http_match};
use super::reference::{ParentRef, RouteBackend, hostnames, parents, route_backend};
use super::session::{SessionPersistence, session};
use crate::mesh::Hostname;
use crate::mesh::route::{Match, PathMatch};
use crate::resource::reader::{Fields, Value};

/// An HTTPRoute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpRoute {
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// For requests to these hosts; for all of its parents when empty.
    pub hostnames: Vec<Hostname>,
    /// In order.
    pub rules: Vec<HttpRule>,
}

/// A rule of an HTTPRoute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpRule {
    /// May be empty.
    pub name: String,
    /// Any of these.
    pub matches: Vec<Match>,
    /// What is done with requests.
    pub filters: RouteFilters,
    /// Where they go.
    pub backends: Vec<RouteBackend>,
    /// For the whole request; zero is no limit.
    pub timeout: Option<Duration>,
    /// For each try; zero is no limit.
    pub try_timeout: Option<Duration>,
    /// When and how often they are tried again.
    pub retry: Option<RouteRetry>,
    /// How those of one caller stay together.
    pub session: Option<SessionPersistence>,
}

/// When and how often requests are tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteRetry {
    /// After answers of these statuses.
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: Option<u32>,
    /// Between them.
    pub backoff: Option<Duration>,
}

pub(in crate::resource) fn http_route(fields: &Fields<'_>) -> HttpRoute {
    let Some(spec) = fields.require("spec") else {
        return HttpRoute::default();
    };
    let spec = spec.fields();
    let rules = match spec.get("rules") {
        Some(written) => written.list().iter().map(rule).collect(),
        None => vec![HttpRule {
            matches: vec![any()],
            ..HttpRule::default()
        }],
    };
    let route = HttpRoute {
        parents: parents(&spec),
        hostnames: hostnames(&spec),
        rules,
    };
    spec.finish();
    route
}

fn rule(value: &Value<'_>) -> HttpRule {
    let fields = value.fields();
    let mut matches: Vec<Match> = fields.list("matches").iter().map(http_match).collect();
    if matches.is_empty() {
        matches.push(any());
    }
    let filters_of = |fields: &Fields<'_>| filters(fields, true);
    let own = filters_of(&fields);
    let written = fields.list("backendRefs");
    let backends: Vec<RouteBackend> = written
        .iter()
        .filter_map(|value| route_backend(value, filters_of))
        .collect();
    if let (Some(first), Some(_)) = (written.first(), &own.redirect) {
        first.error_hint(
            "requests are either sent on or elsewhere",
            "remove backendRefs or RequestRedirect",
        );
    }
    let prefix = own.needs_prefix() || backends.iter().any(|to| to.filters.needs_prefix());
    let by_prefix =
        matches!(matches.as_slice(), [one] if matches!(one.path, PathMatch::Segments(_)));
    if prefix && !by_prefix {
        value.error_hint(
            "ReplacePrefixMatch needs exactly one match, by PathPrefix",
            "write a rule for each match",
        );
    }
    let (timeout, try_timeout) = fields
        .get("timeouts")
        .map(|value| timeouts(&value))
        .unwrap_or_default();
    let rule = HttpRule {
        name: fields.text("name").unwrap_or_default(),
        matches,
        filters: own,
        backends,
        timeout,
        try_timeout,
        retry: fields.get("retry").map(|value| retry(&value)),
        session: session(&fields),
    };
    fields.finish();
    rule
}

/// For the whole request, and for each try.
fn timeouts(value: &Value<'_>) -> (Option<Duration>, Option<Duration>) {
    let fields = value.fields();
    let whole = fields.duration("request");
    let each = fields.duration("backendRequest");
    if let (Some(whole), Some(each)) = (whole, each)
        && !whole.is_zero()
        && each > whole
    {
        value.error_hint(
            "a try may not take longer than the whole request",
            "write a backendRequest of at most request",
        );
    }
    fields.finish();
    (whole, each)
}

fn retry(value: &Value<'_>) -> RouteRetry {
    let fields = value.fields();
    let codes = fields.list("codes");
    let codes = codes.iter().filter_map(|value| value.integer(400, 599));
    let attempts = fields.get("attempts");
    let attempts = attempts.and_then(|value| value.integer(1, i64::from(i32::MAX)));
    let retry = RouteRetry {
        codes: codes.filter_map(|code| u16::try_from(code).ok()).collect(),
        attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
        backoff: fields.duration("backoff"),
    };
    fields.finish();
    retry
}
