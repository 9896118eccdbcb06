//! Endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::pb::{core, endpoint, percent, to_address, to_locality};
use super::super::structs::{ISTIO, MESHCTL, SOCKET_MATCH, as_text, part};
use super::fields::Fields;
use super::{Fault, health};
use crate::mesh::{
    Assignment, DropOverload, Endpoint, Health, Locality, LocalityWeight, WorkloadRef,
};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&ASSIGNMENT, &POLICY, &LOCALITY, &MEMBER, &ADDRESS];

const ASSIGNMENT: Fields = Fields {
    message: "ClusterLoadAssignment",
    understood: &[(1, "cluster_name"), (2, "endpoints"), (4, "policy")],
    tuning: &[(5, "named_endpoints")],
    refused: &[],
};
const POLICY: Fields = Fields {
    message: "ClusterLoadAssignment.Policy",
    understood: &[
        (2, "drop_overloads"),
        (3, "overprovisioning_factor"),
        (6, "weighted_priority_health"),
    ],
    tuning: &[(4, "endpoint_stale_after")],
    refused: &[(5, "disable_overprovisioning")],
};
const LOCALITY: Fields = Fields {
    message: "LocalityLbEndpoints",
    understood: &[
        (1, "locality"),
        (2, "lb_endpoints"),
        (3, "load_balancing_weight"),
        (5, "priority"),
    ],
    tuning: &[(6, "proximity"), (9, "metadata")],
    refused: &[
        (7, "load_balancer_endpoints"),
        (8, "leds_cluster_locality_config"),
    ],
};
const MEMBER: Fields = Fields {
    message: "LbEndpoint",
    understood: &[
        (1, "endpoint"),
        (2, "health_status"),
        (3, "metadata"),
        (4, "load_balancing_weight"),
    ],
    tuning: &[],
    refused: &[(5, "endpoint_name")],
};
const ADDRESS: Fields = Fields {
    message: "Endpoint",
    understood: &[
        (1, "address"),
        (2, "health_check_config"),
        (4, "additional_addresses"),
    ],
    tuning: &[(3, "hostname"), (5, "observability_name")],
    refused: &[],
};

pub(super) fn decode(
    from: endpoint::ClusterLoadAssignment,
    ignored: &mut Vec<String>,
) -> Result<Assignment, Fault> {
    placed(from, ignored, &mut to_address)
}

/// As [`decode`]; `place` says where an address is.
pub(super) fn placed(
    from: endpoint::ClusterLoadAssignment,
    ignored: &mut Vec<String>,
    place: &mut dyn FnMut(Option<&core::Address>) -> Option<SocketAddr>,
) -> Result<Assignment, Fault> {
    ASSIGNMENT.audit(&from, ignored)?;
    let mut endpoints = Vec::new();
    let mut said: BTreeMap<(u32, Locality), u32> = BTreeMap::new();
    for group in from.endpoints {
        LOCALITY.audit(&group, ignored)?;
        let locality = to_locality(group.locality);
        // Envoy's way to say zero is to say nothing.
        let weight = group.load_balancing_weight.map_or(0, |weight| weight.value);
        said.insert((group.priority, locality.clone()), weight);
        for member in group.lb_endpoints {
            MEMBER.audit(&member, ignored)?;
            let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(at)) = &member.host_identifier
            else {
                return Err(Fault::Invalid("an endpoint has no address".to_owned()));
            };
            ADDRESS.audit(at, ignored)?;
            let address = place(at.address.as_ref()).ok_or_else(no_address)?;
            endpoints.push(Endpoint {
                priority: group.priority,
                locality: locality.clone(),
                address,
                weight: member
                    .load_balancing_weight
                    .map_or(1, |weight| weight.value.max(1)),
                health: health(member.health_status),
                mtls: part(member.metadata.as_ref(), SOCKET_MATCH)
                    .and_then(|fields| as_text(fields, "tlsMode"))
                    .is_some_and(|mode| mode == "istio"),
                additional: at
                    .additional_addresses
                    .iter()
                    .map(|other| to_address(other.address.as_ref()).ok_or_else(no_address))
                    .collect::<Result<_, _>>()?,
                workload: workload(member.metadata.as_ref()),
                health_check: health::endpoint(at.health_check_config.as_ref(), address, ignored)?,
            });
        }
    }
    let policy = from.policy.unwrap_or_default();
    POLICY.audit(&policy, ignored)?;
    let assignment = Assignment::new(endpoints);
    let default = Assignment::default();
    Ok(Assignment {
        overprovisioning: policy
            .overprovisioning_factor
            .map_or(default.overprovisioning, |factor| factor.value),
        weighted_health: policy.weighted_priority_health,
        locality_weights: said
            .into_iter()
            .map(|((priority, locality), weight)| LocalityWeight {
                priority,
                locality,
                weight,
            })
            .filter(|said| {
                let same =
                    |e: &&Endpoint| e.priority == said.priority && e.locality == said.locality;
                let mut members = assignment.endpoints.iter().filter(same).peekable();
                let empty = members.peek().is_none();
                let sum = members.fold(0_u32, |sum, e| sum.saturating_add(e.weight));
                !empty && sum != said.weight
            })
            .collect(),
        drops: policy.drop_overloads.iter().map(drop).collect(),
        ..assignment
    })
}

fn no_address() -> Fault {
    Fault::Invalid("an endpoint's address is not an IP address and a port".to_owned())
}

fn drop(from: &endpoint::cluster_load_assignment::policy::DropOverload) -> DropOverload {
    use percent::DenominatorType as Denominator;
    let share = from.drop_percentage.unwrap_or_default();
    let factor = match Denominator::try_from(share.denominator) {
        Ok(Denominator::Million) => 1,
        Ok(Denominator::TenThousand) => 100,
        Ok(Denominator::Hundred) | Err(_) => 10_000,
    };
    DropOverload {
        category: from.category.clone(),
        per_million: share.numerator.saturating_mul(factor).min(1_000_000),
    }
}

fn health(status: i32) -> Health {
    match core::HealthStatus::try_from(status) {
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => Health::Unhealthy,
        Ok(core::HealthStatus::Draining) => Health::Draining,
        Ok(core::HealthStatus::Degraded) => Health::Degraded,
        _ => Health::Healthy,
    }
}

/// Istio's `workload;namespace;service;revision;cluster`.
fn workload(metadata: Option<&core::Metadata>) -> WorkloadRef {
    let named = part(metadata, ISTIO)
        .and_then(|fields| as_text(fields, "workload"))
        .unwrap_or_default();
    let mut parts = named.split(';').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (workload, namespace, service, version) = (next(), next(), next(), next());
    WorkloadRef {
        instance: part(metadata, MESHCTL)
            .and_then(|fields| as_text(fields, "instance"))
            .unwrap_or_default(),
        workload,
        namespace,
        service,
        version,
    }
}
