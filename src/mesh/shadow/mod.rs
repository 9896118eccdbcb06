//! Answers to copies of requests, held against the answers that callers got.
//!
//! Owns what is compared and how: status, chosen fields, bodies by the structure of their JSON, less what is expected to
//! differ. The data path keeps both answers and asks [`differences`] when both are there.

mod json;
mod path;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::route::Share;
pub use path::JsonPath;

/// Most of a body that is kept for a comparison where nothing else is said, in bytes.
pub const BODY_LIMIT: u32 = 64 * 1024;
/// Differences of one pair that are told apart; the rest of them are left out.
const MOST: usize = 32;
/// Characters of a value that are shown.
const SHOWN: usize = 64;

/// What of two answers is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Comparison {
    /// The service whose calls are copied, `name.namespace`, for what is counted.
    pub service: String,
    /// Only where the copy goes to this subset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of how many copied requests.
    pub share: Share,
    /// Fields of the head, lower case, besides the status.
    pub headers: Vec<String>,
    /// Places in JSON that may differ.
    pub ignore: Vec<JsonPath>,
    /// Bodies are compared, too.
    pub body: bool,
    /// Larger bodies are not compared, in bytes.
    pub body_limit: u32,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            service: String::new(),
            version: None,
            share: Share::default(),
            headers: Vec::new(),
            ignore: Vec::new(),
            body: true,
            body_limit: BODY_LIMIT,
        }
    }
}

/// One of two answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// Values of [`Comparison::headers`], in that order; several are joined by `, `.
    pub headers: Vec<Option<String>>,
    /// The body as it was before it was coded; none where it is not known whole.
    pub body: Option<Vec<u8>>,
}

/// What of an answer a difference is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// The status.
    Status,
    /// A field of the head.
    Header,
    /// The body.
    Body,
}

impl Part {
    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Header => "header",
            Self::Body => "body",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// In what.
    pub part: Part,
    /// Name of the field, or place in the JSON with `[*]` for elements of lists; empty for a status or a body that is none.
    pub at: String,
    /// What the caller got, shortened.
    pub primary: String,
    /// What the copy got, shortened.
    pub shadow: String,
}

/// In what `primary` and `shadow` differ, at most 32 differences; and whether their bodies were left out, as one was not
/// known whole.
pub fn differences(how: &Comparison, primary: &Answer, shadow: &Answer) -> (Vec<Difference>, bool) {
    let mut found = Found::default();
    if primary.status != shadow.status {
        found.add(Part::Status, "", &primary.status, &shadow.status);
    }
    for (at, name) in how.headers.iter().enumerate() {
        let value = |answer: &Answer| answer.headers.get(at).cloned().flatten();
        let (one, other) = (value(primary), value(shadow));
        if one != other {
            let shown = |value: Option<String>| value.unwrap_or_else(|| ABSENT.to_owned());
            found.add(Part::Header, name, &shown(one), &shown(other));
        }
    }
    if !how.body {
        return (found.all, false);
    }
    let (Some(one), Some(other)) = (&primary.body, &shadow.body) else {
        return (found.all, true);
    };
    if one != other {
        json::compare(how, one, other, &mut found);
    }
    (found.all, false)
}

/// What stands for a value that is not there.
const ABSENT: &str = "(absent)";

/// The differences so far; each place once, since the elements of a list are one place.
#[derive(Debug, Default)]
struct Found {
    all: Vec<Difference>,
    places: BTreeSet<(Part, String)>,
}

impl Found {
    fn add(&mut self, part: Part, at: &str, primary: &impl ToString, shadow: &impl ToString) {
        if self.all.len() >= MOST || !self.places.insert((part, at.to_owned())) {
            return;
        }
        self.all.push(Difference {
            part,
            at: at.to_owned(),
            primary: shortened(&primary.to_string()),
            shadow: shortened(&shadow.to_string()),
        });
    }
}

fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(SHOWN).collect();
    if chars.next().is_some() {
        short + "…"
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn answer(body: &Value) -> Answer {
        Answer {
            status: 200,
            headers: Vec::new(),
            body: Some(serde_json::to_vec(body).unwrap()),
        }
    }

    fn places(ignore: &[&str], one: &Value, other: &Value) -> Vec<String> {
        let how = Comparison {
            ignore: ignore.iter().map(|path| path.parse().unwrap()).collect(),
            ..Comparison::default()
        };
        let (found, left_out) = differences(&how, &answer(one), &answer(other));
        assert!(!left_out);
        found.into_iter().map(|found| found.at).collect()
    }

    #[test]
    fn a_field_of_json_is_named() {
        let one =
            json!({"price": 10, "name": "tea", "items": [{"id": 1, "at": 5}, {"id": 2, "at": 6}]});
        let other =
            json!({"name": "tea", "price": 11, "items": [{"id": 1, "at": 7}, {"id": 3, "at": 8}]});
        assert_eq!(places(&[], &one, &one), [""; 0]);
        assert_eq!(
            places(&[], &one, &other),
            ["$.price", "$.items[*].at", "$.items[*].id"]
        );
        assert_eq!(
            places(&["$.items[*].at", "$.price"], &one, &other),
            ["$.items[*].id"]
        );
        assert_eq!(places(&["$..at", "$..id"], &one, &other), ["$.price"]);
        assert_eq!(places(&["$.items"], &one, &other), ["$.price"]);
        assert_eq!(places(&["$"], &one, &other), [""; 0]);
    }

    #[test]
    fn what_is_not_there_is_not_null() {
        let found = places(&[], &json!({"a": null, "odd name": 1}), &json!({"b": 1}));
        assert_eq!(found, ["$.a", "$['odd name']", "$.b"]);
        assert_eq!(places(&[], &json!([1, 2]), &json!([1])), ["$.length"]);
        assert_eq!(places(&[], &json!({"a": 1}), &json!([1])), ["$"]);
        // One number, written in two ways.
        assert_eq!(places(&[], &json!({"a": 1}), &json!({"a": 1.0})), [""; 0]);
    }

    #[test]
    fn statuses_fields_and_bytes_are_compared() {
        let how = Comparison {
            headers: vec!["content-type".to_owned(), "x-cache".to_owned()],
            ..Comparison::default()
        };
        let one = Answer {
            status: 200,
            headers: vec![Some("text/plain".to_owned()), None],
            body: Some(b"one".to_vec()),
        };
        let other = Answer {
            status: 503,
            headers: vec![Some("text/html".to_owned()), None],
            body: Some(b"other".to_vec()),
        };
        let (found, _) = differences(&how, &one, &other);
        let parts: Vec<(Part, &str)> = found
            .iter()
            .map(|one| (one.part, one.at.as_str()))
            .collect();
        assert_eq!(
            parts,
            [
                (Part::Status, ""),
                (Part::Header, "content-type"),
                (Part::Body, "")
            ]
        );
        assert_eq!(
            (found[2].primary.as_str(), found[2].shadow.as_str()),
            ("3 bytes", "5 bytes")
        );
        let unknown = Answer {
            body: None,
            ..one.clone()
        };
        assert_eq!(differences(&how, &one, &unknown), (Vec::new(), true));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Without rules, something is found where and only where the two are not equal; and both ways the same.
        #[test]
        fn something_differs_where_the_values_do(one in value(), other in value()) {
            let found = places(&[], &one, &other);
            prop_assert_eq!(found.is_empty(), one == other);
            let mut back = places(&[], &other, &one);
            let mut found = found;
            found.sort();
            back.sort();
            prop_assert_eq!(found, back);
        }

        /// What is ignored is all that goes.
        #[test]
        fn ignoring_what_was_found_leaves_nothing(one in value(), other in value()) {
            let found = places(&[], &one, &other);
            let ignore: Vec<String> = found
                .iter()
                .map(|at| at.strip_suffix(".length").unwrap_or(at).to_owned())
                .collect();
            let ignore: Vec<&str> = ignore.iter().map(String::as_str).collect();
            prop_assert_eq!(places(&ignore, &one, &other), Vec::<String>::new());
        }

        #[test]
        fn bytes_that_are_anything_do_not_panic(one: Vec<u8>, other: Vec<u8>) {
            let of = |body: Vec<u8>| Answer { status: 200, headers: Vec::new(), body: Some(body) };
            let same = one == other;
            let (found, _) = differences(&Comparison::default(), &of(one), &of(other));
            prop_assert!(!same || found.is_empty());
        }
    }
}
