//! Taps on the wire: access loggers that come and go, as extension configurations (ECDS).
//!
//! A tap is Envoy's own `AccessLog` with a filter in CEL, a rate bound and the gRPC logger; the bucket of the bound is a
//! resource beside it, as Envoy has it. Both are delivered on a stream of their own rather than in listeners: a listener
//! that changes ends connections, a view that is kept on disk would bring a tap back that nobody looks at any more, and
//! what is looked at is no configuration of the mesh.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::filters::process_ratelimit::v3::{
    DynamicTokenBucket, ProcessRateLimitFilter,
};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};

use crate::mesh::expression::Expression;
use crate::mesh::filter::TokenBucket;
use crate::mesh::tap::Tap;

use super::pb::{self, Any, PbTokenBucket, core};

/// The type of the resources.
pub const TYPE_URL: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// The logger's name in Envoy.
const LOGGER: &str = "envoy.access_loggers.http_grpc";
/// The filters' names in Envoy.
const EXPRESSION: &str = "envoy.access_loggers.extension_filters.cel";
const RATE: &str = "envoy.access_loggers.extension_filters.process_ratelimit";

/// Why a resource is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct BadTap {
    /// The resource.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// The resources of a tap by name.
pub fn resources(tap: &Tap) -> [(String, Any); 2] {
    let bucket = format!("{}/rate", tap.name);
    let filter = |specifier| accesslog::AccessLogFilter {
        filter_specifier: Some(specifier),
    };
    let extension = |name: &str, config: Any| {
        filter(
            accesslog::access_log_filter::FilterSpecifier::ExtensionFilter(
                accesslog::ExtensionFilter {
                    name: name.to_owned(),
                    config_type: Some(accesslog::extension_filter::ConfigType::TypedConfig(config)),
                },
            ),
        )
    };
    let expression = ExpressionFilter {
        expression: tap.condition.as_str().to_owned(),
        ..ExpressionFilter::default()
    };
    let rate = ProcessRateLimitFilter {
        dynamic_config: Some(DynamicTokenBucket {
            resource_name: bucket.clone(),
            config_source: Some(pb::ads()),
        }),
    };
    let both = accesslog::access_log_filter::FilterSpecifier::AndFilter(accesslog::AndFilter {
        filters: vec![
            extension(EXPRESSION, pb::any(&expression)),
            extension(RATE, pb::any(&rate)),
        ],
    });
    let logger = HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: tap.name.clone(),
            transport_api_version: core::ApiVersion::V3.into(),
            buffer_flush_interval: pb::duration(Duration::from_millis(100)),
            ..CommonGrpcAccessLogConfig::default()
        }),
        additional_request_headers_to_log: tap.headers.clone(),
        ..HttpGrpcAccessLogConfig::default()
    };
    let log = accesslog::AccessLog {
        name: LOGGER.to_owned(),
        filter: Some(filter(both)),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(pb::any(
            &logger,
        ))),
    };
    let tokens = PbTokenBucket {
        max_tokens: tap.rate.max_tokens,
        tokens_per_fill: pb::u32_value(tap.rate.tokens_per_fill),
        fill_interval: pb::duration(tap.rate.fill_interval),
    };
    [
        (tap.name.clone(), typed(&tap.name, pb::any(&log))),
        (bucket.clone(), typed(&bucket, pb::any(&tokens))),
    ]
}

fn typed(name: &str, config: Any) -> Any {
    pb::any(&core::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    })
}

/// The taps of a set of resources. One whose bucket is not there is not one yet.
pub fn read(resources: &BTreeMap<String, Any>) -> (Vec<Tap>, Vec<BadTap>) {
    let (mut taps, mut bad) = (Vec::new(), Vec::new());
    for (name, resource) in resources {
        match logger(name, resource, resources) {
            Ok(tap) => taps.extend(tap),
            Err(reason) => bad.push(BadTap {
                name: name.clone(),
                reason,
            }),
        }
    }
    (taps, bad)
}

/// The configuration in a resource, if it is of type `M`.
fn of<M: prost::Message + prost::Name + Default>(resource: &Any) -> Result<Option<M>, String> {
    let wrong = |error: prost::DecodeError| error.to_string();
    let typed = core::TypedExtensionConfig::decode(resource.value.as_slice()).map_err(wrong)?;
    match typed.typed_config {
        Some(config) if pb::is::<M>(&config) => {
            Ok(Some(M::decode(config.value.as_slice()).map_err(wrong)?))
        }
        _ => Ok(None),
    }
}

fn logger(name: &str, resource: &Any, all: &BTreeMap<String, Any>) -> Result<Option<Tap>, String> {
    let Some(log) = of::<accesslog::AccessLog>(resource)? else {
        // A bucket is looked up by the logger that draws from it.
        return match of::<PbTokenBucket>(resource)? {
            Some(_) => Ok(None),
            None => Err("neither an access log nor a token bucket".to_owned()),
        };
    };
    let config = match log.config_type {
        Some(accesslog::access_log::ConfigType::TypedConfig(config))
            if pb::is::<HttpGrpcAccessLogConfig>(&config) =>
        {
            HttpGrpcAccessLogConfig::decode(config.value.as_slice())
                .map_err(|error| error.to_string())?
        }
        _ => return Err("only the HTTP gRPC access logger is served".to_owned()),
    };
    let filters = match log.filter.and_then(|filter| filter.filter_specifier) {
        Some(accesslog::access_log_filter::FilterSpecifier::AndFilter(and)) => and.filters,
        _ => return Err("the filter must be an expression and a rate".to_owned()),
    };
    let (mut condition, mut rate) = (None, None);
    for filter in filters {
        let Some(accesslog::access_log_filter::FilterSpecifier::ExtensionFilter(
            accesslog::ExtensionFilter {
                config_type: Some(accesslog::extension_filter::ConfigType::TypedConfig(config)),
                ..
            },
        )) = filter.filter_specifier
        else {
            return Err("a filter is not understood".to_owned());
        };
        let bytes = config.value.as_slice();
        if pb::is::<ExpressionFilter>(&config) {
            let filter = ExpressionFilter::decode(bytes).map_err(|error| error.to_string())?;
            condition = Some(Expression::new(&filter.expression).map_err(|bad| bad.to_string())?);
        } else if pb::is::<ProcessRateLimitFilter>(&config) {
            let filter =
                ProcessRateLimitFilter::decode(bytes).map_err(|error| error.to_string())?;
            rate = filter.dynamic_config;
        } else {
            return Err(format!("filter {} is not served", config.type_url));
        }
    }
    let (Some(condition), Some(rate)) = (condition, rate) else {
        return Err("the filter must be an expression and a rate".to_owned());
    };
    let Some(bucket) = all.get(&rate.resource_name) else {
        return Ok(None);
    };
    let bucket = of::<PbTokenBucket>(bucket)?.ok_or("its rate is no token bucket")?;
    let interval = bucket.fill_interval.as_ref().and_then(pb::to_duration);
    let rate = TokenBucket {
        max_tokens: bucket.max_tokens,
        tokens_per_fill: bucket.tokens_per_fill.map_or(1, |tokens| tokens.value),
        fill_interval: interval
            .filter(|interval| !interval.is_zero())
            .ok_or("its bucket is never filled")?,
    };
    Ok(Some(Tap {
        name: name.to_owned(),
        condition,
        headers: config.additional_request_headers_to_log,
        rate,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::tap::rate;

    fn tap() -> Tap {
        Tap {
            name: "tap/1".to_owned(),
            condition: Expression::new("request.method == 'GET'").unwrap(),
            headers: vec!["x-user".to_owned()],
            rate: rate(100),
        }
    }

    #[test]
    fn a_tap_comes_back_as_it_was() {
        let sent: BTreeMap<String, Any> = resources(&tap()).into();
        assert_eq!(read(&sent), (vec![tap()], vec![]));
    }

    #[test]
    fn a_tap_without_its_bucket_waits_and_nonsense_is_named() {
        let mut sent: BTreeMap<String, Any> = resources(&tap()).into();
        sent.remove("tap/1/rate");
        assert_eq!(read(&sent), (vec![], vec![]));
        let nothing = pb::any(&core::TypedExtensionConfig::default());
        sent.insert("x".to_owned(), nothing);
        let (taps, bad) = read(&sent);
        assert!(taps.is_empty());
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].name, "x");
    }
}
