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
    // The first copy is the one whose answer is compared.
    let copy = forward.mirrors.first()?;
    let mut hosts = forward.clusters.iter().map(|target| host(&target.cluster));
    let first = hosts.next()??;
    let one = hosts.all(|other| other == Some(first));
    let name: Hostname = first.parse().ok().filter(|_| one)?;
    let how = all.get(&name)?;
    let meant = how
        .version
        .as_deref()
        .is_none_or(|version| subset(&copy.cluster) == Some(version));
    meant.then(|| Arc::clone(how))
}

/// The subset in the name of a cluster: `outbound|PORT|SUBSET|HOST`.
fn subset(cluster: &str) -> Option<&str> {
    cluster.split('|').nth(2)
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

    #[test]
    fn copies_to_others_than_the_one_that_is_tried_are_not_compared() {
        let how = Comparison {
            version: Some("v2".to_owned()),
            ..Comparison::default()
        };
        let all = BTreeMap::from([("a.b".parse().unwrap(), Arc::new(how))]);
        let found = |mirror: &str| {
            let forward = Forward {
                clusters: vec![WeightedCluster {
                    cluster: "outbound|80|v1|a.b".to_owned(),
                    weight: 1,
                    ..WeightedCluster::default()
                }],
                mirrors: vec![Mirror {
                    cluster: mirror.to_owned(),
                    ..Mirror::default()
                }],
                ..Forward::default()
            };
            of(&all, &forward).is_some()
        };
        assert!(found("outbound|80|v2|a.b"));
        assert!(!found("outbound|80||audit.b"));
        assert!(!found("outbound|80|v3|a.b"));
    }
}
