//! Who is told of calls, and in what words.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::pb::{
    Any, PbDuration, UInt32Value, access_log, core, custom_tag, is, otel, to_duration,
};
use super::access_log::{COMMON, OTLP, unpack};
use super::tracing;
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::service::{BUFFER_BYTES, FLUSH, HTTP_PATH, LogService, Otlp, Says};
use crate::mesh::tracing::{CustomTag, SpanFormat, SpanSink};

/// None where `config` is none of these.
pub(super) fn decode(
    config: &Any,
    ignored: &mut Vec<String>,
) -> Result<Option<LogService>, String> {
    let lower = |names: Vec<String>| {
        let names = names.into_iter();
        names.map(|name| name.to_ascii_lowercase()).collect()
    };
    Ok(Some(if is::<access_log::HttpGrpcAccessLogConfig>(config) {
        let from: access_log::HttpGrpcAccessLogConfig = unpack(config)?;
        LogService {
            says: Says::Http {
                request: lower(from.additional_request_headers_to_log),
                response: lower(from.additional_response_headers_to_log),
                trailers: lower(from.additional_response_trailers_to_log),
            },
            ..common(from.common_config, ignored)?
        }
    } else if is::<access_log::TcpGrpcAccessLogConfig>(config) {
        let from: access_log::TcpGrpcAccessLogConfig = unpack(config)?;
        common(from.common_config, ignored)?
    } else if is::<access_log::OpenTelemetryAccessLogConfig>(config) {
        otlp(unpack(config)?, ignored)?
    } else {
        return Ok(None);
    }))
}

fn common(
    from: Option<access_log::CommonGrpcAccessLogConfig>,
    ignored: &mut Vec<String>,
) -> Result<LogService, String> {
    let from = from.ok_or("it says nothing of who is told")?;
    COMMON
        .audit(&from, ignored)
        .map_err(|fault| fault.to_string())?;
    let to = from.grpc_service.as_ref();
    let to = grpc(to.ok_or("it has no grpc_service")?)?;
    Ok(LogService {
        name: from.log_name,
        flush: flush(from.buffer_flush_interval.as_ref())?,
        buffer_bytes: bytes(from.buffer_size_bytes.as_ref()),
        filter_state: from.filter_state_objects_to_log,
        tags: tags(&from.custom_tags, ignored),
        ..to
    })
}

fn grpc(from: &core::GrpcService) -> Result<LogService, String> {
    let to = tracing::grpc(from).ok_or("its grpc_service names no cluster (envoy_grpc)")?;
    Ok(told(to))
}

fn told(to: SpanSink) -> LogService {
    LogService {
        cluster: to.cluster,
        authority: to.authority,
        headers: to.headers,
        timeout: to.timeout,
        ..LogService::default()
    }
}

fn flush(from: Option<&PbDuration>) -> Result<Duration, String> {
    let Some(from) = from else {
        return Ok(FLUSH);
    };
    let flush = to_duration(from).filter(|flush| !flush.is_zero());
    flush.ok_or_else(|| "its buffer_flush_interval is no time".to_owned())
}

fn bytes(from: Option<&UInt32Value>) -> u32 {
    from.map_or(BUFFER_BYTES, |bytes| bytes.value)
}

fn tags(from: &[custom_tag::CustomTag], ignored: &mut Vec<String>) -> BTreeMap<String, CustomTag> {
    let mut tags = BTreeMap::new();
    for tag in from {
        match tracing::tag(tag) {
            Some(read) => drop(tags.insert(tag.tag.clone(), read)),
            None => ignored.push(format!("access_log custom_tags {}", tag.tag)),
        }
    }
    tags
}

#[expect(deprecated, reason = "other control planes send it, and so do we")]
fn otlp(
    mut from: access_log::OpenTelemetryAccessLogConfig,
    ignored: &mut Vec<String>,
) -> Result<LogService, String> {
    OTLP.audit(&from, ignored)
        .map_err(|fault| fault.to_string())?;
    let mut http_path = None;
    let mut to = match (
        from.common_config.take(),
        &from.grpc_service,
        &from.http_service,
    ) {
        (Some(common), None, None) => self::common(Some(common), ignored)?,
        (None, Some(service), None) => grpc(service)?,
        (None, None, Some(service)) => {
            let to = tracing::http(service, SpanFormat::OtlpHttp);
            let mut to = to.ok_or("its http_service is not understood")?;
            let path = std::mem::take(&mut to.path);
            http_path = Some(if path.is_empty() {
                HTTP_PATH.to_owned()
            } else {
                path
            });
            told(to)
        }
        _ => return Err("one of common_config, grpc_service and http_service".to_owned()),
    };
    // What stands here goes over what stands in `common_config`.
    if !from.log_name.is_empty() {
        to.name = from.log_name;
    }
    if from.buffer_flush_interval.is_some() {
        to.flush = flush(from.buffer_flush_interval.as_ref())?;
    }
    if from.buffer_size_bytes.is_some() {
        to.buffer_bytes = bytes(from.buffer_size_bytes.as_ref());
    }
    if !from.filter_state_objects_to_log.is_empty() {
        to.filter_state = from.filter_state_objects_to_log;
    }
    to.tags.extend(tags(&from.custom_tags, ignored));
    let attributes = from.attributes.unwrap_or_default();
    let mut resource = BTreeMap::new();
    for pair in from.resource_attributes.unwrap_or_default().values {
        match pair.value.and_then(|value| value.value) {
            Some(otel::any_value::Value::StringValue(text)) => {
                resource.insert(pair.key, text);
            }
            _ => ignored.push(format!(
                "access_log resource_attributes {} is no text",
                pair.key
            )),
        }
    }
    let said = Otlp {
        body: from.body.as_ref().map(part).transpose()?,
        attributes: object(&attributes)?,
        resource,
        builtin: !from.disable_builtin_labels,
        http_path,
    };
    if let Err(bad) = said.compile() {
        return Err(bad.to_string());
    }
    to.says = Says::Otlp(Box::new(said));
    Ok(to)
}

fn object(from: &otel::KeyValueList) -> Result<BTreeMap<String, Part>, String> {
    let values = from.values.iter();
    values
        .map(|pair| {
            let value = pair.value.clone().unwrap_or_default();
            Ok((pair.key.clone(), part(&value)?))
        })
        .collect()
}

fn part(from: &otel::AnyValue) -> Result<Part, String> {
    use otel::any_value::Value;
    Ok(match &from.value {
        Some(Value::StringValue(text)) => Part::Text(text.clone()),
        Some(Value::KvlistValue(list)) => Part::Object(object(list)?),
        Some(Value::ArrayValue(list)) => {
            Part::List(list.values.iter().map(part).collect::<Result<_, _>>()?)
        }
        // Envoy's rule.
        _ => return Err("values of a record are texts, lists and objects".to_owned()),
    })
}
