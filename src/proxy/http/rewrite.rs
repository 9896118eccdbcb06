//! What becomes of a request's target: rewritten for the endpoint, or a place to send the caller to.

use crate::mesh::route::matching::split_query;
use crate::mesh::route::router::without_port;
use crate::mesh::route::{PathMatch, PathRewrite, Redirect, Request as _};

use super::answer::Answer;
use super::plan::Seen;

pub(super) fn rewritten(rewrite: &PathRewrite, matched: &PathMatch, target: &[u8]) -> Vec<u8> {
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

/// The port that a scheme means without saying it.
fn usual(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// Where a request is redirected to; its path had matched by `matched`.
pub(super) fn redirected(redirect: &Redirect, matched: &PathMatch, seen: &Seen<'_>) -> Answer {
    let asked = std::str::from_utf8(seen.scheme()).unwrap_or("http");
    let scheme = redirect.scheme.as_deref().unwrap_or(asked);
    let host = redirect
        .authority
        .as_ref()
        .map_or(seen.authority, |host| host.as_bytes());
    let name = without_port(host);
    let written = host.get(name.len() + 1..).unwrap_or_default();
    // What only said the scheme's own port says nothing under another scheme (Envoy).
    let stale = scheme != asked && written == itoa::Buffer::new().format(usual(asked)).as_bytes();
    let mut location = format!("{scheme}://").into_bytes();
    match redirect.port {
        Some(port) => {
            location.extend_from_slice(name);
            if port != usual(scheme) {
                location.push(b':');
                location.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
            }
        }
        None if stale => location.extend_from_slice(name),
        None => location.extend_from_slice(host),
    }
    match (&redirect.path, &redirect.prefix) {
        (Some(path), _) => {
            location.extend_from_slice(path.as_bytes());
            if let Some(query) = split_query(seen.path).1 {
                location.push(b'?');
                location.extend_from_slice(query);
            }
        }
        (None, Some(prefix)) => {
            let rewrite = PathRewrite::Prefix(prefix.clone());
            location.extend_from_slice(&rewritten(&rewrite, matched, seen.path));
        }
        (None, None) => location.extend_from_slice(seen.path),
    }
    let location = String::from_utf8_lossy(&location);
    Answer {
        status: redirect.status,
        location: Some(location.chars().filter(|c| !c.is_control()).collect()),
        ..Answer::default()
    }
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
