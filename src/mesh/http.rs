//! How a listener speaks HTTP to its callers: what it takes, what it tells the application about
//! them, and how long it waits. The fields are those of Envoy's `HttpConnectionManager`; the
//! defaults are what a sidecar does.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::access_log::Logger;
use super::http2::Http2Options;
use super::tracing::Tracing;

/// Options of a chain that serves HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpOptions {
    /// The spelling of paths, before anything is decided on them.
    #[serde(skip_serializing_if = "is_default")]
    pub path: PathOptions,
    /// The spelling of hosts, before anything is decided on them.
    #[serde(skip_serializing_if = "is_default")]
    pub host: HostOptions,
    /// How much a caller may send.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: HttpLimits,
    /// How long a caller may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: HttpTimeouts,
    /// Who the caller is taken for.
    #[serde(skip_serializing_if = "is_default")]
    pub remote: RemoteOptions,
    /// What `x-forwarded-client-cert` says.
    #[serde(skip_serializing_if = "is_default")]
    pub client_cert: ClientCertOptions,
    /// What `x-request-id` is.
    #[serde(skip_serializing_if = "is_default")]
    pub request_id: RequestIdOptions,
    /// How the proxy names itself.
    #[serde(skip_serializing_if = "is_default")]
    pub server: ServerOptions,
    /// What is taken in HTTP/1.
    #[serde(skip_serializing_if = "is_default")]
    pub http1: Http1Options,
    /// How HTTP/2 is spoken.
    #[serde(skip_serializing_if = "is_default")]
    pub http2: Http2Options,
    /// Protocols that a caller may switch to.
    #[serde(skip_serializing_if = "is_default")]
    pub upgrades: Upgrades,
    /// What calls leave spans; where nothing is said, the usual ones, for the control plane alone.
    #[serde(skip_serializing_if = "is_default")]
    pub tracing: Option<Arc<Tracing>>,
    /// What calls are logged; where nothing is said, what the proxy was started with.
    #[serde(skip_serializing_if = "is_default")]
    pub access_log: Option<Arc<Vec<Logger>>>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The spelling of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathOptions {
    /// Dot segments are resolved, escaped unreserved characters unescaped, backslashes turned into
    /// slashes (Istio's `BASE`, its default; Envoy: `normalize_path`).
    pub normalize: bool,
    /// `//` becomes `/`, after that. Default false.
    pub merge_slashes: bool,
    /// What happens to `%2F` and `%5C`, before that.
    pub escaped_slashes: EscapedSlashes,
}

impl Default for PathOptions {
    fn default() -> Self {
        Self {
            normalize: true,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::default(),
        }
    }
}

/// Envoy's `path_with_escaped_slashes_action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EscapedSlashes {
    /// They stay as they are.
    #[default]
    KeepUnchanged,
    /// The request is refused.
    RejectRequest,
    /// The caller is sent to the path with slashes; gRPC is refused.
    UnescapeAndRedirect,
    /// They become slashes.
    UnescapeAndForward,
}

/// The spelling of hosts. CONNECT keeps its port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostOptions {
    /// Which ports are taken off.
    pub strip_port: StripPort,
    /// `name.` becomes `name`. Default false.
    pub strip_trailing_dot: bool,
}

/// Which ports are taken off a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StripPort {
    /// None.
    #[default]
    Keep,
    /// The one that the caller connected to (Envoy: `strip_matching_host_port`).
    Matching,
    /// All (Envoy: `strip_any_host_port`).
    Any,
}

/// How much a caller may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpLimits {
    /// Largest head, in KiB. Envoy's default is 60, its most 8192.
    pub max_request_headers_kb: u32,
    /// Most fields in a head. Envoy's default is 100.
    pub max_headers_count: u32,
    /// Requests on one connection; 0 is no limit (the default).
    pub max_requests_per_connection: u32,
    /// Largest body, in bytes (Envoy's filter `buffer`); `None` is no limit.
    pub max_request_bytes: Option<u32>,
    /// What happens to fields with `_` in their names, which some applications read as `-`.
    pub underscores: Underscores,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_request_headers_kb: 60,
            max_headers_count: 100,
            max_requests_per_connection: 0,
            max_request_bytes: None,
            underscores: Underscores::default(),
        }
    }
}

/// Envoy's `headers_with_underscores_action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// The request is refused.
    RejectRequest,
    /// They are left out.
    DropHeader,
}

/// How long a caller may take; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpTimeouts {
    /// A connection without a request under way is closed. Envoy's default is 1 h.
    pub idle: Option<Duration>,
    /// From a head's first byte to its last. Default 1 min; Envoy has none.
    pub request_headers: Option<Duration>,
    /// From a request's first byte to its last. Default none, as Envoy's.
    pub request: Option<Duration>,
    /// Nothing moves in a request or its answer. Default none, as Istio's: a mesh carries long
    /// streams, and idle ones are for the ends to judge.
    pub stream_idle: Option<Duration>,
    /// A connection takes no further request after this. Default none, as Envoy's.
    pub max_connection: Option<Duration>,
    /// A request with its answer ends after this, whatever moves. Default none, as Envoy's.
    pub max_stream: Option<Duration>,
    /// Between the two goodbyes of an HTTP/2 connection. Envoy's default is 5 s.
    pub drain: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_hours(1)),
            request_headers: Some(Duration::from_mins(1)),
            request: None,
            stream_idle: None,
            max_connection: None,
            max_stream: None,
            drain: Duration::from_secs(5),
        }
    }
}

/// Who the caller is taken for. By default the fields that say so pass as they came, which is right
/// behind another proxy of the mesh and wrong at an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteOptions {
    /// The caller is who connected: its address is appended to `x-forwarded-for`, and what only
    /// proxies of the mesh may say is removed.
    pub use_remote_address: bool,
    /// Proxies in front of this one that are trusted to have appended to `x-forwarded-for`.
    pub xff_num_trusted_hops: u32,
    /// `x-forwarded-for` stays as it came even so.
    pub skip_xff_append: bool,
    /// Callers from here are internal (Envoy: `internal_address_config`); none by default.
    pub internal: Vec<IpNet>,
}

/// What `x-forwarded-client-cert` says. Where no certificate was shown only
/// [`ForwardClientCert::AlwaysForwardOnly`] lets the field pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientCertOptions {
    /// What happens to the field.
    pub forward: ForwardClientCert,
    /// What it says of the caller's certificate, besides `By` and `Hash`.
    pub details: ClientCertDetails,
}

impl Default for ClientCertOptions {
    fn default() -> Self {
        Self {
            forward: ForwardClientCert::SanitizeSet,
            details: ClientCertDetails {
                subject: true,
                uri: true,
                ..ClientCertDetails::default()
            },
        }
    }
}

/// Envoy's `forward_client_cert_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ForwardClientCert {
    /// Removed.
    Sanitize,
    /// Passed on as it came.
    ForwardOnly,
    /// Passed on with an element for this caller.
    AppendForward,
    /// Replaced by an element for this caller.
    SanitizeSet,
    /// Passed on as it came, even without a certificate.
    AlwaysForwardOnly,
}

/// Envoy's `set_current_client_cert_details`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent parts, each asked for by name"
)]
pub struct ClientCertDetails {
    /// `Subject`.
    pub subject: bool,
    /// `Cert`, PEM in URL encoding.
    pub cert: bool,
    /// `Chain`, PEM in URL encoding.
    pub chain: bool,
    /// `DNS`, one for each name.
    pub dns: bool,
    /// `URI`.
    pub uri: bool,
}

/// What `x-request-id` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestIdOptions {
    /// A request without one gets one. Default true.
    pub generate: bool,
    /// One that came from outside stays (see [`RemoteOptions::use_remote_address`]).
    pub preserve_external: bool,
    /// Answers carry it too.
    pub in_response: bool,
}

impl Default for RequestIdOptions {
    fn default() -> Self {
        Self {
            generate: true,
            preserve_external: false,
            in_response: false,
        }
    }
}

/// How the proxy names itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerOptions {
    /// The value of `server`; the default is `meshctl`.
    pub name: String,
    /// What happens to `server` in answers of applications; the proxy's own always carry its name.
    pub transformation: ServerHeader,
    /// Appended to `via` of requests and answers; empty is nothing (the default).
    pub via: String,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            name: Self::NAME.to_owned(),
            transformation: ServerHeader::default(),
            via: String::new(),
        }
    }
}

impl ServerOptions {
    /// The name unless another is given.
    pub const NAME: &'static str = "meshctl";
}

/// Envoy's `server_header_transformation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerHeader {
    /// The application's is replaced (Envoy's default).
    Overwrite,
    /// Set where the application sets none.
    AppendIfAbsent,
    /// Stays as it is (Istio's choice for sidecars).
    #[default]
    PassThrough,
}

/// What is taken in HTTP/1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http1Options {
    /// HTTP/1.0 is served, else answered with 426. Default true; Envoy's is false.
    pub accept_http_10: bool,
    /// The host of HTTP/1.0 requests without one; empty is none.
    pub default_host_for_http_10: String,
    /// `GET http://host/path` is served as from an explicit proxy, else refused. Default true.
    pub allow_absolute_url: bool,
    /// A request that is refused although its end is known does not end its connection
    /// (Envoy: `stream_error_on_invalid_http_message`). Default false.
    pub keep_after_error: bool,
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            accept_http_10: true,
            default_host_for_http_10: String::new(),
            allow_absolute_url: true,
            keep_after_error: false,
        }
    }
}

/// Protocols that a caller may switch to: values of `upgrade` in lower case, and `connect` for the
/// method CONNECT. Whoever asks for another is answered with 403. The default is `websocket`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrades(pub Vec<String>);

impl Default for Upgrades {
    fn default() -> Self {
        Self(vec![Self::WEBSOCKET.to_owned()])
    }
}

impl Upgrades {
    /// The protocol that everybody switches to.
    pub const WEBSOCKET: &'static str = "websocket";
    /// Stands for the method.
    pub const CONNECT: &'static str = "connect";

    /// Whether a caller may ask for `protocol`, in any case.
    pub fn allow(&self, protocol: &[u8]) -> bool {
        self.0
            .iter()
            .any(|own| protocol.eq_ignore_ascii_case(own.as_bytes()))
    }
}
