//! ReferenceGrant.

use crate::resource::reader::{Fields, Value};

/// Who may refer to what in the namespace of the grant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Any of these may.
    pub from: Vec<GrantFrom>,
    /// Any of these may be referred to.
    pub to: Vec<GrantTo>,
}

/// Who refers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFrom {
    /// Group of its kind.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Where it is.
    pub namespace: String,
}

/// What is referred to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantTo {
    /// Group of its kind.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name; any when absent.
    pub name: Option<String>,
}

pub(in crate::resource) fn reference_grant(fields: &Fields<'_>) -> ReferenceGrant {
    let Some(spec) = fields.require("spec") else {
        return ReferenceGrant::default();
    };
    let spec = spec.fields();
    let (from, to) = (spec.list("from"), spec.list("to"));
    for (field, list) in [("from", &from), ("to", &to)] {
        if list.is_empty() {
            spec.value.error_hint(
                format!("{field:?} must have an item"),
                "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: …}], to: [{group: \"\", kind: Service}]",
            );
        }
    }
    let grant = ReferenceGrant {
        from: from.iter().filter_map(grant_from).collect(),
        to: to.iter().filter_map(grant_to).collect(),
    };
    spec.finish();
    grant
}

fn grant_from(value: &Value<'_>) -> Option<GrantFrom> {
    let fields = value.fields();
    let text = |field| fields.require(field).and_then(|value| value.text());
    let from = (text("group"), text("kind"), text("namespace"));
    fields.finish();
    let (group, kind, namespace) = (from.0?, from.1?, from.2?);
    Some(GrantFrom {
        group,
        kind,
        namespace,
    })
}

fn grant_to(value: &Value<'_>) -> Option<GrantTo> {
    let fields = value.fields();
    let text = |field| fields.require(field).and_then(|value| value.text());
    let to = (text("group"), text("kind"), fields.text("name"));
    fields.finish();
    let (group, kind) = (to.0?, to.1?);
    Some(GrantTo {
        group,
        kind,
        name: to.2.filter(|name| !name.is_empty()),
    })
}
