//! Which calls leave spans, and where these go. Nothing of it decides about a request, so what is not
//! understood is passed over and told.

use std::collections::BTreeMap;

use super::super::pb::{Percent, any_name, core, custom_tag, hcm, is, to_duration, trace};
use super::unpack;
use crate::mesh::route::Share;
use crate::mesh::tracing::{CustomTag, MAX_PATH, SpanFormat, SpanSink, TIMEOUT, TagFrom, Tracing};

pub(super) fn decode(
    from: &hcm::http_connection_manager::Tracing,
    ignored: &mut Vec<String>,
) -> Tracing {
    let mut tell = |field: &str| ignored.push(format!("Tracing.{field}"));
    let share = |of: Option<&Percent>| of.map_or(Share::default(), |of| share(of.value));
    let random = share(from.random_sampling.as_ref());
    let overall = share(from.overall_sampling.as_ref());
    let spawns = from.spawn_upstream_span.is_some_and(|on| on.value);
    for (set, field) in [
        (from.client_sampling.is_some(), "client_sampling"),
        (from.verbose, "verbose"),
        (spawns, "spawn_upstream_span"),
        (!from.operation.is_empty(), "operation"),
        (!from.upstream_operation.is_empty(), "upstream_operation"),
        (from.no_context_propagation, "no_context_propagation"),
        (
            overall != Share::NONE && overall != Share::default(),
            "overall_sampling",
        ),
    ] {
        if set {
            tell(field);
        }
    }
    let mut tags = BTreeMap::new();
    for tag in &from.custom_tags {
        match self::tag(tag) {
            Some(read) => drop(tags.insert(tag.tag.clone(), read)),
            None => tell("custom_tags"),
        }
    }
    let to = from.provider.as_ref().and_then(|provider| {
        let read = self::provider(provider);
        if read.is_none() {
            tell(&format!("provider ({})", kind(provider)));
        }
        read
    });
    let longest = from.max_path_tag_length.as_ref();
    Tracing {
        off: overall == Share::NONE,
        sampling: random,
        max_path: longest.map_or(MAX_PATH, |most| most.value),
        tags,
        to,
    }
}

/// A percentage, in steps of a ten-thousandth.
fn share(percent: f64) -> Share {
    let parts = format!("{:.0}", percent.clamp(0.0, 100.0) * 10_000.0);
    let parts: u32 = parts.parse().unwrap_or_default();
    if parts.is_multiple_of(10_000) {
        Share {
            of: 100,
            parts: parts / 10_000,
        }
    } else {
        Share {
            of: 1_000_000,
            parts,
        }
    }
}

pub(super) fn tag(from: &custom_tag::CustomTag) -> Option<CustomTag> {
    use custom_tag::custom_tag::Type;
    let (source, value, default) = match from.r#type.as_ref()? {
        Type::Literal(literal) => (TagFrom::Literal, literal.value.clone(), String::new()),
        Type::Environment(from) => (
            TagFrom::Environment,
            from.name.clone(),
            from.default_value.clone(),
        ),
        Type::RequestHeader(from) => (
            TagFrom::Header,
            from.name.to_ascii_lowercase(),
            from.default_value.clone(),
        ),
        _ => return None,
    };
    Some(CustomTag {
        from: source,
        value,
        default,
    })
}

fn config(from: &trace::tracing::Http) -> Option<&super::super::pb::Any> {
    let trace::tracing::http::ConfigType::TypedConfig(config) = from.config_type.as_ref()?;
    Some(config)
}

fn kind(from: &trace::tracing::Http) -> &str {
    config(from).map_or(from.name.as_str(), any_name)
}

fn provider(from: &trace::tracing::Http) -> Option<SpanSink> {
    let config = config(from)?;
    if is::<trace::OpenTelemetryConfig>(config) {
        let read: trace::OpenTelemetryConfig = unpack(config).ok()?;
        let sink = match (&read.grpc_service, &read.http_service) {
            (Some(service), None) => grpc(service)?,
            (None, Some(service)) => http(service, SpanFormat::OtlpHttp)?,
            _ => return None,
        };
        return Some(SpanSink {
            service: read.service_name,
            ..sink
        });
    }
    if is::<trace::ZipkinConfig>(config) {
        return zipkin(&unpack(config).ok()?);
    }
    None
}

fn zipkin(from: &trace::ZipkinConfig) -> Option<SpanSink> {
    use trace::zipkin_config::{
        CollectorEndpointVersion as Version, TraceContextOption as Context,
    };
    let json = from.collector_endpoint_version == i32::from(Version::HttpJson);
    let speaks = SpanFormat::Zipkin {
        w3c: from.trace_context_option == i32::from(Context::UseB3WithW3cPropagation),
        wide: from.trace_id_128bit,
    };
    if let Some(service) = &from.collector_service {
        return http(service, speaks);
    }
    // Zipkin's older protocols, and one with binary messages.
    if !json || from.collector_cluster.is_empty() {
        return None;
    }
    Some(SpanSink {
        cluster: from.collector_cluster.clone(),
        authority: from.collector_hostname.clone(),
        speaks,
        path: from.collector_endpoint.clone(),
        ..SpanSink::default()
    })
}

pub(super) fn grpc(from: &core::GrpcService) -> Option<SpanSink> {
    use core::grpc_service::TargetSpecifier;
    let Some(TargetSpecifier::EnvoyGrpc(to)) = &from.target_specifier else {
        return None;
    };
    let metadata = from.initial_metadata.iter();
    let headers: Option<Vec<_>> = metadata
        .map(|field| field_of(&field.key, field.value.clone()))
        .collect();
    Some(SpanSink {
        cluster: to.cluster_name.clone(),
        authority: to.authority.clone(),
        speaks: SpanFormat::OtlpGrpc,
        headers: headers?,
        timeout: from.timeout.as_ref().map_or(Some(TIMEOUT), to_duration)?,
        ..SpanSink::default()
    })
}

pub(super) fn http(from: &core::HttpService, speaks: SpanFormat) -> Option<SpanSink> {
    let to = from.http_uri.as_ref()?;
    let core::http_uri::HttpUpstreamType::Cluster(cluster) = to.http_upstream_type.as_ref()?;
    let (_, rest) = to.uri.split_once("://")?;
    let (authority, path) = match rest.find('/').and_then(|at| rest.split_at_checked(at)) {
        Some((authority, path)) => (authority, path),
        None => (rest, ""),
    };
    let fields = from.request_headers_to_add.iter();
    let headers: Option<Vec<_>> = fields
        .map(|field| {
            let header = field.header.as_ref()?;
            // A format that says more than text is not understood.
            let text = header.value.replace("%%", "\u{0}");
            let plain = !text.contains('%');
            plain.then(|| field_of(&header.key, text.replace('\u{0}', "%")))?
        })
        .collect();
    Some(SpanSink {
        cluster: cluster.clone(),
        authority: authority.to_owned(),
        speaks,
        path: path.to_owned(),
        headers: headers?,
        timeout: to.timeout.as_ref().map_or(Some(TIMEOUT), to_duration)?,
        ..SpanSink::default()
    })
}

/// A field of a request, if it is one.
fn field_of(name: &str, value: String) -> Option<(String, String)> {
    let name = name.to_ascii_lowercase();
    let fits = http::HeaderName::try_from(name.as_str()).is_ok()
        && http::HeaderValue::try_from(value.as_str()).is_ok();
    fits.then_some((name, value))
}
