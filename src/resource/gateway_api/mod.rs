//! The kinds of the Kubernetes Gateway API (`gateway.networking.k8s.io`), one file a kind.
//!
//! What is read here is what each object says by itself, with the API's own validation rules. What
//! references lead to, and so whether a route is accepted, is for `lower::gateway_api`: an object whose
//! references are broken is read all the same, since its status must say so.

mod backend_tls_policy;
mod cors;
mod filters;
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_match;
mod http_route;
mod listener_tls;
mod reference;
mod reference_grant;
mod session;
mod tcp_route;
mod tls_route;

pub use backend_tls_policy::{BackendTlsPolicy, PolicyRoots, PolicyTarget};
pub use filters::{Mirror, PathModifier, RedirectTo, RouteFilters, UrlRewrite};
pub use gateway::{AddressRequest, AllowedRoutes, From, Gateway, Listener, Protocol, RouteKind};
pub use gateway_class::GatewayClass;
pub use grpc_route::{GrpcMatch, GrpcRoute, GrpcRule};
pub use http_route::{HttpRoute, HttpRule, RouteRetry};
pub use listener_tls::{ClientValidation, ListenerTls, PortValidation};
pub use reference::{BackendRef, ObjectRef, ParentRef, RouteBackend};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrant};
pub use session::SessionPersistence;
pub use tcp_route::TcpRoute;
pub use tls_route::TlsRoute;

pub(super) use http_match::any;

pub(super) use backend_tls_policy::backend_tls_policy;
pub(super) use gateway::gateway;
pub(super) use gateway_class::gateway_class;
pub(super) use grpc_route::grpc_route;
pub(super) use http_route::http_route;
pub(super) use reference_grant::reference_grant;
pub(super) use tcp_route::tcp_route;
pub(super) use tls_route::tls_route;

/// The API's group.
pub const GROUP: &str = "gateway.networking.k8s.io";
