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

/// A point in the life of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The request begins.
    Begun,
    /// All of it has come.
    Received,
    /// There is a connection for it.
    Connected,
    /// All of it has gone.
    Sent,
    /// The answer begins.
    Answered,
    /// All of it has gone.
    Ended,
}

/// In what a duration is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

/// What a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each is what Envoy's page on access logs says under this name"
)]
pub enum Detail {
    Subject,
    Issuer,
    Serial,
    Fingerprint1,
    Fingerprint256,
    Pem,
    Uris,
    Dns,
    Ips,
    Emails,
    ChainFingerprints1,
    ChainFingerprints256,
    ChainSerials,
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
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    ConnectedDuration,
    /// From one point in time to another.
    Between(Point, Point, Precision),
    UpstreamHost(Show),
    UpstreamCluster,
    UpstreamLocal(Show),
    UpstreamFailure,
    UpstreamAttempts,
    UpstreamProtocol,
    UpstreamTlsVersion,
    UpstreamTlsCipher,
    UpstreamPeerUri,
    UpstreamLocalUri,
    DownstreamRemote(Show),
    DownstreamDirectRemote(Show),
    DownstreamLocal(Show),
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    ServerName,
    DownstreamPeerUri,
    DownstreamLocalUri,
    DownstreamLocalClose,
    /// What the caller's certificate says, or (`own`) that which it was shown.
    Certificate {
        own: bool,
        detail: Detail,
    },
    /// When the caller's certificate begins to be valid, or (`end`) ends.
    Valid {
        end: bool,
        form: Time,
    },
    ChainName,
    Hostname,
    GrpcStatus(GrpcForm),
    TraceId,
    SpanId,
    UniqueId,
    StreamId,
    ConnectionId,
    LogType,
    /// Envoy's, and never anything here: its name.
    Nothing(&'static str),
}

impl Operator {
    /// It tells of how a call went on its way to the endpoint, which is noted where somebody wants it.
    pub fn of_the_way(&self) -> bool {
        matches!(
            self,
            Self::RequestDuration
                | Self::RequestTxDuration
                | Self::ConnectedDuration
                | Self::Between(..)
                | Self::UpstreamProtocol
                | Self::UpstreamTlsVersion
                | Self::UpstreamTlsCipher
                | Self::UpstreamPeerUri
                | Self::UpstreamLocalUri
        )
    }

    /// It tells of certificates, which are looked into where somebody wants it.
    pub fn of_certificates(&self) -> bool {
        matches!(
            self,
            Self::Certificate { .. } | Self::Valid { .. } | Self::DownstreamLocalUri
        )
    }
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
    ("REQUEST_TX_DURATION", Operator::RequestTxDuration),
    (
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        Operator::ConnectedDuration,
    ),
    ("UPSTREAM_PROTOCOL", Operator::UpstreamProtocol),
    ("UPSTREAM_TLS_VERSION", Operator::UpstreamTlsVersion),
    ("UPSTREAM_TLS_CIPHER", Operator::UpstreamTlsCipher),
    ("UPSTREAM_PEER_URI_SAN", Operator::UpstreamPeerUri),
    ("UPSTREAM_LOCAL_URI_SAN", Operator::UpstreamLocalUri),
    ("DOWNSTREAM_LOCAL_URI_SAN", Operator::DownstreamLocalUri),
    (
        "DOWNSTREAM_LOCAL_CLOSE_REASON",
        Operator::DownstreamLocalClose,
    ),
    ("FILTER_CHAIN_NAME", Operator::ChainName),
    ("DOWNSTREAM_FILTER_CHAIN_NAME", Operator::ChainName),
    ("SPAN_ID", Operator::SpanId),
    ("UNIQUE_ID", Operator::UniqueId),
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

/// Behind `DOWNSTREAM_`: what certificates say, and whether it is the proxy's own.
const CERTIFICATES: &[(&str, Detail, bool)] = &[
    ("PEER_SUBJECT", Detail::Subject, false),
    ("PEER_ISSUER", Detail::Issuer, false),
    ("PEER_SERIAL", Detail::Serial, false),
    ("PEER_FINGERPRINT_1", Detail::Fingerprint1, false),
    ("PEER_FINGERPRINT_256", Detail::Fingerprint256, false),
    ("PEER_CERT", Detail::Pem, false),
    ("PEER_DNS_SAN", Detail::Dns, false),
    ("PEER_IP_SAN", Detail::Ips, false),
    ("PEER_EMAIL_SAN", Detail::Emails, false),
    (
        "PEER_CHAIN_FINGERPRINTS_1",
        Detail::ChainFingerprints1,
        false,
    ),
    (
        "PEER_CHAIN_FINGERPRINTS_256",
        Detail::ChainFingerprints256,
        false,
    ),
    ("PEER_CHAIN_SERIALS", Detail::ChainSerials, false),
    ("LOCAL_SUBJECT", Detail::Subject, true),
    ("LOCAL_DNS_SAN", Detail::Dns, true),
    ("LOCAL_IP_SAN", Detail::Ips, true),
    ("LOCAL_EMAIL_SAN", Detail::Emails, true),
];

/// Envoy's operators that say nothing here.
const NOTHING: &[&str] = &[
    "BYTES_RETRANSMITTED",
    "CLUSTER_METADATA",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "REQUEST_HEADERS_BYTES",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "ROUNDTRIP_DURATION",
    "COMMON_DURATION",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UPSTREAM_CONNECTION_ID",
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
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_TLS_SESSION_ID",
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
        "DOWNSTREAM_PEER_CERT_V_START" => valid(false, words),
        "DOWNSTREAM_PEER_CERT_V_END" => valid(true, words),
        "COMMON_DURATION" => between(name, needed()?)?,
        "CEL" => return Err(bad(name, "expressions are served in filters only")),
        _ => match PLAIN.iter().find(|(known, _)| *known == name) {
            Some((_, operator)) if words.is_none() => operator.clone(),
            Some(_) => return Err(bad(name, "takes no words in brackets")),
            None => certificate(name)
                .or_else(|| {
                    let known = NOTHING.iter().find(|known| **known == name);
                    known.map(|known| Operator::Nothing(known))
                })
                .ok_or_else(|| bad(name, "Envoy has no such operator"))?,
        },
    })
}

fn certificate(name: &str) -> Option<Operator> {
    let name = name.strip_prefix("DOWNSTREAM_")?;
    let (_, detail, own) = CERTIFICATES.iter().find(|(known, ..)| *known == name)?;
    Some(Operator::Certificate {
        own: *own,
        detail: *detail,
    })
}

fn valid(end: bool, words: Option<&str>) -> Operator {
    Operator::Valid {
        end,
        form: time(words),
    }
}

/// `FROM:TO:PRECISION`; of points that only filters of Envoy's set nothing is known.
fn between(name: &str, words: &str) -> Result<Operator, BadFormat> {
    let mut parts = words.split(':');
    let (from, to) = (parts.next(), parts.next());
    let precision = match parts.next() {
        None | Some("ms") => Precision::Millis,
        Some("us") => Precision::Micros,
        Some("ns") => Precision::Nanos,
        Some(_) => return Err(bad(name, "a precision is one of ms, us and ns")),
    };
    let (Some(from), Some(to), None) = (from, to, parts.next()) else {
        return Err(bad(
            name,
            "expected two points in time, such as DS_RX_BEG:US_RX_BEG:us",
        ));
    };
    Ok(match (point(from), point(to)) {
        (Some(from), Some(to)) => Operator::Between(from, to, precision),
        _ => Operator::Nothing("COMMON_DURATION"),
    })
}

fn point(name: &str) -> Option<Point> {
    Some(match name {
        "DS_RX_BEG" => Point::Begun,
        "DS_RX_END" => Point::Received,
        // What is connected is written to at once.
        "US_CX_END" | "US_HS_END" | "US_TX_BEG" => Point::Connected,
        "US_TX_END" => Point::Sent,
        // What comes is passed on at once.
        "US_RX_BEG" | "DS_TX_BEG" => Point::Answered,
        "US_RX_END" | "DS_TX_END" => Point::Ended,
        _ => return None,
    })
}

fn time(words: Option<&str>) -> Time {
    match words {
        None | Some("") => Time::Usual,
        Some(format) => Time::Strftime(format.to_owned()),
    }
}
