//! How conditions look at a call: at its head while it is open, at its record when it has ended.

use std::borrow::Cow;
use std::net::SocketAddr;

use crate::mesh::expression::{Attribute, Attributes, Fields as Of, Value};
use crate::telemetry::{AccessRecord, Flag, PeerId, Registry};

use super::super::context::Conn;
use super::super::http::fields::Fields;

/// A request of which only the head is known.
pub(crate) struct Head<'h> {
    pub(crate) conn: &'h Conn,
    pub(crate) registry: &'h Registry,
    pub(crate) fields: Fields<'h>,
    pub(crate) method: &'h [u8],
    /// As sent.
    pub(crate) target: &'h [u8],
    pub(crate) authority: &'h [u8],
    pub(crate) protocol: &'static str,
}

/// A call that has ended.
pub(crate) struct Seen<'r> {
    pub(crate) record: &'r AccessRecord,
    pub(crate) registry: &'r Registry,
}

fn text(bytes: &[u8]) -> Value<'_> {
    Value::Text(String::from_utf8_lossy(bytes))
}

fn some(text: &str) -> Value<'_> {
    if text.is_empty() {
        Value::Absent
    } else {
        Value::Text(Cow::Borrowed(text))
    }
}

fn count(count: u64) -> Value<'static> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The path of a target that may be a whole URI.
fn path(target: &str) -> &str {
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    }
}

/// A part of a path with query, of which the other part is not looked at.
fn part(target: &str, which: Attribute) -> Value<'static> {
    let path = path(target);
    let (before, query) = path.split_once('?').unwrap_or((path, ""));
    Value::Text(Cow::Owned(match which {
        Attribute::UrlPath => before.to_owned(),
        Attribute::Query => query.to_owned(),
        _ => path.to_owned(),
    }))
}

fn peer(registry: &Registry, id: PeerId, which: Attribute) -> Value<'static> {
    let labels = registry.peer_labels(id);
    Value::Text(Cow::Owned(match which {
        Attribute::UpstreamNamespace | Attribute::DownstreamNamespace => labels.namespace,
        _ => labels.workload,
    }))
}

fn direction(inbound: bool) -> Value<'static> {
    Value::Int(if inbound { 1 } else { 2 })
}

impl Attributes for Head<'_> {
    fn attribute(&self, which: Attribute) -> Value<'_> {
        let field = |name| self.fields.first(name).map_or(Value::Absent, text);
        match which {
            Attribute::Path | Attribute::UrlPath | Attribute::Query => {
                part(&String::from_utf8_lossy(self.target), which)
            }
            Attribute::Host => text(self.authority),
            Attribute::Scheme => {
                Value::Text(Cow::Borrowed(if self.conn.tls { "https" } else { "http" }))
            }
            Attribute::Method => text(self.method),
            Attribute::Referer => field("referer"),
            Attribute::UserAgent => field("user-agent"),
            Attribute::RequestId => field("x-request-id"),
            Attribute::Protocol => Value::Text(Cow::Borrowed(self.protocol)),
            Attribute::SourceAddress => Value::Text(Cow::Owned(self.conn.remote.to_string())),
            Attribute::SourcePort => Value::Int(self.conn.remote.port().into()),
            Attribute::DestinationAddress => Value::Text(Cow::Owned(self.conn.local.to_string())),
            Attribute::DestinationPort => Value::Int(self.conn.local.port().into()),
            Attribute::Mtls => Value::Bool(self.conn.tls && self.conn.principal.is_some()),
            Attribute::ServerName => some(self.conn.server_name.as_deref().unwrap_or_default()),
            Attribute::PeerUri => some(self.conn.principal.as_deref().unwrap_or_default()),
            Attribute::Direction => direction(self.conn.inbound()),
            Attribute::DownstreamWorkload | Attribute::DownstreamNamespace
                if self.conn.inbound() =>
            {
                peer(self.registry, self.conn.peer.get(), which)
            }
            Attribute::DownstreamWorkload | Attribute::DownstreamNamespace => {
                Value::Text(Cow::Borrowed(""))
            }
            _ => Value::Unknown,
        }
    }

    fn field(&self, of: Of, name: &str) -> Value<'_> {
        match of {
            Of::Request => self.fields.first(name).map_or(Value::Absent, text),
            Of::Response => Value::Unknown,
        }
    }
}

impl Attributes for Seen<'_> {
    fn attribute(&self, which: Attribute) -> Value<'_> {
        let record = self.record;
        let port = |address: &str| {
            let address: Result<SocketAddr, _> = address.parse();
            address.map_or(Value::Absent, |address| Value::Int(address.port().into()))
        };
        let nanos = |time: std::time::Duration| {
            Value::Duration(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
        };
        match which {
            Attribute::Path | Attribute::UrlPath | Attribute::Query => part(&record.path, which),
            Attribute::Host => some(&record.authority),
            Attribute::Scheme => Value::Text(Cow::Borrowed(if record.inbound && record.mtls {
                "https"
            } else {
                "http"
            })),
            Attribute::Method => some(&record.method),
            Attribute::Referer => self.field(Of::Request, "referer"),
            Attribute::UserAgent => some(&record.user_agent),
            Attribute::RequestId => some(&record.request_id),
            Attribute::Protocol => some(record.protocol),
            Attribute::Duration => nanos(record.duration),
            Attribute::RequestSize => count(record.received),
            Attribute::ResponseSize => count(record.sent),
            Attribute::Code if record.code == 0 => Value::Absent,
            Attribute::Code => Value::Int(record.code.into()),
            Attribute::CodeDetails => some(record.details),
            Attribute::Flags => Value::Int((record.flag != Flag::None).into()),
            Attribute::GrpcStatus => record
                .grpc_status
                .map_or(Value::Absent, |status| Value::Int(status.into())),
            Attribute::BackendLatency => record.upstream_time.map_or(Value::Absent, nanos),
            Attribute::SourceAddress => some(&record.downstream_remote),
            Attribute::SourcePort => port(&record.downstream_remote),
            Attribute::DestinationAddress => some(&record.downstream_local),
            Attribute::DestinationPort => port(&record.downstream_local),
            Attribute::Mtls => Value::Bool(!record.principal.is_empty()),
            Attribute::ServerName => some(&record.server_name),
            Attribute::PeerUri => some(&record.principal),
            Attribute::UpstreamAddress => some(&record.upstream_host),
            Attribute::UpstreamPort => port(&record.upstream_host),
            Attribute::UpstreamFailure => some(&record.upstream_failure),
            Attribute::ClusterName => some(&record.upstream_cluster),
            Attribute::RouteName => some(&record.route),
            Attribute::Direction => direction(record.inbound),
            Attribute::UpstreamWorkload | Attribute::UpstreamNamespace => {
                peer(self.registry, record.destination, which)
            }
            Attribute::DownstreamWorkload | Attribute::DownstreamNamespace if record.inbound => {
                peer(self.registry, record.source, which)
            }
            Attribute::DownstreamWorkload | Attribute::DownstreamNamespace => {
                Value::Text(Cow::Borrowed(""))
            }
        }
    }

    fn field(&self, of: Of, name: &str) -> Value<'_> {
        let mut fields = match of {
            Of::Request => self.record.request_headers.iter(),
            Of::Response => self.record.response_headers.iter(),
        };
        let found = fields.find(|(known, _)| known == name);
        found.map_or(Value::Absent, |(_, value)| {
            Value::Text(Cow::Borrowed(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_out_of_targets() {
        for (target, whole, before, query) in [
            ("/a/b?c=d?e", "/a/b?c=d?e", "/a/b", "c=d?e"),
            ("/a", "/a", "/a", ""),
            ("http://host:80/a?b", "/a?b", "/a", "b"),
            ("http://host", "/", "/", ""),
            ("/a?u=http://x/", "/a?u=http://x/", "/a", "u=http://x/"),
            ("*", "*", "*", ""),
        ] {
            let is = |which, expected: &str| {
                assert_eq!(
                    part(target, which),
                    Value::Text(Cow::Borrowed(expected)),
                    "{target}"
                );
            };
            is(Attribute::Path, whole);
            is(Attribute::UrlPath, before);
            is(Attribute::Query, query);
        }
    }
}
