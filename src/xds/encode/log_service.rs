//! Who is told of calls, and in what words.

use super::super::pb::{Any, access_log, any, core, duration, otel, u32_value};
use super::tracing;
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::service::{BUFFER_BYTES, FLUSH, LogService, Otlp, Says};
use crate::mesh::tracing::TIMEOUT;

/// The name that Envoy has for such a log, and its configuration.
pub(super) fn encode(from: &LogService) -> (&'static str, Any) {
    match &from.says {
        Says::Http {
            request,
            response,
            trailers,
        } => (
            "envoy.access_loggers.http_grpc",
            any(&access_log::HttpGrpcAccessLogConfig {
                common_config: Some(common(from)),
                additional_request_headers_to_log: request.clone(),
                additional_response_headers_to_log: response.clone(),
                additional_response_trailers_to_log: trailers.clone(),
            }),
        ),
        Says::Tcp => (
            "envoy.access_loggers.tcp_grpc",
            any(&access_log::TcpGrpcAccessLogConfig {
                common_config: Some(common(from)),
            }),
        ),
        Says::Otlp(said) => (
            "envoy.access_loggers.open_telemetry",
            any(&otlp(from, said)),
        ),
    }
}

fn common(from: &LogService) -> access_log::CommonGrpcAccessLogConfig {
    access_log::CommonGrpcAccessLogConfig {
        log_name: from.name.clone(),
        grpc_service: Some(tracing::grpc(
            (&from.cluster, &from.authority),
            &from.headers,
            (from.timeout != TIMEOUT).then_some(from.timeout),
        )),
        transport_api_version: core::ApiVersion::V3.into(),
        buffer_flush_interval: (from.flush != FLUSH)
            .then(|| duration(from.flush))
            .flatten(),
        buffer_size_bytes: (from.buffer_bytes != BUFFER_BYTES)
            .then(|| u32_value(from.buffer_bytes))
            .flatten(),
        filter_state_objects_to_log: from.filter_state.clone(),
        custom_tags: tracing::tags(&from.tags),
        ..Default::default()
    }
}

#[expect(
    deprecated,
    reason = "the fields in its place are not known to older Envoys"
)]
fn otlp(from: &LogService, said: &Otlp) -> access_log::OpenTelemetryAccessLogConfig {
    let attributes = said.attributes.iter();
    let attributes = attributes.map(|(name, part)| pair(name, value(part)));
    let resource = said.resource.iter();
    let resource = resource.map(|(name, said)| pair(name, text(said)));
    let list =
        |values: Vec<otel::KeyValue>| (!values.is_empty()).then_some(otel::KeyValueList { values });
    let mut to = access_log::OpenTelemetryAccessLogConfig {
        disable_builtin_labels: !said.builtin,
        resource_attributes: list(resource.collect()),
        body: said.body.as_ref().map(value),
        attributes: list(attributes.collect()),
        ..Default::default()
    };
    let common = common(from);
    match &said.http_path {
        None => to.common_config = Some(common),
        Some(path) => {
            let host = (from.cluster.as_str(), from.authority.as_str());
            to.http_service = Some(tracing::http(host, path, &from.headers, from.timeout));
            to.log_name = common.log_name;
            to.buffer_flush_interval = common.buffer_flush_interval;
            to.buffer_size_bytes = common.buffer_size_bytes;
            to.filter_state_objects_to_log = common.filter_state_objects_to_log;
            to.custom_tags = common.custom_tags;
        }
    }
    to
}

fn pair(name: &str, value: otel::AnyValue) -> otel::KeyValue {
    otel::KeyValue {
        key: name.to_owned(),
        value: Some(value),
        ..Default::default()
    }
}

fn text(text: &str) -> otel::AnyValue {
    otel::AnyValue {
        value: Some(otel::any_value::Value::StringValue(text.to_owned())),
    }
}

fn value(part: &Part) -> otel::AnyValue {
    use otel::any_value::Value;
    let value = match part {
        Part::Text(said) => return text(said),
        Part::List(parts) => Value::ArrayValue(otel::ArrayValue {
            values: parts.iter().map(value).collect(),
        }),
        Part::Object(parts) => Value::KvlistValue(otel::KeyValueList {
            values: parts
                .iter()
                .map(|(name, part)| pair(name, value(part)))
                .collect(),
        }),
    };
    otel::AnyValue { value: Some(value) }
}
