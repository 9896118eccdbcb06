//! HTTPRouteGroup.

use crate::mesh::route::Pattern;
use crate::resource::istio::pattern;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Node;

/// An HTTPRouteGroup: requests that fulfil any of its conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpRouteGroup {
    /// In order.
    pub matches: Vec<GroupMatch>,
}

/// Conditions that hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupMatch {
    /// Its name.
    pub name: String,
    /// The path begins with it.
    pub path: Option<Pattern>,
    /// Any of these; none is every method.
    pub methods: Vec<String>,
    /// Whole values by name, in lower case.
    pub headers: Vec<(String, Pattern)>,
}

pub(in crate::resource) fn http_route_group(fields: &Fields<'_>) -> HttpRouteGroup {
    // The first two versions have no spec.
    let spec = fields.get("spec").map(|value| value.fields());
    let written = match &spec {
        Some(spec) => spec.list("matches"),
        None => fields.list("matches"),
    };
    if written.is_empty() {
        let at = spec.as_ref().unwrap_or(fields);
        at.value.error_hint(
            "a group needs a match",
            "matches: [{name: all, pathRegex: /.*, methods: [\"*\"]}]",
        );
    }
    let group = HttpRouteGroup {
        matches: written.iter().map(one).collect(),
    };
    if let Some(spec) = spec {
        spec.finish();
    }
    group
}

fn one(value: &Value<'_>) -> GroupMatch {
    let fields = value.fields();
    let name = fields.require("name").and_then(|value| value.text());
    let path = fields.get("pathRegex").and_then(|value| pattern(&value));
    let methods = fields.text_list("methods");
    let mut headers = Vec::new();
    if let Some(value) = fields.get("headers") {
        // A mapping, or the older list of mappings.
        let maps = match &value.tree.node {
            Node::List(_) => value.list(),
            _ => vec![value],
        };
        for (name, value) in maps.iter().flat_map(Value::entries) {
            if let Some(pattern) = pattern(&value) {
                headers.push((name.to_ascii_lowercase(), pattern));
            }
        }
    }
    fields.finish();
    GroupMatch {
        name: name.unwrap_or_default(),
        path,
        methods: if methods.iter().any(|method| method == "*") {
            Vec::new()
        } else {
            methods
        },
        headers,
    }
}
