//! Sessions: requests of one caller that go to one endpoint, by what the caller was told with its first
//! answer. The fields are Envoy's stateful sessions; the Gateway API calls it session persistence.
//!
//! What a caller is told is the address of an endpoint, and a wish only: whoever serves the request looks
//! it up among the endpoints that the route could lead to anyway.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Health;
use super::route::{Match, PathMatch};

/// How sessions are kept, in a chain or on a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSession {
    /// What callers are told by; none keeps no sessions, and in a chain is the place where those of
    /// routes act.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<SessionBy>,
    /// A request whose endpoint cannot be had is refused rather than sent to another.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// What is answered where a strict one's endpoint is gone. Default 503.
    #[serde(skip_serializing_if = "is_unavailable")]
    pub gone_status: u16,
}

impl StatefulSession {
    /// The default of [`StatefulSession::gone_status`].
    pub const UNAVAILABLE: u16 = 503;

    /// One that is not strict.
    pub fn by(by: SessionBy) -> Self {
        Self {
            by: Some(by),
            ..Self::default()
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_unavailable(status: &u16) -> bool {
    *status == StatefulSession::UNAVAILABLE
}

impl Default for StatefulSession {
    fn default() -> Self {
        Self {
            by: None,
            strict: false,
            gone_status: Self::UNAVAILABLE,
        }
    }
}

/// How a caller is told, and tells again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionBy {
    /// By a cookie.
    Cookie(SessionCookie),
    /// By a header of this name, lower case, in answers and requests.
    Header(String),
}

/// The cookie of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionCookie {
    /// Its name.
    pub name: String,
    /// How long the session lasts, and the cookie with it; zero is until the browser ends.
    pub ttl: Duration,
    /// Path of the cookie. Requests elsewhere have no session; empty and `/` are everywhere.
    pub path: String,
    /// Further attributes; an empty value is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(String, String)>,
}

impl SessionCookie {
    /// Whether a request for `path`, with or without query, may have the session (RFC 6265, section
    /// 5.1.4; Envoy).
    pub fn is_for(&self, path: &[u8]) -> bool {
        let own = self.path.as_bytes();
        if matches!(own, b"" | b"/") {
            return true;
        }
        match path.strip_prefix(own) {
            Some(rest) => own.ends_with(b"/") || matches!(rest, [] | [b'/' | b'?' | b'#', ..]),
            None => false,
        }
    }
}

/// Whether `text` can be the name of a cookie or of a header (RFC 9110, section 5.6.2).
pub fn is_name(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// The path of the cookies for requests that fulfil `matches`: as much of it as all of them have.
pub fn cookie_path(matches: &Match) -> String {
    match &matches.path {
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Segments(prefix) => match prefix.trim_end_matches('/') {
            "" => "/".to_owned(),
            prefix => prefix.to_owned(),
        },
        PathMatch::Prefix(prefix) => up_to_slash(prefix),
        PathMatch::Regex(pattern) => {
            let source = pattern.as_str();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_~%!&=:@,;".contains(&byte);
            let length = source.bytes().take_while(|byte| plain(*byte)).count();
            // Of alternatives none is there for certain.
            match source.get(..length).filter(|_| !source.contains('|')) {
                Some(prefix) if length == source.len() => prefix.to_owned(),
                Some(prefix) => up_to_slash(prefix),
                None => "/".to_owned(),
            }
        }
    }
}

/// Whole segments of `prefix`, without a slash at the end.
fn up_to_slash(prefix: &str) -> String {
    match prefix.rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(at) => prefix.get(..at).unwrap_or("/").to_owned(),
    }
}

/// Of which health an endpoint may be for a session to go on there (Envoy's `override_host_status`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionHealth(pub BTreeSet<Health>);

impl SessionHealth {
    /// Whether it is Envoy's default.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for SessionHealth {
    /// Envoy's.
    fn default() -> Self {
        Self([Health::Healthy, Health::Degraded].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::route::Pattern;

    #[test]
    fn a_cookie_is_for_whole_segments_of_its_path() {
        let cookie = |path: &str| SessionCookie {
            path: path.to_owned(),
            ..SessionCookie::default()
        };
        for (path, asked, expected) in [
            ("", "/x", true),
            ("/", "/x", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/bar", true),
            ("/foo", "/foo?x=1", true),
            ("/foo", "/foobar", false),
            ("/foo", "/", false),
            ("/foo/", "/foo/bar", true),
            ("/foo/", "/foo", false),
        ] {
            assert_eq!(
                cookie(path).is_for(asked.as_bytes()),
                expected,
                "{path} {asked}"
            );
        }
    }

    #[test]
    fn the_path_of_a_cookie_is_what_all_paths_begin_with() {
        let of = |path| {
            cookie_path(&Match {
                path,
                ..Match::default()
            })
        };
        let regex = |source: &str| PathMatch::Regex(Pattern::new(source).unwrap());
        for (path, expected) in [
            (PathMatch::Segments("/".to_owned()), "/"),
            (PathMatch::Segments("/cart/".to_owned()), "/cart"),
            (PathMatch::Exact("/cart".to_owned()), "/cart"),
            (PathMatch::Prefix("/cart".to_owned()), "/"),
            (PathMatch::Prefix("/shop/cart".to_owned()), "/shop"),
            (regex("/p1/p2/[^/]+/p3"), "/p1/p2"),
            (regex("/p1"), "/p1"),
            (regex("/p1?"), "/"),
            (regex("/a/b|/c"), "/"),
            (regex("[^/]+"), "/"),
        ] {
            assert_eq!(of(path), expected);
        }
    }
}
