//! Envoy's format operators by their names.

use super::format::{BadFormat, bad};

/// How a moment is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Time {
    /// `2026-11-21T02:03:04.567Z`.
    Usual,
    /// By strftime, with Envoy's `%s`, `%3f`, `%6f`, `%9f` and the like.
    Strftime(String),
}

/// An address, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// With its port.
    Whole,
    /// Without.
    Host,
    /// The port alone.
    Port,
}

/// How a gRPC status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcForm {
    /// `NotFound`.
    Camel,
    /// `NOT_FOUND`.
    Snake,
    /// `5`.
    Number,
}

/// One of Envoy's operators.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each is what Envoy's page on access logs says under this name"
)]
pub enum Operator {
    StartTime(Time),
    EmitTime(Time),
    /// A field of the request, else another.
    Request(String, Option<String>),
    Response(String, Option<String>),
    Trailer(String, Option<String>),
    /// A variable of the proxy's environment, which does not change.
    Environment(String),
    Query(String),
    Path {
        query: bool,
    },
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    ResponseFlags,
    ResponseFlagsLong,
    Protocol,
    RouteName,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    UpstreamHost(Show),
    UpstreamCluster,
    UpstreamLocal(Show),
    UpstreamFailure,
    UpstreamAttempts,
    DownstreamRemote(Show),
    DownstreamDirectRemote(Show),
    DownstreamLocal(Show),
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    ServerName,
    DownstreamPeerUri,
    Hostname,
    GrpcStatus(GrpcForm),
    TraceId,
    StreamId,
    ConnectionId,
    LogType,
    /// Envoy's, and never anything here: its name.
    Nothing(&'static str),
}

/// Operators that need no words in brackets, and that this proxy has.
const PLAIN: &[(&str, Operator)] = &[
    ("RESPONSE_CODE", Operator::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Operator::ResponseCodeDetails),
    (
        "CONNECTION_TERMINATION_DETAILS",
        Operator::ConnectionTerminationDetails,
    ),
    ("RESPONSE_FLAGS", Operator::ResponseFlags),
    ("RESPONSE_FLAGS_LONG", Operator::ResponseFlagsLong),
    ("PROTOCOL", Operator::Protocol),
    ("ROUTE_NAME", Operator::RouteName),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("DURATION", Operator::Duration),
    ("REQUEST_DURATION", Operator::RequestDuration),
    ("RESPONSE_DURATION", Operator::ResponseDuration),
    ("RESPONSE_TX_DURATION", Operator::ResponseTxDuration),
    ("UPSTREAM_HOST", Operator::UpstreamHost(Show::Whole)),
    ("UPSTREAM_HOST_NAME", Operator::UpstreamHost(Show::Whole)),
    (
        "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        Operator::UpstreamHost(Show::Host),
    ),
    (
        "UPSTREAM_REMOTE_ADDRESS",
        Operator::UpstreamHost(Show::Whole),
    ),
    (
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Operator::UpstreamHost(Show::Host),
    ),
    ("UPSTREAM_REMOTE_PORT", Operator::UpstreamHost(Show::Port)),
    ("UPSTREAM_CLUSTER", Operator::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::UpstreamCluster),
    (
        "UPSTREAM_LOCAL_ADDRESS",
        Operator::UpstreamLocal(Show::Whole),
    ),
    (
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Operator::UpstreamLocal(Show::Host),
    ),
    ("UPSTREAM_LOCAL_PORT", Operator::UpstreamLocal(Show::Port)),
    (
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Operator::UpstreamFailure,
    ),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Operator::UpstreamAttempts),
    (
        "DOWNSTREAM_REMOTE_ADDRESS",
        Operator::DownstreamRemote(Show::Whole),
    ),
    (
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Operator::DownstreamRemote(Show::Host),
    ),
    (
        "DOWNSTREAM_REMOTE_PORT",
        Operator::DownstreamRemote(Show::Port),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        Operator::DownstreamDirectRemote(Show::Whole),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        Operator::DownstreamDirectRemote(Show::Host),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_PORT",
        Operator::DownstreamDirectRemote(Show::Port),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS",
        Operator::DownstreamLocal(Show::Whole),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Operator::DownstreamLocal(Show::Host),
    ),
    (
        "DOWNSTREAM_LOCAL_PORT",
        Operator::DownstreamLocal(Show::Port),
    ),
    ("DOWNSTREAM_TLS_VERSION", Operator::DownstreamTlsVersion),
    ("DOWNSTREAM_TLS_CIPHER", Operator::DownstreamTlsCipher),
    ("REQUESTED_SERVER_NAME", Operator::ServerName),
    ("DOWNSTREAM_PEER_URI_SAN", Operator::DownstreamPeerUri),
    ("HOSTNAME", Operator::Hostname),
    ("GRPC_STATUS_NUMBER", Operator::GrpcStatus(GrpcForm::Number)),
    ("TRACE_ID", Operator::TraceId),
    ("STREAM_ID", Operator::StreamId),
    ("CONNECTION_ID", Operator::ConnectionId),
    ("ACCESS_LOG_TYPE", Operator::LogType),
];

/// Envoy's operators that say nothing here.
const NOTHING: &[&str] = &[
    "BYTES_RETRANSMITTED",
    "CLUSTER_METADATA",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_FILTER_CHAIN_NAME",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "ROUNDTRIP_DURATION",
    "COMMON_DURATION",
    "SPAN_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_SUBJECT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

/// What `name`, with the words in its brackets, stands for.
pub(super) fn meant(name: &str, words: Option<&str>) -> Result<Operator, BadFormat> {
    let needed = || {
        words
            .filter(|words| !words.is_empty())
            .ok_or_else(|| bad(name, "expected words in brackets"))
    };
    let fields = || -> Result<(String, Option<String>), BadFormat> {
        let (field, other) = needed()?
            .split_once('?')
            .map_or((words.unwrap_or_default(), None), |(field, other)| {
                (field, Some(other))
            });
        let lower = |field: &str| field.to_ascii_lowercase();
        if other.is_some_and(|other| other.contains('?')) {
            return Err(bad(name, "at most one other field, after a ?"));
        }
        Ok((lower(field), other.map(lower)))
    };
    Ok(match name {
        "REQ" => {
            let (field, other) = fields()?;
            Operator::Request(field, other)
        }
        "RESP" => {
            let (field, other) = fields()?;
            Operator::Response(field, other)
        }
        "TRAILER" => {
            let (field, other) = fields()?;
            Operator::Trailer(field, other)
        }
        "START_TIME" => Operator::StartTime(time(words)),
        "EMIT_TIME" => Operator::EmitTime(time(words)),
        "ENVIRONMENT" => Operator::Environment(needed()?.to_owned()),
        "QUERY_PARAM" => Operator::Query(needed()?.to_owned()),
        "PATH" => match words.unwrap_or_default().split(':').next() {
            Some("" | "WQ") => Operator::Path { query: true },
            Some("NQ") => Operator::Path { query: false },
            _ => return Err(bad(name, "one of WQ and NQ, with or without query")),
        },
        "GRPC_STATUS" => Operator::GrpcStatus(match words.unwrap_or_default() {
            "" | "CAMEL_STRING" => GrpcForm::Camel,
            "SNAKE_STRING" => GrpcForm::Snake,
            "NUMBER" => GrpcForm::Number,
            _ => return Err(bad(name, "one of CAMEL_STRING, SNAKE_STRING and NUMBER")),
        }),
        "CEL" => return Err(bad(name, "expressions are served in filters only")),
        _ => match PLAIN.iter().find(|(known, _)| *known == name) {
            Some((_, operator)) if words.is_none() => operator.clone(),
            Some(_) => return Err(bad(name, "takes no words in brackets")),
            None => NOTHING
                .iter()
                .find(|known| **known == name)
                .map(|known| Operator::Nothing(known))
                .ok_or_else(|| bad(name, "Envoy has no such operator"))?,
        },
    })
}

fn time(words: Option<&str>) -> Time {
    match words {
        None | Some("") => Time::Usual,
        Some(format) => Time::Strftime(format.to_owned()),
    }
}
