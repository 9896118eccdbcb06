//! Conditions on a request, and whether they hold.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::ClaimMatch;
use crate::mesh::claims::Claims;

/// What a condition looks at. Values are bytes: a header need not be UTF-8.
pub trait Request {
    /// The method, upper case as sent.
    fn method(&self) -> &[u8];
    /// The host that was asked for, with its port if the request had one.
    fn authority(&self) -> &[u8];
    /// `http` or `https`.
    fn scheme(&self) -> &[u8];
    /// Path and query as they will be sent on (normalised).
    fn path_and_query(&self) -> &[u8];
    /// Calls `visit` with each value of header `name` (lower case) until it answers false.
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool);
    /// What a verified token says of the caller.
    fn claims(&self) -> Option<&Claims> {
        None
    }
}

/// A regular expression in RE2's language that matches whole texts.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    whole: Regex,
    inner: Regex,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a regular expression: {reason}")]
pub struct PatternError {
    /// The text.
    pub pattern: String,
    /// The last line of the parser's complaint.
    pub reason: String,
}

impl Pattern {
    /// Compiles `source`; programs over 1 MiB are refused.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(1 << 20)
                .build()
                .map_err(|error| PatternError {
                    pattern: source.to_owned(),
                    reason: error
                        .to_string()
                        .lines()
                        .last()
                        .unwrap_or("unknown")
                        .trim_start_matches("error: ")
                        .to_owned(),
                })
        };
        let inner = compile(source)?;
        Ok(Self {
            source: source.to_owned(),
            whole: compile(&format!("^(?:{source})$"))?,
            inner,
        })
    }

    /// The text that it was made from.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.whole.is_match(text)
    }

    /// Replaces every match in `text`; `\1` in `substitution` is the first group.
    pub fn replace_all(&self, text: &[u8], substitution: &str) -> Vec<u8> {
        self.inner
            .replace_all(text, |captures: &regex::bytes::Captures<'_>| {
                let mut out = Vec::with_capacity(substitution.len());
                let mut bytes = substitution.bytes();
                while let Some(byte) = bytes.next() {
                    match (byte == b'\\').then(|| bytes.next()).flatten() {
                        Some(digit) if digit.is_ascii_digit() => {
                            if let Some(group) = captures.get(usize::from(digit - b'0')) {
                                out.extend_from_slice(group.as_bytes());
                            }
                        }
                        Some(other) => out.push(other),
                        None => out.push(byte),
                    }
                }
                out
            })
            .into_owned()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TextMatch {
    /// The whole text.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// The whole text.
    Regex(Pattern),
    /// There is one.
    Present,
}

impl TextMatch {
    /// Whether it holds for `text`.
    pub fn holds(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => text == exact.as_bytes(),
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
            Self::Regex(pattern) => pattern.matches(text),
            Self::Present => true,
        }
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "= {text:?}"),
            Self::Prefix(text) => write!(f, "starts with {text:?}"),
            Self::Suffix(text) => write!(f, "ends with {text:?}"),
            Self::Regex(pattern) => write!(f, "matches /{}/", pattern.as_str()),
            Self::Present => f.write_str("is present"),
        }
    }
}

/// A condition on the path, without the query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Begins with this text, as Istio's `prefix`.
    Prefix(String),
    /// Begins with these whole segments, as the Gateway API's `PathPrefix`.
    Segments(String),
    /// Is this text.
    Exact(String),
    /// Matches whole.
    Regex(Pattern),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// All conditions of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// Exact and prefix paths ignore case.
    pub ignore_case: bool,
    /// Headers, and the pseudo-headers `:method`, `:authority` and `:scheme`.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// What a verified token says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimMatch>,
}

/// A condition on one header. Several values count as one, joined by commas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What it must be.
    pub value: TextMatch,
    /// Holds when the condition does not.
    pub invert: bool,
}

/// A condition on one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryMatch {
    /// Name, as sent.
    pub name: String,
    /// What it must be.
    pub value: TextMatch,
}

/// Path and query of a target.
pub fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (
            target.get(..at).unwrap_or_default(),
            Some(target.get(at + 1..).unwrap_or_default()),
        ),
        None => (target, None),
    }
}

impl PathMatch {
    /// Whether it holds for `path` (without query).
    pub fn holds(&self, path: &[u8], ignore_case: bool) -> bool {
        let starts = |prefix: &[u8]| {
            path.get(..prefix.len()).is_some_and(|head| {
                if ignore_case {
                    head.eq_ignore_ascii_case(prefix)
                } else {
                    head == prefix
                }
            })
        };
        match self {
            Self::Prefix(prefix) => starts(prefix.as_bytes()),
            Self::Segments(prefix) => {
                let prefix = prefix.trim_end_matches('/').as_bytes();
                starts(prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            Self::Exact(exact) => path.len() == exact.len() && starts(exact.as_bytes()),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }
}

impl HeaderMatch {
    /// Whether it holds for `request`.
    pub fn holds(&self, request: &dyn Request) -> bool {
        let held = match self.name.as_str() {
            ":method" => self.value.holds(request.method()),
            ":authority" | "host" => self.value.holds(request.authority()),
            ":scheme" => self.value.holds(request.scheme()),
            ":path" => self.value.holds(request.path_and_query()),
            name => {
                let mut first: Option<bool> = None;
                let mut joined: Option<Vec<u8>> = None;
                let mut kept: Vec<u8> = Vec::new();
                // One value is the common case and is judged in place; more are joined, as a
                // policy that looks at one of them only could be bypassed by adding another.
                request.header(name, &mut |value| {
                    if first.is_none() {
                        first = Some(self.value.holds(value));
                        kept.extend_from_slice(value);
                    } else {
                        let all = joined.get_or_insert_with(|| kept.clone());
                        all.push(b',');
                        all.extend_from_slice(value);
                    }
                    true
                });
                match (first, joined) {
                    (_, Some(all)) => self.value.holds(&all),
                    (Some(held), None) => held,
                    (None, None) => false,
                }
            }
        };
        held != self.invert
    }
}

impl QueryMatch {
    /// Whether it holds for `query` (what follows the question mark).
    pub fn holds(&self, query: Option<&[u8]>) -> bool {
        query
            .unwrap_or_default()
            .split(|byte| *byte == b'&')
            .any(|pair| {
                let at = pair.iter().position(|byte| *byte == b'=');
                let (name, value) = match at {
                    Some(at) => (
                        pair.get(..at).unwrap_or_default(),
                        pair.get(at + 1..).unwrap_or_default(),
                    ),
                    None => (pair, &[][..]),
                };
                name == self.name.as_bytes() && self.value.holds(value)
            })
    }
}

impl Match {
    /// Whether every condition holds for `request`.
    pub fn holds(&self, request: &dyn Request) -> bool {
        let (path, query) = split_query(request.path_and_query());
        self.path.holds(path, self.ignore_case)
            && self.headers.iter().all(|header| header.holds(request))
            && self.query.iter().all(|parameter| parameter.holds(query))
            && self
                .claims
                .iter()
                .all(|claim| claim.holds(request.claims()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain(&'static [(&'static str, &'static str)]);

    impl Request for Plain {
        fn method(&self) -> &[u8] {
            b"GET"
        }
        fn authority(&self) -> &[u8] {
            b"reviews:9080"
        }
        fn scheme(&self) -> &[u8] {
            b"http"
        }
        fn path_and_query(&self) -> &[u8] {
            b"/reviews/1?user=jason&debug"
        }
        fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
            for (key, value) in self.0 {
                if *key == name && !visit(value.as_bytes()) {
                    return;
                }
            }
        }
    }

    fn header(name: &str, value: TextMatch, invert: bool) -> HeaderMatch {
        HeaderMatch {
            name: name.to_owned(),
            value,
            invert,
        }
    }

    #[test]
    fn several_values_of_a_header_are_judged_together() {
        let two = Plain(&[("x-role", "user"), ("x-role", "admin")]);
        let exact = TextMatch::Exact("user".to_owned());
        assert!(!header("x-role", exact.clone(), false).holds(&two));
        assert!(header("x-role", exact.clone(), false).holds(&Plain(&[("x-role", "user")])));
        assert!(header("x-role", exact, true).holds(&Plain(&[])));
    }

    #[test]
    fn paths_match_by_text_segment_and_case() {
        let holds = |path: PathMatch, text: &str| path.holds(text.as_bytes(), false);
        assert!(holds(PathMatch::Prefix("/a".into()), "/ab"));
        assert!(!holds(PathMatch::Segments("/a".into()), "/ab"));
        assert!(holds(PathMatch::Segments("/a/".into()), "/a/b"));
        assert!(!holds(PathMatch::Exact("/a".into()), "/a/"));
        assert!(PathMatch::Exact("/A".into()).holds(b"/a", true));
        let digits = PathMatch::Regex(Pattern::new("/[0-9]+").unwrap());
        assert!(holds(digits.clone(), "/42") && !holds(digits, "/42x"));
    }

    #[test]
    fn query_parameters_are_found_by_name() {
        let query = |name: &str, value: TextMatch| {
            QueryMatch {
                name: name.to_owned(),
                value,
            }
            .holds(Some(b"user=jason&debug"))
        };
        assert!(query("user", TextMatch::Exact("jason".into())));
        assert!(query("debug", TextMatch::Present));
        assert!(!query("use", TextMatch::Present));
    }

    #[test]
    fn substitutions_use_groups() {
        let pattern = Pattern::new("^/v1/(.*)$").unwrap();
        assert_eq!(pattern.replace_all(b"/v1/items", r"/v2/\1"), b"/v2/items");
    }
}
