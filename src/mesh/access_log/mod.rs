//! Which calls are logged, how, and where to: what Envoy's `access_log` says.

pub mod format;
pub mod operators;
pub mod rules;
pub mod service;
pub mod usual;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::expression::Expression;
use super::route::{HeaderMatch, Share};
pub use format::Format;
use service::LogService;

/// Standard output.
pub const STDOUT: &str = "/dev/stdout";
/// Standard error.
pub const STDERR: &str = "/dev/stderr";
/// Where a log goes that is off: so that a proxy logs nothing of its own either.
pub const NOWHERE: &str = "/dev/null";

/// One log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logger {
    /// Where it goes, and what it says there.
    pub to: Sink,
    /// Which calls; all without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sink {
    /// Lines.
    File {
        /// A file, [`STDOUT`] or [`STDERR`].
        path: String,
        /// What a line says.
        format: Format,
    },
    /// A service is told.
    Service(Arc<LogService>),
}

impl Logger {
    /// Lines of all calls.
    pub fn file(path: impl Into<String>, format: Format) -> Self {
        Self {
            to: Sink::File {
                path: path.into(),
                format,
            },
            filter: None,
        }
    }

    /// A service is told of all calls.
    pub fn service(service: LogService) -> Self {
        Self {
            to: Sink::Service(Arc::new(service)),
            filter: None,
        }
    }

    /// The log of nothing.
    pub fn off() -> Self {
        Self {
            filter: Some(Filter::Sample(Share::NONE)),
            ..Self::file(NOWHERE, Format::Text(String::new()))
        }
    }

    /// The same of the calls that `filter` lets pass.
    #[must_use]
    pub fn filtered(self, filter: Option<Filter>) -> Self {
        Self { filter, ..self }
    }

    /// Nothing is logged by it.
    pub fn is_off(&self) -> bool {
        matches!(&self.to, Sink::File { path, .. } if path == NOWHERE)
    }
}

/// How a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Compare {
    /// It is that.
    Equal,
    /// It is not that.
    Unequal,
    /// It is that or more.
    AtLeast,
    /// It is that or less.
    AtMost,
}

impl Compare {
    /// Whether it holds.
    pub fn holds(self, figure: u64, against: u32) -> bool {
        let against = u64::from(against);
        match self {
            Self::Equal => figure == against,
            Self::Unequal => figure != against,
            Self::AtLeast => figure >= against,
            Self::AtMost => figure <= against,
        }
    }
}

/// Which calls are logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// By status; 0 where there was none.
    Status(Compare, u32),
    /// By milliseconds from the first to the last byte.
    Duration(Compare, u32),
    /// Others than the proxy's own health checks, of which none come by here.
    NotHealthCheck,
    /// Some of them.
    Sample(Share),
    /// By a field of the request.
    Header(HeaderMatch),
    /// By response flags: one of these, or any where none are named.
    Flags(Vec<String>),
    /// By gRPC status: one of these, or (`except`) none of these. What is no gRPC is judged by the status that its HTTP
    /// status stands for, where 200 is unknown (Envoy's reading).
    Grpc {
        /// Numbers.
        statuses: Vec<u8>,
        /// All others.
        except: bool,
    },
    /// By an expression.
    Expression(Expression),
    /// All of these hold.
    All(Vec<Filter>),
    /// One of these holds.
    Any(Vec<Filter>),
}

impl Filter {
    /// Names of the fields of requests that it asks about, in lower case.
    pub fn request_fields(&self, found: &mut Vec<String>) {
        match self {
            Self::Header(header) => found.push(header.name.clone()),
            Self::Expression(expression) => {
                found.extend(expression.request_fields().into_iter().map(str::to_owned));
            }
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.request_fields(found);
                }
            }
            _ => {}
        }
    }

    /// Names of the fields of answers that it asks about, in lower case.
    pub fn response_fields(&self, found: &mut Vec<String>) {
        match self {
            Self::Expression(expression) => {
                found.extend(expression.response_fields().into_iter().map(str::to_owned));
            }
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.response_fields(found);
                }
            }
            _ => {}
        }
    }
}
