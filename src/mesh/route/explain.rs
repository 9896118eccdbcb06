//! Why a request goes where it goes: the same conditions as on the data path, each with what it found.

use serde::{Deserialize, Serialize};

use super::matching::split_query;
use super::{Match, PathMatch, Request, Route, Router};

/// One condition and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// In words, such as `path starts with "/reviews"`.
    pub text: String,
    /// Whether it held.
    pub holds: bool,
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
}

/// The walk through a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The virtual host that took the request; none: 404 (`NR`).
    pub host: Option<String>,
    /// Routes up to and with the one that matched.
    pub routes: Vec<RouteTrace>,
}

/// Walks `router` with `request`. The last route of the trace is the one that [`Router::find`] gives,
/// if that finds any.
pub fn explain(router: &Router, request: &dyn Request) -> Trace {
    let host = router
        .host(request.authority())
        .and_then(|index| router.table().hosts.get(index));
    let mut routes = Vec::new();
    for (index, route) in host.map_or(&[][..], |host| &host.routes).iter().enumerate() {
        let trace = conditions(index, route, request);
        let matched = trace.matched;
        routes.push(trace);
        if matched {
            break;
        }
    }
    Trace {
        host: host.map(|host| host.name.clone()),
        routes,
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
    texts
}

fn conditions(index: usize, route: &Route, request: &dyn Request) -> RouteTrace {
    let (path, query) = split_query(request.path_and_query());
    let matches = &route.matches;
    let holds = std::iter::once(matches.path.holds(path, matches.ignore_case))
        .chain(matches.headers.iter().map(|header| header.holds(request)))
        .chain(matches.query.iter().map(|parameter| parameter.holds(query)));
    let conditions: Vec<Condition> = describe(matches)
        .into_iter()
        .zip(holds)
        .map(|(text, holds)| Condition { text, holds })
        .collect();
    RouteTrace {
        index,
        name: route.name.clone(),
        matched: conditions.iter().all(|condition| condition.holds),
        conditions,
    }
}
