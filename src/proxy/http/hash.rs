//! The hash of a request by what its route says, as Envoy computes it.

use smallvec::SmallVec;

use crate::mesh::route::matching::split_query;
use crate::mesh::route::{HashOf, HashPolicy, Request};

use super::super::balance::hash::{source_ip, xx64};
use super::super::context::Conn;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hashed {
    /// None when the request has nothing that the route names.
    pub(crate) hash: Option<u64>,
    /// A cookie for the caller, in the form of `set-cookie`.
    pub(crate) cookie: Option<Box<str>>,
}

/// Puts the parts that `policies` name together.
pub(crate) fn hash(policies: &[HashPolicy], request: &dyn Request, conn: &Conn) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let part = match &policy.of {
            HashOf::Header { name, rewrite } => {
                header(request, name, |value, seed| match rewrite {
                    None => xx64(value, seed),
                    Some((pattern, with)) => xx64(&pattern.replace_all(value, with), seed),
                })
            }
            HashOf::Cookie(cookie) => {
                let name = cookie.name.as_bytes();
                find_cookie(request, name, |value| Some(xx64(value, 0))).or_else(|| {
                    let ttl = cookie.ttl?;
                    let value = made_up(conn);
                    if hashed.cookie.is_none() {
                        let text = set_cookie(
                            (&cookie.name, &value),
                            ttl.as_secs(),
                            (&cookie.path, &cookie.attributes),
                        );
                        hashed.cookie = Some(text.into_boxed_str());
                    }
                    Some(xx64(value.as_bytes(), 0))
                })
            }
            HashOf::SourceIp => Some(source_ip(conn.remote.ip())),
            HashOf::Query(name) => query(request.path_and_query(), name.as_bytes()),
        };
        if let Some(part) = part {
            // Turned, so that equal parts do not cancel each other out.
            hashed.hash = Some(hashed.hash.unwrap_or(0).rotate_left(1) ^ part);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// Several values count in the order of their text.
fn header(request: &dyn Request, name: &str, hash: impl Fn(&[u8], u64) -> u64) -> Option<u64> {
    let mut values: SmallVec<[SmallVec<[u8; 64]>; 1]> = SmallVec::new();
    if name == ":authority" || name == "host" {
        values.push(SmallVec::from_slice(request.authority()));
    } else {
        request.header(name, &mut |value| {
            values.push(SmallVec::from_slice(value));
            true
        });
    }
    values.sort_unstable();
    (!values.is_empty()).then(|| values.iter().fold(0, |seed, value| hash(value, seed)))
}

/// What `read` makes of the cookies of a name, from the first of which it makes something.
pub(super) fn find_cookie<T>(
    request: &dyn Request,
    name: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut found = None;
    request.header("cookie", &mut |line| {
        found = line.split(|byte| *byte == b';').find_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (key, value) = pair.split_at_checked(at)?;
            let value = value.get(1..)?.trim_ascii();
            let bare = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            (key.trim_ascii() == name).then(|| read(bare))?
        });
        found.is_none()
    });
    found
}

fn query(target: &[u8], name: &[u8]) -> Option<u64> {
    split_query(target)
        .1?
        .split(|byte| *byte == b'&')
        .find_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=');
            let (key, value) = pair.split_at_checked(at.unwrap_or(pair.len()))?;
            (key == name).then(|| xx64(value.get(1..).unwrap_or_default(), 0))
        })
}

/// The same for all requests of a connection, so that those that race get one.
fn made_up(conn: &Conn) -> String {
    let ends = format!("{}{}", conn.remote, conn.local);
    format!("{:016x}", xx64(ends.as_bytes(), 0))
}

/// A cookie as `set-cookie` tells it; without `ttl` it lasts as long as the browser.
pub(super) fn set_cookie(
    (name, value): (&str, &str),
    ttl: u64,
    (path, attributes): (&str, &[(String, String)]),
) -> String {
    let mut text = format!("{name}=\"{value}\"");
    if ttl > 0 {
        text.push_str("; Max-Age=");
        text.push_str(itoa::Buffer::new().format(ttl));
    }
    if !path.is_empty() {
        text.push_str("; Path=");
        text.push_str(path);
    }
    for (name, value) in attributes {
        text.push_str("; ");
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    }
    text.push_str("; HttpOnly");
    // It becomes a field of an answer, whatever was configured.
    text.retain(|c| !c.is_control());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Asked(&'static [(&'static str, &'static str)]);

    impl Request for Asked {
        fn method(&self) -> &[u8] {
            b"GET"
        }
        fn authority(&self) -> &[u8] {
            b"reviews"
        }
        fn scheme(&self) -> &[u8] {
            b"http"
        }
        fn path_and_query(&self) -> &[u8] {
            b"/x?user=ann&user=bob&flag"
        }
        fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
            let mut go_on = true;
            for (key, value) in self.0 {
                if go_on && *key == name {
                    go_on = visit(value.as_bytes());
                }
            }
        }
    }

    #[test]
    fn several_values_of_a_header_count_in_any_order() {
        let of = |asked: Asked| header(&asked, "x-user", xx64);
        let one = of(Asked(&[("x-user", "ann")]));
        assert_eq!(one, Some(xx64(b"ann", 0)));
        let both = of(Asked(&[("x-user", "bob"), ("x-user", "ann")]));
        assert_eq!(both, of(Asked(&[("x-user", "ann"), ("x-user", "bob")])));
        assert_eq!(both, Some(xx64(b"bob", xx64(b"ann", 0))));
        assert_eq!(of(Asked(&[])), None);
        assert_eq!(
            header(&Asked(&[]), ":authority", xx64),
            Some(xx64(b"reviews", 0))
        );
    }

    #[test]
    fn cookies_and_parameters_are_found_by_name() {
        let asked = Asked(&[("cookie", "a=1; user=\"ann\""), ("cookie", "user=bob")]);
        let found = |name: &[u8]| find_cookie(&asked, name, |value| Some(value.to_vec()));
        assert_eq!(found(b"user").as_deref(), Some(&b"ann"[..]));
        assert_eq!(found(b"use"), None);
        let target = asked.path_and_query();
        assert_eq!(query(target, b"user"), Some(xx64(b"ann", 0)));
        assert_eq!(query(target, b"flag"), Some(xx64(b"", 0)));
        assert_eq!(query(target, b"none"), None);
        assert_eq!(
            source_ip("::ffff:10.0.0.1".parse().unwrap()),
            xx64(b"10.0.0.1", 0)
        );
    }

    #[test]
    fn a_given_cookie_says_what_it_was_told_to() {
        let attributes = [
            ("SameSite".to_owned(), "Strict".to_owned()),
            ("Secure".to_owned(), String::new()),
        ];
        assert_eq!(
            set_cookie(("user", "ab"), 60, ("/p\r\n", &attributes)),
            "user=\"ab\"; Max-Age=60; Path=/p; SameSite=Strict; Secure; HttpOnly"
        );
        let bare = set_cookie(("user", "ab"), 0, ("", &[]));
        assert_eq!(bare, "user=\"ab\"; HttpOnly");
    }
}
