//! Secrets that rules for destinations name, which are of the namespace of whoever calls.
//!
//! They are for gateways, and for the workloads that a rule chooses (Istio's rule). Other sidecars carry
//! what their application says, which may be that TLS already, to a gateway that has the Secret.

use std::sync::Arc;

use super::View;
use super::cluster::{effective, originate};
use crate::mesh::origination::Origination;
use crate::mesh::world::{Config, TlsPolicy};
use crate::mesh::{Cluster, Node, NodeKind, Secret};

/// Whether any rule is for gateways in another way than for sidecars.
pub(super) fn differ(config: &Config) -> bool {
    let mut rules = config.destinations.credentialed().iter();
    rules.any(|rule| rule.selector.is_empty())
}

/// Gives clusters of a gateway the TLS that sidecars do not begin.
pub(super) fn secure(config: &Config, node: &Node, view: &mut View) {
    if !differ(config) {
        return;
    }
    let how = |cluster: &Cluster| -> Option<Box<Origination>> {
        let called = cluster.service.as_ref()?;
        // What policies say of it goes before.
        let policed = (called.host.clone(), called.port);
        if config.backend_security.contains_key(&policed) {
            return None;
        }
        let service = config.services.get(&called.host)?;
        let rule = config.destination(&called.host, node.into())?;
        let subset = rule.subsets.get(&called.subset);
        match effective(rule, subset, called.port).tls {
            Some(TlsPolicy::Originate(how)) if rule.selector.is_empty() => {
                let needs = how.secrets().next().is_some();
                needs.then(|| originate(*how, service))
            }
            _ => None,
        }
    };
    for cluster in view.clusters.values_mut() {
        if let Some(how) = how(cluster) {
            Arc::make_mut(cluster).origination = Some(how);
        }
    }
}

/// Whether `node` has the same texts under both.
pub(super) fn same((one, other): (&Config, &Config), node: &Node) -> bool {
    let texts = |config: &Config| {
        let mut view = View::default();
        add(config, node, &mut view);
        view.secrets
    };
    texts(one) == texts(other)
}

/// Adds the texts that rules for `node` name, of its own namespace and no other.
pub(super) fn add(config: &Config, node: &Node, view: &mut View) {
    let gateway = node.kind == NodeKind::Gateway;
    let rules = config.destinations.credentialed().iter();
    let rules = rules.filter(|rule| rule.is_for(node.into()));
    let rules = rules.filter(|rule| gateway || !rule.selector.is_empty());
    let own = |name: &str| {
        let key = (node.namespace.clone(), name.to_owned());
        config.credentials.get(&key)
    };
    for how in rules.flat_map(|rule| rule.originations()) {
        if let Some(name) = how.secret()
            && let Some(of) = name.strip_prefix(&Secret::name_of_own(""))
            && let Some(text) = own(of).and_then(|of| of.certificate.as_ref())
        {
            view.secrets.insert(name.to_owned(), Arc::clone(text));
        }
        if let Some(name) = how.roots_secret()
            && let Some(of) = name.strip_prefix(&Secret::name_of_own(""))
        {
            let beside = of.strip_suffix("-cacert").and_then(own);
            // Those in a Secret of their own come before those beside a certificate.
            let mut found = own(of).into_iter().chain(beside);
            let text = found.find_map(|of| of.roots.as_ref());
            let text = text.map(|text| (name.to_owned(), Arc::clone(text)));
            view.secrets.extend(text);
        }
    }
}
