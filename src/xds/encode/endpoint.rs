//! Endpoints.

use super::super::pb::{FractionalPercent, address, core, endpoint, locality, percent, u32_value};
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
    let mut said: Vec<Option<u32>> = Vec::new();
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
            said.push(
                assignment
                    .locality_weights
                    .iter()
                    .find(|w| w.priority == endpoint.priority && w.locality == endpoint.locality)
                    .map(|said| said.weight),
            );
        }
        if let (Some(group), Some(weight), Some(said)) =
            (groups.last_mut(), weights.last_mut(), said.last())
        {
            *weight = weight.saturating_add(endpoint.weight);
            // Nothing is Envoy's way to say zero.
            group.load_balancing_weight = match said.unwrap_or(*weight) {
                0 => None,
                weight => u32_value(weight),
            };
            group.lb_endpoints.push(one(endpoint, client));
        }
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: groups,
        policy: policy(assignment),
        ..Default::default()
    }
}

/// `None` where all is Envoy's default.
fn policy(from: &Assignment) -> Option<endpoint::cluster_load_assignment::Policy> {
    use endpoint::cluster_load_assignment as of;
    let default = Assignment::default();
    let policy = of::Policy {
        drop_overloads: from
            .drops
            .iter()
            .map(|drop| of::policy::DropOverload {
                category: drop.category.clone(),
                drop_percentage: Some(FractionalPercent {
                    numerator: drop.per_million,
                    denominator: percent::DenominatorType::Million.into(),
                }),
            })
            .collect(),
        overprovisioning_factor: (from.overprovisioning != default.overprovisioning)
            .then_some(from.overprovisioning)
            .and_then(u32_value),
        weighted_priority_health: from.weighted_health,
        ..Default::default()
    };
    (policy != of::Policy::default()).then_some(policy)
}

fn one(from: &Endpoint, client: Client) -> endpoint::LbEndpoint {
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(address(from.address)),
                additional_addresses: from
                    .additional
                    .iter()
                    .map(|at| endpoint::endpoint::AdditionalAddress {
                        address: Some(address(*at)),
                    })
                    .collect(),
                health_check_config: from.health_check.as_deref().map(health::endpoint),
                ..Default::default()
            },
        )),
        health_status: match from.health {
            Health::Healthy => core::HealthStatus::Healthy,
            Health::Unhealthy => core::HealthStatus::Unhealthy,
            Health::Degraded => core::HealthStatus::Degraded,
            Health::Draining => core::HealthStatus::Draining,
        }
        .into(),
        load_balancing_weight: u32_value(from.weight.max(1)),
        metadata: match client {
            Client::Grpc => None,
            Client::Meshctl | Client::Envoy => about(from, client),
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
