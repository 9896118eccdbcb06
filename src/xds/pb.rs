//! Short names for the messages that views are carried in.

#![expect(
    clippy::unnecessary_wraps,
    reason = "message fields are optional, and this fills them"
)]

pub(crate) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use envoy_types::pb::envoy::config::core::v3 as core;
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(crate) use envoy_types::pb::envoy::config::route::v3 as route;
pub(crate) use envoy_types::pb::envoy::config::trace::v3 as trace;
pub(crate) use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as ratelimit;
pub(crate) use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
pub(crate) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_delay;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::adaptive_concurrency::v3 as adaptive;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::compressor::v3 as compressor;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as ext_authz;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as tokens;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3 as session;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol as ProxyFilter;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3 as network_ext_authz;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
pub(crate) use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3 as session_cookie;
pub(crate) use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3 as session_header;
pub(crate) use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3 as uri_template;
pub(crate) use envoy_types::pb::envoy::extensions::rate_limit_descriptors::expr::v3 as descriptor_expr;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport as ProxySocket;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as sockets;
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
pub(crate) use envoy_types::pb::envoy::r#type::http::v3 as http_cookie;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::tracing::v3 as custom_tag;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as int32_range;
pub(crate) use envoy_types::pb::envoy::r#type::v3::fractional_percent as percent;
pub(crate) use envoy_types::pb::envoy::r#type::v3::{
    CodecClientType, FractionalPercent, HashPolicy, HttpStatus, Int64Range, Percent,
    TokenBucket as PbTokenBucket, hash_policy,
};
pub(crate) use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration as PbDuration, Empty, ListValue, Struct, UInt32Value, UInt64Value,
    Value, value,
};

/// Access logs.
pub(crate) mod access_log {
    pub(crate) use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType as Config;
    pub(crate) use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier as FilterKind;
    pub(crate) use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
    pub(crate) use envoy_types::pb::envoy::config::accesslog::v3::extension_filter::ConfigType as FilterConfig;
    pub(crate) use envoy_types::pb::envoy::config::accesslog::v3::*;
    pub(crate) use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format as FormatKind;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat as FileFormat;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
        CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
    };
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::stderr_access_log::AccessLogFormat as StderrFormat;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::stdout_access_log::AccessLogFormat as StdoutFormat;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
        StderrAccessLog, StdoutAccessLog,
    };
}

/// OpenTelemetry's values.
pub(crate) use envoy_types::pb::opentelemetry::proto::common::v1 as otel;

/// Who may do what.
pub(crate) mod rbac {
    pub(crate) use envoy_types::pb::envoy::config::rbac::v3::*;
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http;
    pub(crate) use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network;
}

/// Load balancing policies as extensions.
pub(crate) mod lb {
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3 as common;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3 as least_request;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::maglev::v3 as maglev;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3 as random;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::ring_hash::v3 as ring_hash;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3 as round_robin;
    pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3 as wrr_locality;
}

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use prost::{Message, Name};

/// `envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma`, of Envoy's contrib, which
/// the published messages lack.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PeakEwma {
    #[prost(message, optional, tag = "1")]
    pub(crate) decay_time: Option<PbDuration>,
}

impl Name for PeakEwma {
    const NAME: &'static str = "PeakEwma";
    const PACKAGE: &'static str = "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha";
}

/// The messages' map of extension name to configuration has this key for HTTP towards upstreams.
pub(crate) const HTTP_PROTOCOL_OPTIONS: &str =
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// `message` with its type.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Whether `any` says that it is an `M`. Only what follows the last slash counts.
pub(crate) fn is<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}

/// What it says that it is.
pub(crate) fn any_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

pub(crate) fn u32_value(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn u64_value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

pub(crate) fn bool_value(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(crate) fn duration(duration: Duration) -> Option<PbDuration> {
    Some(PbDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    })
}

/// `None` when negative or out of range.
pub(crate) fn to_duration(duration: &PbDuration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, nanos))
}

pub(crate) fn address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
                address.port(),
            ))),
            ..Default::default()
        })),
    }
}

/// `None` for pipes, names and UDP.
pub(crate) fn to_address(address: Option<&core::Address>) -> Option<SocketAddr> {
    match address?.address.as_ref()? {
        core::address::Address::SocketAddress(socket) if socket.protocol == 0 => {
            let ip: IpAddr = socket.address.parse().ok()?;
            match socket.port_specifier.as_ref()? {
                core::socket_address::PortSpecifier::PortValue(port) => {
                    Some(SocketAddr::new(ip, u16::try_from(*port).ok()?))
                }
                core::socket_address::PortSpecifier::NamedPort(_) => None,
            }
        }
        _ => None,
    }
}

/// "From the same stream".
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

/// Whether resources are to come from the same stream.
pub(crate) fn is_ads(source: Option<&core::ConfigSource>) -> bool {
    use core::config_source::ConfigSourceSpecifier as S;
    matches!(
        source.and_then(|source| source.config_source_specifier.as_ref()),
        Some(S::Ads(_) | S::Self_(_))
    )
}

pub(crate) fn locality(locality: &crate::mesh::Locality) -> core::Locality {
    core::Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.subzone.clone(),
    }
}

pub(crate) fn to_locality(locality: Option<core::Locality>) -> crate::mesh::Locality {
    let locality = locality.unwrap_or_default();
    crate::mesh::Locality {
        region: locality.region,
        zone: locality.zone,
        subzone: locality.sub_zone,
    }
}
