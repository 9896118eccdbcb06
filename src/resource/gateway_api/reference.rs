//! References to other objects: parents of routes, backends, Secrets.

use super::GROUP;
use super::filters::RouteFilters;
use crate::mesh::Hostname;
use crate::resource::reader::{Fields, Value};

/// A reference to an object; an empty group is the core one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Group of the kind.
    pub group: String,
    /// Such as `Secret`.
    pub kind: String,
    /// Where it is, if not beside who refers to it.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// What a route is attached to: a Gateway, or a Service for calls inside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParentRef {
    /// The object.
    pub to: ObjectRef,
    /// A listener of a Gateway, or a port of a Service, by name.
    pub section: Option<String>,
    /// Listeners of a Gateway, or a port of a Service, by number.
    pub port: Option<u16>,
}

/// Where requests are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendRef {
    /// The object.
    pub to: ObjectRef,
    /// Its port.
    pub port: Option<u16>,
}

/// A backend among others of a rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteBackend {
    /// Where requests are sent.
    pub to: BackendRef,
    /// Share of the sum of weights.
    pub weight: u32,
    /// What is done with requests that go there.
    pub filters: RouteFilters,
}

impl ObjectRef {
    /// Whether it is a `kind` of `group`.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    /// Namespace of the object, for who refers to it from `own`.
    pub fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

/// The fields that every reference has; what is not written is `group` and `kind`.
pub(super) fn object_ref(fields: &Fields<'_>, group: &str, kind: &str) -> Option<ObjectRef> {
    let name = fields.require("name").and_then(|value| value.text());
    Some(ObjectRef {
        group: fields.text("group").unwrap_or_else(|| group.to_owned()),
        kind: fields.text("kind").unwrap_or_else(|| kind.to_owned()),
        namespace: fields.text("namespace").filter(|text| !text.is_empty()),
        name: name?,
    })
}

/// What routes of every kind say: `parentRefs`, and that no default gateway is meant.
pub(super) fn parents(spec: &Fields<'_>) -> Vec<ParentRef> {
    if let Some(value) = spec.get("useDefaultGateways")
        && value.text().is_some_and(|scope| scope != "None")
    {
        value.refuse(
            "\"useDefaultGateways\" is not honoured: no Gateway here is a default one",
            "name the Gateway among parentRefs",
        );
    }
    let written = spec.list("parentRefs");
    let mut parents: Vec<ParentRef> = Vec::new();
    for value in &written {
        let fields = value.fields();
        let parent = object_ref(&fields, GROUP, "Gateway").map(|to| ParentRef {
            to,
            section: fields.text("sectionName").filter(|text| !text.is_empty()),
            port: fields.port("port"),
        });
        fields.finish();
        let Some(parent) = parent else { continue };
        let same = |other: &&ParentRef| other.to == parent.to;
        if parents.contains(&parent) {
            value.error_hint(
                "the same parent is named twice",
                "remove one of them, or name another sectionName in each",
            );
        } else if let Some(other) = parents.iter().find(same)
            && (other.section.is_some() != parent.section.is_some()
                || other.port.is_some() != parent.port.is_some())
        {
            value.error_hint(
                "references to one parent must all have a sectionName or none, and so a port",
                "write sectionName in each of them",
            );
        }
        parents.push(parent);
    }
    parents
}

/// `hostnames` of a route.
pub(super) fn hostnames(spec: &Fields<'_>) -> Vec<Hostname> {
    let written = spec.list("hostnames");
    written.iter().filter_map(hostname).collect()
}

/// A name, perhaps with `*.` in front; no address.
pub(super) fn hostname(value: &Value<'_>) -> Option<Hostname> {
    let text = value.text()?;
    let name = precise(&text.replacen("*.", "", 1)).then(|| text.parse().ok());
    let name = name.flatten();
    if name.is_none() {
        value.error_hint(
            format!("{text:?} is no host name"),
            "such as shop.example.com or *.example.com, in lower case",
        );
    }
    name
}

/// A name without a wildcard.
pub(super) fn precise_hostname(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if !precise(&text) {
        value.error_hint(
            format!("{text:?} is no host name"),
            "such as shop.example.com, in lower case and without a wildcard",
        );
        return None;
    }
    Some(text)
}

fn precise(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_err()
        && !text.starts_with('*')
        && !text.contains('_')
        && !text.ends_with('.')
        && text == text.to_ascii_lowercase()
        && text.parse::<Hostname>().is_ok()
}

/// One of `words`.
pub(super) fn word<'w>(value: &Value<'_>, words: &[&'w str]) -> Option<&'w str> {
    let choices: Vec<(&str, &'w str)> = words.iter().map(|word| (*word, *word)).collect();
    value.choice(&choices)
}

/// A reference to where requests are sent, without what stands beside it.
pub(super) fn backend_ref(fields: &Fields<'_>) -> Option<BackendRef> {
    let to = object_ref(fields, "", "Service");
    let port = fields.port("port");
    let to = to?;
    if to.is("", "Service") && port.is_none() {
        fields.value.error_hint(
            "a Service is referred to by its port",
            "write port: …, one of the Service's",
        );
    }
    Some(BackendRef { to, port })
}

/// One of `backendRefs`. `filters` reads what is done with its requests.
pub(super) fn route_backend(
    value: &Value<'_>,
    filters: impl FnOnce(&Fields<'_>) -> RouteFilters,
) -> Option<RouteBackend> {
    let fields = value.fields();
    let to = backend_ref(&fields);
    let backend = to.map(|to| RouteBackend {
        to,
        weight: fields.count("weight", 1_000_000).unwrap_or(1),
        filters: filters(&fields),
    });
    fields.finish();
    backend
}
