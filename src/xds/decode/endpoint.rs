//! Endpoints.

use super::super::pb::{core, endpoint, to_address, to_locality};
use super::super::structs::{ISTIO, MESHCTL, SOCKET_MATCH, as_text, part};
use super::fields::Fields;
use super::{Fault, health};
use crate::mesh::{Assignment, Endpoint, Health, WorkloadRef};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&ASSIGNMENT, &LOCALITY, &MEMBER, &ADDRESS];

const ASSIGNMENT: Fields = Fields {
    message: "ClusterLoadAssignment",
    understood: &[(1, "cluster_name"), (2, "endpoints")],
    tuning: &[(4, "policy"), (5, "named_endpoints")],
    refused: &[],
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
    understood: &[(1, "address"), (2, "health_check_config")],
    tuning: &[
        (3, "hostname"),
        (4, "additional_addresses"),
        (5, "observability_name"),
    ],
    refused: &[],
};

pub(super) fn decode(
    from: endpoint::ClusterLoadAssignment,
    ignored: &mut Vec<String>,
) -> Result<Assignment, Fault> {
    ASSIGNMENT.audit(&from, ignored)?;
    let mut endpoints = Vec::new();
    for group in from.endpoints {
        LOCALITY.audit(&group, ignored)?;
        let locality = to_locality(group.locality);
        for member in group.lb_endpoints {
            MEMBER.audit(&member, ignored)?;
            let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(at)) = &member.host_identifier
            else {
                return Err(Fault::Invalid("an endpoint has no address".to_owned()));
            };
            ADDRESS.audit(at, ignored)?;
            let address = to_address(at.address.as_ref()).ok_or_else(|| {
                Fault::Invalid("an endpoint's address is not an IP address and a port".to_owned())
            })?;
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
                workload: workload(member.metadata.as_ref()),
                health_check: health::endpoint(at.health_check_config.as_ref(), address, ignored)?,
            });
        }
    }
    Ok(Assignment::new(endpoints))
}

fn health(status: i32) -> Health {
    match core::HealthStatus::try_from(status) {
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => Health::Unhealthy,
        Ok(core::HealthStatus::Draining) => Health::Draining,
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
