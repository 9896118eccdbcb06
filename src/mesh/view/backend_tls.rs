//! Clusters of gateways that speak TLS because a policy says so.

use std::sync::Arc;

use super::View;
use super::common::Scope;
use crate::mesh::Cluster;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::gateway::Serves;
use crate::mesh::listener::{ChainAction, Transport};
use crate::mesh::world::Config;

/// The cluster of the same endpoints that adds no TLS.
fn passing(name: &str) -> Arc<str> {
    format!("{name}|passthrough").into()
}

/// Whether some gateway lets TLS pass.
pub(super) fn passes(config: &Config) -> bool {
    let gateways = config.gateways.values().chain(config.listening.values());
    let mut servers = gateways.flat_map(|gateway| &gateway.servers);
    servers.any(|server| server.serves == Serves::Passthrough)
}

/// Puts into `scope` what stands in `raw` under `name`, as gateways have it: what policies say comes
/// before what rules for destinations say of TLS. Where `passes`, a cluster that adds none stands beside
/// each that does. What is equal stays.
pub(super) fn secure(
    config: &Config,
    passes: bool,
    name: &Arc<str>,
    raw: &Scope,
    scope: &mut Scope,
) {
    let cluster = raw.clusters.get(name);
    let security = cluster.and_then(|cluster| {
        let service = cluster.service.as_ref()?;
        let key = (service.host.clone(), service.port);
        Some((cluster, config.backend_security.get(&key)?))
    });
    let Some((cluster, security)) = security else {
        scope.take(name, raw);
        return;
    };
    if passes {
        let beside = Cluster {
            name: passing(name).to_string(),
            ..(**cluster).clone()
        };
        put(scope, beside);
        scope.lead(&passing(name), raw.endpoints.get(name));
    }
    match security {
        // Requests to a cluster that is not there fail.
        BackendTls::Broken => {
            scope.clusters.remove(name);
            scope.endpoints.remove(name);
        }
        BackendTls::Originate(how) => {
            let mut own = Cluster::clone(cluster);
            own.tls = None;
            own.origination = Some(how.clone());
            if own.protocol == UpstreamProtocol::Negotiated {
                own.protocol = UpstreamProtocol::Http1;
            }
            put(scope, own);
            scope.lead(name, raw.endpoints.get(name));
        }
    }
}

fn put(scope: &mut Scope, cluster: Cluster) {
    let name: Arc<str> = cluster.name.as_str().into();
    if scope.clusters.get(&name).is_none_or(|had| **had != cluster) {
        scope.clusters.insert(name, Arc::new(cluster));
    }
}

/// TLS that passes is what the application wants already: it goes to clusters that add none, where
/// those of `scopes` do.
pub(super) fn keep_passing(scopes: &[Arc<Scope>], view: &mut View) {
    let beside = |name: &str| {
        let name = passing(name);
        let there = scopes.iter().any(|own| own.clusters.contains_key(&name));
        there.then(|| name.to_string())
    };
    for listener in view.listeners.values_mut() {
        let chains = listener.chains.iter().enumerate();
        let led = chains.flat_map(|(at, chain)| {
            let passes = chain.tls.is_none() && chain.matches.transport == Some(Transport::Tls);
            let clusters = match &chain.action {
                ChainAction::Tcp { clusters, .. } if passes => clusters.as_slice(),
                _ => &[],
            };
            let places = clusters.iter().enumerate();
            places.filter_map(move |(place, (name, _))| Some((at, place, beside(name)?)))
        });
        let led: Vec<(usize, usize, String)> = led.collect();
        for (at, place, name) in led {
            let chain = Arc::make_mut(listener).chains.get_mut(at);
            if let Some(ChainAction::Tcp { clusters, .. }) = chain.map(|chain| &mut chain.action)
                && let Some((cluster, _)) = clusters.get_mut(place)
            {
                *cluster = name;
            }
        }
    }
}
