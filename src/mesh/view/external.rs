//! Clusters of hosts that the mesh does not run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::cluster::Ranking;
use crate::mesh::dns::{Family, Lookup, Names, Target};
use crate::mesh::locality::Ranks;
use crate::mesh::service::{Entry, External, Resolution, TargetPort, speaks_mtls};
use crate::mesh::world::selects;
use crate::mesh::{Assignment, Cluster, ClusterKind, Endpoint, Service, ServicePort, SpiffeId};

/// How names are asked for: every minute as Istio does, or as their answers say, and soon again when
/// nobody answers. IPv4 goes first, as there are more hosts without IPv6 than without that.
const LOOKUP: Lookup = Lookup {
    family: Family::V4Preferred,
    refresh: Duration::from_mins(1),
    failed: Some((Duration::from_secs(1), Duration::from_secs(30))),
    respect_ttl: true,
    jitter: Duration::ZERO,
};

/// Says where the endpoints of `cluster` are; gives those whose addresses are known. Only those that
/// carry `labels`.
pub(super) fn place(
    cluster: &mut Cluster,
    external: &External,
    port: &ServicePort,
    (labels, ranking): (Option<&BTreeMap<String, String>>, Ranking<'_>),
) -> Option<Assignment> {
    let chosen = |entry: &&Entry| labels.is_none_or(|labels| selects(labels, &entry.labels));
    let entries = external.endpoints.iter().filter(chosen);
    match external.resolution {
        Resolution::None => {
            cluster.kind = ClusterKind::OriginalDestination;
            None
        }
        Resolution::Static => {
            cluster.kind = ClusterKind::Discovered;
            let endpoints = entries.filter_map(|entry| {
                let address = entry.address.parse().ok()?;
                Some((endpoint(entry, address, port), &entry.labels))
            });
            Some(ranking.assign(endpoints.collect()))
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            let logical = external.resolution == Resolution::DnsRoundRobin;
            let host = cluster.service.as_ref().map(|service| service.host.clone());
            let own = host
                .filter(|_| external.endpoints.is_empty())
                .map(|host| Entry {
                    address: host.to_string(),
                    weight: 1,
                    ..Entry::default()
                });
            let entries: Vec<&Entry> = entries.chain(&own).collect();
            cluster.kind = ClusterKind::Dns(Box::new(names(logical, &entries, port, ranking)));
            None
        }
    }
}

fn names(logical: bool, entries: &[&Entry], port: &ServicePort, ranking: Ranking<'_>) -> Names {
    let found = entries
        .iter()
        .map(|entry| endpoint(entry, Target::NOWHERE, port));
    let found: Vec<Endpoint> = found.collect();
    let members = found.iter().zip(entries);
    let Ranks {
        priorities,
        weights,
    } = ranking.ranks(members.map(|(endpoint, entry)| (endpoint, &entry.labels)));
    let ranked = found.into_iter().zip(entries).zip(priorities);
    let mut targets: Vec<Target> = ranked
        .filter_map(|((endpoint, entry), priority)| {
            Some(Target {
                host: entry.address.clone(),
                endpoint: Endpoint {
                    priority: priority?,
                    ..endpoint
                },
            })
        })
        .collect();
    // As they stand on the wire.
    targets
        .sort_by_cached_key(|target| (target.endpoint.priority, target.endpoint.locality.clone()));
    Names {
        logical,
        lookup: LOOKUP,
        targets,
        rest: Assignment {
            locality_weights: weights,
            ..Assignment::default()
        },
    }
}

fn endpoint(entry: &Entry, address: IpAddr, port: &ServicePort) -> Endpoint {
    let number = match (entry.ports.get(&port.name), &port.target) {
        (Some(own), _) => *own,
        (None, TargetPort::Number(target)) => *target,
        (None, TargetPort::Name(_)) => port.port,
    };
    Endpoint {
        locality: entry.locality.clone(),
        weight: entry.weight.max(1),
        mtls: speaks_mtls(&entry.labels, &entry.account),
        ..Endpoint::at(SocketAddr::new(address, number))
    }
}

/// Who the endpoints of `service` may be, where they are no instances of the mesh.
pub(super) fn accounts<'a>(
    service: &'a Service,
    trust_domain: &'a str,
) -> impl Iterator<Item = SpiffeId> + 'a {
    service.external.iter().flat_map(move |external| {
        let named = external.names.iter().filter_map(|name| name.parse().ok());
        let accounts = external.endpoints.iter().map(|entry| &entry.account);
        let accounts = accounts.filter(|account| !account.is_empty());
        named.chain(
            accounts.map(move |account| SpiffeId::new(trust_domain, &service.namespace, account)),
        )
    })
}
