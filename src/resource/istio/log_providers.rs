//! What a MeshConfig says of access logs: the one that is built in, and the `extensionProviders` that are files.

use std::collections::BTreeMap;

use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::usual::{ISTIO, istio_json};
use crate::mesh::access_log::{Format, Logger, STDOUT};
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::{Node, Tree};

/// The name of the log that is built in.
const BUILT_IN: &str = "envoy";

/// Logs of a mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Logs {
    /// By the name of their providers.
    pub providers: BTreeMap<String, Logger>,
    /// Names of those that are written where no Telemetry says.
    pub defaults: Vec<String>,
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

fn built_in() -> Logger {
    Logger {
        path: STDOUT.to_owned(),
        format: Format::Text(ISTIO.to_owned()),
        filter: None,
    }
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
    logs.providers.insert(
        BUILT_IN.to_owned(),
        Logger {
            path: file.clone().unwrap_or_else(|| STDOUT.to_owned()),
            format: format.clone(),
            filter: None,
        },
    );
    for entry in fields.list("extensionProviders") {
        let name = entry.tree.get("name").and_then(Tree::text);
        let provider = entry.fields().get("envoyFileAccessLog");
        if let (Some(name), Some(value)) = (name, provider) {
            logs.providers
                .insert(name.to_owned(), provider_of(&value, &format));
        }
    }
    logs.defaults = match (defaults.is_empty(), file) {
        (true, Some(_)) => vec![BUILT_IN.to_owned()],
        _ => defaults,
    };
    logs
}

fn provider_of(value: &Value<'_>, usual: &Format) -> Logger {
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
    Logger {
        path: path.unwrap_or_else(|| STDOUT.to_owned()),
        format: format.unwrap_or_else(|| usual.clone()),
        filter: None,
    }
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
                    crate::resource::codes::IGNORED,
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
