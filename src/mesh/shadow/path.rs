//! Places in JSON: the part of JSONPath (RFC 9535) that names a place without looking at values.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place such as `$.items[*].at` or `$..id`; what is below it belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A member of an object.
    Name(String),
    /// Every member, or every element.
    Any,
    /// The step behind it holds at any depth.
    Deep,
}

/// One step down to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At<'a> {
    Member(&'a str),
    Element,
}

impl JsonPath {
    /// Whether the value at `place`, or one above it, is meant.
    pub(super) fn covers(&self, place: &[At<'_>]) -> bool {
        covers(&self.steps, place)
    }
}

fn covers(steps: &[Step], place: &[At<'_>]) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        return true;
    };
    match step {
        Step::Deep => (0..place.len()).any(|skip| {
            let below = place.get(skip..).unwrap_or_default();
            covers(rest, below)
        }),
        Step::Any => place
            .split_first()
            .is_some_and(|(_, below)| covers(rest, below)),
        Step::Name(name) => match place.split_first() {
            Some((At::Member(member), below)) => name == member && covers(rest, below),
            _ => false,
        },
    }
}

/// `place` as people write it, elements of lists as `[*]`.
pub(super) fn written(place: &[At<'_>]) -> String {
    let mut text = String::from("$");
    for at in place {
        match at {
            At::Element => text.push_str("[*]"),
            At::Member(name) if is_plain(name) => {
                text.push('.');
                text.push_str(name);
            }
            At::Member(name) => {
                text.push_str("['");
                for letter in name.chars() {
                    if matches!(letter, '\'' | '\\') {
                        text.push('\\');
                    }
                    text.push(letter);
                }
                text.push_str("']");
            }
        }
    }
    text
}

fn is_plain(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
}

impl FromStr for JsonPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not a place in JSON");
        let mut rest = text.strip_prefix('$').ok_or_else(shape)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix("..") {
                steps.push(Step::Deep);
                rest = behind;
                if rest.starts_with('[') {
                    continue;
                }
            } else if let Some(behind) = rest.strip_prefix('.') {
                rest = behind;
            } else if let Some(behind) = rest.strip_prefix('[') {
                let (step, behind) = bracket(behind).ok_or_else(shape)?;
                steps.push(step);
                rest = behind;
                continue;
            } else {
                return Err(shape());
            }
            if let Some(behind) = rest.strip_prefix('*') {
                steps.push(Step::Any);
                rest = behind;
                continue;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, behind) = rest.split_at_checked(end).ok_or_else(shape)?;
            let readable = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
            if name.is_empty() || !name.chars().all(readable) {
                return Err(shape());
            }
            steps.push(Step::Name(name.to_owned()));
            rest = behind;
        }
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }
}

/// What is between brackets, and what is behind them: `*`, a number (which is every element), or a name in quotes.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(behind) = text.strip_prefix("*]") {
        return Some((Step::Any, behind));
    }
    let quote = text.chars().next()?;
    if !matches!(quote, '\'' | '"') {
        let (number, behind) = text.split_once(']')?;
        return (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
            .then_some((Step::Any, behind));
    }
    let mut name = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            let behind = text.get(at + 1..)?.strip_prefix(']')?;
            return Some((Step::Name(name), behind));
        }
        name.push(if letter == '\\' {
            letters.next()?.1
        } else {
            letter
        });
    }
    None
}

impl TryFrom<String> for JsonPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<JsonPath> for String {
    fn from(path: JsonPath) -> Self {
        path.text
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_read_or_refused() {
        for good in [
            "$",
            "$.a",
            "$.a-b.c",
            "$..a",
            "$.a[*].b",
            "$[0]",
            "$['a b']",
            "$..['a.b']",
            "$.*",
            "$[\"it's\"]",
        ] {
            let path: JsonPath = good.parse().unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(path.to_string(), good);
        }
        for bad in [
            "",
            "a",
            ".a",
            "$a",
            "$.",
            "$..",
            "$.a..",
            "$[",
            "$[a]",
            "$['a",
            "$['a'",
            "$.a[?(@.b)]",
            "$[]",
            "$.a b",
        ] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// A place that was found can be written down as a rule, and that rule means it.
        #[test]
        fn what_is_written_is_read_as_the_same(names in prop::collection::vec(prop::option::of(".{1,4}"), 0..5)) {
            let place: Vec<At<'_>> = names
                .iter()
                .map(|name| name.as_deref().map_or(At::Element, At::Member))
                .collect();
            let path: JsonPath = written(&place).parse().unwrap();
            prop_assert!(path.covers(&place));
        }

        #[test]
        fn reading_does_not_panic(text in ".{0,24}") {
            let _any = text.parse::<JsonPath>().is_ok();
        }
    }
}
