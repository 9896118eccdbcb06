//! Filters of HTTP and gRPC routes and of their backends.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::cors::cors;
use super::reference::{BackendRef, backend_ref, precise_hostname, word};
use crate::mesh::filter::Cors;
use crate::mesh::route::{HeaderEdits, HeaderOperations, Share};
use crate::resource::reader::{Fields, Value};

/// What is done with requests. Each filter stands there once at most, but for copies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteFilters {
    /// Edits of requests and answers.
    pub headers: HeaderEdits,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// Callers are sent elsewhere.
    pub redirect: Option<RedirectTo>,
    /// Host and path are others on the way on.
    pub rewrite: Option<UrlRewrite>,
    /// Which pages of other origins may call.
    pub cors: Option<Cors>,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The backend.
    pub to: BackendRef,
    /// Of how many requests.
    pub share: Share,
    /// Where it stands in the list of filters.
    pub index: usize,
}

/// Where callers are sent; what is `None` stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedirectTo {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port; that of the scheme where one is written, else that of the listener.
    pub port: Option<u16>,
    /// Status.
    pub status: u16,
}

/// Changes of a request's target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlRewrite {
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// A change of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// All of it.
    Full(String),
    /// The prefix that matched.
    Prefix(String),
}

impl RouteFilters {
    /// Whether callers are sent to a path that depends on the prefix that matched.
    pub(super) fn needs_prefix(&self) -> bool {
        let prefix = |path: &Option<PathModifier>| matches!(path, Some(PathModifier::Prefix(_)));
        self.redirect.as_ref().is_some_and(|to| prefix(&to.path))
            || self.rewrite.as_ref().is_some_and(|to| prefix(&to.path))
    }
}

/// `filters`, of an HTTPRoute or of a GRPCRoute.
pub(super) fn filters(fields: &Fields<'_>, http: bool) -> RouteFilters {
    let mut found = RouteFilters::default();
    let mut seen: Vec<&str> = Vec::new();
    for (index, value) in fields.list("filters").iter().enumerate() {
        if let Some(kind) = filter(value, (index, http), &mut found) {
            if seen.contains(&kind) && kind != "RequestMirror" {
                value.error_hint(
                    format!("there is another filter {kind}"),
                    "put both into one",
                );
            }
            seen.push(kind);
        }
    }
    if found.redirect.is_some() && found.rewrite.is_some() {
        fields.value.error_hint(
            "requests are either sent on or elsewhere",
            "remove URLRewrite or RequestRedirect",
        );
    }
    if found.redirect.is_some() && (found.cors.is_some() || !found.mirrors.is_empty()) {
        fields.value.refuse(
            "beside RequestRedirect, CORS and RequestMirror are not honoured by meshctl yet",
            "remove them: what is redirected is asked for again elsewhere",
        );
    }
    found
}

const HTTP: [&str; 8] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ExternalAuth",
    "ExtensionRef",
];
const GRPC: [&str; 4] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "ExtensionRef",
];

/// The field that goes with each type.
fn field_of(kind: &str) -> &'static str {
    match kind {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        "RequestMirror" => "requestMirror",
        "RequestRedirect" => "requestRedirect",
        "URLRewrite" => "urlRewrite",
        "CORS" => "cors",
        "ExternalAuth" => "externalAuth",
        _ => "extensionRef",
    }
}

/// Reads one filter; gives its type.
fn filter(
    value: &Value<'_>,
    (index, http): (usize, bool),
    into: &mut RouteFilters,
) -> Option<&'static str> {
    let fields = value.fields();
    let kinds: &[&'static str] = if http { &HTTP } else { &GRPC };
    let kind = fields.require("type");
    let kind = kind.and_then(|value| word(&value, kinds));
    let mut own = None;
    for known in kinds {
        let field = field_of(known);
        let Some(said) = fields.get(field) else {
            continue;
        };
        if kind == Some(known) {
            own = Some(said);
        } else if kind.is_some() {
            said.error_hint(
                format!("{field:?} is for type: {known}"),
                format!("write type: {known}, or remove it"),
            );
        }
    }
    fields.finish();
    let kind = kind?;
    let Some(said) = own else {
        let field = field_of(kind);
        value.error_hint(
            format!("field {field:?} is missing"),
            format!("{field}: {{…}}"),
        );
        return Some(kind);
    };
    match kind {
        "RequestHeaderModifier" => into.headers.request = operations(&said),
        "ResponseHeaderModifier" => into.headers.response = operations(&said),
        "RequestMirror" => into.mirrors.extend(mirror(&said, index)),
        "RequestRedirect" => into.redirect = Some(redirect(&said)),
        "URLRewrite" => into.rewrite = Some(rewrite(&said)),
        "CORS" => into.cors = Some(cors(&said)),
        "ExternalAuth" => value.refuse(
            "a filter that asks another service is not honoured by meshctl yet, and to leave it out would let in what it keeps out",
            "remove the route, or let the application ask",
        ),
        _ => value.refuse(
            "a filter of another kind of object is not honoured: nothing here defines any",
            "use the filters of the API itself",
        ),
    }
    Some(kind)
}

fn operations(value: &Value<'_>) -> HeaderOperations {
    let fields = value.fields();
    let remove = fields.text_list("remove");
    let operations = HeaderOperations {
        set: pairs(&fields, "set"),
        add: pairs(&fields, "add"),
        remove: remove
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        ..HeaderOperations::default()
    };
    fields.finish();
    operations
}

/// Names and values of headers; names know no case.
fn pairs(fields: &Fields<'_>, field: &'static str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for value in fields.list(field) {
        let fields = value.fields();
        let name = fields.require("name").and_then(|value| value.text());
        let text = fields.require("value").and_then(|value| value.text());
        fields.finish();
        let (Some(name), Some(text)) = (name, text) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        match found.entry(name) {
            Entry::Occupied(first) => value.warn(
                crate::resource::codes::IGNORED,
                format!(
                    "another value of {} stands before this one, which has no effect",
                    first.key()
                ),
                "remove one of them",
            ),
            Entry::Vacant(free) => {
                free.insert(text);
            }
        }
    }
    found
}

fn mirror(value: &Value<'_>, index: usize) -> Option<Mirror> {
    let fields = value.fields();
    let to = fields.require("backendRef").and_then(|value| {
        let fields = value.fields();
        let found = backend_ref(&fields);
        fields.finish();
        found
    });
    let percent = fields.get("percent");
    let fraction = fields.get("fraction");
    if let (Some(value), Some(_)) = (&percent, &fraction) {
        value.error_hint("a share is written twice", "write percent or fraction");
    }
    let percent = percent.and_then(|value| value.count(100));
    let share = match fraction {
        Some(value) => fraction_of(&value)?,
        None => Share {
            of: 100,
            parts: percent.unwrap_or(100),
        },
    };
    fields.finish();
    Some(Mirror {
        to: to?,
        share,
        index,
    })
}

fn fraction_of(value: &Value<'_>) -> Option<Share> {
    let fields = value.fields();
    let whole = fields.get("denominator");
    let of = match whole {
        Some(value) => value.integer(1, i64::from(i32::MAX)),
        None => Some(100),
    };
    let parts = fields.require("numerator");
    let parts = parts.and_then(|value| value.integer(0, i64::from(i32::MAX)));
    fields.finish();
    let (of, parts) = (u32::try_from(of?).ok()?, u32::try_from(parts?).ok()?);
    if parts > of {
        value.error_hint(
            "a share is more than the whole",
            "write a numerator that is no greater than the denominator",
        );
    }
    Some(Share { of, parts })
}

fn redirect(value: &Value<'_>) -> RedirectTo {
    let fields = value.fields();
    let scheme = fields.get("scheme");
    let scheme = scheme.and_then(|value| word(&value, &["http", "https"]));
    let hostname = fields.get("hostname");
    let path = fields.get("path");
    let status = fields.get("statusCode").and_then(|value| {
        let status = value.integer(300, 399)?;
        if ![301, 302, 303, 307, 308].contains(&status) {
            value.error_hint(
                format!("{status} is no redirect"),
                "one of 301, 302, 303, 307, 308",
            );
        }
        u16::try_from(status).ok()
    });
    let to = RedirectTo {
        scheme: scheme.map(str::to_owned),
        hostname: hostname.and_then(|value| precise_hostname(&value)),
        path: path.and_then(|value| modifier(&value)),
        port: fields.port("port"),
        status: status.unwrap_or(302),
    };
    fields.finish();
    to
}

fn rewrite(value: &Value<'_>) -> UrlRewrite {
    let fields = value.fields();
    let hostname = fields.get("hostname");
    let path = fields.get("path");
    let rewrite = UrlRewrite {
        hostname: hostname.and_then(|value| precise_hostname(&value)),
        path: path.and_then(|value| modifier(&value)),
    };
    fields.finish();
    rewrite
}

fn modifier(value: &Value<'_>) -> Option<PathModifier> {
    let fields = value.fields();
    let kind = fields.require("type");
    let kind = kind.and_then(|value| word(&value, &["ReplaceFullPath", "ReplacePrefixMatch"]));
    let full = fields.text("replaceFullPath");
    let prefix = fields.text("replacePrefixMatch");
    fields.finish();
    match (kind?, full, prefix) {
        ("ReplaceFullPath", Some(full), None) => Some(PathModifier::Full(full)),
        ("ReplacePrefixMatch", None, Some(prefix)) => Some(PathModifier::Prefix(prefix)),
        (kind, ..) => {
            let field = if kind == "ReplaceFullPath" {
                "replaceFullPath"
            } else {
                "replacePrefixMatch"
            };
            value.error_hint(
                format!("{field:?} and nothing else goes with type: {kind}"),
                format!("type: {kind}, {field}: /…"),
            );
            None
        }
    }
}
