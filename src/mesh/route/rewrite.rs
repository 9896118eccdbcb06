//! What becomes of a request's target: rewritten for the endpoint, or a place to send the caller to.

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

/// The port that a scheme means without saying it.
fn usual(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// Where a caller is sent that asked, by a scheme, a host for a target; the path had matched by
/// `matched`.
pub fn location(
    redirect: &Redirect,
    matched: &PathMatch,
    (asked, authority, target): (&str, &[u8], &[u8]),
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(asked);
    let host = redirect
        .authority
        .as_ref()
        .map_or(authority, |host| host.as_bytes());
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
            if let Some(query) = split_query(target).1 {
                location.push(b'?');
                location.extend_from_slice(query);
            }
        }
        (None, Some(prefix)) => {
            let rewrite = PathRewrite::Prefix(prefix.clone());
            location.extend_from_slice(&rewritten(&rewrite, matched, target));
        }
        (None, None) => location.extend_from_slice(target),
    }
    let mut location = String::from_utf8_lossy(&location).into_owned();
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
