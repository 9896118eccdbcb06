//! What policies of the mesh's own kinds do to the tables and chains of one proxy.

use std::sync::Arc;

use crate::mesh::Route;
use crate::mesh::filter::{Compressor, HttpFilter, LocalRateLimit};
use crate::mesh::policy::{InForce, edit};
use crate::mesh::route::Action;

/// Puts what is in force into a route. `compresses`: its chain does, whoever asked for that.
pub(super) fn apply(force: &InForce, compresses: bool, route: &mut Route) {
    edit(&mut route.headers, &force.headers);
    let Action::Forward(forward) = &mut route.action else {
        return;
    };
    if compresses && force.compression.is_none() {
        let off = HttpFilter::Compressor(Arc::new(Compressor::off()));
        off.put_into(&mut forward.filters);
    }
    if let Some(limit) = &force.rate_limit {
        HttpFilter::LocalRateLimit(limit.clone()).put_into(&mut forward.filters);
    }
}

/// The filters of a chain where policies act: the place of limits, so that one is in force on
/// connections that were there before it, and compression.
pub(super) fn filters(grpc_web: bool, compression: Option<&Arc<Compressor>>) -> Vec<HttpFilter> {
    let mut all = Vec::new();
    if grpc_web {
        all.push(HttpFilter::GrpcWeb);
    }
    let place = LocalRateLimit::place();
    all.push(HttpFilter::LocalRateLimit(Arc::new(place)));
    all.extend(compression.cloned().map(HttpFilter::Compressor));
    all
}
