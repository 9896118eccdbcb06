//! What of a request decides about its endpoint where a cluster chooses by hash.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pattern;

/// One part of a request's hash (Envoy's `hash_policy`). Parts that the request lacks count for
/// nothing; the others are put together in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashPolicy {
    /// What is hashed.
    pub of: HashOf,
    /// When there is a hash after this part, later parts do not count.
    #[serde(default)]
    pub terminal: bool,
}

impl HashPolicy {
    /// A part that is not terminal.
    pub fn of(of: HashOf) -> Self {
        Self {
            of,
            terminal: false,
        }
    }
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashOf {
    /// A header.
    Header {
        /// Its name, lower case.
        name: String,
        /// What is replaced in its value before: every match of the pattern.
        rewrite: Option<(Pattern, String)>,
    },
    /// A cookie.
    Cookie(HashCookie),
    /// The caller's address without its port.
    SourceIp,
    /// A query parameter, whose name is compared as it is.
    Query(String),
}

/// A cookie that binds a caller to an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Callers without it are given one that lives so long; zero is until the browser ends. `None`
    /// gives none.
    pub ttl: Option<Duration>,
    /// Path of a given cookie; may be empty.
    pub path: String,
    /// Further attributes of a given cookie; an empty value is none.
    pub attributes: Vec<(String, String)>,
}
