//! Clusters whose endpoints are names.

#![expect(
    deprecated,
    reason = "what Istio sends and bootstrap files have; Envoy's later form is an extension"
)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::super::pb::{PbDuration, cluster, core, to_duration};
use super::fields::Fields;
use super::{Fault, duration_or, endpoint};
use crate::mesh::dns::{Family, Lookup, Names, Target};
use crate::mesh::{Assignment, Endpoint};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&RATE];

const RATE: Fields = Fields {
    message: "Cluster.RefreshRate",
    understood: &[(1, "base_interval"), (2, "max_interval")],
    tuning: &[],
    refused: &[],
};

/// Where names stand while they are sorted: addresses that are nobody's (RFC 6666).
const DISCARD: u16 = 0x0100;

/// The names of `from`, which are one endpoint each (`logical`) or as many as they have addresses.
pub(super) fn decode(
    from: &cluster::Cluster,
    logical: bool,
    ignored: &mut Vec<String>,
) -> Result<Names, Fault> {
    let mut hosts: Vec<(String, u16)> = Vec::new();
    let mut place = |address: Option<&core::Address>| {
        let named = named(address)?;
        let at = hosts.iter().position(|known| *known == named);
        let port = named.1;
        let at = at.unwrap_or_else(|| {
            hosts.push(named);
            hosts.len() - 1
        });
        Some(SocketAddr::new(nowhere(at)?, port))
    };
    let assignment = from.load_assignment.clone().unwrap_or_default();
    let assignment = endpoint::placed(assignment, ignored, &mut place)?;
    if logical && assignment.endpoints.len() != 1 {
        return Err(Fault::Invalid(format!(
            "a cluster of type LOGICAL_DNS has one endpoint, not {}",
            assignment.endpoints.len()
        )));
    }
    if assignment
        .endpoints
        .iter()
        .any(|one| !one.additional.is_empty())
    {
        return Err(Fault::Unsupported {
            message: "Endpoint",
            field: "additional_addresses of a name".to_owned(),
        });
    }
    let targets = assignment.endpoints.iter().filter_map(|endpoint| {
        let (host, _) = hosts.get(index(endpoint.address)?)?;
        Some(target(host, endpoint))
    });
    Ok(Names {
        logical,
        lookup: lookup(from, ignored)?,
        targets: targets.collect(),
        rest: Assignment {
            endpoints: Vec::new(),
            ..assignment.clone()
        },
    })
}

/// A name or an address as text, and a port.
fn named(address: Option<&core::Address>) -> Option<(String, u16)> {
    let core::address::Address::SocketAddress(socket) = address?.address.as_ref()? else {
        return None;
    };
    let core::socket_address::PortSpecifier::PortValue(port) = socket.port_specifier.as_ref()?
    else {
        return None;
    };
    let usual = socket.protocol == 0 && socket.resolver_name.is_empty();
    (usual && !socket.address.is_empty())
        .then_some(())
        .and(u16::try_from(*port).ok())
        .map(|port| (socket.address.clone(), port))
}

fn nowhere(at: usize) -> Option<IpAddr> {
    let at = u16::try_from(at).ok()?;
    Some(Ipv6Addr::new(DISCARD, 0, 0, 0, 0, 0, 0, at).into())
}

fn index(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V6(ip) => ip.segments().last().map(|at| usize::from(*at)),
        IpAddr::V4(_) => None,
    }
}

fn target(host: &str, endpoint: &Endpoint) -> Target {
    let mut endpoint = endpoint.clone();
    let place = endpoint.address.ip();
    endpoint.address.set_ip(Target::NOWHERE);
    let check = endpoint.health_check.as_mut();
    if let Some(checked) = check.and_then(|check| check.address.as_mut())
        && checked.ip() == place
    {
        checked.set_ip(Target::NOWHERE);
    }
    Target {
        host: host.to_owned(),
        endpoint,
    }
}

fn lookup(from: &cluster::Cluster, ignored: &mut Vec<String>) -> Result<Lookup, Fault> {
    use cluster::cluster::DnsLookupFamily as Of;
    let default = Lookup::default();
    let family = match Of::try_from(from.dns_lookup_family) {
        Ok(Of::Auto) => Family::Auto,
        Ok(Of::V4Only) => Family::V4Only,
        Ok(Of::V6Only) => Family::V6Only,
        Ok(Of::V4Preferred) => Family::V4Preferred,
        Ok(Of::All) => Family::All,
        Err(_) => {
            return Err(Fault::Invalid(format!(
                "dns_lookup_family {} is not known",
                from.dns_lookup_family
            )));
        }
    };
    let positive = |field: &str, from: Option<&PbDuration>, default| {
        let found = duration_or(field, from, default)?;
        if found < Duration::from_millis(1) {
            return Err(Fault::Invalid(format!("{field} is less than 1 ms")));
        }
        Ok(found)
    };
    let failed = match &from.dns_failure_refresh_rate {
        None => None,
        Some(rate) => {
            RATE.audit(rate, ignored)?;
            let base = positive("base_interval", rate.base_interval.as_ref(), Duration::ZERO)?;
            // Envoy: ten times the base.
            let longest = positive("max_interval", rate.max_interval.as_ref(), base * 10)?;
            if longest < base {
                return Err(Fault::Invalid(
                    "max_interval is less than base_interval".to_owned(),
                ));
            }
            Some((base, longest))
        }
    };
    let jitter = from.dns_jitter.as_ref();
    Ok(Lookup {
        family,
        refresh: positive(
            "dns_refresh_rate",
            from.dns_refresh_rate.as_ref(),
            default.refresh,
        )?,
        failed,
        respect_ttl: from.respect_dns_ttl,
        jitter: jitter.map_or(Ok(Duration::ZERO), |jitter| {
            to_duration(jitter)
                .ok_or_else(|| Fault::Invalid("dns_jitter is less than 0".to_owned()))
        })?,
    })
}
