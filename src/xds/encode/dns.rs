//! Clusters whose endpoints are names.

#![expect(
    deprecated,
    reason = "what Istio sends and bootstrap files have; Envoy's later form is an extension"
)]

use std::net::{Ipv6Addr, SocketAddr};

use super::super::pb::{cluster, core, duration, endpoint as pb, to_address};
use super::endpoint;
use crate::mesh::dns::{Family, Names, Target};
use crate::mesh::{Assignment, Client, Endpoint};

/// Says in `to` which names there are and how they are asked for; gives the kind of cluster.
pub(super) fn add(
    names: &Names,
    client: Client,
    to: &mut cluster::Cluster,
) -> cluster::cluster::DiscoveryType {
    use cluster::cluster::{DiscoveryType, DnsLookupFamily, RefreshRate};
    let lookup = &names.lookup;
    to.dns_lookup_family = match lookup.family {
        Family::Auto => DnsLookupFamily::Auto,
        Family::V4Only => DnsLookupFamily::V4Only,
        Family::V6Only => DnsLookupFamily::V6Only,
        Family::V4Preferred => DnsLookupFamily::V4Preferred,
        Family::All => DnsLookupFamily::All,
    }
    .into();
    to.dns_refresh_rate = duration(lookup.refresh);
    to.dns_failure_refresh_rate = lookup.failed.map(|(base, longest)| RefreshRate {
        base_interval: duration(base),
        max_interval: duration(longest),
    });
    to.respect_dns_ttl = lookup.respect_ttl;
    if !lookup.jitter.is_zero() {
        to.dns_jitter = duration(lookup.jitter);
    }
    to.load_assignment = Some(assignment(&to.name, names, client));
    if names.logical {
        DiscoveryType::LogicalDns
    } else {
        DiscoveryType::StrictDns
    }
}

/// The endpoints, which stand at nobody's addresses (RFC 6666) until they are given their names.
fn assignment(cluster: &str, names: &Names, client: Client) -> pb::ClusterLoadAssignment {
    let nowhere =
        |at: usize| Ipv6Addr::new(0x0100, 0, 0, 0, 0, 0, 0, u16::try_from(at).unwrap_or(0));
    let endpoints = names.targets.iter().enumerate().map(|(at, target)| {
        let mut endpoint = target.endpoint.clone();
        endpoint.address = SocketAddr::new(nowhere(at).into(), endpoint.address.port());
        endpoint
    });
    let mut endpoints: Vec<Endpoint> = endpoints.collect();
    endpoints.sort();
    let placed = Assignment {
        endpoints,
        ..names.rest.clone()
    };
    let mut out = endpoint::encode(cluster, &placed, client);
    for member in out
        .endpoints
        .iter_mut()
        .flat_map(|group| &mut group.lb_endpoints)
    {
        let Some(pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut member.host_identifier
        else {
            continue;
        };
        if let Some(core::address::Address::SocketAddress(socket)) =
            endpoint.address.as_mut().and_then(|at| at.address.as_mut())
            && let Ok(place) = socket.address.parse::<Ipv6Addr>()
            && let Some(target) = place
                .segments()
                .last()
                .and_then(|at| names.targets.get(usize::from(*at)))
        {
            socket.address.clone_from(&target.host);
        }
        if let Some(check) = &mut endpoint.health_check_config
            && let Some(checked) = to_address(check.address.as_ref())
            && checked.ip() == Target::NOWHERE
        {
            check.address = None;
            check.port_value = checked.port().into();
        }
    }
    out
}
