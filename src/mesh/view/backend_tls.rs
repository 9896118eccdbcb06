//! Clusters of a gateway that speak TLS because a policy says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::View;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::listener::{ChainAction, Transport};
use crate::mesh::origination::Shown;
use crate::mesh::world::Config;
use crate::mesh::{Cluster, Node, Secret};

/// What policies say comes before what rules for destinations say of TLS.
pub(super) fn secure(config: &Config, node: &Node, view: &mut View) {
    // Proxies serve one Gateway that could say what they show.
    let mut gateways = config.listening.values();
    let shown = gateways.find_map(|gateway| {
        let served = gateway.is_served_by(&node.namespace, &node.labels);
        gateway.client_certificate.as_ref().filter(|_| served)
    });
    let shown = shown.and_then(|key| {
        let text = config.credentials.get(key)?.certificate.as_ref()?;
        Some((Secret::name_of(&key.0, &key.1), text))
    });
    let security = |cluster: &Cluster| {
        let service = cluster.service.as_ref()?;
        let key = (service.host.clone(), service.port);
        config.backend_security.get(&key)
    };
    let secured: BTreeSet<String> = view
        .clusters
        .iter()
        .filter(|(_, cluster)| security(cluster).is_some())
        .map(|(name, _)| name.clone())
        .collect();
    keep_passing(view, &secured);
    for name in secured {
        let Some(cluster) = view.clusters.get_mut(&name) else {
            continue;
        };
        match security(cluster) {
            None => {}
            // Requests to a cluster that is not there fail.
            Some(BackendTls::Broken) => {
                view.clusters.remove(&name);
                view.endpoints.remove(&name);
            }
            Some(BackendTls::Originate(how)) => {
                let cluster = Arc::make_mut(cluster);
                cluster.tls = None;
                let mut how = how.clone();
                if let Some((name, text)) = &shown {
                    how.certificate = Some(Shown::Secret(name.clone()));
                    view.secrets.insert(name.clone(), Arc::clone(text));
                }
                cluster.origination = Some(how);
                if cluster.protocol == UpstreamProtocol::Negotiated {
                    cluster.protocol = UpstreamProtocol::Http1;
                }
            }
        }
    }
}

/// TLS that passes is what the application wants already: it goes to clusters of the same endpoints that
/// add none.
fn keep_passing(view: &mut View, secured: &BTreeSet<String>) {
    let plain = |name: &str| format!("{name}|passthrough");
    let mut passing = BTreeSet::new();
    for listener in view.listeners.values_mut() {
        let passes = listener.chains.iter().any(|chain| {
            matches!(&chain.action, ChainAction::Tcp { clusters, .. }
                if chain.tls.is_none()
                    && chain.matches.transport == Some(Transport::Tls)
                    && clusters.iter().any(|(name, _)| secured.contains(name)))
        });
        if !passes {
            continue;
        }
        for chain in &mut Arc::make_mut(listener).chains {
            if chain.tls.is_some() || chain.matches.transport != Some(Transport::Tls) {
                continue;
            }
            let ChainAction::Tcp { clusters, .. } = &mut chain.action else {
                continue;
            };
            for (name, _) in clusters {
                if secured.contains(name) {
                    passing.insert(name.clone());
                    *name = plain(name);
                }
            }
        }
    }
    for name in passing {
        if let Some(cluster) = view.clusters.get(&name) {
            let cluster = Cluster {
                name: plain(&name),
                ..(**cluster).clone()
            };
            view.add_cluster(cluster);
        }
        if let Some(endpoints) = view.endpoints.get(&name).cloned() {
            view.endpoints.insert(plain(&name), endpoints);
        }
    }
}
