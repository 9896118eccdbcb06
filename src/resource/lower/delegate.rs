//! Routes that a VirtualService leaves to another one (Istio's rules): they are for what both match,
//! and take over what they do not say themselves.

use crate::mesh::check::covers;
use crate::mesh::route::{ClaimMatch, HeaderEdits, HeaderMatch, Match, PathMatch};
use crate::resource::istio::{HttpMatch, HttpRoute};

/// The conditions of a route whose own are `own`, where `root` leads to it. `None` when one of its
/// own is for requests that do not get there.
pub(super) fn matches(root: &[HttpMatch], own: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if own.is_empty() {
        return Some(root.to_vec());
    }
    let mut found = Vec::new();
    for own in own {
        let before = found.len();
        found.extend(root.iter().filter_map(|root| within(root, own)));
        if found.len() == before {
            return None;
        }
    }
    Some(found)
}

/// The conditions of both; `None` where `own` is not a part of `root`.
fn within(root: &HttpMatch, own: &HttpMatch) -> Option<HttpMatch> {
    let agree =
        |one: &Option<u16>, other: &Option<u16>| one.is_none() || other.is_none() || one == other;
    let spaces = (&root.source_namespace, &own.source_namespace);
    let same_space = matches!(spaces, (None, _) | (_, None)) || spaces.0 == spaces.1;
    let mut labels = root.source_labels.clone();
    for (key, value) in &own.source_labels {
        if labels
            .insert(key.clone(), value.clone())
            .is_some_and(|old| old != *value)
        {
            return None;
        }
    }
    if !agree(&root.port, &own.port) || !same_space {
        return None;
    }
    Some(HttpMatch {
        name: joined(&root.name, &own.name),
        matches: narrowed(&root.matches, &own.matches)?,
        port: own.port.or(root.port),
        source_labels: labels,
        source_namespace: own
            .source_namespace
            .clone()
            .or_else(|| root.source_namespace.clone()),
        gateways: Vec::new(),
    })
}

fn narrowed(root: &Match, own: &Match) -> Option<Match> {
    let of_path = |from: &Match| Match {
        path: from.path.clone(),
        ignore_case: from.ignore_case,
        ..Match::default()
    };
    let path = if own.path == PathMatch::default() {
        of_path(root)
    } else if covers(&of_path(root), &of_path(own)) {
        of_path(own)
    } else {
        return None;
    };
    // What both ask about the same thing is asked once, the narrower way.
    let same = |a: &HeaderMatch, b: &HeaderMatch| a.name == b.name && a.invert == b.invert;
    let mut headers = own.headers.clone();
    for wide in &root.headers {
        match own.headers.iter().find(|own| same(own, wide)) {
            None => headers.push(wide.clone()),
            Some(narrow) => {
                let one = |header: &HeaderMatch| Match {
                    headers: vec![header.clone()],
                    ..Match::default()
                };
                if !covers(&one(wide), &one(narrow)) {
                    return None;
                }
            }
        }
    }
    let mut query = own.query.clone();
    for wide in &root.query {
        match own.query.iter().find(|own| own.name == wide.name) {
            None => query.push(wide.clone()),
            Some(narrow) => {
                let wide = Match {
                    query: vec![wide.clone()],
                    ..Match::default()
                };
                let narrow = Match {
                    query: vec![narrow.clone()],
                    ..Match::default()
                };
                if !covers(&wide, &narrow) {
                    return None;
                }
            }
        }
    }
    let same = |a: &ClaimMatch, b: &ClaimMatch| a.path == b.path && a.invert == b.invert;
    let mut claims = own.claims.clone();
    for wide in &root.claims {
        match own.claims.iter().find(|own| same(own, wide)) {
            None => claims.push(wide.clone()),
            Some(narrow) => {
                let one = |claim: &ClaimMatch| Match {
                    claims: vec![claim.clone()],
                    ..Match::default()
                };
                if !covers(&one(wide), &one(narrow)) {
                    return None;
                }
            }
        }
    }
    Some(Match {
        headers,
        query,
        claims,
        ..path
    })
}

fn joined(root: &str, own: &str) -> String {
    match (root, own) {
        ("", name) | (name, "") => name.to_owned(),
        (root, own) => format!("{root}-{own}"),
    }
}

/// `own` with what only `root` says; conditions and mirrors apart.
pub(super) fn route(root: &HttpRoute, own: &HttpRoute) -> HttpRoute {
    let rewrites = own.rewrite_uri.is_some() || own.rewrite_authority.is_some();
    let rewrite = if rewrites { own } else { root };
    HttpRoute {
        name: joined(&root.name, &own.name),
        matches: Vec::new(),
        action: own.action.clone(),
        rewrite_uri: rewrite.rewrite_uri.clone(),
        rewrite_authority: rewrite.rewrite_authority.clone(),
        timeout: own.timeout.or(root.timeout),
        retries: own.retries.clone().or_else(|| root.retries.clone()),
        headers: if own.headers == HeaderEdits::default() {
            root.headers.clone()
        } else {
            own.headers.clone()
        },
        mirrors: Vec::new(),
        fault: own.fault.clone().or_else(|| root.fault.clone()),
        cors: own.cors.clone().or_else(|| root.cors.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::route::{Pattern, TextMatch};

    fn path(path: PathMatch) -> HttpMatch {
        HttpMatch {
            matches: Match {
                path,
                ..Match::default()
            },
            ..HttpMatch::default()
        }
    }

    fn header(name: &str, value: &str) -> HttpMatch {
        HttpMatch {
            matches: Match {
                headers: vec![HeaderMatch {
                    name: name.to_owned(),
                    value: TextMatch::Exact(value.to_owned()),
                    invert: false,
                }],
                ..Match::default()
            },
            ..HttpMatch::default()
        }
    }

    fn prefix(text: &str) -> HttpMatch {
        path(PathMatch::Prefix(text.to_owned()))
    }

    #[test]
    fn a_delegate_is_for_a_part_of_what_gets_there() {
        let exact = path(PathMatch::Exact("/a/b".to_owned()));
        for (root, own, fits) in [
            (prefix("/a"), prefix("/a/b"), true),
            (prefix("/a"), exact.clone(), true),
            (prefix("/a"), HttpMatch::default(), true),
            (prefix("/a/b"), prefix("/a"), false),
            (exact, prefix("/a"), false),
            (prefix("/a"), header("x", "1"), true),
            (header("x", "1"), header("x", "1"), true),
            (header("x", "1"), header("x", "2"), false),
            (HttpMatch::default(), prefix("/a"), true),
            (
                prefix("/a"),
                path(PathMatch::Regex(Pattern::new("/a.*").unwrap())),
                false,
            ),
        ] {
            let found = matches(std::slice::from_ref(&root), std::slice::from_ref(&own));
            assert_eq!(found.is_some(), fits, "{root:?} {own:?}");
        }
    }

    #[test]
    fn conditions_of_both_are_asked() {
        let found = matches(&[prefix("/a"), prefix("/b")], &[header("x", "1")]).unwrap();
        let paths: Vec<_> = found.iter().map(|one| one.matches.path.clone()).collect();
        assert_eq!(
            paths,
            [prefix("/a").matches.path, prefix("/b").matches.path]
        );
        assert!(found.iter().all(|one| one.matches.headers.len() == 1));
        // One of its own that gets nowhere is a mistake, whatever the others do.
        assert!(matches(&[prefix("/a")], &[prefix("/a/b"), prefix("/c")]).is_none());
        assert_eq!(matches(&[prefix("/a")], &[]).unwrap(), [prefix("/a")]);
    }

    #[test]
    fn ports_and_callers_must_agree() {
        let port = |port| HttpMatch {
            port,
            ..HttpMatch::default()
        };
        assert!(matches(&[port(Some(80))], &[port(Some(81))]).is_none());
        let found = matches(&[port(Some(80))], &[port(None)]).unwrap();
        assert_eq!(found[0].port, Some(80));
        let labelled = |value: &str| HttpMatch {
            source_labels: [("app".to_owned(), value.to_owned())].into(),
            ..HttpMatch::default()
        };
        assert!(matches(&[labelled("a")], &[labelled("b")]).is_none());
        assert!(matches(&[labelled("a")], &[labelled("a")]).is_some());
    }
}
