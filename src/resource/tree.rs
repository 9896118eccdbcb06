//! A document as a tree in which every node knows its line and column.
//!
//! Typed decoding walks this tree by hand (`reader`) rather than through serde, because a person
//! wants all mistakes of a file at once, each with its place, and a kind of message that serde's
//! errors cannot carry: "known, but not honoured yet".

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{Options, Spanned};

/// Line and column, from 1; 0 is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A node and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub(crate) node: Node,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// The path of field `name` of the mapping at `path`.
pub(crate) fn join(path: &str, name: &str) -> String {
    if name.contains(['.', '/', '[']) {
        format!("{path}[{name:?}]")
    } else if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Why a text is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

impl Node {
    /// What it is, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Text(text) if text.chars().count() > 40 => {
                format!("the text {:?}…", text.chars().take(40).collect::<String>())
            }
            Self::Text(text) => format!("the text {text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

impl Tree {
    /// The value under `key`, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        match &self.node {
            Node::Map(entries) => entries
                .iter()
                .find(|(name, _)| name.text == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.node {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The same without places, as it is stored and shown.
    pub(crate) fn to_json(&self) -> Value {
        match &self.node {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Number(number) => Value::Number(number.clone()),
            Node::Text(text) => Value::String(text.clone()),
            Node::List(items) => Value::Array(items.iter().map(Tree::to_json).collect()),
            Node::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| (key.text.clone(), value.to_json()))
                    .collect(),
            ),
        }
    }

    /// Puts every node where `places` say that it stood.
    pub(crate) fn put_places(&mut self, places: &BTreeMap<String, (u32, u32)>) {
        fn walk(tree: &mut Tree, path: &str, places: &BTreeMap<String, (u32, u32)>) {
            match &mut tree.node {
                Node::List(items) => {
                    for (index, item) in items.iter_mut().enumerate() {
                        walk(item, &format!("{path}[{index}]"), places);
                    }
                }
                Node::Map(entries) => {
                    for (key, value) in entries {
                        walk(value, &join(path, &key.text), places);
                    }
                }
                _ => {}
            }
            if let Some((line, column)) = places.get(path) {
                tree.place = Place {
                    line: *line,
                    column: *column,
                };
            }
        }
        walk(self, "", places);
    }

    /// A tree without places.
    pub(crate) fn from_json(value: &Value) -> Self {
        let node = match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(*value),
            Value::Number(number) => Node::Number(number.clone()),
            Value::String(text) => Node::Text(text.clone()),
            Value::Array(items) => Node::List(items.iter().map(Self::from_json).collect()),
            Value::Object(entries) => Node::Map(
                entries
                    .iter()
                    .map(|(key, value)| {
                        let key = Key {
                            text: key.clone(),
                            place: Place::default(),
                        };
                        (key, Self::from_json(value))
                    })
                    .collect(),
            ),
        };
        Self {
            node,
            place: Place::default(),
        }
    }

    /// Reads one document whose first line is `line` of its file. JSON is YAML, except where it is
    /// indented with tabs; that is read too, without places.
    pub(crate) fn read(text: &str, line: u32) -> Result<Self, SyntaxError> {
        match serde_saphyr::from_str_with_options::<Self>(text, options()) {
            Ok(mut tree) => {
                tree.shift(line.saturating_sub(1));
                Ok(tree)
            }
            Err(error) => {
                if text.trim_start().starts_with(['{', '['])
                    && let Ok(value) = serde_json::from_str::<Value>(text)
                {
                    return Ok(Self::from_json(&value));
                }
                Err(syntax_error(&error, line.saturating_sub(1)))
            }
        }
    }

    fn shift(&mut self, lines: u32) {
        if lines == 0 {
            return;
        }
        self.place.line += lines;
        match &mut self.node {
            Node::List(items) => items.iter_mut().for_each(|item| item.shift(lines)),
            Node::Map(entries) => {
                for (key, value) in entries {
                    key.place.line += lines;
                    value.shift(lines);
                }
            }
            _ => {}
        }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        // As kubectl: `defaultMode: 0644` is octal.
        legacy_octal_numbers: true,
    }
}

fn syntax_error(error: &serde_saphyr::Error, lines: u32) -> SyntaxError {
    let place = error.location().map(Place::from).unwrap_or_default();
    let mut message = error.without_snippet().to_string();
    if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error.without_snippet()
    {
        message = format!("key {key:?} is written twice in one mapping");
    }
    // The place is said by the finding; the crate appends or prepends it in words.
    if let Some(at) = message.find(" at line ") {
        message.truncate(at);
    }
    if let Some(rest) = message.strip_prefix("error: ") {
        message = rest.to_owned();
    }
    if message.starts_with("line ")
        && let Some((_, rest)) = message.split_once(": ")
    {
        message = rest.to_owned();
    }
    SyntaxError {
        place: Place {
            line: place.line + if place.line > 0 { lines } else { 0 },
            ..place
        },
        message,
    }
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        let clamp = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            line: clamp(location.line()),
            column: clamp(location.column()),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self {
            node: spanned.value,
            place: spanned.referenced.into(),
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value)
            .map(Node::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Tree>()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let key = Key {
                text: key.value,
                place: key.referenced.into(),
            };
            map.push((key, entries.next_value::<Tree>()?));
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32, column: u32) -> Place {
        Place { line, column }
    }

    #[test]
    fn every_node_and_key_knows_its_place() {
        let tree = Tree::read("a:\n  - b: 1.10\n    8080: yes\n", 11).unwrap();
        let list = tree.get("a").unwrap();
        let Node::List(items) = &list.node else {
            panic!("{list:?}")
        };
        let item = &items[0];
        assert_eq!(item.get("b").unwrap().place, place(12, 8));
        let Node::Map(entries) = &item.node else {
            panic!("{item:?}")
        };
        assert_eq!(entries[1].0.text, "8080");
        assert_eq!(entries[1].0.place, place(13, 5));
    }

    #[test]
    fn syntax_errors_have_a_place_and_a_plain_message() {
        let cases = [
            "a: 1\nb: [1, 2\n",
            "a: 1\n\tb: 2\n",
            "a: 1\na: 2\n",
            "a: *nowhere\n",
            "a: 'x\n",
            "a: b: c\n",
        ];
        let told: Vec<_> = cases
            .iter()
            .map(|text| Tree::read(text, 1).unwrap_err())
            .map(|error| {
                format!(
                    "{}:{} {}",
                    error.place.line, error.place.column, error.message
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "2:4 unclosed bracket '['",
                "1:4 while scanning a plain scalar, found a tab",
                "2:1 key \"a\" is written twice in one mapping",
                "1:4 alias references unknown anchor",
                "2:1 invalid indentation in multiline quoted scalar",
                "1:5 mapping values are not allowed in this context",
            ]
        );
    }

    #[test]
    fn json_with_tabs_is_read() {
        let tree = Tree::read("{\n\t\"a\": [\n\t\t1\n\t]\n}\n", 1).unwrap();
        assert_eq!(tree.to_json(), serde_json::json!({"a": [1]}));
    }

    #[test]
    fn numbers_read_as_kubectl_reads_them() {
        let tree = Tree::read("[0644, 0x10, 1e3, -1, \"1\", 1.10, ~, yes, 1_000]", 1).unwrap();
        assert_eq!(
            tree.to_json().to_string(),
            r#"[420,16,1000.0,-1,"1",1.1,null,true,1000]"#
        );
    }
}
