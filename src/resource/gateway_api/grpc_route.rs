//! GRPCRoute.

use super::filters::{RouteFilters, filters};
use super::http_match::{any, headers, pattern};
use super::reference::{ParentRef, RouteBackend, hostnames, parents, route_backend, word};
use super::session::{SessionPersistence, session};
use crate::mesh::Hostname;
use crate::mesh::route::{Match, PathMatch, Pattern};
use crate::resource::reader::{Fields, Value};

/// A GRPCRoute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrpcRoute {
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// For calls to these hosts; for all of its parents when empty.
    pub hostnames: Vec<Hostname>,
    /// In order.
    pub rules: Vec<GrpcRule>,
}

/// A rule of a GRPCRoute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrpcRule {
    /// May be empty.
    pub name: String,
    /// Any of these.
    pub matches: Vec<GrpcMatch>,
    /// What is done with calls.
    pub filters: RouteFilters,
    /// Where they go.
    pub backends: Vec<RouteBackend>,
    /// How those of one caller stay together.
    pub session: Option<SessionPersistence>,
}

/// Conditions on a call, and how narrow they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrpcMatch {
    /// As conditions on its request.
    pub matches: Match,
    /// Length of the service's name in the condition.
    pub service: usize,
    /// Length of the method's name in the condition.
    pub method: usize,
}

pub(in crate::resource) fn grpc_route(fields: &Fields<'_>) -> GrpcRoute {
    let Some(spec) = fields.get("spec") else {
        return GrpcRoute::default();
    };
    let spec = spec.fields();
    let route = GrpcRoute {
        parents: parents(&spec),
        hostnames: hostnames(&spec),
        rules: spec.list("rules").iter().map(rule).collect(),
    };
    spec.finish();
    route
}

fn rule(value: &Value<'_>) -> GrpcRule {
    let fields = value.fields();
    let written = fields.list("matches");
    let mut matches: Vec<GrpcMatch> = written.iter().filter_map(condition).collect();
    if written.is_empty() {
        matches.push(GrpcMatch {
            matches: any(),
            ..GrpcMatch::default()
        });
    }
    let filters_of = |fields: &Fields<'_>| filters(fields, false);
    let backends = fields.list("backendRefs");
    let backends = backends
        .iter()
        .filter_map(|value| route_backend(value, filters_of))
        .collect();
    let rule = GrpcRule {
        name: fields.text("name").unwrap_or_default(),
        matches,
        filters: filters_of(&fields),
        backends,
        session: session(&fields),
    };
    fields.finish();
    rule
}

fn condition(value: &Value<'_>) -> Option<GrpcMatch> {
    let fields = value.fields();
    let mut found = GrpcMatch {
        matches: any(),
        ..GrpcMatch::default()
    };
    let called = fields.get("method").map(|value| called(&value));
    headers(&fields, &mut found.matches.headers);
    fields.finish();
    if let Some(called) = called {
        (found.matches.path, found.service, found.method) = called?;
    }
    Some(found)
}

/// Which services and methods, as a condition on the path; and how long their names are.
fn called(value: &Value<'_>) -> Option<(PathMatch, usize, usize)> {
    let fields = value.fields();
    let kind = fields.get("type");
    let kind = kind.and_then(|value| word(&value, &["Exact", "RegularExpression"]));
    let (service, method) = (fields.get("service"), fields.get("method"));
    fields.finish();
    let written = |value: &Option<Value<'_>>| match value {
        Some(value) => value.text().map(Some),
        None => Some(None),
    };
    let (service_text, method_text) = (written(&service)?, written(&method)?);
    if service_text.is_none() && method_text.is_none() {
        value.error_hint(
            "neither a service nor a method is named",
            "service: shop.Cart, method: Add, or one of them",
        );
        return None;
    }
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let lengths = (length(&service_text), length(&method_text));
    if kind == Some("RegularExpression") {
        for value in [&service, &method].into_iter().flatten() {
            pattern(value)?;
        }
        let part = |text: Option<String>| text.map_or("[^/]+".to_owned(), |it| format!("(?:{it})"));
        let whole = format!("/{}/{}", part(service_text), part(method_text));
        let path = PathMatch::Regex(Pattern::new(&whole).ok()?);
        return Some((path, lengths.0, lengths.1));
    }
    let word = |text: &str| {
        let head = text.bytes().next();
        head.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    for (value, text, dots) in [
        (&service, &service_text, true),
        (&method, &method_text, false),
    ] {
        let (Some(value), Some(text)) = (value, text) else {
            continue;
        };
        let plain = if dots {
            text.strip_prefix('.').unwrap_or(text).split('.').all(word)
        } else {
            word(text)
        };
        if !plain {
            value.error_hint(
                format!("{text:?} is no name of a {}", if dots { "service" } else { "method" }),
                "letters, digits and _, with dots in services; others are matched by type: RegularExpression",
            );
            return None;
        }
    }
    let path = match (service_text, method_text) {
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None) => PathMatch::Segments(format!("/{service}")),
        (None, method) => {
            let method = method.unwrap_or_default();
            PathMatch::Regex(Pattern::new(&format!("/[^/]+/{method}")).ok()?)
        }
    };
    Some((path, lengths.0, lengths.1))
}
