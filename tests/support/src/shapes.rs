//! Which fields the built-in kinds have: `assets/fields.txt`, read once. Definitions and APIServices are not there,
//! and are taken as they come.

use std::collections::BTreeMap;
use std::sync::OnceLock;

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    Text,
    /// True or false.
    Bool,
    /// A whole number; true if of 64 bits.
    Int(bool),
    /// A number.
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339; true if with microseconds.
    Time(bool),
    /// Text such as `5s`; nanoseconds in protobuf.
    Duration,
    /// An object of fields, JSON within protobuf.
    Json,
    /// Text or a number.
    Quantity,
    /// A number or text.
    IntOrText,
    /// Many.
    List(Box<Shape>),
    /// By names.
    Map(Box<Shape>),
    /// Another message, by its name.
    Message(String),
}

/// A field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// In JSON; empty if its own fields stand in its place.
    pub name: String,
    /// In protobuf.
    pub number: u64,
    /// What it holds.
    pub shape: Shape,
    /// Zero is not the same as nothing.
    pub pointer: bool,
    /// Keys by which server-side apply tells items apart.
    pub keys: Vec<String>,
    /// Whether it is a set.
    pub set: bool,
    /// Whether it is replaced whole.
    pub atomic: bool,
    /// The key of the strategic merge patch; empty for values that are merged as they are.
    pub merge: Option<String>,
}

/// The fields of a message.
pub type Message = Vec<Field>;

fn all() -> &'static BTreeMap<String, Message> {
    static ALL: OnceLock<BTreeMap<String, Message>> = OnceLock::new();
    ALL.get_or_init(|| parse(include_str!("../assets/fields.txt")))
}

fn parse(text: &str) -> BTreeMap<String, Message> {
    let mut messages = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.strip_prefix(' ') {
            None => {
                line.clone_into(&mut current);
                // Some have no fields.
                messages.entry(current.clone()).or_default();
            }
            Some(row) => {
                let message: &mut Message = messages.entry(current.clone()).or_default();
                message.extend(field(row));
            }
        }
    }
    messages
}

fn field(row: &str) -> Option<Field> {
    let mut words = row.split(' ');
    let name = words.next()?;
    let number = words.next()?.parse().ok()?;
    let mut field = Field {
        name: if name == "*" { "" } else { name }.to_owned(),
        number,
        shape: shape(words.next()?),
        pointer: false,
        keys: Vec::new(),
        set: false,
        atomic: false,
        merge: None,
    };
    for word in words {
        match word.split_once(':') {
            Some(("map", keys)) => field.keys = keys.split(',').map(str::to_owned).collect(),
            Some(("merge", key)) => field.merge = Some(key.to_owned()),
            _ => match word {
                "?" => field.pointer = true,
                "set" => field.set = true,
                "atomic" => field.atomic = true,
                "merge" => field.merge = Some(String::new()),
                _ => return None,
            },
        }
    }
    Some(field)
}

fn shape(word: &str) -> Shape {
    let inner = |open: char, close: char| {
        word.strip_prefix(open)
            .and_then(|w| w.strip_suffix(close))
            .map(|w| Box::new(shape(w)))
    };
    if let Some(item) = inner('[', ']') {
        return Shape::List(item);
    }
    if let Some(value) = inner('{', '}') {
        return Shape::Map(value);
    }
    match word {
        "string" => Shape::Text,
        "bool" => Shape::Bool,
        "int32" => Shape::Int(false),
        "int64" => Shape::Int(true),
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "Time" => Shape::Time(false),
        "MicroTime" => Shape::Time(true),
        "Duration" => Shape::Duration,
        "FieldsV1" | "RawExtension" => Shape::Json,
        "Quantity" => Shape::Quantity,
        "IntOrString" => Shape::IntOrText,
        other => Shape::Message(other.to_owned()),
    }
}

/// A message by its name, such as `apps/v1.Deployment`.
pub fn message(name: &str) -> Option<&'static Message> {
    all().get(name)
}

/// All messages, by name.
pub fn messages() -> impl Iterator<Item = (&'static str, &'static Message)> {
    all().iter().map(|(name, message)| (name.as_str(), message))
}

/// The name of a kind's message, if its fields are known.
pub fn name_of(group: &str, version: &str, kind: &str) -> Option<String> {
    let package = match group.split('.').next().unwrap_or_default() {
        "" => "core",
        first => first,
    };
    let name = if kind == "DeleteOptions" {
        "meta/v1.DeleteOptions".to_owned()
    } else {
        format!("{package}/{version}.{kind}")
    };
    all().contains_key(&name).then_some(name)
}

/// A field of a message by its name, also of those that stand in it.
pub fn find<'m>(message: &'m Message, name: &str) -> Option<&'m Field> {
    message.iter().find_map(|field| {
        if !field.name.is_empty() {
            return (field.name == name).then_some(field);
        }
        match &field.shape {
            Shape::Message(inner) => find(self::message(inner)?, name),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Shape, all, find, message, messages, name_of};

    #[test]
    fn every_message_that_is_named_is_there() {
        fn check(shape: &Shape, by: &str) {
            match shape {
                Shape::List(inner) | Shape::Map(inner) => check(inner, by),
                Shape::Message(name) => assert!(message(name).is_some(), "{name} in {by}"),
                _ => {}
            }
        }
        let rows = include_str!("../assets/fields.txt").lines();
        let rows = rows.filter(|l| l.starts_with(' ')).count();
        assert_eq!(all().values().map(Vec::len).sum::<usize>(), rows);
        for (name, message) in messages() {
            for field in message {
                check(&field.shape, name);
            }
        }
    }

    #[test]
    fn fields_that_stand_in_others_are_found() {
        let volume = message("core/v1.Volume").unwrap();
        assert!(find(volume, "emptyDir").is_some());
        assert!(find(volume, "emptydir").is_none());
        let name = name_of("rbac.authorization.k8s.io", "v1", "Role");
        assert_eq!(name.as_deref(), Some("rbac/v1.Role"));
    }
}
