//! Which calls leave spans, and where these go.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::pb::{Percent, any, core, custom_tag, duration, hcm, trace, u32_value};
use crate::mesh::Client;
use crate::mesh::route::Share;
use crate::mesh::tracing::{CustomTag, MAX_PATH, SpanFormat, SpanSink, TIMEOUT, TagFrom, Tracing};

/// Names that Envoy finds its tracers by; it goes by the type.
pub(crate) const OPENTELEMETRY: &str = "envoy.tracers.opentelemetry";
const ZIPKIN: &str = "envoy.tracers.zipkin";

/// None where there is nothing to be said to a kind of client: spans that only a control plane of ours gets
/// are none of Envoy's.
pub(super) fn encode(
    from: &Tracing,
    client: Client,
) -> Option<hcm::http_connection_manager::Tracing> {
    if client != Client::Meshctl && (from.off || from.to.is_none()) {
        return None;
    }
    Some(hcm::http_connection_manager::Tracing {
        random_sampling: Some(percent(from.sampling)),
        overall_sampling: from.off.then(|| percent(Share::NONE)),
        max_path_tag_length: (from.max_path != MAX_PATH)
            .then(|| u32_value(from.max_path))
            .flatten(),
        custom_tags: tags(&from.tags),
        provider: from.to.as_ref().map(provider),
        ..Default::default()
    })
}

fn percent(share: Share) -> Percent {
    Percent {
        value: f64::from(share.parts) * 100.0 / f64::from(share.of.max(1)),
    }
}

pub(super) fn tags(from: &BTreeMap<String, CustomTag>) -> Vec<custom_tag::CustomTag> {
    from.iter()
        .map(|(name, tag)| self::tag(name, tag))
        .collect()
}

fn tag(name: &str, tag: &CustomTag) -> custom_tag::CustomTag {
    use custom_tag::custom_tag::{Environment, Header, Literal, Type};
    let (value, default_value) = (tag.value.clone(), tag.default.clone());
    custom_tag::CustomTag {
        tag: name.to_owned(),
        r#type: Some(match tag.from {
            TagFrom::Literal => Type::Literal(Literal { value }),
            TagFrom::Environment => Type::Environment(Environment {
                name: value,
                default_value,
            }),
            TagFrom::Header => Type::RequestHeader(Header {
                name: value,
                default_value,
            }),
        }),
    }
}

fn provider(to: &SpanSink) -> trace::tracing::Http {
    let (name, config) = match to.speaks {
        SpanFormat::OtlpGrpc => (
            OPENTELEMETRY,
            any(&trace::OpenTelemetryConfig {
                grpc_service: Some(grpc(
                    (&to.cluster, &to.authority),
                    &to.headers,
                    Some(to.timeout),
                )),
                service_name: to.service.clone(),
                ..Default::default()
            }),
        ),
        SpanFormat::OtlpHttp => (
            OPENTELEMETRY,
            any(&trace::OpenTelemetryConfig {
                http_service: Some(posted(to)),
                service_name: to.service.clone(),
                ..Default::default()
            }),
        ),
        SpanFormat::Zipkin { w3c, wide } => (ZIPKIN, any(&zipkin(to, w3c, wide))),
    };
    trace::tracing::Http {
        name: name.to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(config)),
    }
}

fn zipkin(to: &SpanSink, w3c: bool, wide: bool) -> trace::ZipkinConfig {
    use trace::zipkin_config::{
        CollectorEndpointVersion as Version, TraceContextOption as Context,
    };
    // The older fields say neither, and are known to every Envoy.
    let plain = to.headers.is_empty() && to.timeout == TIMEOUT;
    trace::ZipkinConfig {
        collector_cluster: to.cluster.clone(),
        collector_endpoint: to.path.clone(),
        collector_hostname: to.authority.clone(),
        trace_id_128bit: wide,
        shared_span_context: super::super::pb::bool_value(false),
        collector_endpoint_version: Version::HttpJson.into(),
        trace_context_option: if w3c {
            Context::UseB3WithW3cPropagation
        } else {
            Context::UseB3
        }
        .into(),
        collector_service: (!plain).then(|| posted(to)),
        ..Default::default()
    }
}

pub(super) fn grpc(
    (cluster, authority): (&str, &str),
    headers: &[(String, String)],
    timeout: Option<Duration>,
) -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let metadata = headers.iter().map(|(key, value)| core::HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..Default::default()
    });
    core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            authority: authority.to_owned(),
            ..Default::default()
        })),
        timeout: timeout.and_then(duration),
        initial_metadata: metadata.collect(),
        ..Default::default()
    }
}

pub(super) fn http(
    (cluster, authority): (&str, &str),
    path: &str,
    headers: &[(String, String)],
    timeout: Duration,
) -> core::HttpService {
    use core::header_value_option::HeaderAppendAction as Action;
    let headers = headers.iter().map(|(key, value)| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.clone(),
            // Values are formats to Envoy.
            value: value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: Action::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    });
    core::HttpService {
        http_uri: Some(core::HttpUri {
            uri: format!("http://{authority}{path}"),
            timeout: duration(timeout),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
                cluster.to_owned(),
            )),
        }),
        request_headers_to_add: headers.collect(),
        ..Default::default()
    }
}

fn posted(to: &SpanSink) -> core::HttpService {
    http(
        (&to.cluster, &to.authority),
        &to.path,
        &to.headers,
        to.timeout,
    )
}
