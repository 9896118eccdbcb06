//! Which calls are logged, and how.

use std::collections::BTreeMap;

use super::super::canonical;
use super::super::pb::{Any, Struct, Value, access_log, any, core};
use super::super::structs::{list, nested, object, text};
use super::log_service;
use super::route::header_match;
use super::route_policy::fraction;
use crate::mesh::Client;
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::{Compare, Filter, Format, Logger, Sink};

/// Envoy wants a key for what could be changed while it runs.
const KEY: &str = "meshctl.access_log";

pub(super) fn encode(from: &Logger, client: Client) -> access_log::AccessLog {
    let (name, config) = match &from.to {
        Sink::File { path, format } => ("envoy.access_loggers.file", file(path, format)),
        Sink::Service(service) => log_service::encode(service),
    };
    access_log::AccessLog {
        name: name.to_owned(),
        filter: from.filter.as_ref().map(|from| filter(from, client)),
        config_type: Some(access_log::Config::TypedConfig(config)),
    }
}

fn file(path: &str, format: &Format) -> Any {
    let format = match format {
        Format::Text(text) => access_log::FormatKind::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text.clone())),
            ..Default::default()
        }),
        Format::Json(parts) => access_log::FormatKind::JsonFormat(fields(parts)),
    };
    let file = access_log::FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(access_log::FileFormat::LogFormat(
            core::SubstitutionFormatString {
                format: Some(format),
                ..Default::default()
            },
        )),
    };
    let mut config = any(&file);
    config.value = canonical::encode(&file, &canonical::FILE_LOG);
    config
}

fn fields(parts: &BTreeMap<String, Part>) -> Struct {
    object(parts.iter().map(|(name, part)| (name.clone(), one(part))))
}

fn one(part: &Part) -> Value {
    match part {
        Part::Text(said) => text(said.clone()),
        Part::List(parts) => list(parts.iter().map(one).collect()),
        Part::Object(parts) => nested(fields(parts)),
    }
}

fn filter(from: &Filter, client: Client) -> access_log::AccessLogFilter {
    use access_log::FilterKind as To;
    let all = |parts: &[Filter]| parts.iter().map(|part| filter(part, client)).collect();
    access_log::AccessLogFilter {
        filter_specifier: Some(match from {
            Filter::Status(how, figure) => To::StatusCodeFilter(access_log::StatusCodeFilter {
                comparison: Some(comparison(*how, *figure)),
            }),
            Filter::Duration(how, figure) => To::DurationFilter(access_log::DurationFilter {
                comparison: Some(comparison(*how, *figure)),
            }),
            Filter::NotHealthCheck => To::NotHealthCheckFilter(access_log::NotHealthCheckFilter {}),
            Filter::Sample(share) => To::RuntimeFilter(access_log::RuntimeFilter {
                runtime_key: KEY.to_owned(),
                percent_sampled: Some(fraction(*share)),
                use_independent_randomness: true,
            }),
            Filter::Header(header) => To::HeaderFilter(access_log::HeaderFilter {
                header: Some(header_match(header, client)),
            }),
            Filter::Flags(flags) => To::ResponseFlagFilter(access_log::ResponseFlagFilter {
                flags: flags.clone(),
            }),
            Filter::Grpc { statuses, except } => {
                To::GrpcStatusFilter(access_log::GrpcStatusFilter {
                    statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
                    exclude: *except,
                })
            }
            Filter::Expression(expression) => To::ExtensionFilter(access_log::ExtensionFilter {
                name: "envoy.access_loggers.extension_filters.cel".to_owned(),
                config_type: Some(access_log::FilterConfig::TypedConfig(expressed(
                    expression.as_str(),
                ))),
            }),
            Filter::All(parts) => To::AndFilter(access_log::AndFilter {
                filters: all(parts),
            }),
            Filter::Any(parts) => To::OrFilter(access_log::OrFilter {
                filters: all(parts),
            }),
        }),
    }
}

fn expressed(text: &str) -> Any {
    any(&access_log::ExpressionFilter {
        expression: text.to_owned(),
        ..Default::default()
    })
}

fn comparison(how: Compare, figure: u32) -> access_log::ComparisonFilter {
    use access_log::Op;
    access_log::ComparisonFilter {
        op: match how {
            Compare::Equal => Op::Eq,
            Compare::Unequal => Op::Ne,
            Compare::AtLeast => Op::Ge,
            Compare::AtMost => Op::Le,
        }
        .into(),
        value: Some(core::RuntimeUInt32 {
            default_value: figure,
            runtime_key: KEY.to_owned(),
        }),
    }
}
