//! Conditions on calls as people write them: the part of CEL that filters of access logs need.
//!
//! [`token`] and [`parse`] read a text once, [`eval`] judges a call by it. What is asked of a call is a closed list
//! of attributes with Envoy's names ([`Attribute`]): a name that is not on it is refused when it is read, since a
//! condition that can never hold would be a log that is silently empty.
//!
//! A call can be judged before it has ended. What is not known yet makes a condition neither true nor false, and
//! `&&` and `||` decide all the same where the rest is enough (CEL's rule for errors).

mod attribute;
mod eval;
mod parse;
mod token;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use attribute::{Attribute, Fields};
pub use eval::{Attributes, Value};
use parse::Node;

/// Longest text that is read.
pub const MAX_BYTES: usize = 4096;

/// A condition on calls, ready to be asked.
#[derive(Clone)]
pub struct Expression {
    text: String,
    root: Node,
}

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at column {column}: {reason}")]
pub struct BadExpression {
    /// Counted in characters from 1.
    pub column: usize,
    /// What is wrong, and what is expected.
    pub reason: String,
}

impl Expression {
    /// Reads `text`.
    pub fn new(text: &str) -> Result<Self, BadExpression> {
        if text.len() > MAX_BYTES {
            return Err(BadExpression {
                column: 1,
                reason: format!("longer than {MAX_BYTES} bytes"),
            });
        }
        Ok(Self {
            root: parse::parse(text)?,
            text: text.to_owned(),
        })
    }

    /// The text that it was made from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it holds for `call`; nothing while that is open. A condition that cannot be asked of the call, such as
    /// on a field that it has not, does not hold.
    pub fn holds(&self, call: &dyn Attributes) -> Option<bool> {
        match eval::eval(&self.root, call) {
            Value::Bool(held) => Some(held),
            Value::Unknown => None,
            _ => Some(false),
        }
    }

    /// Names of the fields of requests that it asks about.
    pub fn request_fields(&self) -> Vec<&str> {
        self.fields(Fields::Request)
    }

    /// Names of the fields of answers that it asks about.
    pub fn response_fields(&self) -> Vec<&str> {
        self.fields(Fields::Response)
    }

    fn fields(&self, of: Fields) -> Vec<&str> {
        let mut found = Vec::new();
        self.root.fields(of, &mut found);
        found
    }
}

/// `text` as a string in an expression.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for letter in text.chars() {
        match letter {
            '\'' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter => out.push(letter),
        }
    }
    out.push('\'');
    out
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Serialize for Expression {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
