//! Faults that are injected for a while: put over the routes that lead to a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::View;
use crate::mesh::filter::{Fault, HttpFilter};
use crate::mesh::policy::Injected;
use crate::mesh::route::{Action, Forward};
use crate::mesh::{Hostname, RouteTable};

/// Puts `faults` over what the routes of `view` say themselves, for as long as they last.
pub(super) fn inject(faults: &BTreeMap<Hostname, Arc<Injected>>, view: &mut View) {
    if faults.is_empty() {
        return;
    }
    for table in view.routes.values_mut() {
        if !forwards(table).any(|forward| fault(faults, forward).is_some()) {
            continue;
        }
        let routes = Arc::make_mut(table).hosts.iter_mut();
        for route in routes.flat_map(|host| &mut host.routes) {
            if let Action::Forward(forward) = &mut route.action
                && let Some(fault) = fault(faults, forward)
            {
                put(forward, fault);
            }
        }
    }
}

fn forwards(table: &RouteTable) -> impl Iterator<Item = &Forward> {
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    routes.filter_map(|route| match &route.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Respond(_) => None,
    })
}

/// The service that a cluster is of, of the clusters of callers.
pub(super) fn host(cluster: &str) -> Option<&str> {
    cluster.strip_prefix("outbound|")?.splitn(3, '|').nth(2)
}

/// The fault for a route: that of the one service that all of it leads to, or of the one of its
/// clusters that is of a service with a fault.
fn fault(faults: &BTreeMap<Hostname, Arc<Injected>>, forward: &Forward) -> Option<Arc<Fault>> {
    let of = |cluster: &str| {
        let host: Hostname = host(cluster)?.parse().ok()?;
        faults.get(&host)
    };
    let first = forward.clusters.first()?;
    let same = |cluster: &str| host(cluster) == host(&first.cluster);
    if forward.clusters.iter().all(|target| same(&target.cluster)) {
        return of(&first.cluster).map(|injected| Arc::clone(&injected.fault));
    }
    let mut some = forward.clusters.iter().filter_map(|target| {
        let injected = of(&target.cluster)?;
        Some((&target.cluster, injected))
    });
    let (cluster, injected) = some.next()?;
    // One filter knows one cluster.
    some.next().is_none().then(|| {
        Arc::new(Fault {
            cluster: cluster.clone(),
            ..(*injected.fault).clone()
        })
    })
}

fn put(forward: &mut Forward, fault: Arc<Fault>) {
    HttpFilter::Fault(fault).put_into(&mut forward.filters);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Origin;
    use crate::mesh::route::WeightedCluster;

    fn forward(clusters: &[&str]) -> Forward {
        Forward {
            clusters: clusters
                .iter()
                .map(|cluster| WeightedCluster {
                    cluster: (*cluster).to_owned(),
                    weight: 1,
                    ..WeightedCluster::default()
                })
                .collect(),
            ..Forward::default()
        }
    }

    #[test]
    fn a_fault_is_for_what_leads_to_its_service() {
        let injected = Arc::new(Injected {
            fault: Arc::default(),
            until_unix_ms: 1,
            origin: Origin::default(),
        });
        let faults = BTreeMap::from([("a.b".parse().unwrap(), injected)]);
        let found = |clusters: &[&str]| {
            let fault = fault(&faults, &forward(clusters))?;
            Some(fault.cluster.clone())
        };
        assert_eq!(found(&["outbound|80||a.b"]), Some(String::new()));
        assert_eq!(
            found(&["outbound|80|v1|a.b", "outbound|80|v2|a.b"]),
            Some(String::new())
        );
        assert_eq!(found(&["outbound|80||a.b.c"]), None);
        assert_eq!(found(&["inbound|80||"]), None);
        assert_eq!(
            found(&["outbound|80||c", "outbound|80||a.b"]),
            Some("outbound|80||a.b".to_owned())
        );
        assert_eq!(
            found(&["outbound|80||c", "outbound|80||a.b", "outbound|80|v1|a.b"]),
            None
        );
    }

    #[test]
    fn what_a_route_says_itself_gives_way() {
        let fault = |cluster: &str| {
            Arc::new(Fault {
                cluster: cluster.to_owned(),
                ..Fault::default()
            })
        };
        let mut own = forward(&["outbound|80||a.b"]);
        own.filters = vec![
            HttpFilter::Cors(Arc::default()),
            HttpFilter::LocalRateLimit(Arc::default()),
        ];
        put(&mut own, fault("first"));
        put(&mut own, fault("second"));
        let expected = [
            HttpFilter::Cors(Arc::default()),
            HttpFilter::Fault(fault("second")),
            HttpFilter::LocalRateLimit(Arc::default()),
        ];
        assert_eq!(own.filters, expected);
    }
}
