//! Where tokens stand in a request.

use std::borrow::Cow;

use crate::mesh::jwt_authn::JwtPlaces;
use crate::mesh::route::Request;
use crate::mesh::route::matching::split_query;

/// A place where a token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'p> {
    Header(&'p str),
    Param(&'p str),
    /// Cookies stay where they are, as in Envoy.
    Cookie,
}

/// Where a provider's tokens may stand.
#[derive(Debug)]
pub(super) struct Places {
    config: JwtPlaces,
}

impl Places {
    pub(super) fn new(config: &JwtPlaces) -> Self {
        Self {
            config: config.clone(),
        }
    }

    /// Calls `visit` with every token that `request` has there.
    pub(super) fn each<'p>(
        &'p self,
        request: &dyn Request,
        visit: &mut dyn FnMut(Place<'p>, Cow<'_, [u8]>),
    ) {
        for header in &self.config.headers {
            request.header(&header.name, &mut |value| {
                if let Some(token) = behind(value, header.prefix.as_bytes()) {
                    visit(Place::Header(&header.name), Cow::Borrowed(token));
                }
                true
            });
        }
        let (_, query) = split_query(request.path_and_query());
        if let Some(query) = query {
            for param in &self.config.params {
                for (name, value) in pairs(query) {
                    if *decoded(name) == *param.as_bytes() {
                        visit(Place::Param(param), decoded(value));
                    }
                }
            }
        }
        if !self.config.cookies.is_empty() {
            request.header("cookie", &mut |value| {
                for (name, value) in cookies(value) {
                    if self.config.cookies.iter().any(|own| own.as_bytes() == name) {
                        visit(Place::Cookie, Cow::Borrowed(value));
                    }
                }
                true
            });
        }
    }
}

/// What stands behind `prefix` in a header, where there is one; what cannot be part of a token before
/// it is left out (Envoy's rule).
fn behind<'v>(value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = value
        .windows(prefix.len())
        .position(|part| part == prefix)?;
    let rest = value.get(at + prefix.len()..).unwrap_or_default();
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    match rest.iter().position(of_token) {
        Some(at) => rest.get(at..),
        None => Some(value),
    }
}

fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=');
        let at = at.unwrap_or(pair.len());
        let value = pair.get(at + 1..).unwrap_or_default();
        (pair.get(..at).unwrap_or_default(), value)
    })
}

fn cookies(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|byte| *byte == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let value = pair.get(at + 1..).unwrap_or_default();
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        Some((pair.get(..at).unwrap_or_default(), quoted.unwrap_or(value)))
    })
}

/// Without percent encoding.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let pair = (digit(text.get(at + 1)), digit(text.get(at + 2)));
        if let (b'%', (Some(high), Some(low))) = (byte, pair) {
            out.push(u8::try_from(high * 16 + low).unwrap_or_default());
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    Cow::Owned(out)
}

/// `target` without the query parameters of these names.
pub(super) fn without_params(target: &[u8], names: &[&str]) -> Vec<u8> {
    let (path, query) = split_query(target);
    let mut out = path.to_vec();
    let mut before = b'?';
    for pair in query
        .into_iter()
        .flat_map(|query| query.split(|b| *b == b'&'))
    {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        let name = decoded(name);
        if !names.iter().any(|own| *own.as_bytes() == *name) {
            out.push(before);
            out.extend_from_slice(pair);
            before = b'&';
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_found_where_envoy_finds_it() {
        let bearer = |value: &'static str| {
            behind(value.as_bytes(), b"Bearer ").map(|token| String::from_utf8_lossy(token))
        };
        assert_eq!(bearer("Bearer a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(bearer("Bearer   a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(bearer("Bearer \"a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(bearer("x Bearer a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(bearer("Bearer a.b.c d").as_deref(), Some("a.b.c d"));
        assert_eq!(bearer("Bearer ").as_deref(), Some("Bearer "));
        assert_eq!(bearer("bearer a.b.c"), None);
        assert_eq!(bearer("Basic a.b.c"), None);
        assert_eq!(behind(b"a.b.c", b""), Some(&b"a.b.c"[..]));
    }

    #[test]
    fn a_token_is_taken_out_of_the_query_under_any_spelling_of_its_name() {
        for (target, expected) in [
            ("/a?access_token=x", "/a"),
            ("/a?b=1&access_token=x&c=2", "/a?b=1&c=2"),
            ("/a?access_token=x&access_token=y&b", "/a?b"),
            ("/a?access%5ftoken=x&%61ccess_token=y&b=%20", "/a?b=%20"),
            ("/a?access_token", "/a"),
            ("/a?b=access_token=x", "/a?b=access_token=x"),
            ("/a?", "/a?"),
            ("/a", "/a"),
        ] {
            let made = without_params(target.as_bytes(), &["access_token"]);
            assert_eq!(String::from_utf8(made).unwrap(), expected, "{target}");
        }
    }

    #[test]
    fn percent_encoding_is_undone_where_it_is_some() {
        assert_eq!(*decoded(b"a%2Eb%2ec"), *b"a.b.c");
        assert_eq!(*decoded(b"a%2"), *b"a%2");
        assert_eq!(*decoded(b"%zz%"), *b"%zz%");
    }
}
