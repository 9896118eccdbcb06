//! Logs as OpenTelemetry's messages (`opentelemetry-proto` 1.x, `logs/v1/logs.proto` and
//! `collector/logs/v1/logs_service.proto`), as far as proxies say something.

use envoy_types::pb::opentelemetry::proto::common::v1::{ArrayValue, KeyValueList};

use super::AccessRecord;
use super::line::{Place, Writer};
use super::otlp::{AnyValue, InstrumentationScope, KeyValue, Resource, Value};
use crate::mesh::access_log::format::Node;
use crate::mesh::access_log::service::Record;
use crate::rt::UnixMillis;

/// The path of the service's one method.
pub const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Some records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportLogsServiceRequest {
    /// By who made them.
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

/// What became of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportLogsServiceResponse {
    /// Those that were not taken.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<ExportLogsPartialSuccess>,
}

/// Records that were not taken, and will not be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportLogsPartialSuccess {
    /// So many.
    #[prost(int64, tag = "1")]
    pub rejected_log_records: i64,
    /// Why.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// Records of one maker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceLogs {
    /// The maker.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// By what in it made them.
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

/// Records of one part of their maker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeLogs {
    /// The part.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// The records.
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

/// One call or connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogRecord {
    /// When it began, in nanoseconds since 1970.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// What is said of it.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// What else is known of it.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    /// 16 bytes; empty where it is of no trace.
    #[prost(bytes = "vec", tag = "9")]
    pub trace_id: Vec<u8>,
    /// 8 bytes; empty where it is of none.
    #[prost(bytes = "vec", tag = "10")]
    pub span_id: Vec<u8>,
}

impl Record {
    /// What `record` comes to.
    pub fn write(&self, record: &AccessRecord, (place, now): (&Place, UnixMillis)) -> LogRecord {
        let writer = Writer { record, place, now };
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(name, node)| pair(name, value(node, &writer)));
        LogRecord {
            time_unix_nano: record.start.saturating_mul(1_000_000),
            body: self.body.as_ref().map(|node| value(node, &writer)),
            attributes: attributes.collect(),
            trace_id: record
                .trace
                .map_or_else(Vec::new, |(trace, _)| trace.to_be_bytes().to_vec()),
            span_id: record
                .trace
                .map_or_else(Vec::new, |(_, span)| span.to_be_bytes().to_vec()),
        }
    }
}

fn pair(name: &str, value: AnyValue) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(value),
        ..KeyValue::default()
    }
}

/// Figures are texts to Envoy here, and nothing is `-`.
fn value(node: &Node, writer: &Writer<'_>) -> AnyValue {
    let mut text = String::new();
    let value = match node {
        Node::Value(operator, most) => {
            writer.one(operator, *most, &mut text, false);
            Value::StringValue(text)
        }
        Node::Text(template) => {
            writer.text(template, &mut text, false);
            Value::StringValue(text)
        }
        Node::List(list) => Value::ArrayValue(ArrayValue {
            values: list.iter().map(|node| value(node, writer)).collect(),
        }),
        Node::Object(parts) => Value::KvlistValue(KeyValueList {
            values: parts
                .iter()
                .map(|(name, node)| pair(name, value(node, writer)))
                .collect(),
        }),
    };
    AnyValue { value: Some(value) }
}
