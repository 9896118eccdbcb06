//! What can be asked of a call, by Envoy's names.

/// One fact about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// Path with query.
    Path,
    /// Path without query.
    UrlPath,
    /// The query, without its `?`.
    Query,
    /// The host that was asked for.
    Host,
    /// `http` or `https`.
    Scheme,
    /// Method.
    Method,
    /// `referer`.
    Referer,
    /// `user-agent`.
    UserAgent,
    /// `x-request-id`.
    RequestId,
    /// `HTTP/1.1`, `HTTP/2`.
    Protocol,
    /// From first to last byte.
    Duration,
    /// Body bytes of the request.
    RequestSize,
    /// Body bytes of the answer.
    ResponseSize,
    /// Status.
    Code,
    /// Why it was answered so.
    CodeDetails,
    /// Envoy's flags as a number: 0 is none.
    Flags,
    /// `grpc-status`.
    GrpcStatus,
    /// How long the endpoint took to answer.
    BackendLatency,
    /// The caller's address with its port.
    SourceAddress,
    /// The caller's port.
    SourcePort,
    /// The address that the caller connected to.
    DestinationAddress,
    /// Its port.
    DestinationPort,
    /// Whether the caller proved who it is by mTLS.
    Mtls,
    /// TLS server name.
    ServerName,
    /// The caller's proven name.
    PeerUri,
    /// The endpoint's address with its port.
    UpstreamAddress,
    /// The endpoint's port.
    UpstreamPort,
    /// Why the endpoint could not be reached.
    UpstreamFailure,
    /// Cluster's name.
    ClusterName,
    /// Route's name.
    RouteName,
    /// 1 towards the application, 2 away from it.
    Direction,
    /// The workload that answered.
    UpstreamWorkload,
    /// Its namespace.
    UpstreamNamespace,
    /// The workload that called.
    DownstreamWorkload,
    /// Its namespace.
    DownstreamNamespace,
}

/// Every attribute by name.
pub(super) const NAMES: &[(&str, Attribute)] = &[
    ("request.path", Attribute::Path),
    ("request.url_path", Attribute::UrlPath),
    ("request.query", Attribute::Query),
    ("request.host", Attribute::Host),
    ("request.scheme", Attribute::Scheme),
    ("request.method", Attribute::Method),
    ("request.referer", Attribute::Referer),
    ("request.useragent", Attribute::UserAgent),
    ("request.id", Attribute::RequestId),
    ("request.protocol", Attribute::Protocol),
    ("request.duration", Attribute::Duration),
    // Istio's documentation calls it so, too.
    ("response.duration", Attribute::Duration),
    ("request.size", Attribute::RequestSize),
    ("response.size", Attribute::ResponseSize),
    ("response.code", Attribute::Code),
    ("response.code_details", Attribute::CodeDetails),
    ("response.flags", Attribute::Flags),
    ("response.grpc_status", Attribute::GrpcStatus),
    ("response.backend_latency", Attribute::BackendLatency),
    ("source.address", Attribute::SourceAddress),
    ("source.port", Attribute::SourcePort),
    ("destination.address", Attribute::DestinationAddress),
    ("destination.port", Attribute::DestinationPort),
    ("connection.mtls", Attribute::Mtls),
    ("connection.requested_server_name", Attribute::ServerName),
    ("connection.uri_san_peer_certificate", Attribute::PeerUri),
    ("upstream.address", Attribute::UpstreamAddress),
    ("upstream.port", Attribute::UpstreamPort),
    (
        "upstream.transport_failure_reason",
        Attribute::UpstreamFailure,
    ),
    ("xds.cluster_name", Attribute::ClusterName),
    ("xds.route_name", Attribute::RouteName),
    ("xds.listener_direction", Attribute::Direction),
    ("upstream_peer.workload", Attribute::UpstreamWorkload),
    ("upstream_peer.namespace", Attribute::UpstreamNamespace),
    ("downstream_peer.workload", Attribute::DownstreamWorkload),
    ("downstream_peer.namespace", Attribute::DownstreamNamespace),
];

/// Fields of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// `request.headers`.
    Request,
    /// `response.headers`.
    Response,
}

impl Attribute {
    /// The attribute that is called `name`.
    pub fn named(name: &str) -> Option<Self> {
        let mut names = NAMES.iter();
        names.find(|(known, _)| *known == name).map(|(_, is)| *is)
    }

    /// Known as soon as the request's head is.
    pub fn is_early(self) -> bool {
        matches!(
            self,
            Self::Path
                | Self::UrlPath
                | Self::Query
                | Self::Host
                | Self::Scheme
                | Self::Method
                | Self::Referer
                | Self::UserAgent
                | Self::RequestId
                | Self::Protocol
                | Self::SourceAddress
                | Self::SourcePort
                | Self::DestinationAddress
                | Self::DestinationPort
                | Self::Mtls
                | Self::ServerName
                | Self::PeerUri
                | Self::Direction
                | Self::DownstreamWorkload
                | Self::DownstreamNamespace
        )
    }
}
