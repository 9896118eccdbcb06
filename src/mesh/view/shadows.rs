//! Comparisons of answers: put on the routes that copy the calls of a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::View;
use super::faults::host;
use crate::mesh::Hostname;
use crate::mesh::route::{Action, Forward};
use crate::mesh::shadow::Comparison;

/// Has those routes of `view` that send copies compare answers, where `all` says so of the service that they lead to.
pub(super) fn compare(all: &BTreeMap<Hostname, Arc<Comparison>>, view: &mut View) {
    if all.is_empty() {
        return;
    }
    for table in view.routes.values_mut() {
        let hosts = table.hosts.iter();
        let mut routes = hosts.flat_map(|host| &host.routes);
        if !routes.any(|route| forward(&route.action).and_then(|to| of(all, to)).is_some()) {
            continue;
        }
        let hosts = Arc::make_mut(table).hosts.iter_mut();
        for route in hosts.flat_map(|host| &mut host.routes) {
            if let Action::Forward(forward) = &mut route.action {
                forward.compare = of(all, forward);
            }
        }
    }
}

fn forward(action: &Action) -> Option<&Forward> {
    match action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Respond(_) => None,
    }
}

/// The comparison of the one service that all of a route leads to.
fn of(all: &BTreeMap<Hostname, Arc<Comparison>>, forward: &Forward) -> Option<Arc<Comparison>> {
    if forward.mirrors.is_empty() {
        return None;
    }
    let mut hosts = forward.clusters.iter().map(|target| host(&target.cluster));
    let first = hosts.next()??;
    let one = hosts.all(|other| other == Some(first));
    let name: Hostname = first.parse().ok().filter(|_| one)?;
    all.get(&name).map(Arc::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::route::{Mirror, WeightedCluster};

    #[test]
    fn routes_that_copy_calls_of_the_service_compare() {
        let all = BTreeMap::from([("a.b".parse().unwrap(), Arc::new(Comparison::default()))]);
        let found = |clusters: &[&str], copies: bool| {
            let clusters = clusters.iter().map(|cluster| WeightedCluster {
                cluster: (*cluster).to_owned(),
                weight: 1,
                ..WeightedCluster::default()
            });
            let forward = Forward {
                clusters: clusters.collect(),
                mirrors: if copies {
                    vec![Mirror::default()]
                } else {
                    Vec::new()
                },
                ..Forward::default()
            };
            of(&all, &forward).is_some()
        };
        assert!(found(&["outbound|80|v1|a.b", "outbound|80|v2|a.b"], true));
        assert!(!found(&["outbound|80|v1|a.b"], false));
        assert!(!found(&["outbound|80|v1|a.b", "outbound|80||c.d"], true));
        assert!(!found(&["inbound|80||"], true));
        assert!(!found(&[], true));
    }
}
