//! Logs that a service gets: Envoy's access log service, or OpenTelemetry's of logs. The fields are Envoy's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::format::{BadFormat, Node, Part};
use crate::mesh::listener::is_default;
use crate::mesh::tracing::{CustomTag, TIMEOUT};

/// How long an entry waits for others at most where nobody says (Envoy's).
pub const FLUSH: Duration = Duration::from_secs(1);
/// So many bytes of entries are sent at once where nobody says (Envoy's).
pub const BUFFER_BYTES: u32 = 16 * 1024;
/// Where OpenTelemetry's logs are posted by HTTP where nobody says.
pub const HTTP_PATH: &str = "/v1/logs";

/// Who is told of calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogService {
    /// The cluster's name.
    pub cluster: String,
    /// The host that is asked for.
    pub authority: String,
    /// Further fields of each request; lower-case names.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<(String, String)>,
    /// For an answer, where each message has one.
    pub timeout: Duration,
    /// What the log is called there.
    pub name: String,
    /// An entry waits for others this long at most. Zero: as [`FLUSH`].
    pub flush: Duration,
    /// Entries of so many bytes are sent at once.
    pub buffer_bytes: u32,
    /// Objects of filters that are told of. This proxy has none: they are for Envoys.
    #[serde(skip_serializing_if = "is_default")]
    pub filter_state: Vec<String>,
    /// Tags besides, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, CustomTag>,
    /// In what words.
    pub says: Says,
}

impl Default for LogService {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            authority: String::new(),
            headers: Vec::new(),
            timeout: TIMEOUT,
            name: String::new(),
            flush: FLUSH,
            buffer_bytes: BUFFER_BYTES,
            filter_state: Vec::new(),
            tags: BTreeMap::new(),
            says: Says::Tcp,
        }
    }
}

/// In what words calls are told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Says {
    /// `envoy.service.accesslog.v3.AccessLogService` with entries of HTTP, and these fields of requests, answers and
    /// trailers besides; lower-case names.
    #[serde(rename_all = "camelCase")]
    Http {
        /// Fields of requests.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        request: Vec<String>,
        /// Fields of answers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        response: Vec<String>,
        /// Fields behind answers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        trailers: Vec<String>,
    },
    /// The same service with entries of TCP.
    Tcp,
    /// `opentelemetry.proto.collector.logs.v1.LogsService`.
    Otlp(Box<Otlp>),
}

/// What a record of OpenTelemetry's says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Otlp {
    /// Its body.
    #[serde(skip_serializing_if = "is_default")]
    pub body: Option<Part>,
    /// Its attributes.
    #[serde(skip_serializing_if = "is_default")]
    pub attributes: BTreeMap<String, Part>,
    /// Who tells: attributes of the resource.
    #[serde(skip_serializing_if = "is_default")]
    pub resource: BTreeMap<String, String>,
    /// Besides these, Envoy's own: `log_name`, `zone_name`, `cluster_name` and `node_name`.
    #[serde(skip_serializing_if = "is_default")]
    pub builtin: bool,
    /// Posted by HTTP to this path, instead of called by gRPC.
    #[serde(skip_serializing_if = "is_default")]
    pub http_path: Option<String>,
}

/// An [`Otlp`], read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its body.
    pub body: Option<Node>,
    /// Its attributes.
    pub attributes: Vec<(String, Node)>,
}

impl Otlp {
    /// Reads its formats.
    pub fn compile(&self) -> Result<Record, BadFormat> {
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(name, part)| Ok((name.clone(), part.compile()?)));
        Ok(Record {
            body: self.body.as_ref().map(Part::compile).transpose()?,
            attributes: attributes.collect::<Result<_, _>>()?,
        })
    }
}
