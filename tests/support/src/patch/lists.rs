//! How lists are merged: by keys, as sets, or whole. Built-in kinds by Kubernetes' table of fields, custom ones by
//! their schema, and what is in neither by the names of its fields.

use serde_json::Value;

use crate::kinds::Kind;
use crate::shapes::{self, Field, Message, Shape};

/// How a list is merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lists {
    /// Replaced whole.
    Atomic,
    /// Values that are there or not.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<String>),
}

/// Where in a kind's schema one is.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// An object whose fields are known.
    Message(&'static Message),
    /// A known field.
    Field(&'static Field),
    /// What is in a known list or map.
    Inner(&'static Shape),
    /// A kind whose fields are not known: the field's name and its parent's.
    BuiltIn {
        /// The field.
        field: &'a str,
        /// What it is in.
        parent: &'a str,
    },
    /// A custom kind: the schema of this place.
    Custom(&'a Value),
}

// field, the parent if it decides, and the keys (`=` for a set)
const TABLE: &[(&str, &str, &[&str])] = &[
    ("containers", "", &["name"]),
    ("initContainers", "", &["name"]),
    ("ephemeralContainers", "", &["name"]),
    ("env", "", &["name"]),
    ("volumes", "", &["name"]),
    ("volumeMounts", "", &["mountPath"]),
    ("volumeDevices", "", &["devicePath"]),
    ("ports", "containers", &["containerPort", "protocol"]),
    ("ports", "initContainers", &["containerPort", "protocol"]),
    ("ports", "spec", &["port", "protocol"]),
    ("imagePullSecrets", "", &["name"]),
    ("secrets", "", &["name"]),
    ("hostAliases", "", &["ip"]),
    ("resourceClaims", "", &["name"]),
    (
        "topologySpreadConstraints",
        "",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    ("schedulingGates", "", &["name"]),
    ("conditions", "", &["type"]),
    ("ownerReferences", "metadata", &["uid"]),
    ("finalizers", "metadata", &["="]),
    ("podIPs", "", &["ip"]),
    ("hostIPs", "", &["ip"]),
    ("webhooks", "", &["name"]),
    ("matchConditions", "", &["name"]),
];

impl<'a> Place<'a> {
    /// The top of an object of a kind.
    pub fn of(kind: &'a Kind) -> Self {
        let name = shapes::name_of(&kind.group, &kind.version, &kind.kind);
        match name.as_deref().and_then(shapes::message) {
            Some(message) if kind.custom.is_none() => Self::Message(message),
            _ => Self::top(kind.custom.as_ref()),
        }
    }

    fn within(shape: &'static Shape, name: &str) -> Self {
        match shape {
            Shape::Message(inner) => match shapes::message(inner).map(|m| shapes::find(m, name)) {
                Some(Some(field)) => Self::Field(field),
                _ => Self::Inner(&Shape::Json),
            },
            Shape::Map(inner) => Self::Inner(inner),
            _ => Self::Inner(&Shape::Json),
        }
    }

    /// How the strategic merge patch merges this list.
    pub fn merged(self) -> Lists {
        match self {
            Self::Field(field) => match field.merge.as_deref() {
                None => Lists::Atomic,
                Some("") => Lists::Set,
                Some(key) => Lists::Map(vec![key.to_owned()]),
            },
            other => match other.lists() {
                Lists::Map(keys) => Lists::Map(keys.into_iter().take(1).collect()),
                lists => lists,
            },
        }
    }

    /// The top of an object.
    pub fn top(custom: Option<&'a Value>) -> Self {
        match custom {
            Some(version) => Self::Custom(&version["schema"]["openAPIV3Schema"]),
            None => Self::BuiltIn {
                field: "",
                parent: "",
            },
        }
    }

    /// A field of this place. Metadata is the same in all kinds.
    #[must_use]
    pub fn field(self, name: &'a str) -> Self {
        match self {
            Self::Message(message) => match shapes::find(message, name) {
                Some(field) => Self::Field(field),
                None => Self::Inner(&Shape::Json),
            },
            Self::Field(field) => Self::within(&field.shape, name),
            Self::Inner(shape) => Self::within(shape, name),
            Self::Custom(schema) => {
                if name == "metadata" && schema["properties"][name]["properties"].is_null() {
                    return match shapes::message("meta/v1.ObjectMeta") {
                        Some(message) => Self::Message(message),
                        None => Self::Inner(&Shape::Json),
                    };
                }
                let known = &schema["properties"][name];
                Self::Custom(if known.is_null() {
                    &schema["additionalProperties"]
                } else {
                    known
                })
            }
            Self::BuiltIn { field, .. } => Self::BuiltIn {
                field: name,
                parent: field,
            },
        }
    }

    /// An item of this list.
    #[must_use]
    pub fn item(self) -> Self {
        match self {
            Self::Custom(schema) => Self::Custom(&schema["items"]),
            Self::Field(Field {
                shape: Shape::List(inner),
                ..
            })
            | Self::Inner(Shape::List(inner)) => Self::Inner(inner),
            same => same,
        }
    }

    /// How this list is merged.
    pub fn lists(self) -> Lists {
        match self {
            Self::Field(field) if field.set => Lists::Set,
            Self::Field(field) if !field.keys.is_empty() => Lists::Map(field.keys.clone()),
            Self::Message(_) | Self::Inner(_) | Self::Field(_) => Lists::Atomic,
            Self::Custom(schema) => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Lists::Set,
                Some("map") => Lists::Map(
                    schema["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect(),
                ),
                _ => Lists::Atomic,
            },
            Self::BuiltIn { field, parent } => TABLE
                .iter()
                .find(|(f, p, _)| *f == field && (p.is_empty() || *p == parent))
                .map_or(Lists::Atomic, |(_, _, keys)| match keys {
                    ["="] => Lists::Set,
                    keys => Lists::Map(keys.iter().map(|k| (*k).to_owned()).collect()),
                }),
        }
    }

    /// Whether this object is replaced whole.
    pub fn is_atomic(self) -> bool {
        match self {
            Self::Message(_) | Self::Inner(_) => false,
            Self::Field(field) => field.atomic,
            Self::Custom(schema) => schema["x-kubernetes-map-type"] == "atomic",
            Self::BuiltIn { field, .. } => matches!(
                field,
                "selector"
                    | "labelSelector"
                    | "namespaceSelector"
                    | "objectSelector"
                    | "fieldRef"
                    | "resourceFieldRef"
                    | "secretKeyRef"
                    | "configMapKeyRef"
                    | "nodeSelectorTerms"
                    | "roleRef"
                    | "localObjectReference"
            ),
        }
    }
}

/// The key of an item of a [`Lists::Map`]: the key fields with their values, defaults filled in.
pub fn item_key(item: &Value, keys: &[String]) -> serde_json::Map<String, Value> {
    keys.iter()
        .filter_map(|key| {
            let value = match &item[key.as_str()] {
                Value::Null if key == "protocol" => Value::from("TCP"),
                Value::Null => return None,
                other => other.clone(),
            };
            Some((key.clone(), value))
        })
        .collect()
}
