//! What a MeshConfig says of access logs: the one that is built in, and the `extensionProviders` that are files or services.

use std::collections::BTreeMap;

use super::header_edits::header_name;
use super::span_providers::service;
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::service::{LogService, Otlp, Says};
use crate::mesh::access_log::usual::{ISTIO, istio_json};
use crate::mesh::access_log::{Format, Logger, STDOUT};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::{Node, Tree};

/// The name of the log that is built in.
const BUILT_IN: &str = "envoy";

/// Logs of a mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Logs {
    /// By the name of their providers.
    pub providers: BTreeMap<String, LogProvider>,
    /// Names of those that are written where no Telemetry says.
    pub defaults: Vec<String>,
}

/// Somebody who gets a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProvider {
    /// What is written; a service is without its cluster.
    pub logger: Logger,
    /// `[NAMESPACE/]HOST` as it is written, and its port, where it is a service.
    pub at: Option<(String, u16)>,
}

impl LogProvider {
    fn file(logger: Logger) -> Self {
        Self { logger, at: None }
    }
}

impl Default for Logs {
    /// Those of a mesh without a MeshConfig: nothing is written, but Telemetries may name what is built in.
    fn default() -> Self {
        Self {
            providers: [(BUILT_IN.to_owned(), built_in())].into(),
            defaults: Vec::new(),
        }
    }
}

fn built_in() -> LogProvider {
    LogProvider::file(Logger::file(STDOUT, Format::Text(ISTIO.to_owned())))
}

/// Reads them. Names, and what is written twice, are for whoever reads the other providers. `defaults` are those of
/// `defaultProviders`.
pub(super) fn logs(fields: &Fields<'_>, defaults: Vec<String>) -> Logs {
    let json = fields
        .get("accessLogEncoding")
        .and_then(|value| value.choice(&[("TEXT", false), ("JSON", true)]));
    let json = json.unwrap_or_default();
    let usual = || {
        if json {
            istio_json()
        } else {
            Format::Text(ISTIO.to_owned())
        }
    };
    let format = match fields.get("accessLogFormat") {
        Some(value) => value
            .text()
            .filter(|text| !text.is_empty())
            .and_then(|text| {
                if json {
                    object(&value, &text)
                } else {
                    line(&value, text)
                }
            }),
        None => None,
    };
    let file = fields.text("accessLogFile").filter(|file| !file.is_empty());
    let mut logs = Logs::default();
    let format = format.unwrap_or_else(usual);
    let path = file.clone().unwrap_or_else(|| STDOUT.to_owned());
    let built_in = LogProvider::file(Logger::file(path, format.clone()));
    logs.providers.insert(BUILT_IN.to_owned(), built_in);
    for entry in fields.list("extensionProviders") {
        let name = entry.tree.get("name").and_then(Tree::text);
        let fields = entry.fields();
        let file = fields.get("envoyFileAccessLog");
        let provider = file.map(|value| file_of(&value, &format));
        let provider = provider
            .or_else(|| {
                streamed(
                    &fields.get("envoyHttpAls")?,
                    "http_envoy_accesslog",
                    |fields| Some(http(fields)),
                )
            })
            .or_else(|| {
                streamed(&fields.get("envoyTcpAls")?, "tcp_envoy_accesslog", |_| {
                    Some(Says::Tcp)
                })
            })
            .or_else(|| streamed(&fields.get("envoyOtelAls")?, "otel_envoy_accesslog", otlp));
        if let (Some(name), Some(provider)) = (name, provider) {
            logs.providers.insert(name.to_owned(), provider);
        }
    }
    logs.defaults = match (defaults.is_empty(), file) {
        (true, Some(_)) => vec![BUILT_IN.to_owned()],
        _ => defaults,
    };
    logs
}

fn file_of(value: &Value<'_>, usual: &Format) -> LogProvider {
    let fields = value.fields();
    let path = fields.text("path").filter(|path| !path.is_empty());
    fields.ignore(
        "omitEmptyValues",
        "what is not there is null in objects, and `-` in lines",
    );
    let format = fields.get("logFormat").and_then(|value| {
        let fields = value.fields();
        let text = fields.get("text");
        let labels = fields.get("labels");
        fields.finish();
        match (text, labels) {
            (_, Some(value)) => checked(&value, Format::Json(parts(&value, value.tree)?)),
            (Some(value), None) => {
                let text = value.text()?;
                line(&value, text)
            }
            (None, None) => None,
        }
    });
    fields.finish();
    LogProvider::file(Logger::file(
        path.unwrap_or_else(|| STDOUT.to_owned()),
        format.unwrap_or_else(|| usual.clone()),
    ))
}

/// A service that is told, by `usual` name where none is written.
fn streamed(
    value: &Value<'_>,
    usual: &str,
    says: impl FnOnce(&Fields<'_>) -> Option<Says>,
) -> Option<LogProvider> {
    let fields = value.fields();
    let (host, port) = service(&fields, "logging/collector.logging.svc.cluster.local");
    let name = fields.text("logName").filter(|name| !name.is_empty());
    let says = says(&fields);
    let filter_state = match says {
        Some(Says::Http { .. } | Says::Tcp) => filter_state(&fields),
        _ => Vec::new(),
    };
    fields.finish();
    Some(LogProvider {
        logger: Logger::service(LogService {
            name: name.unwrap_or_else(|| usual.to_owned()),
            filter_state,
            says: says?,
            ..LogService::default()
        }),
        at: Some((host?, port?)),
    })
}

/// Objects of filters, which only Envoys have.
fn filter_state(fields: &Fields<'_>) -> Vec<String> {
    let Some(value) = fields.get("filterStateObjectsToLog") else {
        return Vec::new();
    };
    value.warn(
        codes::IGNORED,
        "no filter of this proxy keeps objects, so entries are without them",
        "remove it, or keep it for Envoys of the mesh",
    );
    let names = value.list();
    names.iter().filter_map(Value::text).collect()
}

fn http(fields: &Fields<'_>) -> Says {
    let names = |field| {
        let name = |value: &Value<'_>| header_name(value, &value.text()?);
        fields.list(field).iter().filter_map(name).collect()
    };
    Says::Http {
        request: names("additionalRequestHeadersToLog"),
        response: names("additionalResponseHeadersToLog"),
        trailers: names("additionalResponseTrailersToLog"),
    }
}

/// Istio's line is the body where nobody writes another, and `labels` are attributes.
fn otlp(fields: &Fields<'_>) -> Option<Says> {
    let mut said = Otlp {
        body: Some(Part::Text(ISTIO.to_owned())),
        ..Otlp::default()
    };
    if let Some(value) = fields.get("logFormat") {
        let fields = value.fields();
        let text = fields.get("text");
        let labels = fields.get("labels");
        fields.finish();
        if let Some(value) = text
            && let Some(text) = value.text().filter(|text| !text.is_empty())
        {
            let Format::Text(text) = line(&value, text)? else {
                return None;
            };
            said.body = Some(Part::Text(text));
        }
        if let Some(value) = labels {
            let parts = parts(&value, value.tree)?;
            checked(&value, Format::Json(parts.clone()))?;
            said.attributes = parts;
        }
    }
    Some(Says::Otlp(Box::new(said)))
}

/// A line ends where its format does, and each is one (Istio's rule).
fn line(value: &Value<'_>, mut text: String) -> Option<Format> {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    checked(value, Format::Text(text))
}

/// An object that is written as text.
fn object(value: &Value<'_>, text: &str) -> Option<Format> {
    match Tree::read(text, value.tree.place.line) {
        Ok(tree) => checked(value, Format::Json(parts(value, &tree)?)),
        Err(error) => {
            value.error_hint(
                format!("the format is no object: {}", error.message),
                "such as '{\"status\": \"%RESPONSE_CODE%\"}'; accessLogEncoding: TEXT for a line",
            );
            None
        }
    }
}

fn parts(value: &Value<'_>, tree: &Tree) -> Option<BTreeMap<String, Part>> {
    let Node::Map(entries) = &tree.node else {
        value.error_hint(
            "a format of this kind is an object",
            "{status: \"%RESPONSE_CODE%\"}",
        );
        return None;
    };
    let entries = entries.iter();
    entries
        .map(|(key, tree)| Some((key.text.clone(), part(value, tree)?)))
        .collect()
}

fn part(value: &Value<'_>, tree: &Tree) -> Option<Part> {
    Some(match &tree.node {
        Node::Text(text) => Part::Text(text.clone()),
        Node::Map(_) => Part::Object(parts(value, tree)?),
        Node::List(items) => Part::List(
            items
                .iter()
                .map(|item| part(value, item))
                .collect::<Option<_>>()?,
        ),
        node => {
            value.error_hint(
                format!("{} is no text with operators", node.describe()),
                "put it into quotes",
            );
            return None;
        }
    })
}

fn checked(value: &Value<'_>, format: Format) -> Option<Format> {
    match format.compile() {
        Ok(compiled) => {
            for name in compiled.missing() {
                value.warn(
                    codes::IGNORED,
                    format!("%{name}% is not known to this proxy, which writes `-`"),
                    "remove it, or keep it for Envoys of the mesh",
                );
            }
            Some(format)
        }
        Err(bad) => {
            value.error_hint(
                format!("the format is not understood: {bad}"),
                "operators are those of Envoy, such as %RESPONSE_CODE% and %REQ(USER-AGENT)%",
            );
            None
        }
    }
}
