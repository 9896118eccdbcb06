//! What a proxy was given, part by part.
//!
//! Read as JSON rather than as the model's types, so that a proxy of another version can be shown:
//! what is not understood is left out of the table and stays in `-o json`.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::generic::Json;
use super::{Cell, Column, Grid, Page, Render, Tone};

/// One part of a proxy's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    part: &'static str,
    json: Json,
}

impl Config {
    /// `part` is the last word of the path that `value` was asked for by.
    pub(crate) fn new(part: &'static str, value: Value) -> Self {
        Self {
            part,
            json: Json(value),
        }
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl Render for Config {
    fn text(&self, page: &Page) -> String {
        let value = &self.json.0;
        match self.part {
            "listeners" => listeners(value, page),
            "routes" => routes(value, page),
            "clusters" => clusters(value, page),
            "endpoints" => endpoints(value, page),
            _ => secrets(value, page).unwrap_or_else(|| self.json.text(page)),
        }
    }

    fn names(&self) -> Vec<String> {
        entries(&self.json.0)
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        entries(&self.json.0)
            .next()
            .is_none()
            .then_some("Nothing there")
    }
}

/// The members of an object, or the items of a list under their names.
fn entries(value: &Value) -> Box<dyn Iterator<Item = (&str, &Value)> + '_> {
    match value {
        Value::Object(map) => Box::new(map.iter().map(|(name, value)| (name.as_str(), value))),
        Value::Array(list) => Box::new(list.iter().map(|item| (text(item, "/name"), item))),
        _ => Box::new(std::iter::empty()),
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn number(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value
        .pointer(path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// An enum as serde writes it: `"plain"` or `{"tagged": …}`.
fn variant(value: &Value) -> (&str, Option<&Value>) {
    match value {
        Value::String(name) => (name, None),
        Value::Object(map) => map
            .iter()
            .next()
            .map_or(("", None), |(name, inside)| (name.as_str(), Some(inside))),
        _ => ("", None),
    }
}

/// Kubernetes' host names without what all of them end in; in full on a wide page.
fn short(name: &str, page: &Page) -> String {
    if page.wide {
        name.to_owned()
    } else {
        name.replace(".svc.cluster.local", "")
    }
}

fn listeners(value: &Value, page: &Page) -> String {
    let mut grid = Grid::new([
        Column::long("NAME"),
        Column::text("ADDRESS"),
        Column::text("DIRECTION"),
        Column::long("CHAIN"),
        Column::long("LEADS TO"),
    ]);
    for (name, listener) in entries(value) {
        let last = listener
            .get("defaultChain")
            .filter(|chain| chain.is_object());
        let mut head = [
            Cell::from(name),
            text(listener, "/bind").into(),
            text(listener, "/direction").into(),
        ];
        for chain in list(listener, "/chains").iter().chain(last) {
            let (kind, inside) = chain.get("action").map_or(("", None), variant);
            let target = inside
                .and_then(|inside| inside.get("routes").or_else(|| inside.get("cluster")))
                .and_then(Value::as_str)
                .unwrap_or_default();
            let tls = if chain.get("tls").is_some_and(Value::is_object) {
                " (TLS)"
            } else {
                ""
            };
            let tail = [
                Cell::from(format!("{}{tls}", text(chain, "/name"))),
                format!("{kind} {target}").trim().into(),
            ];
            let head = std::mem::take(&mut head);
            grid.row(head.into_iter().chain(tail).collect::<Vec<_>>());
        }
    }
    grid.draw(page)
}

fn routes(value: &Value, page: &Page) -> String {
    let mut grid = Grid::new([
        Column::text("TABLE"),
        Column::long("HOST"),
        Column::long("MATCH"),
        Column::long("LEADS TO"),
    ]);
    for (table, content) in entries(value) {
        for host in list(content, "/hosts") {
            for route in list(host, "/routes") {
                grid.row([
                    table.into(),
                    short(text(host, "/name"), page).into(),
                    condition(route).into(),
                    Cell::or_dash(&short(&destination(route), page)),
                ]);
            }
        }
    }
    grid.draw(page)
}

fn condition(route: &Value) -> String {
    let (kind, inside) = route.pointer("/matches/path").map_or(("", None), variant);
    let mut words = vec![format!(
        "{kind} {}",
        inside.and_then(Value::as_str).unwrap_or_default()
    )];
    for (path, what) in [("/matches/headers", "header"), ("/matches/query", "query")] {
        let conditions = list(route, path).iter();
        words.extend(conditions.map(|one| format!("{what} {}", text(one, "/name"))));
    }
    words.join(" and ")
}

fn destination(route: &Value) -> String {
    let (action, inside) = route.get("action").map_or(("", None), variant);
    let clusters = inside.map_or(&[][..], |inside| list(inside, "/clusters"));
    match clusters {
        [] => action.to_owned(),
        [one] => text(one, "/cluster").to_owned(),
        several => several
            .iter()
            .map(|one| format!("{} {}", number(one, "/weight"), text(one, "/cluster")))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn clusters(value: &Value, page: &Page) -> String {
    let mut grid = Grid::new([
        Column::long("SERVICE"),
        Column::number("PORT"),
        Column::text("SUBSET"),
        Column::text("KIND"),
        Column::text("BALANCER"),
        Column::text("TLS"),
        Column::long("NAME").when(page.wide),
    ]);
    for (name, cluster) in entries(value) {
        let host = text(cluster, "/service/host");
        let tls = match cluster.get("tls") {
            Some(tls) if tls.get("required") == Some(&Value::Bool(true)) => "required",
            Some(tls) if tls.is_object() => "where mTLS",
            _ => "no",
        };
        grid.row([
            if host.is_empty() {
                Cell::new(name, Tone::Faint)
            } else {
                short(host, page).into()
            },
            Cell::or_dash(&number(cluster, "/service/port")),
            Cell::or_dash(text(cluster, "/service/subset")),
            cluster
                .get("kind")
                .map_or("", |kind| variant(kind).0)
                .into(),
            cluster
                .get("loadBalancer")
                .map_or("", |kind| variant(kind).0)
                .into(),
            tls.into(),
            name.into(),
        ]);
    }
    grid.draw(page)
}

fn endpoints(value: &Value, page: &Page) -> String {
    let mut grid = Grid::new([
        Column::text("ADDRESS"),
        Column::text("HEALTH"),
        Column::text("MTLS"),
        Column::number("WEIGHT").when(page.wide),
        Column::long("INSTANCE").when(page.wide),
        Column::long("CLUSTER"),
    ]);
    for (cluster, assignment) in entries(value) {
        for endpoint in list(assignment, "/endpoints") {
            let healthy = text(endpoint, "/health") == "healthy";
            grid.row([
                text(endpoint, "/address").into(),
                Cell::new(
                    text(endpoint, "/health"),
                    if healthy { Tone::Good } else { Tone::Bad },
                ),
                if endpoint.get("mtls") == Some(&Value::Bool(true)) {
                    "yes"
                } else {
                    "no"
                }
                .into(),
                number(endpoint, "/weight").into(),
                Cell::or_dash(text(endpoint, "/workload/instance")),
                short(cluster, page).into(),
            ]);
        }
    }
    grid.draw(page)
}

/// The identity and the roots that it trusts; none when the answer has another shape.
fn secrets(value: &Value, _: &Page) -> Option<String> {
    let roots = value.get("roots")?.as_array()?;
    let identity = text(value, "/identity");
    let mut lines = format!(
        "Identity  {}\n",
        if identity.is_empty() {
            "none"
        } else {
            identity
        }
    );
    for root in roots.iter().filter_map(Value::as_str) {
        lines.push_str(&format!("Root      {root}\n"));
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Paint;
    use super::*;

    fn drawn(part: &'static str, value: Value) -> String {
        let page = Page {
            width: None,
            wide: false,
            paint: Paint::new(false),
            now_unix_ms: 0,
        };
        Config::new(part, value).text(&page)
    }

    #[test]
    fn a_route_names_its_conditions_and_weights() {
        let clusters = [("a", 90), ("b", 10)]
            .map(|(name, weight)| json!({ "cluster": name, "weight": weight }));
        let text = drawn(
            "routes",
            json!({ "9080": { "hosts": [{ "name": "reviews:9080", "routes": [
                { "matches": { "path": { "prefix": "/" }, "headers": [{ "name": "end-user" }] },
                  "action": { "forward": { "clusters": clusters } } },
            ]}]}}),
        );
        assert_eq!(
            text,
            "TABLE  HOST          MATCH                         LEADS TO\n\
             9080   reviews:9080  prefix / and header end-user  90 a, 10 b\n"
        );
    }

    #[test]
    fn a_listener_shows_where_each_chain_leads() {
        let text = drawn(
            "listeners",
            json!({ "in": { "bind": "127.0.0.1:1", "direction": "inbound", "chains": [
                { "name": "mtls", "tls": {}, "action": { "http": { "routes": "r" } } },
            ], "defaultChain": { "name": "plain", "tls": null, "action": "close" } }}),
        );
        assert_eq!(
            text,
            "NAME  ADDRESS      DIRECTION  CHAIN       LEADS TO\n\
             in    127.0.0.1:1  inbound    mtls (TLS)  http r\n\
             \x20                             plain       close\n"
        );
    }

    #[test]
    fn strange_shapes_are_shown_as_far_as_they_go() {
        for part in ["listeners", "routes", "clusters", "endpoints", "secrets"] {
            for value in [
                json!(null),
                json!([1]),
                json!({ "a": 1 }),
                json!([{ "name": [] }]),
            ] {
                drawn(part, value);
            }
        }
    }
}
