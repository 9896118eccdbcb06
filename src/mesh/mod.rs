//! The plain model of a mesh: services, workloads, routes, policies, and the view of one proxy.
//!
//! Owns the vocabulary and the decisions (who may reach what, which route matches) and nothing that
//! touches a clock, a socket or a wire format. What people write is lowered into a [`World`] by
//! `resource`; a [`World`] gives each proxy its [`View`]; `xds` carries views. Route matching is
//! here because the proxy, `routes --explain` and the shadowed-rule check must agree.

pub mod access_log;
pub mod authorization;
pub mod backend_tls;
pub mod balancing;
pub mod baseline;
pub mod check;
pub mod claims;
pub mod cluster;
pub mod credential;
pub mod destinations;
pub mod dns;
pub mod endpoint;
pub mod expression;
pub mod ext_authz;
pub mod filter;
pub mod finding;
pub mod gateway;
pub mod health_check;
pub mod http;
pub mod http2;
pub mod jwt_authn;
pub mod listener;
pub mod locality;
pub mod metrics;
pub mod name;
pub mod node;
pub mod ocsp;
pub mod origination;
pub mod outlier;
pub mod path;
pub mod policy;
pub mod rbac;
pub mod rollout;
pub mod route;
mod selection;
pub mod service;
pub mod session;
pub mod shadow;
mod sharing;
pub mod shared_map;
pub mod sidecar;
pub mod tap;
pub mod told;
pub mod tracing;
pub mod view;
pub mod workload;
pub mod world;

pub use balancing::{Balancing, LoadBalancer};
pub use cluster::{Cluster, ClusterKind};
pub use credential::{OwnTls, Secret};
pub use endpoint::{Assignment, DropOverload, Endpoint, Health, LocalityWeight};
pub use finding::{Finding, Origin, Severity};
pub use health_check::HealthCheck;
pub use http::HttpOptions;
pub use listener::{Chain, ChainAction, Listener};
pub use name::{Hostname, Locality, SpiffeId};
pub use node::{Client, Node, NodeKind};
pub use route::{Request, Route, RouteTable, Router, VirtualHost};
pub use service::{Protocol, Service, ServicePort};
pub use view::{Revision, View};
pub use workload::{Instance, WorkloadRef};
pub use world::World;
