//! What policies of the mesh's own kinds do to the tables of one proxy.

use crate::mesh::Route;
use crate::mesh::filter::HttpFilter;
use crate::mesh::policy::{InForce, edit};
use crate::mesh::route::Action;

/// Puts what is in force into a route.
pub(super) fn apply(force: &InForce, route: &mut Route) {
    edit(&mut route.headers, &force.headers);
    if let (Some(limit), Action::Forward(forward)) = (&force.rate_limit, &mut route.action) {
        forward
            .filters
            .push(HttpFilter::LocalRateLimit(limit.clone()));
    }
}
