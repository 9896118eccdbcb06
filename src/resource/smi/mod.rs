//! Kinds of the Service Mesh Interface, as far as they are honoured: they are archived, and still what
//! Flagger, Argo Rollouts and Linkerd's extension write.

mod route_group;
mod traffic_split;

pub use route_group::{GroupMatch, HttpRouteGroup};
pub use traffic_split::{SplitBackend, TrafficSplit};

pub(super) use route_group::http_route_group;
pub(super) use traffic_split::{in_units, quantity, traffic_split};
