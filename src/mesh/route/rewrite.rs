//! What becomes of a request's target: rewritten for the endpoint, or a place to send the caller to.

use std::borrow::Cow;

use super::matching::split_query;
use super::router::without_port;
use super::{PathMatch, PathRewrite, Redirect};

/// `target` as the endpoint gets it, where `matched` is the condition on the path that held.
pub fn rewritten(rewrite: &PathRewrite, matched: &PathMatch, target: &[u8]) -> Vec<u8> {
    let (path, query) = split_query(target);
    let mut out = match (rewrite, matched) {
        (PathRewrite::Full(full), _) => full.clone().into_bytes(),
        (
            PathRewrite::Regex {
                pattern,
                substitution,
            },
            _,
        ) => pattern.replace_all(path, substitution),
        (PathRewrite::Prefix(new), PathMatch::Prefix(old)) => {
            let rest = path.get(old.len()..).unwrap_or_default();
            [new.as_bytes(), rest].concat()
        }
        (PathRewrite::Prefix(new), PathMatch::Segments(old)) => {
            let rest = path
                .get(old.trim_end_matches('/').len()..)
                .unwrap_or_default();
            let new = new.trim_end_matches('/').as_bytes();
            [new, rest].concat()
        }
        (PathRewrite::Prefix(new), PathMatch::Exact(_) | PathMatch::Regex(_)) => {
            new.clone().into_bytes()
        }
    };
    if out.first() != Some(&b'/') {
        out.insert(0, b'/');
    }
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out
}

/// Where a caller that asked `authority` for `target` is sent.
pub fn location(redirect: &Redirect, authority: &[u8], target: &[u8]) -> String {
    let (path, query) = split_query(target);
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let host = match &redirect.authority {
        Some(host) => Cow::Borrowed(host.as_str()),
        None => String::from_utf8_lossy(authority),
    };
    let mut location = format!("{scheme}://");
    match redirect.port {
        Some(port) => {
            let name = without_port(host.as_bytes());
            location.push_str(&String::from_utf8_lossy(name));
            location.push(':');
            location.push_str(itoa::Buffer::new().format(port));
        }
        None => location.push_str(&host),
    }
    match &redirect.path {
        Some(path) => location.push_str(path),
        None => location.push_str(&String::from_utf8_lossy(path)),
    }
    if let Some(query) = query {
        location.push('?');
        location.push_str(&String::from_utf8_lossy(query));
    }
    location.retain(|c| !c.is_control());
    location
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_and_the_query_stays() {
        let prefix = |new: &str| PathRewrite::Prefix(new.to_owned());
        for (rewrite, matched, target, expected) in [
            (
                prefix("/"),
                PathMatch::Segments("/a".into()),
                "/a/b?q",
                "/b?q",
            ),
            (prefix("/"), PathMatch::Segments("/a".into()), "/a", "/"),
            (
                prefix("/v2"),
                PathMatch::Prefix("/v1".into()),
                "/v1x",
                "/v2x",
            ),
            (
                PathRewrite::Full("/all".into()),
                PathMatch::default(),
                "/a?q",
                "/all?q",
            ),
        ] {
            let out = rewritten(&rewrite, &matched, target.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{target}");
        }
    }
}
