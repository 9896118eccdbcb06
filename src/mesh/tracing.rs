//! Which calls leave spans, what these say, and where they go (`HttpConnectionManager.tracing`). The fields
//! are Envoy's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listener::is_default;
use super::route::Share;
use super::told::Told;

/// Of a path, so many bytes are told (Envoy's default).
pub const MAX_PATH: u32 = 256;
/// How long an answer of whoever gets spans is waited for where nobody says (Envoy's, of Zipkin).
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Of traces that begin here, so many are sampled where nobody says: 1 % (Istio's).
pub const USUAL: Share = Share { of: 100, parts: 1 };

/// The spans of one listener's calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// There are none, and contexts are passed as they came.
    #[serde(skip_serializing_if = "is_default")]
    pub off: bool,
    /// Of traces that begin here. One that came is sampled where its context says so.
    pub sampling: Share,
    /// Longest path in a tag, in bytes.
    pub max_path: u32,
    /// Tags besides the usual ones, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, CustomTag>,
    /// Who gets them besides the control plane.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Option<SpanSink>,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            off: false,
            sampling: USUAL,
            max_path: MAX_PATH,
            tags: BTreeMap::new(),
            to: None,
        }
    }
}

/// A tag of somebody's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomTag {
    /// Where its value comes from.
    pub from: TagFrom,
    /// The value, the variable or the header, in lower case.
    pub value: String,
    /// The value where there is no such variable or header; without one the tag is left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default: String,
}

/// Where the value of a tag comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TagFrom {
    /// It is written down.
    Literal,
    /// A variable of the proxy's environment.
    Environment,
    /// A header of the request.
    Header,
}

/// Who gets spans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpanSink {
    /// The cluster's name.
    pub cluster: String,
    /// The host that is asked for.
    pub authority: String,
    /// In what words.
    pub speaks: SpanFormat,
    /// Where, by HTTP.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Further fields of each request; lower-case names.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<(String, String)>,
    /// For an answer.
    pub timeout: Duration,
    /// What the workload is called there.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
}

impl Default for SpanSink {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            authority: String::new(),
            speaks: SpanFormat::OtlpGrpc,
            path: String::new(),
            headers: Vec::new(),
            timeout: TIMEOUT,
            service: String::new(),
        }
    }
}

/// How spans are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SpanFormat {
    /// `opentelemetry.proto.collector.trace.v1.TraceService/Export`.
    OtlpGrpc,
    /// The same message as the body of a POST.
    OtlpHttp,
    /// Zipkin's second version, as JSON.
    Zipkin {
        /// Contexts are passed on in W3C's form beside B3; else in B3 alone.
        w3c: bool,
        /// Identifiers of traces that begin here have 128 bits; else 64.
        wide: bool,
    },
}

/// What is said of spans, and for whom.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// For everybody, under all else.
    pub base: Option<Rule>,
    /// By Telemetries, the oldest first.
    pub all: Vec<Arc<Told<Rule>>>,
}

/// One thing that is said. What is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Of the calls of applications, and of gateways.
    pub client: bool,
    /// Of the calls to applications.
    pub server: bool,
    /// Who gets spans besides the control plane, and the longest path that it takes; nobody where whoever was
    /// named is not there.
    pub to: Option<Option<(SpanSink, Option<u32>)>>,
    /// Of traces that begin here.
    pub sampling: Option<Share>,
    /// There are none.
    pub off: Option<bool>,
    /// Longest path.
    pub max_path: Option<u32>,
    /// Tags, which take the place of others that were said before.
    pub tags: BTreeMap<String, CustomTag>,
    /// Those of Istio's are set too.
    pub istio_tags: Option<bool>,
}
