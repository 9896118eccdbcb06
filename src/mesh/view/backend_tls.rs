//! Clusters of gateways that speak TLS because a policy says so.

use std::sync::Arc;

use super::View;
use super::common::Scope;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::gateway::Serves;
use crate::mesh::listener::{ChainAction, Transport};
use crate::mesh::origination::Shown;
use crate::mesh::world::Config;
use crate::mesh::{Cluster, Node, Secret};

/// Behind the name of a cluster, for that of the same endpoints that adds no TLS.
const PASSING: &str = "|passthrough";

/// The cluster of the same endpoints that adds no TLS.
fn passing(name: &str) -> Arc<str> {
    format!("{name}{PASSING}").into()
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
        scope.put(beside);
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
            scope.put(own);
            scope.lead(name, raw.endpoints.get(name));
        }
    }
}

/// What the gateway `node` shows backends that ask for a certificate: a secret's name, and its text.
pub(super) fn shown<'a>(config: &'a Config, node: &Node) -> Option<(String, &'a Arc<Secret>)> {
    // Proxies serve one Gateway that could say what they show.
    let mut gateways = config.listening.values();
    let key = gateways.find_map(|gateway| {
        let served = gateway.is_served_by(&node.namespace, &node.labels);
        gateway.client_certificate.as_ref().filter(|_| served)
    })?;
    let text = config.credentials.get(key)?.certificate.as_ref()?;
    Some((Secret::name_of(&key.0, &key.1), text))
}

/// Lets clusters that speak TLS because a policy says so show what the gateway shows.
pub(super) fn show(config: &Config, node: &Node, view: &mut View) {
    let Some((secret, text)) = shown(config, node) else {
        return;
    };
    let mut needed = false;
    for cluster in view.clusters.values_mut() {
        let security = cluster.service.as_ref().and_then(|service| {
            let key = (service.host.clone(), service.port);
            config.backend_security.get(&key)
        });
        let originates = matches!(security, Some(BackendTls::Originate(_)));
        if !originates || cluster.name.ends_with(PASSING) || cluster.origination.is_none() {
            continue;
        }
        if let Some(how) = &mut Arc::make_mut(cluster).origination {
            how.certificate = Some(Shown::Secret(secret.clone()));
            needed = true;
        }
    }
    if needed {
        view.secrets.insert(secret, Arc::clone(text));
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
