//! Endpoints.

use super::super::pb::{address, core, endpoint, locality, u32_value};
use super::super::structs::{ISTIO, MESHCTL, SOCKET_MATCH, metadata, object, text};
use super::health;
use crate::mesh::{Assignment, Client, Endpoint, Health, WorkloadRef};

/// Endpoints of one priority and locality stand together, in canonical order.
pub(super) fn encode(
    cluster: &str,
    assignment: &Assignment,
    client: Client,
) -> endpoint::ClusterLoadAssignment {
    let mut groups: Vec<endpoint::LocalityLbEndpoints> = Vec::new();
    let mut weights: Vec<u32> = Vec::new();
    // Priorities of foreign clients must have no gaps.
    let mut ranks: Vec<u32> = Vec::new();
    let chosen =
        |endpoint: &&Endpoint| client != Client::Grpc || endpoint.health == Health::Healthy;
    for endpoint in assignment.endpoints.iter().filter(chosen) {
        if ranks.last() != Some(&endpoint.priority) {
            ranks.push(endpoint.priority);
        }
        let priority = match client {
            Client::Meshctl => endpoint.priority,
            Client::Envoy | Client::Grpc => u32::try_from(ranks.len() - 1).unwrap_or(u32::MAX),
        };
        let place = locality(&endpoint.locality);
        let same = groups.last().is_some_and(|group| {
            group.priority == priority && group.locality.as_ref() == Some(&place)
        });
        if !same {
            groups.push(endpoint::LocalityLbEndpoints {
                locality: Some(place),
                priority,
                ..Default::default()
            });
            weights.push(0);
        }
        if let (Some(group), Some(weight)) = (groups.last_mut(), weights.last_mut()) {
            *weight = weight.saturating_add(endpoint.weight);
            group.load_balancing_weight = u32_value(*weight);
            group.lb_endpoints.push(one(endpoint, client));
        }
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: groups,
        ..Default::default()
    }
}

fn one(endpoint: &Endpoint, client: Client) -> endpoint::LbEndpoint {
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(address(endpoint.address)),
                health_check_config: endpoint.health_check.as_deref().map(health::endpoint),
                ..Default::default()
            },
        )),
        health_status: match endpoint.health {
            Health::Healthy => core::HealthStatus::Healthy,
            Health::Unhealthy => core::HealthStatus::Unhealthy,
            Health::Draining => core::HealthStatus::Draining,
        }
        .into(),
        load_balancing_weight: u32_value(endpoint.weight.max(1)),
        metadata: match client {
            Client::Grpc => None,
            Client::Meshctl | Client::Envoy => about(endpoint, client),
        },
    }
}

fn about(endpoint: &Endpoint, client: Client) -> Option<core::Metadata> {
    let WorkloadRef {
        instance,
        workload,
        namespace,
        service,
        version,
    } = &endpoint.workload;
    let known = endpoint.workload != WorkloadRef::default();
    metadata([
        (
            SOCKET_MATCH,
            object(endpoint.mtls.then(|| ("tlsMode", text("istio")))),
        ),
        (
            ISTIO,
            // Istio's form; the last part is the cluster.
            object(known.then(|| {
                (
                    "workload",
                    text(format!(
                        "{workload};{namespace};{service};{version};Kubernetes"
                    )),
                )
            })),
        ),
        (
            MESHCTL,
            object(
                (client == Client::Meshctl && !instance.is_empty())
                    .then(|| ("instance", text(instance))),
            ),
        ),
    ])
}
