//! A call as whoever taps is told of it: Envoy's entry, with tags that name both ends.

use envoy_types::pb::envoy::data::accesslog::v3 as accesslog;

use super::super::access_log::entry::{Besides, http};
use crate::telemetry::{AccessRecord, Registry};

/// The message. Fields of the request are those of `headers`.
pub(super) fn entry(
    record: &AccessRecord,
    headers: &[String],
    registry: &Registry,
) -> accesslog::HttpAccessLogEntry {
    let source = registry.peer_labels(record.source);
    let destination = registry.peer_labels(record.destination);
    let service = registry.service_labels(record.service);
    // As Istio's metrics call these.
    let tags = [
        (
            "reporter",
            if record.inbound {
                "destination"
            } else {
                "source"
            },
        ),
        ("source_workload", source.workload.as_str()),
        ("source_workload_namespace", &source.namespace),
        ("destination_workload", &destination.workload),
        ("destination_workload_namespace", &destination.namespace),
        ("destination_version", &destination.version),
        ("destination_service_name", &service.name),
        ("destination_service_namespace", &service.namespace),
        (
            "request_protocol",
            if record.grpc { "grpc" } else { "http" },
        ),
        (
            "connection_security_policy",
            if record.mtls { "mutual_tls" } else { "none" },
        ),
        // The message has methods of a closed list only.
        ("request_method", record.method.as_str()),
    ];
    let tags = tags.into_iter().filter(|(_, value)| !value.is_empty());
    let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let besides = Besides {
        request: headers,
        trailers: &["grpc-status".to_owned()],
        ..Besides::default()
    };
    http(record, besides, tags.collect())
}
