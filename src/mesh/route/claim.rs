//! Conditions on what a verified token says.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TextMatch;
use crate::mesh::claims::Claims;

/// A condition on a claim: it is a text for which it holds, or a list with such a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimMatch {
    /// Names of claims, each inside the one before.
    pub path: Vec<String>,
    /// What it must be.
    pub value: TextMatch,
    /// Holds when the condition does not.
    pub invert: bool,
}

impl ClaimMatch {
    /// Whether it holds for a caller of whom a token says `claims`. Of one without a token nothing is
    /// known.
    pub fn holds(&self, claims: Option<&Claims>) -> bool {
        self.found(claims)
            .iter()
            .any(|text| self.value.holds(text.as_bytes()))
            != self.invert
    }

    /// What a token says there.
    pub fn found<'c>(&self, claims: Option<&'c Claims>) -> Vec<&'c str> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        claims.map_or_else(Vec::new, |claims| claims.values(&path))
    }
}

impl fmt::Display for ClaimMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.invert { "not " } else { "" };
        write!(f, "{not}claim {} {}", self.path.join("."), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_lists_match_and_nothing_does_without_a_token() {
        let serde_json::Value::Object(payload) = serde_json::json!({
            "sub": "alice", "groups": ["a", "b"], "realm": {"role": "admin"}, "age": 7,
        }) else {
            panic!("no object");
        };
        let claims = Claims::new(payload);
        let condition = |path: &[&str], value: &str, invert| ClaimMatch {
            path: path.iter().map(|name| (*name).to_owned()).collect(),
            value: TextMatch::Exact(value.to_owned()),
            invert,
        };
        for (path, value) in [
            (&["sub"][..], "alice"),
            (&["groups"], "b"),
            (&["realm", "role"], "admin"),
        ] {
            assert!(condition(path, value, false).holds(Some(&claims)));
            assert!(!condition(path, value, true).holds(Some(&claims)));
            assert!(!condition(path, value, false).holds(None));
            assert!(condition(path, value, true).holds(None));
        }
        assert!(!condition(&["age"], "7", false).holds(Some(&claims)));
        assert!(!condition(&["groups"], "c", false).holds(Some(&claims)));
    }
}
