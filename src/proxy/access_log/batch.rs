//! Entries that go to a service together, and the messages that they go in.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries, TcpAccessLogEntries,
};
use prost::Message as _;

use crate::mesh::access_log::service::{LogService, Otlp, Record, Says};
use crate::mesh::tracing::{CustomTag, TagFrom};
use crate::rt::UnixMillis;
use crate::telemetry::otlp::{InstrumentationScope, KeyValue, Resource, text};
use crate::telemetry::otlp_logs::{ExportLogsServiceRequest, LogRecord, ResourceLogs, ScopeLogs};
use crate::telemetry::{AccessRecord, Place};

use super::entry::{Besides, Tags, http, tcp};

/// How entries of one service are written.
#[derive(Debug)]
pub(super) struct Writes {
    says: Says,
    /// By name, where a tag comes from.
    tags: BTreeMap<String, CustomTag>,
    record: Record,
    resource: Resource,
    introduction: Vec<u8>,
}

/// Entries that wait for others.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) entries: Entries,
    pub(super) count: usize,
    /// Bytes of theirs, about.
    pub(super) bytes: usize,
}

/// Entries in somebody's words.
#[derive(Debug)]
pub(super) enum Entries {
    Http(Vec<HttpAccessLogEntry>),
    Tcp(Vec<TcpAccessLogEntry>),
    Otlp(Vec<LogRecord>),
}

impl Writes {
    pub(super) fn new(service: &LogService, node: &Node) -> Self {
        let (record, resource) = match &service.says {
            // One that cannot be read comes with no format: whoever sent it was told.
            Says::Otlp(said) => (
                said.compile().unwrap_or_default(),
                resource(service, said, node),
            ),
            Says::Http { .. } | Says::Tcp => (Record::default(), Resource::default()),
        };
        let introduction = StreamAccessLogsMessage {
            identifier: Some(Identifier {
                node: Some(node.clone()),
                log_name: service.name.clone(),
            }),
            ..StreamAccessLogsMessage::default()
        };
        Self {
            says: service.says.clone(),
            tags: service.tags.clone(),
            record,
            resource,
            introduction: introduction.encode_to_vec(),
        }
    }

    /// Values of tags that `record` has.
    fn tags(&self, record: &AccessRecord, place: &Place) -> Tags {
        let tags = self.tags.iter();
        let said = tags.filter_map(|(name, tag)| {
            let found = match tag.from {
                TagFrom::Literal => Some(tag.value.as_str()),
                TagFrom::Environment => place.environment.get(&tag.value).map(String::as_str),
                TagFrom::Header => record.request_field(&tag.value),
            };
            let or = || Some(tag.default.as_str()).filter(|text| !text.is_empty());
            Some((name.clone(), found.or_else(or)?.to_owned()))
        });
        said.collect()
    }

    /// Who tells, as the beginning of the first message of a stream.
    pub(super) fn introduction(&self) -> &[u8] {
        &self.introduction
    }

    /// The message that `entries` go in.
    pub(super) fn message(&self, entries: Entries) -> Vec<u8> {
        let streamed = |entries| {
            let message = StreamAccessLogsMessage {
                log_entries: Some(entries),
                ..StreamAccessLogsMessage::default()
            };
            message.encode_to_vec()
        };
        match entries {
            Entries::Http(log_entry) => {
                streamed(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry }))
            }
            Entries::Tcp(log_entry) => {
                streamed(LogEntries::TcpLogs(TcpAccessLogEntries { log_entry }))
            }
            Entries::Otlp(log_records) => ExportLogsServiceRequest {
                resource_logs: vec![ResourceLogs {
                    resource: Some(self.resource.clone()),
                    scope_logs: vec![ScopeLogs {
                        scope: Some(InstrumentationScope {
                            name: "meshctl".to_owned(),
                            version: env!("CARGO_PKG_VERSION").to_owned(),
                            ..InstrumentationScope::default()
                        }),
                        log_records,
                    }],
                }],
            }
            .encode_to_vec(),
        }
    }
}

/// Envoy's own attributes, where they are wanted, and those that are written.
fn resource(service: &LogService, said: &Otlp, node: &Node) -> Resource {
    let zone = node.locality.as_ref().map_or("", |at| at.zone.as_str());
    let own = [
        ("log_name", service.name.as_str()),
        ("zone_name", zone),
        ("cluster_name", node.cluster.as_str()),
        ("node_name", node.id.as_str()),
    ];
    let own = own
        .into_iter()
        .filter(|(name, _)| said.builtin && !said.resource.contains_key(*name));
    let written = said.resource.iter();
    let written = written.map(|(name, value)| text(name, value.as_str()));
    Resource {
        attributes: own
            .map(|(name, value)| text(name, value))
            .chain(written)
            .collect(),
    }
}

impl Batch {
    pub(super) fn new(writes: &Writes) -> Self {
        Self {
            entries: match writes.says {
                Says::Http { .. } => Entries::Http(Vec::new()),
                Says::Tcp => Entries::Tcp(Vec::new()),
                Says::Otlp(_) => Entries::Otlp(Vec::new()),
            },
            count: 0,
            bytes: 0,
        }
    }

    /// Adds what is said of `record`, at the proxy's place and moment.
    pub(super) fn add(
        &mut self,
        writes: &Writes,
        record: &AccessRecord,
        (place, now): (&Place, UnixMillis),
    ) {
        let tags = writes.tags(record, place);
        self.count += 1;
        self.bytes += match (&mut self.entries, &writes.says) {
            (
                Entries::Http(entries),
                Says::Http {
                    request,
                    response,
                    trailers,
                },
            ) => {
                let besides = Besides {
                    request,
                    response,
                    trailers,
                };
                let entry = http(record, besides, tags);
                let bytes = entry.encoded_len();
                entries.push(entry);
                bytes
            }
            (Entries::Otlp(records), _) => {
                let mut one = writes.record.write(record, (place, now));
                let tags = tags.into_iter();
                let tags = tags.map(|(name, value)| -> KeyValue { text(&name, value) });
                one.attributes.extend(tags);
                let bytes = one.encoded_len();
                records.push(one);
                bytes
            }
            (Entries::Tcp(entries), _) => {
                let entry = tcp(record, tags);
                let bytes = entry.encoded_len();
                entries.push(entry);
                bytes
            }
            // A batch has the entries of whatever writes it.
            (Entries::Http(_), _) => 0,
        };
    }
}
