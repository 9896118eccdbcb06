//! Which calls are logged, and how. A log only tells: one that is not understood is left out and reported.

use std::collections::BTreeMap;

use super::super::pb::{Any, Struct, Value, access_log, core, is, value};
use super::fields::Fields;
use super::log_service;
use super::route::header_match;
use super::route_policy::share;
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::usual::ENVOY;
use crate::mesh::access_log::{Compare, Filter, Format, Logger, STDERR, STDOUT};
use crate::mesh::expression::Expression;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&LOG, &FILE, &HTTP, &TCP, &COMMON, &OTLP];

const LOG: Fields = Fields {
    message: "AccessLog",
    understood: &[(1, "name"), (2, "filter"), (4, "typed_config")],
    tuning: &[],
    refused: &[],
};
const FILE: Fields = Fields {
    message: "FileAccessLog",
    understood: &[
        (1, "path"),
        (2, "format"),
        (3, "json_format"),
        (4, "typed_json_format"),
        (5, "log_format"),
    ],
    tuning: &[],
    refused: &[],
};

const HTTP: Fields = Fields {
    message: "HttpGrpcAccessLogConfig",
    understood: &[
        (1, "common_config"),
        (2, "additional_request_headers_to_log"),
        (3, "additional_response_headers_to_log"),
        (4, "additional_response_trailers_to_log"),
    ],
    tuning: &[],
    refused: &[],
};
const TCP: Fields = Fields {
    message: "TcpGrpcAccessLogConfig",
    understood: &[(1, "common_config")],
    tuning: &[],
    refused: &[],
};
pub(super) const COMMON: Fields = Fields {
    message: "CommonGrpcAccessLogConfig",
    understood: &[
        (1, "log_name"),
        (2, "grpc_service"),
        (3, "buffer_flush_interval"),
        (4, "buffer_size_bytes"),
        (6, "transport_api_version"),
        (8, "custom_tags"),
    ],
    tuning: &[
        (5, "filter_state_objects_to_log"),
        (7, "grpc_stream_retry_policy"),
    ],
    refused: &[],
};
pub(super) const OTLP: Fields = Fields {
    message: "OpenTelemetryAccessLogConfig",
    understood: &[
        (1, "common_config"),
        (2, "body"),
        (3, "attributes"),
        (4, "resource_attributes"),
        (5, "disable_builtin_labels"),
        (8, "http_service"),
        (9, "grpc_service"),
        (10, "log_name"),
        (11, "buffer_flush_interval"),
        (12, "buffer_size_bytes"),
        (14, "custom_tags"),
    ],
    tuning: &[
        (6, "stat_prefix"),
        (13, "filter_state_objects_to_log"),
        (15, "resource_detectors"),
    ],
    refused: &[(7, "formatters")],
};

/// Filters within filters at most.
const MAX_DEPTH: usize = 16;

/// The logs; none where there are none.
pub(super) fn decode(from: &[access_log::AccessLog], ignored: &mut Vec<String>) -> Vec<Logger> {
    let read = from.iter().filter_map(|log| match one(log, ignored) {
        Ok(logger) => Some(logger),
        Err(reason) => {
            ignored.push(format!("access_log {}: {reason}", log.name));
            None
        }
    });
    read.collect()
}

fn one(from: &access_log::AccessLog, ignored: &mut Vec<String>) -> Result<Logger, String> {
    let Some(access_log::Config::TypedConfig(config)) = &from.config_type else {
        return Err("it has no configuration".to_owned());
    };
    let logger = if let Some(service) = log_service::decode(config, ignored)? {
        Logger::service(service)
    } else {
        let (path, format) = sink(config)?;
        if let Err(bad) = format.compile() {
            return Err(bad.to_string());
        }
        Logger::file(path, format)
    };
    let filter = from.filter.as_ref().map(|from| filter(from, 0));
    Ok(logger.filtered(filter.transpose()?))
}

pub(super) fn unpack<M: prost::Message + Default>(config: &Any) -> Result<M, String> {
    M::decode(config.value.as_slice()).map_err(|error| error.to_string())
}

#[expect(deprecated, reason = "older control planes still send them")]
fn sink(config: &Any) -> Result<(String, Format), String> {
    use access_log::FileFormat as From;
    if is::<access_log::StdoutAccessLog>(config) {
        let log: access_log::StdoutAccessLog = unpack(config)?;
        let format = log.access_log_format;
        let format = format.map(|access_log::StdoutFormat::LogFormat(format)| format);
        return Ok((STDOUT.to_owned(), written(format)?));
    }
    if is::<access_log::StderrAccessLog>(config) {
        let log: access_log::StderrAccessLog = unpack(config)?;
        let format = log.access_log_format;
        let format = format.map(|access_log::StderrFormat::LogFormat(format)| format);
        return Ok((STDERR.to_owned(), written(format)?));
    }
    if !is::<access_log::FileAccessLog>(config) {
        return Err(format!("{} is not served", config.type_url));
    }
    let file: access_log::FileAccessLog = unpack(config)?;
    if file.path.is_empty() {
        return Err("it has no path".to_owned());
    }
    let format = match file.access_log_format {
        None => written(None)?,
        Some(From::LogFormat(format)) => written(Some(format))?,
        Some(From::Format(text)) if text.is_empty() => written(None)?,
        Some(From::Format(text)) => Format::Text(text),
        Some(From::JsonFormat(fields) | From::TypedJsonFormat(fields)) => {
            Format::Json(object(&fields)?)
        }
    };
    Ok((file.path, format))
}

fn written(from: Option<core::SubstitutionFormatString>) -> Result<Format, String> {
    let Some(from) = from else {
        return Ok(Format::Text(ENVOY.to_owned()));
    };
    #[expect(deprecated, reason = "older control planes still send them")]
    match from.format {
        None => Ok(Format::Text(ENVOY.to_owned())),
        Some(access_log::FormatKind::TextFormat(text)) => Ok(Format::Text(text)),
        Some(access_log::FormatKind::TextFormatSource(source)) => match source.specifier {
            Some(core::data_source::Specifier::InlineString(text)) => Ok(Format::Text(text)),
            _ => Err("its format must be written there".to_owned()),
        },
        Some(access_log::FormatKind::JsonFormat(fields)) => Ok(Format::Json(object(&fields)?)),
    }
}

fn object(from: &Struct) -> Result<BTreeMap<String, Part>, String> {
    let fields = from.fields.iter();
    fields
        .map(|(name, value)| Ok((name.clone(), part(value)?)))
        .collect()
}

fn part(from: &Value) -> Result<Part, String> {
    match &from.kind {
        Some(value::Kind::StringValue(text)) => Ok(Part::Text(text.clone())),
        Some(value::Kind::StructValue(fields)) => Ok(Part::Object(object(fields)?)),
        Some(value::Kind::ListValue(list)) => Ok(Part::List(
            list.values.iter().map(part).collect::<Result<_, _>>()?,
        )),
        _ => Err("values of its object are texts, lists and objects".to_owned()),
    }
}

fn filter(from: &access_log::AccessLogFilter, depth: usize) -> Result<Filter, String> {
    use access_log::FilterKind as From;
    if depth > MAX_DEPTH {
        return Err("filters are nested too deeply".to_owned());
    }
    let all = |parts: &[access_log::AccessLogFilter]| -> Result<Vec<Filter>, String> {
        parts.iter().map(|part| filter(part, depth + 1)).collect()
    };
    let Some(from) = &from.filter_specifier else {
        return Err("its filter says nothing".to_owned());
    };
    Ok(match from {
        From::StatusCodeFilter(of) => {
            let (how, figure) = comparison(of.comparison.as_ref())?;
            Filter::Status(how, figure)
        }
        From::DurationFilter(of) => {
            let (how, figure) = comparison(of.comparison.as_ref())?;
            Filter::Duration(how, figure)
        }
        From::NotHealthCheckFilter(_) => Filter::NotHealthCheck,
        From::RuntimeFilter(of) => Filter::Sample(
            of.percent_sampled
                .map_or(crate::mesh::route::Share::NONE, share),
        ),
        From::AndFilter(of) => Filter::All(all(&of.filters)?),
        From::OrFilter(of) => Filter::Any(all(&of.filters)?),
        From::HeaderFilter(of) => {
            let header = of.header.as_ref().ok_or("its filter names no header")?;
            let (mut matches, mut ignored) = (Vec::new(), Vec::new());
            header_match(header, &mut matches, &mut ignored)
                .map_err(|_| "its filter by header is not understood")?;
            let mut matches: Vec<Filter> = matches.into_iter().map(Filter::Header).collect();
            match (matches.len(), matches.pop()) {
                (1, Some(only)) => only,
                (_, last) => Filter::All(matches.into_iter().chain(last).collect()),
            }
        }
        From::ResponseFlagFilter(of) => Filter::Flags(of.flags.clone()),
        From::GrpcStatusFilter(of) => Filter::Grpc {
            statuses: of
                .statuses
                .iter()
                .map(|status| u8::try_from(*status).map_err(|_| "a gRPC status is out of range"))
                .collect::<Result<_, _>>()?,
            except: of.exclude,
        },
        From::ExtensionFilter(of) => match &of.config_type {
            Some(access_log::FilterConfig::TypedConfig(config))
                if is::<access_log::ExpressionFilter>(config) =>
            {
                let of: access_log::ExpressionFilter = unpack(config)?;
                let read = Expression::new(&of.expression);
                Filter::Expression(read.map_err(|bad| format!("its expression {bad}"))?)
            }
            _ => return Err(format!("filter {} is not served", of.name)),
        },
        From::TraceableFilter(_) | From::MetadataFilter(_) | From::LogTypeFilter(_) => {
            return Err("its filter is not served".to_owned());
        }
    })
}

fn comparison(from: Option<&access_log::ComparisonFilter>) -> Result<(Compare, u32), String> {
    use access_log::Op;
    let from = from.ok_or("its filter compares nothing")?;
    let how = match Op::try_from(from.op) {
        Ok(Op::Eq) => Compare::Equal,
        Ok(Op::Ne) => Compare::Unequal,
        Ok(Op::Ge) => Compare::AtLeast,
        Ok(Op::Le) => Compare::AtMost,
        Err(_) => return Err("a comparison of its filter is not served".to_owned()),
    };
    let figure = from.value.as_ref().map_or(0, |value| value.default_value);
    Ok((how, figure))
}
