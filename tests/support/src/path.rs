//! What a request asks for: its path and method as the attributes that authorization and the handlers read.

use std::collections::BTreeMap;

use http::Method;

/// A request's attributes, as in kube-apiserver's `RequestInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Empty for the core.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// The plural; empty if the path is none of a resource.
    pub resource: String,
    /// `status`, `scale`, `token`, `log`, …
    pub subresource: String,
    /// Empty for all, or for kinds without.
    pub namespace: String,
    /// Empty for the collection.
    pub name: String,
    /// The whole path.
    pub path: String,
    /// The query, decoded; the last of equal names wins.
    pub query: BTreeMap<String, String>,
}

impl Ask {
    /// Reads method, path and query.
    pub fn read(method: &Method, path: &str, query: &str) -> Self {
        let mut ask = Self {
            path: path.to_owned(),
            query: pairs(query),
            ..Self::default()
        };
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let rest: &[&str] = match parts.as_slice() {
            ["api", version, rest @ ..] => {
                (*version).clone_into(&mut ask.version);
                rest
            }
            ["apis", group, version, rest @ ..] => {
                (*group).clone_into(&mut ask.group);
                (*version).clone_into(&mut ask.version);
                rest
            }
            _ => &[],
        };
        match rest {
            [] => {}
            ["namespaces", ns, sub @ ("status" | "finalize")] => {
                ask.resource = "namespaces".into();
                ask.name = decode(ns);
                ask.namespace = decode(ns);
                (*sub).clone_into(&mut ask.subresource);
            }
            ["namespaces", ns] => {
                ask.resource = "namespaces".into();
                ask.name = decode(ns);
                ask.namespace = decode(ns);
            }
            ["namespaces", ns, resource, rest @ ..] => {
                ask.namespace = decode(ns);
                ask.object(resource, rest);
            }
            [resource, rest @ ..] => ask.object(resource, rest),
        }
        ask.verb = ask.verb_of(method);
        ask
    }

    fn object(&mut self, resource: &str, rest: &[&str]) {
        resource.clone_into(&mut self.resource);
        if let [name, sub @ ..] = rest {
            self.name = decode(name);
            self.subresource = sub.join("/");
        }
    }

    fn verb_of(&self, method: &Method) -> String {
        let one = !self.name.is_empty();
        let word = match *method {
            _ if self.resource.is_empty() => return method.as_str().to_lowercase(),
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if one => "delete",
            Method::DELETE => "deletecollection",
            _ if self.flag("watch") => "watch",
            _ if one => "get",
            _ => "list",
        };
        word.to_owned()
    }

    /// A query parameter that is there and not false.
    pub fn flag(&self, name: &str) -> bool {
        self.query
            .get(name)
            .is_some_and(|v| v != "false" && v != "0")
    }

    /// A query parameter, or nothing if empty.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(&name.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        })
        .collect()
}

/// Percent-decoding; what is no escape stays.
pub fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = match (first, tail) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = hex {
            out.push(high * 16 + low);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}
