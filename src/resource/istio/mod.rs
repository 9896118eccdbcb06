//! Istio's kinds, as far as they are honoured.
//!
//! One rule for what is not: a field that changes routing or security is refused by name; one that
//! only tunes is left out with a warning.

mod authorization_policy;
mod client_tls;
mod cors;
mod destination_rule;
mod envoy_filter;
mod fault;
mod gateway;
mod header_edits;
mod http_answer;
mod http_match;
mod http_route;
mod load_balancer;
mod locality;
mod extension_providers;
mod mesh_config;
mod peer_authentication;
mod percent;
mod log_providers;
mod proxy_config;
mod request_authentication;
mod security_target;
mod retries;
mod service_entry;
mod sidecar;
mod span_providers;
mod stream_route;
mod telemetry;
mod virtual_service;
mod workload_entry;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::{DestinationRule, Policy, RuleSubset};
pub use extension_providers::AuthzProvider;
pub use gateway::{Gateway, GatewayProtocol, GatewayServer, GatewayTls};
pub use http_match::HttpMatch;
pub use http_route::{
    DelegateTo, Destination, HttpAction, HttpRoute, MirrorDestination, RouteDestination, UriRewrite,
};
pub use log_providers::LogProvider;
pub use mesh_config::MeshConfig;
pub use peer_authentication::PeerAuthentication;
pub use proxy_config::{ProxyConfig, annotated as proxy_annotation};
pub use request_authentication::RequestAuthentication;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use span_providers::SpanProvider;
pub use stream_route::{StreamMatch, StreamRoute};
pub use telemetry::{
    AccessLogging, MetricsOverride, MetricsRule, Telemetry, TracingRule, WorkloadMode,
};
pub use virtual_service::VirtualService;
pub use workload_entry::{About, WorkloadEntry, WorkloadGroup};

pub(super) use authorization_policy::authorization_policy;
pub(super) use destination_rule::destination_rule;
pub(super) use envoy_filter::native;
pub(super) use gateway::gateway;
pub(super) use header_edits::{header_name, named, written};
pub(super) use http_match::{pattern, text_match};
pub(super) use mesh_config::mesh_config;
pub(super) use peer_authentication::{modern_policy, peer_authentication};
pub(super) use proxy_config::proxy_config;
pub(super) use request_authentication::request_authentication;
pub(super) use service_entry::service_entry;
pub(super) use sidecar::sidecar;
pub(super) use telemetry::telemetry;
pub(super) use virtual_service::virtual_service;
pub(super) use workload_entry::{workload_entry, workload_group};
