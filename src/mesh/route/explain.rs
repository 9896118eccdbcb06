//! Why a request goes where it goes: the same conditions as on the data path, each with what it found.

use serde::{Deserialize, Serialize};

use super::matching::split_query;
use super::{HeaderMatch, Match, PathMatch, QueryMatch, Request, Route, Router};
use crate::mesh::Origin;

/// One condition and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// In words, such as `path starts with "/reviews"`.
    pub text: String,
    /// Whether it held.
    pub holds: bool,
    /// What the request has there; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// One route and its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTrace {
    /// Index in its virtual host.
    pub index: usize,
    /// The route's name.
    pub name: String,
    /// All of them, also after the first that failed.
    pub conditions: Vec<Condition>,
    /// Whether all held.
    pub matched: bool,
    /// Whether an earlier one had taken the request already.
    #[serde(default)]
    pub late: bool,
    /// Where it was written.
    #[serde(default)]
    pub origin: Origin,
}

/// The walk through a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The virtual host that took the request; none: 404 (`NR`).
    pub host: Option<String>,
    /// Every route of it, in order.
    pub routes: Vec<RouteTrace>,
}

impl Trace {
    /// The route that takes the request: the one that [`Router::find`] gives, if that finds any.
    pub fn taken(&self) -> Option<&RouteTrace> {
        self.routes.iter().find(|route| route.matched)
    }
}

/// Walks `router` with `request`.
pub fn explain(router: &Router, request: &dyn Request) -> Trace {
    let host = router
        .host(request.authority())
        .and_then(|index| router.table().hosts.get(index));
    let mut late = false;
    let routes = host.map_or(&[][..], |host| &host.routes).iter().enumerate();
    let routes = routes.map(|(index, route)| {
        let mut trace = conditions(index, route, request);
        trace.late = late;
        late |= trace.matched;
        trace
    });
    Trace {
        routes: routes.collect(),
        host: host.map(|host| host.name.clone()),
    }
}

/// What tells `route` from its neighbours: its name, else its conditions in words, else `everything`.
pub fn label(route: &Route) -> String {
    if !route.name.is_empty() {
        return route.name.clone();
    }
    let conditions = narrowing(&route.matches);
    if conditions.is_empty() {
        "everything".to_owned()
    } else {
        conditions.join(", ")
    }
}

/// The conditions of `matches` that not every request fulfils, in words.
pub fn narrowing(matches: &Match) -> Vec<String> {
    let everything = describe(&Match::default());
    let mut conditions = describe(matches);
    conditions.retain(|text| !everything.contains(text));
    conditions
}

/// The conditions of `matches` in words, in the order in which they are judged. The path comes first.
pub fn describe(matches: &Match) -> Vec<String> {
    let case = if matches.ignore_case {
        " ignoring case"
    } else {
        ""
    };
    let mut texts = vec![match &matches.path {
        PathMatch::Prefix(prefix) => format!("path starts with {prefix:?}{case}"),
        PathMatch::Segments(prefix) => format!("path is under {prefix:?}{case}"),
        PathMatch::Exact(exact) => format!("path is {exact:?}{case}"),
        PathMatch::Regex(pattern) => format!("path matches /{}/", pattern.as_str()),
    }];
    texts.extend(matches.headers.iter().map(|header| {
        let not = if header.invert { "not " } else { "" };
        let noun = match header.name.as_str() {
            ":method" => "method".to_owned(),
            ":authority" => "authority".to_owned(),
            ":scheme" => "scheme".to_owned(),
            name => format!("header {name}"),
        };
        format!("{not}{noun} {}", header.value)
    }));
    texts.extend(
        matches
            .query
            .iter()
            .map(|parameter| format!("query {} {}", parameter.name, parameter.value)),
    );
    texts.extend(matches.claims.iter().map(ToString::to_string));
    texts
}

fn conditions(index: usize, route: &Route, request: &dyn Request) -> RouteTrace {
    let (path, query) = split_query(request.path_and_query());
    let matches = &route.matches;
    let path = (
        matches.path.holds(path, matches.ignore_case),
        Some(text(path)),
    );
    let headers = matches
        .headers
        .iter()
        .map(|header| (header.holds(request), header_found(header, request)));
    let parameters = matches
        .query
        .iter()
        .map(|parameter| (parameter.holds(query), query_found(parameter, query)));
    let claims = matches.claims.iter().map(|claim| {
        let found = claim.found(request.claims()).join(",");
        let found = (!found.is_empty()).then_some(found);
        (claim.holds(request.claims()), found)
    });
    let found = std::iter::once(path).chain(headers).chain(parameters);
    let conditions: Vec<Condition> = describe(matches)
        .into_iter()
        .zip(found.chain(claims))
        .map(|(text, (holds, found))| Condition { text, holds, found })
        .collect();
    RouteTrace {
        index,
        name: route.name.clone(),
        matched: conditions.iter().all(|condition| condition.holds),
        conditions,
        late: false,
        origin: route.origin.clone(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn header_found(header: &HeaderMatch, request: &dyn Request) -> Option<String> {
    match header.name.as_str() {
        ":method" => return Some(text(request.method())),
        ":authority" | "host" => return Some(text(request.authority())),
        ":scheme" => return Some(text(request.scheme())),
        ":path" => return Some(text(request.path_and_query())),
        _ => {}
    }
    let mut found: Option<String> = None;
    request.header(&header.name, &mut |value| {
        let value = text(value);
        found = Some(match found.take() {
            Some(before) => format!("{before},{value}"),
            None => value,
        });
        true
    });
    found
}

fn query_found(parameter: &QueryMatch, query: Option<&[u8]>) -> Option<String> {
    let values: Vec<String> = query
        .unwrap_or_default()
        .split(|byte| *byte == b'&')
        .filter_map(|pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            (parts.next()? == parameter.name.as_bytes())
                .then(|| text(parts.next().unwrap_or_default()))
        })
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}
